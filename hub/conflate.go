// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"time"
)

// lagAfter is how long messages may wait for an agent before it counts as lagging.
const lagAfter = time.Second

// A conflation is what a queue notes about its messages that newer ones of their channel
// replace if the agent lags (see Delivery.Conflate).
type conflation struct {
	since time.Duration // when the oldest that waits was queued, on the hub's clock; 0 if none waits
	taken time.Duration // since, before the last take
	fresh int           // at least the number that were added since the last conflate
}

// waits reports whether messages wait that were added since the last conflate. c may be nil.
func (c *conflation) waits() bool { return c != nil && c.fresh > 0 }

// forget notes that nothing waits any more. c may be nil.
func (c *conflation) forget() {
	if c != nil {
		*c = conflation{}
	}
}

// conflates reports whether newer messages of its channel replace the item.
func (it *item) conflates() bool { return it.msg != nil && it.msg.conflate }

// lags reports whether messages that can be conflated have waited for long, or leave little
// room in the queue. A recovery takes half of the queue, which is not yet lagging.
func (q *queue) lags(now time.Duration) bool {
	if !q.conflation.waits() {
		return false
	}
	l := q.currentLimits()
	return now-q.conflation.since >= lagAfter || q.count > l.QueueMessages/4*3 || q.bytes > l.QueueBytes/4*3
}

// conflate drops the waiting messages that a newer one of their channel replaces. Messages
// of next's channel are all dropped; next may be nil. The others keep their order, so that
// the positions that an agent gets still rise. It returns how many messages it dropped.
func (q *queue) conflate(next *Message) (dropped int) {
	if q.conflation != nil {
		q.conflation.fresh = 0
	}
	if q.list() == nil {
		return 0
	}
	newer := make(map[string]struct{})
	if next != nil {
		newer[next.key] = struct{}{}
	}
	items := *q.items
	first := len(items)
	for _, it := range slices.Backward(items) {
		if it.conflates() {
			if _, replaced := newer[it.msg.key]; replaced {
				q.release(1, len(it.bytes))
				dropped++
				continue
			}
			newer[it.msg.key] = struct{}{}
		}
		first--
		items[first] = it
	}
	n := copy(items, items[first:])
	clear(items[n:])
	if *q.items = items[:n]; n == 0 {
		putItems(q.items)
		q.items = nil
	}
	return dropped
}

// noteTaken notes that a take took all items that waited, or only some. c may be nil.
func (c *conflation) noteTaken(all bool) {
	if c == nil {
		return
	}
	if c.taken = c.since; all {
		c.since, c.fresh = 0, 0
	}
}

// notePutBack notes that items wait again. c may be nil.
func (c *conflation) notePutBack(items []item) {
	if c == nil || c.taken == 0 {
		return
	}
	for i := range items {
		if items[i].conflates() {
			c.since = c.taken
			c.fresh++
		}
	}
}

// makeRoomLocked conflates the queue, which is about to get an item, if the agent lags. It
// waits until half of what waits is new, so that messages are looked at a few times at most,
// however many there are; or until the item does not fit.
func (o *outbox) makeRoomLocked(it item) {
	q, now := &o.queue, max(o.agent.hub.timers.now(), 1)
	var next *Message
	if it.conflates() {
		next = it.msg
		if q.conflation == nil {
			q.conflation = new(conflation)
		}
		if q.conflation.since == 0 {
			q.conflation.since = now
		}
		q.conflation.fresh++
	}
	if q.isEmpty() {
		return
	}
	due := next != nil && 2*q.conflation.fresh >= q.len() && q.lags(now)
	if due || !q.fits(len(it.bytes)) {
		o.conflateLocked(next)
		if next != nil {
			q.conflation.fresh++
		}
	}
}

// conflateLocked conflates the queue and counts what it drops.
func (o *outbox) conflateLocked(next *Message) {
	o.agent.hub.counts.drop(DropConflated, o.queue.conflate(next))
	o.roomLocked()
}
