// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"sync"
)

// fanoutBatch is how many agents a fan-out hands to a flusher at a time. It is small
// enough that writing starts while the fan-out still walks through a large channel.
const fanoutBatch = 64

// A flusher writes the queues of the agents of one shard. There is one for each core.
type flusher struct {
	done chan struct{} // closed when run has returned; never sent on

	mu     sync.Mutex // guards the following; no other lock is taken under it
	work   sync.Cond  // on mu: dirty is not empty, or closed is set
	dirty  []*Agent   // agents with something to write, each once
	closed bool
}

func newFlusher() *flusher {
	f := &flusher{done: make(chan struct{})}
	f.work.L = &f.mu
	go f.run()
	return f
}

// add puts agents on the list. The caller has set the writing flags of their outboxes.
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
	for _, a := range agents { // run has returned, so the caller writes
		w := new(flushing)
		a.out.flush(w)
		w.rest()
	}
}

func (f *flusher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.work.Signal()
	<-f.done
}

func (f *flusher) run() {
	defer close(f.done)
	var work []*Agent
	var w flushing
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
		f.mu.Unlock()
		for i, a := range work {
			work[i] = nil
			a.out.flush(&w)
		}
		w.rest()
	}
}

// flushing is what a flusher uses again and again for the agents that it writes for.
type flushing struct {
	taken taken
	join  *joinBuffer // nil until several items have to be joined
}

// joinBuffer returns the buffer to join items in.
func (w *flushing) joinBuffer() *joinBuffer {
	if w.join == nil {
		w.join = getJoin(joinSize)
	}
	return w.join
}

// rest gives back what an idle flusher need not hold.
func (w *flushing) rest() {
	if w.join != nil {
		putJoin(w.join)
		w.join = nil
	}
}

// writers counts the goroutines that write for one agent each.
type writers struct {
	mu     sync.Mutex // guards closed; no other lock is taken under it
	closed bool
	group  sync.WaitGroup
}

// start runs write in a goroutine. While the hub closes, start does not count it, because
// WaitGroup.Go must not run beside Wait. Its agent is being closed too, so its writes end
// soon.
func (w *writers) start(write func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		go write()
		return
	}
	w.group.Go(write)
}

// wait waits for all goroutines that start has counted.
func (w *writers) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.group.Wait()
}
