// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// idleStreams is how many sessions over a fallback are measured.
const idleStreams = 2000

// fallbackGoroutines is how many goroutines a session over a stream or a waiting
// poll has at most: the two of net/http's connection.
const fallbackGoroutines = 2

// runStreams measures the cost of idle sessions over fallbacks, and checks that they leave
// nothing behind.
func runStreams(ctx context.Context, r *report, o options) error {
	n := orDefault(o.agents, idleStreams)
	if o.short {
		n = orDefault(o.agents, 100)
	}
	for _, transport := range []string{"xhr_streaming", "xhr"} {
		res, err := measureStreams(ctx, o.caddy, transport, n, true, o.profiles)
		if err != nil {
			return err
		}
		r.info("KiB", res.resident/1024, "%d idle sessions, %s: resident memory of each", n, transport)
		r.info("KiB", res.live/1024, "%d idle sessions, %s: live heap of each", n, transport)
		r.info("KiB", res.stacks/1024, "%d idle sessions, %s: stacks of each", n, transport)
		r.atMost(float64(fallbackGoroutines*n+fewGoroutines), "goroutines", float64(res.goroutines), "%d idle sessions, %s: %d goroutines each", n, transport, fallbackGoroutines)
		r.exactly(0, "sessions", float64(res.lost), fmt.Sprintf("%d idle sessions, %s: lost", n, transport))
		r.atMost(fewGoroutines, "goroutines", float64(res.left.goroutines), "%d came and left, %s: left behind", n, transport)
		r.atMost(fewFiles, "files", float64(res.left.files), "%d came and left, %s: left behind", n, transport)
		r.info("us", res.beat, "%d idle sessions, %s: processor time of a heartbeat and the next request", n, transport)
	}
	return nil
}

// A streamResult is the cost of idle sessions.
type streamResult struct {
	idleResult
	lost int     // sessions that ended on their own
	beat float64 // microseconds of the server's processor time for each request to receive
}

// measureStreams opens sessions at a new server and closes them. In between, it measures
// their memory if that is wanted.
func measureStreams(ctx context.Context, caddy, transport string, n int, heavy bool, profiles string) (res streamResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, fallbackPatience)
	defer cancel()
	if err := raiseFiles(2*n + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	if _, err := stayed(ctx, s, transport, min(n, 64), nil); err != nil {
		return res, err
	}
	empty, err := quiet(ctx, s)
	if err != nil {
		return res, err
	}
	before, err := weigh(ctx, s, heavy)
	if err != nil {
		return res, err
	}
	res.lost, err = stayed(ctx, s, transport, n, func(requests func() int64) error {
		if heavy {
			if res.beat, err = s.renewing(ctx, n, requests); err != nil {
				return err
			}
		}
		full, err := weigh(ctx, s, heavy)
		if err != nil {
			return err
		}
		if err := s.profile(ctx, profiles); err != nil {
			return err
		}
		// The connections for sending take a moment to close.
		var with census
		err = untilWithin(ctx, 20*time.Second, often, "waiting until those who stay are alone", func() (bool, error) {
			var err error
			with, err = s.census(ctx)
			return with.goroutines-empty.goroutines <= fallbackGoroutines*n+fewGoroutines, err
		})
		res.resident = float64(full.resident-before.resident) / float64(n)
		res.live = float64(full.HeapAlloc-before.HeapAlloc) / float64(n)
		res.stacks = float64(full.StackInuse-before.StackInuse) / float64(n)
		res.goroutines = with.goroutines - empty.goroutines
		return err
	})
	if err != nil {
		return res, err
	}
	res.left, err = s.emptied(ctx, empty)
	return res, err
}

// renewing waits for n heartbeats, each with the request to receive that follows it. It
// returns what one costs the server, in microseconds.
func (s *server) renewing(ctx context.Context, n int, requests func() int64) (float64, error) {
	began, err := s.processorTime()
	if err != nil {
		return 0, err
	}
	first := requests()
	if err := until(ctx, often, "waiting for each to receive anew", func() (bool, error) {
		return requests()-first >= int64(n), nil
	}); err != nil {
		return 0, err
	}
	ended, err := s.processorTime()
	return float64((ended - began).Microseconds()) / float64(requests()-first), err
}

// stayed opens n sessions, calls meanwhile, and closes them. It returns how many ended by
// themselves.
func stayed(ctx context.Context, s *server, transport string, n int, meanwhile func(requests func() int64) error) (lost int, err error) {
	client := requesterClient(n)
	defer client.CloseIdleConnections()
	staying, leave := context.WithCancel(ctx)
	defer leave()
	var ended, requests atomic.Int64
	var wg sync.WaitGroup
	err = each(n, func(i int) error {
		a, err := comeOver(staying, client, s.plain, transport, fmt.Sprintf("stories/%d", i))
		if err != nil {
			return err
		}
		a.counted = &requests
		wg.Go(func() {
			if a.stay(staying) != nil {
				ended.Add(1)
			}
			a.GiveUp()
		})
		return nil
	})
	client.CloseIdleConnections() // those of the requests that opened the sessions
	if err == nil && meanwhile != nil {
		err = meanwhile(requests.Load)
	}
	leave()
	wg.Wait()
	return int(ended.Load()), err
}

// processorTime returns the processor time that the server has used.
func (s *server) processorTime() (time.Duration, error) {
	user, system, err := cpuTime(s.pid())
	return user + system, err
}
