// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// rateBurst is how many seconds' worth of frames an agent may send at once. A client that
// reconnects sends all its subscriptions and waiting publishes in one burst.
const rateBurst = 5

// A bucket is a token bucket that limits a rate: the time on the hub's clock at which it is
// full. A token costs the time in which the bucket gains one. Its zero value is full.
type bucket time.Duration

// take takes a token from a bucket that gains rate tokens each second. If there is none,
// it returns how long until there is one.
func (b *bucket) take(now time.Duration, rate int) (wait time.Duration, ok bool) {
	return b.takeN(now, rate, 1)
}

// takeN takes n tokens or none; more than fit in the bucket count as a full one.
func (b *bucket) takeN(now time.Duration, rate, n int) (wait time.Duration, ok bool) {
	if rate <= 0 {
		return 0, true
	}
	const empty = rateBurst * time.Second // how long an empty bucket needs until it is full
	lacks := min(empty, max(0, time.Duration(*b)-now))
	costs := min(empty, time.Duration(float64(n)/float64(rate)*float64(time.Second)))
	*b = bucket(now + lacks)
	if wait = lacks + costs - empty; wait > 0 {
		return wait, false
	}
	*b += bucket(costs)
	return 0, true
}
