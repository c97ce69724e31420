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

// A migration puts the policy of a reload into effect for an agent. It runs in the first
// goroutine that needs it: one of the Reload's, a writer, or the one that handles a frame.
// It asks only gates that answer at once; for the others it starts a grace period.

// An Admission decides which sessions may stay when a reload replaces their generation.
// It decides what gates do not: origin, transport, namespace.
type Admission interface {
	// Stays returns nil if the agent may stay, else why not. before is the Admission of
	// the agent's old generation; the hub does not call Stays if it is the same. The hub
	// calls Stays concurrently and with no lock held. Stays must not block.
	Stays(a *Agent, before Admission) *Refusal
}

// migrate puts the agent's policy into effect, if a reload has changed it. It waits for
// gates that answer at once, and if wait is true, for another goroutine that already runs
// the migration. Call it with no lock held.
func (a *Agent) migrate(wait bool) {
	a.mu.Lock()
	done := false
	for !a.isCurrentLocked() {
		if a.migrating && !wait {
			break
		}
		if a.migrating {
			a.waitLocked()
			continue
		}
		done = true
		a.migrating = true
		before, p := a.applied, a.policy.Load()
		a.mu.Unlock()
		(&migration{agent: a, from: before, to: p}).run()
		a.mu.Lock()
		a.migrating, a.applied = false, p
		a.wakeWaitersLocked()
	}
	notify := a.out.parked && a.out.wakeLocked()
	a.unlock(notify)
	if done {
		a.migrated()
	}
}

// isCurrentLocked reports whether the agent's policy is in effect. It also returns true
// for an agent that is being closed, which needs no migration. The caller holds a.mu.
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
			p.Log.Error("checking whether an agent may stay panicked", "agent", a.UUID(), "panic", fmt.Sprint(v))
			r = unanswered.Refusal
		}
	}()
	return p.Admission.Stays(a, before.Admission)
}

// cutRetry is how long an agent that a reload cuts must stay away. It is random, so that
// the agents do not come back all at once.
func cutRetry() time.Duration {
	return time.Second + rand.N(2*time.Second) //nolint:gosec // G404: nothing secret
}

// cut closes a session that the new policy does not allow. It drops the messages that
// wait for the agent: the agent must not get them any more.
func (a *Agent) cut(r *Refusal) {
	retry := r.Retry
	if retry <= 0 {
		retry = cutRetry()
	}
	a.cutWith(r.Reason, retry, true)
}

// cutWith closes the session with CloseCut and drops what waits. byReload says whether to
// count it for a reload. It reports whether the session was open.
func (a *Agent) cutWith(reason string, retry time.Duration, byReload bool) (open bool) {
	a.mu.Lock()
	if open = a.state < stateClosing; open {
		// It is counted before anyone can find out that it is decided.
		if reload := a.reload.Load(); reload != nil && byReload {
			reload.cut.Add(1)
		}
		a.out.silenced = true
		a.out.revokeLocked(func(*Message) bool { return false })
	}
	notify := a.closeLocked(CloseCut, reason, retry)
	a.unlock(notify)
	return open
}

// rescheduleLocked replaces the timers and limits of the old policy: heartbeat, handshake,
// queue limits. The caller holds a.mu.
func (m *migration) rescheduleLocked() {
	a, before, p := m.agent, m.from, m.to
	a.out.queue.setLimits(&p.Limits)
	a.out.roomLocked()
	switch {
	case a.state == stateConnected && before.Heartbeat != p.Heartbeat:
		// The agent may have been silent for longer than the new interval allows, because
		// the old one was longer. Count its silence from now.
		a.Touch()
		beat := firstHeartbeat(p.Heartbeat)
		a.beat = a.hub.timers.now() + beat
		a.hub.timers.set(a, beat) // setTimer comes later, and sets an earlier time if a lease needs it
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

// connect reauthorizes the connect if its gate has changed and answers at once; else it
// starts a grace period. It reports whether the caller must still check the
// subscriptions: not if a verdict on the connect has done so, or closed the agent.
func (m *migration) connect() bool {
	a := m.agent
	for {
		o := &op{agent: a, gate: GateConnect, why: byReload}
		g, q := o.resolveGate()
		if o.policy != m.to {
			return false // there was another reload: migrate runs again
		}
		a.mu.Lock()
		l := &a.leases.connect
		changed := l.inGrace() || !l.by.is(o.by)
		if changed && !o.local {
			m.startGraceLocked(l)
		}
		a.mu.Unlock()
		switch {
		case !changed:
			return true
		case !o.local:
			a.leases.setTimer()
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

// subscriptions reauthorizes the subscriptions that a replaced gate allowed, or every
// subscription if all is set. It keeps those that the connect gate made. If the connect
// gate has answered again, made is not nil, and it keeps only the channels in made.
func (m *migration) subscriptions(all bool, made []string) {
	a := m.agent
	a.mu.Lock()
	subs := slices.Clone(a.leases.subs)
	a.mu.Unlock()
	for _, s := range subs {
		m.stopCatchingUp(s)
		for !m.reauthorize(GateSubscribe, s, all, made) {
		}
		if all || m.from == nil || !m.from.presence(s.channel()).is(m.to.presence(s.channel())) {
			s.present()
		}
		for !m.reauthorize(GatePresence, s, all, made) {
		}
	}
	a.leases.setTimer()
}

// stopCatchingUp ends a subscription that gets kept messages, if another gate decides now who
// may have them. Its client subscribes again, and that gate is asked.
func (m *migration) stopCatchingUp(s *subscription) {
	a := m.agent
	a.mu.Lock()
	l := s.laggardLocked()
	a.mu.Unlock()
	if l == nil || !l.asked || l.by.is(fingerprintOf(m.to.gate(GateHistory, s.channel()))) {
		return
	}
	o := &op{agent: a, gate: GateHistory, channel: s.channel(), sub: s, why: byReload, policy: m.to, identity: a.identity.Load()}
	a.revoke(s, &Refusal{CodeUnavailable, "other rules decide about kept messages now; subscribe again", time.Second}, o)
}

// reauthorize does that for one subscription, or with GatePresence for the right to its
// list of members. It returns false if the caller must call it again, because the agent's
// identity has changed meanwhile.
func (m *migration) reauthorize(gate GateName, s *subscription, all bool, made []string) (done bool) {
	a := m.agent
	o := &op{agent: a, gate: gate, channel: s.channel(), sub: s, why: byReload}
	a.mu.Lock()
	absent := o.leaseLocked() == nil
	a.mu.Unlock()
	if absent {
		return true
	}
	g, q := o.resolveGate()
	if o.policy != m.to {
		return true // there was another reload: migrate runs again
	}
	a.mu.Lock()
	l := o.leaseLocked()
	if l == nil {
		a.mu.Unlock()
		return true
	}
	byConnect := s.byConnect && gate == GateSubscribe
	granted := byConnect && (made == nil || slices.Contains(made, s.channel()))
	changed := all || l.inGrace() || byConnect || !l.by.is(o.by)
	connectWaits := a.leases.connect.inGrace()
	if !granted && changed && !o.local {
		m.startGraceLocked(l)
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
		// The refusal may come from an identity that is out of date. Keep the
		// subscription until the connect gate has answered; its answer asks again.
		a.mu.Lock()
		if l = o.leaseLocked(); l != nil {
			m.startGraceLocked(l)
			l.leaveUnasked()
		}
		a.mu.Unlock()
		return true
	}
	return o.applyLease()
}

// migrated tells the agent's Reload, if it has one, once nothing about the agent is
// undecided.
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
