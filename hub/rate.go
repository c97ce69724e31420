// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// rateBurst is how many seconds' worth of frames an agent may send at once. A client that
// reconnects sends all its subscriptions and waiting publishes in one burst.
const rateBurst = 5

// A bucket is a token bucket that limits a rate. Its zero value is full.
type bucket struct {
	taken float64       // missing tokens at the time last
	last  time.Duration // on the hub's clock
}

// take takes a token from a bucket that gains rate tokens each second. If there is none,
// it returns how long until there is one.
func (b *bucket) take(now time.Duration, rate int) (wait time.Duration, ok bool) {
	return b.takeN(now, rate, 1)
}

// takeN takes n tokens or none; more than fit in the bucket count as a full one.
func (b *bucket) takeN(now time.Duration, rate, n int) (wait time.Duration, ok bool) {
	if rate < 0 {
		return 0, true
	}
	limit := float64(rate) * rateBurst
	b.taken = min(limit, max(0, b.taken-(now-b.last).Seconds()*float64(rate)))
	b.last = now
	want := min(float64(n), limit)
	if left := limit - b.taken; left < want {
		return time.Duration((want - left) / float64(rate) * float64(time.Second)), false
	}
	b.taken += want
	return 0, true
}
