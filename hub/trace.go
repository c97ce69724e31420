// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "context"

// A Tracer makes spans under the request that opened a session, of which it is
// the snapshot that an agent keeps; see Opening.Tracer. Its method does not block;
// it is called concurrently, with no lock held.
type Tracer interface {
	// Start begins a span: within that of ctx if it has one, else under the opening
	// request's. channel is empty where there is none. The Context returned is for
	// what happens within the span.
	Start(ctx context.Context, name SpanName, channel string) (context.Context, Span)
}

// A Span is something that takes its time. End is called once.
type Span interface {
	// End ends it, with how it went.
	End(answer AnswerName)
}

// SpanName says what a span is about: "publish", or a gate as GateSpan has it.
type SpanName string

// SpanPublish is from the frame that publishes to the answer to it; the span of
// the publish gate is within.
const SpanPublish SpanName = "publish"

// GateSpan is the name of the span of a question.
func GateSpan(gate GateName) SpanName { return SpanName("gate " + string(gate)) }

// noSpan is what there is without a Tracer.
type noSpan struct{}

func (noSpan) End(AnswerName) {}

// trace begins a span, if the session is traced.
func (a *Agent) trace(ctx context.Context, name SpanName, channel string) (context.Context, Span) {
	if a.opening.Tracer == nil {
		return ctx, noSpan{}
	}
	return a.opening.Tracer.Start(ctx, name, channel)
}

// trace begins the span of a question.
func (q *Question) trace(ctx context.Context) (context.Context, Span) {
	a := q.Agent
	if a.opening.Tracer == nil {
		return ctx, noSpan{}
	}
	return a.opening.Tracer.Start(ctx, GateSpan(q.Gate), q.Channel)
}

// joined is a context that ends as one does, and has the values of another: of
// the span that something is done in.
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
