// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A lease's gate is asked again when a tenth of the lease's life is left, or expiryLead
// if that is less.
const expiryLead = 30 * time.Second

// longest limits the life of a lease. It is as good as never, and small enough to add to
// the clock without an overflow.
const longest = 100 * 365 * 24 * time.Hour

// A reason says why a gate is asked.
type reason uint8

const (
	byFrame   reason = iota // the agent sent a frame
	byTime                  // a recheck is due, or the lease ends soon
	byReload                // a reload has replaced the gate that granted the lease
	byConnect               // the agent has refreshed its connect, so its identity may have changed
)

// A lease is a right that a gate granted: to be connected, or to one subscription. It
// may end, and its gate may be asked again.
//
// The agent's mu guards its leases.
type lease struct {
	by    Fingerprint // of the gate that granted it
	noted *terms      // nil for a lease without an end, whose gate is not asked again: most are like that
}

// terms are what limits a lease. Times are on the hub's clock; 0 is never.
type terms struct {
	again time.Duration // when to ask its gate again
	ends  time.Duration // when it ends, unless it is renewed before
	grace bool          // a reload has replaced its gate, and the new one has not answered yet
	wants reason        // why its gate must be asked now; byFrame if it must not
	asked bool          // its gate is being asked again
}

// terms returns what limits the lease.
func (l *lease) terms() terms {
	if l.noted == nil {
		return terms{}
	}
	return *l.noted
}

// setTerms replaces what limits the lease.
func (l *lease) setTerms(t terms) {
	switch {
	case t == terms{}:
		l.noted = nil
	case l.noted == nil:
		kept := t // t itself would be allocated at each call
		l.noted = &kept
	default:
		*l.noted = t
	}
}

// newLease returns the lease that v grants now; by is the fingerprint of the gate.
func newLease(v *Verdict, by Fingerprint, now time.Duration) lease {
	l := lease{by: by}
	l.setTerms(newTerms(v, now))
	return l
}

func newTerms(v *Verdict, now time.Duration) (t terms) {
	if v.Recheck > 0 {
		t.again = now + v.Recheck
	}
	if !v.Expires.IsZero() {
		life := min(max(time.Until(v.Expires), 0), longest)
		t.ends = now + life
		if again := t.ends - min(life/10, expiryLead); t.again == 0 || again < t.again {
			t.again = again
		}
	}
	return t
}

// renew replaces the lease by the one that v grants now. If the new one ends no later than
// the old one, for example because the same token still limits it, the gate is not asked
// again before the end: it would give the same answer.
func (l *lease) renew(v *Verdict, by Fingerprint, now time.Duration) {
	old, t := l.terms(), newTerms(v, now)
	before := old.ends
	if old.grace {
		before = 0 // the grace period set this end, not a verdict
	}
	if before != 0 && t.ends != 0 && t.ends <= before+timerGrain && (v.Recheck == 0 || t.again > t.ends) {
		t.again = 0
	}
	t.asked = old.asked
	l.by = by
	l.setTerms(t)
}

// startGrace keeps a lease that a replaced gate granted until the grace period ends. The
// new gate is asked at a random moment within spread. A second call does not prolong the
// grace period.
func (l *lease) startGrace(now, grace, spread time.Duration) {
	t := l.terms()
	if !t.grace {
		ends := now + grace - rand.N(grace/10+1) //nolint:gosec // G404: nothing secret; it spreads the ends
		if t.ends == 0 || ends < t.ends {
			t.ends = ends
		}
		t.grace = true
	}
	t.wants = byFrame
	t.again = max(now, 1) + rand.N(spread+1) //nolint:gosec // G404: nothing secret
	l.setTerms(t)
}

// postpone keeps a lease whose gate could not decide, and has the gate asked again after
// pause. The lease ends when it would have ended, at the latest after grace.
func (l *lease) postpone(now, pause, grace time.Duration) {
	t := l.terms()
	if t.ends == 0 {
		t.ends = now + grace
	}
	if t.grace { // after a reload many leases are postponed at the same moment
		pause += rand.N(pause) //nolint:gosec // G404: nothing secret
	}
	t.again = now + pause
	l.setTerms(t)
}

// askBy has the gate asked at a time, unless it is asked earlier.
func (l *lease) askBy(at time.Duration) {
	t := l.terms()
	if t.again == 0 || t.again > at {
		t.again = at
	}
	l.setTerms(t)
}

// leaveUnasked cancels the next question to the gate, until there is a reason to ask.
func (l *lease) leaveUnasked() {
	t := l.terms()
	t.again = 0
	l.setTerms(t)
}

// want notes why the gate must be asked now.
func (l *lease) want(why reason) {
	t := l.terms()
	t.wants = why
	l.setTerms(t)
}

// answered notes that the gate is not being asked any more.
func (l *lease) answered() {
	t := l.terms()
	t.asked = false
	l.setTerms(t)
}

// inGrace reports whether the lease is in its grace period.
func (l *lease) inGrace() bool { return l.noted != nil && l.noted.grace }

// isAsked reports whether the gate is being asked again.
func (l *lease) isAsked() bool { return l.noted != nil && l.noted.asked }

// next returns when the lease is due: its gate must be asked, or it ends; 0 is never.
func (l *lease) next() time.Duration {
	switch t := l.terms(); {
	case t.again == 0:
		return t.ends
	case t.ends == 0:
		return t.again
	default:
		return min(t.again, t.ends)
	}
}

// hasEnded reports whether the lease has ended.
func (l *lease) hasEnded(now time.Duration) bool {
	t := l.terms()
	return t.ends != 0 && t.ends <= now
}

