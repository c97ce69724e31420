// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// A backend answers what an Asker asks. It holds its answers until the test gives them.
type backend struct {
	asker  *Asker[string]
	inline bool // a question runs in the goroutine that asks it

	mu      sync.Mutex // guards the following
	running int
	most    int
	asked   []string                  // channels, in the order they were asked about
	waiting chan chan Outcome[string] // questions without an answer, if the test answers
	answer  func() Outcome[string]    // otherwise: the answer
	ended   int                       // questions whose context has ended
}

func newBackend(inFlight int) *backend {
	return &backend{asker: NewAsker[string](inFlight), waiting: make(chan chan Outcome[string], 1000)}
}

func (b *backend) ask(ctx context.Context, channel string) Outcome[string] {
	b.mu.Lock()
	b.running++
	b.most = max(b.most, b.running)
	b.asked = append(b.asked, channel)
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
	c := make(chan Outcome[string])
	b.waiting <- c
	select {
	case out := <-c:
		return out
	case <-ctx.Done():
		b.mu.Lock()
		b.ended++
		b.mu.Unlock()
		return Outcome[string]{err: ctx.Err()}
	}
}

func (b *backend) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.asked)
}

// A result is what Ask returned.
type result struct {
	answer string
	err    error
}

// A question is a Question about a channel.
type question struct {
	*Question[string]
	channel string
}

// decide asks in a goroutine of its own.
func (b *backend) decide(ctx context.Context, q question) chan result {
	c := make(chan result, 1)
	q.Ask = func(ctx context.Context) Outcome[string] { return b.ask(ctx, q.channel) }
	if b.inline {
		q.Late = func(err error) { c <- result{"", err} }
	}
	go func() {
		answer, err := b.asker.Ask(ctx, q.Question)
		if !errors.Is(err, ErrOver) {
			c <- result{answer, err}
		}
	}()
	return c
}

// An asking is an agent that asks.
type asking struct{ agent *hub.Agent }

func newAsking(t *testing.T) *asking {
	t.Helper()
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.Open(h.Use(&hub.Policy{Mount: "test"}), hub.Opening{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Left("the test is over")
		h.Close()
	})
	return &asking{a}
}

func (a *asking) question(channel string) question {
	left := time.Minute
	return question{&Question[string]{Agent: a.agent, Key: KeyOf([]byte(channel)), Left: &left}, channel}
}

func passing(user string) Outcome[string] { return Outcome[string]{Answer: user} }

// inBubble calls f in bubbles with a clock of their own: once with questions that have
// goroutines of their own, and once with questions that run where they are asked.
func inBubble(t *testing.T, inFlight int, f func(t *testing.T, b *backend, ask *asking)) {
	t.Helper()
	for _, inline := range []bool{false, true} {
		t.Run(fmt.Sprintf("inline %t", inline), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(inFlight)
				b.inline = inline
				f(t, b, newAsking(t))
			})
		})
	}
}

// soon returns the result, which must be there once all goroutines wait.
func soon(t *testing.T, c chan result) result {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-c:
		return r
	default:
		t.Fatal("there is no answer")
		return result{}
	}
}

// notYet checks that there is no result yet.
func notYet(t *testing.T, c chan result) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-c:
		t.Fatalf("an answer too early: %q %v", r.answer, r.err)
	default:
	}
}

func want(t *testing.T, what string, r result, answered bool) {
	t.Helper()
	if (r.err == nil) != answered {
		t.Errorf("%s: %q, %v", what, r.answer, r.err)
	}
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	inBubble(t, 64, func(t *testing.T, b *backend, ask *asking) {
		var answers []chan result
		for range 5 {
			answers = append(answers, b.decide(t.Context(), ask.question("news")))
		}
		other := b.decide(t.Context(), ask.question("sports"))
		synctest.Wait()
		if b.times() != 2 {
			t.Fatalf("asked %d times, want 2", b.times())
		}
		for range 2 {
			(<-b.waiting) <- passing("bob")
		}
		for _, c := range append(answers, other) {
			if a := soon(t, c); a.err != nil || a.answer != "bob" {
				t.Errorf("answer %+v", a)
			}
		}
		// Without a cache, answers are not used again.
		c := b.decide(t.Context(), ask.question("news"))
		notYet(t, c)
		(<-b.waiting) <- passing("ann")
		if a := soon(t, c); a.answer != "ann" {
			t.Errorf("an answer was kept without cache: %+v", a)
		}
	})
}

