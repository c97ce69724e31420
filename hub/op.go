// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"slices"
	"time"
)

// maxQuestions is how many questions about one agent may be open at once.
const maxQuestions = 8

// An op is an operation that a gate may have to allow: a frame of an agent, or the
// reauthorization of a lease. It goes through these steps: do finds the gate, ask asks it
// if it does not answer at once, and apply carries out the verdict. An op with a position that
// is ahead of this machine waits before: see ahead.go.
type op struct {
	// Immutable.
	wishes
	agent   *Agent
	gate    GateName
	channel string        // empty for a connect
	why     reason        // why the gate is asked
	sub     *subscription // the subscription to reauthorize, or nil
	in      inbound       // the frame, if why is byFrame
	msg     *Message      // of a publish
	holds   bool          // the agent has the right already: no gate is asked
	inTurn  bool          // of a publish: the goroutine that calls Agent.Receive handles it, and it may be joined
	refused *Refusal      // if not nil, the answer; no gate is asked
	taken   *lease        // the lease that notes the question under way; guarded by the agent's mu
	done    chan struct{} // if not nil, finish closes it; never closed if the agent leaves before

	ctx  context.Context //nolint:containedctx // of its span, if it has one
	span Span            // of a publish that is traced

	// Guarded by the agent's mu while it is pending.
	local    bool // the gate answers at once
	verdict  Verdict
	decided  bool        // verdict is set
	applying bool        // apply runs, and ends the span
	policy   *Policy     // whose gate was asked
	by       Fingerprint // of that gate
	identity *Identity   // that the gate was asked about
	further  []further   // gates that are asked when that gate has allowed
	asked    int         // how many of them have answered
	waited   bool        // it has waited for its position
}

// The wishes of an op are what its frame asks for beyond the right itself.
type wishes struct {
	recover *recovering     // of a subscribe that begins with kept messages, or nil
	members presenceRequest // of a subscribe, or a frame about members
	page    *pageRequest    // if not nil, the messages that a /meta/history asks for
}

// A further is a gate that decides about a part of an operation. If it refuses, the rest
// goes on.
type further struct {
	gate    GateName
	by      Fingerprint
	verdict Verdict
}

// furtherVerdict returns the answer of a further gate.
func (o *op) furtherVerdict(gate GateName) *further {
	for i := range o.further {
		if o.further[i].gate == gate {
			return &o.further[i]
		}
	}
	return nil
}

// note notes the verdict on q. The caller holds the agent's mu while o is pending.
func (o *op) note(q *Question, v Verdict) {
	if q.Gate == o.gate {
		o.verdict = v
		return
	}
	o.further[o.asked].verdict = v
	o.asked++
}

// nextGate returns the further gate to ask next; nil if there is none, or the operation is
// refused.
func (o *op) nextGate() (Gate, *Question) {
	if o.asked == len(o.further) {
		return nil, nil
	}
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for o.verdict.Refusal == nil && o.asked < len(o.further) {
		f := &o.further[o.asked]
		g := o.policy.gate(f.gate, o.channel)
		f.by, f.verdict = fingerprintOf(g), Allow
		if g != nil && !o.policy.has(f.gate, o.channel) {
			f.by, g = "", nil // not asked, so a reload that adds presence or a history must not take it for an answer
		}
		if g != nil {
			return g, &Question{Gate: f.gate, Agent: a, Channel: o.channel, Pattern: IsPattern(o.channel), Credentials: a.credentialsLocked(), Identity: o.identity, within: o.ctx}
		}
		o.asked++
	}
	return nil, nil
}

// ops are an agent's operations that wait for gates. The first two fields are immutable;
// the agent's mu guards the others.
type ops struct {
	ctx    context.Context //nolint:containedctx // ends with the agent, if it is not released before
	cancel context.CancelFunc

	pending  []*op // in the order of their frames
	applying bool  // applyReady runs
}

// isPending reports whether an operation on the channel waits. w may be nil.
func (w *ops) isPending(channel string) bool {
	return w != nil && slices.ContainsFunc(w.pending, func(o *op) bool { return o.channel == channel })
}

// isConnecting reports whether an operation on the connect waits.
func (w *ops) isConnecting() bool {
	return slices.ContainsFunc(w.pending, func(o *op) bool { return o.gate == GateConnect })
}

// ready returns the first decided operation that no other operation on the same channel
// precedes, or nil.
func (w *ops) ready() *op {
	for i, o := range w.pending {
		if o.decided && !slices.ContainsFunc(w.pending[:i], func(before *op) bool { return before.channel == o.channel }) {
			return o
		}
	}
	return nil
}

