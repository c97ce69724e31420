// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "context"

// A Tracer makes the spans of one session, below the span of the request that opened it;
// see Opening.Tracer. The hub calls Start concurrently, with no lock held. Start must not
// block.
type Tracer interface {
	// Start begins a span: below the span in ctx if there is one, else below the span of
	// the opening request. channel is empty if the span is about none. Use the returned
	// Context for what happens within the span.
	Start(ctx context.Context, name SpanName, channel string) (context.Context, Span)
}

// A Span measures an operation. The hub calls End once.
type Span interface {
	// End ends the span with the outcome of the operation.
	End(answer AnswerName)
}

// SpanName is the name of a span: SpanPublish, or the result of GateSpan.
type SpanName string

// SpanPublish is the span from a publish frame to its answer. It contains the span of the
// publish gate.
const SpanPublish SpanName = "publish"

// GateSpan returns the name of the span of a question.
func GateSpan(gate GateName) SpanName { return SpanName("gate " + string(gate)) }

// noSpan is the Span without a Tracer.
type noSpan struct{}

func (noSpan) End(AnswerName) {}

// trace begins a span, if the session is traced.
func (a *Agent) trace(ctx context.Context, name SpanName, channel string) (context.Context, Span) {
	tracer := a.opening.tracer()
	if tracer == nil {
		return ctx, noSpan{}
	}
	return tracer.Start(ctx, name, channel)
}

// trace begins the span of a question.
func (q *Question) trace(ctx context.Context) (context.Context, Span) {
	a := q.Agent
	tracer := a.opening.tracer()
	if tracer == nil {
		return ctx, noSpan{}
	}
	return tracer.Start(ctx, GateSpan(q.Gate), q.Channel)
}

// joined is a context that ends when its Context ends. It also has the values of another
// context, which carries a span.
type joined struct {
	context.Context //nolint:containedctx // a Context is what it is
	values          context.Context
}

func (j joined) Value(key any) any {
	if v := j.Context.Value(key); v != nil {
		return v
	}
	return j.values.Value(key)
}
