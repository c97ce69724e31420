// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"math"
	"slices"
	"time"
)

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

// A recovering is a recoveryRequest under way.
type recovering struct {
	recoveryRequest
	searched *scan // for a pattern: what search has returned; without it, recover searches
}

// newRecovering returns nil if req asks for nothing.
func newRecovering(req recoveryRequest) *recovering {
	if !req.isSet() {
		return nil
	}
	return &recovering{recoveryRequest: req}
}

// A recovery is what a subscription begins with. It gets the kept messages that follow
// from: those up to head by catching up (see laggards), and the others live.
type recovery struct {
	from     uint64
	head     uint64   // the number of the newest message, or of a later one that the agent has
	position Position // of from
	unread   Position // the agent's own one, if there is no log that could tell about it
	whole    bool     // nothing is missing
	why      string   // else why: epoch, count, age or bytes
	drops    uint32   // whole and why count what was dropped up to here, see history.drops
	begun    time.Duration
	floor    uint64 // the highest number that was dropped of the channel
}

// recover returns what a subscription begins with. nil begins with what is live.
func (h *history) recover(req *recovering, key string, pattern bool) (out recovery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out = recovery{from: h.last, head: h.last, whole: true, drops: h.drops, begun: h.clock(time.Now())}
	defer func() {
		if out.position = out.unread; out.position.Epoch == "" {
			out.position = h.positionLocked(out.from)
		}
	}()
	if req == nil {
		return out
	}
	var after uint64
	if p, ok := ParsePosition(req.position); ok && h.epoch == "" {
		// There is no log yet. When it comes, all agents are sent back to ask again.
		out.unread = p
		return out
	}
	if req.position != "" {
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
	}
	var found *scan
	if pattern {
		found = h.searchedLocked(req, key, after)
	} else {
		found = h.ringLocked(req.recoveryRequest, key, after)
	}
	if req.last > 0 {
		found.first = h.lastLocked(found, req.last, key, pattern)
	} else if found.floor > found.after {
		out.whole, out.why = false, found.why
	}
	out.drops, out.begun, out.floor = found.drops, found.begun, found.floor
	if found.first > 0 {
		out.from = found.first - 1
	}
	return out
}

// searchedLocked completes the search for a pattern's messages.
func (h *history) searchedLocked(req *recovering, prefix string, after uint64) *scan {
	found := req.searched
	if found == nil {
		found = h.newScanLocked(req.recoveryRequest)
		found.after, found.upTo = after, after
	}
	h.searchLocked(found, prefix, math.MaxInt)
	return found
}

// lastLocked returns the number of the oldest of the newest messages that found has, or 0 if
// it has none.
func (h *history) lastLocked(found *scan, last int, key string, pattern bool) uint64 {
	now := h.clock(time.Now())
	due := slices.DeleteFunc(slices.Clone(found.entries), func(e *entry) bool { return e.dropped() || h.tooOldLocked(e, now) })
	found.drops, found.begun = h.drops, now // what is not there any more is not missing
	switch {
	case pattern && len(due) < last && found.after > 0:
		// Some were dropped since they were found, so older ones are due. This is rare.
		after, n := h.newestLocked(key, h.last, last, math.MaxInt)
		if n == 0 {
			return 0
		}
		return after + 1
	case len(due) == 0:
		return 0
	}
	return due[max(0, len(due)-last)].seq
}

// ringLocked returns the entries of a channel that a request asks for.
func (h *history) ringLocked(req recoveryRequest, key string, after uint64) *scan {
	s := h.newScanLocked(req)
	s.after, s.floor, s.why = after, h.lost, h.why
	r := h.rings[key]
	if r == nil {
		return s
	}
	s.entries, s.floor, s.why = following(r.entries, after), r.floor, r.why
	if !req.since.IsZero() {
		since := h.clock(req.since)
		n, _ := slices.BinarySearchFunc(s.entries, since, func(e *entry, t time.Duration) int { return cmp.Compare(e.at, t) })
		if n > 0 || r.gone < since { // what was dropped is older
			s.floor = 0
		}
		s.entries = s.entries[n:]
	}
	for len(s.entries) > 0 && h.tooOldLocked(s.entries[0], s.begun) {
		s.miss(s.entries[0].seq, "age")
		s.entries = s.entries[1:]
	}
	if len(s.entries) > 0 {
		s.first = s.entries[0].seq
	}
	return s
}

// tooOldLocked reports whether the next sweep drops an entry.
func (h *history) tooOldLocked(e *entry, now time.Duration) bool {
	return now-e.at >= h.rings[e.key].rule.TTL
}
