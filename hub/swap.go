// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A swappable has the Broker of a hub, which a reload may replace.
type swappable struct {
	broker   atomic.Pointer[Broker]
	runs     atomic.Bool // the Broker was started
	swapping sync.Mutex  // held while the Broker is replaced; taken before all other locks
	joined   []func(Bus) // see Hub.OnBus; guarded by swapping
}

// publish gives m to the Broker.
func (s *swappable) publish(ctx context.Context, m *Message) (at Position, err error) {
	err = s.give(func(b Broker) (err error) {
		at, err = b.Publish(ctx, m)
		return err
	})
	return at, err
}

// publishJoined publishes messages that are not kept, and returns how many.
func (s *swappable) publishJoined(messages []*Message) (n int, err error) {
	err = s.give(func(b Broker) (err error) {
		if j, is := b.(Joiner); is {
			if err = j.PublishJoined(messages[n:]); err == nil {
				n = len(messages)
			}
			return err
		}
		for n < len(messages) && err == nil { // the Broker was replaced meanwhile
			if _, err = b.Publish(context.Background(), messages[n]); err == nil {
				n++
			}
		}
		return err
	})
	return n, err
}

// give calls publish with the Broker. If that has just been replaced, it waits for the new one,
// and calls publish again.
func (s *swappable) give(publish func(Broker) error) error {
	for b := s.broker.Load(); ; {
		err := publish(*b)
		if !errors.Is(err, ErrClosed) {
			return err
		}
		s.swapping.Lock()
		next := s.broker.Load()
		s.swapping.Unlock()
		if next == b {
			return err // the hub is closed
		}
		b = next
	}
}

func (s *swappable) close() error {
	s.swapping.Lock()
	defer s.swapping.Unlock()
	return (*s.broker.Load()).Close()
}

// start starts a Broker.
func (h *Hub) start(b Broker, s Sink) error {
	h.log.runs.Store(false)
	h.history.mu.Lock()
	h.history.keeper, _ = b.(Keeper)
	h.history.mu.Unlock()
	if err := b.Start(h.life, s); err != nil {
		return err
	}
	h.history.replayed()
	h.log.runs.Store(true)
	return nil
}

// Swap replaces the hub's Broker by next, which was not started yet, and closes the old
// one. Publishes wait meanwhile. If next is a Seeder without entries, its log goes on where
// the old one ends: positions stay valid, and nothing is missing. Otherwise the hub takes
// over the log of next, and positions of the old log are void. After an error the hub goes
// on with a log in memory, and next is closed.
func (h *Hub) Swap(next Broker) error {
	h.log.swapping.Lock()
	defer h.log.swapping.Unlock()
	closing := (*h.log.broker.Load()).Close()
	err := h.goOnWith(next)
	if err != nil {
		_ = next.Close()
		if memory := h.goOnWith(NewMemoryBroker()); memory != nil {
			return errors.Join(err, memory)
		}
		return fmt.Errorf("changing the log of hub %q: it is in memory now: %w", h.name, err)
	}
	if closing != nil {
		return fmt.Errorf("closing the old log of hub %q: %w", h.name, closing)
	}
	return nil
}

func (h *Hub) goOnWith(b Broker) error {
	sink := Sink((*replica)(h))
	if s, ok := b.(Seeder); ok {
		seeded, err := s.Seed(snapshotOf(h.history))
		if err != nil {
			return err
		}
		if seeded {
			sink = &goingOn{Sink: sink}
		}
	}
	if err := h.start(b, sink); err != nil {
		return err
	}
	if s, ok := sink.(*goingOn); ok {
		s.started.Store(true)
	}
	before := h.Bus()
	h.log.broker.Store(&b)
	h.log.busChanged(before, b.Bus())
	return nil
}

// goingOn is the Sink of a log that goes on where another one has ended: the hub already
// has what Start replays.
type goingOn struct {
	Sink
	started atomic.Bool
}

func (s *goingOn) Entry(seq uint64, at time.Time, m *Message) {
	if s.started.Load() {
		s.Sink.Entry(seq, at, m)
	}
}

func (s *goingOn) Reset(epoch Epoch, first, head uint64) {
	if s.started.Load() {
		s.Sink.Reset(epoch, first, head)
	}
}

func (s *goingOn) Floor(key string, seq uint64, why string) {
	if s.started.Load() {
		s.Sink.Floor(key, seq, why)
	}
}
