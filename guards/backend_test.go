// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// A fakeBackend counts questions. It answers with answer, or, if that is nil, with what the
// test sends to a channel in waiting.
type fakeBackend struct {
	backend *backend
	answer  func() outcome
	waiting chan chan outcome
	asked   atomic.Int64
}

func newFakeBackend(t *testing.T, s BackendOptions) *fakeBackend {
	t.Helper()
	r, err := newBackend(s, &upstream.Reach{Texts: []json.RawMessage{json.RawMessage(`{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	return &fakeBackend{backend: r, waiting: make(chan chan outcome, 1000)}
}

func (b *fakeBackend) ask(context.Context, *Question) outcome {
	b.asked.Add(1)
	if b.answer != nil {
		return b.answer()
	}
	c := make(chan outcome)
	b.waiting <- c
	return <-c
}

func (b *fakeBackend) times() int { return int(b.asked.Load()) }

// decide asks in a goroutine. The answer comes from the channel.
func (b *fakeBackend) decide(ctx context.Context, q *Question) chan Answer {
	c := make(chan Answer, 1)
	go func() { c <- b.backend.decide(ctx, q, nil, b.ask) }()
	return c
}

func passing(user string) outcome {
	return outcome{Answer: Answer{Kind: Pass, Learned: Learned{User: user}}}
}

func inRemoteBubble(t *testing.T, s BackendOptions, f func(t *testing.T, b *fakeBackend, ask *asker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newFakeBackend(t, s), newAsker(t, nil)) })
}

// soon returns an answer that must have come by now.
func soon(t *testing.T, c chan Answer) Answer {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		return a
	default:
		t.Fatal("there is no answer")
		return Answer{}
	}
}

func TestActsAreNotShared(t *testing.T) {
	for _, gate := range []hub.GateName{hub.GatePublish, hub.GateUnsubscribe, hub.GateDisconnect} {
		inRemoteBubble(t, BackendOptions{Cache: caddy.Duration(time.Hour)}, func(t *testing.T, b *fakeBackend, ask *asker) {
			b.answer = func() outcome { return passing("") }
			for range 3 {
				wantKind(t, string(gate), soon(t, b.decide(t.Context(), ask.question(gate, "news"))), Pass)
			}
			if b.times() != 3 {
				t.Errorf("%s: asked %d times, want 3", gate, b.times())
			}
		})
	}
}

func TestAnswersAreCached(t *testing.T) {
	inRemoteBubble(t, BackendOptions{Cache: caddy.Duration(10 * time.Second)}, func(t *testing.T, b *fakeBackend, ask *asker) {
		next := passing("bob")
		b.answer = func() outcome { return next }
		about := func(channel string) Answer {
			return soon(t, b.decide(t.Context(), ask.question(hub.GateSubscribe, channel)))
		}
		asked := func(what string, times int) {
			t.Helper()
			if b.times() != times {
				t.Errorf("%s: asked %d times, want %d", what, b.times(), times)
			}
		}
		about("a")
		time.Sleep(9 * time.Second)
		if a := about("a"); a.Learned.User != "bob" {
			t.Errorf("what the guard learned is not cached: %+v", a)
		}
		asked("after 9 s", 1)
		time.Sleep(time.Second)
		about("a")
		asked("after 10 s", 2)

		next = outcome{Answer: Answer{Kind: Deny, Reason: "no"}}
		if about("deny"); about("deny").Reason != "no" {
			t.Error("a reason is not cached")
		}
		asked("a denial at once", 3)
		time.Sleep(denialTTL)
		about("deny")
		asked("a denial after a second", 4)

		next = outcome{Answer: Answer{Kind: Unavailable}}
		about("error")
		about("error")
		asked("a failure", 6)

		next = passing("bob")
		next.noStore = true
		about("no-store")
		about("no-store")
		asked("no-store", 8)

		next = passing("bob")
		next.Learned.Expires = time.Now().Add(3 * time.Second)
		about("expires")
		time.Sleep(2 * time.Second)
		about("expires")
		asked("before it expires", 9)
		time.Sleep(time.Second)
		about("expires")
		asked("after it has expired", 10)
	})
}

// Everything that an answer can depend on makes a different question.
func TestQuestionsThatAreNotEqual(t *testing.T) {
	base := func(*hub.Opening) {}
	type change struct {
		opening  func(*hub.Opening)
		question func(*Question)
	}
	changes := map[string]change{
		"gate":         {base, func(q *Question) { q.Gate = hub.GateConnect }},
		"channel":      {base, func(q *Question) { q.Channel = "other" }},
		"pattern":      {base, func(q *Question) { q.Pattern = true }},
		"credentials":  {base, func(q *Question) { q.Credentials = []byte(`"b"`) }},
		"learned user": {base, func(q *Question) { q.Learned.User = "ann" }},
		"learned header": {base, func(q *Question) {
			q.Learned.Header = []hub.HeaderField{{Name: "X-Role", Value: "admin"}}
		}},
		"generation":    {base, func(q *Question) { q.Env = &Env{Generation: 2} }},
		"named claim":   {base, func(q *Question) { q.Learned.Claims = map[string]any{"role": "admin"} }},
		"namespace":     {func(o *hub.Opening) { o.Namespace = "acme" }, nil},
		"scheme":        {func(o *hub.Opening) { o.Scheme = "https" }, nil},
		"host":          {func(o *hub.Opening) { o.Host = "other.com" }, nil},
		"query":         {func(o *hub.Opening) { o.URI = "/push?token=1" }, nil},
		"address":       {func(o *hub.Opening) { o.RemoteIP = netip.MustParseAddr("192.0.2.8") }, nil},
		"proxy":         {func(o *hub.Opening) { o.RemoteAddr = "10.0.0.1:1" }, nil},
		"user":          {func(o *hub.Opening) { o.User = "bob" }, nil},
		"header":        {func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "sid=1") }, nil},
		"header split":  {func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "sid", "X", "1") }, nil},
		"sent":          {base, nil},
		"proxy's port":  {func(o *hub.Opening) { o.RemoteAddr = "192.0.2.7:9999" }, nil}, // the configuration names it
		"shifted":       {func(o *hub.Opening) { o.Host, o.URI = "example.com/push", "" }, nil},
		"shifted again": {func(o *hub.Opening) { o.Scheme, o.Host = "httpe", "xample.com" }, nil},
	}
	r, err := newBackend(BackendOptions{}, &upstream.Reach{Texts: []json.RawMessage{json.RawMessage(`{"a":["{pushit.agent.claims.role}","{http.request.remote.port}","{http.request.header.X}"]}`)}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[upstream.Key]string{}
	keyOf := func(c change, sent []byte) upstream.Key {
		q := newAsker(t, c.opening).question(hub.GateSubscribe, "news")
		if c.question != nil {
			c.question(q)
		}
		values, err := r.values(t.Context(), q)
		if err != nil {
			return q.key("", []string{err.Error()}, sent)
		}
		return q.key("", values, sent)
	}
	seen[keyOf(change{base, nil}, nil)] = "nothing"
	if again := keyOf(change{base, nil}, nil); seen[again] == "" {
		t.Fatal("equal questions are not equal")
	}
	for what, c := range changes {
		var sent []byte
		if what == "sent" {
			sent = []byte("x")
		}
		k := keyOf(c, sent)
		if other, ok := seen[k]; ok {
			t.Errorf("another %s is equal to another %s", what, other)
		}
		seen[k] = what
	}
	// What no answer depends on makes no difference.
	q := newAsker(t, nil).question(hub.GateSubscribe, "news")
	q.Learned.Claims = map[string]any{"other": "claim"}
	q.Learned.Grants = []string{"x"}
	values, err := r.values(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if seen[q.key("", values, nil)] != "nothing" {
		t.Error("a claim that is not named makes another question")
	}
}

func TestTheOperatorsKey(t *testing.T) {
	s := BackendOptions{Cache: caddy.Duration(time.Minute), Key: []string{"{pushit.agent.user}", "{http.request.cookie.sid}"}}
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBackend(t, s)
		b.answer = func() outcome { return passing("") }
		asking := func(change func(*hub.Opening), gate hub.GateName, channel string) {
			t.Helper()
			wantKind(t, channel, soon(t, b.decide(t.Context(), newAsker(t, change).question(gate, channel))), Pass)
		}
		asking(func(o *hub.Opening) { o.User = "bob" }, hub.GateSubscribe, "a")
		asking(func(o *hub.Opening) { o.User, o.Header = "bob", snapshotOf("X-Other", "1") }, hub.GateSubscribe, "b")
		if b.times() != 1 {
			t.Errorf("asked %d times, want once by the operator's key", b.times())
		}
		asking(func(o *hub.Opening) { o.User = "ann" }, hub.GateSubscribe, "a")
		asking(func(o *hub.Opening) { o.User, o.Header = "bob", snapshotOf("Cookie", "sid=2") }, hub.GateSubscribe, "a")
		asking(func(o *hub.Opening) { o.User = "bob" }, hub.GateConnect, "")
		asking(func(o *hub.Opening) { o.User, o.Namespace = "bob", "acme" }, hub.GateSubscribe, "a")
		if b.times() != 5 {
			t.Errorf("asked %d times, want 5", b.times())
		}
	})
}

// Questions in flight are compared by the full key, not by the operator's.
func TestTheOperatorsKeyIsNotForQuestionsInFlight(t *testing.T) {
	inRemoteBubble(t, BackendOptions{Cache: caddy.Duration(time.Minute), Key: []string{"{pushit.gate}"}}, func(t *testing.T, b *fakeBackend, ask *asker) {
		a1 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "a"))
		a2 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "b"))
		synctest.Wait()
		if b.times() != 2 {
			t.Errorf("asked %d times, want 2", b.times())
		}
		for range 2 {
			(<-b.waiting) <- passing("")
		}
		wantKind(t, "a", soon(t, a1), Pass)
		wantKind(t, "b", soon(t, a2), Pass)
	})
}

func TestControlCharactersAreNotAsked(t *testing.T) {
	r, err := newBackend(BackendOptions{}, &upstream.Reach{Texts: []json.RawMessage{json.RawMessage(`{"a":"{pushit.agent.claims.name}"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"a\rb", "a\nb", "a\x00b", "a\r\nX-Role: admin"} {
		q := newAsker(t, nil).question(hub.GateSubscribe, "news")
		q.Learned.Claims = map[string]any{"name": value}
		a := r.decide(t.Context(), q, nil, func(context.Context, *Question) outcome {
			t.Errorf("%q was asked", value)
			return passing("")
		})
		wantKind(t, value, a, Unavailable)
	}
}

func TestBackendOptions(t *testing.T) {
	for text, words := range map[string]string{
		"cache":                         "cache takes a duration: cache 10s, at Caddyfile:6",
		"cache soon":                    `not "soon", at Caddyfile:6`,
		"cache -1s":                     `not "-1s"`,
		"cache 1s 2s":                   "cache takes a duration",
		"cache 1s\ncache 2s":            "cache is written twice, at Caddyfile:7",
		"in_flight many":                `not "many"`,
		"in_flight 0":                   `not "0"`,
		"in_flight":                     "in_flight takes the number",
		"key":                           "key takes the placeholders",
		"key {pushit.channel}":          "write cache <ttl> too",
		"cache 1s\nkey constant":        "without a placeholder, everybody would get the answer to the first agent",
		"cache 1s\nkey {pushit.chanel}": "did you mean {pushit.channel}?",
		"cache 1s {\nx\n}":              `unexpected "{" after cache`,
	} {
		for _, guard := range []string{"forward_auth localhost:1 {\nuri /a\n", "ask localhost:1 {\nuri /a\n", "route {\nrespond 403\n"} {
			raw, err := parseRemote(guard + text + "\n}")
			if err == nil {
				_, err = loadRemote(t, raw)
			}
			if !says(err, words) {
				t.Errorf("%s%s: %v, want %s", guard, text, err, words)
			}
		}
	}
}

// A misspelt placeholder in key is empty for everybody, so everybody would get the answer
// to the first agent.
func TestMisspeltKeyIsRefused(t *testing.T) {
	for name, ok := range map[string]bool{
		"http.request.cookie.session": true, "http.request.header.Authorization": true, "pushit.agent.user": true, "http.request.uri.query.t": true,
		"http.request.cookies.session": false, "cookies.session": false, "header.cokie": false, "pushit.agent.usr": false, "http.vars.x": true, "http.request.tls.client.subjct": false,
	} {
		s := BackendOptions{Cache: caddy.Duration(time.Minute), Key: []string{"{" + name + "}"}}
		if err := s.validate(); (err == nil) != ok {
			t.Errorf("key {%s}: %v", name, err)
		}
	}
}
