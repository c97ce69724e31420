// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// joinSize is how much is joined in one write: beyond it, another system
	// call costs little beside the copying.
	joinSize = 64 << 10
	// writeTimeout is how long one write may take until the peer is given up.
	writeTimeout = 10 * time.Second
	// closeGrace is how long an agent that is being closed may take to read what
	// was written and the notice that it is closed.
	closeGrace = 2 * time.Second
	// fanoutBatch is how many agents are handed to a flusher at a time: so few
	// that writing starts while a large channel is still being walked.
	fanoutBatch = 64
	// owedShare is what part of Limits.QueueMessages is handed out before the
	// flushers have looked.
	owedShare = 4
)

// An item waits in an agent's queue.
type item struct {
	bytes []byte   // as the agent's Form has it; shared, read-only
	msg   *Message // what bytes is of; nil for what is not a message
}

// Queues are pooled, because an agent holds one only while something waits.
var queuePool = sync.Pool{New: func() any { q := make([]item, 0, 8); return &q }}

// Join buffers are pooled too: one for each write under way.
var joinPool = sync.Pool{New: func() any { b := make([]byte, 0, joinSize); return &b }}

func putJoin(b *[]byte) {
	if cap(*b) <= 2*joinSize { // one large message makes it larger
		*b = (*b)[:0]
		joinPool.Put(b)
	}
}

func putQueue(q *[]item) {
	clear(*q)
	if cap(*q) <= 256 { // what a burst made large is left to the collector
		*q = (*q)[:0]
		queuePool.Put(q)
	}
}

// A flusher writes what is queued for its agents: one goroutine for each core.
type flusher struct {
	done chan struct{} // closed when run has returned; never sent on

	owed atomic.Int32 // messages handed to its agents since it last took its list

	mu     sync.Mutex // guards the following; no other lock is taken under it
	work   sync.Cond  // of mu: work has come, or closed is set
	taken  sync.Cond  // of mu: the list was taken, or closed is set
	dirty  []*Agent   // agents with something queued, each once
	closed bool
}

func newFlusher() *flusher {
	f := &flusher{done: make(chan struct{})}
	f.work.L, f.taken.L = &f.mu, &f.mu
	go f.run()
	return f
}

// add hands agents over. Their writing flag is set.
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
	for _, a := range agents { // who comes late is served by who brings it
		a.flush()
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

// keepUp waits, if that many messages have been handed out since the flusher last
// looked, until it does. It is the publisher that waits, with no lock held: so
// that a burst it sends does not fill the queues of agents that would read it,
// only because this machine has not come to writing yet.
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
			a.flush()
		}
	}
}

// flush writes what is queued without blocking. What the Conn does not take is
// left to a goroutine of the agent's own, so that nobody waits for it.
func (a *Agent) flush() {
	q, ok := a.takeQueue()
	if !ok {
		return
	}
	join := joinPool.Get().(*[]byte)
	rest, err := *q, error(ErrWouldBlock)
	if !a.blocks {
		rest, err = a.writeItems(*q, join, a.conn.TryWrite)
	}
	if errors.Is(err, ErrWouldBlock) {
		a.hub.drains.Add(1)
		go a.drain(q, rest, join)
		return
	}
	putJoin(join)
	if a.wrote(q, err) {
		// What came meanwhile waits for its turn behind all other agents.
		a.schedule()
	}
}

// drain goes on where flush could not: it blocks, for writeTimeout at most in
// one write, until the queue is empty. join holds what comes before rest.
func (a *Agent) drain(q *[]item, rest []item, join *[]byte) {
	defer a.hub.drains.Done()
	defer putJoin(join)
	n, err := a.writeBlocking(*join)
	a.sent += int64(n)
	a.hub.counts.lanes[a.lane].sent.Add(uint64(n))
	if err == nil {
		_, err = a.writeItems(rest, join, a.writeBlocking)
	}
	for a.wrote(q, err) {
		if q, _ = a.takeQueue(); q == nil {
			return
		}
		_, err = a.writeItems(*q, join, a.writeBlocking)
	}
}

// writeBlocking is Conn.Write under a deadline that is renewed only when a
// quarter of it has gone: a timer for each write would cost more than the write.
func (a *Agent) writeBlocking(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if now := a.hub.schedule.now(); !a.deadline || now-a.renewed > writeTimeout/4 {
		a.deadline, a.renewed = true, now
		if err := a.extendWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return 0, err
		}
	}
	return a.conn.Write(p)
}

// writeItems writes items, joined in join. When write would block, join holds
// what it did not take, and the items behind that are returned.
func (a *Agent) writeItems(items []item, join *[]byte, write func([]byte) (int, error)) (rest []item, err error) {
	gates := a.policy.Load().Gates
	buf := (*join)[:0]
	before := a.sent
	defer func() {
		*join = buf
		a.hub.counts.lanes[a.lane].sent.Add(uint64(a.sent - before))
	}()
	flush := func() error {
		n, err := write(buf)
		a.sent += int64(n)
		buf = buf[:copy(buf, buf[n:])]
		return err
	}
	for i, it := range items {
		b := it.bytes
		if gates != nil && it.msg != nil {
			if b = a.gated(gates, it); b == nil {
				items[i].msg = nil // it is not delivered
				a.hub.counts.drop(DropGate, 1)
				continue
			}
		}
		if len(buf) > 0 && len(buf)+len(b) > joinSize {
			if err := flush(); err != nil {
				return items[i:], err
			}
		}
		buf = append(buf, b...)
	}
	if len(buf) > 0 {
		err = flush()
	}
	return nil, err
}

