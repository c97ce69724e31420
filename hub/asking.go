// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// maxQuestions is how many gates one agent can have asked at once.
	maxQuestions = 8
	// maxHeld and maxHeldBytes bound the frames that wait for the answer to
	// /meta/connect; then reading stops.
	maxHeld      = 32
	maxHeldBytes = 256 << 10
)

// An asking is what an agent keeps while it has asked a gate anything. Its
// fields are guarded by the agent's mu, but for the first two.
type asking struct {
	ctx    context.Context //nolint:containedctx // ends with the agent, whose part this is
	cancel context.CancelFunc

	holding   bool // frames wait for the answer to /meta/connect
	held      [][]byte
	heldBytes int

	pending  []*op // in the order of their frames
	applying bool  // somebody applies what is ready
}

// An op is something an agent asked for that waits for a gate.
type op struct {
	gate    GateName
	channel string // empty for a refresh
	in      inbound
	msg     *Message // of a publish

	// guarded by the agent's mu while pending
	verdict Verdict
	decided bool
}

func (a *Agent) askingLocked() *asking {
	if a.asking == nil {
		ctx, cancel := context.WithCancel(context.Background())
		a.asking = &asking{ctx: ctx, cancel: cancel}
		if a.state >= stateClosing {
			cancel()
		}
	}
	return a.asking
}

// holdLocked makes frames wait from now on.
func (a *Agent) holdLocked() { a.askingLocked().holding = true }

// hold keeps the frame for later if the answer to /meta/connect is awaited, and
// blocks while too much is kept. It reports whether the frame is dealt with.
func (a *Agent) hold(frame []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.asking != nil && a.asking.holding && a.state < stateClosing {
		w := a.asking
		if len(w.held) < maxHeld && w.heldBytes+len(frame) <= maxHeldBytes {
			w.held = append(w.held, bytes.Clone(frame))
			w.heldBytes += len(frame)
			return true
		}
		a.cond.Wait()
	}
	return a.state >= stateClosing
}

// releaseHeld handles the frames that were held, in order, until none is left.
func (a *Agent) releaseHeld() {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.asking
	for len(w.held) > 0 && a.state == stateConnected {
		frame := w.held[0]
		w.held = w.held[1:]
		w.heldBytes -= len(frame)
		a.cond.Broadcast()
		a.mu.Unlock()
		a.handle(frame)
		a.mu.Lock()
	}
	w.holding, w.held = false, nil
	a.cond.Broadcast()
}

// perform asks the gate that governs o, if there is one, and applies o when it
// has answered and all that came before on the same channel is done.
func (a *Agent) perform(p *Policy, o *op) {
	g := p.gate(o.gate, o.channel)
	a.mu.Lock()
	if g == nil && !a.isPendingLocked(o.channel) {
		a.mu.Unlock()
		a.apply(o)
		return
	}
	w := a.askingLocked()
	for len(w.pending) >= maxQuestions && a.state == stateConnected {
		a.cond.Wait()
	}
	if a.state != stateConnected {
		a.mu.Unlock()
		return
	}
	o.in.data = bytes.Clone(o.in.data) // the frame is the transport's
	w.pending = append(w.pending, o)
	a.mu.Unlock()
	q := &Question{Gate: o.gate, Agent: a, Channel: o.channel, Pattern: IsPattern(o.channel), Message: o.msg}
	if o.gate == GateConnect {
		q.Credentials = o.in.data
	}
	decided := func(v Verdict) {
		a.mu.Lock()
		o.verdict, o.decided = v, true
		a.mu.Unlock()
		a.settle()
	}
	if g == nil {
		decided(Allow)
		return
	}
	a.ask(p, g, q, decided)
}

func (a *Agent) isPendingLocked(channel string) bool {
	return a.asking != nil && slices.ContainsFunc(a.asking.pending, func(o *op) bool { return o.channel == channel })
}

// settle applies what is decided, each channel in its order. One goroutine does
// so at a time; what becomes ready meanwhile is left to it.
func (a *Agent) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.asking
	if w.applying {
		return
	}
	w.applying = true
	for o := w.ready(); o != nil && a.state == stateConnected; o = w.ready() {
		a.mu.Unlock()
		a.apply(o)
		a.mu.Lock()
		// It stood in the list until now, so that nothing of its channel went past.
		w.pending = slices.DeleteFunc(w.pending, func(p *op) bool { return p == o })
		a.cond.Broadcast()
	}
	w.applying = false
}

// ready returns the first decided op that no other of its channel precedes.
func (w *asking) ready() *op {
	for i, o := range w.pending {
		if o.decided && !slices.ContainsFunc(w.pending[:i], func(before *op) bool { return before.channel == o.channel }) {
			return o
		}
	}
	return nil
}

// ask asks g, of the policy p, in a goroutine of its own, which nobody waits
// for: a gate that does not heed its context must not hold up anybody. then is
// called once, with the answer, or with unavailable when the time is over; not
// if the agent has left meanwhile. When the policy has changed meanwhile, the
// answer is of rules that no longer hold: the gate of the new one is asked.
func (a *Agent) ask(p *Policy, g Gate, q *Question, then func(Verdict)) {
	a.mu.Lock()
	ctx := a.askingLocked().ctx
	a.mu.Unlock()
	go func() {
		v := a.decide(ctx, g, q)
		for now := a.policy.Load(); now != p; now = a.policy.Load() {
			p, v = now, Allow
			if g = p.gate(q.Gate, q.Channel); g != nil {
				v = a.decide(ctx, g, q)
			}
		}
		if ctx.Err() == nil {
			then(v)
		}
	}()
}

// decide asks g and waits for the answer, no longer than g's timeout.
func (a *Agent) decide(ctx context.Context, g Gate, q *Question) Verdict {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout())
	defer cancel()
	answer := make(chan Verdict, 1) // buffered: a late answer waits for nobody
	go func() {
		defer func() {
			if p := recover(); p != nil {
				a.policy.Load().Log.Error("a gate panicked", "gate", string(q.Gate), "channel", q.Channel, "agent", a.UUID(), "panic", fmt.Sprint(p))
				answer <- notFoundOut
			}
		}()
		answer <- g.Decide(ctx, q)
	}()
	select {
	case v := <-answer:
		return v
	case <-ctx.Done():
		return notFoundOut
	}
}

// notFoundOut is the answer of a gate that gave none.
var notFoundOut = Verdict{Refusal: &Refusal{CodeUnavailable, "whether this is allowed could not be found out in time", time.Second}}
