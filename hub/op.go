// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"slices"
	"time"
)

// maxQuestions is how many gates may be asked for one agent at once.
const maxQuestions = 8

// An op is an operation that a gate may have to allow: what an agent asks for with a
// frame, or a lease whose gate is asked again. It goes through these steps: do finds the
// gate, ask asks it if it does not answer at once, apply does what was allowed.
type op struct {
	// Immutable.
	agent   *Agent
	gate    GateName
	channel string        // empty for a connect
	why     reason        // why it is asked for
	sub     *subscription // whose lease it is about; nil if it is about none, or the connect's
	in      inbound       // the frame, if why is byFrame
	msg     *Message      // of a publish
	refused *Refusal      // if not nil, the answer, for which no gate is asked
	taken   *lease        // that notes that its gate is being asked; guarded by the agent's mu
	done    chan struct{} // if not nil, closed when it is done with, unless the agent has left

	ctx  context.Context //nolint:containedctx // of its span, if it has one
	span Span            // of a publish that is traced

	// Guarded by the agent's mu while it is pending.
	local    bool // the answer comes from within this process
	verdict  Verdict
	decided  bool
	applying bool        // apply ends its span
	policy   *Policy     // that was asked
	by       Fingerprint // of its gate
	identity *Identity   // that it was asked for
}

// ops are an agent's operations that wait for gates. The first two fields are immutable,
// the others guarded by the agent's mu.
type ops struct {
	ctx    context.Context //nolint:containedctx // ends with the agent, whose part this is
	cancel context.CancelFunc

	pending  []*op // in the order of their frames
	applying bool  // a goroutine applies what is ready
}

// isPending reports whether an operation on the channel waits. A nil ops has none.
func (w *ops) isPending(channel string) bool {
	return w != nil && slices.ContainsFunc(w.pending, func(o *op) bool { return o.channel == channel })
}

// isConnecting reports whether an operation on the connect waits.
func (w *ops) isConnecting() bool {
	return slices.ContainsFunc(w.pending, func(o *op) bool { return o.gate == GateConnect })
}

// ready returns the first operation that is decided and that no other of its channel
// precedes.
func (w *ops) ready() *op {
	for i, o := range w.pending {
		if o.decided && !slices.ContainsFunc(w.pending[:i], func(before *op) bool { return before.channel == o.channel }) {
			return o
		}
	}
	return nil
}

// remove takes o out.
func (w *ops) remove(o *op) {
	w.pending = slices.DeleteFunc(w.pending, func(p *op) bool { return p == o })
}

// opsLocked returns the agent's operations. Most agents never need them.
func (a *Agent) opsLocked() *ops {
	if a.ops == nil {
		ctx, cancel := context.WithCancel(context.Background())
		a.ops = &ops{ctx: ctx, cancel: cancel}
		if a.state >= stateClosing {
			cancel()
		}
	}
	return a.ops
}

// context returns the one that what is done for o is done in.
func (o *op) context() context.Context {
	if o.ctx == nil {
		return context.Background()
	}
	return o.ctx
}

// endSpan ends the span of o.
func (o *op) endSpan(answer AnswerName) {
	if o.span != nil {
		o.span.End(answer)
	}
}

// abandon ends the spans of operations whose agent leaves before they are done with, in
// a goroutine of its own: a Tracer is not called under a lock.
func abandon(ops []*op) {
	ops = slices.DeleteFunc(slices.Clone(ops), func(o *op) bool { return o.span == nil || o.applying })
	if len(ops) == 0 {
		return
	}
	go func() {
		for _, o := range ops {
			o.endSpan(Abandoned)
		}
	}()
}

// leaseLocked returns the one that o is about. The answer has come: its gate is no longer
// being asked.
func (o *op) leaseLocked() *lease {
	if o.taken != nil {
		o.taken.asked, o.taken = false, nil
	}
	if o.sub != nil {
		return &o.sub.lease
	}
	return &o.agent.leases.connect
}

// finish says that o is done with.
func (o *op) finish() {
	if o.why != byFrame {
		o.agent.mu.Lock()
		o.leaseLocked()
		o.agent.mu.Unlock()
	}
	if o.done != nil {
		close(o.done)
	}
}

// refreshing is the answer to a refresh that comes too soon.
var refreshing = &Refusal{CodeLimit, "a refresh of this session is under way, or was just done", time.Second}

// do asks the gate of o, if there is one, and applies o when it has answered and all
// that came before on the same channel is done. It waits for a place among the agent's
// questions.
func (o *op) do() {
	a := o.agent
	a.mu.Lock()
	var gate Gate
	var q *Question
	// A connect always takes its turn among the others: it changes what they are
	// asked for.
	if o.gate != GateConnect && !a.ops.isPending(o.channel) {
		a.mu.Unlock()
		if o.refused != nil {
			a.answer(&o.in, o.refused)
			return
		}
		var done bool
		if done, gate, q = o.tryNow(); done {
			o.finish()
			return
		}
		a.mu.Lock()
	}
	w := a.opsLocked()
	for len(w.pending) >= maxQuestions && a.state == stateConnected && o.why != byReload {
		a.cond.Wait()
	}
	if a.state != stateConnected {
		a.mu.Unlock()
		o.endSpan(Abandoned)
		o.finish()
		return
	}
	if o.gate == GateConnect && w.isConnecting() {
		a.mu.Unlock()
		if o.why == byFrame {
			a.answer(&o.in, refreshing)
		}
		o.finish()
		return
	}
	o.in.data = bytes.Clone(o.in.data) // the frame is the transport's
	if o.refused != nil {
		o.verdict, o.decided = Verdict{Refusal: o.refused}, true
	}
	w.pending = append(w.pending, o)
	a.mu.Unlock()
	switch {
	case o.refused != nil:
		a.applyReady() // what it waited for may be done with
	case gate != nil:
		o.ask(gate, q)
	default:
		o.ask(o.resolveGate())
	}
}

