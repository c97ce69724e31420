// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A right that was given for a time is asked for again before it ends, and ended
// when it does: the right to be connected, and each subscription's.

// nextReviewLocked returns when a right of the agent is next to be looked at;
// zero is never. The caller holds a.mu.
func (a *Agent) nextReviewLocked() time.Duration {
	next := a.right.next()
	for _, s := range a.subs {
		if t := s.right.next(); t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	return next
}

// A review is what is to be done about an agent's rights.
type review struct {
	again   []*op           // is to be asked again
	expired []*subscription // has ended
	late    []*subscription // likewise: its gate did not answer after a reload
	ready   bool            // something is to be asked because of a reload
}

// reviewLocked looks at what is due: it ends the session if the right to it has
// ended, and returns what else there is to do. The caller holds a.mu.
func (a *Agent) reviewLocked(now time.Duration) (due review, flush bool) {
	switch {
	case passed(a.right.ends, now) && a.right.grace:
		if r := a.reload.Load(); r != nil {
			r.cut.Add(1)
			r.late.Add(1)
		}
		return due, a.closeLocked(CloseCut, tooLate().Reason, tooLate().Retry)
	case passed(a.right.ends, now):
		return due, a.closeLocked(CloseCut, "your right to be connected has expired", time.Second)
	case passed(a.right.due, now) && a.right.grace:
		a.right.due, a.right.ready, due.ready = 0, true, true
	case passed(a.right.due, now):
		a.right.due = 0
		due.again = append(due.again, &op{gate: GateConnect, silent: true})
	}
	for _, s := range a.subs {
		switch {
		case passed(s.right.ends, now) && s.right.grace:
			due.late = append(due.late, s)
		case passed(s.right.ends, now):
			due.expired = append(due.expired, s)
		case passed(s.right.due, now) && s.right.grace:
			s.right.due, s.right.ready, due.ready = 0, true, true
		case passed(s.right.due, now):
			s.right.due = 0
			due.again = append(due.again, &op{gate: GateSubscribe, channel: s.channel, sub: s})
		}
	}
	return due, false
}

// seeTo does what is to be done.
func (a *Agent) seeTo(due *review) {
	for _, s := range due.expired {
		a.end(s, expired, nil)
	}
	for _, s := range due.late {
		if a.end(s, tooLate(), nil) {
			if r := a.reload.Load(); r != nil {
				r.ended.Add(1)
				r.late.Add(1)
			}
		}
	}
	a.askAgain(due.again)
	if due.ready {
		a.hub.reviewers.add(a)
	}
	a.reloaded()
}

// expired is why a subscription ends whose right has.
var expired = refuse(CodeExpired, "the right to receive this channel has expired")

// tooLate is why a right ends that could not be asked for again after a reload.
// Who has lost it for that is not to come back with all the others.
func tooLate() *Refusal {
	return &Refusal{CodeUnavailable, "whether this is still allowed could not be found out", cutRetry()}
}

// askAgain has the gates of ops asked by a goroutine of its own, one for each
// agent: it may have to wait for a place among the agent's questions. What is
// being asked for already is left out.
func (a *Agent) askAgain(ops []*op) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		return
	}
	for _, o := range ops {
		if o.sub != nil {
			if o.sub.asked {
				continue
			}
			o.sub.asked = true
		}
		a.reviews = append(a.reviews, o)
	}
	if len(a.reviews) > 0 && !a.reviewing {
		a.reviewing = true
		go a.review()
	}
}

// review asks for one thing after the other until there is no more. The agent's
// end ends it.
func (a *Agent) review() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.reviews) > 0 && a.state == stateConnected {
		o := a.reviews[0]
		a.reviews = a.reviews[1:]
		a.mu.Unlock()
		a.perform(o)
		a.mu.Lock()
	}
	a.reviews, a.reviewing = nil, false
}

// isReviewing reports whether something is still to be asked for again.
func (a *Agent) isReviewing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reviewing
}

// resubscribe asks for all subscriptions again, after a refresh. Those that the
// connect gate itself has just made are not in question.
func (a *Agent) resubscribe(made []string) {
	a.mu.Lock()
	var ops []*op
	for _, s := range a.subs {
		if !slices.Contains(made, s.channel) {
			ops = append(ops, &op{gate: GateSubscribe, channel: s.channel, sub: s})
		}
	}
	a.mu.Unlock()
	a.askAgain(ops)
}

