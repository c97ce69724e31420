// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// An operatorLoad has operators that poll a hub while agents get messages.
type operatorLoad struct {
	agents  int
	pollers int
	pause   time.Duration // of a poller, between two requests
	every   time.Duration // between two messages
	window  time.Duration // how long is measured, without and with the pollers
}

var (
	operatorsFull  = operatorLoad{agents: 1000, pollers: 10, pause: time.Second, every: 100 * time.Millisecond, window: 10 * time.Second}
	operatorsShort = operatorLoad{agents: 30, pollers: 3, pause: 10 * time.Millisecond, every: 10 * time.Millisecond, window: time.Second / 4}
)

// mostOperatorDelay is how much later the messages may arrive because of the pollers.
const mostOperatorDelay = 20 * time.Millisecond

// An operatorResult is the result.
type operatorResult struct {
	before, during time.Duration // p99 without and with the pollers
	answers        int64
}

// runOperators measures how much the admin API delays messages.
func runOperators(ctx context.Context, r *report, o options) error {
	load := operatorsFull
	if o.short {
		load = operatorsShort
	}
	load.agents = orDefault(o.agents, load.agents)
	r.note("%d agents get a message every %v; %d pollers of the admin API ask for hubs, channels and agents in turn, every %v",
		load.agents, load.every, load.pollers, load.pause)
	r.note(steadyNote)
	res, err := measureOperators(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	r.info("requests", float64(res.answers), "answered by the admin API")
	r.info("ms", milliseconds(res.before), "p99 latency without the pollers")
	r.info("ms", milliseconds(res.during), "p99 latency with them")
	r.atMost(milliseconds(mostOperatorDelay), "ms", milliseconds(res.during-res.before), "p99 latency with them, over that without")
	return nil
}

func measureOperators(ctx context.Context, caddy string, load operatorLoad) (res operatorResult, err error) {
	if err := raiseFiles(load.agents + 200); err != nil {
		return res, err
	}
	st, err := startSteady(ctx, caddy, load.agents, load.every)
	if err != nil {
		return res, err
	}
	defer st.stop()
	if res.before, err = st.p99(ctx, load.window); err != nil {
		return res, err
	}
	polling, stop := context.WithCancel(ctx)
	var answers atomic.Int64
	polled := make(chan error, 1)
	go func() {
		polled <- each(load.pollers, func(i int) error { return poll(polling, st.server, i, load.pause, &answers) })
	}()
	if res.during, err = st.p99(ctx, load.window); err == nil {
		err = untilWithin(ctx, startTimeout, often, "waiting for an answer", func() (bool, error) { return answers.Load() > 0, st.server.alive() })
	}
	stop()
	err = errors.Join(err, <-polled)
	res.answers = answers.Load()
	return res, err
}

// poll asks the admin API until ctx ends.
func poll(ctx context.Context, s *server, first int, every time.Duration, answers *atomic.Int64) error {
	paths := []string{"/pushit/hubs", "/pushit/channels?limit=1000", "/pushit/agents?limit=1000"}
	for i := first; ; i++ {
		if _, err := s.get(ctx, paths[i%len(paths)]); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		answers.Add(1)
		if err := pause(ctx, every); err != nil {
			return nil //nolint:nilerr // it was told to end
		}
	}
}
