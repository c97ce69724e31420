// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// quotaRetry is how long a client should wait that the quota refused.
const quotaRetry = 5 * time.Second

// A quota counts sessions, in all and by address, and refuses those above the limits.
type quota struct {
	mu    sync.Mutex // guards the following; no other lock is taken under it
	total int
	by    map[netip.Prefix]sessions
}

type sessions struct{ all, unconnected int }

func newQuota() *quota { return &quota{by: make(map[netip.Prefix]sessions)} }

// addressKey returns the key under which sessions of ip count. For IPv6 it is the /64,
// because a provider gives each customer at least that. An invalid ip, as of a unix
// socket, has the zero key; its sessions count only in all.
func addressKey(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // the zero Prefix for an invalid address
	return p
}

// enter counts a new session, or refuses it.
func (q *quota) enter(key netip.Prefix, l Limits) *Refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := func(have, limit int) bool { return limit >= 0 && have >= limit }
	s := q.by[key]
	switch counted := key.IsValid(); {
	case full(q.total, l.Agents):
		return &Refusal{CodeUnavailable, "the server has reached its limit of sessions; try again later", quotaRetry}
	case counted && full(s.all, l.AgentsPerIP):
		return &Refusal{CodeLimit, fmt.Sprintf("more than %d sessions from one address", l.AgentsPerIP), quotaRetry}
	case counted && full(s.unconnected, l.UnconnectedPerIP):
		return &Refusal{CodeLimit, fmt.Sprintf("more than %d sessions from one address that have not connected yet", l.UnconnectedPerIP), quotaRetry}
	case counted:
		s.all++
		s.unconnected++
		q.by[key] = s
	}
	q.total++
	return nil
}

// connected moves a session from the unconnected to the connected ones.
func (q *quota) connected(key netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s, ok := q.by[key]; ok {
		s.unconnected--
		q.by[key] = s
	}
}

// leave stops counting a session.
func (q *quota) leave(key netip.Prefix, connected bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	s, ok := q.by[key]
	if !ok {
		return
	}
	s.all--
	if !connected {
		s.unconnected--
	}
	if s.all == 0 {
		delete(q.by, key)
	} else {
		q.by[key] = s
	}
}
