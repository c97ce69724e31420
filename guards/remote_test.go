// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/hub"
)

// A backend answers questions when it is told to.
type backend struct {
	remote *remote

	mu      sync.Mutex // guards the following
	running int
	most    int
	asked   []string          // channels, in the order they were asked about
	waiting chan chan outcome // what is being asked, if answers are held
	answer  func() outcome    // else: the answer
	ended   []context.Context //nolint:containedctx // of questions that nobody waited for
}

func newBackend(t *testing.T, s Sparing) *backend {
	t.Helper()
	r, err := newRemote(s, &reach{texts: []json.RawMessage{json.RawMessage(`{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	return &backend{remote: r, waiting: make(chan chan outcome, 1000)}
}

func (b *backend) ask(ctx context.Context, q *Question) outcome {
	b.mu.Lock()
	b.running++
	b.most = max(b.most, b.running)
	b.asked = append(b.asked, q.Channel)
	answer := b.answer
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.running--
		b.mu.Unlock()
	}()
	if answer != nil {
		return answer()
	}
	c := make(chan outcome)
	b.waiting <- c
	select {
	case out := <-c:
		return out
	case <-ctx.Done():
		b.mu.Lock()
		b.ended = append(b.ended, ctx)
		b.mu.Unlock()
		return outcome{Answer: Answer{Kind: Unavailable, Err: ctx.Err()}}
	}
}

func (b *backend) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.asked)
}

// decide asks in a goroutine; the answer comes from the channel.
func (b *backend) decide(ctx context.Context, q *Question) chan Answer {
	c := make(chan Answer, 1)
	go func() { c <- b.remote.decide(ctx, q, nil, b.ask) }()
	return c
}

func passing(user string) outcome {
	return outcome{Answer: Answer{Kind: Pass, Learned: Learned{User: user}}}
}

func inRemoteBubble(t *testing.T, s Sparing, f func(t *testing.T, b *backend, ask *remoteAsker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newBackend(t, s), newRemoteAsker(t, nil)) })
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

func notYet(t *testing.T, c chan Answer) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		t.Fatalf("an answer too early: %s %v", a.Kind, a.Err)
	default:
	}
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	inRemoteBubble(t, Sparing{}, func(t *testing.T, b *backend, ask *remoteAsker) {
		var answers []chan Answer
		for range 5 {
			answers = append(answers, b.decide(t.Context(), ask.question(hub.GateSubscribe, "news")))
		}
		other := b.decide(t.Context(), ask.question(hub.GateSubscribe, "sports"))
		synctest.Wait()
		if b.times() != 2 {
			t.Fatalf("asked %d times, want 2", b.times())
		}
		for range 2 {
			(<-b.waiting) <- passing("bob")
		}
		for _, c := range append(answers, other) {
			if a := soon(t, c); a.Kind != Pass || a.Learned.User != "bob" {
				t.Errorf("answer %+v", a)
			}
		}
		// Nothing is kept without cache.
		c := b.decide(t.Context(), ask.question(hub.GateSubscribe, "news"))
		notYet(t, c)
		(<-b.waiting) <- passing("ann")
		if a := soon(t, c); a.Learned.User != "ann" {
			t.Errorf("an answer was kept without cache: %+v", a)
		}
	})
}

func TestActsAreNotShared(t *testing.T) {
	for _, gate := range []hub.GateName{hub.GatePublish, hub.GateUnsubscribe, hub.GateDisconnect} {
		inRemoteBubble(t, Sparing{Cache: caddy.Duration(time.Hour)}, func(t *testing.T, b *backend, ask *remoteAsker) {
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

// Who asked first can leave, and so can the last, whom alone the question is
// asked for then.
func TestWhoeverLeavesLeavesTheOthersTheirAnswer(t *testing.T) {
	inRemoteBubble(t, Sparing{}, func(t *testing.T, b *backend, ask *remoteAsker) {
		first, leave := context.WithCancel(t.Context())
		a1 := b.decide(first, ask.question(hub.GateSubscribe, "news"))
		synctest.Wait()
		second, leave2 := context.WithCancel(t.Context())
		defer leave2()
		a2 := b.decide(second, ask.question(hub.GateSubscribe, "news"))
		synctest.Wait()
		leave()
		if a := soon(t, a1); a.Kind != Unavailable || !errors.Is(a.Err, context.Canceled) {
			t.Errorf("who left: %s %v", a.Kind, a.Err)
		}
		notYet(t, a2)
		a3 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "news"))
		synctest.Wait()
		if b.times() != 1 {
			t.Errorf("asked %d times, want 1", b.times())
		}
		(<-b.waiting) <- passing("bob")
		wantKind(t, "who stayed", soon(t, a2), Pass)
		wantKind(t, "who joined later", soon(t, a3), Pass)

		// All leave: the question ends, and the next one is another.
		ctx, leave := context.WithCancel(t.Context())
		a4 := b.decide(ctx, ask.question(hub.GateSubscribe, "news"))
		a5 := b.decide(ctx, ask.question(hub.GateSubscribe, "news"))
		synctest.Wait()
		leave()
		wantKind(t, "left", soon(t, a4), Unavailable)
		wantKind(t, "left", soon(t, a5), Unavailable)
		synctest.Wait()
		if len(b.ended) != 1 || b.running != 0 {
			t.Errorf("%d questions ended, %d run on", len(b.ended), b.running)
		}
		<-b.waiting
		a6 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "news"))
		notYet(t, a6)
		(<-b.waiting) <- passing("bob")
		wantKind(t, "asked again", soon(t, a6), Pass)
	})
}

// What waits for a place does not use up the time for asking, but has its own end.
func TestWaitingForAPlace(t *testing.T) {
	inRemoteBubble(t, Sparing{InFlight: 1}, func(t *testing.T, b *backend, ask *remoteAsker) {
		q1, q2, q3 := ask.question(hub.GateSubscribe, "a"), ask.question(hub.GateSubscribe, "b"), ask.question(hub.GateSubscribe, "c")
		*q2.Left, *q3.Left = time.Second, time.Second
		a1 := b.decide(t.Context(), q1)
		synctest.Wait()
		a2 := b.decide(t.Context(), q2)
		synctest.Wait()
		time.Sleep(25 * time.Second)
		a3 := b.decide(t.Context(), q3)
		notYet(t, a2)
		(<-b.waiting) <- passing("")
		wantKind(t, "the first", soon(t, a1), Pass)
		if *q1.Left != 35*time.Second {
			t.Errorf("%v are left of a minute after 25 s", *q1.Left)
		}
		time.Sleep(900 * time.Millisecond)
		(<-b.waiting) <- passing("")
		wantKind(t, "the second, which waited", soon(t, a2), Pass)
		if *q2.Left != 100*time.Millisecond {
			t.Errorf("%v are left of a second after 900 ms", *q2.Left)
		}
		// The third one has its place, and a backend that hangs.
		time.Sleep(1001 * time.Millisecond)
		a := soon(t, a3)
		wantKind(t, "the third, with a backend that hangs", a, Unavailable)
		if !errors.Is(a.Err, errLate) || *q3.Left > 0 {
			t.Errorf("error %v, left %v", a.Err, *q3.Left)
		}
		<-b.waiting

		hangs := b.decide(t.Context(), ask.question(hub.GateSubscribe, "d"))
		synctest.Wait()
		waits := b.decide(t.Context(), ask.question(hub.GateSubscribe, "e"))
		time.Sleep(QueueWait + time.Millisecond)
		a = soon(t, waits)
		wantKind(t, "who got no place", a, Unavailable)
		if !errors.Is(a.Err, errFull) || a.Retry != fullRetry {
			t.Errorf("error %v, retry %v", a.Err, a.Retry)
		}
		(<-b.waiting) <- passing("")
		wantKind(t, "who had one", soon(t, hangs), Pass)
		synctest.Wait()
		if n := b.remote.waiting.lines.Len(); n != 0 || b.remote.running != 0 || len(b.remote.calls) != 0 {
			t.Errorf("%d agents wait, %d questions run, %d are known, when all is done", n, b.remote.running, len(b.remote.calls))
		}
	})
}

func TestInFlightIsNeverExceeded(t *testing.T) {
	inRemoteBubble(t, Sparing{}, func(t *testing.T, b *backend, ask *remoteAsker) {
		b.answer = func() outcome {
			time.Sleep(50 * time.Millisecond)
			return passing("")
		}
		var answers []chan Answer
		begin := time.Now()
		for i := range 200 {
			answers = append(answers, b.decide(t.Context(), ask.question(hub.GateSubscribe, fmt.Sprint("c", i))))
		}
		for _, c := range answers {
			if a := <-c; a.Kind != Pass {
				t.Errorf("%s %v", a.Kind, a.Err)
			}
		}
		if b.most != defaultInFlight || b.times() != 200 {
			t.Errorf("%d questions at once, want %d; %d asked, want 200", b.most, defaultInFlight, b.times())
		}
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("200 questions of 50 ms, 64 at once, took %v", took)
		}
	})
}

// One agent that asks much does not hold up those that ask little.
func TestAgentsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, Sparing{InFlight: 1})
		busy, quiet, third := newRemoteAsker(t, nil), newRemoteAsker(t, nil), newRemoteAsker(t, nil)
		answers := []chan Answer{b.decide(t.Context(), busy.question(hub.GateSubscribe, "busy0"))}
		synctest.Wait()
		for i, who := range []*remoteAsker{busy, busy, busy, quiet, third, third} {
			answers = append(answers, b.decide(t.Context(), who.question(hub.GateSubscribe, []string{"busy1", "busy2", "busy3", "quiet1", "third1", "third2"}[i])))
			synctest.Wait()
		}
		for range answers {
			(<-b.waiting) <- passing("")
		}
		for _, c := range answers {
			wantKind(t, "in turn", soon(t, c), Pass)
		}
		if got, want := strings.Join(b.asked, " "), "busy0 busy1 quiet1 third1 busy2 third2 busy3"; got != want {
			t.Errorf("asked in the order %s, want %s", got, want)
		}
	})
}

// Who leaves while waiting gives up the place in the queue, and an agent's other
// questions keep theirs.
func TestLeavingTheQueue(t *testing.T) {
	inRemoteBubble(t, Sparing{InFlight: 1}, func(t *testing.T, b *backend, ask *remoteAsker) {
		a1 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "a"))
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		a2 := b.decide(ctx, ask.question(hub.GateSubscribe, "b"))
		synctest.Wait()
		a3 := b.decide(t.Context(), ask.question(hub.GateSubscribe, "c"))
		synctest.Wait()
		leave()
		wantKind(t, "left the queue", soon(t, a2), Unavailable)
		for range 2 {
			(<-b.waiting) <- passing("")
		}
		wantKind(t, "first", soon(t, a1), Pass)
		wantKind(t, "third", soon(t, a3), Pass)
		if !slices.Equal(b.asked, []string{"a", "c"}) {
			t.Errorf("asked about %v", b.asked)
		}
	})
}

func TestAPanicIsNoAnswer(t *testing.T) {
	inRemoteBubble(t, Sparing{InFlight: 1}, func(t *testing.T, b *backend, ask *remoteAsker) {
		for range 3 { // places are given back
			b.answer = func() outcome { panic("at the disco") }
			wantKind(t, "panic", soon(t, b.decide(t.Context(), ask.question(hub.GateSubscribe, "a"))), Unavailable)
		}
	})
}

func TestAnswersAreKept(t *testing.T) {
	inRemoteBubble(t, Sparing{Cache: caddy.Duration(10 * time.Second)}, func(t *testing.T, b *backend, ask *remoteAsker) {
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
			t.Errorf("what stuck is not part of what is kept: %+v", a)
		}
		asked("after 9 s", 1)
		time.Sleep(time.Second)
		about("a")
		asked("after 10 s", 2)

		next = outcome{Answer: Answer{Kind: Deny, Reason: "no"}}
		if about("deny"); about("deny").Reason != "no" {
			t.Error("a reason is not part of what is kept")
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

func TestWhatIsKeptIsBounded(t *testing.T) {
	var k kept
	now := time.Now()
	keyOf := func(i int) (k key) {
		copy(k[:], fmt.Sprint(i))
		return k
	}
	for i := range maxKept + 10 {
		k.put(keyOf(i), passing(""), time.Hour, now)
		k.get(keyOf(0), now) // the oldest is used all the time
	}
	if len(k.entries) != maxKept || k.recent.Len() != maxKept {
		t.Errorf("%d answers are kept", len(k.entries))
	}
	if _, ok := k.get(keyOf(0), now); !ok {
		t.Error("what was used last was forgotten")
	}
	if _, ok := k.get(keyOf(1), now); ok {
		t.Error("what was used first is kept")
	}
	k = kept{}
	big := passing("")
	big.size = maxKeptBytes / 4
	for i := range 10 {
		k.put(keyOf(i), big, time.Hour, now)
	}
	if len(k.entries) != 3 || k.bytes > maxKeptBytes {
		t.Errorf("%d big answers are kept, %d bytes", len(k.entries), k.bytes)
	}
}

// Everything that an answer can depend on makes another question.
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
		"proxy's port":  {func(o *hub.Opening) { o.RemoteAddr = "192.0.2.7:9999" }, nil}, // which is named
		"shifted":       {func(o *hub.Opening) { o.Host, o.URI = "example.com/push", "" }, nil},
		"shifted again": {func(o *hub.Opening) { o.Scheme, o.Host = "httpe", "xample.com" }, nil},
	}
	r, err := newRemote(Sparing{}, &reach{texts: []json.RawMessage{json.RawMessage(`{"a":["{pushit.agent.claims.role}","{http.request.remote.port}","{http.request.header.X}"]}`)}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[key]string{}
	keyOf := func(c change, sent []byte) key {
		q := newRemoteAsker(t, c.opening).question(hub.GateSubscribe, "news")
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
	// What no answer depends on is not part of it.
	q := newRemoteAsker(t, nil).question(hub.GateSubscribe, "news")
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
	s := Sparing{Cache: caddy.Duration(time.Minute), Key: []string{"{pushit.agent.user}", "{http.request.cookie.sid}"}}
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, s)
		b.answer = func() outcome { return passing("") }
		asking := func(change func(*hub.Opening), gate hub.GateName, channel string) {
			t.Helper()
			wantKind(t, channel, soon(t, b.decide(t.Context(), newRemoteAsker(t, change).question(gate, channel))), Pass)
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

// In flight the full key counts, whatever the operator's is.
func TestTheOperatorsKeyIsNotForQuestionsInFlight(t *testing.T) {
	inRemoteBubble(t, Sparing{Cache: caddy.Duration(time.Minute), Key: []string{"{pushit.gate}"}}, func(t *testing.T, b *backend, ask *remoteAsker) {
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
	r, err := newRemote(Sparing{}, &reach{texts: []json.RawMessage{json.RawMessage(`{"a":"{pushit.agent.claims.name}"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"a\rb", "a\nb", "a\x00b", "a\r\nX-Role: admin"} {
		q := newRemoteAsker(t, nil).question(hub.GateSubscribe, "news")
		q.Learned.Claims = map[string]any{"name": value}
		a := r.decide(t.Context(), q, nil, func(context.Context, *Question) outcome {
			t.Errorf("%q was asked", value)
			return passing("")
		})
		wantKind(t, value, a, Unavailable)
	}
}

func TestSparingOptions(t *testing.T) {
	for text, words := range map[string]string{
		"cache":                         "cache takes how long answers are kept: cache 10s, at Caddyfile:6",
		"cache soon":                    `not "soon", at Caddyfile:6`,
		"cache -1s":                     `not "-1s"`,
		"cache 1s 2s":                   "cache takes how long",
		"cache 1s\ncache 2s":            "cache is written twice, at Caddyfile:7",
		"in_flight many":                `not "many"`,
		"in_flight 0":                   `not "0"`,
		"in_flight":                     "in_flight takes how many",
		"key":                           "key takes what makes",
		"key {pushit.channel}":          "write cache <ttl> too",
		"cache 1s\nkey constant":        "without a placeholder everybody would get the first one's answer",
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

// A placeholder that is misspelt in key is empty for everybody: all would get the
// answer that the first one got.
func TestMisspeltKeyIsRefused(t *testing.T) {
	for name, ok := range map[string]bool{
		"http.request.cookie.session": true, "http.request.header.Authorization": true, "pushit.agent.user": true, "http.request.uri.query.t": true,
		"http.request.cookies.session": false, "cookies.session": false, "header.cokie": false, "pushit.agent.usr": false, "http.vars.x": true, "http.request.tls.client.subjct": false,
	} {
		s := Sparing{Cache: caddy.Duration(time.Minute), Key: []string{"{" + name + "}"}}
		if err := s.validate(); (err == nil) != ok {
			t.Errorf("key {%s}: %v", name, err)
		}
	}
}
