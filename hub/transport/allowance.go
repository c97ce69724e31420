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
	full time.Duration // when the bucket is full again, since epoch
}

// take takes a token, and reports whether there was one.
func (a *allowance) take(now time.Time) bool {
	const each = time.Second / idlePerSecond
	at := now.Sub(epoch)
	if a.full < at || a.full-at > idleBurst*each { // the latter if a clock of a test is before the epoch
		a.full = at
	}
	if a.full-at > (idleBurst-1)*each {
		return false
	}
	a.full += each
	return true
}
