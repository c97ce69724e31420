// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"hash/maphash"
	"sync"
)

// A Broker carries messages between hubs that have the same name and may run on
// different machines. It decides the order of the messages of each channel.
type Broker interface {
	// Start sets the function that takes messages for this machine. The hub calls Start
	// before any other method. deliver only enqueues, so it does not block; the Broker
	// may call it from any goroutine.
	Start(deliver func(*Message)) error

	// Publish takes m. If it returns nil, the Broker delivers m once on every machine,
	// this one too, in the same order as all other messages of its channel. Messages
	// that one caller publishes one after the other keep that order. An error means
	// that m will not be delivered anywhere. The hub calls Publish concurrently. It may
	// block for a few seconds, but not after ctx ends.
	Publish(ctx context.Context, m *Message) error

	// Close stops deliveries and releases the Broker's resources.
	Close() error
}

// brokerStripes is how many channels can be published on at the same moment. More than
// a few times the number of cores would gain nothing.
const brokerStripes = 64

// memoryBroker is the Broker of one machine: Publish delivers.
type memoryBroker struct {
	seed    maphash.Seed
	deliver func(*Message)
	stripes [brokerStripes]struct {
		sync.Mutex // held while a message of these channels is delivered: it gives them their order
		_          [56]byte
	}
}

// NewMemoryBroker returns a Broker for one process: it connects the hub to no other
// machine.
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
