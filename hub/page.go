// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"time"
)

const (
	// maxPage is the largest number of messages in one answer to /meta/history.
	maxPage = 1000
	// defaultPage is their number if the frame does not say.
	defaultPage = 100
	// maxPageBytes is the largest number of bytes of these messages. A page with a single
	// message may be larger.
	maxPageBytes = 256 << 10
)

// A pageRequest asks for kept messages of a channel or pattern without a subscription.
type pageRequest struct {
	last   int    // the newest ones of this number
	before string // of those that are older than the message at this position, if it is set
}

// A page is the answer to a pageRequest.
type page struct {
	messages []*Message // in their order
	before   string     // if there are older ones, what asks for them; a gate may withhold messages, so no message tells it
	position string     // a subscription that begins with it goes on after the newest message
	why      string     // why there are none: epoch or none; empty if the history has no others
}

// page returns kept messages of a channel, or of the channels below a prefix. It skips messages
// that are too old, without dropping them. It releases the lock in between.
func (h *history) page(req pageRequest, key string, pattern bool, room int) (out page) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out.position = h.positionLocked(h.last).String()
	upTo := h.last
	if req.before != "" {
		seq, ok := h.findLocked(req.before)
		if !ok {
			out.why = "epoch"
			return out
		}
		upTo = max(seq, 1) - 1
	}
	for upTo > 0 {
		list := h.log
		if !pattern {
			list = nil
			if r := h.rings[key]; r != nil {
				list = r.entries
			}
		}
		i := len(list) - len(following(list, upTo))
		end := max(i-h.piece, 0)
		if h.pageLocked(&out, list[end:i], req.last, key, pattern, &room) || end == 0 {
			break
		}
		upTo = list[end-1].seq
		h.mu.Unlock()
		runtime.Gosched()
		h.mu.Lock()
	}
	slices.Reverse(out.messages)
	return out
}

// pageLocked adds messages of the list to a page, the newest first, and reports whether the
// page is full.
func (h *history) pageLocked(out *page, list []*entry, last int, key string, pattern bool, room *int) (full bool) {
	now := h.clock(time.Now())
	for _, e := range slices.Backward(list) {
		if e.dropped() || pattern && !isBelow(e.key, key) || h.tooOldLocked(e, now) {
			continue
		}
		m := h.messageLocked(e)
		*room -= len(m.object)
		if len(out.messages) == last || *room < 0 && len(out.messages) > 0 {
			out.before = h.positionLocked(out.messages[len(out.messages)-1].seq).String()
			return true
		}
		out.messages = append(out.messages, m)
	}
	return false
}

// metaPage returns what a /meta/history asks for. data is the data of a decoded frame.
func metaPage(data []byte) (*pageRequest, *Refusal) {
	req := &pageRequest{last: defaultPage}
	var last, before []byte
	if r := frameMembers(data, func(key, value []byte) {
		switch string(key) {
		case "last":
			last = value
		case "before":
			before = value
		}
	}); r != nil {
		return nil, r
	}
	if last != nil {
		n, err := strconv.Atoi(string(last))
		if err != nil || n < 1 || n > maxPage {
			return nil, refuse(CodeInvalid, fmt.Sprintf("data.last must be a number of messages from 1 to %d", maxPage))
		}
		req.last = n
	}
	if before != nil {
		text, whole := frameText(nil, before)
		if !whole || len(text) == 0 {
			return nil, refuse(CodeInvalid, "data.before must be a position that the server has given")
		}
		req.before = string(text)
	}
	return req, nil
}

// applyPage answers the /meta/history of o, which the gate allowed. It returns false and
// changes nothing if o is stale.
func (o *op) applyPage() (done bool) {
	a := o.agent
	p := o.policy
	found := page{why: "none"}
	pattern := IsPattern(o.channel)
	if p.keeps(o.channel) {
		_, key := a.nodeOf(o.channel)
		found = a.hub.history.page(*o.page, key, pattern, min(maxPageBytes, p.Limits.QueueBytes/4))
	}
	// The gates are asked with no lock held, under the policy that is compared below.
	allowed := found.messages[:0]
	for _, m := range found.messages {
		if p.Gates != nil {
			if g := p.Gates.DeliverGate(m.Channel); g != nil {
				m = delivered(g, a, m)
			}
		}
		if m == nil {
			a.hub.counts.drop(DropGate, 1)
			continue
		}
		allowed = append(allowed, m)
	}
	found.messages = allowed
	answer := a.out.conn.Form().encode(appendPage(nil, &o.in, found))

	a.mu.Lock()
	if a.state != stateConnected {
		a.mu.Unlock()
		return true
	}
	if o.isStale() {
		a.mu.Unlock()
		return false
	}
	if !a.out.queue.fits(len(answer)) {
		a.mu.Unlock()
		a.answer(&o.in, &Refusal{CodeLimit, "too much waits to be sent to you; ask again, or for fewer messages", time.Second})
		return true
	}
	notify := a.out.acceptLocked(item{bytes: answer})
	a.unlock(notify)
	return true
}
