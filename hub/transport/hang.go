// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
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

const (
	// pulseEvery is how often a machine looks at the time, and whether it is behind. If it has
	// not done so for hungFor, it has hung.
	pulseEvery, hungFor = 250 * time.Millisecond, time.Second
	// cutOffBeats is how many times in a row a machine is found behind if it was cut off. It
	// learns of that late: its connections first have to be silent for a while.
	cutOffBeats = 2
	// doubtFor is how long after that a machine doubts that clients are there, and doubtDelay
	// how long a session may then be without a request to receive.
	doubtFor, doubtDelay = 3 * time.Second, 2 * time.Second
)

// A pulse notices that the machine was away: that it has hung, or was cut off.
type pulse struct {
	began time.Time    // the zero of the following
	last  atomic.Int64 // when it was felt, as a time.Duration; 0: never
	woke  atomic.Int64 // when the machine was back, likewise

	behind int // beats in a row; owned by feel
}

// now is never 0.
func (p *pulse) now() int64 { return int64(time.Since(p.began)) + 1 }

// feel looks at the time. It reports whether the machine was away until now.
func (p *pulse) feel(behind bool) (back bool) {
	now := p.now()
	last := p.last.Swap(now)
	back = last > 0 && now-last > int64(hungFor)
	if behind {
		p.behind++
	} else {
		back = back || p.behind >= cutOffBeats
		p.behind = 0
	}
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
		s.expireInLocked(s.times.doubt)
	}
}
