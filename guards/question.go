// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"strings"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Question is what the guards of a gate are asked, one after the other. It
// knows what those before have learned.
type Question struct {
	*hub.Question

	// Learned is what the agent's connect gate learned, and on top of it what the
	// guards before this one did.
	Learned Learned
	// Env is what the policy knows of its surroundings.
	Env *Env
	// Left is how much of the gate's time is left for asking: waiting for a place
	// in a queue does not count. A remote guard takes what it uses from it.
	Left *time.Duration

	// early, if not nil, gives the answer of the guard being asked before Decide returns.
	// Decide returns upstream.ErrOver afterwards. See earlyAnswerer.
	early func(Answer)
}

// User returns who the agent is, "" when nobody knows.
func (q *Question) User() string {
	if u := q.Agent.Opening().User; u != "" {
		return u
	}
	return q.Learned.User
}

// Parts returns the segments of the channel's name; of a pattern those before
// the "*", so that no rule takes that for a name.
func (q *Question) Parts() []string {
	name := q.Channel
	if q.Pattern {
		name = strings.TrimSuffix(strings.TrimSuffix(name, "*"), "/")
	}
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}
