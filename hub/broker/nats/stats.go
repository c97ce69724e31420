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
	publishes                      *hub.Recorder
}

// Stats implements hub.Measured.
func (b *Broker) Stats() hub.BrokerStats {
	c := &b.counts
	server := ""
	if l := b.link.Load(); l != nil {
		server = l.nc.ConnectedUrlRedacted()
	}
	return hub.BrokerStats{
		Engine: "nats", Server: server,
		Connected: c.connected.Load(), Behind: c.behind.Load(), Nodes: b.bus.nodes(),
		Applied: c.applied.Load(), Filled: c.filled.Load(), Lost: c.lost.Load(), Skipped: c.skipped.Load(),
		Publishes: c.publishes.Read(),
	}
}

// newPublishRecorder returns what counts how long publishes took: from one server nearby to
// the end of publishPatience.
func newPublishRecorder() *hub.Recorder {
	return hub.NewRecorder(
		250*time.Microsecond, 500*time.Microsecond, time.Millisecond, 2500*time.Microsecond, 5*time.Millisecond, 10*time.Millisecond,
		25*time.Millisecond, 100*time.Millisecond, 500*time.Millisecond, time.Second, publishPatience,
	)
}
