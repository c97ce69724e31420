// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package upstream asks backends through handlers of Caddy: it makes requests from what a
// session stores, asks equal questions once, lets agents take turns, caches answers, and
// knows which configuration an answer depends on.
package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/push-it/pushit/hub"
)

// QueueWait is how long a question may wait for a place while InFlight others are
// asked. The wait does not count as asking.
const QueueWait = 30 * time.Second

// The errors of a question that got no answer.
var (
	ErrFull = errors.New("waited " + QueueWait.String() + " for a place: in_flight limits how many questions are asked at once")
	ErrLate = errors.New("no answer in time")
	// ErrOver is the error after Question.Late was called.
	ErrOver = errors.New("nobody waits for the answer any longer")
)

// An Asker asks a backend for one guard. It asks equal questions only once at a time,
// limits how many it asks at once, and caches answers.
type Asker[A any] struct {
	// InFlight is how many questions are asked at once.
	InFlight int

	poolKey string // the key of the state in states; "" if it is not there
	*state[A]
}

// A state is what is being asked and what was answered. It belongs to the guard as it
// is configured, not to one configuration: after a reload, questions of the previous
// configuration are still in flight, and count.
type state[A any] struct {
	mu      sync.Mutex // guards the following; no lock is taken under it
	running int
	waiting fairQueue[A]
	calls   map[Key]*call[A] // that others can join
	answers answerCache[A]
}

func newState[A any]() *state[A] { return &state[A]{calls: make(map[Key]*call[A])} }

// NewAsker returns an Asker with a state of its own.
func NewAsker[A any](inFlight int) *Asker[A] {
	return &Asker[A]{InFlight: inFlight, state: newState[A]()}
}

// states holds the state of each guard for as long as a configuration has the guard. A
// new configuration takes its reference before the old one releases its own.
var states = caddy.NewUsagePool()

// Destruct implements caddy.Destructor: it drops the cached answers. Calls in flight
// end because no agent waits for them any longer.
func (s *state[A]) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answerCache[A]{}
	return nil
}

// Share makes a use the state of the Asker with the same pool key, if another
// configuration has one. Call it once, before the first question.
func (a *Asker[A]) Share(poolKey string) error {
	shared, _, err := states.LoadOrNew(poolKey, func() (caddy.Destructor, error) { return newState[A](), nil })
	if err != nil {
		return err
	}
	a.poolKey, a.state = poolKey, shared.(*state[A])
	return nil
}

// SharesWith reports whether a and b have the same state.
func (a *Asker[A]) SharesWith(b *Asker[A]) bool { return a.state == b.state }

// SharedStates returns how many states configurations hold.
func SharedStates() (n int) {
	states.Range(func(_, _ any) bool { n++; return true })
	return n
}

// Release releases what Share took.
func (a *Asker[A]) Release() error {
	if a == nil || a.poolKey == "" {
		return nil
	}
	poolKey := a.poolKey
	a.poolKey = ""
	_, err := states.Delete(poolKey)
	return err
}

// A Key is a hash of everything that makes two questions equal. Clients choose much of
// that, so the hash must be safe against collisions.
type Key [sha256.Size]byte

// KeyOf returns the key of fields that AppendField wrote.
func KeyOf(fields []byte) Key { return sha256.Sum256(fields) }

