// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

const (
	idleAgents = 5000
	// mostIdleMemory is what an idle agent may keep resident.
	mostIdleMemory = 3.0 // KiB
	// mostSecureMemory is the same with TLS. Go's crypto/tls keeps 3 KiB of it.
	mostSecureMemory = 10.0 // KiB
)

// An idleLoad says which agents connect, and how.
type idleLoad struct {
	agents   int
	at       endpoint
	secure   bool
	weigh    bool   // measure memory too, which takes longer
	profiles string // where profiles go; empty for none
}

// An idleResult is the cost of many idle agents.
type idleResult struct {
	resident     float64 // bytes each, after a collection
	free         float64 // bytes each of it that the runtime has free and keeps for later
	live, stacks float64 // bytes each: heap in use after the collection, stacks
	goroutines   int     // over those of a server without agents
	left         census  // after all have left, connected again, and left again
	kept         float64 // bytes resident after all have left, over those before
}

// runIdle measures the cost of idle agents, and checks that they leave nothing behind.
func runIdle(ctx context.Context, r *report, o options) error {
	n := orDefault(o.agents, idleAgents)
	if o.short {
		n = orDefault(o.agents, 200)
	}
	r.note("resident memory: VmRSS after forced collections (runtime.GC through pprof on the admin socket), once it falls no more;")
	r.note("what the runtime keeps free for later is in it; nothing was tuned; each agent has had a heartbeat since it came")
	for _, at := range []endpoint{bare, sockjs} {
		res, err := measureIdle(ctx, o.caddy, idleLoad{n, at, false, true, o.profiles})
		if err != nil {
			return err
		}
		r.atMost(mostIdleMemory, "KiB", res.resident/1024, "%d idle agents, %s: resident memory of each", n, at.name)
		r.info("KiB", res.free/1024, "%d idle agents, %s: of it free in the runtime's hands", n, at.name)
		r.info("KiB", res.live/1024, "%d idle agents, %s: live heap of each", n, at.name)
		r.info("KiB", res.stacks/1024, "%d idle agents, %s: stacks of each", n, at.name)
		r.atMost(fewGoroutines, "goroutines", float64(res.goroutines), "%d idle agents, %s: goroutines for all of them", n, at.name)
		r.atMost(fewGoroutines, "goroutines", float64(res.left.goroutines), "%d came, left, came and left, %s: left behind", n, at.name)
		r.atMost(fewFiles, "files", float64(res.left.files), "%d came, left, came and left, %s: left behind", n, at.name)
		r.info("MiB", res.kept/(1<<20), "%d came, left, came and left, %s: resident memory over that before", n, at.name)
	}
	res, err := measureIdle(ctx, o.caddy, idleLoad{n, bare, true, true, o.profiles})
	if err != nil {
		return err
	}
	r.atMost(mostSecureMemory, "KiB", res.resident/1024, "%d idle agents, bare, TLS 1.3: resident memory of each", n)
	r.info("KiB", res.free/1024, "%d idle agents, bare, TLS 1.3: of it free in the runtime's hands", n)
	r.info("KiB", res.live/1024, "%d idle agents, bare, TLS 1.3: live heap of each", n)
	r.info("KiB", res.stacks/1024, "%d idle agents, bare, TLS 1.3: stacks of each", n)
	r.atMost(fewGoroutines, "goroutines", float64(res.goroutines), "%d idle agents, bare, TLS 1.3: goroutines for all of them", n)
	r.atMost(fewGoroutines, "goroutines", float64(res.left.goroutines), "%d came, left, came and left, TLS 1.3: left behind", n)
	r.atMost(fewFiles, "files", float64(res.left.files), "%d came, left, came and left, TLS 1.3: left behind", n)
	for _, secure := range []bool{false, true} {
		each, err := measureUncollected(ctx, o.caddy, n, secure)
		if err != nil {
			return err
		}
		name := "bare"
		if secure {
			name += ", TLS 1.3"
		}
		r.info("KiB", each/1024, "%d idle agents, %s: resident memory of each, if nothing forces a collection", n, name)
	}
	return nil
}

