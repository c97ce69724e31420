// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// When the server stops, it tells each agent when to come back. These times are spread
// over a window, so that a restarted server does not get all agents at once. The window
// begins when a restart may be over. It is long enough for comeBackRate agents a second,
// within limits.
const (
	comeBackFirst    = time.Second
	comeBackRate     = 500 // agents a second: one core accepts as many with TLS and a gate to ask
	comeBackShortest = time.Second
	comeBackLongest  = time.Minute
)

// ComeBackWindow returns the window in which that many agents are told to come back.
func ComeBackWindow(agents int) (from, to time.Duration) {
	length := time.Duration(agents) * time.Second / comeBackRate
	return comeBackFirst, comeBackFirst + min(max(length, comeBackShortest), comeBackLongest)
}

// comeBack returns a time to come back for each of n agents. Each time is random within
// an equal part of the window, so that a few agents are spread as evenly as many.
func comeBack(n int) []time.Duration {
	from, to := ComeBackWindow(n)
	times := make([]time.Duration, n)
	for i := range times {
		at := (float64(i) + rand.Float64()) / float64(n) //nolint:gosec // G404: nothing secret
		times[i] = from + time.Duration(at*float64(to-from))
	}
	return times
}

// goingAway refuses new sessions while the server stops. Its retry is not spread: the
// client's own backoff spreads it.
var goingAway = &Refusal{CodeUnavailable, "the server is going away", 5 * time.Second}

// goingAway returns goingAway if the hub stops or has stopped, else nil.
func (h *Hub) goingAway() *Refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.goingAwayLocked()
}

func (h *Hub) goingAwayLocked() *Refusal {
	if h.closed || h.going {
		return goingAway
	}
	return nil
}

// drainLook is how often Drain checks whether all agents are gone.
const drainLook = 10 * time.Millisecond

// A Cutter is a Conn that can be closed at once, without a close notice, from any
// goroutine. The goroutine that reads then ends too, and calls Agent.Left.
type Cutter interface{ Cut() }

// A Drained is the result of Drain.
type Drained struct {
	Agents int // sessions when Drain began
	Cut    int // sessions that did not end in time and were cut
	Took   time.Duration
}

// Drain sends all agents away because the server stops. From now on Open refuses. Each
// agent gets what is queued for it, then /meta/close with CloseUnavailable and a time to
// come back within ComeBackWindow. Drain returns when all agents are gone, all disconnect
// gates have answered and all events are handled. After the time within, it cuts the
// remaining sessions and returns too. The caller still has to call Close.
func (h *Hub) Drain(within time.Duration) Drained {
	begun := time.Now()
	h.mu.Lock()
	h.going = true
	h.end()
	agents := slices.Collect(maps.Keys(h.agents))
	h.mu.Unlock()
	// Most of the time is for writing, the rest for the peer to close its side.
	by := begun.Add(within * 3 / 4)
	for i, retry := range comeBack(len(agents)) {
		agents[i].sendAway(retry, by)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for h.Agents() > 0 || h.partings.Load() > 0 || !h.events.isIdle() {
		select {
		case <-look.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	return Drained{Agents: len(agents), Cut: h.cut(), Took: time.Since(begun)}
}

// sendAway closes the agent because the server stops. Writes may last until by.
func (a *Agent) sendAway(retry time.Duration, by time.Time) {
	a.mu.Lock()
	before := a.state
	notify := a.closeLocked(CloseUnavailable, goingAway.Reason, retry)
	// An agent that is already being closed gets no more time than it has.
	if a.out.conn != nil && (before < stateClosing || before == stateClosing && a.ending.by.After(by)) {
		a.out.expireLocked(by)
	}
	a.unlock(notify)
}

// cut closes all remaining Conns at once, and returns how many there were.
func (h *Hub) cut() (n int) {
	h.mu.Lock()
	var conns []Conn
	for a := range h.agents {
		a.mu.Lock()
		conns = append(conns, a.out.conn)
		a.mu.Unlock()
	}
	h.mu.Unlock()
	for _, c := range conns {
		if cutter, ok := c.(Cutter); ok {
			cutter.Cut()
		}
	}
	return len(conns)
}