// look notes why the gate must be asked if the time for it has come, and returns why.
func (l *lease) look(now time.Duration) reason {
	t := l.noted
	if t == nil || t.again == 0 || t.again > now {
		return byFrame
	}
	t.again = 0
	switch {
	case t.asked: // the answer under way will set the next time
	case t.grace:
		t.wants = byReload
	default:
		t.wants = byTime
	}
	return t.wants
}

// take returns why the gate must be asked now, and notes that it is being asked. It
// returns byFrame if the gate must not be asked. reload selects between questions because
// of a reload and all others.
func (l *lease) take(reload bool) reason {
	t := l.noted
	if t == nil {
		return byFrame
	}
	why := t.wants
	if why == byFrame || t.asked || (why == byReload) != reload {
		return byFrame
	}
	t.wants, t.asked = byFrame, true
	return why
}

// leases are the rights of one agent.
type leases struct {
	catchUp *catchUp // what the subscriptions have to catch up with; nil if that is nothing
	seen    uint64   // the number of the last kept message that was fanned out to the agent
	agent   *Agent   // their owner; immutable
	subs    []*subscription
	connect lease
}

// find returns the index of the subscription on n, or -1. An agent has few
// subscriptions, so a linear search is faster than a map.
func (ls *leases) find(n *node) int {
	return slices.IndexFunc(ls.subs, func(s *subscription) bool { return s.node == n })
}

// gotThrough reports whether a subscription to one of the nodes has brought m live. The
// caller holds the locks of the nodes.
func (ls *leases) gotThrough(nodes []*node, m *Message) bool {
	return slices.ContainsFunc(nodes, func(n *node) bool {
		i := ls.find(n)
		return i >= 0 && !ls.subs[i].isPast(m)
	})
}

// drop removes the subscription with index i. The caller holds its node's mu too.
func (ls *leases) drop(i int) {
	s := ls.subs[i]
	s.stopLocked()
	s.vacateLocked(false)
	s.node.removeLocked(s)
	ls.subs = slices.Delete(ls.subs, i, i+1)
}

// cover reports whether a subscription matches the channel of m.
func (ls *leases) cover(m *Message) bool {
	return slices.ContainsFunc(ls.subs, func(s *subscription) bool { return s.covers(m) })
}

// covers reports whether the subscription is to what m was published on.
func (s *subscription) covers(m *Message) bool {
	if m.presence && s.watchLease() == nil {
		return false
	}
	return s.matches(m.Channel)
}

// matches reports whether the subscription is to a channel, or to a pattern that matches it.
func (s *subscription) matches(channel string) bool { return matches(s.channel(), channel) }

// matches reports whether a name or pattern matches a channel.
func matches(pattern, channel string) bool {
	if IsPattern(pattern) {
		return strings.HasPrefix(channel, patternPrefix(pattern))
	}
	return pattern == channel
}

// each yields the leases of all subscriptions, and of the lists of members.
func (ls *leases) each(yield func(l *lease, s *subscription) bool) {
	for _, s := range ls.subs {
		if !yield(&s.lease, s) {
			return
		}
		if l := s.watchLease(); l != nil && !yield(l, s) {
			return
		}
	}
}

// next returns when the first lease is due; 0 is never.
func (ls *leases) next() time.Duration {
	next := ls.connect.next()
	for l := range ls.each {
		if t := l.next(); t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	return next
}

// dueLeases says what has to be done about an agent's leases.
type dueLeases struct {
	ended  []*subscription // subscriptions whose leases have ended
	blind  []*subscription // subscriptions whose right to the list of members has ended
	reload bool            // a gate must be asked because of a reload
	other  bool            // a gate must be asked for another reason
}

// look notes which gates must be asked, and returns what has to be done. tickLocked
// handles the end of the connect's lease before it calls look.
func (ls *leases) look(now time.Duration) (due dueLeases) {
	note := func(why reason) {
		due.reload = due.reload || why == byReload
		due.other = due.other || why == byTime
	}
	note(ls.connect.look(now))
	for l, s := range ls.each {
		switch {
		case !l.hasEnded(now):
			note(l.look(now))
		case l == &s.lease:
			due.ended = append(due.ended, s)
		default:
			due.blind = append(due.blind, s)
		}
	}
	return due
}

// take returns the next lease whose gate must be asked now, and why; see lease.take. The
// connect's lease comes first, because its gate decides who the agent is. s is nil for
// that lease. why is byFrame if there is none.
func (ls *leases) take(reload bool) (l *lease, s *subscription, why reason) {
	if why := ls.connect.take(reload); why != byFrame {
		return &ls.connect, nil, why
	}
	for l, s := range ls.each {
		if why := l.take(reload); why != byFrame {
			return l, s, why
		}
	}
	return nil, nil, byFrame
}

// isUndecided reports whether one of the leases is in a grace period.
func (ls *leases) isUndecided() bool {
	return ls.connect.inGrace() || ls.any((*lease).inGrace)
}

// isWaiting reports whether a gate must be asked now, for a reason other than a reload.
func (ls *leases) isWaiting() bool {
	waits := func(l *lease) bool {
		t := l.terms()
		return !t.asked && (t.wants == byTime || t.wants == byConnect)
	}
	return waits(&ls.connect) || ls.any(waits)
}

// any reports whether a lease other than the connect's is so.
func (ls *leases) any(is func(*lease) bool) bool {
	for l := range ls.each {
		if is(l) {
			return true
		}
	}
	return false
}
