// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// expiryLead is how long before a lease ends its gate is asked again: a tenth of the
// lease's life, but no longer than this.
const expiryLead = 30 * time.Second

// longest is as good as never: a clock can still be added to it.
const longest = 100 * 365 * 24 * time.Hour

// A reason says why an operation is asked for.
type reason uint8

const (
	byFrame   reason = iota // the agent asks, with a frame
	byTime                  // the lease is to be rechecked, or ends soon
	byReload                // a reload has replaced the gate that granted the lease
	byConnect               // the agent has refreshed its connect: who it is may have changed
)

// A lease is a right that a gate granted: to be connected, or to one subscription. It
// may end, and its gate may be asked again. Times are of the hub's timers; 0 is never.
//
// A lease has no lock of its own: it is guarded by its agent's.
type lease struct {
	by    Fingerprint   // of the gate that granted it
	again time.Duration // when its gate is to be asked again
	ends  time.Duration // when it ends, whatever has been asked
	grace bool          // a reload has replaced its gate, and the new one has not answered yet
	wants reason        // why its gate is to be asked now; byFrame for no reason
	asked bool          // its gate is being asked again
}

// newLease returns the lease that v grants now, by a gate of that fingerprint.
func newLease(v *Verdict, by Fingerprint, now time.Duration) lease {
	l := lease{by: by}
	if v.Recheck > 0 {
		l.again = now + v.Recheck
	}
	if !v.Expires.IsZero() {
		life := min(max(time.Until(v.Expires), 0), longest)
		l.ends = now + life
		if again := l.ends - min(life/10, expiryLead); l.again == 0 || again < l.again {
			l.again = again
		}
	}
	return l
}

// renew replaces the lease by what v grants now. If that ends no later than the lease
// did, its gate is not asked again before the end: the answer would be the same.
func (l *lease) renew(v *Verdict, by Fingerprint, now time.Duration) {
	before := l.ends
	if l.grace {
		before = 0 // the end of a grace period says nothing about answers
	}
	asked := l.asked
	*l = newLease(v, by, now)
	l.asked = asked
	if before != 0 && l.ends != 0 && l.ends <= before+timerGrain && (v.Recheck == 0 || l.again > l.ends) {
		l.again = 0
	}
}

// startGrace keeps a lease that a replaced gate granted until the grace period ends,
// and has the new gate asked at a moment within spread. A lease in its grace period does
// not get a longer one.
func (l *lease) startGrace(now, grace, spread time.Duration) {
	if !l.grace {
		ends := now + grace - rand.N(grace/10+1) //nolint:gosec // G404: nothing secret; not all of them end at one moment
		if l.ends == 0 || ends < l.ends {
			l.ends = ends
		}
		l.grace = true
	}
	l.wants = byFrame
	l.again = max(now, 1) + rand.N(spread+1) //nolint:gosec // G404: nothing secret
}

// postpone keeps a lease whose gate could not find out, until it ends, and has the gate
// asked again after pause.
func (l *lease) postpone(now, pause, grace time.Duration) {
	if l.ends == 0 {
		l.ends = now + grace
	}
	if l.grace { // many were told to wait at the same moment
		pause += rand.N(pause) //nolint:gosec // G404: nothing secret
	}
	l.again = now + pause
}

// next returns when there is something to do about the lease; 0 is never.
func (l *lease) next() time.Duration {
	switch {
	case l.again == 0:
		return l.ends
	case l.ends == 0:
		return l.again
	default:
		return min(l.again, l.ends)
	}
}

// hasEnded reports whether the lease has ended.
func (l *lease) hasEnded(now time.Duration) bool { return l.ends != 0 && l.ends <= now }

// look notes that the gate is to be asked, if it is time to, and returns why.
func (l *lease) look(now time.Duration) reason {
	if l.again == 0 || l.again > now {
		return byFrame
	}
	l.again = 0
	switch {
	case l.asked: // its answer will be under the rules of that moment
	case l.grace:
		l.wants = byReload
	default:
		l.wants = byTime
	}
	return l.wants
}

// take reports why the gate is to be asked now, because of a reload or for another
// reason, and notes that it is being asked; byFrame if it is not to be asked.
func (l *lease) take(reload bool) reason {
	why := l.wants
	if why == byFrame || l.asked || (why == byReload) != reload {
		return byFrame
	}
	l.wants, l.asked = byFrame, true
	return why
}

// leases are the rights of one agent.
type leases struct {
	agent *Agent // whose they are; immutable

	connect lease
	subs    []*subscription
	asking  bool // a goroutine asks for them again, other than after a reload
}

// find returns the index of the subscription on n, else -1. An agent has few
// subscriptions; looking through them is faster than any map.
func (ls *leases) find(n *node) int {
	return slices.IndexFunc(ls.subs, func(s *subscription) bool { return s.node == n })
}

// hasAny reports whether there is a subscription on one of the nodes.
func (ls *leases) hasAny(nodes []*node) bool {
	return slices.ContainsFunc(nodes, func(n *node) bool { return ls.find(n) >= 0 })
}

// drop ends the subscription of that index. The caller holds its node's mu too.
func (ls *leases) drop(i int) {
	s := ls.subs[i]
	s.node.removeLocked(s)
	ls.subs = slices.Delete(ls.subs, i, i+1)
}

// cover reports whether there is a subscription to what m was published on, itself or by
// a pattern.
func (ls *leases) cover(m *Message) bool {
	return slices.ContainsFunc(ls.subs, func(s *subscription) bool {
		if IsPattern(s.channel) {
			return strings.HasPrefix(m.Channel, patternPrefix(s.channel))
		}
		return s.channel == m.Channel
	})
}

// next returns when there is something to do about one of them; 0 is never.
func (ls *leases) next() time.Duration {
	next := ls.connect.next()
	for _, s := range ls.subs {
		if t := s.lease.next(); t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	return next
}

// A review is what is to be done about an agent's leases.
type review struct {
	ended  []*subscription // whose leases have ended
	reload bool            // a gate is to be asked because of a reload
	other  bool            // a gate is to be asked for another reason
}

// look looks at all leases but that of the connect, if it has ended.
func (ls *leases) look(now time.Duration) (due review) {
	note := func(why reason) {
		due.reload = due.reload || why == byReload
		due.other = due.other || why == byTime
	}
	note(ls.connect.look(now))
	for _, s := range ls.subs {
		if s.lease.hasEnded(now) {
			due.ended = append(due.ended, s)
		} else {
			note(s.lease.look(now))
		}
	}
	return due
}

// take returns the next lease whose gate is to be asked now, because of a reload or for
// another reason: that of the connect first, which says who the agent is. s is nil for
// that one, and why is byFrame if there is none.
func (ls *leases) take(reload bool) (s *subscription, why reason) {
	if why := ls.connect.take(reload); why != byFrame {
		return nil, why
	}
	for _, s := range ls.subs {
		if why := s.lease.take(reload); why != byFrame {
			return s, why
		}
	}
	return nil, byFrame
}

// isUndecided reports whether the gate of one of them has not answered since a reload.
func (ls *leases) isUndecided() bool {
	return ls.connect.grace || slices.ContainsFunc(ls.subs, func(s *subscription) bool { return s.lease.grace })
}

// isWaiting reports whether a gate is to be asked now for another reason than a reload.
func (ls *leases) isWaiting() bool {
	waits := func(l *lease) bool { return !l.asked && (l.wants == byTime || l.wants == byConnect) }
	return waits(&ls.connect) || slices.ContainsFunc(ls.subs, func(s *subscription) bool { return waits(&s.lease) })
}
