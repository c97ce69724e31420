// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// admissionRetry is the advice to who found the house full.
const admissionRetry = 5 * time.Second

// An admission counts sessions, in all and by address.
type admission struct {
	mu    sync.Mutex // guards the following; no other lock is taken under it
	total int
	by    map[netip.Prefix]sessions
}

type sessions struct{ all, unconnected int }

func newAdmission() *admission { return &admission{by: make(map[netip.Prefix]sessions)} }

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
func (ad *admission) enter(key netip.Prefix, l Limits) *Refusal {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	full := func(have, limit int) bool { return limit >= 0 && have >= limit }
	s := ad.by[key]
	switch counted := key.IsValid(); {
	case full(ad.total, l.Agents):
		return &Refusal{CodeUnavailable, "the server has as many sessions as it takes; try again later", admissionRetry}
	case counted && full(s.all, l.AgentsPerIP):
		return &Refusal{CodeLimit, fmt.Sprintf("more than %d sessions from one address", l.AgentsPerIP), admissionRetry}
	case counted && full(s.unconnected, l.UnconnectedPerIP):
		return &Refusal{CodeLimit, fmt.Sprintf("more than %d sessions from one address that have not connected yet", l.UnconnectedPerIP), admissionRetry}
	case counted:
		s.all++
		s.unconnected++
		ad.by[key] = s
	}
	ad.total++
	return nil
}

// connected counts a session as connected.
func (ad *admission) connected(key netip.Prefix) {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	if s, ok := ad.by[key]; ok {
		s.unconnected--
		ad.by[key] = s
	}
}

// leave counts a session out.
func (ad *admission) leave(key netip.Prefix, connected bool) {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	ad.total--
	s, ok := ad.by[key]
	if !ok {
		return
	}
	s.all--
	if !connected {
		s.unconnected--
	}
	if s.all == 0 {
		delete(ad.by, key)
	} else {
		ad.by[key] = s
	}
}
