// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import "time"

// How many frames an agent may send, per second and at once, that carry nothing for the hub:
// pings, pongs and empty frames. A browser sends one pong for each heartbeat.
const (
	idlePerSecond = 20
	idleBurst     = 100
)

// An allowance is a token bucket for such frames. Its zero value is full.
type allowance struct {
	full time.Time // when the bucket is full again
}

// take takes a token, and reports whether there was one.
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
