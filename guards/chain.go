// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

const (
	// QueueWait is how long a question may wait for a place while a guard asks as many
	// questions as in_flight allows. The wait does not count as asking.
	QueueWait = upstream.QueueWait
	// defaultRetry is when an agent should try again after Unavailable.
	defaultRetry = time.Second
)

// What agents are told if a guard gives no reason of its own. It does not depend on
// whether a channel exists.
const (
	reasonDenied      = "this is not allowed"
	reasonExpired     = "your credentials have expired"
	reasonUnavailable = "could not check whether this is allowed; try again"
)

// A NamedGuard is a guard with its word in the Caddyfile.
type NamedGuard struct {
	Name  string
	Guard Guard

	sum  upstream.Sum // of everything that it decides by; set by Load if that is known
	text upstream.Sum // of its configuration alone; set by Load
}

// A Chain is a gate: guards that are asked in order, and verbs that are applied after
// they allow. It implements hub.Gate.
type Chain struct {
	gate    hub.GateName
	guards  []NamedGuard
	verbs   verbs
	timeout time.Duration // for asking
	recheck time.Duration
	local   bool // no guard asks a backend
	print   hub.Fingerprint
	env     *Env
	sampler *sampler
}

// A Step is the answer of one guard, for explanations.
type Step struct {
	Guard  string
	Answer Answer
}

// Timeout implements hub.Gate. It is the time for asking plus the time that a question
// may wait in the queue.
func (c *Chain) Timeout() time.Duration {
	if c.local {
		return c.timeout
	}
	return c.timeout + QueueWait
}

// Local implements hub.LocalGate.
func (c *Chain) Local() bool { return c.local }

// Decide implements hub.Gate.
func (c *Chain) Decide(ctx context.Context, hq *hub.Question) hub.Verdict {
	_, v := c.explain(ctx, hq, nil)
	return v
}

// Explain decides like Decide, and also returns the answer of each guard that was asked.
func (c *Chain) Explain(ctx context.Context, hq *hub.Question) ([]Step, hub.Verdict) {
	return c.explain(ctx, hq, make([]Step, 0, len(c.guards)))
}

// explain decides. It records the steps unless steps is nil.
func (c *Chain) explain(ctx context.Context, hq *hub.Question, steps []Step) ([]Step, hub.Verdict) {
	q := c.question(hq)
	steps, name, answer := c.ask(ctx, q, steps)
	if q.Pattern && strings.Contains(q.User(), "*") {
		// Deny, because a rule that compares the channel with the user would take
		// "users/*" for the name of a user called "*".
		name, answer = "pattern", Answer{Kind: Deny}
	}
	if answer.Kind == Pass || answer.Kind == Allow {
		v, err := c.allowed(q)
		if err == nil {
			return steps, v
		}
		name, answer = "transform", transformFailed(err)
		if steps != nil {
			steps = append(steps, Step{Guard: name, Answer: answer})
		}
	}
	if !errors.Is(answer.Err, upstream.ErrOver) { // otherwise the guard has answered early
		c.report(q, name, answer)
	}
	return steps, answer.verdict(name)
}

// verdict returns the verdict for an answer of a guard that does not approve.
func (a *Answer) verdict(guard string) hub.Verdict {
	return hub.Verdict{Refusal: a.refusal(), Guard: guard, Overflow: errors.Is(a.Err, upstream.ErrFull)}
}

// An earlyAnswerer is a guard that asks its backend in the goroutine that calls Decide,
// which may hang. When the time is over, it calls Question.early. Only a guard that
// stands in the chain itself may do so: inside another guard, such as any, its answer is
// not final.
type earlyAnswerer interface {
	// answersEarly reports whether the guard does so.
	answersEarly() bool
}

// early returns the function that g calls to answer q early, or nil if g does not do so.
func (c *Chain) early(q *Question, g *NamedGuard) func(Answer) {
	e, ok := g.Guard.(earlyAnswerer)
	if !ok || !e.answersEarly() {
		return nil
	}
	return func(a Answer) {
		c.report(q, g.Name, a)
		q.AnswerEarly(a.verdict(g.Name))
	}
}

