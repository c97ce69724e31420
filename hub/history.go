// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
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

// Histories finds the history rule of a channel. It is called concurrently and must not
// block.
type Histories interface {
	History(channel string) HistoryRule
}

// sweepEvery is how often the history drops messages that are too old.
const sweepEvery = 5 * time.Second

// A history keeps messages of channels that have a HistoryRule, in memory, for agents that
// come back. It is what this machine has of the hub's log: entries are added in the order
// of their numbers, and subscribers get them in that order. So one position says which
// messages a subscription got, even if it is to a pattern.
//
// Numbers here rise for as long as the hub lives. If the log is replaced by another one,
// its first number follows the last one of the old log: the difference to the number in the
// log is base.
type history struct {
	keeper Keeper // is told what is dropped, nil for nothing; immutable after New

	mu     sync.Mutex // guards the following; a leaf, taken under node.mu and Agent.mu
	epoch  Epoch
	base   uint64
	last   uint64 // the number of the newest entry
	head   uint64 // entries up to this number were in the log when it was begun
	replay bool   // not all of these have come yet
	behind bool   // the log may have entries that have not come yet
	rings  map[string]*ring
	recent *list.List // of *ring: the front was published on least recently
	log    []*entry   // all entries in their order; dropped ones stay for a while
	live   int        // entries of all rings
	bytes  int
	most   int    // of bytes; 0 for no limit
	lost   uint64 // the highest number that was dropped of channels without a ring
	why    string // why that was
	sweep  *time.Timer
	closed bool
}

// An entry is a message that is kept, or was.
type entry struct {
	seq uint64
	key string    // "" for all channels, if msg is nil
	msg *Message  // nil: it was dropped
	at  time.Time // zero: unknown, because it was dropped before it came here
}

// A ring is what is kept of one channel. It stays when it has no entries left: it proves
// that nothing was missed since.
type ring struct {
	key     string
	rule    HistoryRule
	entries []*entry
	floor   uint64 // the highest number that was dropped
	why     string // why that was: count, age or bytes
	place   *list.Element
}

func newHistory() *history {
	return &history{rings: make(map[string]*ring), recent: list.New()}
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

// sizeOfEntry is about what an entry costs besides the bytes of its message, and a ring
// besides its entries.
const sizeOfEntry = 200

func (r *ring) size() int { return sizeOfEntry + len(r.key) }

func (e *entry) size() int { return len(e.msg.object) + sizeOfEntry }

// reset begins another log. Entries up to head only fill the history.
func (h *history) reset(epoch Epoch, first, head uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.log {
		e.msg = nil
	}
	clear(h.rings)
	h.recent.Init()
	h.log, h.live, h.bytes = nil, 0, 0
	h.base = h.last
	h.epoch, h.head, h.replay = epoch, h.base+head, true
	h.lost, h.why = h.base, "age"
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
	if !m.Kept() {
		return fresh
	}
	m.stamp(n, Position{h.epoch, seq, CheckOf(at)})
	r := h.rings[m.key]
	if r == nil {
		r = h.newRingLocked(m.key, min(h.lost, n-1), h.why) // a ring of this channel may have been dropped
	} else {
		h.recent.MoveToBack(r.place)
	}
	r.rule = m.keep.rule()
	e := &entry{seq: n, key: m.key, msg: m, at: at}
	h.log = append(h.log, e)
	r.entries = append(r.entries, e)
	h.live++
	h.bytes += e.size()
	h.trimLocked(r, now)
	h.shrinkLocked(r)
	h.trimLogLocked()
	if h.sweep == nil && !h.closed {
		h.sweep = time.AfterFunc(sweepEvery, h.sweepNow)
	}
	return fresh
}

func (h *history) newRingLocked(key string, floor uint64, why string) *ring {
	r := &ring{key: key, floor: floor, why: why}
	r.place = h.recent.PushBack(r)
	h.rings[key] = r
	h.bytes += r.size()
	return r
}

// replayed says that all entries have come that were in the log when it was begun.
func (h *history) replayed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.replay {
		h.replayedLocked()
	}
}

