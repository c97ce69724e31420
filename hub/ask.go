// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// unanswered is the verdict of a gate that gave none.
var unanswered = Verdict{Refusal: &Refusal{CodeUnavailable, "whether this is allowed could not be found out in time", time.Second}}

func isLocal(g Gate) bool {
	l, ok := g.(LocalGate)
	return ok && l.Local()
}

// askLocal asks a gate that answers at once.
func (q *Question) askLocal(ctx context.Context, g Gate) (v Verdict) {
	a := q.Agent
	ctx, span := q.trace(ctx)
	begun := a.hub.timers.now()
	defer func() {
		if p := recover(); p != nil {
			q.panicked(p)
			v = unanswered
		}
		q.answered(span, answerName(&v), begun)
	}()
	return g.Decide(ctx, q)
}

// askRemote asks a gate in a goroutine of its own, which nobody waits for: a gate that
// ignores its context holds up nobody. then is called once, with the answer, or with
// unanswered when the gate's timeout is over. If ctx, which is the agent's, ends first,
// then is not called. then may be nil.
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
			return // it is too late: the timeout, or the agent's end, has the last word
		}
		stop()
		finish(v, true)
	}()
}

// answered notes how a gate answered that was asked at begun.
func (q *Question) answered(span Span, answer AnswerName, begun time.Duration) {
	a := q.Agent
	a.hub.counts.asked(q.Gate, answer, a.hub.timers.now()-begun)
	span.End(answer)
}

func (q *Question) panicked(p any) {
	a := q.Agent
	a.policy.Load().Log.Error("a gate panicked", "gate", string(q.Gate), "channel", q.Channel, "agent", a.UUID(), "panic", fmt.Sprint(p))
}

// maxPartings is how many agents that are gone their disconnect gates can be told
// of at once. Agents that are gone count in no other limit.
const maxPartings = 1000

// tellDisconnect tells the disconnect gate, whose answer changes nothing.
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
		p.Log.Error("the disconnect gate was not told, it is too far behind", "agent", a.UUID(), "behind", maxPartings)
		return
	}
	q.askRemote(context.Background(), g, func(Verdict) { a.hub.partings.Add(-1) })
}
