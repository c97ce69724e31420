// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import "time"

// An agent that sends frames which carry nothing for the hub (pings, pongs,
// empty ones) may send so many in a second, and so many at once. A browser sends
// one pong a heartbeat.
const (
	idlePerSecond = 20
	idleBurst     = 100
)

// An allowance fills by idlePerSecond, up to idleBurst. It is full at first.
type allowance struct {
	full time.Time // when it is full again; in the past: it is
}

// take takes one, and reports whether there was one left.
func (a *allowance) take(now time.Time) bool {
	const each = time.Second / idlePerSecond
	if a.full.Before(now) {
		a.full = now
	}
	if a.full.Sub(now) > (idleBurst-1)*each {
		return false
	}
	a.full = a.full.Add(each)
	return true
}