// replayedLocked sets the floors that the entries do not tell of by themselves.
func (h *history) replayedLocked() {
	h.replay = false
	h.last = max(h.last, h.head)
	known := len(h.log)
	// Subscriptions to patterns look at dropped entries, not at floors.
	note := func(key string, floor uint64) {
		if known > 0 && floor >= h.log[0].seq && h.entryLocked(floor, known) == nil {
			h.log = append(h.log, &entry{seq: floor, key: key})
		}
	}
	note("", h.lost)
	for _, r := range h.rings {
		// The log may have dropped entries of a channel of which it has as many as it may
		// have. A Keeper drops only what it is told to.
		if n := len(r.entries); h.keeper == nil && n > 0 && n >= r.rule.Count && r.entries[0].seq-1 > r.floor {
			r.floor, r.why = r.entries[0].seq-1, "count"
		}
		note(r.key, r.floor)
	}
	slices.SortStableFunc(h.log, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
}

// entryLocked returns the entry with a number among the first n of the log, or nil.
func (h *history) entryLocked(seq uint64, n int) *entry {
	i, ok := slices.BinarySearchFunc(h.log[:n], seq, func(e *entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if !ok {
		return nil
	}
	return h.log[i]
}

// setFloor notes that entries of a channel were dropped before they could come here.
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
	r.floor, r.why = max(r.floor, n), why
}

// loseUpTo notes that no entry up to a number will come, of whatever channel.
func (h *history) loseUpTo(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.base + seq
	if n <= h.last {
		return
	}
	h.last, h.lost, h.why = n, n, "age"
	for _, r := range h.rings {
		r.floor, r.why = n, h.why
	}
	h.log = append(h.log, &entry{seq: n})
}

func (h *history) setBehind(behind bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.behind = behind
}

// limit limits the bytes of all messages.
func (h *history) limit(most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = most
	h.shrinkLocked(nil)
	h.trimLogLocked()
}

// shrinkLocked drops messages until there is room. The newest message of the ring last goes
// in no case.
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
		r.floor, r.why = e.seq, why
		e.msg = nil
		if h.keeper != nil {
			h.keeper.Dropped(r.key, e.seq-h.base, why)
		}
	}
	r.entries = withoutFirst(r.entries, n)
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
	delete(h.rings, r.key)
	h.bytes -= r.size()
	if h.keeper != nil {
		h.keeper.Forgotten(r.key, max(r.floor, h.base)-h.base, r.why)
	}
}

// trimLocked drops what r has too many of, or for too long.
func (h *history) trimLocked(r *ring, now time.Time) {
	if n := len(r.entries) - r.rule.Count; n > 0 {
		h.dropLocked(r, n, "count")
	}
	old := 0
	for old < len(r.entries) && now.Sub(r.entries[old].at) >= r.rule.TTL {
		old++
	}
	if old > 0 {
		h.dropLocked(r, old, "age")
	}
}

// trimLogLocked removes dropped entries from the front of the log. If many dropped entries
// stand behind a live one, the live one goes too: its ring still has it.
func (h *history) trimLogLocked() {
	n := 0
	for n < len(h.log) && (h.log[n].msg == nil || len(h.log)-n > 2*h.live+1024) {
		n++
	}
	h.log = withoutFirst(h.log, n)
}

// sweepNow drops messages that are too old.
func (h *history) sweepNow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, r := range h.rings {
		h.trimLocked(r, now)
	}
	h.trimLogLocked()
	h.sweep = nil
	if h.live > 0 && !h.closed {
		h.sweep = time.AfterFunc(sweepEvery, h.sweepNow)
	}
}

