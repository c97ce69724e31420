// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is an OpenTelemetry collector for the spans of Caddy.
type spans struct {
	t *testing.T

	mu   sync.Mutex // guards the following
	all  []*trace.Span
	came chan struct{} // closed when more spans have come
}

// collect makes Caddy send its spans to a new collector.
func collect(t *testing.T) *spans {
	t.Helper()
	s := &spans{t: t, came: make(chan struct{})}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	t.Setenv("OTEL_PROPAGATORS", "tracecontext")
	return s
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil {
		s.t.Errorf("what came is no spans: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	close(s.came)
	s.came = make(chan struct{})
}

// await returns the span of that name with the given attributes, as key=value.
func (s *spans) await(name string, attributes ...string) *trace.Span {
	s.t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		came := s.came
		for _, span := range s.all {
			if span.Name == name && hasAttributes(span, attributes) {
				s.mu.Unlock()
				return span
			}
		}
		s.mu.Unlock()
		select {
		case <-came:
		case <-late:
			s.t.Fatalf("no span %q with %v came; there are:\n%s", name, attributes, s)
		}
	}
}

func hasAttributes(span *trace.Span, want []string) bool {
	for _, w := range want {
		key, value, _ := strings.Cut(w, "=")
		found := false
		for _, a := range span.Attributes {
			found = found || a.Key == key && a.Value.GetStringValue() == value
		}
		if !found {
			return false
		}
	}
	return true
}

func (s *spans) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, span := range s.all {
		b.WriteString("\t" + span.String() + "\n")
	}
	return b.String()
}

func wantParent(t *testing.T, span, parent *trace.Span) {
	t.Helper()
	if string(span.TraceId) != string(parent.TraceId) || string(span.ParentSpanId) != string(parent.SpanId) {
		t.Errorf("%s is %x in trace %x, below %x; want it below %s, which is %x in trace %x",
			span.Name, span.SpanId, span.TraceId, span.ParentSpanId, parent.Name, parent.SpanId, parent.TraceId)
	}
}

// TestTraces has a traced site with local gates and with gates that ask a backend.
func TestTraces(t *testing.T) {
	s := collect(t)
	var mu sync.Mutex
	asked := make(map[string][]string) // traceparent, by path
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path] = append(asked[r.URL.Path], r.Header.Get("Traceparent"))
	}))
	defer backend.Close()
	address := strings.TrimPrefix(backend.URL, "http://")
	gates := "pushit {\n" + patientGates + "\t\tconnect forward_auth " + address + " {\n\t\t\turi /connect\n\t\t\tcache 1m\n\t\t}\n" +
		"\t\tsubscribe cel `channel != \"secret\"`\n\t\tpublish forward_auth " + address + " {\n\t\t\turi /publish\n\t\t}\n\t}"
	traced := "tracing {\n\t\tspan opened\n\t}\n\t" + gates
	site := serve(t, reloadSite(traced)).site("localhost")
	a := site.connect("/push/websocket", nil)
	a.wantAllowed(a.askToSubscribe("chat"))
	a.wantRefused(a.askToSubscribe("secret"), "denied")
	a.publish("chat", "hello")
	a.wantMessage("chat", "hello")

	opened := s.await("opened")
	connect := s.await("pushit gate connect", "pushit.answer=allowed")
	wantParent(t, connect, opened)
	wantParent(t, s.await("pushit gate subscribe", "pushit.channel=chat", "pushit.answer=allowed"), opened)
	wantParent(t, s.await("pushit gate subscribe", "pushit.channel=secret", "pushit.answer=denied"), opened)
	publish := s.await("pushit publish", "pushit.channel=chat", "pushit.answer=allowed")
	wantParent(t, publish, opened)
	gate := s.await("pushit gate publish", "pushit.channel=chat", "pushit.answer=allowed")
	wantParent(t, gate, publish)
	mu.Lock()
	for path, span := range map[string]*trace.Span{"/connect": connect, "/publish": gate} {
		want := "00-" + hex.EncodeToString(span.TraceId) + "-" + hex.EncodeToString(span.SpanId) + "-01"
		if got := asked[path]; len(got) != 1 || got[0] != want {
			t.Errorf("%s was asked with traceparent %q, want %q", path, got, want)
		}
	}
	mu.Unlock()

	// Questions of different traces are equal, so the backend is asked once.
	site.connect("/push/websocket", nil)
	mu.Lock()
	if n := len(asked["/connect"]); n != 1 {
		t.Errorf("/connect was asked %d times, and its answer is kept", n)
	}
	mu.Unlock()

	// After a reload the session is still traced under the request that opened it, also
	// if another provider has collected spans meanwhile.
	if err := site.load(reloadSite(gates)); err != nil {
		t.Fatal(err)
	}
	plain := site.connect("/push/websocket", nil)
	plain.publish("plain", "hello")
	if err := site.load(reloadSite(strings.Replace(traced, "span opened", "span again", 1))); err != nil {
		t.Fatal(err)
	}
	site.connect("/push/websocket", nil) // makes the new provider known
	s.await("again")
	a.publish("later", "hello")
	wantParent(t, s.await("pushit publish", "pushit.channel=later"), opened)
	plain.publish("plain", "hello")
	site.stop() // Caddy then sends all spans
	if strings.Contains(s.String(), `"plain"`) {
		t.Errorf("a session that was opened without tracing has spans:\n%s", s)
	}
}

// If the site is not traced, a request's own trace does not count.
func TestNoTracesWithoutTracing(t *testing.T) {
	s := collect(t)
	site := serve(t, reloadSite("pushit")).site("localhost")
	a := site.connect("/push/websocket", http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
	a.publish("chat", "hello")
	_ = a.conn.Close()
	site.stop()
	if s.mu.Lock(); len(s.all) > 0 {
		t.Errorf("spans came: %v", s.all)
	}
	s.mu.Unlock()
}
