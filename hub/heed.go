// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// An Admission says which sessions may stay when a generation of the
// configuration takes the place of another: what is no matter of gates.
type Admission interface {
	// Stays returns why an agent may not stay that was there under another
	// generation, whose Admission is before; nil if it may. It is called
	// concurrently, with no lock held, must not block, and is not called when
	// before is the same.
	Stays(a *Agent, before Admission) *Refusal
}

// heed brings the agent under the policy that holds for it, if a reload has given
// it another one. It blocks for nothing but gates that answer from within this
// process, and others who do the same. It is called with no lock held.
func (a *Agent) heed() { a.bringUpToDate(true) }

// heedUnlessUnderWay is heed, but does not wait where somebody else is at it.
func (a *Agent) heedUnlessUnderWay() { a.bringUpToDate(false) }

func (a *Agent) bringUpToDate(wait bool) {
	a.mu.Lock()
	done := false
	for !a.heedsLocked() {
		if a.heeding && !wait {
			break
		}
		if a.heeding {
			a.cond.Wait()
			continue
		}
		done = true
		a.heeding = true
		before, p := a.heeded, a.policy.Load()
		a.mu.Unlock()
		a.comply(before, p)
		a.mu.Lock()
		a.heeding, a.heeded = false, p
		a.cond.Broadcast()
	}
	flush := a.parked && a.wakeLocked()
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
	if done {
		a.reloaded()
	}
}

// heedsLocked reports whether there is nothing for heed to do.
func (a *Agent) heedsLocked() bool { return a.heeded == a.policy.Load() || a.state >= stateClosing }

// comply has p hold for an agent that was under before.
func (a *Agent) comply(before, p *Policy) {
	if r := a.stays(before, p); r != nil {
		a.cut(r)
		return
	}
	a.mu.Lock()
	a.adoptLocked(before, p)
	connected := a.state == stateConnected
	a.mu.Unlock()
	if connected && a.reconsiderConnect(p) {
		a.reconsider(p, false, nil)
	}
}

func (a *Agent) stays(before, p *Policy) (r *Refusal) {
	if p.Admission == nil || p.Admission == before.Admission {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			p.Log.Error("looking at an agent's session panicked", "agent", a.UUID(), "panic", fmt.Sprint(v))
			r = notFoundOut.Refusal
		}
	}()
	return p.Admission.Stays(a, before.Admission)
}

// cutRetry is how long who was cut by a reload is told to stay away: they are not
// to come back all at once.
func cutRetry() time.Duration {
	return time.Second + rand.N(2*time.Second) //nolint:gosec // G404: nothing secret
}

// cut closes the session, which a reload has no place for any more. It gets no
// message that still waits for it.
func (a *Agent) cut(r *Refusal) {
	retry := r.Retry
	if retry <= 0 {
		retry = cutRetry()
	}
	a.mu.Lock()
	open := a.state < stateClosing
	if open {
		a.silenced = true
		a.dropMessagesLocked(func(*Message) bool { return false })
	}
	flush := a.closeLocked(CloseCut, r.Reason, retry)
	a.mu.Unlock()
	if reload := a.reload.Load(); reload != nil && open {
		reload.cut.Add(1)
	}
	if flush {
		a.schedule()
	}
}

// adoptLocked has those settings of p hold that something was planned by. The
// caller holds a.mu.
func (a *Agent) adoptLocked(before, p *Policy) {
	if a.queued > p.Limits.QueueMessages || a.queuedBytes > p.Limits.QueueBytes {
		if a.spare == nil {
			a.spare = a.limits // until it has read as much
		}
	}
	a.limits = &p.Limits
	a.roomLocked()
	switch {
	case a.state == stateConnected && before.Heartbeat != p.Heartbeat:
		// A silence that was none under the old interval must not be one now.
		a.Touch()
		beat := firstHeartbeat(p.Heartbeat)
		a.beat = a.hub.schedule.now() + beat
		a.hub.schedule.set(a, beat) // what is due before, planReview sees to
	case a.state == stateOpen && a.conn != nil && before.Handshake != p.Handshake:
		a.hub.schedule.set(a, p.Handshake)
	}
}

// queueLimitsLocked returns the limits of the agent's queue. An agent that was over
// new limits when a reload brought them keeps the old ones until it has read half of
// the new ones empty. The caller holds a.mu.
func (a *Agent) queueLimitsLocked() *Limits {
	l := a.limits
	if a.spare == nil {
		return l
	}
	if a.queued <= l.QueueMessages/2 && a.queuedBytes <= l.QueueBytes/2 {
		a.spare = nil
		return l
	}
	return a.spare
}

// dropMessagesLocked takes messages out of the queue that are not to be kept, because
// the right to them has ended. What a writer has taken, but not written, comes back.
// The caller holds a.mu.
func (a *Agent) dropMessagesLocked(keep func(*Message) bool) {
	a.revoked.Add(1)
	if a.queue == nil {
		return
	}
	*a.queue = slices.DeleteFunc(*a.queue, func(it item) bool {
		if it.msg == nil || keep(it.msg) {
			return false
		}
		a.discountLocked(it)
		a.hub.counts.drop(DropRevoked, 1)
		return true
	})
	if len(*a.queue) == 0 {
		putQueue(a.queue)
		a.queue = nil
	}
	a.roomLocked()
}

