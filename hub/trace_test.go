// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// tracer is a hub.Tracer that records its spans when they end.
type tracer struct {
	mu    sync.Mutex // guards ended
	ended []string
}

type spanKey struct{}

type testSpan struct {
	of   *tracer
	path string
}

func (t *tracer) Start(ctx context.Context, name hub.SpanName, channel string) (context.Context, hub.Span) {
	path := strings.TrimSpace(string(name) + " " + channel)
	if outer, ok := ctx.Value(spanKey{}).(string); ok {
		path = outer + " > " + path
	}
	return context.WithValue(ctx, spanKey{}, path), testSpan{t, path}
}

func (s testSpan) End(answer hub.AnswerName) {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.ended = append(s.of.ended, fmt.Sprintf("%s: %s", s.path, answer))
}

func (t *tracer) want(tb testing.TB, want ...string) {
	tb.Helper()
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.ended)
	slices.Sort(want)
	if !slices.Equal(t.ended, want) {
		tb.Errorf("spans\n\t%s\nwant\n\t%s", strings.Join(t.ended, "\n\t"), strings.Join(want, "\n\t"))
	}
	t.ended = nil
}

// localGate answers at once.
type localGate struct{ gateFunc }

func (localGate) Local() bool { return true }

// localGates are gates of which some are local.
type localGates struct {
	*gates
	local hub.GateName
}

func (g *localGates) Gate(name hub.GateName, channel string) hub.Gate {
	gate := g.gates.Gate(name, channel)
	if name == g.local && gate != nil {
		return localGate{gate.(gateFunc)}
	}
	return gate
}

func (g *localGates) Pattern(p string) (hub.Gate, *hub.Refusal) {
	return g.Gate(hub.GateSubscribe, p), nil
}

func TestSpans(t *testing.T) {
	var mu sync.Mutex // guards within
	var within []string
	decide := func(ctx context.Context, q *hub.Question) hub.Verdict {
		span, _ := ctx.Value(spanKey{}).(string)
		mu.Lock()
		within = append(within, span)
		mu.Unlock()
		switch q.Channel {
		case "no":
			return denied("no")
		case "late":
			<-ctx.Done()
		}
		return hub.Allow
	}
	for _, local := range []hub.GateName{"", hub.GatePublish} {
		within = nil
		g := &localGates{&gates{ask: asked{hub.GateConnect: decide, hub.GateSubscribe: decide, hub.GatePublish: decide}}, local}
		inBubble(t, hub.Policy{Gates: g}, func(b *bubble) {
			tr := new(tracer)
			p := hubtest.Open(t, b.hub, b.policy, hub.Opening{Tracer: tr}, hubtest.NewConn())
			p.Send(connect("a"))
			tr.want(t, "gate connect: allowed")
			p.Send(subscribe("yes"), subscribe("no"))
			tr.want(t, "gate subscribe yes: allowed", "gate subscribe no: denied")
			p.Send(publish("yes", "1", "1"))
			tr.want(t, "publish yes > gate publish yes: allowed", "publish yes: allowed")
			p.Send(publish("no", "2", "2"))
			tr.want(t, "publish no > gate publish no: denied", "publish no: denied")
			mu.Lock()
			if !slices.Contains(within, "publish yes > gate publish yes") {
				t.Errorf("the gate was asked within %q", within)
			}
			mu.Unlock()
			if local == "" {
				p.Send(publish("late", "3", "3"))
				time.Sleep(2 * time.Second)
				tr.want(t, "publish late > gate publish late: unavailable", "publish late: unavailable")
				p.Send(subscribe("late"), publish("late", "4", "4"), publish("late", "5", "5"))
				synctest.Wait()
				p.Leave()
				tr.want(t, "gate subscribe late: abandoned", "publish late > gate publish late: abandoned", "publish late: abandoned",
					"publish late > gate publish late: abandoned", "publish late: abandoned")
			}
			untraced := b.join("yes")
			untraced.Send(publish("yes", "4", "4"))
			tr.want(t)
		})
	}
}
