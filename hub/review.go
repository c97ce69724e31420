// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
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

// reviewLocked looks at what is due: it ends what has ended, and returns what is
// to be asked again. The caller holds a.mu.
func (a *Agent) reviewLocked(now time.Duration) (again []*op, ended []*subscription, flush bool) {
	if passed(a.right.ends, now) {
		return nil, nil, a.closeLocked(CloseCut, "your right to be connected has expired", time.Second)
	}
	if passed(a.right.due, now) {
		a.right.due = 0
		again = append(again, &op{gate: GateConnect, silent: true})
	}
	for _, s := range a.subs {
		switch {
		case passed(s.right.ends, now):
			ended = append(ended, s)
		case passed(s.right.due, now):
			s.right.due = 0
			again = append(again, &op{gate: GateSubscribe, channel: s.channel, sub: s})
		}
	}
	return again, ended, false
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

// reviewed applies the answer to a subscription that was asked for again.
func (a *Agent) reviewed(o *op) {
	a.mu.Lock()
	o.sub.asked = false
	a.mu.Unlock()
	switch r := o.verdict.Refusal; {
	case r != nil && r.Code == CodeUnavailable:
		a.postpone(&o.sub.right, r)
		return
	case r != nil:
		a.end(o.sub, r)
		return
	}
	a.mu.Lock()
	if slices.Contains(a.subs, o.sub) {
		a.relyLocked(&o.sub.right, &o.verdict)
	}
	a.mu.Unlock()
	a.planReview()
}

// reviewGrace is how long a right without an end of its own is relied on while its
// gate cannot find out: a backend that is away for ten seconds must not log
// everyone out.
const reviewGrace = time.Minute

// postpone keeps a right whose gate could not find out, until it ends, and has it
// asked for again.
func (a *Agent) postpone(right *validity, r *Refusal) {
	now := a.hub.schedule.now()
	a.mu.Lock()
	if right.ends == 0 {
		right.ends = now + reviewGrace
	}
	right.due = now + max(r.Retry, time.Second)
	a.mu.Unlock()
	a.planReview()
}

// relyLocked replaces a right by what v gives. When that ends no later than the
// one before, it is not asked for again before it ends: the answer would be the
// same.
func (a *Agent) relyLocked(right *validity, v *Verdict) {
	before := right.ends
	*right = a.validFor(v)
	if before != 0 && right.ends != 0 && right.ends <= before+scheduleGrain && (v.Recheck == 0 || right.due > right.ends) {
		right.due = 0
	}
}

// end ends a subscription for the reason given, and tells the agent: nothing of
// it follows what it is told.
func (a *Agent) end(s *subscription, r *Refusal) {
	n := s.node
	n.mu.Lock()
	a.mu.Lock()
	var flush bool
	if i := slices.Index(a.subs, s); i >= 0 && a.state == stateConnected {
		a.dropLocked(i)
		notice := appendEnded(nil, uuid.NewString(), s.channel, r)
		flush = a.acceptLocked(item{bytes: a.conn.Form().encode(notice)})
	}
	a.mu.Unlock()
	n.unlock()
	if flush {
		a.schedule()
	}
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