func (c *Chain) question(hq *hub.Question) *Question {
	left := c.timeout
	q := &Question{Question: hq, Env: c.env, Left: &left}
	if id := hq.Identity; id != nil && !hq.Gate.Identifies() {
		q.Learned = Learned{User: id.User, UserBy: UserByLogin, Claims: id.Claims, Attributes: id.Attributes, Header: id.Header, Grants: id.Grants}
	}
	return q
}

// ask asks the guards in order. It returns the name and the answer of the guard that
// decided, and adds to q what the guards learn.
func (c *Chain) ask(ctx context.Context, q *Question, steps []Step) (_ []Step, name string, _ Answer) {
	passed, mayBeEarly := false, !c.local && q.CanAnswerEarly()
	for i := range c.guards {
		g := &c.guards[i]
		if mayBeEarly {
			q.early = c.early(q, g)
		}
		a := askOne(ctx, g.Guard, q)
		if steps != nil {
			steps = append(steps, Step{Guard: g.Name, Answer: a})
		}
		switch a.Kind {
		case Abstain:
			continue
		case Deny, Unavailable:
			return steps, g.Name, a
		}
		passed = true
		q.Learned.merge(&a.Learned)
		if a.Kind == Allow {
			return steps, g.Name, Answer{Kind: Allow}
		}
	}
	if passed || len(c.guards) == 0 {
		return steps, "", Answer{Kind: Pass}
	}
	return steps, "", Answer{Kind: Deny}
}

// askOne asks one guard. A panic counts as Unavailable.
func askOne(ctx context.Context, g Guard, q *Question) (a Answer) {
	defer func() {
		if p := recover(); p != nil {
			a = Answer{Kind: Unavailable, Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	a = g.Decide(ctx, q)
	if a.Kind > Unavailable {
		a = Answer{Kind: Unavailable, Err: fmt.Errorf("a guard answered %d, which is not an answer", a.Kind)}
	}
	return a
}

// allowed returns the verdict for a question that was approved.
func (c *Chain) allowed(q *Question) (hub.Verdict, error) {
	l := &q.Learned
	v := hub.Verdict{Expires: l.Expires, Recheck: c.recheck}
	switch q.Gate {
	case hub.GateConnect, hub.GateAPI:
		v.Subscribe = l.Subscribe
		v.Identity = &hub.Identity{
			User: l.User, Claims: l.Claims, Attributes: l.Attributes, Header: l.Header, Grants: l.Grants, Expires: l.Expires,
		}
	case hub.GatePublish, hub.GateDeliver: // the hub calls Deliver; only Explain comes here for it
		p, err := c.verbs.publishing(q)
		v.Publish = p
		return v, err
	}
	return v, nil
}

// refusal returns what the agent is told.
func (a *Answer) refusal() *hub.Refusal {
	r := &hub.Refusal{Code: hub.CodeDenied, Reason: reasonDenied}
	switch {
	case a.Kind == Unavailable:
		r.Code, r.Reason, r.Retry = hub.CodeUnavailable, reasonUnavailable, defaultRetry
		if a.Retry > 0 {
			r.Retry = a.Retry
		}
	case a.Expired:
		r.Code, r.Reason = hub.CodeExpired, reasonExpired
	case a.Invalid:
		r.Code = hub.CodeInvalid
	}
	if a.Reason != "" {
		r.Reason = a.Reason
	}
	return r
}

// report logs a refusal. Denials are normal and logged at info; failures are errors.
// Credentials are never logged.
func (c *Chain) report(q *Question, guard string, a Answer) {
	level := slog.LevelInfo
	if a.Kind == Unavailable {
		level = slog.LevelError
		if errors.Is(a.Err, context.Canceled) {
			level = slog.LevelDebug // the agent has left
		}
	}
	if guard == "" {
		guard = "none passed"
	}
	attrs := []slog.Attr{
		slog.String("gate", string(q.Gate)), slog.String("guard", guard), slog.String("channel", q.Channel),
		slog.String("agent", q.Agent.UUID()), slog.String("user", q.User()), slog.String("reason", a.refusal().Reason),
	}
	if a.Err != nil {
		attrs = append(attrs, slog.String("error", a.Err.Error()))
	}
	c.sampler.refused(level, string(q.Gate)+" "+guard, attrs)
}
