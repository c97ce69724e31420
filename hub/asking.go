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
	msg     *Message      // of a publish
	sub     *subscription // of a subscribe that the server itself asks for again
	silent  bool          // of a connect that the server itself asks for again
	reload  bool          // the server asks because of a reload, both
	final   bool          // the answer is from within this process: there is none to wait for
	refused *Refusal      // if not nil, the answer, for which no gate is asked

	finished chan struct{} // if not nil, closed when it is done with, unless the agent has left

	ctx  context.Context //nolint:containedctx // of its span, if it has one
	span Span            // of a publish that is traced

	// guarded by the agent's mu while pending
	verdict  Verdict
	decided  bool
	applying bool        // apply ends its span
	policy   *Policy     // that was asked
	by       Fingerprint // of its gate
	identity *Identity   // that it was asked for
}

// context returns the one that what is done for o is done in.
func (o *op) context() context.Context {
	if o.ctx == nil {
		return context.Background()
	}
	return o.ctx
}

// end ends the span of o.
func (o *op) end(answer AnswerName) {
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
			o.end(Abandoned)
		}
	}()
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
func (a *Agent) perform(o *op) {
	a.mu.Lock()
	// A connect always takes its turn among the others: it changes what they are
	// asked for.
	if o.gate != GateConnect && !a.isPendingLocked(o.channel) {
		a.mu.Unlock()
		if o.refused != nil {
			a.answer(&o.in, o.refused)
			return
		}
		if a.performNow(o) {
			o.finish()
			return
		}
		a.mu.Lock()
	}
	w := a.askingLocked()
	for len(w.pending) >= maxQuestions && a.state == stateConnected && !o.reload {
		a.cond.Wait()
	}
	if a.state != stateConnected {
		a.mu.Unlock()
		o.end(Abandoned)
		o.finish()
		return
	}
	if o.gate == GateConnect && slices.ContainsFunc(w.pending, func(p *op) bool { return p.gate == GateConnect }) {
		a.mu.Unlock()
		if !o.silent {
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
	if o.refused != nil {
		a.settle() // what it waited for may be done with
		return
	}
	a.inquire(o)
}

// refuseInTurn answers a frame about channel with r, after the frames about the same
// channel whose gates have not answered yet (PROTOCOL.md, R31).
func (a *Agent) refuseInTurn(gate GateName, channel string, in *inbound, r *Refusal) {
	a.perform(&op{gate: gate, channel: channel, in: *in, refused: r})
}

// finish says that o is done with.
func (o *op) finish() {
	if o.finished != nil {
		close(o.finished)
	}
}

// refreshing is the answer to a refresh that comes too soon.
var refreshing = &Refusal{CodeLimit, "a refresh of this session is under way, or was just done", time.Second}

// performNow applies o if no gate is to be asked, or one that answers at once; if
// not, it has done nothing.
func (a *Agent) performNow(o *op) (done bool) {
	for {
		g, q := a.govern(o)
		switch {
		case g == nil:
		case isLocal(g):
			o.verdict = a.decideLocal(o.context(), g, q)
		default:
			return false
		}
		if a.currently() != stateConnected {
			o.end(Abandoned)
			return true
		}
		if a.apply(o) {
			return true
		}
	}
}

// govern finds the gate that governs o now, notes in o what it is asked under,
// and returns the question. Where there is no gate, o has its verdict.
func (a *Agent) govern(o *op) (Gate, *Question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy, o.identity = a.policy.Load(), a.identity.Load()
	g, r := o.policy.gateOf(o)
	o.verdict, o.decided, o.by = Verdict{Refusal: r}, false, ""
	if r == nil {
		o.by = fingerprintOf(g)
	}
	q := &Question{
		Gate: o.gate, Agent: a, Channel: o.channel, Pattern: IsPattern(o.channel), Message: o.msg,
		Credentials: a.credentials, Identity: o.identity, within: o.ctx,
	}
	if o.gate == GateConnect && !o.silent {
		q.Credentials = o.in.data
	}
	return g, q
}

// inquire asks the gate that governs o, which is pending, and sees to what is
// ready then.
func (a *Agent) inquire(o *op) {
	g, q := a.govern(o)
	decided := func(v Verdict) {
		a.mu.Lock()
		o.verdict, o.decided = v, true
		a.mu.Unlock()
		a.settle()
	}
	if g == nil {
		decided(o.verdict)
		return
	}
	a.ask(g, q, decided)
}

// isStale reports whether o was decided under rules, or for an identity, that are
// no longer the agent's. It needs a.mu to be sure of the identity.
func (a *Agent) isStale(o *op) bool {
	return o.policy != a.policy.Load() || o.gate != GateConnect && o.identity != a.identity.Load()
}

// stillHolds reports whether the answer to o, which was asked for under another
// policy, would be the same under the agent's: it is of that one then.
func (a *Agent) stillHolds(o *op) bool {
	p := a.policy.Load()
	g, r := p.gateOf(o)
	if r != nil || !fingerprintOf(g).is(o.by) || o.verdict.Refusal != nil && o.verdict.Refusal.Code == CodeUnavailable {
		return false // what could not be found out may be because that policy is gone
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o.policy = p
	if a.isStale(o) || a.state >= stateClosing {
		return false // nothing is to be done any more, if the agent has left
	}
	o.decided, o.applying = true, true
	return true
}

// askOver asks the gate of o again, unless the agent has left meanwhile.
func (a *Agent) askOver(o *op) {
	a.mu.Lock()
	gone := a.state >= stateClosing && o.applying // else abandon has ended its span
	o.applying = false
	a.mu.Unlock()
	if gone {
		o.end(Abandoned)
		return
	}
	a.inquire(o)
}

func (a *Agent) isPendingLocked(channel string) bool {
	return a.asking != nil && slices.ContainsFunc(a.asking.pending, func(o *op) bool { return o.channel == channel })
}

// settle applies what is decided, each channel in its order. One goroutine does
// so at a time; what becomes ready meanwhile is left to it. What was decided for
// an identity or under a policy that has changed meanwhile is asked again.
func (a *Agent) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.asking
	if w.applying {
		return
	}
	w.applying = true
	for o := w.ready(); o != nil && a.state == stateConnected; o = w.ready() {
		stale := o.refused == nil && a.isStale(o)
		o.decided, o.applying = !stale, !stale
		a.mu.Unlock()
		if stale {
			a.heed()
			stale = !a.stillHolds(o)
		}
		if stale || !a.apply(o) {
			a.askOver(o)
			a.mu.Lock()
			continue
		}
		o.finish()
		if o.gate == GateConnect || o.sub != nil {
			a.reloaded()
		}
		a.mu.Lock()
		// It stood in the list until now, so that nothing of its channel went past.
		w.pending = slices.DeleteFunc(w.pending, func(p *op) bool { return p == o })
		a.cond.Broadcast()
	}
	w.applying = false
	a.cond.Broadcast()
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

// ask asks g: a local one here and now, any other in a goroutine of its own, which
// nobody waits for, since a gate that does not heed its context must not hold up
// anybody. then is called once, with the answer, or with unavailable when the time
// is over; not if the agent has left meanwhile.
func (a *Agent) ask(g Gate, q *Question, then func(Verdict)) {
	a.mu.Lock()
	ctx := a.askingLocked().ctx
	a.mu.Unlock()
	if isLocal(g) {
		then(a.decideLocal(ctx, g, q))
		return
	}
	go func() {
		v := a.decide(ctx, g, q)
		if ctx.Err() == nil {
			then(v)
		}
	}()
}

func isLocal(g Gate) bool {
	l, ok := g.(LocalGate)
	return ok && l.Local()
}

// decideLocal asks a gate that answers at once.
func (a *Agent) decideLocal(ctx context.Context, g Gate, q *Question) (v Verdict) {
	ctx, span := a.traceGate(ctx, q)
	begun := a.hub.schedule.now()
	defer func() {
		if p := recover(); p != nil {
			a.panicked(q, p)
			v = notFoundOut
		}
		a.decided(q, span, answerName(&v), begun)
	}()
	return g.Decide(ctx, q)
}

// decided notes how a gate answered that was asked then.
func (a *Agent) decided(q *Question, span Span, answer AnswerName, begun time.Duration) {
	a.hub.counts.asked(q.Gate, answer, a.hub.schedule.now()-begun)
	span.End(answer)
}

func (a *Agent) panicked(q *Question, p any) {
	a.policy.Load().Log.Error("a gate panicked", "gate", string(q.Gate), "channel", q.Channel, "agent", a.UUID(), "panic", fmt.Sprint(p))
}

// decide asks g and waits for the answer, no longer than g's timeout.
func (a *Agent) decide(ctx context.Context, g Gate, q *Question) (v Verdict) {
	answered := false
	begun := a.hub.schedule.now()
	left := ctx // ends when the agent leaves
	if q.within != nil {
		ctx = joined{ctx, q.within}
	}
	ctx, span := a.traceGate(ctx, q)
	a.hub.counts.asking(q.Gate, 1)
	defer func() {
		a.hub.counts.asking(q.Gate, -1)
		name := answerName(&v)
		if !answered && left.Err() != nil {
			name = Abandoned
		}
		if v.Overflow {
			a.hub.counts.overflow[QueueGate].Add(1)
		}
		a.decided(q, span, name, begun)
	}()
	ctx, cancel := context.WithTimeout(ctx, g.Timeout())
	defer cancel()
	answer := make(chan Verdict, 1) // buffered: a late answer waits for nobody
	go func() {
		defer func() {
			if p := recover(); p != nil {
				a.panicked(q, p)
				answer <- notFoundOut
			}
		}()
		answer <- g.Decide(ctx, q)
	}()
	select {
	case v = <-answer:
		answered = true
		return v
	case <-ctx.Done():
		return notFoundOut
	}
}

// notFoundOut is the answer of a gate that gave none.
var notFoundOut = Verdict{Refusal: &Refusal{CodeUnavailable, "whether this is allowed could not be found out in time", time.Second}}
