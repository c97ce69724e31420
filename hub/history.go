// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
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

// sweepEvery is how often messages are looked for that are too old.
const sweepEvery = 5 * time.Second

// A history keeps messages of channels that have a HistoryRule, in memory, so that an
// agent that was away gets what it has missed. It is a log: each message has a number, and
// they go to the subscribers in the order of their numbers. So one position says what a
// subscription has got, of a pattern too.
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
	log    []*entry   // all entries in their order, also dropped ones, from first on
	first  uint64     // the number of log[0] is first+1
	live   int        // entries in log that are not dropped
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

// keep gives m its number, and keeps it. most is the most bytes of all messages.
func (h *history) keep(m *Message, rule HistoryRule, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	m.stamp(h.last, h.positionLocked(h.last))
	r := h.rings[m.key]
	if r == nil {
		r = &ring{key: m.key}
		if h.lost > 0 { // its older messages may have been among those
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
	if len(h.log) == 0 {
		h.first = e.seq - 1
	}
	h.log = append(h.log, e)
	r.entries = append(r.entries, e)
	h.live++
	h.bytes += e.size()
	h.trimLocked(r, e.at)
	for h.bytes > most && h.recent.Len() > 0 {
		oldest := h.recent.Front().Value.(*ring)
		if oldest == r && len(r.entries) == 1 {
			break // one message is always kept
		}
		if oldest == r {
			h.dropLocked(r, 1, "bytes")
			continue
		}
		h.forgetLocked(oldest, "bytes")
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
	r.entries = slices.Delete(r.entries, 0, n)
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

// trimLogLocked takes dropped entries out of the front of the log. If those behind a
// live one become many, that one goes out of the log too; its ring still has it.
func (h *history) trimLogLocked() {
	n := 0
	for n < len(h.log) && (h.log[n].msg == nil || len(h.log)-n > 2*h.live+1024) {
		n++
	}
	if n == 0 || n < len(h.log)/4 && n < 1024 && len(h.log) > n {
		return // not each time
	}
	h.first = h.log[n-1].seq
	h.log = slices.Delete(h.log, 0, n)
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

func (h *history) positionLocked(seq uint64) string {
	return h.epoch + "." + strconv.FormatUint(seq, 10)
}

// A recoveryRequest is from where on an agent wants the messages of a subscription.
type recoveryRequest struct {
	asked    bool      // there is one
	position string    // after this one; empty: see the others
	last     int       // so many; 0: see the next
	since    time.Time // published since; zero: none, only a position
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

// recover returns the messages that match, after what the request says, and a position
// that live messages follow. The caller holds the mu of the node of the subscription, and
// adds it before releasing that, so that no message is lost or doubled between the two.
// skip tells which messages the agent has got by another subscription; room is how many
// messages and bytes there is room for.
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
	case req.last == 0 && req.since.IsZero():
		return out
	}
	if pattern && req.position == "" { // do not look at all there is
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
			out.whole, out.why = false, why // older ones were dropped, and may have been younger than that
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

// beginLocked returns a number after which all entries below a prefix come that a request
// without a position is about.
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
		i, _ := slices.BinarySearchFunc(r.entries, after+1, func(e *entry, seq uint64) int { return compareSeq(e.seq, seq) })
		return r.entries[i:], r.floor, r.why
	}
	floor, why = h.first, "count"
	i, _ := slices.BinarySearchFunc(h.log, after+1, func(e *entry, seq uint64) int { return compareSeq(e.seq, seq) })
	for _, e := range h.log[i:] {
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

func compareSeq(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
