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
	bytes []byte   // in the encoding of the agent's Form; shared, read-only
	msg   *Message // what bytes encodes, if it is about a channel; nil for any other frame
}

// isMessage reports whether the item is a message, and not another frame.
func (it *item) isMessage() bool { return it.msg != nil && !it.msg.presence }

// Lists of items are pooled, because an agent holds one only while several wait.
var itemsPool = sync.Pool{New: func() any { q := make([]item, 0, 8); return &q }}

func putItems(q *[]item) {
	clear(*q)
	if cap(*q) <= 256 { // leave a list that a burst made large to the garbage collector
		*q = (*q)[:0]
		itemsPool.Put(q)
	}
}

// A queue holds the items that wait to be written to one agent, within limits. An item
// that a writer has taken still counts until it is written or dropped. The agent's mu
// guards the queue.
type queue struct {
	count int     // number of items that wait or are being written
	bytes int     // and their size
	one   item    // the item that waits, if it is the only one and has bytes; then items is nil
	items *[]item // all items that wait; nil if there is none, or one

	conflation *conflation // nil until there is a message that a newer one may replace
	former     *Limits     // the limits before a reload, while the queue exceeds the new ones
	lag        *lag        // not nil while so much waits that publishers wait
	limits     *Limits
}

// fits reports whether n more bytes may be added. One item always fits an empty queue.
func (q *queue) fits(n int) bool {
	if q.count == 0 {
		return true
	}
	l := q.currentLimits()
	return q.count < l.QueueMessages && q.bytes+n <= l.QueueBytes
}

func (q *queue) add(it item) {
	q.count++
	q.bytes += len(it.bytes)
	if q.items == nil {
		if q.one.bytes == nil && it.bytes != nil {
			q.one = it
			return
		}
		q.items = itemsPool.Get().(*[]item)
		q.listOne()
	}
	*q.items = append(*q.items, it)
}

// listOne moves the only item to the empty list.
func (q *queue) listOne() {
	if q.one.bytes != nil {
		*q.items = append(*q.items, q.one)
		q.one = item{}
	}
}

// list returns the list of the items that wait; nil if there is none. Then only the list has
// items.
func (q *queue) list() *[]item {
	if q.one.bytes != nil {
		q.items = itemsPool.Get().(*[]item)
		q.listOne()
	}
	return q.items
}

// len returns the number of items that wait.
func (q *queue) len() int {
	switch {
	case q.items != nil:
		return len(*q.items)
	case q.one.bytes != nil:
		return 1
	default:
		return 0
	}
}

// taken is a set of items that were taken from a queue. Whoever writes for many agents uses the same
// one for all.
type taken struct {
	items []item  // nil for none
	list  *[]item // of items, if it is to be given back to the pool
	one   [1]item // of items, if it is only one
}

// done forgets the items.
func (t *taken) done() {
	switch {
	case t.list != nil:
		putItems(t.list)
		t.list = nil
	default:
		t.one[0] = item{}
	}
	t.items = nil
}

// take moves the first items to t, up to most bytes, but at least one. It reports whether
// there was one. The items still count until release.
func (q *queue) take(most int, t *taken) bool {
	if q.one.bytes != nil {
		t.one[0], q.one = q.one, item{}
		t.items = t.one[:]
		q.conflation.noteTaken(true)
		return true
	}
	if t.list = q.takeList(most); t.list == nil {
		return false
	}
	t.items = *t.list
	return true
}

func (q *queue) takeList(most int) *[]item {
	all := q.items
	if all == nil {
		return nil
	}
	if most == math.MaxInt {
		q.items = nil
		q.conflation.noteTaken(true)
		return all
	}
	n, size := 1, len((*all)[0].bytes)
	for n < len(*all) && size+len((*all)[n].bytes) <= most {
		size += len((*all)[n].bytes)
		n++
	}
	q.conflation.noteTaken(n == len(*all))
	if n == len(*all) {
		q.items = nil
		return all
	}
	part := itemsPool.Get().(*[]item)
	*part = append(*part, (*all)[:n]...)
	*all = slices.Delete(*all, 0, n)
	return part
}

func (q *queue) isEmpty() bool { return q.items == nil && q.one.bytes == nil }

// release stops counting items that take returned, once they are written or dropped.
func (q *queue) release(count, bytes int) {
	q.count -= count
	q.bytes -= bytes
	if q.former != nil {
		q.currentLimits() // the old ones may end
	}
}

// putBack puts items that were taken in front again. The queue then owns the slice.
func (q *queue) putBack(items []item) {
	if len(items) == 0 {
		return
	}
	q.conflation.notePutBack(items)
	if q.list() != nil {
		items = append(items, *q.items...)
		putItems(q.items)
	}
	q.items = &items
}

// drop drops the waiting messages for which keep returns false. If keep is nil, it drops
// every item. It returns how many messages it dropped.
func (q *queue) drop(keep func(*Message) bool) (messages int) {
	if q.list() == nil {
		return 0
	}
	*q.items = slices.DeleteFunc(*q.items, func(it item) bool {
		if keep != nil && (it.msg == nil || keep(it.msg)) {
			return false
		}
		q.release(1, len(it.bytes))
		if it.isMessage() {
			messages++
		}
		return true
	})
	if len(*q.items) == 0 {
		putItems(q.items)
		q.items = nil
		q.conflation.forget()
	}
	return messages
}