// dropReasonLocked says why messages are dropped that were taken back from a writer.
// The caller holds a.mu.
func (a *Agent) dropReasonLocked() DropReason {
	if a.closeCode == CloseSlow {
		return DropSlow
	}
	return DropRevoked
}

// isCoveredLocked reports whether the agent is subscribed to what m was published
// on, itself or by a pattern. The caller holds a.mu.
func (a *Agent) isCoveredLocked(m *Message) bool {
	return slices.ContainsFunc(a.subs, func(s *subscription) bool {
		if IsPattern(s.channel) {
			return strings.HasPrefix(m.Channel, patternPrefix(s.channel))
		}
		return s.channel == m.Channel
	})
}

// reconsiderConnect has the connect gate of p look at an agent that is connected
// under another one. It reports whether the subscriptions are still to be looked
// at: they have been, or nobody is left, if it has answered already.
func (a *Agent) reconsiderConnect(p *Policy) bool {
	for {
		o := &op{gate: GateConnect, silent: true, reload: true}
		g, q := a.govern(o)
		if o.policy != p {
			return false // there was yet another reload, which heed sees to
		}
		a.mu.Lock()
		changed := a.right.grace || !a.right.by.is(o.by)
		if changed && g != nil && !isLocal(g) {
			a.giveGraceLocked(&a.right, p.Grace)
		}
		a.mu.Unlock()
		switch {
		case !changed:
			return true
		case g != nil && !isLocal(g):
			a.planReview()
			return true
		case g != nil:
			a.countAsked()
			o.verdict, o.final = a.decideLocal(context.Background(), g, q), true
		}
		if a.refreshed(o) {
			return false
		}
	}
}

// reconsider has the gates of p look at the subscriptions that others have
// allowed; at all of them, if all is set. What the connect gate itself has made is
// its word, and not in question, unless it has answered: then made is what it has
// made now, and not nil.
func (a *Agent) reconsider(p *Policy, all bool, made []string) {
	a.mu.Lock()
	subs := slices.Clone(a.subs)
	a.mu.Unlock()
	for _, s := range subs {
		a.reconsiderOne(p, s, all, made)
	}
	a.planReview()
}

func (a *Agent) reconsiderOne(p *Policy, s *subscription, all bool, made []string) {
	for {
		o := &op{gate: GateSubscribe, channel: s.channel, sub: s, reload: true}
		g, q := a.govern(o)
		if o.policy != p {
			return // there was yet another reload, which heed sees to
		}
		a.mu.Lock()
		byConnect := s.byConnect && (made == nil || slices.Contains(made, s.channel))
		changed := all || s.right.grace || s.byConnect || !s.right.by.is(o.by)
		waits := a.right.grace
		if !byConnect && changed && g != nil && !isLocal(g) {
			a.giveGraceLocked(&s.right, p.Grace)
		}
		a.mu.Unlock()
		switch {
		case byConnect, !changed, g != nil && !isLocal(g):
			return
		case g != nil:
			a.countAsked()
			o.verdict, o.final = a.decideLocal(context.Background(), g, q), true
		}
		if o.verdict.Refusal != nil && waits && g != nil && !isFixed(g) {
			// Who it is that wants to know is not known before the connect gate has
			// answered.
			a.mu.Lock()
			a.giveGraceLocked(&s.right, p.Grace)
			s.right.due = 0 // its answer is what this waits for
			a.mu.Unlock()
			return
		}
		if a.reviewed(o) {
			return
		}
	}
}

// giveGraceLocked keeps a right for a while that a gate has given which is no
// longer the one that governs, and has that one asked for it. What is in its grace
// already does not get more. The caller holds a.mu.
func (a *Agent) giveGraceLocked(right *validity, grace time.Duration) {
	now := a.hub.schedule.now()
	if !right.grace {
		// Not all of them at one moment.
		ends := now + grace - rand.N(grace/10+1) //nolint:gosec // G404: nothing secret
		if right.ends == 0 || ends < right.ends {
			right.ends = ends
		}
		right.grace = true
	}
	var spread time.Duration
	if r := a.reload.Load(); r != nil {
		spread = r.spread
	}
	right.ready = false
	right.due = max(now, 1) + rand.N(spread+1) //nolint:gosec // G404: nothing secret
}

// isGracedLocked reports whether something of the agent's is still to be decided
// under its policy. The caller holds a.mu.
func (a *Agent) isGracedLocked() bool {
	return a.right.grace || slices.ContainsFunc(a.subs, func(s *subscription) bool { return s.right.grace })
}

// reloaded says that the agent is done with the reload that it was in, if it is.
func (a *Agent) reloaded() {
	r := a.reload.Load()
	if r == nil {
		return
	}
	a.mu.Lock()
	done := a.state >= stateClosing || a.heeded == r.to && a.heedsLocked() && (a.state != stateConnected || !a.isGracedLocked())
	a.mu.Unlock()
	if done && a.reload.CompareAndSwap(r, nil) {
		r.leave()
	}
}

func (a *Agent) countAsked() {
	if r := a.reload.Load(); r != nil {
		r.asked.Add(1)
	}
}
