// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"sync"
	"sync/atomic"
)

const (
	// fanoutBatch is how many agents are handed to a flusher at a time: so few
	// that writing starts while a large channel is still being walked.
	fanoutBatch = 64
	// owedShare is what part of Limits.QueueMessages is handed out before the
	// flushers have looked.
	owedShare = 4
)

// A flusher writes what waits for the agents of one shard: one goroutine for each core.
type flusher struct {
	done chan struct{} // closed when run has returned; never sent on

	owed atomic.Int32 // messages handed to its agents since it last took its list

	mu     sync.Mutex // guards the following; no other lock is taken under it
	work   sync.Cond  // of mu: work has come, or closed is set
	taken  sync.Cond  // of mu: the list was taken, or closed is set
	dirty  []*Agent   // agents that something waits for, each once
	closed bool
}

func newFlusher() *flusher {
	f := &flusher{done: make(chan struct{})}
	f.work.L, f.taken.L = &f.mu, &f.mu
	go f.run()
	return f
}

// add hands agents over. The writing flag of their outboxes is set.
func (f *flusher) add(agents ...*Agent) {
	f.mu.Lock()
	closed := f.closed
	if !closed {
		f.dirty = append(f.dirty, agents...)
	}
	f.mu.Unlock()
	if !closed {
		f.work.Signal()
		return
	}
	for _, a := range agents { // the flusher is gone: the caller does its work
		a.out.flush()
	}
}

func (f *flusher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.work.Signal()
	f.taken.Broadcast()
	<-f.done
}

// keepUp waits until the flusher looks at its list, if that many messages were handed to
// its agents since it last did. The publisher calls it, and holds no lock: its burst must
// not fill the queues of agents that read fast, only because this machine writes late.
func (f *flusher) keepUp(most int32) {
	if f.owed.Load() < most {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.owed.Load() >= most && !f.closed && len(f.dirty) > 0 {
		f.taken.Wait()
	}
}

func (f *flusher) run() {
	defer close(f.done)
	var work []*Agent
	for {
		f.mu.Lock()
		for len(f.dirty) == 0 && !f.closed {
			f.work.Wait()
		}
		if len(f.dirty) == 0 {
			f.mu.Unlock()
			return
		}
		work, f.dirty = f.dirty, work[:0]
		f.owed.Store(0)
		f.mu.Unlock()
		f.taken.Broadcast()
		for i, a := range work {
			work[i] = nil
			a.out.flush()
		}
	}
}

// writers are the goroutines that write for one agent each.
type writers struct {
	mu     sync.Mutex // guards closed; no other lock is taken under it
	closed bool
	group  sync.WaitGroup
}

// start runs write in a goroutine. Once the hub closes, nobody waits for those that
// start: their agents are being closed too, which bounds their writes.
func (w *writers) start(write func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		go write()
		return
	}
	w.group.Go(write)
}

// wait waits for all that have started.
func (w *writers) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.group.Wait()
}
