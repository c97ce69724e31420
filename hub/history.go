// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"container/heap"
	"container/list"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A HistoryRule says what is kept of the messages of a channel.
type HistoryRule struct {
	// Count is the most messages that are kept; 0 keeps none.
	Count int
	// TTL is how long a message is kept.
	TTL time.Duration
}

// With returns the rule that keeps whatever r or other keeps.
func (r HistoryRule) With(other HistoryRule) HistoryRule {
	return HistoryRule{max(r.Count, other.Count), max(r.TTL, other.TTL)}
}

// Histories finds the history rule of a channel. It is called concurrently and must not
// block.
type Histories interface {
	History(channel string) HistoryRule
}

// sweepEvery is how often the history drops messages that are too old.
const sweepEvery = 5 * time.Second

// A history keeps messages of channels that have a HistoryRule, in memory, for agents that
// come back. It is this machine's copy of the hub's log. Entries are added in the order of
// their numbers, and subscribers get them in that order. So one position says which messages a
// subscription got, even if it is to a pattern.
//
// Numbers here rise for as long as the hub lives. If the log is replaced by another one,
// its first number follows the last one of the old log: the difference to the number in the
// log is base.
//
// It has more than 40 methods because keeping, searching and recovering share its mu.
type history struct {
	begin time.Time // of clock; immutable
	piece int       // see sweepPiece; immutable

	mu      sync.Mutex // guards the following; a leaf, taken under node.mu and Agent.mu
	keeper  Keeper     // hears which entries are dropped; may be nil
	epoch   Epoch
	base    uint64
	last    uint64 // the number of the newest entry
	head    uint64 // entries up to this number were in the log when it was begun
	replay  bool   // not all of these have arrived yet
	behind  bool   // the log may have entries that have not arrived yet
	awaited []awaited
	rings   map[string]*ring
	recent  *list.List // of *ring: the front was published on least recently
	log     []*entry   // all entries in their order; dropped ones stay for a while
	found   []*entry   // empty; feed collects entries in its array
	live    int        // entries of all rings
	bytes   int
	most    int    // of bytes; 0 for no limit
	lost    uint64 // the highest number that was dropped of channels without a ring
	drops   uint32 // counts what was dropped; wraps around
	why     string // why that was
	ages    ages
	sweep   *time.Timer
	closed  bool
}

// unknownTime is later than any time that is known.
const unknownTime = math.MaxInt64

// A ring has the kept messages of one channel. It stays when it has no entries left, as the
// proof that nothing was missed since.
type ring struct {
	key     string
	rule    HistoryRule
	entries []*entry
	floor   uint64        // the highest number that was dropped
	why     string        // why that was: count, age or bytes
	gone    time.Duration // when that was published, see history.clock; unknownTime
	place   *list.Element
	due     time.Duration // when a sweep must look at it
	rank    int           // in ages, from 1 on; 0: it is not there
}

func newHistory() *history {
	return &history{begin: time.Now(), piece: sweepPiece, rings: make(map[string]*ring), recent: list.New()}
}

// close stops the sweeping.
func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.sweep != nil {
		h.sweep.Stop()
	}
}

// reset begins another log. Entries up to head only fill the history.
func (h *history) reset(epoch Epoch, first, head uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.log {
		h.markLocked(e) // a search may have it
	}
	clear(h.rings)
	h.recent.Init()
	h.log, h.ages, h.live, h.bytes = nil, nil, 0, 0
	h.base = h.last
	h.epoch, h.head, h.replay = epoch, h.base+head, true
	h.lost, h.why = h.base, "age"
	h.wakeLocked(true)
	if first > 1 {
		h.lost += first - 1
	}
}

