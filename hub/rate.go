// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// rateBurst is how many seconds' worth an agent may send at once: a client that
// comes back subscribes and publishes what it kept, all in one go.
const rateBurst = 5

// A bucket is a token bucket. Its zero value is full. It belongs to whoever
// handles the agent's frames.
type bucket struct {
	taken float64       // tokens that are missing
	last  time.Duration // when that was so, on the hub's clock
}

// take takes a token of a bucket that gains rate tokens each second; when there
// is none it returns how long until there is one.
func (b *bucket) take(now time.Duration, rate int) (wait time.Duration, ok bool) {
	if rate < 0 {
		return 0, true
	}
	limit := float64(rate) * rateBurst
	b.taken = min(limit, max(0, b.taken-(now-b.last).Seconds()*float64(rate)))
	b.last = now
	if left := limit - b.taken; left < 1 {
		return time.Duration((1 - left) / float64(rate) * float64(time.Second)), false
	}
	b.taken++
	return 0, true
}
