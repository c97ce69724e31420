// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// BenchmarkRemote asks a backend on the loopback address, and answers from the cache.
func BenchmarkRemote(b *testing.B) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Remote-User", "bob")
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(backend.Close)
	addr := backend.Listener.Addr().String()
	for _, bench := range []struct{ name, guard string }{
		{"forward_auth", "forward_auth %s {\nuri /auth?channel={pushit.channel}\nuser_header Remote-User\n}"},
		{"forward_auth/cached", "forward_auth %s {\nuri /auth?channel={pushit.channel}\nuser_header Remote-User\ncache 1h\n}"},
		{"ask", "ask %s {\nuri /ask\n}"},
		{"ask/cached", "ask %s {\nuri /ask\ncache 1h\n}"},
		{"ask/cached_claims", "ask %s {\nuri /ask\nsend claims\ncache 1h\n}"},
		{"route", "route {\n@nobody header X-Nobody *\nrespond @nobody 403\n# %s\n}"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			g := remoteGuardOf(b, bench.guard, addr)
			a := newAsker(b, func(o *hub.Opening) {
				o.Header = snapshotOf("Cookie", "sid=0123456789abcdef0123456789abcdef", "Origin", "https://example.com",
					"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept-Language", "en-US,en;q=0.5")
			}).learning(g)
			q := a.question(hub.GateSubscribe, "stories/5")
			q.Learned.Claims = map[string]any{"role": "editor"}
			b.ReportAllocs()
			for b.Loop() {
				*q.Left = time.Minute
				if answer := g.Decide(b.Context(), q); answer.Kind != Pass {
					b.Fatal(answer.Err)
				}
			}
		})
	}
}

// BenchmarkRequest makes a request from a session.
func BenchmarkRequest(b *testing.B) {
	a := newAsker(b, func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "sid=1", "User-Agent", "test") })
	q := a.question(hub.GateSubscribe, "stories/5")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := q.Request(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
