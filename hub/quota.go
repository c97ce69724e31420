// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// quotaRetry is the advice for sessions that find no place.
const quotaRetry = 5 * time.Second

// A quota counts sessions, in all and by address.
type quota struct {
	mu    sync.Mutex // guards the following; no other lock is taken under it
	total int
	by    map[netip.Prefix]sessions
}

type sessions struct{ all, unconnected int }

func newQuota() *quota { return &quota{by: make(map[netip.Prefix]sessions)} }

// addressKey returns what counts as one address: of IPv6 a /64, since that is
// the least anybody is given. An invalid address, as of a unix socket, has the
// zero key and is not counted.
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
		return &Refusal{CodeUnavailable, "the server has as many sessions as it takes; try again later", quotaRetry}
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

// connected counts a session as connected.
func (q *quota) connected(key netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s, ok := q.by[key]; ok {
		s.unconnected--
		q.by[key] = s
	}
}

// leave counts a session out.
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