// measureUncollected returns how many bytes of resident memory each of n idle agents adds to a
// new server, if garbage is collected only when Go's runtime wants to.
func measureUncollected(ctx context.Context, caddy string, n int, secure bool) (each float64, err error) {
	if err := raiseFiles(n + 200); err != nil {
		return 0, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	t := s.plain
	if secure {
		t = s.secure
	}
	if err := comeAndGo(ctx, min(n, 16), t, bare); err != nil {
		return 0, err
	}
	before, err := residentMemory(s.pid())
	if err != nil {
		return 0, err
	}
	all, err := gather(ctx, n, t, bare, subscribed)
	if err != nil {
		return 0, err
	}
	defer all.vanish()
	if err := all.awaitHeartbeat(ctx); err != nil {
		return 0, err
	}
	full, err := residentMemory(s.pid())
	if err != nil {
		return 0, err
	}
	if lost, why := all.lost(); lost > 0 {
		return 0, fmt.Errorf("%d of %d idle agents were lost: %w", lost, n, why)
	}
	return float64(full-before) / float64(n), nil
}

// measureIdle connects agents with a subscription each to a new server, and disconnects
// them, twice.
func measureIdle(ctx context.Context, caddy string, load idleLoad) (res idleResult, err error) {
	n := load.agents
	if err := raiseFiles(n + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	t := s.plain
	if load.secure {
		t = s.secure
	}
	// The first agents make the server allocate what later ones share.
	if err := comeAndGo(ctx, min(n, 256), t, load.at); err != nil {
		return res, err
	}
	empty, err := quiet(ctx, s)
	if err != nil {
		return res, err
	}
	before, err := weigh(ctx, s, load.weigh)
	if err != nil {
		return res, err
	}
	all, err := gather(ctx, n, t, load.at, subscribed)
	if err != nil {
		return res, err
	}
	defer all.vanish()
	if load.weigh {
		if err := all.awaitHeartbeat(ctx); err != nil {
			return res, err
		}
	}
	full, err := weigh(ctx, s, load.weigh)
	if err != nil {
		return res, err
	}
	with, err := s.resting(ctx, empty)
	if err != nil {
		return res, err
	}
	if lost, why := all.lost(); lost > 0 {
		return res, fmt.Errorf("%d of %d idle agents were lost: %w", lost, n, why)
	}
	if err := s.profile(ctx, load.profiles); err != nil {
		return res, err
	}
	each := func(full, before int64) float64 { return float64(full-before) / float64(n) }
	res.resident = each(full.resident, before.resident)
	res.free = each(full.HeapIdle-full.HeapReleased, before.HeapIdle-before.HeapReleased)
	res.live = each(full.HeapAlloc, before.HeapAlloc)
	res.stacks = each(full.StackInuse, before.StackInuse)
	res.goroutines = with - empty.goroutines

	if err := all.depart(ctx); err != nil {
		return res, fmt.Errorf("leaving: %w", err)
	}
	if err := comeAndGo(ctx, n, t, load.at); err != nil {
		return res, err
	}
	if res.left, err = s.emptied(ctx, empty); err != nil {
		return res, err
	}
	after, err := weigh(ctx, s, load.weigh)
	res.kept = float64(after.resident - before.resident)
	return res, err
}

// resting waits for a while until the server has hardly more goroutines than before, and
// returns how many it has.
func (s *server) resting(ctx context.Context, before census) (goroutines int, err error) {
	err = untilWithin(ctx, 20*time.Second, often, "waiting until all rest", func() (bool, error) {
		goroutines, err = s.goroutines(ctx)
		return goroutines <= before.goroutines+fewGoroutines, err
	})
	return goroutines, err
}

// subscribed has each agent subscribe to a channel of its own.
func subscribed(i int) agentOptions {
	return agentOptions{subscribe: []string{fmt.Sprintf("stories/%d", i)}}
}

func comeAndGo(ctx context.Context, n int, t target, at endpoint) error {
	all, err := gather(ctx, n, t, at, subscribed)
	if err != nil {
		return err
	}
	if err := all.depart(ctx); err != nil {
		return fmt.Errorf("leaving: %w", err)
	}
	return nil
}

// quiet waits until the numbers of goroutines and files are stable, and returns them. It
// takes the least of several readings, because each reading needs a connection that may be
// counted.
func quiet(ctx context.Context, s *server) (census, error) {
	const looks = 15
	var last, least census
	n := 0
	err := untilWithin(ctx, 20*time.Second, often, "waiting for quiet", func() (bool, error) {
		now, err := s.census(ctx)
		if n%looks == 0 {
			last, least = least, now
		}
		least = census{min(least.goroutines, now.goroutines), min(least.files, now.files)}
		n++
		return n%looks == 0 && least == last, err
	})
	return least, err
}

// A weight is the memory of the server after a garbage collection.
type weight struct {
	resident int64
	memory
}

// weigh collects garbage and measures the server's memory, if the load asks for it.
func weigh(ctx context.Context, s *server, really bool) (w weight, err error) {
	if !really {
		return w, nil
	}
	if w.resident, err = s.settled(ctx); err != nil {
		return w, err
	}
	w.memory, err = s.memory(ctx)
	return w, err
}
