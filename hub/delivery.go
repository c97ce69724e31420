// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"time"

	"github.com/google/uuid"
)

// A Delivery says how the messages of a channel are delivered.
type Delivery struct {
	// NoEcho keeps a message from the agent that published it.
	NoEcho bool
	// Existing refuses publishes to channels without a subscriber, to the channel or to a
	// pattern that matches it, and without kept messages.
	Existing bool
	// Conflate gives agents that lag only the newest of the messages that wait for them.
	// It has no effect if there is a deliver gate, which may withhold the newest message.
	Conflate bool
}

// conflates reports whether newer messages of a channel replace older ones.
func (p *Policy) conflates(channel string, d Delivery) bool {
	return d.Conflate && (p.Gates == nil || p.Gates.DeliverGate(channel) == nil)
}

// missing is the answer to a publish that Delivery.Existing refuses.
func missing(channel string) *Refusal {
	return refuse(CodeMissing, "nobody has subscribed to "+channel)
}

// exists reports whether somebody on this machine is subscribed to the channel of m, or
// messages of it are kept.
func (h *Hub) exists(m *Message) bool {
	var few [4]*node
	return len(h.appendNodes(few[:0], m)) > 0 || h.history.has(m.key)
}

// has reports whether messages of a channel are kept.
func (h *history) has(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[key]
	if r == nil {
		return false
	}
	h.trimLocked(r, time.Now())
	return len(r.entries) > 0
}

// Deliveries finds the Delivery of a channel. It is called concurrently and must not
// block.
type Deliveries interface {
	Delivery(channel string) Delivery
}

// delivery returns the Delivery of a channel.
func (p *Policy) delivery(channel string) Delivery {
	if p.Deliveries == nil {
		return Delivery{}
	}
	return p.Deliveries.Delivery(channel)
}

// An exclusion names the agents that do not get a message live. One of its fields is set.
type exclusion struct {
	agent   uuid.UUID // the agent that published it
	agentID string    // all agents with this agentId
}

// excludesLocked reports whether m is not for a. The caller holds the agent's mu.
func (m *Message) excludesLocked(a *Agent) bool {
	x := m.except
	return x != nil && (x.agent == a.id || x.agentID != "" && x.agentID == a.agentID)
}