// An agent that asked first can leave, and so can the last one that waits.
func TestWhoeverLeavesLeavesTheOthersTheirAnswer(t *testing.T) {
	inBubble(t, 64, func(t *testing.T, b *backend, ask *asking) {
		first, leave := context.WithCancel(t.Context())
		a1 := b.decide(first, ask.question("news"))
		synctest.Wait()
		second, leave2 := context.WithCancel(t.Context())
		defer leave2()
		a2 := b.decide(second, ask.question("news"))
		synctest.Wait()
		leave()
		if a := soon(t, a1); !errors.Is(a.err, context.Canceled) {
			t.Errorf("who left: %v", a.err)
		}
		notYet(t, a2)
		a3 := b.decide(t.Context(), ask.question("news"))
		synctest.Wait()
		if b.times() != 1 {
			t.Errorf("asked %d times, want 1", b.times())
		}
		(<-b.waiting) <- passing("bob")
		want(t, "who stayed", soon(t, a2), true)
		want(t, "who joined later", soon(t, a3), true)

		// If all leave, the question ends, and the next one is a new one.
		ctx, leave := context.WithCancel(t.Context())
		a4 := b.decide(ctx, ask.question("news"))
		a5 := b.decide(ctx, ask.question("news"))
		synctest.Wait()
		leave()
		want(t, "left", soon(t, a4), false)
		want(t, "left", soon(t, a5), false)
		synctest.Wait()
		if b.ended != 1 || b.running != 0 {
			t.Errorf("%d questions ended, %d run on", b.ended, b.running)
		}
		<-b.waiting
		a6 := b.decide(t.Context(), ask.question("news"))
		notYet(t, a6)
		(<-b.waiting) <- passing("bob")
		want(t, "asked again", soon(t, a6), true)
	})
}

// Waiting for a place does not count as asking, but has a limit of its own.
func TestWaitingForAPlace(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *backend, ask *asking) {
		q1, q2, q3 := ask.question("a"), ask.question("b"), ask.question("c")
		*q2.Left, *q3.Left = time.Second, time.Second
		a1 := b.decide(t.Context(), q1)
		synctest.Wait()
		a2 := b.decide(t.Context(), q2)
		synctest.Wait()
		time.Sleep(25 * time.Second)
		a3 := b.decide(t.Context(), q3)
		notYet(t, a2)
		(<-b.waiting) <- Outcome[string]{}
		want(t, "the first", soon(t, a1), true)
		if *q1.Left != 35*time.Second {
			t.Errorf("%v are left of a minute after 25 s", *q1.Left)
		}
		time.Sleep(900 * time.Millisecond)
		(<-b.waiting) <- Outcome[string]{}
		want(t, "the second, which waited", soon(t, a2), true)
		if *q2.Left != 100*time.Millisecond {
			t.Errorf("%v are left of a second after 900 ms", *q2.Left)
		}
		// The third question has a place, but its backend hangs.
		time.Sleep(1001 * time.Millisecond)
		a := soon(t, a3)
		want(t, "the third, with a backend that hangs", a, false)
		if !errors.Is(a.err, ErrLate) {
			t.Errorf("error %v", a.err)
		}
		<-b.waiting

		hangs := b.decide(t.Context(), ask.question("d"))
		synctest.Wait()
		waits := b.decide(t.Context(), ask.question("e"))
		time.Sleep(QueueWait + time.Millisecond)
		a = soon(t, waits)
		want(t, "who got no place", a, false)
		if !errors.Is(a.err, ErrFull) {
			t.Errorf("error %v", a.err)
		}
		(<-b.waiting) <- Outcome[string]{}
		want(t, "who had one", soon(t, hangs), true)
		synctest.Wait()
		if n := b.asker.waiting.lines.Len(); n != 0 || b.asker.running != 0 || len(b.asker.calls) != 0 {
			t.Errorf("%d agents wait, %d questions run, %d are known, when all is done", n, b.asker.running, len(b.asker.calls))
		}
	})
}

func TestInFlightIsNeverExceeded(t *testing.T) {
	inBubble(t, 64, func(t *testing.T, b *backend, ask *asking) {
		b.answer = func() Outcome[string] {
			time.Sleep(50 * time.Millisecond)
			return Outcome[string]{}
		}
		var answers []chan result
		begin := time.Now()
		for i := range 200 {
			answers = append(answers, b.decide(t.Context(), ask.question(fmt.Sprint("c", i))))
		}
		for _, c := range answers {
			if a := <-c; a.err != nil {
				t.Errorf("%v", a.err)
			}
		}
		if b.most != 64 || b.times() != 200 {
			t.Errorf("%d questions at once, want %d; %d asked, want 200", b.most, 64, b.times())
		}
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("200 questions of 50 ms, 64 at once, took %v", took)
		}
	})
}