// add adds an entry if it is kept, and reports whether it is new: then subscribers must
// get it.
func (h *history) add(seq uint64, at time.Time, m *Message) (fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.base + seq
	now := at
	if fresh = n > h.head; !fresh {
		now = time.Now()
	} else if h.replay {
		h.replayedLocked()
	}
	h.last = n
	if len(h.awaited) > 0 {
		h.wakeLocked(false)
	}
	if !m.Kept() {
		return fresh
	}
	check := CheckOf(at)
	m.stamp(n, Position{h.epoch, seq, check})
	r := h.rings[m.key]
	if r == nil {
		r = h.newRingLocked(m.key, min(h.lost, n-1), h.why) // a ring of this channel may have been dropped
	} else {
		h.recent.MoveToBack(r.place)
	}
	r.rule = m.keep.rule()
	e := newEntry(n, r.key, h.clock(at), check, m)
	h.log = append(h.log, e)
	r.entries = append(r.entries, e)
	h.live++
	h.bytes += e.size()
	h.trimLocked(r, now)
	h.planLocked(r)
	h.shrinkLocked(r)
	h.trimLogLocked()
	if h.sweep == nil && !h.closed {
		h.sweep = time.AfterFunc(sweepEvery, h.sweepNow)
	}
	return fresh
}

func (h *history) newRingLocked(key string, floor uint64, why string) *ring {
	r := &ring{key: key, floor: floor, why: why, gone: unknownTime}
	r.place = h.recent.PushBack(r)
	h.rings[key] = r
	h.bytes += r.size()
	return r
}

// replayed says that all entries that were in the log at its beginning have arrived.
func (h *history) replayed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.replay {
		h.replayedLocked()
	}
}

