// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"context"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/push-it/pushit/hub"
)

// scope is the name of what makes the spans.
const scope = "github.com/push-it/pushit"

// newestTracer makes the spans of all sessions, whenever they were opened: Caddy
// has one provider of them at a time, and ends it when no configuration traces any
// more. It is that of the last request that was traced.
var newestTracer atomic.Pointer[tracerOf]

type tracerOf struct {
	provider trace.TracerProvider
	trace.Tracer
}

// A traced session makes spans under the request that opened it. It implements
// hub.Tracer.
type traced struct {
	opening trace.SpanContext
}

// tracer returns what makes the spans of the session that r opens, nil if r is not
// traced.
func tracer(r *http.Request) hub.Tracer {
	span := trace.SpanFromContext(r.Context())
	if !span.SpanContext().IsValid() {
		return nil
	}
	provider := span.TracerProvider()
	if newest := newestTracer.Load(); newest == nil || newest.provider != provider {
		newestTracer.Store(&tracerOf{provider, provider.Tracer(scope)})
	}
	return &traced{opening: span.SpanContext()}
}

// Start implements hub.Tracer.
func (t *traced) Start(ctx context.Context, name hub.SpanName, channel string) (context.Context, hub.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, t.opening)
	}
	ctx, span := newestTracer.Load().Start(ctx, "pushit "+string(name))
	if channel != "" && span.IsRecording() {
		span.SetAttributes(attribute.String("pushit.channel", channel))
	}
	return ctx, spanOf{span}
}

// spanOf implements hub.Span.
type spanOf struct{ span trace.Span }

// End implements hub.Span.
func (s spanOf) End(answer hub.AnswerName) {
	if s.span.IsRecording() {
		s.span.SetAttributes(attribute.String("pushit.answer", string(answer)))
		if answer == hub.AnswerName(hub.CodeUnavailable) {
			s.span.SetStatus(codes.Error, string(answer))
		}
	}
	s.span.End()
}

// notOfTrace reports whether a header field is other than what the tracing of
// Caddy has set on a request: that is of this one request, where others that the
// session leads to have spans of their own.
func notOfTrace(name string) bool { return name != "Traceparent" && name != "Tracestate" }

var _ hub.Tracer = (*traced)(nil)
