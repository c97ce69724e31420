// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"sync"
	"time"
)

const (
	// maxReviewers is how many agents are asked about at a time after a reload. A
	// guard that asks a backend lets through 64 questions of them by itself.
	maxReviewers = 128
	// reviewPatience is how long one answer is waited for before the next agent has
	// its turn: the question goes on.
	reviewPatience = 5 * time.Second
)

// reviewers have the gates asked that changed at a reload: one agent after the
// other, so many at a time that a reload with fifty thousand agents makes no
// fifty thousand goroutines.
type reviewers struct {
	mu      sync.Mutex // guards the following; no other lock is taken under it
	waiting []*Agent   // each once
	running int
}

// add has an agent reviewed for which something is ready.
func (r *reviewers) add(a *Agent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.awaitsReview {
		return
	}
	a.awaitsReview = true
	r.waiting = append(r.waiting, a)
	if r.running < maxReviewers {
		r.running++
		go r.run()
	}
}

// run reviews until nobody waits.
func (r *reviewers) run() {
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			r.waiting = nil
			r.running--
			r.mu.Unlock()
			return
		}
		a := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		a.awaitsReview = false
		r.mu.Unlock()
		a.reviewReady()
	}
}

// reviewReady has the gates asked for what is ready, one after the other.
func (a *Agent) reviewReady() {
	for o := a.nextReady(); o != nil; o = a.nextReady() {
		a.countAsked()
		a.performAndWait(o)
	}
	a.reloaded()
}

// nextReady returns what is to be asked next, nil when there is nothing more: the
// connect gate first, since it says who the agent is.
func (a *Agent) nextReady() *op {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		return nil
	}
	if a.right.ready {
		a.right.ready = false
		return &op{gate: GateConnect, silent: true, reload: true}
	}
	for _, s := range a.subs {
		if s.right.ready && !s.asked {
			s.right.ready, s.asked = false, true
			return &op{gate: GateSubscribe, channel: s.channel, sub: s, reload: true}
		}
	}
	return nil
}

// performAndWait performs o and waits until it is done with, the agent is gone, or
// it takes too long.
func (a *Agent) performAndWait(o *op) {
	o.finished = make(chan struct{})
	a.mu.Lock()
	ctx := a.askingLocked().ctx
	a.mu.Unlock()
	a.perform(o)
	late := time.NewTimer(reviewPatience)
	defer late.Stop()
	select {
	case <-o.finished:
	case <-ctx.Done():
	case <-late.C:
	}
}
