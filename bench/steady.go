// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

// steadyPatience is how long a window of steady may take.
const steadyPatience = 2 * time.Minute

// steadyCaddyfile configures the server. Arguments: directory, address.
const steadyCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name steady
		default allow
		history 1000 1h
		limits {
			agents unlimited
			agents_per_ip unlimited
			unconnected_per_ip unlimited
			frames_per_second unlimited
			publishes_per_second unlimited
		}
	}
}
`

// A steady load is a crowd that gets messages at a steady pace. It shows how much other
// work of the server delays them.
type steady struct {
	server    *server
	at        target
	every     time.Duration // between two messages
	publisher *agent
	clock     *latencies
	live      crowd
}

// startSteady starts a server, and connects n agents and a publisher. The caller calls stop.
func startSteady(ctx context.Context, caddy string, n int, every time.Duration) (st *steady, err error) {
	s, err := startServer(ctx, caddy)
	if err != nil {
		return nil, err
	}
	st = &steady{server: s, every: every, clock: &latencies{start: time.Now()}}
	if st.at, err = s.serve(ctx, steadyCaddyfile); err == nil {
		err = st.gather(ctx, n)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return st, nil
}

func (st *steady) gather(ctx context.Context, n int) (err error) {
	st.live, err = gather(ctx, n, st.at, bare, func(int) agentOptions {
		return agentOptions{socketOptions: socketOptions{readBuffer: 2 << 10}, subscribe: []string{"live"}, onMessage: st.clock.take}
	})
	if err != nil {
		return err
	}
	if st.publisher, err = come(ctx, st.at, bare, agentOptions{}); err != nil {
		st.live.vanish()
	}
	return err
}

// stop disconnects all, and ends the server.
func (st *steady) stop() {
	st.publisher.vanish()
	st.live.vanish()
	st.server.stop()
}

// p99 returns the 99th percentile of the latencies of a window, after one to warm up.
func (st *steady) p99(ctx context.Context, window time.Duration) (time.Duration, error) {
	for range 2 {
		end := time.Now().Add(window)
		if _, err := st.window(ctx, func() (bool, error) { return time.Now().After(end), nil }); err != nil {
			return 0, err
		}
	}
	return st.clock.percentile(0.99), nil
}

// window publishes until over returns true, and waits until all agents have all messages. It
// returns the number of deliveries; clock has their latencies.
func (st *steady) window(ctx context.Context, over func() (bool, error)) (deliveries int, err error) {
	within, cancel := context.WithTimeout(ctx, steadyPatience)
	defer cancel()
	st.clock.reset(int(steadyPatience/st.every) * len(st.live))
	begun := time.Since(st.clock.start)
	published := 0
	for done := false; !done; published++ {
		// Each message says when it was due, not when it was sent.
		due := begun + time.Duration(published)*st.every
		if err := pause(within, due-time.Since(st.clock.start)); err != nil {
			return 0, fmt.Errorf("publishing at a steady pace: %w", err)
		}
		if err := st.publisher.publish("live", fmt.Appendf(nil, `"%s%d;"`, stampMark, due)); err != nil {
			return 0, err
		}
		if done, err = over(); err != nil {
			return 0, err
		}
	}
	deliveries = published * len(st.live)
	err = until(within, often, "waiting for messages", func() (bool, error) {
		if lost, why := st.live.lost(); lost > 0 {
			return false, fmt.Errorf("%d agents were closed: %w", lost, why)
		}
		return st.clock.count.Load() == int64(deliveries), st.server.alive()
	})
	st.clock.took = st.clock.took[:min(deliveries, len(st.clock.took))]
	return deliveries, err
}
