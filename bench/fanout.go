// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

const (
	fanoutChannel = "news"
	burst         = 20
	// fanoutDeliveries is how many deliveries one run measures: about a second of
	// the server's processor time, of which the kernel counts hundredths.
	fanoutDeliveries = 100_000
	fanoutRuns       = 3
)

// A cell is one row of figures.
type cell struct {
	agents, size int
	at           endpoint
	secure       bool
}

var fanoutCells = []cell{
	{1000, 128, bare, false},
	{1000, 1024, bare, false},
	{5000, 128, bare, false},
	{5000, 1024, bare, false},
	{1000, 128, sockjs, false},
	{1000, 128, bare, true},
}

// A fanoutResult is the best of several runs of each kind, because disturbances only add to
// the cost.
type fanoutResult struct {
	single, joined, floor cost
}

// A cost is what one delivery costs the server.
type cost struct {
	cpu, user time.Duration
	allocs    float64 // NaN if they are not known
}

func (c cost) better(than cost) cost {
	if than.cpu == 0 || c.cpu < than.cpu {
		return c
	}
	return than
}

// runFanout measures the cost of delivering a message to many agents.
func runFanout(ctx context.Context, r *report, o options) error {
	cells, deliveries, runs := fanoutCells, fanoutDeliveries, fanoutRuns
	if o.short {
		cells, deliveries, runs = []cell{{100, 128, bare, false}}, 10_000, 1
	}
	r.note("processor time (user and system) of the server for each delivery, best of %d runs that take turns;", runs)
	r.note("the floor is a hijacked connection and one write of the same bytes for each delivery, without TLS")
	for _, c := range cells {
		c.agents = orDefault(o.agents, c.agents)
		res, err := measureFanout(ctx, o.caddy, c, deliveries, runs)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d agents, %d bytes, %s", c.agents, c.size, c.at.name)
		if c.secure {
			name += ", TLS 1.3"
		}
		r.info("us", microseconds(res.single.cpu), "%s: single publishes, a delivery", name)
		r.info("us", microseconds(res.single.user), "%s: single publishes, user mode of it", name)
		r.info("allocations", res.single.allocs, "%s: single publishes, a delivery", name)
		r.info("us", microseconds(res.joined.cpu), "%s: bursts of %d, a delivery", name, burst)
		r.info("allocations", res.joined.allocs, "%s: bursts of %d, a delivery", name, burst)
		r.info("us", microseconds(res.floor.cpu), "%s: floor, a delivery", name)
		r.info("us", microseconds(res.floor.user), "%s: floor, user mode of it", name)
		r.info("of the floor", ratio(res.single, res.floor), "%s: single publishes", name)
		r.info("of the floor", ratio(res.joined, res.floor), "%s: bursts of %d", name, burst)
		r.info("of single ones", ratio(res.joined, res.single), "%s: bursts of %d", name, burst)
	}
	return nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func ratio(a, b cost) float64 { return float64(a.cpu) / float64(b.cpu) }

// measureFanout connects the same number of agents to pushit and to the floor, and publishes
// to both in turns.
func measureFanout(ctx context.Context, caddy string, c cell, deliveries, runs int) (res fanoutResult, err error) {
	if err := raiseFiles(2*c.agents + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	t := s.plain
	if c.secure {
		t = s.secure
	}
	var got atomic.Int64
	count := func([]byte) { got.Add(1) }
	all, err := gather(ctx, c.agents, t, c.at, func(int) agentOptions {
		return agentOptions{socketOptions: socketOptions{readBuffer: 2 << 10}, subscribe: []string{fanoutChannel}, onMessage: count}
	})
	if err != nil {
		return res, err
	}
	defer all.vanish()
	publisher, err := come(ctx, t, c.at, agentOptions{})
	if err != nil {
		return res, err
	}
	defer publisher.vanish()

	f, err := startFloor(ctx)
	if err != nil {
		return res, err
	}
	defer f.stop()
	low, err := f.gather(ctx, c.agents, count)
	if err != nil {
		return res, err
	}
	defer low.vanish()

	data := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, c.size-2)...), '"')
	text := fmt.Appendf(nil, `{"channel":%q,"uuid":"%036d","data":%s}`, fanoutChannel, 0, data)
	run := fanoutRun{agents: c.agents, deliveries: deliveries, got: &got}
	single := func() error { return publisher.publish(fanoutChannel, data) }
	bursts := func() error { return publisher.publish(fanoutChannel, repeat(data, burst)...) }
	floor := func() error { return low[0].Write(wireclient.OpText, text) }
	allocs := func() (float64, error) {
		m, err := s.memory(ctx)
		return float64(m.Mallocs), err
	}
	for i := range runs + 1 { // the first is to warm up
		a, err := run.measure(ctx, s.pid(), 1, single, allocs)
		if err != nil {
			return res, errors.Join(err, s.alive())
		}
		b, err := run.measure(ctx, s.pid(), burst, bursts, allocs)
		if err != nil {
			return res, errors.Join(err, s.alive())
		}
		d, err := run.measure(ctx, f.pid(), 1, floor, nil)
		if err != nil {
			return res, err
		}
		if i > 0 {
			res.single, res.joined, res.floor = a.better(res.single), b.better(res.joined), d.better(res.floor)
		}
	}
	if n := publisher.refused.Load(); n > 0 {
		return res, fmt.Errorf("%d publishes were refused", n)
	}
	return res, nil
}

func repeat(data []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = data
	}
	return all
}

// A fanoutRun measures one kind of publishing.
type fanoutRun struct {
	agents, deliveries int
	got                *atomic.Int64 // deliveries, counted by the agents
}

// measure publishes again whenever all agents have the previous messages, and returns the
// cost of a delivery. publish publishes that many messages at once.
func (f *fanoutRun) measure(ctx context.Context, pid, messages int, publish func() error, allocs func() (float64, error)) (cost, error) {
	rounds := max(1, f.deliveries/f.agents/messages)
	return weighWork(pid, float64(rounds*f.agents*messages), allocs, func() error {
		for range rounds {
			want := f.got.Load() + int64(f.agents*messages)
			if err := publish(); err != nil {
				return err
			}
			if err := f.await(ctx, want); err != nil {
				return err
			}
		}
		return nil
	})
}

// weighWork calls do n times, and returns the cost of one call for the process. allocs
// returns the allocations of the process; nil if they do not matter.
func weighWork(pid int, n float64, allocs func() (float64, error), work func() error) (c cost, err error) {
	c.allocs = math.NaN()
	var before, reading float64
	if allocs != nil {
		// Reading them allocates too.
		first, err := allocs()
		if err != nil {
			return c, err
		}
		if before, err = allocs(); err != nil {
			return c, err
		}
		reading = before - first
	}
	user, system, err := cpuTime(pid)
	if err != nil {
		return c, err
	}
	if err := work(); err != nil {
		return c, err
	}
	userAfter, systemAfter, err := cpuTime(pid)
	if err != nil {
		return c, err
	}
	c.user = time.Duration(float64(userAfter-user) / n)
	c.cpu = time.Duration(float64(userAfter-user+systemAfter-system) / n)
	if allocs != nil {
		after, err := allocs()
		if err != nil {
			return c, err
		}
		c.allocs = max(0, (after-before-reading)/n)
	}
	return c, nil
}

// await waits for that many deliveries.
func (f *fanoutRun) await(ctx context.Context, want int64) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.got.Load() < want {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("%d deliveries are missing", want-f.got.Load())
		case <-tick.C:
		}
	}
	return nil
}
