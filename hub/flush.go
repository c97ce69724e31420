// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"errors"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// joinSize is how much is joined in one write: beyond it, another system
	// call costs little beside the copying.
	joinSize = 64 << 10
	// blockingJoinSize is joinSize for a Conn that may block: what it has been
	// given cannot be taken back when a reload ends the right to it. TLS makes
	// records of this size, so larger writes would save nothing.
	blockingJoinSize = 16 << 10
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

// A joinBuffer is what one write carries.
type joinBuffer struct {
	bytes []byte
	ends  []int // where in bytes each of its items ends
}

// Join buffers are pooled by size: each write under way has one, and a write that
// blocks holds on to no more than about what it writes.
var (
	joinSizes = [...]int{1 << 10, 4 << 10, blockingJoinSize, joinSize}
	joinPools [len(joinSizes)]sync.Pool
)

// getJoin returns an empty buffer for about that many bytes.
func getJoin(size int) *joinBuffer {
	class := 0
	for class < len(joinSizes)-1 && joinSizes[class] < size {
		class++
	}
	if b, ok := joinPools[class].Get().(*joinBuffer); ok {
		return b
	}
	return &joinBuffer{bytes: make([]byte, 0, joinSizes[class])}
}

func putJoin(b *joinBuffer) {
	if cap(b.bytes) > 2*joinSize { // one large message made it so
		return
	}
	class := len(joinSizes) - 1
	for class > 0 && joinSizes[class] > cap(b.bytes) {
		class--
	}
	b.bytes, b.ends = b.bytes[:0], b.ends[:0]
	joinPools[class].Put(b)
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
// left to a goroutine of the agent's own, so that nobody waits for it. flush runs no
// gate but those of deliveries: an agent whose policy has changed is parked until a
// reload has seen to it.
func (a *Agent) flush() {
	if a.blocks {
		a.hub.writers.start(func() { a.writeOut(nil) })
		return
	}
	q, r := a.takeQueue(math.MaxInt, false)
	if q == nil {
		return
	}
	join := getJoin(joinSize)
	done, err := a.writeItems(*q, r, join, a.conn.TryWrite)
	begun := bytes.Clone(join.bytes)
	putJoin(join)
	switch {
	case errors.Is(err, ErrWouldBlock):
		a.putBack(q, done, r)
		a.hub.writers.start(func() { a.writeOut(begun) })
		return
	case errors.Is(err, errOutdated):
		a.putBack(q, done, r)
		a.schedule()
		return
	}
	if a.wrote(q, err) {
		// What came meanwhile waits for its turn behind all other agents.
		a.schedule()
	}
}

// rules are what a part of the queue was taken under.
type rules struct {
	policy  *Policy
	revoked uint32 // Agent.revoked then
}

// errOutdated says that nothing was written because the rules have changed since the
// queue was taken.
var errOutdated = errors.New("the rules have changed")

// isOutdated reports whether what was taken under r may have lost its right to go out.
func (a *Agent) isOutdated(r rules) bool {
	return a.policy.Load() != r.policy || a.revoked.Load() != r.revoked
}

// parkLocked leaves the agent to the reload that its policy has changed by: nothing
// is written under rules that are no longer in force. Whoever completes the change
// hands the agent to its flusher again. It releases a.mu.
func (a *Agent) parkLocked() {
	a.parked = true
	a.mu.Unlock()
	if r := a.reload.Load(); r != nil {
		r.hurry(a)
	} else {
		go a.heed()
	}
}

// writers are the goroutines that write for one agent each.
type writers struct {
	mu     sync.Mutex // guards closed; no other lock is taken under it
	closed bool
	group  sync.WaitGroup
}

// start runs write in a goroutine. Those that start while the hub closes nobody waits
// for: their agents are being closed too, which bounds their writes.
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

// writeOut goes on where flush could not: it blocks, for writeTimeout at most in
// one write, until the queue is empty. begun is the rest of a frame that the Conn has
// taken in part. Everything else stays in the queue until the Conn can take it, so
// that what is written is decided at the last moment.
func (a *Agent) writeOut(begun []byte) {
	if len(begun) > 0 {
		n, err := a.writeBlocking(begun)
		a.noteSent(n)
		if !a.wrote(nil, err) {
			return
		}
	}
	waiter, waits := a.conn.(Waiter)
	most := blockingJoinSize
	if waits {
		most = joinSize // it hands over at once
	}
	for {
		if waits {
			a.awaitReader(waiter)
		}
		q, r := a.takeQueue(most, true)
		if q == nil {
			return
		}
		join := getJoin(sizeOf(*q))
		done, err := a.writeItems(*q, r, join, a.writeBlocking)
		putJoin(join)
		if errors.Is(err, errOutdated) || waits && errors.Is(err, ErrWouldBlock) {
			a.putBack(q, done, r)
			continue
		}
		if !a.wrote(q, err) {
			return
		}
	}
}

func sizeOf(items []item) (n int) {
	for _, it := range items {
		n += len(it.bytes)
	}
	return n
}

// awaitReader waits until somebody reads from the Conn. Heartbeats wait for nobody.
func (a *Agent) awaitReader(w Waiter) {
	a.mu.Lock()
	beat := a.conn.Form().Heartbeat
	matters := a.queue != nil && slices.ContainsFunc(*a.queue, func(it item) bool {
		return len(it.bytes) == 0 || len(beat) == 0 || &it.bytes[0] != &beat[0]
	})
	if matters && a.deadline {
		a.deadline = false // it was for the write before
		_ = a.extendWriteDeadlineLocked(time.Time{})
	}
	a.mu.Unlock()
	if matters {
		w.Await()
	}
}

// putBack puts items that were taken, but not written, in front of the queue again.
// done of them are accounted for. If the rules they were taken under have changed,
// those that the agent's subscriptions do not cover any more are dropped.
func (a *Agent) putBack(q *[]item, done int, r rules) {
	count, size, messages := tallyOf((*q)[:done])
	a.hub.counts.lanes[a.lane].delivered.Add(uint64(messages))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queued -= count
	a.queuedBytes -= size
	changed := a.isOutdated(r)
	rest := make([]item, 0, len(*q)-done+8)
	for _, it := range (*q)[done:] {
		switch {
		case it.msg == heldBack:
			a.discountLocked(it)
		case it.msg != nil && (a.silenced || changed && !a.isCoveredLocked(it.msg)):
			a.discountLocked(it)
			a.hub.counts.drop(a.dropReasonLocked(), 1)
		default:
			rest = append(rest, it)
		}
	}
	putQueue(q)
	if a.state == stateGone {
		for _, it := range rest {
			a.discountLocked(it)
			if it.msg != nil {
				a.hub.counts.drop(DropGone, 1)
			}
		}
		return
	}
	if len(rest) == 0 {
		return
	}
	if a.queue != nil {
		rest = append(rest, *a.queue...)
		putQueue(a.queue)
	}
	a.queue = &rest
}

// discountLocked takes it out of what counts for the queue's limits.
func (a *Agent) discountLocked(it item) {
	a.queued--
	a.queuedBytes -= len(it.bytes)
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

// heldBack marks an item that the deliver gate has kept from the agent.
var heldBack = new(Message)

// writeItems writes items that were taken under r, joined in join. It returns how many
// of them are done with, from the first on. When write would block, the last of those
// may have been taken in part: join holds what is missing of it. The deliver gates may
// take their time, so each write looks at the rules once more: errOutdated.
func (a *Agent) writeItems(items []item, r rules, join *joinBuffer, write func([]byte) (int, error)) (done int, err error) {
	gates := r.policy.Gates
	join.bytes, join.ends = join.bytes[:0], join.ends[:0]
	before := a.sent
	defer func() { a.hub.counts.lanes[a.lane].sent.Add(uint64(a.sent - before)) }()
	flush := func() error {
		if a.isOutdated(r) {
			join.bytes = join.bytes[:0]
			return errOutdated
		}
		n, err := write(join.bytes)
		a.sent += int64(n)
		k := 0
		for k < len(join.ends) && join.ends[k] <= n {
			k++
		}
		rest := join.bytes[:0]
		if n > 0 && k < len(join.ends) && (k == 0 || join.ends[k-1] < n) {
			rest = join.bytes[:copy(join.bytes, join.bytes[n:join.ends[k]])]
			k++
		}
		done += k
		join.bytes, join.ends = rest, join.ends[:0]
		return err
	}
	for i, it := range items {
		b := it.bytes
		if gates != nil && it.msg != nil {
			if b = a.gated(gates, it); b == nil {
				items[i].msg = heldBack
				a.hub.counts.drop(DropGate, 1)
			}
		}
		if len(join.bytes) > 0 && len(join.bytes)+len(b) > joinSize {
			if err := flush(); err != nil {
				return done, err
			}
		}
		join.bytes = append(join.bytes, b...)
		join.ends = append(join.ends, len(join.bytes))
	}
	if len(join.bytes) > 0 {
		if err := flush(); err != nil {
			return done, err
		}
	}
	return len(items), nil
}

func (a *Agent) noteSent(n int) {
	a.sent += int64(n)
	a.hub.counts.lanes[a.lane].sent.Add(uint64(n))
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

// takeQueue takes what is queued for writing, up to most bytes, but at least one
// item, and says under which rules. When there is nothing to write any more it ends
// the writing, and the Conn too if that was the last word. It waits for a reload only
// if wait is set, else it parks the agent.
func (a *Agent) takeQueue(most int, wait bool) (*[]item, rules) {
	a.mu.Lock()
	for !a.heedsLocked() { // what has come under a new policy goes by that
		if !wait {
			a.parkLocked()
			return nil, rules{}
		}
		a.mu.Unlock()
		a.heed()
		a.mu.Lock()
	}
	q := a.queue
	if q == nil || a.state == stateGone {
		a.endWritingLocked()
		return nil, rules{}
	}
	defer a.mu.Unlock()
	r := rules{policy: a.heeded, revoked: a.revoked.Load()}
	if a.state >= stateClosing { // a reload does not see to it any more
		r.policy = a.policy.Load()
	}
	if most == math.MaxInt {
		a.queue = nil
		return q, r
	}
	n, size := 1, len((*q)[0].bytes)
	for n < len(*q) && size+len((*q)[n].bytes) <= most {
		size += len((*q)[n].bytes)
		n++
	}
	if n == len(*q) {
		a.queue = nil
		return q, r
	}
	part := queuePool.Get().(*[]item)
	*part = append(*part, (*q)[:n]...)
	*q = slices.Delete(*q, 0, n)
	return part, r
}

// tallyOf returns how many items there are, their size, and how many of them are
// messages that were not held back.
func tallyOf(items []item) (count, size, messages int) {
	for _, it := range items {
		size += len(it.bytes)
		if it.msg != nil && it.msg != heldBack {
			messages++
		}
	}
	return len(items), size, messages
}

// wrote accounts for what was written, nil for nothing, and reports whether there is
// more to write. If not, the writing has ended.
func (a *Agent) wrote(q *[]item, err error) bool {
	var count, size, messages int
	if q != nil {
		count, size, messages = tallyOf(*q)
		putQueue(q)
	}
	if err == nil {
		a.hub.counts.lanes[a.lane].delivered.Add(uint64(messages))
	}
	a.mu.Lock()
	a.queued -= count
	a.queuedBytes -= size
	if err != nil {
		a.failLocked(err, messages)
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

// failLocked gives up a Conn that failed to write that many messages, some of which
// may have arrived: its peer reads too slowly, or is gone. An agent that is being
// closed keeps its own reason. The caller holds a.mu.
func (a *Agent) failLocked(err error, messages int) {
	closing := a.state >= stateClosing
	slow := errors.Is(err, os.ErrDeadlineExceeded) && !closing || closing && a.closeCode == CloseSlow
	why := DropGone
	if slow {
		why = DropSlow
	}
	a.hub.counts.drop(why, messages)
	a.dropQueueLocked(why)
	if closing {
		return
	}
	a.state = stateClosing
	a.closeCode, a.closeReason = CloseNormal, "the connection is gone"
	if slow {
		a.closeCode, a.closeReason = CloseSlow, "the connection does not take what is written"
	}
	a.leftBecause = "write failed: " + err.Error()
	a.stateChangedLocked()
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