// replayedLocked sets the floors that do not follow from the entries.
func (h *history) replayedLocked() {
	h.replay = false
	h.last = max(h.last, h.head)
	h.wakeLocked(false)
	known := len(h.log)
	// Subscriptions to patterns look at dropped entries, not at floors.
	note := func(key string, floor uint64) {
		if known > 0 && floor >= h.log[0].seq && h.entryLocked(floor, known) == nil {
			h.log = append(h.log, &entry{seq: floor, key: key})
		}
	}
	note("", h.lost)
	for _, r := range h.rings {
		// The log may have dropped older entries of a channel whose history is full. A Keeper
		// drops only what it is told to drop.
		if n := len(r.entries); h.keeper == nil && n > 0 && n >= r.rule.Count && r.entries[0].seq-1 > r.floor {
			r.floor, r.why, r.gone = r.entries[0].seq-1, "count", unknownTime
		}
		note(r.key, r.floor)
	}
	slices.SortStableFunc(h.log, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	for i, e := range h.log {
		if e.check == 0 && i > 0 { // searches by time need the times to rise
			e.at = h.log[i-1].at
		}
	}
}

// entryLocked returns the entry with a number among the first n of the log, or nil.
func (h *history) entryLocked(seq uint64, n int) *entry {
	i, ok := slices.BinarySearchFunc(h.log[:n], seq, func(e *entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if !ok {
		return nil
	}
	return h.log[i]
}

// setFloor notes that entries of a channel were dropped before they arrived here.
func (h *history) setFloor(key string, seq uint64, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.base + seq
	if key == "" {
		h.lost, h.why = max(h.lost, n), why
		return
	}
	r := h.rings[key]
	if r == nil {
		r = h.newRingLocked(key, 0, "")
	}
	r.floor, r.why, r.gone = max(r.floor, n), why, unknownTime
}

// loseUpTo notes that entries up to a number will not arrive, of any channel. It reports
// whether subscribers have missed one.
func (h *history) loseUpTo(seq uint64) (fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.base + seq
	if n <= h.last {
		return false
	}
	h.last, h.lost, h.why = n, n, "age"
	h.wakeLocked(false)
	for _, r := range h.rings {
		r.floor, r.why, r.gone = n, h.why, unknownTime
	}
	e := &entry{seq: n, at: h.clock(time.Now())}
	h.markLocked(e)
	h.log = append(h.log, e)
	return n > h.head
}

// snapshotOf returns all that is kept.
func snapshotOf(h *history) Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Snapshot{Epoch: h.epoch, Last: h.last - h.base}
	if h.lost > h.base {
		s.Floors = append(s.Floors, LogFloor{"", h.lost - h.base, h.why})
	}
	for _, r := range h.rings {
		if r.floor > h.base {
			s.Floors = append(s.Floors, LogFloor{r.key, r.floor - h.base, r.why})
		}
		for _, e := range r.entries {
			m := h.messageLocked(e).copy().Keep(r.rule)
			s.Entries = append(s.Entries, LogEntry{e.seq - h.base, timeOfCheck(h.begin.Add(e.at), e.check), m})
		}
	}
	slices.SortFunc(s.Entries, func(a, b LogEntry) int { return cmp.Compare(a.Seq, b.Seq) })
	return s
}

// limit limits the bytes of all messages.
func (h *history) limit(most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = most
	h.shrinkLocked(nil)
	h.trimLogLocked()
}

// shrinkLocked drops messages until there is room. It never drops the newest message of the
// ring last.
func (h *history) shrinkLocked(last *ring) {
	if h.most == 0 {
		return
	}
	for h.bytes > h.most && h.recent.Len() > 0 && (last == nil || h.recent.Front() != last.place) {
		h.forgetLocked(h.recent.Front().Value.(*ring), "bytes")
	}
	for last != nil && h.bytes > h.most && len(last.entries) > 1 {
		h.dropLocked(last, 1, "bytes")
	}
}

// newest returns the number of the newest message.
func (h *history) newest() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// dropLocked drops the oldest n entries of r.
func (h *history) dropLocked(r *ring, n int, why string) {
	for _, e := range r.entries[:n] {
		h.bytes -= e.size()
		h.live--
		r.floor, r.why, r.gone = e.seq, why, e.at
		h.markLocked(e)
		if h.keeper != nil {
			h.keeper.Dropped(r.key, e.seq-h.base, why)
		}
	}
	r.entries = withoutFirst(r.entries, n)
}

// markLocked marks an entry as dropped.
func (h *history) markLocked(e *entry) {
	h.drops++
	e.drop(h.drops)
}

// withoutFirst returns entries without the first n. It moves none of the others: entries
// that are added later get a new array in time.
func withoutFirst(entries []*entry, n int) []*entry {
	if n == len(entries) {
		return nil
	}
	clear(entries[:n])
	return entries[n:]
}

// forgetLocked drops r whole.
func (h *history) forgetLocked(r *ring, why string) {
	h.dropLocked(r, len(r.entries), why)
	if r.floor > h.lost {
		h.lost, h.why = r.floor, r.why
	}
	h.recent.Remove(r.place)
	if r.rank > 0 {
		heap.Remove(&h.ages, r.rank-1)
	}
	delete(h.rings, r.key)
	h.bytes -= r.size()
	if h.keeper != nil {
		h.keeper.Forgotten(r.key, max(r.floor, h.base)-h.base, r.why)
	}
}

// trimLocked drops entries of r that are too many or too old.
func (h *history) trimLocked(r *ring, now time.Time) {
	if n := len(r.entries) - r.rule.Count; n > 0 {
		h.dropLocked(r, n, "count")
	}
	h.expireLocked(r, h.clock(now), len(r.entries))
}

// trimLogLocked removes dropped entries from the front of the log. If many dropped entries
// stand behind a live one, the live one goes too: its ring still has it.
func (h *history) trimLogLocked() {
	n := 0
	for n < len(h.log) && (h.log[n].dropped() || len(h.log)-n > 2*h.live+1024) {
		n++
	}
	h.log = withoutFirst(h.log, n)
}

// sweepNow drops messages that are too old. It lets others have the lock in between.
func (h *history) sweepNow() {
	for h.sweepSome() {
		runtime.Gosched() // let goroutines that wait for the lock go first
	}
}

// sweepSome drops some of these messages, and reports whether there are more.
func (h *history) sweepSome() (more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	more = h.sweepLocked()
	h.trimLogLocked()
	if more || h.closed {
		return more && !h.closed
	}
	h.sweep = nil
	if h.live > 0 {
		h.sweep = time.AfterFunc(sweepEvery, h.sweepNow)
	}
	return false
}

// positionLocked returns the position of a number of this log.
func (h *history) positionLocked(seq uint64) Position {
	p := Position{Epoch: h.epoch, Seq: seq - h.base}
	if e := h.entryLocked(seq, len(h.log)); e != nil {
		p.Check = e.check
	}
	return p
}

// findLocked returns the number that a position stands for. It must be one of this log,
// and must not be ahead, unless this machine is behind.
func (h *history) findLocked(text string) (seq uint64, ok bool) {
	p, ok := ParsePosition(text)
	if !ok || p.Epoch != h.epoch || p.Seq > h.last-h.base && !h.behind {
		return 0, false
	}
	seq = h.base + p.Seq
	if p.Check == 0 || seq > h.last {
		return seq, true
	}
	now := h.positionLocked(seq).Check
	return seq, now == 0 || now == p.Check
}
