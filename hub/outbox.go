// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An item waits to be written to one agent.
type item struct {
	bytes []byte   // as the agent's Form has it; shared, read-only
	msg   *Message // what bytes is of; nil for what is not a message
}

// Lists of items are pooled, because an agent holds one only while something waits.
var itemsPool = sync.Pool{New: func() any { q := make([]item, 0, 8); return &q }}

func putItems(q *[]item) {
	clear(*q)
	if cap(*q) <= 256 { // what a burst made large is left to the collector
		*q = (*q)[:0]
		itemsPool.Put(q)
	}
}

// A queue is what waits to be written to one agent, within limits. What a writer has
// taken counts until it is written or given up. It is guarded by the agent's mu.
type queue struct {
	items  *[]item // nil while empty
	count  int     // of items that wait or are being written
	bytes  int
	limits *Limits
	former *Limits // higher limits, from before a reload, for a queue that exceeded the new ones
}

// fits reports whether n more bytes may be added. One item always fits an empty queue.
func (q *queue) fits(n int) bool {
	l := q.currentLimits()
	return q.count < l.QueueMessages && (q.count == 0 || q.bytes+n <= l.QueueBytes)
}

func (q *queue) add(it item) {
	if q.items == nil {
		q.items = itemsPool.Get().(*[]item)
	}
	*q.items = append(*q.items, it)
	q.count++
	q.bytes += len(it.bytes)
}

// take takes the first items, up to most bytes, but at least one; nil if there is none.
func (q *queue) take(most int) *[]item {
	all := q.items
	if all == nil {
		return nil
	}
	if most == math.MaxInt {
		q.items = nil
		return all
	}
	n, size := 1, len((*all)[0].bytes)
	for n < len(*all) && size+len((*all)[n].bytes) <= most {
		size += len((*all)[n].bytes)
		n++
	}
	if n == len(*all) {
		q.items = nil
		return all
	}
	part := itemsPool.Get().(*[]item)
	*part = append(*part, (*all)[:n]...)
	*all = slices.Delete(*all, 0, n)
	return part
}

// release takes out of the count what was taken before and is done with.
func (q *queue) release(count, bytes int) {
	q.count -= count
	q.bytes -= bytes
}

// putBack puts items that were taken in front again. They are the queue's then.
func (q *queue) putBack(items []item) {
	if len(items) == 0 {
		return
	}
	if q.items != nil {
		items = append(items, *q.items...)
		putItems(q.items)
	}
	q.items = &items
}

// drop drops the waiting messages that keep does not keep, and everything else too if
// keep is nil. It returns how many messages it has dropped.
func (q *queue) drop(keep func(*Message) bool) (messages int) {
	if q.items == nil {
		return 0
	}
	*q.items = slices.DeleteFunc(*q.items, func(it item) bool {
		if keep != nil && (it.msg == nil || keep(it.msg)) {
			return false
		}
		q.release(1, len(it.bytes))
		if it.msg != nil {
			messages++
		}
		return true
	})
	if len(*q.items) == 0 {
		putItems(q.items)
		q.items = nil
	}
	return messages
}

// setLimits replaces the limits. A queue that exceeds the new ones keeps the old ones
// until it is at half of the new ones.
func (q *queue) setLimits(l *Limits) {
	if q.former == nil && (q.count > l.QueueMessages || q.bytes > l.QueueBytes) {
		q.former = q.limits
	}
	q.limits = l
}

func (q *queue) currentLimits() *Limits {
	l := q.limits
	switch {
	case q.former == nil:
		return l
	case q.count <= l.QueueMessages/2 && q.bytes <= l.QueueBytes/2:
		q.former = nil
		return l
	default:
		return q.former
	}
}

// isCrowded reports whether more than half of the queue is taken.
func (q *queue) isCrowded() bool {
	l := q.currentLimits()
	return q.count > l.QueueMessages/2 || q.count > 1 && q.bytes > l.QueueBytes/2
}