// remove removes o from the pending operations.
func (w *ops) remove(o *op) {
	w.pending = slices.DeleteFunc(w.pending, func(p *op) bool { return p == o })
}

// opsLocked returns the agent's operations. Do not keep them while the agent's mu is released,
// unless one of them is pending or being applied: see releaseOpsLocked.
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

// releaseOpsLocked releases the agent's operations if none waits. Most agents wait for no gate
// most of the time, and the context takes memory.
func (a *Agent) releaseOpsLocked() {
	if w := a.ops; w != nil && a.state == stateConnected && len(w.pending) == 0 && !w.applying {
		a.ops = nil
	}
}

// context returns the context of o's span, or an empty one.
func (o *op) context() context.Context {
	if o.ctx == nil {
		return context.Background()
	}
	return o.ctx
}

// endSpan ends the span of o, if it has one.
func (o *op) endSpan(answer AnswerName) {
	if o.span != nil {
		o.span.End(answer)
	}
}

// abandon ends the spans of operations whose agent leaves before they are applied. It
// uses a goroutine, because the caller holds a lock and a Tracer is never called under
// one.
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

// leaseLocked returns the lease that o is about, and notes on it that its gate has
// answered. It returns nil if that is a right to a list of members which has ended.
func (o *op) leaseLocked() *lease {
	if o.taken != nil {
		o.taken.answered()
		o.taken = nil
	}
	if o.sub != nil && o.gate == GatePresence {
		return o.sub.watchLease()
	}
	if o.sub != nil {
		return &o.sub.lease
	}
	return &o.agent.leases.connect
}

// finish notes that o is complete.
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

// refreshing is the answer to a refresh that comes too soon after another one.
var refreshing = &Refusal{CodeLimit, "this session is being refreshed, or was refreshed just now", time.Second}

// do asks the gate of o, if there is one. It applies o when the gate has answered and all
// earlier operations on the same channel are complete. It blocks while the agent has
// maxQuestions open.
func (o *op) do() {
	a := o.agent
	if o.refused != nil {
		a.refused(o.gate, o.channel, o.refused)
	}
	a.mu.Lock()
	var gate Gate
	var q *Question
	// A connect is always queued: it changes the identity that the others are asked
	// about.
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
	if o.inTurn {
		a.mu.Unlock()
		a.in.publishJoined() // they come first
		a.mu.Lock()
		o.inTurn = false // from now on, other goroutines have it
	}
	w := a.opsLocked()
	for len(w.pending) >= maxQuestions && a.state == stateConnected && o.why != byReload {
		a.waitLocked()
		w = a.opsLocked()
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
			a.refuse(GateConnect, "", &o.in, refreshing)
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
		a.applyReady() // the operations before it may already be complete
	case gate != nil:
		o.ask(gate, q)
	default:
		o.ask(o.resolveGate())
	}
}

