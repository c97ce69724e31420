// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"errors"
)

// Bus returns the Bus of the hub's Broker, nil if there is only this machine. A reload may
// replace it: see OnBus.
func (h *Hub) Bus() Bus { return (*h.log.broker.Load()).Bus() }

// OnBus has f called with the Bus, if there is one, and again whenever a reload replaces it:
// with nil if this is the only machine from now on. f may set handlers, and must not block.
func (h *Hub) OnBus(f func(Bus)) {
	h.log.swapping.Lock()
	defer h.log.swapping.Unlock()
	h.log.joined = append(h.log.joined, f)
	if b := h.Bus(); b != nil {
		f(b)
	}
}

// AskEach asks nodes by a request to each, all at once. It is for a Bus whose Ask has no
// better way, and does what Bus.Ask says.
func AskEach(ctx context.Context, nodes []NodeID, request func(context.Context, NodeID) ([]byte, error), answer func(from NodeID, b []byte) (more bool)) error {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		from NodeID
		b    []byte
		err  error
	}
	results := make(chan result, len(nodes))
	for _, id := range nodes {
		go func() {
			b, err := request(asking, id)
			results <- result{id, b, err}
		}()
	}
	for range nodes {
		switch r := <-results; {
		case r.err == nil && !answer(r.from, r.b):
			return nil
		case r.err == nil, errors.Is(r.err, ErrNoNode), errors.Is(r.err, ErrNoAnswer):
		default:
			return r.err
		}
	}
	return nil
}

// busChanged tells those that called OnBus. The caller holds swapping.
func (s *swappable) busChanged(before, now Bus) {
	if before == nil && now == nil {
		return
	}
	for _, f := range s.joined {
		f(now)
	}
}

// joinNodes makes the hub known to the other nodes of a Bus.
func (h *Hub) joinNodes(b Bus) {
	h.others.watch(b)
	if b != nil {
		b.Handle(operatorTopic, operated{h}.answerOrder)
	}
}