// An outbox writes what waits for one agent to its Conn: one writer at a time, a flusher
// or a goroutine of the outbox's own.
type outbox struct {
	agent *Agent // whose it is; immutable

	// Set by Agent.Start, before anything else happens.
	conn   Conn
	blocks bool // conn cannot write without blocking

	revoked atomic.Uint32 // how often the right to waiting messages has ended; changed with mu held

	// Owned by who writes; see writing.
	deadline bool          // writes have one
	renewed  time.Duration // when it was set, by the hub's timers
	sent     int64         // bytes

	// Guarded by Agent.mu.
	queue    queue
	writing  bool          // a flusher has the agent on its list, a writer runs, or the outbox is parked
	parked   bool          // writing goes on when a reload is done with the agent
	silenced bool          // no message goes out any more: the agent was cut, or is too slow
	closed   bool          // conn.Close was called
	full     bool          // the agent's reader waits until half of the queue is free
	idle     chan struct{} // if not nil, closed when writing ends
	closeBy  time.Time     // when the agent is being closed: until when writes may take
}

// acceptLocked queues it, or closes the agent if it reads too slowly. It reports whether
// the caller must call Agent.notify once it has released the agent's mu.
func (o *outbox) acceptLocked(it item) (notify bool) {
	if !o.queue.fits(len(it.bytes)) {
		counts := o.agent.hub.counts
		counts.overflow[QueueAgent].Add(1)
		if it.msg != nil {
			counts.drop(DropSlow, 1)
		}
		return o.agent.closeLocked(CloseSlow, "you read slower than messages arrive on your channels", time.Second)
	}
	o.queue.add(it)
	return o.wakeLocked()
}

// wakeLocked reports whether the caller must call Agent.notify once it has released the
// agent's mu.
func (o *outbox) wakeLocked() bool {
	switch {
	case o.conn == nil:
		return false
	case o.parked && o.agent.isCurrentLocked():
		o.parked = false
		return true
	case o.writing:
		return false
	}
	o.writing = true
	return true
}

// dropLocked drops all that waits.
func (o *outbox) dropLocked(why DropReason) {
	o.agent.hub.counts.drop(why, o.queue.drop(nil))
}

// revokeLocked drops the messages that keep does not keep, because the right to them has
// ended. What a writer has taken, but not written, comes back and is dropped too.
func (o *outbox) revokeLocked(keep func(*Message) bool) {
	o.revoked.Add(1)
	o.agent.hub.counts.drop(DropRevoked, o.queue.drop(keep))
	o.roomLocked()
}

// awaitRoom waits while the queue is crowded: an agent that sends faster than it reads
// the answers is read from more slowly.
func (o *outbox) awaitRoom() {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.state < stateClosing && o.queue.isCrowded() {
		o.full = true
		a.cond.Wait()
	}
}

// roomLocked wakes the reader that waits for room, if there is some.
func (o *outbox) roomLocked() {
	if o.full && !o.queue.isCrowded() {
		o.full = false
		o.agent.cond.Broadcast()
	}
}

// expireLocked gives writes until t at most.
func (o *outbox) expireLocked(t time.Time) {
	o.closeBy = t
	_ = o.conn.SetWriteDeadline(t) // a Conn that fails here fails its next write
}

// setDeadline sets the write deadline, to none if t is zero, unless the agent is being
// closed: then a shorter one may hold.
func (o *outbox) setDeadline(t time.Time) error {
	o.agent.mu.Lock()
	defer o.agent.mu.Unlock()
	return o.setDeadlineLocked(t)
}

// setDeadlineLocked needs the agent's mu, which keeps it in order with expireLocked.
func (o *outbox) setDeadlineLocked(t time.Time) error {
	if !o.closeBy.IsZero() && (t.IsZero() || o.closeBy.Before(t)) {
		t = o.closeBy
	}
	return o.conn.SetWriteDeadline(t)
}