// gated asks the deliver gate, and returns what is to be written.
func (a *Agent) gated(gates Gates, it item) []byte {
	g := gates.DeliverGate(it.msg.Channel)
	if g == nil {
		return it.bytes
	}
	switch m := g.Deliver(a, it.msg); m {
	case nil:
		return nil
	case it.msg:
		return it.bytes
	default:
		return m.encoded(a.conn.Form())
	}
}

// takeQueue takes what is queued for writing. When there is nothing to write any
// more it ends the writing, and the Conn too if that was the last word.
func (a *Agent) takeQueue() (*[]item, bool) {
	a.mu.Lock()
	for !a.heedsLocked() { // what has come under a new policy goes by that
		a.mu.Unlock()
		a.heed()
		a.mu.Lock()
	}
	q := a.queue
	if q != nil && a.state != stateGone {
		a.queue = nil
		a.mu.Unlock()
		return q, true
	}
	a.endWritingLocked()
	return nil, false
}

// wrote accounts for what was written and reports whether there is more to
// write. If not, the writing has ended.
func (a *Agent) wrote(q *[]item, err error) bool {
	var bytes, messages int
	for _, it := range *q {
		bytes += len(it.bytes)
		if it.msg != nil {
			messages++
		}
	}
	count := len(*q)
	putQueue(q)
	if err == nil {
		a.hub.counts.lanes[a.lane].delivered.Add(uint64(messages))
	} else {
		a.hub.counts.drop(DropGone, messages) // some may have arrived
	}
	a.mu.Lock()
	a.queued -= count
	a.queuedBytes -= bytes
	if err != nil {
		a.failLocked(err)
	}
	a.roomLocked()
	if a.queue != nil && a.state != stateGone {
		a.mu.Unlock()
		return true
	}
	if a.deadline && !a.blocks {
		// One that stays would fail a later TryWrite.
		a.deadline = false
		_ = a.extendWriteDeadlineLocked(time.Time{}) // what fails here fails the next write too
	}
	a.endWritingLocked()
	return false
}

// awaitRoom waits while more than half of the agent's queue is taken: who sends
// faster than it reads the answers is read from more slowly.
func (a *Agent) awaitRoom() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.state < stateClosing && a.crowdedLocked() {
		a.wantsRoom = true
		a.cond.Wait()
	}
}

func (a *Agent) crowdedLocked() bool {
	l := a.queueLimitsLocked()
	return a.queued > l.QueueMessages/2 || a.queued > 1 && a.queuedBytes > l.QueueBytes/2
}

// roomLocked wakes who waits for room, if there is some.
func (a *Agent) roomLocked() {
	if a.wantsRoom && !a.crowdedLocked() {
		a.wantsRoom = false
		a.cond.Broadcast()
	}
}

// endWritingLocked ends the writing, closes the Conn if all was said, and
// releases a.mu. It is called by whoever writes, with a.mu held.
func (a *Agent) endWritingLocked() {
	if a.state == stateClosing && !a.connClosed {
		a.connClosed = true
		code, reason := a.closeCode, a.closeReason
		a.mu.Unlock()
		a.conn.Close(code, reason)
		a.mu.Lock()
	}
	a.writing = false
	if a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
	a.mu.Unlock()
}

// failLocked gives up a Conn that failed to write. The caller holds a.mu.
func (a *Agent) failLocked(err error) {
	a.dropQueueLocked(DropGone)
	if a.state < stateClosing {
		a.state = stateClosing
		a.closeCode, a.closeReason = CloseSlow, "the connection does not take what is written"
		a.leftBecause = "write failed: " + err.Error()
		a.stateChangedLocked()
	}
}

// extendWriteDeadline sets the write deadline, to none if t is zero, unless the
// agent is being closed: then a shorter one may hold.
func (a *Agent) extendWriteDeadline(t time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.extendWriteDeadlineLocked(t)
}

// extendWriteDeadlineLocked needs a.mu, which keeps it in order with
// expireLocked.
func (a *Agent) extendWriteDeadlineLocked(t time.Time) error {
	if !a.closeBy.IsZero() && (t.IsZero() || a.closeBy.Before(t)) {
		t = a.closeBy
	}
	return a.conn.SetWriteDeadline(t)
}

// expireLocked gives what is being written until t at most. The caller holds
// a.mu.
func (a *Agent) expireLocked(t time.Time) {
	a.closeBy = t
	_ = a.conn.SetWriteDeadline(t) // a Conn that fails here fails its next write
}
