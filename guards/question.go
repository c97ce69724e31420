// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"strings"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Question is what the guards of a gate are asked, one after the other. It has what the
// guards before have learned.
type Question struct {
	*hub.Question

	// Learned is what the agent's connect gate learned, and what the guards before this
	// one have added.
	Learned Learned
	// Env is what all guards of the policy share.
	Env *Env
	// Left is how much time is left for asking backends. Waiting in a queue does not
	// count. A remote guard subtracts what it uses.
	Left *time.Duration

	// early, if not nil, gives the answer of the guard being asked before Decide returns.
	// Decide returns upstream.ErrOver afterwards. See earlyAnswerer.
	early func(Answer)
}

// User returns the agent's user, or "" if it is unknown.
func (q *Question) User() string {
	if u := q.Agent.Opening().User(); u != "" {
		return u
	}
	return q.Learned.User
}

// Parts returns the segments of the channel's name. Of a pattern it returns those before
// the "*", so that no rule takes the "*" for a name.
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
