// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"hash/maphash"
	"sync"
)

// A Broker carries messages between the hubs of one name, of which there may be
// one on each of several machines. It gives each channel's messages their order.
type Broker interface {
	// Start says where messages go, before any other method is called. deliver
	// only enqueues: it does not block, and may be called from any goroutine.
	Start(deliver func(*Message)) error

	// Publish hands m over. When it returns nil, m is or will be delivered once
	// on every machine, this one too, in one order for all messages of its
	// channel; messages that one caller publishes one after the other keep that
	// order. An error means that m was not and will not be delivered. It is called
	// concurrently and may block, but for no longer than a few seconds of its own
	// choice, nor beyond ctx.
	Publish(ctx context.Context, m *Message) error

	// Close ends deliveries and releases what the Broker holds.
	Close() error
}

// brokerStripes is how many channels can be published on at the same moment;
// more buys nothing beyond a few times the number of cores.
const brokerStripes = 64

// memoryBroker is the Broker of one machine: Publish delivers.
type memoryBroker struct {
	seed    maphash.Seed
	deliver func(*Message)
	stripes [brokerStripes]struct {
		sync.Mutex // held while one message of these channels is delivered: their order
		_          [56]byte
	}
}

// NewMemoryBroker returns the Broker that joins nothing: all agents are in this
// process.
func NewMemoryBroker() Broker { return &memoryBroker{seed: maphash.MakeSeed()} }

func (b *memoryBroker) Start(deliver func(*Message)) error {
	b.deliver = deliver
	return nil
}

func (b *memoryBroker) Publish(_ context.Context, m *Message) error {
	s := &b.stripes[maphash.String(b.seed, m.Channel)%brokerStripes]
	s.Lock()
	defer s.Unlock()
	b.deliver(m)
	return nil
}

func (b *memoryBroker) Close() error { return nil }

var _ Broker = (*memoryBroker)(nil)
