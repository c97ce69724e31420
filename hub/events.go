// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"sync"
	"time"
)

// An EventName is the kind of an Event.
type EventName string

// The events.
const (
	AgentConnected    EventName = "agent_connected"    // an agent was allowed to connect
	AgentDisconnected EventName = "agent_disconnected" // a connected agent is gone
	ChannelOccupied   EventName = "channel_occupied"   // a channel or pattern got its first subscriber
	ChannelVacated    EventName = "channel_vacated"    // a channel or pattern lost its last subscriber
)

// An Event is something that happened in a hub. Only the fields for its kind are set.
type Event struct {
	Name EventName
	At   time.Time

	// About an agent. The agent chooses its AgentID, so it proves nothing. Code, Reason
	// and Lasted describe the end of the session; Code is 0 if the server did not close
	// it.
	Agent, AgentID, User string
	Transport, RemoteIP  string
	Code                 CloseCode
	Reason               string
	Lasted               time.Duration

	// About a channel, or about a pattern if Pattern is true. Namespace is also set for
	// an agent.
	Channel   string
	Pattern   bool
	Namespace string
}

// Events receives the events of a hub.
type Events interface {
	// Wants reports whether somebody listens to events of that name. The hub calls it
	// concurrently and with locks held, so it must not block.
	Wants(name EventName) bool
	// Handle handles one event. One goroutine calls it, with no lock held, in the order
	// in which the events happened. Handle may block: up to maxEvents events wait
	// meanwhile, and further events are lost. lost is the number of events that were
	// lost since the last call.
	Handle(e Event, lost int)
}

// maxEvents limits the events that wait to be handled. That many hold what a reconnect
// storm causes, in at most half a megabyte.
const maxEvents = 4096

// eventsPatience is how long Hub.Close waits for events to be handled.
const eventsPatience = time.Second

// An eventQueue passes events to one goroutine. A nil eventQueue wants none.
type eventQueue struct {
	to     Events
	counts *counts
	done   chan struct{} // closed when run has returned; never sent on
	wake   chan struct{} // buffered(1), so that put never blocks; never closed

	mu     sync.Mutex // guards the following; no other lock is taken under it
	events []Event
	lost   int  // events lost since run last took the list
	busy   bool // run is inside Handle
	closed bool
}

// HandleEvents sends all events of the hub to e from now on. Call it at most once, before
// the first Open.
func (h *Hub) HandleEvents(e Events) {
	q := &eventQueue{to: e, counts: h.counts, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	h.events, h.channels.events, h.patterns.events = q, q, q
	go q.run()
}

// wants reports whether somebody listens to events of that name.
func (q *eventQueue) wants(name EventName) bool { return q != nil && q.to.Wants(name) }

// put queues an event. It does not block, so it may be called with any lock held. Callers
// hold the lock under which the event happened, which keeps events in order.
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

// close accepts no more events, and waits for eventsPatience until the queued events are
// handled.
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

// agentEvent returns an event about the agent.
func (a *Agent) agentEvent(name EventName) Event {
	e := Event{
		Name: name, Agent: a.UUID(), User: a.User(), Transport: a.opening.Transport(), Namespace: a.opening.Namespace(),
	}
	if ip := a.opening.RemoteIP(); ip.IsValid() {
		e.RemoteIP = ip.String()
	}
	return e
}

// tellLocked queues the event that n got its first subscriber or lost its last one. The
// caller holds n.mu.
func (n *node) tellLocked(name EventName) {
	if q := n.home.events; q.wants(name) {
		e := Event{Name: name, Pattern: n.home.patterns}
		e.Namespace, e.Channel, _ = cutKey(n.name)
		q.put(e)
	}
}
