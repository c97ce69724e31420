// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"math/rand/v2"
	"time"
)

// Agents that are sent away because the server goes come back spread over a
// window: it begins when a server that is only started again may be there, and is
// as long as it takes for comeBackRate of them to come back each second, within
// bounds.
const (
	comeBackFirst    = time.Second
	comeBackRate     = 500 // agents a second: what one core takes with TLS and a gate to ask
	comeBackShortest = time.Second
	comeBackLongest  = time.Minute
)

// ComeBackWindow returns from when to when so many agents are told to come back.
func ComeBackWindow(agents int) (from, to time.Duration) {
	length := time.Duration(agents) * time.Second / comeBackRate
	return comeBackFirst, comeBackFirst + min(max(length, comeBackShortest), comeBackLongest)
}

// comeBack returns for each of n agents when it is to come back: chance within
// equal parts of the window, so that few are spread as well as many.
func comeBack(n int) []time.Duration {
	from, to := ComeBackWindow(n)
	times := make([]time.Duration, n)
	for i := range times {
		at := (float64(i) + rand.Float64()) / float64(n) //nolint:gosec // G404: nothing secret
		times[i] = from + time.Duration(at*float64(to-from))
	}
	return times
}

// goingAway is why no session is opened while the server goes. Who comes is not
// spread any more than by its own backoff.
var goingAway = &Refusal{CodeUnavailable, "the server is going away", 5 * time.Second}

// drainLook is how often Drain looks whether all are gone.
const drainLook = 10 * time.Millisecond

// A Cutter is a Conn that can be ended at once, without a word, from any
// goroutine: the goroutine that reads then ends too, and calls Agent.Left.
type Cutter interface{ Cut() }

// A Drained is what came of Drain.
type Drained struct {
	Agents int // that there were
	Cut    int // of them, those that were not gone in time
	Took   time.Duration
}

// Drain sends everybody away, for a server that is going: no session is opened
// any more, and each agent gets what is queued for it, then /meta/close with
// CloseUnavailable and a time to come back that is spread over ComeBackWindow. It
// returns when all are gone, their disconnect gates told, and all events handled, or when
// the time is over: then it cuts who is left. Close is still to be called.
func (h *Hub) Drain(within time.Duration) Drained {
	begun := time.Now()
	h.mu.Lock()
	h.going = true
	agents := make([]*Agent, 0, len(h.agents))
	for a := range h.agents {
		agents = append(agents, a)
	}
	h.mu.Unlock()
	// Most of the time is for what is to be written, the rest for the answer.
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

// sendAway closes the agent because the server goes, writing until by at most.
func (a *Agent) sendAway(retry time.Duration, by time.Time) {
	a.mu.Lock()
	before := a.state
	notify := a.closeLocked(CloseUnavailable, goingAway.Reason, retry)
	// Who is being closed already, for a reason of its own, gets no more time.
	if a.out.conn != nil && (before < stateClosing || before == stateClosing && a.out.closeBy.After(by)) {
		a.out.expireLocked(by)
	}
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

// cut ends who is left, and returns how many that are.
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
