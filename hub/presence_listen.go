// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"strconv"
	"time"

	"github.com/push-it/pushit/hub/internal/presence"
)

// A pager pushes the pages of a list to a listener, which cannot ask for them. Batches go on
// between the pages. If the listener misses a batch, the list begins anew.
type pager struct {
	paging bool   // pages are still to come
	next   uint64 // what the next page follows; 0 for the first one
}

// begin has the list begin anew.
func (p *pager) begin() { *p = pager{paging: true} }

// shows reports whether the listener asks for the members of a channel. l may be nil.
func (l *Listener) shows(channel string) bool { return l != nil && slices.Contains(l.members, channel) }

// listenLocked tells a listener who is in the channel, or why it is not told. The caller
// holds the node's mu and the agent's. It must notify the flusher if notify is set.
func (o *op) listenLocked(s *subscription) (notify bool) {
	a := o.agent
	if r := o.watchLocked(s); r != nil {
		return a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(appendUnwatched(nil, s.channel(), r))})
	}
	r, w := s.seat.roster, s.seat.watch
	w.pager = new(pager)
	w.pager.begin()
	r.mu.Lock()
	r.takeLocked()
	r.mu.Unlock()
	more, notify := r.pushLocked(s)
	if more {
		r.mu.Lock()
		r.behind = true
		r.armLocked()
		r.mu.Unlock()
	}
	return notify
}

// push is pushLocked for a caller that does not hold the agent's mu.
func (r *roster) push(s *subscription) (more, notify bool) {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	return r.pushLocked(s)
}

// pushLocked queues pages of the list while there is room, and reports whether more are to
// come. The caller holds the node's mu and the agent's.
func (r *roster) pushLocked(s *subscription) (more, notify bool) {
	out, p := &s.agent.out, s.seat.watch.pager
	for p.paging && s.agent.state == stateConnected {
		if out.queue.isCrowded() {
			return true, notify
		}
		r.mu.Lock()
		frame, next := appendMemberPage(nil, r.channel, r.state, p.next, r.settlesLocked(), s.lists)
		r.mu.Unlock()
		p.next, p.paging = next, next != 0
		m := r.message(frame)
		notify = out.acceptLocked(item{bytes: m.encoded(out.conn.Form()), msg: m}) || notify
	}
	return false, notify
}

// appendMemberPage appends the frame with the page that follows after. next is 0 if it is the last
// one. The other arguments are those of appendSnapshot.
func appendMemberPage(dst []byte, channel string, c *presence.Channel, after uint64, settles time.Duration, lists bool) (frame []byte, next uint64) {
	dst = append(append(append(dst, `{"channel":"/meta/presence","data":`...), channelData(channel)...), ',')
	lists = lists && c.Listed()
	dst = appendCount(dst, c.Number(), c.Count(), lists)
	if after == 0 {
		dst = append(dst, `,"first":true`...)
	}
	if lists {
		var members []presence.View
		members, next = c.Page(after)
		dst = appendMembers(append(dst, `,"members":`...), members)
		if next != 0 {
			dst = append(dst, `,"more":true`...)
		}
		if settles > 0 && after == 0 {
			dst = strconv.AppendInt(append(dst, `,"settles":`...), settles.Milliseconds()+1, 10)
		}
	}
	return append(dst, '}'), next
}
