// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	burstsAgents     = 100
	burstsPublishers = 4
	burstsEach       = 500  // messages of each publisher
	burstsSize       = 2000 // bytes of a message's data
	// burstsPatience bounds a burst on a busy machine.
	burstsPatience = 5 * time.Minute
)

// runBursts checks that bursts which are larger than the queue of an agent close no agent
// that reads.
func runBursts(ctx context.Context, r *report, o options) error {
	agents, each := orDefault(o.agents, burstsAgents), burstsEach
	if o.short {
		agents = orDefault(o.agents, 10)
	}
	r.note("%d publishers send %d messages of %d bytes each, at once, to %d agents that read as fast as they can", burstsPublishers, each, burstsSize, agents)
	for _, secure := range []bool{false, true} {
		name := "plain"
		if secure {
			name = "TLS 1.3"
		}
		res, err := measureBurst(ctx, o.caddy, agents, each, secure)
		if err != nil {
			return err
		}
		r.exactly(0, "agents", float64(res.closed), name+": agents closed")
		r.exactly(float64(burstsPublishers*each*agents), "messages", float64(res.got), name+": deliveries")
		r.info("us", microseconds(res.cpu), "%s: processor time of a delivery", name)
	}
	return nil
}

// A burstResult is the result of a burst.
type burstResult struct {
	closed int
	got    int64
	cpu    time.Duration // for each delivery
}

func measureBurst(ctx context.Context, caddy string, agents, messages int, secure bool) (res burstResult, err error) {
	if err := raiseFiles(2*agents + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	t := s.plain
	if secure {
		t = s.secure
	}
	var got atomic.Int64
	all, err := gather(ctx, agents, t, bare, func(int) agentOptions {
		return agentOptions{subscribe: []string{fanoutChannel}, onMessage: func([]byte) { got.Add(1) }}
	})
	if err != nil {
		return res, err
	}
	defer all.vanish()
	publishers, err := gather(ctx, burstsPublishers, t, bare, func(int) agentOptions { return agentOptions{} })
	if err != nil {
		return res, err
	}
	defer publishers.vanish()
	before, err := s.processorTime()
	if err != nil {
		return res, err
	}
	data := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, burstsSize)...), '"')
	errs := make([]error, len(publishers))
	var sending sync.WaitGroup
	for i, p := range publishers {
		sending.Go(func() { errs[i] = p.publish(fanoutChannel, repeat(data, messages)...) })
	}
	want := int64(len(publishers) * messages * agents)
	err = untilWithin(ctx, burstsPatience, often, "waiting for the burst", func() (bool, error) {
		res.closed, _ = all.lost() // the reason does not matter
		return got.Load() >= want || res.closed > 0, nil
	})
	if err == nil && res.closed > 0 { // the other agents get the rest, or are closed too
		err = untilWithin(ctx, time.Minute, often, "waiting for the others", func() (bool, error) {
			res.closed, _ = all.lost()
			return got.Load() >= want*int64(agents-res.closed)/int64(agents), nil
		})
	}
	sending.Wait()
	if err != nil {
		return res, err
	}
	for _, err := range errs {
		if err != nil {
			return res, err
		}
	}
	after, err := s.processorTime()
	res.got = got.Load()
	res.cpu = (after - before) / time.Duration(max(res.got, 1))
	return res, err
}
