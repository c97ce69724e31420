// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/push-it/pushit/hub"
)

// scope names the instrumentation that makes the spans.
const scope = "github.com/push-it/pushit"

// newestTracer makes the spans of all sessions, including those that were opened earlier.
// It comes from the last traced request, because Caddy has one provider at a time, and ends
// it when no configuration traces any more.
var newestTracer atomic.Pointer[providedTracer]

type providedTracer struct {
	provider trace.TracerProvider
	trace.Tracer
}

// traced makes the spans of one session below the span of the request that opened it. It
// implements hub.Tracer.
type traced struct {
	opening trace.SpanContext
}

// Tracer returns the Tracer of the session that r opens, or nil if Caddy does not trace r.
func Tracer(r *http.Request) hub.Tracer {
	span := trace.SpanFromContext(r.Context())
	if !span.SpanContext().IsValid() {
		return nil
	}
	provider := span.TracerProvider()
	if newest := newestTracer.Load(); newest == nil || newest.provider != provider {
		newestTracer.Store(&providedTracer{provider, provider.Tracer(scope)})
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

// IsTraceField reports whether Caddy's tracing sets the header field. A session must not
// keep such a field: it belongs to one request, and later requests to backends have spans
// of their own.
func IsTraceField(name string) bool { return name == "Traceparent" || name == "Tracestate" }

var _ hub.Tracer = (*traced)(nil)
