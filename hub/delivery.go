// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "github.com/google/uuid"

// A Delivery says how the messages of a channel are delivered.
type Delivery struct {
	// NoEcho keeps a message from the agent that published it.
	NoEcho bool
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

// An exclusion names the agents that do not get a message live. It has one of the two.
type exclusion struct {
	agent   uuid.UUID // the agent that published it
	agentID string    // all agents with this agentId
}

// excludesLocked reports whether m is not for a. The caller holds the agent's mu.
func (m *Message) excludesLocked(a *Agent) bool {
	x := m.except
	return x != nil && (x.agent == a.id || x.agentID != "" && x.agentID == a.agentID)
}
