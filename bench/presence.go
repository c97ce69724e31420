// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	presenceAgents = 10_000
	// mostMemberMemory is the most bytes that a member may take, with a short info, over
	// those of its subscription.
	mostMemberMemory = 200
	presenceChurn    = 50 // agents that join or leave, each once a second
	presenceTime     = 20 * time.Second
)

// presenceCaddyfile has presence in rooms, and none in halls. Arguments: directory, address.
const presenceCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name presence
		heartbeat 1m
		channel rooms/* {
			presence {
				info ` + "`" + `{"name": "Somebody"}` + "`" + `
				members 100000
			}
		}
		limits {
			agents_per_ip unlimited
			unconnected_per_ip unlimited
			frames_per_second unlimited
		}
	}
}
`

// A presenceResult is the cost of presence with many observers.
type presenceResult struct {
	member float64       // bytes of heap of a member, over a subscription
	watch  float64       // the same of a member who also observes
	cpu    float64       // share of a core while some come and go
	bytes  float64       // a second, to all observers
	frames float64       // batches a second and observer
	delay  time.Duration // until all observers had the last change
}

// runPresence measures a channel with many members who all see each other.
func runPresence(ctx context.Context, r *report, o options) error {
	n, lasts := orDefault(o.agents, presenceAgents), presenceTime
	if o.short {
		n, lasts = orDefault(o.agents, 300), 3*time.Second
	}
	res, err := measurePresence(ctx, o.caddy, n, lasts)
	if err != nil {
		return err
	}
	if o.short {
		r.info("bytes", res.member, "%d members: heap of each", n)
	} else {
		r.atMost(mostMemberMemory, "bytes", res.member, "%d members: heap of each, over its subscription", n)
	}
	r.info("bytes", res.watch, "%d members who see the others: heap of each, over its subscription", n)
	r.info("of a core", res.cpu, "%d members, %d joins and leaves a second: processor time", n, presenceChurn)
	r.info("KB a second", res.bytes/1000, "%d members, %d joins and leaves a second: to all observers", n, presenceChurn)
	r.info("bytes a second", res.bytes/float64(n), "%d members, %d joins and leaves a second: to each observer", n, presenceChurn)
	r.info("frames a second", res.frames, "%d members, %d joins and leaves a second: to each observer", n, presenceChurn)
	r.info("ms", float64(res.delay.Milliseconds()), "until the last change was told to all")
	return nil
}

// presenceCounts count what observers get.
type presenceCounts struct{ answers, frames, bytes atomic.Int64 }

func (c *presenceCounts) take(payload []byte) {
	if head := payload[:min(len(payload), 40)]; bytes.Contains(head, []byte("/meta/presence")) {
		c.frames.Add(1)
		c.bytes.Add(int64(len(payload)))
	} else {
		c.answers.Add(1)
	}
}

func measurePresence(ctx context.Context, caddy string, n int, lasts time.Duration) (res presenceResult, err error) {
	if err := raiseFiles(n + presenceChurn + 500); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	at, err := s.serve(ctx, presenceCaddyfile)
	if err != nil {
		return res, err
	}
	var got presenceCounts
	all, err := gather(ctx, n, at, bare, func(int) agentOptions {
		// So many that the list of an agent does not grow while this measures.
		return agentOptions{socketOptions: socketOptions{readBuffer: 2 << 10}, subscribe: []string{"halls/1", "halls/3", "halls/4", "halls/5", "halls/6"}, onMessage: got.take}
	})
	if err != nil {
		return res, err
	}
	defer all.vanish()
	var heap []float64
	for _, step := range []string{"", `"halls/2"`, `"rooms/1"`, `"rooms/1","presence":true`} {
		if step != "" {
			if err := all.subscribeAll(ctx, &got, step); err != nil {
				return res, errors.Join(err, s.alive())
			}
		}
		m, err := s.restingHeap(ctx)
		if err != nil {
			return res, err
		}
		heap = append(heap, m/float64(n))
	}
	subscription := heap[1] - heap[0]
	res.member, res.watch = heap[2]-heap[1]-subscription, heap[3]-heap[1]-subscription
	guests, err := gather(ctx, presenceChurn, at, bare, func(int) agentOptions { return agentOptions{} })
	if err != nil {
		return res, err
	}
	defer guests.vanish()
	return res, res.churn(ctx, s, guests, &got, n, lasts)
}

// restingHeap returns the heap of the server once it has let go of what it used last, such as
// buffers of connections. It waits for up to half a minute.
func (s *server) restingHeap(ctx context.Context) (heap float64, err error) {
	for range 30 {
		if err := errors.Join(pause(ctx, time.Second), s.collect(ctx)); err != nil {
			return 0, err
		}
		m, err := s.memory(ctx)
		if err != nil {
			return 0, err
		}
		before := heap
		if heap = float64(m.HeapAlloc); before > 0 && math.Abs(before-heap) < before/5000 {
			return heap, nil
		}
	}
	return heap, nil
}

// subscribeAll subscribes all agents, and waits for the answers.
func (c crowd) subscribeAll(ctx context.Context, got *presenceCounts, channel string) error {
	want := got.answers.Load() + int64(len(c))
	err := each(len(c), func(i int) error {
		return c[i].send(fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":%q,"data":{"channel":%s}}`, c[i].nextUUID(), channel))
	})
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return until(within, often, "waiting for answers", func() (bool, error) { return got.answers.Load() >= want, nil })
}

// churn lets guests join and leave, each once a second, and measures the cost.
func (res *presenceResult) churn(ctx context.Context, s *server, guests crowd, got *presenceCounts, n int, lasts time.Duration) error {
	user, system, err := cpuTime(s.pid())
	if err != nil {
		return err
	}
	frames, size, begun := got.frames.Load(), got.bytes.Load(), time.Now()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for i, guest := range guests {
		wg.Go(func() {
			if pause(ctx, time.Duration(i)*time.Second/presenceChurn) != nil {
				return
			}
			for k := 0; time.Since(begun) < lasts; k++ {
				what := []string{"subscribe", "unsubscribe"}[k%2]
				if err := guest.send(fmt.Appendf(nil, `{"channel":"/meta/%s","uuid":%q,"data":{"channel":"rooms/1"}}`, what, guest.nextUUID())); err != nil {
					failed.Store(&err)
					return
				}
				if pause(ctx, time.Second) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	took := time.Since(begun)
	last := time.Now()
	for still := got.frames.Load(); ; still = got.frames.Load() { // until nothing arrives for two intervals
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if got.frames.Load() == still {
			break
		}
		last = time.Now()
	}
	userAfter, systemAfter, err := cpuTime(s.pid())
	if err != nil {
		return err
	}
	if got.frames.Load() == frames {
		return errors.New("nobody was told of those who came and went")
	}
	res.cpu = (userAfter - user + systemAfter - system).Seconds() / took.Seconds()
	res.bytes = float64(got.bytes.Load()-size) / took.Seconds()
	res.frames = float64(got.frames.Load()-frames) / took.Seconds() / float64(n)
	res.delay = max(0, last.Sub(begun)-took)
	return nil
}