// tryNow applies o if there is no gate, or a gate that answers at once. Else it changes
// nothing and returns the gate and the question.
func (o *op) tryNow() (done bool, g Gate, q *Question) {
	for {
		g, q = o.resolveGate()
		if g == nil {
			g, q = o.nextGate()
		}
		for g != nil {
			if !isLocal(g) {
				return false, g, q
			}
			o.note(q, q.askLocal(o.context(), g))
			g, q = o.nextGate()
		}
		if o.ahead() != "" {
			return false, nil, nil
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

// resolveGate finds the gate of o in the agent's current policy and returns it with the
// question. It notes policy, identity and fingerprint in o. If the gate is nil, it sets
// the verdict of o.
func (o *op) resolveGate() (Gate, *Question) {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy, o.identity = a.policy.Load(), a.identity.Load()
	g, r := o.policy.gateOf(o)
	o.verdict, o.decided, o.by, o.asked = Verdict{Refusal: r}, false, "", 0
	if r == nil {
		o.by = fingerprintOf(g)
	} else {
		a.refused(o.gate, o.channel, r)
	}
	if o.local = g == nil || isLocal(g); g == nil {
		return nil, nil
	}
	q := &Question{
		Gate: o.gate, Agent: a, Channel: o.channel, Pattern: IsPattern(o.channel), Message: o.msg,
		Credentials: a.credentialsLocked(), Identity: o.identity, within: o.ctx,
	}
	if o.gate == GateConnect && o.why == byFrame {
		q.Credentials = o.in.data
	}
	return g, q
}

// ask asks the gate g of o, which is pending, and then its further gates. If g is nil, the
// verdict of the first one is already set.
func (o *op) ask(g Gate, q *Question) {
	a := o.agent
	a.mu.Lock()
	ctx := a.opsLocked().ctx
	a.mu.Unlock()
	note := func(v Verdict) {
		a.mu.Lock()
		o.note(q, v)
		a.mu.Unlock()
	}
	if g == nil {
		g, q = o.nextGate()
	}
	for g != nil {
		if !isLocal(g) {
			q.askRemote(ctx, g, func(v Verdict) {
				note(v)
				o.ask(nil, nil)
			})
			return
		}
		note(q.askLocal(ctx, g))
		g, q = o.nextGate()
	}
	if position := o.ahead(); position != "" {
		go func() {
			a.hub.history.awaitPosition(ctx, position)
			a.mu.Lock()
			o.waited = true
			a.mu.Unlock()
			o.decide()
		}()
		return
	}
	o.decide()
}

// decide notes that all gates of o have answered, and applies what is ready.
func (o *op) decide() {
	a := o.agent
	a.mu.Lock()
	o.decided = true
	a.mu.Unlock()
	a.applyReady()
}

// isStale reports whether o was decided under a policy, or about an identity, that is no
// longer the agent's. The identity can change unless the caller holds the agent's mu.
func (o *op) isStale() bool {
	a := o.agent
	return o.policy != a.policy.Load() || o.gate != GateConnect && o.identity != a.identity.Load()
}

// stillHolds reports whether the verdict on o, which comes from an older policy, would be
// the same under the agent's present one. If so, the verdict counts for the present one.
func (o *op) stillHolds() bool {
	a := o.agent
	p := a.policy.Load()
	g, r := p.gateOf(o)
	if r != nil || !fingerprintOf(g).is(o.by) || o.verdict.Refusal != nil && o.verdict.Refusal.Code == CodeUnavailable {
		return false // the reload itself may be why the old gate could not decide
	}
	for i := range o.further {
		f := &o.further[i]
		if o.verdict.Refusal == nil && (!fingerprintOf(p.gate(f.gate, o.channel)).is(f.by) || f.verdict.Refusal != nil && f.verdict.Refusal.Code == CodeUnavailable) {
			return false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy = p
	if o.isStale() || a.state >= stateClosing {
		return false
	}
	o.decided, o.applying = true, true
	return true
}

// askAgain asks the gate of o again, unless the agent has left meanwhile.
func (o *op) askAgain() {
	a := o.agent
	a.mu.Lock()
	gone := a.state >= stateClosing && o.applying // if it was not applying, abandon has ended its span
	o.applying = false
	a.mu.Unlock()
	if gone {
		o.endSpan(Abandoned)
		return
	}
	o.ask(o.resolveGate())
}

// applyReady applies the decided operations, in the order of their frames for each
// channel. Only one goroutine at a time runs its loop; others leave their operations to
// it. It asks again about stale operations.
func (a *Agent) applyReady() {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.ops
	if w == nil || w.applying {
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
		w.remove(o) // only now, so that no later operation on its channel overtakes it
		a.wakeWaitersLocked()
	}
	w.applying = false
	a.releaseOpsLocked()
	a.wakeWaitersLocked()
}

// apply carries out the verdict and answers the frame. It returns false and changes
// nothing if o is stale; the caller must then ask again.
func (o *op) apply() (done bool) {
	a, r := o.agent, o.verdict.Refusal
	switch {
	case o.gate == GateConnect:
		return o.applyConnect()
	case o.sub != nil:
		return o.applyLease()
	case r != nil:
		o.publishJoined()
		o.endSpan(AnswerName(r.Code))
		if o.gate == GateSubscribe {
			o.refuseSubscribe(r)
		} else {
			a.answer(&o.in, r)
		}
	case o.page != nil:
		if f := o.furtherVerdict(GateHistory); f.verdict.Refusal != nil {
			a.answer(&o.in, f.verdict.Refusal)
			return true
		}
		return o.applyPage()
	case o.gate == GateSubscribe:
		r, stale := a.hub.subscribe(o, &o.in)
		if r != nil {
			a.refused(o.gate, o.channel, r)
			o.refuseSubscribe(r)
		}
		return !stale
	case o.gate == GatePresence:
		return a.hub.tellMembers(o)
	case o.gate == GateUnsubscribe:
		a.hub.unsubscribe(a, o.channel, answerTo(&o.in, nil))
	default:
		o.endSpan(o.publish())
	}
	return true
}
