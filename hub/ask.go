// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// unanswered is the verdict when a gate does not answer.
var unanswered = Verdict{Refusal: &Refusal{CodeUnavailable, "the server could not find out in time whether this is allowed", time.Second}}

func isLocal(g Gate) bool {
	l, ok := g.(LocalGate)
	return ok && l.Local()
}

// askLocal asks a gate that answers at once, in the calling goroutine.
func (q *Question) askLocal(ctx context.Context, g Gate) (v Verdict) {
	a := q.Agent
	ctx, span := q.trace(ctx)
	begun := a.hub.timers.now()
	defer func() {
		if p := recover(); p != nil {
			q.panicked(p)
			v = unanswered
		}
		q.noteRefusal(&v)
		q.answered(span, answerName(&v), begun)
	}()
	return g.Decide(ctx, q)
}

// askRemote asks a gate in a goroutine of its own. Nothing waits for that goroutine, so a
// gate that ignores its context delays nothing. askRemote calls then once: with the
// answer, or with unanswered after the gate's timeout. It does not call then if ctx, the
// agent's context, ends first. then may be nil.
func (q *Question) askRemote(ctx context.Context, g Gate, then func(Verdict)) {
	a := q.Agent
	begun := a.hub.timers.now()
	within := ctx
	if q.within != nil {
		within = joined{ctx, q.within}
	}
	within, span := q.trace(within)
	a.hub.counts.asking(q.Gate, 1)
	within, cancel := context.WithTimeout(within, g.Timeout())
	var once sync.Once
	finish := func(v Verdict, answered bool) {
		once.Do(func() {
			a.hub.counts.asking(q.Gate, -1)
			left := ctx.Err() != nil
			name := answerName(&v)
			if left && !answered {
				name = Abandoned
			}
			if v.Overflow {
				a.hub.counts.overflow[QueueGate].Add(1)
			}
			if name != Abandoned {
				q.noteRefusal(&v)
			}
			q.answered(span, name, begun)
			if then != nil && !left {
				then(v)
			}
		})
	}
	stop := context.AfterFunc(within, func() { finish(unanswered, false) })
	q.early = func(v Verdict) { finish(v, true) }
	go func() {
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				q.panicked(p)
				finish(unanswered, true)
			}
		}()
		v := g.Decide(within, q)
		if within.Err() != nil {
			return // too late: the timeout or the agent's end has called finish, or will
		}
		stop()
		finish(v, true)
	}()
}

// askAndWait asks a gate and waits for the answer, no longer than its timeout.
func (q *Question) askAndWait(ctx context.Context, g Gate) Verdict {
	if isLocal(g) {
		return q.askLocal(ctx, g)
	}
	answer := make(chan Verdict, 1)
	q.askRemote(ctx, g, func(v Verdict) { answer <- v })
	select {
	case v := <-answer:
		return v
	case <-ctx.Done():
		return unanswered
	}
}

// answered counts and traces the answer to a question that was asked at begun.
func (q *Question) answered(span Span, answer AnswerName, begun time.Duration) {
	a := q.Agent
	a.hub.counts.asked(q.Gate, answer, a.hub.timers.now()-begun)
	span.End(answer)
}

func (q *Question) panicked(p any) {
	a := q.Agent
	a.policy.Load().Log.Error("a gate panicked", "gate", string(q.Gate), "channel", q.Channel, "agent", a.UUID(), "panic", fmt.Sprint(p))
}

// maxPartings limits how many disconnect gates are being asked at once. Their agents are
// gone, so no other limit counts them.
const maxPartings = 1000

// tellDisconnect tells the disconnect gate that the agent is gone. Its answer changes
// nothing.
func (a *Agent) tellDisconnect(p *Policy) {
	g := p.gate(GateDisconnect, "")
	if g == nil {
		return
	}
	q := &Question{Gate: GateDisconnect, Agent: a, Credentials: a.Credentials(), Identity: a.identity.Load()}
	if isLocal(g) {
		q.askLocal(context.Background(), g)
		return
	}
	if a.hub.partings.Add(1) > maxPartings {
		a.hub.partings.Add(-1)
		a.hub.counts.overflow[QueueDisconnect].Add(1)
		p.Log.Error("the disconnect gate was not asked: too many questions to it are open", "agent", a.UUID(), "open", maxPartings)
		return
	}
	q.askRemote(context.Background(), g, func(Verdict) { a.hub.partings.Add(-1) })
}
