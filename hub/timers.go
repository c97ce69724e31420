// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"container/heap"
	"sync"
	"time"
)

// timerGrain joins what is due at nearly the same time, so that a hundred
// thousand heartbeats wake the goroutine ten times a second, not thousands.
const timerGrain = 100 * time.Millisecond

// timers call agents when they are due: one goroutine and one timer for all
// of them, none running while there is no agent.
type timers struct {
	start time.Time // its monotonic clock begins here: steps of the wall clock move nothing

	done chan struct{} // closed when run has returned; never sent on
	wake chan struct{} // buffered(1): set and close never block; never closed

	mu     sync.Mutex // guards the following; no other lock is taken under it
	heap   dueHeap
	closed bool
}

// A dueEntry is an agent's place among the timers. It is a part of the agent.
type dueEntry struct {
	at    time.Duration // on the timers' clock; guarded by timers.mu, as are the others
	index int           // in the heap; valid while listed
	on    bool          // listed
}

func newTimers() *timers {
	s := &timers{start: time.Now(), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go s.run()
	return s
}

// now is the time on the timers' clock.
func (s *timers) now() time.Duration { return time.Since(s.start) }

// set makes a due in so long from now, in place of any other time.
func (s *timers) set(a *Agent, in time.Duration) { s.plan(a, in, false) }

// setNoLater makes a due in so long from now, unless it is due before.
func (s *timers) setNoLater(a *Agent, in time.Duration) { s.plan(a, in, true) }

func (s *timers) plan(a *Agent, in time.Duration, keepEarlier bool) {
	at := (s.now() + in + timerGrain - 1).Truncate(timerGrain)
	s.mu.Lock()
	if s.closed || keepEarlier && a.due.on && a.due.at <= at {
		s.mu.Unlock()
		return
	}
	a.due.at = at
	if a.due.on {
		heap.Fix(&s.heap, a.due.index)
	} else {
		heap.Push(&s.heap, a)
	}
	first := a.due.index == 0
	s.mu.Unlock()
	if first {
		s.kick()
	}
}

// drop takes a out.
func (s *timers) drop(a *Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.due.on {
		heap.Remove(&s.heap, a.due.index)
	}
}

func (s *timers) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.kick()
	<-s.done
}

func (s *timers) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *timers) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		a, wait, open := s.pop(s.now())
		switch {
		case !open:
			return
		case a != nil:
			if in := a.tick(); in > 0 {
				s.setNoLater(a, in)
			}
			continue
		case wait < 0:
			timer.Stop()
		default:
			timer.Reset(wait)
		}
		select {
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// pop returns an agent that is due, or how long until one is: -1 for none.
func (s *timers) pop(now time.Duration) (a *Agent, wait time.Duration, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, 0, false
	case len(s.heap) == 0:
		return nil, -1, true
	case s.heap[0].due.at > now:
		return nil, s.heap[0].due.at - now, true
	default:
		return heap.Pop(&s.heap).(*Agent), 0, true
	}
}

// dueHeap implements heap.Interface: the agent that is due first is the first.
type dueHeap []*Agent

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.at < h[j].due.at }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due.index, h[j].due.index = i, j
}

func (h *dueHeap) Push(x any) {
	a := x.(*Agent)
	a.due.index, a.due.on = len(*h), true
	*h = append(*h, a)
}

func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	a := old[last]
	old[last] = nil
	*h = old[:last]
	a.due.on = false
	return a
}
