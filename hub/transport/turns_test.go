// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// isAsleep reports whether a newcomer still waits.
func (n *newcomer) isAsleep() bool {
	if !n.asleep.TryLock() {
		return true
	}
	n.asleep.Unlock()
	return false
}

func TestTurnsAreGivenInOrder(t *testing.T) {
	ts := new(turns)
	all := make([]*newcomer, mostTurns*runtime.GOMAXPROCS(0)+10)
	for i := range all {
		all[i] = new(newcomer)
		all[i].asleep.Lock()
	}
	ts.waiting = slices.Clone(all)
	ts.lead()
	given := len(all) - len(ts.waiting)
	if least, most := turnsFor(0), turnsFor(time.Hour); given < least || given > most {
		t.Errorf("%d turns are given, want %d to %d", given, least, most)
	}
	for i, n := range all[1:] { // the first has led
		i++
		if asleep, want := n.isAsleep(), i > given; asleep != want {
			t.Errorf("newcomer %d waits: %v, want %v: %d turns were given", i, asleep, want, given)
		}
		if n.leads != (i == given) {
			t.Errorf("newcomer %d leads: %v; %d turns were given", i, n.leads, given)
		}
	}
}

// If many wait, each gets its turn, even if the server always has something else to do.
func TestAllNewcomersGetATurn(t *testing.T) {
	for _, busy := range []bool{false, true} {
		ts := new(turns)
		var over atomic.Bool
		var working, coming sync.WaitGroup
		if busy {
			for range 2 * runtime.GOMAXPROCS(0) {
				working.Go(func() {
					for !over.Load() {
						runtime.Gosched()
					}
				})
			}
		}
		for range 300 {
			coming.Go(func() {
				ts.take(false)
				ts.take(false)
			})
		}
		coming.Wait()
		over.Store(true)
		working.Wait()
		if len(ts.waiting) > 0 {
			t.Errorf("busy=%v: %d wait", busy, len(ts.waiting))
		}
	}
}

// A newcomer waits until those that are ready have run, if there are more newcomers than a
// round has turns for.
func TestNewcomersLetOthersGoFirst(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this is a wait that only Linux has")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	// When the system stops this process for a while, the runtime asks its poller at once
	// afterwards, and a newcomer may go first.
	const tries = 100
	for range tries {
		var ran atomic.Int32
		var others sync.WaitGroup
		const n = 50
		for range n {
			others.Go(func() { ran.Add(1) })
		}
		ts := &turns{begun: time.Now()} // none is left in this round
		ts.take(false)
		before := ran.Load()
		others.Wait()
		if before == n {
			return
		}
	}
	t.Errorf("in %d tries, a newcomer did not wait for all that was ready", tries)
}

// A listener need not wait for all who came before it.
func TestListenersGoFirst(t *testing.T) {
	ts := &turns{begun: time.Now().Add(time.Hour)} // no turn is free, whatever the time is
	leader, other := new(newcomer), new(newcomer)
	ts.waiting = []*newcomer{leader, other}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ts.take(true)
	}()
	waitFor(t, "the listener", func() bool {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		return len(ts.waiting) == 3
	})
	if ts.waiting[0] != leader || ts.waiting[2] != other {
		t.Error("it is not behind the leader, and before the other")
	}
	other.asleep.Lock()
	ts.lead()
	<-done
}

// In a new round, the first newcomers do not wait.
func TestFewNewcomersDoNotWait(t *testing.T) {
	ts := &turns{begun: time.Now().Add(-2 * turnRound)}
	ts.take(false)
	if want := turnsFor(0) - 1; ts.free != want || ts.idle != (idleWait{}) {
		t.Errorf("%d turns are left, want %d; the wait is %+v", ts.free, want, ts.idle)
	}
}

// A session's first bytes wait for their turn: those that connect it, and those that subscribe.
func TestSessionsBeginInTurn(t *testing.T) {
	ours, theirs := socketPair(t, "tcp")
	_ = theirs.SetDeadline(time.Now().Add(patience))
	a := newFakeAgent(hub.Limits{})
	r := newWSReader(ours, a, false, defaultTimes)
	left := []int8{r.turns}
	go r.run(nil)
	for n := range 3 {
		if _, err := theirs.Write(text(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the message", func() bool { return len(a.messages()) > n })
		left = append(left, r.turns) // the reader changes it when more arrives
	}
	if want := []int8{2, 1, 0, 0}; !slices.Equal(left, want) {
		t.Errorf("it has %v turns to wait for, at first and after each message, want %v", left, want)
	}
	_ = theirs.Close()
	<-a.left
}
