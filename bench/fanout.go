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
	plainChannel  = "plain" // of agents without TLS, beside those with TLS
	burst         = 20
	// fanoutDeliveries is how many deliveries one run measures: about a second of
	// the server's processor time, of which the kernel counts hundredths.
	fanoutDeliveries = 100_000
	fanoutRuns       = 3
	// fanoutPairs is how many runs of pushit and of the floor take turns.
	fanoutPairs = 5
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

// mostUser is the most that a single delivery without TLS may cost in user mode, in us, and
// mostSecure the most that one with TLS may cost, as a multiple of one without.
const (
	mostUser   = 1.0
	mostSecure = 1.5
)

// A fanoutResult has the costs of each run. The runs of different kinds take turns.
type fanoutResult struct {
	single, joined, floor []cost
	plain                 []cost // with TLS: single, without TLS
}

// middle returns the median of what of returns.
func middle(all []cost, of func(cost) float64) float64 {
	values := make([]float64, len(all))
	for i, c := range all {
		values[i] = of(c)
	}
	return spreadOf(values).median
}

func cpuOf(c cost) float64    { return microseconds(c.cpu) }
func userOf(c cost) float64   { return microseconds(c.user) }
func allocsOf(c cost) float64 { return c.allocs }

// ratios returns the median of the costs of a divided by those of b in the same run.
func ratios(a, b []cost) float64 {
	values := make([]float64, len(a))
	for i := range a {
		values[i] = float64(a[i].cpu) / float64(b[i].cpu)
	}
	return spreadOf(values).median
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
	cells, deliveries, runs := fanoutCells, fanoutDeliveries, fanoutPairs
	if o.short {
		cells, deliveries, runs = []cell{{100, 128, bare, false}}, 10_000, 1
	}
	r.note("processor time (user and system) of the server for each delivery, median of %d runs that take turns;", runs)
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
		r.info("us", middle(res.single, cpuOf), "%s: single publishes, a delivery", name)
		if user := middle(res.single, userOf); c == fanoutCells[0] {
			r.atMost(mostUser, "us", user, "%s: single publishes, user mode of it", name)
		} else {
			r.info("us", user, "%s: single publishes, user mode of it", name)
		}
		r.info("allocations", middle(res.single, allocsOf), "%s: single publishes, a delivery", name)
		r.info("us", middle(res.joined, cpuOf), "%s: bursts of %d, a delivery", name, burst)
		r.info("us", middle(res.joined, userOf), "%s: bursts of %d, user mode of it", name, burst)
		r.info("allocations", middle(res.joined, allocsOf), "%s: bursts of %d, a delivery", name, burst)
		r.info("us", middle(res.floor, cpuOf), "%s: floor, a delivery", name)
		r.info("us", middle(res.floor, userOf), "%s: floor, user mode of it", name)
		r.info("of the floor", ratios(res.single, res.floor), "%s: single publishes", name)
		r.info("of the floor", ratios(res.joined, res.floor), "%s: bursts of %d", name, burst)
		r.info("of single ones", ratios(res.joined, res.single), "%s: bursts of %d", name, burst)
		if c.secure {
			r.atMost(mostSecure, "times", ratios(res.single, res.plain), "%s: single publishes, compared with agents of the same server without TLS", name)
		}
	}
	return nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measureFanout connects the same number of agents to pushit and to the floor, and publishes
// to both in turns.
func measureFanout(ctx context.Context, caddy string, c cell, deliveries, runs int) (res fanoutResult, err error) {
	if err := raiseFiles(3*c.agents + 200); err != nil {
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
	listen := func(t target, channel string) (crowd, error) {
		return gather(ctx, c.agents, t, c.at, func(int) agentOptions {
			return agentOptions{socketOptions: socketOptions{readBuffer: 2 << 10}, subscribe: []string{channel}, onMessage: count}
		})
	}
	all, err := listen(t, fanoutChannel)
	if err != nil {
		return res, err
	}
	defer all.vanish()
	publisher, err := come(ctx, t, c.at, agentOptions{})
	if err != nil {
		return res, err
	}
	defer publisher.vanish()
	if c.secure {
		plain, err := listen(s.plain, plainChannel)
		if err != nil {
			return res, err
		}
		defer plain.vanish()
	}

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
	allocs := func() (float64, error) {
		m, err := s.memory(ctx)
		return float64(m.Mallocs), err
	}
	kinds := []fanoutKind{
		{&res.single, s.pid(), 1, allocs, func() error { return publisher.publish(fanoutChannel, data) }},
		{&res.joined, s.pid(), burst, allocs, func() error { return publisher.publish(fanoutChannel, repeat(data, burst)...) }},
		{&res.floor, f.pid(), 1, nil, func() error { return low[0].Write(wireclient.OpText, text) }},
	}
	if c.secure {
		kinds = append(kinds, fanoutKind{&res.plain, s.pid(), 1, allocs, func() error { return publisher.publish(plainChannel, data) }})
	}
	for i := range runs + 1 { // the first is to warm up
		for _, kind := range kinds {
			one, err := run.measure(ctx, kind)
			if err != nil {
				return res, errors.Join(err, s.alive())
			}
			if i > 0 {
				*kind.costs = append(*kind.costs, one)
			}
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

// A fanoutKind is a way to publish messages, all at once.
type fanoutKind struct {
	costs    *[]cost // of each run
	pid      int     // of the server
	messages int
	allocs   func() (float64, error)
	publish  func() error
}

// measure publishes again whenever all agents have the previous messages, and returns the
// cost of a delivery.
func (f *fanoutRun) measure(ctx context.Context, k fanoutKind) (cost, error) {
	rounds := max(1, f.deliveries/f.agents/k.messages)
	return weighWork(k.pid, float64(rounds*f.agents*k.messages), k.allocs, func() error {
		for range rounds {
			want := f.got.Load() + int64(f.agents*k.messages)
			if err := k.publish(); err != nil {
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
