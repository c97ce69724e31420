// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"slices"
	"time"
)

// An agent that comes from another machine may have a position that this machine has not come
// to: it applies the same log, but some milliseconds later, or longer if it is busy. The
// position may also be of a log that has lost its end. So an operation with such a position
// waits until the machine has come to it, for a bounded time.

// aheadPatience is how long an operation waits for a position. A Broker needs less time to find
// out that it has missed an entry. It also needs less to find out that its server is cut off from
// the others: then the machine is behind, and the position counts.
const aheadPatience = 5 * time.Second

// An awaited number is one that an operation waits for.
type awaited struct {
	seq     uint64
	reached chan struct{} // closed when the number is there, or waiting is no use
}

// isAhead reports whether a position is of the hub's log, and ahead of this machine, which does
// not know that it is behind.
func (h *history) isAhead(position string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ahead := h.aheadLocked(position)
	return ahead
}

// aheadLocked returns the number of a position that is ahead.
func (h *history) aheadLocked(position string) (seq uint64, ahead bool) {
	p, ok := ParsePosition(position)
	if !ok || h.epoch == "" || p.Epoch != h.epoch || h.behind || p.Seq <= h.last-h.base {
		return 0, false
	}
	return h.base + p.Seq, true
}

// awaitPosition waits while a position is ahead, for aheadPatience at most.
func (h *history) awaitPosition(ctx context.Context, position string) {
	h.mu.Lock()
	seq, ahead := h.aheadLocked(position)
	if !ahead {
		h.mu.Unlock()
		return
	}
	reached := make(chan struct{})
	h.awaited = append(h.awaited, awaited{seq, reached})
	h.mu.Unlock()
	timer := time.NewTimer(aheadPatience)
	defer timer.Stop()
	select {
	case <-reached:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.awaited = slices.DeleteFunc(h.awaited, func(w awaited) bool { return w.reached == reached })
}

// wakeLocked wakes those that wait for a number that is there now, or all of them.
func (h *history) wakeLocked(all bool) {
	h.awaited = slices.DeleteFunc(h.awaited, func(w awaited) bool {
		over := all || w.seq <= h.last
		if over {
			close(w.reached)
		}
		return over
	})
}

// ahead returns the position that o has to wait for; "" if there is none. Only where there are
// other machines can an agent know more than this one.
func (o *op) ahead() string {
	if o.why != byFrame || o.waited || o.verdict.Refusal != nil {
		return ""
	}
	var position string
	switch {
	case o.page != nil:
		position = o.page.before
	case o.recover != nil && o.whyNotRecovered() == "":
		position = o.recover.position
	}
	if h := o.agent.hub; position == "" || h.Bus() == nil || !h.history.isAhead(position) {
		return ""
	}
	return position
}
