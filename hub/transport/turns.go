// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// When thousands of agents come back at once, most of what the server does is new connections
// and their first frames. Go's scheduler runs goroutines in the order in which they become
// ready, so a message for an agent that is connected would wait behind hundreds of these. So
// newcomers take turns: a few go on at a time, and the next ones only when nothing else is
// ready. That costs them no time, as long as they are what keeps the server busy.

const (
	// turnRound is how long a round lasts at least in which newcomers need not wait.
	turnRound = time.Millisecond
	// fewTurns and mostTurns are how many turns are given at once, for each processor. A turn
	// takes about 0.1 ms, and messages that come meanwhile wait. If other work keeps the
	// processors busy for long, newcomers wait long, too.
	fewTurns, mostTurns = 4, 40
	// turnShare is the time after which there is one more, if the server never runs out of
	// other work. So newcomers get a share of a busy server, too.
	turnShare = 250 * time.Microsecond
	// keptWaiting is for how many newcomers the list has room that is kept.
	keptWaiting = 256
)

// newcomers are the sessions of this process that begin, and the connections that Caddy
// accepts.
var newcomers turns

// Turn waits until a new connection may have its first request handled. The documentation of the
// package says when to call it.
func Turn() { newcomers.take(false) }

// AcceptTurn waits until a listener may accept its next connection. It goes before others that
// wait: behind them, anybody who opens many sessions could keep the listener from accepting.
func AcceptTurn() { newcomers.take(true) }

// turns are given in the order in which they are asked for. The first that waits leads: it
// waits until nothing else is ready, and gives turns to itself and to those behind it. So
// there is no goroutine for it. The zero value is ready.
type turns struct {
	mu      sync.Mutex // guards the following; no other lock is taken under it
	begun   time.Time  // when this round began
	free    int        // turns that are left in this round
	waiting []*newcomer
	idle    idleWait // owned by the leader: the first that waits
}

// A newcomer waits for its turn.
type newcomer struct {
	// Locked until it has its turn, or leads. It is a mutex because a channel of a test's
	// bubble could not be used from another one.
	asleep sync.Mutex
	leads  bool // set before asleep is unlocked
}

// take waits for a turn, which takes only as long as other work is ready. With first, the caller
// goes before all that wait but the leader.
func (t *turns) take(first bool) {
	t.mu.Lock()
	if len(t.waiting) == 0 {
		now := time.Now()
		if d := now.Sub(t.begun); d < 0 || d > turnRound { // a clock of a test may go back
			t.begun, t.free = now, turnsFor(0)
		}
		if t.free > 0 {
			t.free--
			t.mu.Unlock()
			return
		}
	}
	me := new(newcomer)
	me.asleep.Lock()
	leads := len(t.waiting) == 0
	if first && !leads {
		t.waiting = slices.Insert(t.waiting, 1, me)
	} else {
		t.waiting = append(t.waiting, me)
	}
	t.mu.Unlock()
	if !leads {
		me.asleep.Lock() // until a leader unlocks it
		if !me.leads {
			return
		}
	}
	t.lead()
}

// lead waits until nothing else is ready, and gives turns to the caller, which is the first
// that waits, and to those behind it. The next one then leads.
func (t *turns) lead() {
	begun := time.Now()
	t.idle.wait()
	n := turnsFor(time.Since(begun))
	t.mu.Lock()
	defer t.mu.Unlock()
	given := min(n, len(t.waiting))
	for _, each := range t.waiting[1:given] {
		each.asleep.Unlock()
	}
	t.waiting = slices.Delete(t.waiting, 0, given)
	if len(t.waiting) > 0 {
		t.waiting[0].leads = true
		t.waiting[0].asleep.Unlock()
		return
	}
	t.begun, t.free = time.Now(), n-given
	if cap(t.waiting) > keptWaiting {
		t.waiting = nil
	}
}

// turnsFor returns how many turns are given after waiting for some time.
func turnsFor(waited time.Duration) int {
	return runtime.GOMAXPROCS(0) * int(min(fewTurns+max(waited, 0)/turnShare, mostTurns))
}
