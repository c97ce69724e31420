// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Migration puts the policy of a reload into effect for an agent. It runs in whichever
// goroutine first needs it: that of the Reload, a writer, or one that handles a frame.
// It asks only gates that answer at once; for the others it starts a grace period.

// An Admission says which sessions may stay when a generation of the configuration
// replaces another, in what gates do not decide: origin, transport, namespace.
type Admission interface {
	// Stays returns why an agent may not stay that was there under another
	// generation, whose Admission is before; nil if it may. It is called
	// concurrently, with no lock held, must not block, and is not called when
	// before is the same.
	Stays(a *Agent, before Admission) *Refusal
}

// migrate puts the agent's policy into effect, if a reload has changed it. It blocks for
// nothing but gates that answer from within this process, and with wait for another
// goroutine that does the same. It is called with no lock held.
func (a *Agent) migrate(wait bool) {
	a.mu.Lock()
	done := false
	for !a.isCurrentLocked() {
		if a.migrating && !wait {
			break
		}
		if a.migrating {
			a.cond.Wait()
			continue
		}
		done = true
		a.migrating = true
		before, p := a.applied, a.policy.Load()
		a.mu.Unlock()
		(&migration{agent: a, from: before, to: p}).run()
		a.mu.Lock()
		a.migrating, a.applied = false, p
		a.cond.Broadcast()
	}
	notify := a.out.parked && a.out.wakeLocked()
	a.mu.Unlock()
	if notify {
		a.notify()
	}
	if done {
		a.migrated()
	}
}

// isCurrentLocked reports whether the agent's policy is in effect. For an agent that is
// being closed it always is. The caller holds a.mu.
func (a *Agent) isCurrentLocked() bool {
	return a.applied == a.policy.Load() || a.state >= stateClosing
}

// A migration puts a policy into effect for one agent.
type migration struct {
	agent    *Agent
	from, to *Policy
}

func (m *migration) run() {
	a := m.agent
	if r := m.stays(); r != nil {
		a.cut(r)
		return
	}
	a.mu.Lock()
	m.rescheduleLocked()
	connected := a.state == stateConnected
	a.mu.Unlock()
	if connected && m.connect() {
		m.subscriptions(false, nil)
	}
}

// stays asks the Admission.
func (m *migration) stays() (r *Refusal) {
	a, before, p := m.agent, m.from, m.to
	if p.Admission == nil || p.Admission == before.Admission {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			p.Log.Error("looking at an agent's session panicked", "agent", a.UUID(), "panic", fmt.Sprint(v))
			r = unanswered.Refusal
		}
	}()
	return p.Admission.Stays(a, before.Admission)
}

// cutRetry is how long an agent that a reload cuts is told to stay away: they are not
// to come back all at once.
func cutRetry() time.Duration {
	return time.Second + rand.N(2*time.Second) //nolint:gosec // G404: nothing secret
}

// cut closes a session that a reload has no place for any more. It gets no message that
// still waits for it.
func (a *Agent) cut(r *Refusal) {
	retry := r.Retry
	if retry <= 0 {
		retry = cutRetry()
	}
	a.mu.Lock()
	open := a.state < stateClosing
	if open {
		a.out.silenced = true
		a.out.revokeLocked(func(*Message) bool { return false })
	}
	notify := a.closeLocked(CloseCut, r.Reason, retry)
	a.mu.Unlock()
	if reload := a.reload.Load(); reload != nil && open {
		reload.cut.Add(1)
	}
	if notify {
		a.notify()
	}
}

// rescheduleLocked replaces what the old policy timed or limited: heartbeat, handshake,
// queue limits. The caller holds a.mu.
func (m *migration) rescheduleLocked() {
	a, before, p := m.agent, m.from, m.to
	a.out.queue.setLimits(&p.Limits)
	a.out.roomLocked()
	switch {
	case a.state == stateConnected && before.Heartbeat != p.Heartbeat:
		// A silence that was none under the old interval must not be one now.
		a.Touch()
		beat := firstHeartbeat(p.Heartbeat)
		a.beat = a.hub.timers.now() + beat
		a.hub.timers.set(a, beat) // planReview sees to what is due before
	case a.state == stateOpen && a.out.conn != nil && before.Handshake != p.Handshake:
		a.hub.timers.set(a, p.Handshake)
	}
}