// positionLocked returns the position of a number of this log.
func (h *history) positionLocked(seq uint64) Position {
	p := Position{Epoch: h.epoch, Seq: seq - h.base}
	if e := h.entryLocked(seq, len(h.log)); e != nil && !e.at.IsZero() {
		p.Check = CheckOf(e.at)
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

// A recoveryRequest says which kept messages a subscription begins with. At most one of
// its fields is set.
type recoveryRequest struct {
	position string    // those that follow this position
	last     int       // the newest ones of this number
	since    time.Time // those published since then
}

func (req recoveryRequest) isSet() bool {
	return req.position != "" || req.last > 0 || !req.since.IsZero()
}

// A recovery is what a subscription begins with.
type recovery struct {
	messages []*Message // in their order
	head     uint64     // the subscription gets live what has a higher number
	from     uint64     // messages, and what is live, are all that follow this number
	position Position   // of from
	whole    bool       // nothing is missing
	why      string     // else why: epoch, count, age, bytes or limit
}

// recover returns the kept messages that a subscription begins with. The caller holds the
// mu of the subscription's node, and adds the subscription before it releases it. So no
// message is lost or doubled between the kept messages and the live ones. skip reports
// whether the agent got a message through another subscription. room and roomBytes limit
// the messages.
func (h *history) recover(req recoveryRequest, key string, pattern bool, skip func(*Message) bool, room, roomBytes int) (out recovery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out = recovery{head: h.last, from: h.last, whole: true}
	defer func() { out.position = h.positionLocked(out.from) }()
	var after uint64
	switch {
	case req.position != "":
		seq, ok := h.findLocked(req.position)
		if !ok {
			out.whole, out.why = false, "epoch"
			return out
		}
		after = seq
		if seq > h.last { // what the agent has got comes here later
			out.head, out.from = seq, seq
			return out
		}
	case !req.isSet():
		return out
	}
	if pattern && req.position == "" { // do not search the whole log
		after = h.beginLocked(req, key)
	}
	entries, floor, why := h.matchingLocked(key, pattern, after)
	switch {
	case req.position != "" && floor > after:
		out.whole, out.why = false, why
	case req.last > 0 && len(entries) > req.last:
		entries = entries[len(entries)-req.last:]
	case !req.since.IsZero():
		n := 0
		for n < len(entries) && entries[n].at.Before(req.since) {
			n++
		}
		if n == 0 && floor > after {
			out.whole, out.why = false, why // dropped messages may have been published since then
		}
		entries = entries[n:]
	}
	entries = slices.DeleteFunc(slices.Clone(entries), func(e *entry) bool { return skip(e.msg) })
	first := len(entries)
	for first > 0 && room > 0 && roomBytes >= len(entries[first-1].msg.object) {
		first--
		room--
		roomBytes -= len(entries[first].msg.object)
	}
	if first > 0 {
		out.whole, out.why = false, "limit"
	}
	for _, e := range entries[first:] {
		out.messages = append(out.messages, e.msg)
	}
	if len(out.messages) > 0 {
		out.from = out.messages[0].seq - 1
	}
	return out
}

// beginLocked returns a number for a request without a position: all entries below prefix
// that the request asks for follow it.
func (h *history) beginLocked(req recoveryRequest, prefix string) uint64 {
	i := len(h.log)
	if req.last > 0 {
		for n := 0; n < req.last && i > 0; i-- {
			if e := h.log[i-1]; e.msg != nil && isBelow(e.key, prefix) {
				n++
			}
		}
	} else {
		i, _ = slices.BinarySearchFunc(h.log, req.since, func(e *entry, t time.Time) int { return e.at.Compare(t) })
	}
	if i == 0 {
		return 0
	}
	return h.log[i-1].seq
}

// isBelow reports whether a key is of a channel below a prefix, in the same namespace.
func isBelow(key, prefix string) bool {
	return strings.HasPrefix(key, prefix) && strings.Contains(key, "\x00") == strings.Contains(prefix, "\x00")
}

// matchingLocked returns the entries after a number of a channel, or of all channels below
// a prefix, and the highest number that was dropped of them, and why.
func (h *history) matchingLocked(key string, pattern bool, after uint64) (entries []*entry, floor uint64, why string) {
	now := time.Now()
	if !pattern {
		r := h.rings[key]
		if r == nil {
			return nil, h.lost, h.why
		}
		h.trimLocked(r, now)
		return following(r.entries, after), r.floor, r.why
	}
	floor, why = h.last, "count"
	if len(h.log) > 0 {
		floor = h.log[0].seq - 1
	}
	for _, e := range following(h.log, after) {
		if e.key != "" && !isBelow(e.key, key) {
			continue
		}
		if r := h.rings[e.key]; e.msg != nil && r != nil && now.Sub(e.at) >= r.rule.TTL {
			h.trimLocked(r, now)
		}
		if e.msg == nil {
			if floor, why = e.seq, h.why; h.rings[e.key] != nil {
				why = h.rings[e.key].why
			}
			continue
		}
		entries = append(entries, e)
	}
	return entries, floor, why
}

// following returns the entries whose numbers are higher than after.
func following(entries []*entry, after uint64) []*entry {
	i, _ := slices.BinarySearchFunc(entries, after+1, func(e *entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	return entries[i:]
}