// An agent with many questions does not delay agents with few.
func TestAgentsTakeTurns(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *backend, busy *asking) {
		quiet, third := newAsking(t), newAsking(t)
		answers := []chan result{b.decide(t.Context(), busy.question("busy0"))}
		synctest.Wait()
		for i, who := range []*asking{busy, busy, busy, quiet, third, third} {
			answers = append(answers, b.decide(t.Context(), who.question([]string{"busy1", "busy2", "busy3", "quiet1", "third1", "third2"}[i])))
			synctest.Wait()
		}
		for range answers {
			(<-b.waiting) <- Outcome[string]{}
		}
		for _, c := range answers {
			want(t, "in turn", soon(t, c), true)
		}
		if got, want := strings.Join(b.asked, " "), "busy0 busy1 quiet1 third1 busy2 third2 busy3"; got != want {
			t.Errorf("asked in the order %s, want %s", got, want)
		}
	})
}

// An agent that leaves gives up its place in the queue. Its other questions keep theirs.
func TestLeavingTheQueue(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *backend, ask *asking) {
		a1 := b.decide(t.Context(), ask.question("a"))
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		a2 := b.decide(ctx, ask.question("b"))
		synctest.Wait()
		a3 := b.decide(t.Context(), ask.question("c"))
		synctest.Wait()
		leave()
		want(t, "left the queue", soon(t, a2), false)
		for range 2 {
			(<-b.waiting) <- Outcome[string]{}
		}
		want(t, "first", soon(t, a1), true)
		want(t, "third", soon(t, a3), true)
		if !slices.Equal(b.asked, []string{"a", "c"}) {
			t.Errorf("asked about %v", b.asked)
		}
	})
}

func TestAPanicIsNoAnswer(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *backend, ask *asking) {
		for range 3 { // the place is released each time
			b.answer = func() Outcome[string] { panic("at the disco") }
			want(t, "panic", soon(t, b.decide(t.Context(), ask.question("a"))), false)
		}
	})
}

func TestAnswerCacheIsBounded(t *testing.T) {
	var c answerCache[string]
	now := time.Now()
	keyOf := func(i int) (k Key) {
		copy(k[:], fmt.Sprint(i))
		return k
	}
	for i := range maxAnswers + 10 {
		c.put(keyOf(i), &Outcome[string]{Keep: time.Hour}, now)
		c.get(keyOf(0), now) // the oldest is used all the time
	}
	if len(c.entries) != maxAnswers || c.recent.Len() != maxAnswers {
		t.Errorf("the cache has %d answers", len(c.entries))
	}
	if _, ok := c.get(keyOf(0), now); !ok {
		t.Error("the answer used last was dropped")
	}
	if _, ok := c.get(keyOf(1), now); ok {
		t.Error("the answer used first is still there")
	}
	if _, ok := c.get(keyOf(0), now.Add(time.Hour)); ok {
		t.Error("an answer is used after its time")
	}
	c = answerCache[string]{}
	for i := range 10 {
		c.put(keyOf(i), &Outcome[string]{Keep: time.Hour, Size: maxAnswerBytes / 4}, now)
	}
	if len(c.entries) != 3 || c.bytes > maxAnswerBytes {
		t.Errorf("the cache has %d big answers, %d bytes", len(c.entries), c.bytes)
	}
}

// A backend that ignores its context delays only the goroutine that asks it.
func TestDeafBackend(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, b *backend, ask *asking) {
		release := make(chan struct{})
		b.answer = func() Outcome[string] {
			<-release
			return passing("bob")
		}
		q1, q2 := ask.question("a"), ask.question("a")
		*q1.Left, *q2.Left = time.Second, 3*time.Second
		ctx, leave := context.WithCancel(t.Context())
		first, second := b.decide(t.Context(), q1), b.decide(t.Context(), q2)
		synctest.Wait()
		queued := b.decide(ctx, ask.question("b"))
		notYet(t, queued)
		time.Sleep(time.Second)
		if r := soon(t, first); !errors.Is(r.err, ErrLate) {
			t.Errorf("after its time: %+v", r)
		}
		// The agent that asked first leaves the queue before its turn. Another agent
		// waits for the same question.
		after := b.decide(t.Context(), ask.question("b"))
		synctest.Wait()
		leave()
		if r := soon(t, queued); !errors.Is(r.err, context.Canceled) {
			t.Errorf("who left the queue: %+v", r)
		}
		notYet(t, second)
		close(release)
		want(t, "who had more time", soon(t, second), true)
		want(t, "who stayed in the queue", soon(t, after), true)
		synctest.Wait()
		if b.asker.running != 0 || len(b.asker.calls) != 0 {
			t.Errorf("%d questions run, %d are known, when all is done", b.asker.running, len(b.asker.calls))
		}
	})
}
