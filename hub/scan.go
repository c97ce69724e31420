// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A scan searches the log for messages below a prefix. A log may have hundreds of thousands of
// entries, and publishers must not wait that long. So most of the search runs in pieces, before
// the lock of the pattern's node is taken. Only the entries that were added meanwhile are
// searched under it.
type scan struct {
	after   uint64   // it is about entries with a higher number
	upTo    uint64   // and has looked at those up to this one
	first   uint64   // the lowest number of a message that is kept; 0 if there is none
	last    bool     // it is about the newest messages
	entries []*entry // all that may still be kept, if last is set
	floor   uint64   // the highest number of those that were dropped
	why     string   // why that was
	drops   uint32   // history.drops when it began
	begun   time.Duration
}

// search begins a recovery of a pattern. It returns nil if there is nothing to search for.
func (h *history) search(req recoveryRequest, prefix string) *scan {
	s := h.newScan(req)
	after, ok := h.searchFrom(req, prefix)
	if !ok {
		return nil
	}
	s.after, s.upTo = after, after
	for end := h.newest(); s.upTo < end && h.searchSome(s, prefix); {
		runtime.Gosched() // let goroutines that wait for the lock go first
	}
	return s
}

func (h *history) newScan(req recoveryRequest) *scan {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newScanLocked(req)
}

func (h *history) newScanLocked(req recoveryRequest) *scan {
	return &scan{last: req.last > 0, drops: h.drops, begun: h.clock(time.Now())}
}

// searchSome continues s by a piece, and reports whether it has not come to the end.
func (h *history) searchSome(s *scan, prefix string) (more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.searchLocked(s, prefix, h.piece)
}

// searchLocked continues s by at most a number of entries, and reports whether there are
// more.
func (h *history) searchLocked(s *scan, prefix string, most int) (more bool) {
	if front := h.frontLocked(); front > s.upTo { // it may have dropped some
		s.miss(front, "count")
	}
	rest := following(h.log, s.upTo)
	if more = len(rest) > most; more {
		rest = rest[:most]
	}
	now := h.clock(time.Now())
	for _, e := range rest {
		switch {
		case e.key != "" && !isBelow(e.key, prefix):
		case e.dropped():
			s.miss(e.seq, h.whyLocked(e))
		case s.last:
			s.entries = append(s.entries, e)
		case h.tooOldLocked(e, now):
			s.miss(e.seq, "age")
		case s.first == 0:
			s.first = e.seq
		}
	}
	if more {
		s.upTo = rest[len(rest)-1].seq
	} else {
		s.upTo = h.last
	}
	return more
}

// miss notes that an entry is gone.
func (s *scan) miss(seq uint64, why string) {
	if seq > s.floor {
		s.floor, s.why = seq, why
	}
}

// frontLocked returns the number up to which the log has nothing.
func (h *history) frontLocked() uint64 {
	if len(h.log) == 0 {
		return h.last
	}
	return h.log[0].seq - 1
}

// whyLocked returns why an entry was dropped.
func (h *history) whyLocked(e *entry) string {
	if r := h.rings[e.key]; r != nil {
		return r.why
	}
	return h.why
}

// searchFrom returns a number for a request: all entries below prefix that it asks for
// follow it.
func (h *history) searchFrom(req recoveryRequest, prefix string) (after uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case req.position != "":
		after, ok = h.findLocked(req.position)
		return after, ok && after <= h.last
	case !req.since.IsZero():
		since := h.clock(req.since)
		i, _ := slices.BinarySearchFunc(h.log, since, func(e *entry, t time.Duration) int { return cmp.Compare(e.at, t) })
		return h.beforeLocked(i), true
	case req.last == 0:
		return 0, false
	}
	// Backwards from the end, in pieces.
	after = h.last
	for n := req.last; n > 0 && after > 0; {
		var found int
		after, found = h.newestLocked(prefix, after, n, h.piece)
		n -= found
		h.mu.Unlock()
		runtime.Gosched()
		h.mu.Lock()
	}
	return after, true
}

// newestLocked looks backwards from the entry with the number upTo on, at no more than most
// entries, for n that are kept of channels below prefix. It returns the number before the
// last one that it has looked at, and how many it has found.
func (h *history) newestLocked(prefix string, upTo uint64, n, most int) (before uint64, found int) {
	now := h.clock(time.Now())
	i := len(h.log) - len(following(h.log, upTo))
	for end := max(i-most, 0); i > end && found < n; i-- {
		if e := h.log[i-1]; !e.dropped() && isBelow(e.key, prefix) && !h.tooOldLocked(e, now) {
			found++
		}
	}
	return h.beforeLocked(i), found
}

// beforeLocked returns a number that the entry at index i follows, and no other before it.
func (h *history) beforeLocked(i int) uint64 {
	if i == 0 {
		return 0
	}
	return h.log[i-1].seq
}

// isBelow reports whether a key is of a channel below a prefix, in the same namespace.
func isBelow(key, prefix string) bool {
	return strings.HasPrefix(key, prefix) && strings.Contains(key, "\x00") == strings.Contains(prefix, "\x00")
}

// following returns the entries whose numbers are higher than after.
func following(entries []*entry, after uint64) []*entry {
	i, _ := slices.BinarySearchFunc(entries, after+1, func(e *entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	return entries[i:]
}
