// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"container/heap"
	"math"
	"strings"
	"time"
	"weak"
)

// An entry is a message that is kept, or was. It has only what differs from one message of
// a channel to the next: there may be hundreds of thousands of them. See messageLocked.
type entry struct {
	seq  uint64
	key  string        // of its ring; "" for all channels, if it was dropped
	at   time.Duration // when it was published, see history.clock
	text string        // the uuid and the data; "": it was dropped
	id   uint32        // length of the uuid; of a dropped one, history.drops after it
	// check is of its position; 0: unknown, because it was dropped before it came here.
	check uint16
	from  *Sender
	// shared is the message while an agent that has recovered it has it queued.
	shared weak.Pointer[Message]
}

// newEntry returns what is kept of m.
func newEntry(seq uint64, key string, at time.Duration, check uint16, m *Message) *entry {
	var text strings.Builder
	text.Grow(len(m.UUID) + len(m.Data))
	text.WriteString(m.UUID)
	text.Write(m.Data)
	return &entry{seq: seq, key: key, at: at, text: text.String(), id: uint32(len(m.UUID)), check: check, from: m.From}
}

func (e *entry) dropped() bool { return e.text == "" }

// drop forgets the message. n counts what was dropped.
func (e *entry) drop(n uint32) {
	e.text, e.from, e.shared, e.id = "", nil, weak.Pointer[Message]{}, n
}

// droppedSince reports whether the message was dropped since n were.
func (e *entry) droppedSince(n uint32) bool { return e.dropped() && int32(e.id-n) > 0 }

// What entries and rings cost besides their texts, about, as measured by
// TestHistoryAllocSizes. Of that, an entry takes 80 bytes, and its places in the log and in
// its ring, whose arrays are longer than what is in them.
const (
	sizeOfEntry = 110
	sizeOfRing  = 240
)

func (r *ring) size() int { return sizeOfRing + len(r.key) }

func (e *entry) size() int { return len(e.text) + sizeOfEntry }

// messageLocked returns the message of an entry. Agents that recover the same message share
// it and its encodings.
func (h *history) messageLocked(e *entry) *Message {
	if m := e.shared.Value(); m != nil {
		return m
	}
	namespace, channel, _ := cutKey(e.key)
	m := NewMessage(channel, e.text[:e.id], []byte(e.text[e.id:])).in(namespace)
	m.From = e.from
	m.stamp(e.seq, Position{h.epoch, e.seq - h.base, e.check})
	e.shared = weak.Make(m)
	return m
}

// clock returns a time as a distance from the history's begin. For times of this process it
// does not jump when somebody sets the machine's clock.
func (h *history) clock(t time.Time) time.Duration { return t.Sub(h.begin) }

// expires returns when the oldest entry of r gets too old.
func (r *ring) expires() time.Duration {
	at := r.entries[0].at
	if at > math.MaxInt64-r.rule.TTL {
		return math.MaxInt64
	}
	return at + r.rule.TTL
}

// An ages is a heap of the rings that have entries, by when a sweep must look at them: at
// the time when the oldest entry gets too old, or before. It implements heap.Interface.
type ages []*ring

func (a ages) Len() int           { return len(a) }
func (a ages) Less(i, j int) bool { return a[i].due < a[j].due }
func (a ages) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].rank, a[j].rank = i+1, j+1
}

// Push implements heap.Interface.
func (a *ages) Push(x any) {
	r := x.(*ring)
	*a = append(*a, r)
	r.rank = len(*a)
}

// Pop implements heap.Interface.
func (a *ages) Pop() any {
	last := len(*a) - 1
	r := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	r.rank = 0
	return r
}

// planLocked sees to it that a sweep looks at r in time. Where entries were dropped, it comes
// too early, and plans anew: that costs less than to plan with each message.
func (h *history) planLocked(r *ring) {
	if len(r.entries) == 0 {
		return
	}
	switch due := r.expires(); {
	case r.rank == 0:
		r.due = due
		heap.Push(&h.ages, r)
	case due < r.due: // a reload has set a shorter time
		r.due = due
		heap.Fix(&h.ages, r.rank-1)
	}
}

// sweepPiece is how many entries a sweep drops, or a search looks at, before it lets others
// have the lock. Tests have smaller pieces.
const sweepPiece = 1000

// sweepLocked drops messages that are too old, about a piece of them, and reports
// whether there are more.
func (h *history) sweepLocked() (more bool) {
	now := h.clock(time.Now())
	for left := h.piece; len(h.ages) > 0 && h.ages[0].due <= now; {
		if left <= 0 {
			return true
		}
		r := h.ages[0]
		left -= 1 + h.expireLocked(r, now, left)
		if len(r.entries) == 0 {
			heap.Pop(&h.ages)
			continue
		}
		r.due = r.expires()
		heap.Fix(&h.ages, 0)
	}
	return false
}

// expireLocked drops entries of r that are too old, at most a number of them, and returns
// how many.
func (h *history) expireLocked(r *ring, now time.Duration, most int) (n int) {
	for n < min(len(r.entries), most) && now-r.entries[n].at >= r.rule.TTL {
		n++
	}
	if n > 0 {
		h.dropLocked(r, n, "age")
	}
	return n
}
