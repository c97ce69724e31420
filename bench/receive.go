// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	receiveAgents   = 100
	receiveMessages = 50_000
)

// runReceive measures the cost of receiving and acknowledging a message on a channel without
// subscribers.
func runReceive(ctx context.Context, r *report, o options) error {
	messages, runs := receiveMessages, fanoutRuns
	if o.short {
		messages, runs = 2_000, 1
	}
	for _, cell := range []cell{{at: bare}, {at: sockjs}, {at: bare, secure: true}} {
		cell.agents = orDefault(o.agents, receiveAgents)
		c, err := measureReceive(ctx, o.caddy, cell, messages, runs)
		if err != nil {
			return err
		}
		name := cell.at.name
		if cell.secure {
			name += ", TLS 1.3"
		}
		r.info("us", microseconds(c.cpu), "a publish of 128 bytes, %s: taking and acknowledging it", name)
		r.info("us", microseconds(c.user), "a publish of 128 bytes, %s: user mode of it", name)
		r.info("allocations", c.allocs, "a publish of 128 bytes, %s", name)
	}
	return nil
}

// measureReceive has each of its agents publish one message after the other: the next one
// when the last one is acknowledged.
func measureReceive(ctx context.Context, caddy string, what cell, messages, runs int) (best cost, err error) {
	n := what.agents
	if err := raiseFiles(n + 200); err != nil {
		return best, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return best, err
	}
	defer s.stop()
	t := s.plain
	if what.secure {
		t = s.secure
	}
	all, err := gather(ctx, n, t, what.at, func(int) agentOptions { return agentOptions{} })
	if err != nil {
		return best, err
	}
	defer all.vanish()
	data := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, 126)...), '"')
	allocs := func() (float64, error) {
		m, err := s.memory(ctx)
		return float64(m.Mallocs), err
	}
	for i := range runs + 1 { // the first is to warm up
		c, err := weighWork(s.pid(), float64(messages/n*n), allocs, func() error {
			return each(n, func(i int) error { return all[i].publishInTurn(ctx, messages/n, data) })
		})
		if err != nil {
			return best, errors.Join(err, s.alive())
		}
		if i > 0 {
			best = c.better(best)
		}
	}
	return best, nil
}

// publishInTurn publishes data that many times, each time after the previous message is
// acknowledged.
func (a *agent) publishInTurn(ctx context.Context, times int, data []byte) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	for range times {
		if err := a.publish("nobody", data); err != nil {
			return err
		}
		select {
		case <-a.answered:
		case <-a.done:
			return a.ended()
		case <-deadline.C:
			return errors.New("a publish is not acknowledged")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if n := a.refused.Load(); n > 0 {
		return fmt.Errorf("%d publishes were refused", n)
	}
	return nil
}