// setLimits replaces the limits. A queue that exceeds the new limits keeps the old ones
// until it has shrunk to half of the new ones: a reload must not close the agent for a
// queue that was allowed before.
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

// An outbox writes the frames that wait for one agent to the agent's Conn. One goroutine
// writes at a time: the flusher of the agent's shard, or a writer for this agent alone.
type outbox struct {
	agent *Agent // its owner; immutable
	form  *Form  // of conn, once the agent is connected; guarded by Agent.mu
	conn  Conn   // set by Agent.Start, before anything else happens

	revoked atomic.Uint32 // counts revokeLocked; changed with mu held
	batch   atomic.Uint32 // see Agent.BeginBatch

	blocks   bool // conn cannot write without blocking; set by Agent.Start
	prompt   bool // a flusher writes, and conn blocks: it must not call conn.Close; owned by the goroutine that writes
	deadline bool // the Conn has a write deadline; owned by the goroutine that writes, see writing

	// Guarded by Agent.mu.
	writing  bool // a flusher has the agent on its list, a writer runs, or the outbox is parked
	parked   bool // nothing is written until the migration is complete
	held     bool // nothing is written until Listener.Release
	full     bool // the agent's reader waits until the queue is half empty
	silenced bool // no message goes out any more: the agent was cut, or is too slow
	queue    queue

	renewed time.Duration // when the write deadline was set, on the hub's clock; owned by the goroutine that writes, see writing
	moved   time.Duration // when the agent last took something from a writer, on the hub's clock; 0 without a writer; guarded by Agent.mu
}

// acceptLocked queues an item. If the item does not fit, it first drops messages that newer
// ones replace. If that is not enough, it closes the agent with CloseSlow. It reports whether
// the caller must call Agent.notify after it has released the agent's mu.
func (o *outbox) acceptLocked(it item) (notify bool) {
	if it.conflates() || o.queue.conflation.waits() {
		o.makeRoomLocked(it)
	}
	if !o.queue.fits(len(it.bytes)) {
		return o.overflowLocked(it)
	}
	o.queue.add(it)
	return o.wakeLocked()
}

// overflowLocked closes the agent, because an item does not fit into the queue.
func (o *outbox) overflowLocked(it item) (notify bool) {
	counts := o.agent.hub.counts
	counts.overflow[QueueAgent].Add(1)
	if it.isMessage() {
		counts.drop(DropSlow, 1)
	}
	return o.agent.closeLocked(CloseSlow, "you read slower than messages arrive on your channels", time.Second)
}

// hasWorkLocked reports whether there is something to write, or something to look for that
// may have to be written.
func (o *outbox) hasWorkLocked() bool {
	return !o.queue.isEmpty() || o.agent.leases.isBehind() && !o.waitsForBatchLocked()
}

// wakeLocked sets the writing flag if nothing writes for the agent yet. It reports whether
// the caller must call Agent.notify after it has released the agent's mu.
func (o *outbox) wakeLocked() bool {
	switch {
	case o.conn == nil, o.held:
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

// dropLocked drops the whole queue.
func (o *outbox) dropLocked(why DropReason) {
	o.agent.hub.counts.drop(why, o.agent.leases.catchUp.dropLaterLocked(nil)+o.queue.drop(nil))
}

// revokeLocked drops the waiting messages for which keep returns false, because their
// subscription has ended. A writer that has taken messages, but not written them, notices
// the new count in revoked, and puts them back or drops them.
func (o *outbox) revokeLocked(keep func(*Message) bool) {
	o.revoked.Add(1)
	o.agent.hub.counts.drop(DropRevoked, o.agent.leases.catchUp.dropLaterLocked(keep)+o.queue.drop(keep))
	o.roomLocked()
}

// awaitRoom blocks while the queue is crowded. It slows down an agent that sends frames
// faster than it reads the answers. What the agent has published does not wait with it.
func (o *outbox) awaitRoom() {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.state < stateClosing && o.queue.isCrowded() {
		if a.in.joining != nil {
			a.mu.Unlock()
			a.in.publishJoined()
			a.mu.Lock()
			continue
		}
		o.full = true
		a.waitLocked()
	}
}

// roomLocked wakes the agent's reader if it waits in awaitRoom and there is room now.
func (o *outbox) roomLocked() {
	o.caughtUpLocked()
	if o.full && !o.queue.isCrowded() {
		o.full = false
		o.agent.wakeWaitersLocked()
	}
}

// expireLocked sets the last write deadline of an agent that is being closed or is gone:
// setDeadline cannot set a later one.
func (o *outbox) expireLocked(t time.Time) {
	o.agent.endingLocked().by = t
	_ = o.conn.SetWriteDeadline(t) // if this fails, the next write fails too
}

// setDeadline sets the write deadline, or removes it if t is zero. An agent that is being
// closed keeps an earlier deadline.
func (o *outbox) setDeadline(t time.Time) error {
	o.agent.mu.Lock()
	defer o.agent.mu.Unlock()
	return o.setDeadlineLocked(t)
}

// setDeadlineLocked is setDeadline for a caller that holds the agent's mu, which keeps the
// call in order with expireLocked.
func (o *outbox) setDeadlineLocked(t time.Time) error {
	if e := o.agent.ending; e != nil && !e.by.IsZero() && (t.IsZero() || e.by.Before(t)) {
		t = e.by
	}
	return o.conn.SetWriteDeadline(t)
}
