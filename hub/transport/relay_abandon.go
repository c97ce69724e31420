// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// A client whose request to receive fails gives its session up, and opens another one. If it
// failed because the home of the session could not be reached, the home does not know that: the
// agent would stay subscribed, and be listed as present, until its session expires. So the
// machine that has answered the client tells the home, as soon as that can be reached again. If it
// does not know the home, it tells all machines, also those that come up a little later.

const (
	// abandonTopic is that of lists of sessions that were given up.
	abandonTopic = "session.abandoned"
	// abandonEvery is how often a machine tries to tell homes, and abandonFor for how long: then
	// the sessions have expired.
	abandonEvery, abandonFor = 250 * time.Millisecond, 30 * time.Second
	// maxAbandoned is how many sessions a machine remembers that were given up, and
	// abandonPiece how many it names in one message.
	maxAbandoned, abandonPiece = 10_000, 500
)

// An abandoned session was given up by its client.
type abandoned struct {
	request relayRequest
	home    hub.NodeID
	until   time.Time
}

// An unfound session was given up by its client, and no machine that was asked had it.
type unfound struct {
	e       *Endpoint // that was asked for it
	request relayRequest
	until   time.Time // when it has expired, wherever it is
}

// abandonments are the sessions whose homes do not know that they were given up.
type abandonments struct {
	mu      sync.Mutex // guards the following; a leaf
	list    []abandoned
	unfound []unfound                // sessions whose homes are not known
	telling bool                     // a goroutine tells homes
	nodes   map[hub.NodeID]time.Time // other machines, and since when they are down: zero if they are up
}

// watch notes that another machine is up or down.
func (ab *abandonments) watch(node hub.NodeID, up bool) {
	ab.mu.Lock()
	defer ab.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(ab.nodes, func(_ hub.NodeID, down time.Time) bool { return !down.IsZero() && now.Sub(down) > abandonFor })
	if ab.nodes == nil {
		ab.nodes = make(map[hub.NodeID]time.Time)
	}
	if ab.nodes[node] = (time.Time{}); !up {
		ab.nodes[node] = now
		return
	}
	ab.dropUnfoundLocked(now)
	for _, s := range ab.unfound {
		s.e.abandonLocked(s.request, node)
	}
}

// dropUnfoundLocked forgets sessions that have expired. The caller holds ab.mu.
func (ab *abandonments) dropUnfoundLocked(now time.Time) {
	n := 0 // they expire in their order
	for n < len(ab.unfound) && ab.unfound[n].until.Before(now) {
		n++
	}
	clear(ab.unfound[:n])
	ab.unfound = ab.unfound[n:]
}

// abandon notes that the client of a session has given it up, because its home did not answer
// a request to receive. Each of homes may be the home.
func (e *Endpoint) abandon(q relayRequest, homes ...hub.NodeID) {
	ab := &e.Sessions.abandonments
	ab.mu.Lock()
	defer ab.mu.Unlock()
	e.abandonLocked(q, homes...)
}

// abandonUnfound is abandon for a session whose home was not found.
func (e *Endpoint) abandonUnfound(q relayRequest) {
	ab := &e.Sessions.abandonments
	ab.mu.Lock()
	defer ab.mu.Unlock()
	now := time.Now()
	if ab.dropUnfoundLocked(now); len(ab.unfound) < maxAbandoned {
		ab.unfound = append(ab.unfound, unfound{e, q, now.Add(e.patience().disconnect)})
	}
	var homes []hub.NodeID
	for node, down := range ab.nodes {
		if down.IsZero() || now.Sub(down) < abandonFor {
			homes = append(homes, node)
		}
	}
	e.abandonLocked(q, homes...)
}

// abandonLocked is abandon for a caller that holds abandonments.mu.
func (e *Endpoint) abandonLocked(q relayRequest, homes ...hub.NodeID) {
	ab := &e.Sessions.abandonments
	if len(homes) == 0 || len(ab.list)+len(homes) > maxAbandoned {
		return // the session expires
	}
	for _, home := range homes {
		ab.list = append(ab.list, abandoned{q, home, time.Now().Add(abandonFor)})
	}
	if !ab.telling {
		ab.telling = true
		go e.tellHomes()
	}
}

// tellHomes tells homes which sessions were given up, until all know it, or it is too late.
func (e *Endpoint) tellHomes() {
	ab := &e.Sessions.abandonments
	for {
		ab.mu.Lock()
		now := time.Now()
		ab.list = slices.DeleteFunc(ab.list, func(a abandoned) bool { return a.until.Before(now) })
		ab.dropUnfoundLocked(now)
		bus := e.Hub.Bus()
		if len(ab.list) == 0 || bus == nil {
			ab.list, ab.telling = nil, false
			ab.mu.Unlock()
			return
		}
		list := ab.list
		ab.list = nil
		ab.mu.Unlock()
		left := e.tellOnce(bus, list)
		ab.mu.Lock()
		ab.list = append(ab.list, left...)
		ab.mu.Unlock()
		time.Sleep(abandonEvery)
	}
}

// tellOnce tries once, and returns what is left.
func (e *Endpoint) tellOnce(bus hub.Bus, list []abandoned) (left []abandoned) {
	byHome := make(map[hub.NodeID][]abandoned)
	for _, a := range list {
		byHome[a.home] = append(byHome[a.home], a)
	}
	for home, all := range byHome {
		for len(all) > 0 {
			some := all[:min(len(all), abandonPiece)]
			var requests []relayRequest
			for _, a := range some {
				requests = append(requests, a.request)
			}
			b, err := json.Marshal(requests)
			if err != nil {
				return left // it has only what JSON has
			}
			ctx, cancel := context.WithTimeout(context.Background(), e.patience().relay)
			_, err = bus.Request(ctx, home, abandonTopic, b)
			cancel()
			if errors.Is(err, hub.ErrClosed) {
				return nil
			}
			if err != nil {
				left = append(left, all...)
				break
			}
			all = all[len(some):]
		}
	}
	return left
}

func (q *relayRequest) key() sessionKey { return sessionKey{q.Mount, string(q.Session)} }

// endAbandoned ends sessions whose clients have given them up elsewhere.
func (ss *Sessions) endAbandoned(b []byte) {
	var list []relayRequest
	if json.Unmarshal(b, &list) != nil {
		return
	}
	for i := range list {
		most := list[i].Number
		if most == 0 {
			most = math.MaxInt64 // the client does not number its requests
		}
		ss.endGivenUp(&list[i], most)
	}
}

// doubt notes that the machine that relayed a request to receive was away: its client may have
// left.
func (ss *Sessions) doubt(q *relayRequest) {
	if s, _ := ss.claimed(q); s != nil {
		s.doubt()
	}
}

// endUnreceived ends a session whose client has given up a request to receive with a number,
// if that has not come here. Without a number, nobody can know that.
func (ss *Sessions) endUnreceived(q *relayRequest) {
	if q.Number > 0 {
		ss.endGivenUp(q, q.Number-1)
	}
}

// endGivenUp ends a session, unless a request to receive has come with a higher number than
// most.
func (ss *Sessions) endGivenUp(q *relayRequest, most int64) {
	s, _ := ss.claimed(q)
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.received > most {
		s.mu.Unlock()
		return
	}
	s.endLocked(closeFrame(closeInterrupted, interrupted), "the client gave up while the servers had lost each other")
}
