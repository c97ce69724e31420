// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

// counts are the numbers of a Broker. They are safe by themselves.
type counts struct {
	connected, behind              atomic.Bool
	applied, filled, lost, skipped atomic.Uint64
	publishes                      latencies
}

// Stats implements hub.Measured.
func (b *Broker) Stats() hub.BrokerStats {
	c := &b.counts
	return hub.BrokerStats{
		Connected: c.connected.Load(), Behind: c.behind.Load(), Nodes: b.bus.nodes(),
		Applied: c.applied.Load(), Filled: c.filled.Load(), Lost: c.lost.Load(), Skipped: c.skipped.Load(),
		Publishes: c.publishes.read(),
	}
}

// publishBounds are from one server nearby to the end of publishPatience.
var publishBounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 4 * time.Second,
}

// latencies is a histogram.
type latencies struct {
	sum     atomic.Int64
	buckets [len(publishBounds) + 1]atomic.Uint64
}

func (l *latencies) observe(d time.Duration) {
	i := 0
	for i < len(publishBounds) && d > publishBounds[i] {
		i++
	}
	l.buckets[i].Add(1)
	l.sum.Add(int64(d))
}

func (l *latencies) read() hub.Histogram {
	h := hub.Histogram{Below: make(map[time.Duration]uint64, len(publishBounds))}
	for i, bound := range publishBounds {
		h.Count += l.buckets[i].Load()
		h.Below[bound] = h.Count
	}
	h.Count += l.buckets[len(publishBounds)].Load()
	h.Sum = time.Duration(l.sum.Load())
	return h
}