// tryNow applies o if no gate is to be asked, or one that answers at once. If not, it
// has done nothing, and returns the gate and the question.
func (o *op) tryNow() (done bool, g Gate, q *Question) {
	for {
		g, q = o.resolveGate()
		switch {
		case g == nil:
		case o.local:
			o.verdict = q.askLocal(o.context(), g)
		default:
			return false, g, q
		}
		if o.agent.currently() != stateConnected {
			o.endSpan(Abandoned)
			return true, nil, nil
		}
		if o.apply() {
			return true, nil, nil
		}
	}
}

// resolveGate finds the gate of o under the policy of this moment, notes in o what it is
// asked under, and returns the question. If there is no gate, o has its verdict.
func (o *op) resolveGate() (Gate, *Question) {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy, o.identity = a.policy.Load(), a.identity.Load()
	g, r := o.policy.gateOf(o)
	o.verdict, o.decided, o.by = Verdict{Refusal: r}, false, ""
	if r == nil {
		o.by = fingerprintOf(g)
	}
	o.local = g == nil || isLocal(g)
	q := &Question{
		Gate: o.gate, Agent: a, Channel: o.channel, Pattern: IsPattern(o.channel), Message: o.msg,
		Credentials: a.credentials, Identity: o.identity, within: o.ctx,
	}
	if o.gate == GateConnect && o.why == byFrame {
		q.Credentials = o.in.data
	}
	return g, q
}

// ask asks the gate g of o, which is pending; nil for no gate.
func (o *op) ask(g Gate, q *Question) {
	a := o.agent
	decided := func(v Verdict) {
		a.mu.Lock()
		o.verdict, o.decided = v, true
		a.mu.Unlock()
		a.applyReady()
	}
	a.mu.Lock()
	ctx := a.opsLocked().ctx
	a.mu.Unlock()
	switch {
	case g == nil:
		decided(o.verdict)
	case o.local:
		decided(q.askLocal(ctx, g))
	default:
		q.askRemote(ctx, g, decided)
	}
}

// isStale reports whether o was decided under rules, or for an identity, that are
// no longer the agent's. It needs the agent's mu to be sure of the identity.
func (o *op) isStale() bool {
	a := o.agent
	return o.policy != a.policy.Load() || o.gate != GateConnect && o.identity != a.identity.Load()
}

// stillHolds reports whether the verdict on o, which was asked for under another
// policy, would be the same under the agent's. Then it counts as that one's.
func (o *op) stillHolds() bool {
	a := o.agent
	p := a.policy.Load()
	g, r := p.gateOf(o)
	if r != nil || !fingerprintOf(g).is(o.by) || o.verdict.Refusal != nil && o.verdict.Refusal.Code == CodeUnavailable {
		return false // what could not be found out may be because that policy is gone
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy = p
	if o.isStale() || a.state >= stateClosing {
		return false // nothing is to be done any more, if the agent has left
	}
	o.decided, o.applying = true, true
	return true
}

// askAgain asks the gate of o again, unless the agent has left meanwhile.
func (o *op) askAgain() {
	a := o.agent
	a.mu.Lock()
	gone := a.state >= stateClosing && o.applying // else abandon has ended its span
	o.applying = false
	a.mu.Unlock()
	if gone {
		o.endSpan(Abandoned)
		return
	}
	o.ask(o.resolveGate())
}

// applyReady applies what is decided, each channel in its order. One goroutine does
// so at a time; what becomes ready meanwhile is left to it. What was decided for
// an identity or under a policy that has changed meanwhile is asked again.
func (a *Agent) applyReady() {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.ops
	if w.applying {
		return
	}
	w.applying = true
	for o := w.ready(); o != nil && a.state == stateConnected; o = w.ready() {
		stale := o.refused == nil && o.isStale()
		o.decided, o.applying = !stale, !stale
		a.mu.Unlock()
		if stale {
			a.migrate(true)
			stale = !o.stillHolds()
		}
		if stale || !o.apply() {
			o.askAgain()
			a.mu.Lock()
			continue
		}
		o.finish()
		if o.gate == GateConnect || o.sub != nil {
			a.migrated()
		}
		a.mu.Lock()
		// It stood in the list until now, so that nothing of its channel went past.
		w.remove(o)
		a.cond.Broadcast()
	}
	w.applying = false
	a.cond.Broadcast()
}

// apply does what was allowed, or says that it was not. Operations of one
// channel are applied in the order of their frames. It returns false, and has
// done nothing, if o has to be asked for again, since the identity or policy that
// was asked about is no longer the agent's.
func (o *op) apply() (done bool) {
	a, r := o.agent, o.verdict.Refusal
	switch {
	case o.gate == GateConnect:
		return o.applyConnect()
	case o.sub != nil:
		return o.applyLease()
	case r != nil:
		o.endSpan(AnswerName(r.Code))
		a.answer(&o.in, r)
	case o.gate == GateSubscribe:
		r, stale := a.hub.subscribe(o, answerTo(&o.in, nil))
		if r != nil {
			a.answer(&o.in, r)
		}
		return !stale
	case o.gate == GateUnsubscribe:
		a.hub.unsubscribe(a, o.channel, answerTo(&o.in, nil))
	default:
		o.endSpan(o.publish())
	}
	return true
}
