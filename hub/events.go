// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"strings"
	"sync"
	"time"
)

// An EventName says what an Event is about.
type EventName string

// The events.
const (
	AgentConnected    EventName = "agent_connected"    // it was allowed to connect
	AgentDisconnected EventName = "agent_disconnected" // one that was is gone
	ChannelOccupied   EventName = "channel_occupied"   // a channel or pattern got its first subscriber
	ChannelVacated    EventName = "channel_vacated"    // it lost its last
)

// An Event is something that happened in a hub. Only what is about its kind is
// set.
type Event struct {
	Name EventName
	At   time.Time

	// Of an agent. AgentID is what it calls itself, which proves nothing. Code,
	// Reason and Lasted are of the end; Code is 0 where the server did not close.
	Agent, AgentID, User string
	Transport, RemoteIP  string
	Code                 CloseCode
	Reason               string
	Lasted               time.Duration

	// Of a channel, or of a pattern if Pattern says so. Namespace is also of an
	// agent.
	Channel   string
	Pattern   bool
	Namespace string
}

// Events hears of what happens in a hub.
type Events interface {
	// Wants reports whether anybody listens to events of that name. It is called
	// concurrently and with locks held: it must not block.
	Wants(name EventName) bool
	// Handle is called for one event after the other, in the order in which they
	// happened, by one goroutine and with no lock held. It may take its time: up to
	// maxEvents wait meanwhile, and those beyond are lost. lost is how many were
	// since the last call.
	Handle(e Event, lost int)
}

// maxEvents is how many events may wait to be handled: the coming and going of a
// reconnect storm, and no more than half a megabyte.
const maxEvents = 4096

// eventsPatience is how long the end of a hub waits for what handles events.
const eventsPatience = time.Second

// An eventQueue hands events to one goroutine. A nil one takes none.
type eventQueue struct {
	to     Events
	counts *counts
	done   chan struct{} // closed when run has returned; never sent on
	wake   chan struct{} // buffered(1), so that put never blocks; never closed

	mu     sync.Mutex // guards the following; no other lock is taken under it
	events []Event
	lost   int  // since run last looked
	busy   bool // run is having some handled
	closed bool
}

// HandleEvents has e hear of what happens in the hub from now on. It is called at
// most once, before the first Open.
func (h *Hub) HandleEvents(e Events) {
	q := &eventQueue{to: e, counts: h.counts, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	h.events, h.channels.events, h.patterns.events = q, q, q
	go q.run()
}

// wants reports whether an event of that name is worth making.
func (q *eventQueue) wants(name EventName) bool { return q != nil && q.to.Wants(name) }

// put queues an event. It does not block, and may be called with any lock held:
// that is what keeps events in their order.
func (q *eventQueue) put(e Event) {
	e.At = time.Now()
	q.mu.Lock()
	switch {
	case q.closed:
	case len(q.events) >= maxEvents:
		q.lost++
		q.counts.overflow[QueueEvents].Add(1)
	default:
		q.events = append(q.events, e)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) run() {
	defer close(q.done)
	for range q.wake {
		for {
			q.mu.Lock()
			events, lost, closed := q.events, q.lost, q.closed
			q.events, q.lost = nil, 0
			q.busy = len(events) > 0
			q.mu.Unlock()
			for _, e := range events {
				q.to.Handle(e, lost)
				lost = 0
			}
			if len(events) == 0 {
				if closed {
					return
				}
				break
			}
		}
	}
}

// isIdle reports whether all events are handled.
func (q *eventQueue) isIdle() bool {
	if q == nil {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events) == 0 && !q.busy
}

// close takes no more events, and waits until those that were taken are handled,
// but not for ever.
func (q *eventQueue) close() {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	patience := time.NewTimer(eventsPatience)
	defer patience.Stop()
	select {
	case <-q.done:
	case <-patience.C:
	}
}

// agentEvent tells of an agent.
func (a *Agent) agentEvent(name EventName) Event {
	e := Event{
		Name: name, Agent: a.UUID(), User: a.User(), Transport: a.opening.Transport, Namespace: a.opening.Namespace,
	}
	if a.opening.RemoteIP.IsValid() {
		e.RemoteIP = a.opening.RemoteIP.String()
	}
	return e
}

// tell tells that n got its first subscriber or lost its last. The caller holds
// n.mu.
func (n *node) tellLocked(name EventName) {
	if q := n.home.events; q.wants(name) {
		e := Event{Name: name, Pattern: n.home.patterns}
		var found bool
		if e.Namespace, e.Channel, found = strings.Cut(n.key, "\x00"); !found {
			e.Namespace, e.Channel = "", n.key
		}
		if e.Pattern {
			e.Channel += "*"
		}
		q.put(e)
	}
}