// AppendField appends s to b so that two sequences of fields are equal only if all
// their fields are.
func AppendField(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

// A Question is what an Asker asks.
type Question[A any] struct {
	// Agent is whose turn it takes in the queue.
	Agent *hub.Agent
	// Key is equal for equal questions, which are asked only once at a time. The zero
	// Key is for a question that is asked for one agent alone.
	Key Key
	// Store is the key under which the answer is cached; the zero Key is for never.
	Store Key
	// Left is how much time is left for asking, and is reduced by what is used. nil is no
	// limit.
	Left *time.Duration
	// Ask asks the backend. It runs until it has an answer, even if nobody waits any
	// longer; then its context ends.
	Ask func(ctx context.Context) Outcome[A]
	// Late makes Asker.Ask call Ask in the caller's goroutine, which hangs for as long as
	// Ask does. If Left is over or the context has ended before that, Late is called, in
	// another goroutine. If Late is nil, Asker.Ask returns in time, and Ask gets a
	// goroutine of its own.
	Late func(error)
}

// An Outcome is an answer, and how it may be cached.
type Outcome[A any] struct {
	Answer A
	// Keep is how long the answer may be cached; 0 means that it must not be.
	Keep time.Duration
	// Size is roughly how many bytes it has.
	Size int

	err error // why there is no answer
}

// A call is a question in flight, with everybody who waits for its answer. Its context
// is its own, so an agent that leaves does not take the answer away from the others.
type call[A any] struct {
	agent  *hub.Agent // that asked first
	key    Key
	store  Key
	ask    func(ctx context.Context) Outcome[A]
	ctx    context.Context //nolint:containedctx // ends when no agent waits any more
	cancel context.CancelFunc

	started chan struct{} // closed when the call has a place
	done    chan struct{} // closed when out is set
	out     Outcome[A]

	waiters int  // guarded by state.mu
	inline  bool // guarded by state.mu: the goroutine that asked first runs it
}

// Ask returns the answer to q: from the cache, together with others who ask the same,
// or by asking. The error is ErrFull, ErrLate or that of ctx, or says that Ask has
// panicked. q.Ask may outlive the call of Ask.
func (a *Asker[A]) Ask(ctx context.Context, q *Question[A]) (A, error) {
	own := &call[A]{agent: q.Agent, key: q.Key, store: q.Store, ask: q.Ask, inline: q.Late != nil}
	// The question belongs to the span of the agent that asked first.
	own.ctx = trace.ContextWithSpanContext(context.Background(), trace.SpanContextFromContext(ctx))
	c, answer, ok := a.join(own)
	if ok {
		return answer, nil
	}
	inline := c == own && q.Late != nil
	if err := a.waitForPlace(ctx, c, inline); err != nil {
		return answer, err
	}
	if inline {
		return a.runHere(ctx, q, c)
	}
	return a.wait(ctx, q.Left, c)
}

// Cached returns the answer stored under a key. Ask looks there, too; Cached saves making
// the Question.
func (a *Asker[A]) Cached(store Key) (answer A, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answers.get(store, time.Now())
}

// join returns the cached answer to c, if there is one, else the call to wait for: an
// equal one that is in flight, or c.
func (a *Asker[A]) join(c *call[A]) (_ *call[A], answer A, answered bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.store != (Key{}) {
		if answer, ok := a.answers.get(c.store, time.Now()); ok {
			return nil, answer, true
		}
	}
	if c.key != (Key{}) {
		if equal := a.calls[c.key]; equal != nil {
			equal.waiters++
			return equal, answer, false
		}
		a.calls[c.key] = c
	}
	c.waiters = 1
	c.started, c.done = make(chan struct{}), make(chan struct{})
	c.ctx, c.cancel = context.WithCancel(c.ctx) //nolint:gosec // G118: leave and run call it
	if a.running < a.InFlight {
		a.running++
		a.startLocked(c)
	} else {
		a.waiting.push(c)
	}
	return c, answer, false
}

// startLocked starts c, which has a place.
func (a *Asker[A]) startLocked(c *call[A]) {
	close(c.started)
	if !c.inline {
		go a.run(c)
	}
}

// run asks c, in a goroutine that may hang, because c.ask may ignore its
// context. It keeps its place until c.ask has returned.
func (a *Asker[A]) run(c *call[A]) {
	c.out = c.outcome()
	now := time.Now()
	a.mu.Lock()
	a.forgetLocked(c)
	if c.store != (Key{}) && c.out.err == nil {
		a.answers.put(c.store, &c.out, now)
	}
	if next := a.waiting.pop(); next != nil {
		a.startLocked(next)
	} else {
		a.running--
	}
	a.mu.Unlock()
	close(c.done)
	c.cancel()
}

func (c *call[A]) outcome() (out Outcome[A]) {
	defer func() {
		if p := recover(); p != nil {
			out = Outcome[A]{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	return c.ask(c.ctx)
}

// forgetLocked makes sure that no further agent joins c.
func (a *Asker[A]) forgetLocked(c *call[A]) {
	if a.calls[c.key] == c {
		delete(a.calls, c.key)
	}
}

// leave removes one of those who wait for c. If that is the goroutine that was to run
// c, another one does.
func (a *Asker[A]) leave(c *call[A], inline bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if inline {
		c.inline = false
		select {
		case <-c.started:
			go a.run(c)
		default:
		}
	}
	if c.waiters--; c.waiters > 0 {
		return
	}
	a.forgetLocked(c)
	a.waiting.remove(c)
	c.cancel()
}

// waitForPlace waits until c has a place, for at most QueueWait.
func (a *Asker[A]) waitForPlace(ctx context.Context, c *call[A], inline bool) error {
	select {
	case <-c.started:
		return nil
	default:
	}
	timer := time.NewTimer(QueueWait)
	defer timer.Stop()
	select {
	case <-c.started:
		return nil
	case <-timer.C:
		a.leave(c, inline)
		return ErrFull
	case <-ctx.Done():
		a.leave(c, inline)
		return ctx.Err()
	}
}

// runHere runs c in this goroutine. If there is no answer in time, it calls q.Late.
func (a *Asker[A]) runHere(ctx context.Context, q *Question[A], c *call[A]) (answer A, err error) {
	var over atomic.Bool // the answer was given, or Late was called
	late := func(err error) {
		if over.CompareAndSwap(false, true) {
			a.leave(c, false)
			q.Late(err)
		}
	}
	defer context.AfterFunc(ctx, func() { late(ctx.Err()) })()
	if q.Left != nil {
		begun := time.Now()
		defer func() { *q.Left -= time.Since(begun) }()
		defer time.AfterFunc(*q.Left, func() { late(ErrLate) }).Stop()
	}
	a.run(c)
	if !over.CompareAndSwap(false, true) {
		return answer, ErrOver
	}
	return c.out.Answer, c.out.err
}

// wait waits for the answer to c for as long as left says.
func (a *Asker[A]) wait(ctx context.Context, left *time.Duration, c *call[A]) (answer A, err error) {
	var late <-chan time.Time
	if left != nil {
		begun := time.Now()
		defer func() { *left -= time.Since(begun) }()
		timer := time.NewTimer(*left)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-c.done:
		return c.out.Answer, c.out.err
	case <-late:
		a.leave(c, false)
		return answer, ErrLate
	case <-ctx.Done():
		a.leave(c, false)
		return answer, ctx.Err()
	}
}