// startGraceLocked starts the grace period of a lease. The caller holds a.mu.
func (m *migration) startGraceLocked(l *lease) {
	a := m.agent
	var spread time.Duration
	if r := a.reload.Load(); r != nil {
		spread = r.spread
	}
	l.startGrace(a.hub.timers.now(), m.to.Grace, spread)
}

// connect holds the connect of the agent against its gate. It reports whether
// its subscriptions are still to be held against their gates: not if they have been, or if
// the agent has been closed.
func (m *migration) connect() bool {
	a := m.agent
	for {
		o := &op{agent: a, gate: GateConnect, why: byReload}
		g, q := o.resolveGate()
		if o.policy != m.to {
			return false // there was yet another reload, which migrate sees to
		}
		a.mu.Lock()
		l := &a.leases.connect
		changed := l.grace || !l.by.is(o.by)
		if changed && !o.local {
			m.startGraceLocked(l)
		}
		a.mu.Unlock()
		switch {
		case !changed:
			return true
		case !o.local:
			a.leases.planReview()
			return true
		case g != nil:
			a.reload.Load().countAsked()
			o.verdict = q.askLocal(context.Background(), g)
		}
		if o.applyConnect() {
			return false
		}
	}
}

// subscriptions holds the subscriptions that another gate allowed against their gates;
// all of them, if all is set. What the connect gate itself has made is not in
// question, unless it has answered: then made is what it has made now, and not nil.
func (m *migration) subscriptions(all bool, made []string) {
	a := m.agent
	a.mu.Lock()
	subs := slices.Clone(a.leases.subs)
	a.mu.Unlock()
	for _, s := range subs {
		for !m.subscription(s, all, made) {
		}
	}
	a.leases.planReview()
}

// subscription holds one subscription against its gate. It returns false if
// that has to be done again, because the agent's identity has changed meanwhile.
func (m *migration) subscription(s *subscription, all bool, made []string) (done bool) {
	a := m.agent
	o := &op{agent: a, gate: GateSubscribe, channel: s.channel, sub: s, why: byReload}
	g, q := o.resolveGate()
	if o.policy != m.to {
		return true // there was yet another reload, which migrate sees to
	}
	a.mu.Lock()
	granted := s.byConnect && (made == nil || slices.Contains(made, s.channel))
	changed := all || s.lease.grace || s.byConnect || !s.lease.by.is(o.by)
	connectWaits := a.leases.connect.grace
	if !granted && changed && !o.local {
		m.startGraceLocked(&s.lease)
	}
	a.mu.Unlock()
	switch {
	case granted, !changed, !o.local:
		return true
	case g != nil:
		a.reload.Load().countAsked()
		o.verdict = q.askLocal(context.Background(), g)
	}
	if o.verdict.Refusal != nil && connectWaits && g != nil && !isFixed(g) {
		// Who wants to know is not known before the connect gate has answered.
		a.mu.Lock()
		m.startGraceLocked(&s.lease)
		s.lease.again = 0 // its answer is what this waits for
		a.mu.Unlock()
		return true
	}
	return o.applyLease()
}

// migrated says that the agent is done with the reload that it is in, if it is.
func (a *Agent) migrated() {
	r := a.reload.Load()
	if r == nil {
		return
	}
	a.mu.Lock()
	done := a.state >= stateClosing || a.applied == r.to && a.isCurrentLocked() && (a.state != stateConnected || !a.leases.isUndecided())
	a.mu.Unlock()
	if done && a.reload.CompareAndSwap(r, nil) {
		r.leave()
	}
}
