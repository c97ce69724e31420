// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"container/heap"
	"sync"
	"time"
)

// timerGrain rounds the times at which agents are due. So a hundred thousand heartbeats
// wake the goroutine ten times a second, not thousands of times.
const timerGrain = 100 * time.Millisecond

// timers call Agent.tick when an agent is due. One goroutine and one timer serve all
// agents.
type timers struct {
	start time.Time // the zero of the hub's clock, which is monotonic: changes of the wall clock have no effect

	done chan struct{} // closed when run has returned; never sent on
	wake chan struct{} // buffered(1), so that set and close never block; never closed

	mu     sync.Mutex // guards the following; no other lock is taken under it
	heap   dueHeap
	closed bool
}

// A dueEntry is an agent's entry in the heap. It is a part of the agent. timers.mu guards
// it.
type dueEntry struct {
	at    time.Duration // on the hub's clock
	index int           // in the heap; valid while on is set
	on    bool          // the agent is in the heap
}

func newTimers() *timers {
	s := &timers{start: time.Now(), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go s.run()
	return s
}

// now returns the time on the hub's clock.
func (s *timers) now() time.Duration { return time.Since(s.start) }

// set makes a due after the time in, and replaces any other time.
func (s *timers) set(a *Agent, in time.Duration) { s.plan(a, in, false) }

// setNoLater makes a due after the time in, unless it is due earlier.
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

// drop removes a: it is never due again.
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

// pop removes and returns an agent that is due. If none is, it returns how long until one
// is, or -1 if there is no agent.
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

// dueHeap implements heap.Interface. The agent that is due next is the first.
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
