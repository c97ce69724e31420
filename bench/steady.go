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

// steadyNote says what a latency is, see steady.
const steadyNote = "latencies are from when the kernel has a publish until it has received the message for an agent"

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
//
// A latency is the time from when a publish is given to the kernel until the kernel has
// received the message for an agent: what the server needs, and what the agent would see on a
// machine of its own. Here the program that publishes and reads shares the machine with the
// server, and waits for a processor too. That wait is not in it, but is measured as well.
type steady struct {
	server    *server
	at        target
	every     time.Duration // between two messages
	publisher *agent
	clock     *latencies
	reading   *latencies // from when a message was due until it was read, with the waits of this program
	live      crowd
}

// startSteady starts a server, and connects n agents and a publisher. The caller calls stop.
func startSteady(ctx context.Context, caddy string, n int, every time.Duration) (st *steady, err error) {
	s, err := startServer(ctx, caddy)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	st = &steady{server: s, every: every, clock: &latencies{start: start, mark: sentMark}, reading: &latencies{start: start}}
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
		at := new(arrival)
		return agentOptions{
			socketOptions: socketOptions{readBuffer: 2 << 10, arrival: at}, subscribe: []string{"live"},
			onMessage: func(payload []byte) { st.take(at, payload) },
		}
	})
	if err != nil {
		return err
	}
	if st.publisher, err = come(ctx, st.at, bare, agentOptions{}); err != nil {
		st.live.vanish()
	}
	return err
}

// take takes a message that an agent has read.
func (st *steady) take(at *arrival, payload []byte) {
	now := time.Since(st.clock.start)
	st.reading.takeAt(now, payload)
	st.clock.takeAt(now-at.ago, payload) // it counts last: window waits for its count
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
// returns the number of deliveries; clock and reading have their latencies.
func (st *steady) window(ctx context.Context, over func() (bool, error)) (deliveries int, err error) {
	within, cancel := context.WithTimeout(ctx, steadyPatience)
	defer cancel()
	most := int(steadyPatience/st.every) * len(st.live)
	st.clock.reset(most)
	st.reading.reset(most)
	begun := time.Since(st.clock.start)
	published := 0
	for done := false; !done; published++ {
		due := begun + time.Duration(published)*st.every
		sent := due // if this program was still busy with the last one: with writing to the server
		if wait := due - time.Since(st.clock.start); wait > 0 {
			if err := pause(within, wait); err != nil {
				return 0, fmt.Errorf("publishing at a steady pace: %w", err)
			}
			sent = time.Since(st.clock.start)
		}
		if err := st.publisher.publish("live", fmt.Appendf(nil, `"%s%d;%s%d;"`, stampMark, due, sentMark, sent)); err != nil {
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
	for _, l := range []*latencies{st.clock, st.reading} {
		l.took = l.took[:min(deliveries, len(l.took))]
	}
	return deliveries, err
}
