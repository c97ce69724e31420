// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	reconnectAgents = 5000
	reconnectRuns   = 3
	// reconnectPatience bounds a run on a busy machine.
	reconnectPatience = 3 * time.Minute
)

// reconnectCaddyfile configures the server: connectsCaddyfile with TLS, and without the limit
// of unconnected sessions, because all agents come from one address here. Arguments:
// directory, address.
const reconnectCaddyfile = globalOptions + `https://%[2]s {
	tls %[1]s/cert.pem %[1]s/key.pem
	log {
		output file %[1]s/access.log
	}
	pushit /push {
		name reconnect
		default allow
		connect cel ` + "`request.headers['User-Agent'].contains('Chrome')`" + `
		limits {
			agents_per_ip unlimited
			unconnected_per_ip unlimited
			frames_per_second unlimited
		}
	}
}
`

// A reconnectResult is what became of a crowd that was cut off, and came back at once.
type reconnectResult struct {
	back, resumed, got int           // agents: subscribed again, with a resumed session, with the message after it
	failed             int64         // attempts that failed
	half, all          time.Duration // until so many were subscribed
	cpu                time.Duration // of the server in the meantime
	peak               int64         // bytes resident at most, over those of the server that had no agent yet
}

// runReconnect measures the return of many agents at one moment, over TLS 1.3, each with the
// ticket of its last session.
func runReconnect(ctx context.Context, r *report, o options) error {
	n, runs := orDefault(o.agents, reconnectAgents), reconnectRuns
	if o.short {
		n, runs = orDefault(o.agents, 200), 1
	}
	r.note("%d agents connect over TLS 1.3 and subscribe, lose their connections at once, and come back at once, all with tickets;", n)
	r.note("Chromium's header, a connect gate, access log; %d runs, median (least to most); the load, on the same machine, takes more of the processor than the server", runs)
	all, err := measureReconnect(ctx, o.caddy, n, runs)
	if err != nil {
		return err
	}
	var back, resumed, got int
	var failed int64
	for _, res := range all {
		back, resumed, got, failed = back+res.back, resumed+res.resumed, got+res.got, failed+res.failed
	}
	r.exactly(float64(n*runs), "agents", float64(back), "subscribed again")
	r.exactly(float64(n*runs), "agents", float64(resumed), "resumed their TLS sessions")
	r.exactly(float64(n*runs), "agents", float64(got), "got a message afterwards")
	r.info("attempts", float64(failed), "failed, and were repeated")
	figure := func(name, unit string, value func(reconnectResult) float64) {
		values := make([]float64, len(all))
		for i, res := range all {
			values[i] = value(res)
		}
		fmt.Fprintf(r.w, "INFO %s: %v %s\n", name, spreadOf(values), unit)
	}
	figure("until half were subscribed", "s", func(res reconnectResult) float64 { return res.half.Seconds() })
	figure("until all were subscribed", "s", func(res reconnectResult) float64 { return res.all.Seconds() })
	figure("processor time of the server", "s", func(res reconnectResult) float64 { return res.cpu.Seconds() })
	figure("processor time of the server for each agent", "us", func(res reconnectResult) float64 { return microseconds(res.cpu) / float64(n) })
	figure("resident memory at most, over that without agents", "MiB", func(res reconnectResult) float64 { return float64(res.peak) / (1 << 20) })
	figure("the same for each agent", "KiB", func(res reconnectResult) float64 { return float64(res.peak) / 1024 / float64(n) })
	return nil
}

// A comer is an agent that comes back with the ticket of its last session.
type comer struct {
	at  target
	got *atomic.Int64
}

func (c *comer) come(ctx context.Context) (*agent, error) {
	return come(ctx, c.at, bare, agentOptions{subscribe: []string{fanoutChannel}, onMessage: func([]byte) { c.got.Add(1) }})
}

// measureReconnect lets n agents connect, and cuts them off and lets them come back several
// times.
func measureReconnect(ctx context.Context, caddy string, n, runs int) ([]reconnectResult, error) {
	if err := raiseFiles(n + 200); err != nil {
		return nil, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	at, err := s.serve(ctx, reconnectCaddyfile)
	if err != nil {
		return nil, err
	}
	empty, err := quiet(ctx, s)
	if err != nil {
		return nil, err
	}
	without, err := residentMemory(s.pid())
	if err != nil {
		return nil, err
	}
	var got atomic.Int64
	comers := make([]*comer, n)
	for i := range comers {
		c := &comer{target{addr: at.addr, tls: s.secure.tls.Clone()}, &got}
		c.at.tls.MinVersion = tls.VersionTLS13
		c.at.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		comers[i] = c
	}
	agents := make(crowd, n)
	defer func() { agents.vanish() }()
	err = each(n, func(i int) (err error) {
		agents[i], err = comers[i].come(ctx)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, s.alive())
	}
	var all []reconnectResult
	for range runs {
		agents.vanish()
		agents = make(crowd, n)
		if _, err := s.emptied(ctx, empty); err != nil {
			return nil, err
		}
		res, err := s.reconnect(ctx, comers, agents)
		res.peak -= without
		if err == nil {
			res.got, err = tell(ctx, comers[0], agents)
		}
		if err != nil {
			return nil, errors.Join(err, s.alive())
		}
		all = append(all, res)
	}
	return all, nil
}

// reconnect lets all come back at once.
func (s *server) reconnect(ctx context.Context, comers []*comer, agents crowd) (res reconnectResult, err error) {
	if err := resetPeak(s.pid()); err != nil {
		return res, err
	}
	began, err := s.processorTime()
	if err != nil {
		return res, err
	}
	within, cancel := context.WithTimeout(ctx, reconnectPatience)
	defer cancel()
	var wg sync.WaitGroup
	var failed atomic.Int64
	begin := make(chan struct{})
	took := make([]time.Duration, len(comers))
	var begun time.Time
	for i, c := range comers {
		wg.Go(func() {
			<-begin
			for wait := firstWait; ; wait = min(2*wait, longestWait) {
				a, err := c.come(within)
				if err == nil {
					agents[i], took[i] = a, time.Since(begun)
					return
				}
				failed.Add(1)
				if pause(within, mathrand.N(wait)) != nil { //nolint:gosec // G404: a random wait is no secret
					return
				}
			}
		})
	}
	begun = time.Now()
	close(begin)
	wg.Wait()
	ended, err := s.processorTime()
	if err != nil {
		return res, err
	}
	peak, err := peakMemory(s.pid())
	if err != nil {
		return res, err
	}
	res.failed, res.cpu, res.peak = failed.Load(), ended-began, peak
	for _, a := range agents {
		if a == nil {
			continue
		}
		res.back++
		if secure, ok := a.Conn.(*tls.Conn); ok && secure.ConnectionState().DidResume {
			res.resumed++
		}
	}
	slices.Sort(took)
	res.half, res.all = took[len(took)/2], took[len(took)-1]
	return res, ctx.Err()
}

// tell publishes a message, and returns how many agents got it.
func tell(ctx context.Context, c *comer, agents crowd) (int, error) {
	if agents[0] == nil {
		return 0, nil
	}
	c.got.Store(0)
	if err := agents[0].publish(fanoutChannel, []byte(`"welcome back"`)); err != nil {
		return 0, err
	}
	err := untilWithin(ctx, startTimeout, often, "waiting for a message", func() (bool, error) {
		return c.got.Load() >= int64(len(agents)), nil
	})
	return int(c.got.Load()), err
}