// reviewed applies the answer to a subscription that was asked for again. It
// returns false, and has done nothing, if o is stale.
func (a *Agent) reviewed(o *op) (done bool) {
	r := o.verdict.Refusal
	if r != nil && (r.Code != CodeUnavailable || o.final) {
		if a.end(o.sub, r, o) {
			if reload := a.reload.Load(); o.reload && reload != nil {
				reload.ended.Add(1)
			}
		}
	}
	a.mu.Lock()
	if a.isStale(o) {
		a.mu.Unlock()
		return false
	}
	if !o.final {
		o.sub.asked = false
	}
	if r == nil && slices.Contains(a.subs, o.sub) {
		a.relyLocked(&o.sub.right, &o.verdict, o.by)
		o.sub.byConnect = false
	}
	a.mu.Unlock()
	if r != nil && r.Code == CodeUnavailable && !o.final {
		a.postpone(&o.sub.right, r)
		return true
	}
	a.planReview()
	return true
}

// postpone keeps a right whose gate could not find out, until it ends, and has it
// asked for again.
func (a *Agent) postpone(right *validity, r *Refusal) {
	now := a.hub.schedule.now()
	pause := max(r.Retry, time.Second)
	a.mu.Lock()
	if right.ends == 0 {
		right.ends = now + a.policy.Load().Grace
	}
	if right.grace { // many were told so at one moment
		pause += rand.N(pause) //nolint:gosec // G404: nothing secret
	}
	right.due = now + pause
	a.mu.Unlock()
	a.planReview()
}

// relyLocked replaces a right by what v gives. When that ends no later than the
// one before, it is not asked for again before it ends: the answer would be the
// same.
func (a *Agent) relyLocked(right *validity, v *Verdict, by Fingerprint) {
	before := right.ends
	if right.grace {
		before = 0 // that end was not of an answer
	}
	*right = a.validFor(v, by)
	if before != 0 && right.ends != 0 && right.ends <= before+scheduleGrain && (v.Recheck == 0 || right.due > right.ends) {
		right.due = 0
	}
}

// end ends a subscription for the reason given, and tells the agent: nothing of
// it follows what it is told. If o is what was asked, it must not be stale; if it
// was asked because of a reload, nothing of the subscription goes out that still
// waits. It reports whether the subscription was there.
func (a *Agent) end(s *subscription, r *Refusal, o *op) (ended bool) {
	n := s.node
	n.mu.Lock()
	a.mu.Lock()
	var flush bool
	if i := slices.Index(a.subs, s); i >= 0 && a.state == stateConnected && (o == nil || !a.isStale(o)) {
		ended = true
		a.dropLocked(i)
		if o != nil && o.reload {
			a.dropMessagesLocked(a.isCoveredLocked)
		}
		notice := appendEnded(nil, uuid.NewString(), s.channel, r)
		flush = a.acceptLocked(item{bytes: a.conn.Form().encode(notice)})
	}
	a.mu.Unlock()
	n.unlock()
	if flush {
		a.schedule()
	}
	return ended
}

// subscribeAll subscribes the agent to what its connect gate named, which is the
// operator's word: no other gate is asked.
func (a *Agent) subscribeAll(channels []string) {
	for _, ch := range channels {
		if r := CheckPattern(ch, MaxNameLength); r != nil {
			a.policy.Load().Log.Error("the connect gate named what is not a channel", "channel", ch, "agent", a.UUID(), "error", r)
			continue
		}
		in := &inbound{channel: metaSubscribe, uuid: uuid.NewString(), data: channelData(ch)}
		o := &op{gate: GateConnect, channel: ch} // it is the connect gate's word
		r, stale := (*Refusal)(nil), true
		for stale {
			o.policy = a.policy.Load()
			r, stale = a.hub.join(a, o, answerTo(in, nil))
		}
		if r != nil {
			a.policy.Load().Log.Error("a subscription by the connect gate failed", "channel", ch, "agent", a.UUID(), "error", r)
		}
	}
}

// planReview makes the agent due when the next right is to be looked at.
func (a *Agent) planReview() {
	a.mu.Lock()
	next := a.nextReviewLocked()
	beat := a.beat
	alive := a.state == stateConnected
	a.mu.Unlock()
	if next != 0 && next < beat && alive {
		a.hub.schedule.set(a, max(next-a.hub.schedule.now(), 0))
	}
}
