// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

// Many clients leave while their machine hangs, or is cut off from the others, and some in the
// very moment when it goes on: between two of their requests, so that nothing tells the
// machine. Their sessions would expire after disconnectDelay, and they would be listed as
// present until then, though they are connected elsewhere long since. So a machine notices that
// it was away, and then gives clients less time for their next request. Clients that are there
// make it at once, and those that are late for it lose nothing: they open another session, and
// ask for what is missing.
//
// A machine that relays requests, and was away, tells the home.
//
// A machine that is only busy seems to hang, or to be cut off, as well. But its clients are there:
// it is late for their requests itself. If it ended their sessions, they would make it even busier.
// So a machine that has been late since then gives clients the whole time after all.

const (
	// pulseEvery is how often a machine looks at the time, and whether it is behind. If it has
	// not done so for hungFor, it has hung. If it was behind, it was cut off: it learns of that
	// late, because its connections first have to be silent for a while.
	pulseEvery, hungFor = 250 * time.Millisecond, time.Second
	// lateBy is how late a beat is if the machine is busy. A request needs a turn of the processor
	// several times until it is attached to its session, so this is much less than doubtDelay.
	lateBy = 100 * time.Millisecond
	// doubtFor is how long after that a machine doubts that clients are there, and doubtDelay
	// how long a session may then be without a request to receive.
	doubtFor, doubtDelay = 3 * time.Second, 2 * time.Second
)

// A pulse notices that the machine was away: that it has hung, or was cut off.
type pulse struct {
	began time.Time    // the zero of the following
	last  atomic.Int64 // when it was felt, as a time.Duration; 0: never
	woke  atomic.Int64 // when the machine was back, likewise
	busy  atomic.Int64 // when a beat was late, likewise; a hang alone does not count

	behind bool  // at the last beat; owned by feel
	late   int64 // when the last late beat was; owned by feel
}

// now is never 0.
func (p *pulse) now() int64 { return int64(time.Since(p.began)) + 1 }

// feel looks at the time. It reports whether the machine was away until now.
func (p *pulse) feel(behind bool) (back bool) {
	now := p.now()
	last := p.last.Swap(now)
	if p.isLate(last, now) {
		if again := p.late > 0 && now-p.late < int64(doubtFor); !again && now-last > int64(hungFor) {
			back = true
		} else {
			p.busy.Store(now)
		}
		p.late = now
	}
	back = back || p.behind && !behind
	p.behind = behind
	if back {
		p.woke.Store(now)
	}
	return back
}

// wasAway reports whether the machine hangs until now, or was away a short time ago.
func (p *pulse) wasAway() bool {
	last, woke, now := p.last.Load(), p.woke.Load(), p.now()
	return last > 0 && now-last > int64(hungFor) || woke > 0 && now-woke < int64(doubtFor)
}

func (p *pulse) isLate(last, now int64) bool {
	return last > 0 && now-last > int64(pulseEvery+lateBy)
}

// wasBusy reports whether the machine was late for requests a short time ago.
func (p *pulse) wasBusy() bool {
	busy := p.busy.Load()
	return busy > 0 && p.now()-busy < int64(doubtFor)
}

// isInTime reports whether the machine is in time for requests, and was so for a while.
func (p *pulse) isInTime() bool { return !p.wasBusy() && !p.isLate(p.last.Load(), p.now()) }

// feelPulse notices that the machine was away, until the hub ends.
func (ss *Sessions) feelPulse(h *hub.Hub) {
	ctx, cancel := context.WithCancel(context.Background())
	h.OnEnd(cancel)
	go func() {
		ticker := time.NewTicker(pulseEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				runtime.Gosched() // the runtime prefers timers, so wait for a turn as requests do
				ss.beat(h.IsBehind())
			}
		}
	}()
}

// beat is a beat of the pulse.
func (ss *Sessions) beat(behind bool) {
	if !ss.pulse.feel(behind) {
		return
	}
	for _, s := range ss.all() {
		s.doubt()
	}
}

// doubt gives the client less time for its next request to receive, if none is there.
func (s *session) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.response == nil && s.bye == "" && time.Until(s.expires) > s.times.doubt {
		s.doubtLocked()
	}
}

// doubtLocked makes the time until the session expires shorter. The caller holds s.mu.
func (s *session) doubtLocked() {
	whole := s.expires
	s.expireInLocked(s.times.doubt)
	s.whole = whole
}

// trustLocked gives back what doubtLocked has taken, if the machine was not in time for requests
// itself. It reports whether it did. The caller holds s.mu.
func (s *session) trustLocked() bool {
	left := time.Until(s.whole)
	if left <= 0 || s.sessions.pulse.isInTime() {
		return false
	}
	s.expireInLocked(left)
	return true
}
