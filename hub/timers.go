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
	if s.closed || keepEarlier && a.due != 0 && s.heap[a.due-1].at <= at {
		s.mu.Unlock()
		return
	}
	if a.due == 0 {
		s.heap = append(s.heap, dueAgent{agent: a})
		a.due = int32(len(s.heap))
	}
	s.heap[a.due-1].at = at
	heap.Fix(&s.heap, int(a.due-1))
	first := a.due == 1
	s.mu.Unlock()
	if first {
		s.kick()
	}
}

// drop removes a: it is never due again.
func (s *timers) drop(a *Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.due != 0 {
		heap.Remove(&s.heap, int(a.due-1))
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
	case s.heap[0].at > now:
		return nil, s.heap[0].at - now, true
	default:
		return heap.Pop(&s.heap).(*Agent), 0, true
	}
}

// A dueAgent is an agent that is due at a time, on the hub's clock. The time is not in the
// agent: the heap compares times without a look at each agent.
type dueAgent struct {
	at    time.Duration
	agent *Agent
}

// dueHeap implements heap.Interface. The agent that is due next is the first.
type dueHeap []dueAgent

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].agent.due, h[j].agent.due = int32(i+1), int32(j+1)
}

// Push is not used: timers.plan adds agents.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(dueAgent)) }

func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	a := old[last].agent
	old[last] = dueAgent{}
	*h = old[:last]
	a.due = 0
	return a
}
