// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"container/list"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
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
// come back. It is a log: it numbers the messages, and subscribers get them in the order of
// their numbers. So one position says which messages a subscription got, even if it is to
// a pattern.
//
// A position is "<epoch>.<number>". The epoch is new for each process: positions of
// another one say nothing here.
type history struct {
	epoch string
	// order is held while one message is kept and handed to the subscribers. It is taken
	// before node.mu.
	order sync.Mutex

	mu     sync.Mutex // guards the following; a leaf, taken under node.mu and Agent.mu
	last   uint64     // the number of the newest message
	rings  map[string]*ring
	recent *list.List // of *ring: the front was published on least recently
	log    []*entry   // all entries in their order, without gaps; dropped ones stay for a while
	live   int        // entries of all rings
	bytes  int
	lost   uint64 // the highest number that was dropped with its whole ring
	why    string // why that was
	sweep  *time.Timer
	closed bool
}

// An entry is a message that is kept.
type entry struct {
	seq uint64
	key string
	msg *Message // nil: it was dropped
	at  time.Time
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
	var epoch [6]byte
	_, _ = rand.Read(epoch[:]) // it never fails
	return &history{epoch: hex.EncodeToString(epoch[:]), rings: make(map[string]*ring), recent: list.New()}
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

// keep numbers m, and keeps it. most limits the bytes of all messages.
func (h *history) keep(m *Message, rule HistoryRule, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	m.stamp(h.last, h.positionLocked(h.last))
	r := h.rings[m.key]
	if r == nil {
		r = &ring{key: m.key}
		if h.lost > 0 { // a ring of this channel may have been dropped
			r.floor, r.why = h.lost, h.why
		}
		r.place = h.recent.PushBack(r)
		h.rings[m.key] = r
		h.bytes += r.size()
	} else {
		h.recent.MoveToBack(r.place)
	}
	r.rule = rule
	e := &entry{seq: h.last, key: m.key, msg: m, at: time.Now()}
	h.log = append(h.log, e)
	r.entries = append(r.entries, e)
	h.live++
	h.bytes += e.size()
	h.trimLocked(r, e.at)
	for h.bytes > most && h.recent.Front() != r.place {
		h.forgetLocked(h.recent.Front().Value.(*ring), "bytes")
	}
	for h.bytes > most && len(r.entries) > 1 { // one message is always kept
		h.dropLocked(r, 1, "bytes")
	}
	h.trimLogLocked()
	if h.sweep == nil && !h.closed {
		h.sweep = time.AfterFunc(sweepEvery, h.sweepNow)
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

// position returns the position of m, or nothing if m was not kept. m has been published.
func (h *history) position(m *Message) string {
	if m.seq == 0 {
		return ""
	}
	return h.positionLocked(m.seq)
}

func (h *history) positionLocked(seq uint64) string {
	return h.epoch + "." + strconv.FormatUint(seq, 10)
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
	position string     // of from
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
		epoch, number, _ := strings.Cut(req.position, ".")
		seq, err := strconv.ParseUint(number, 10, 64)
		if epoch != h.epoch || err != nil || seq > h.last {
			out.whole, out.why = false, "epoch"
			return out
		}
		after = seq
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
		if !isBelow(e.key, key) {
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
