// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"encoding/json"

	"github.com/google/uuid"

	"github.com/push-it/pushit/hub/internal/presence"
)

// find returns the roster of a channel, or nil.
func (ps *presences) find(key string) *roster {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.rosters[key]
}

// A MemberInfo is a member of a channel: a user, or an agent without one.
type MemberInfo struct {
	User  string          `json:"user,omitempty"`
	Agent string          `json:"agent,omitempty"` // its uuid, if it has no user
	Tabs  int             `json:"tabs"`
	Info  json.RawMessage `json:"info,omitempty"`
}

// Members returns a page of the members of a channel, in the order in which they came. after
// is the next of the previous page; 0 begins, and ends. A channel that is only counted has no
// list.
func (i *Inside) Members(channel string, after uint64) (page []MemberInfo, next uint64) {
	r := i.hub.presences.find(keyOf(i.namespace, channel))
	if r == nil {
		return nil, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.state.Listed() {
		return nil, 0
	}
	var views []presence.View
	views, next = r.state.Page(after)
	for n := range views {
		v := &views[n]
		m := MemberInfo{Tabs: v.Tabs, Info: json.RawMessage(v.Info)}
		if v.Anonymous {
			m.Agent = uuid.UUID([]byte(v.Name)).String()
		} else {
			m.User = v.Name
		}
		page = append(page, m)
	}
	return page, next
}

// A HistoryPage has kept messages of a channel or pattern.
type HistoryPage struct {
	Messages []Received `json:"messages"`
	// Before asks for older messages; it is empty if there are none.
	Before string `json:"before,omitempty"`
}

// History returns kept messages of a channel or pattern, in their order: the newest ones
// that are older than the message at the position before, or than none. It fails if there is
// no such position. A page has at most 1000 messages, 100 if limit is 0, and
// little more than 256 KiB.
func (i *Inside) History(channel, before string, limit int) (HistoryPage, *Refusal) {
	pattern := IsPattern(channel)
	if pattern {
		channel = patternPrefix(channel)
	}
	if limit <= 0 {
		limit = defaultPage
	}
	found := i.hub.history.page(pageRequest{last: min(limit, maxPage), before: before}, keyOf(i.namespace, channel), pattern, maxPageBytes)
	if found.why == "epoch" {
		return HistoryPage{}, refuse(CodeInvalid, "there is no such position in this history")
	}
	page := HistoryPage{Messages: make([]Received, 0, len(found.messages)), Before: found.before}
	for _, m := range found.messages {
		page.Messages = append(page.Messages, Received{m.Channel, m.UUID, m.Data, string(m.Position())})
	}
	return page, nil
}
