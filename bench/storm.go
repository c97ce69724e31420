// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// A stormLoad is a crowd that comes back all at once, and whose connect gate asks a backend.
type stormLoad struct {
	agents int
	users  int           // the agents belong to that many users, in equal parts
	takes  time.Duration // for an answer of the backend
	away   time.Duration // how long the backend is away at first
	cached bool
}

const (
	// mostAsked is how many questions a guard asks at once by default.
	mostAsked = 64
	// mostStorm is the time within which the last agent must be connected.
	mostStorm = 2 * time.Minute
	// stormCache is how long answers are cached, if they are.
	stormCache = time.Minute
	// stormPatience is how long an agent waits for the answer to /meta/connect: longer
	// than the server takes to answer unavailable.
	stormPatience = 45 * time.Second
	// stormTabs is how many agents a user has, if users have several.
	stormTabs = 100
)

// The first wait before coming back is at most as long as firstWait, and each
// further one twice as long, up to longestWait.
const firstWait, longestWait = 500 * time.Millisecond, 30 * time.Second

// stormCaddyfile configures the server. Arguments: directory, address, the backend's address,
// options of the guard.
const stormCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name storm
		default allow
		connect forward_auth %[3]s {
			uri /auth
			copy_headers Remote-User
			user_header Remote-User
			%[4]s
		}
		limits {
			agents unlimited
			agents_per_ip unlimited
			unconnected_per_ip unlimited
		}
	}
}
`

// storms are the loads: a user for each agent; few users with many tabs each, and a cache;
// and both again with the backend away at first.
func storms(agents int, short bool) (loads []stormLoad) {
	load := stormLoad{agents: orDefault(agents, 9000), takes: 50 * time.Millisecond}
	away := 10 * time.Second
	if short {
		load = stormLoad{agents: orDefault(agents, 300), takes: 5 * time.Millisecond}
		away = time.Second
	}
	for _, away := range []time.Duration{0, away} {
		for _, cached := range []bool{false, true} {
			load.away, load.cached, load.users = away, cached, load.agents
			if cached {
				load.users = (load.agents + stormTabs - 1) / stormTabs
			}
			loads = append(loads, load)
		}
	}
	return loads
}

// A stormResult is the result.
type stormResult struct {
	out       int           // agents that are not connected at the end
	half, all time.Duration // until so many were in
	counts    stormCounts
	backend   tally
}

// stormCounts count attempts to connect, and sessions.
type stormCounts struct {
	denied      int64 // attempts that were told denied, in the answer or by the close
	stopped     int64 // agents that were told not to come back
	unavailable int64 // attempts that were told unavailable
	otherwise   int64 // attempts that the server ended for another reason
	failed      int64 // attempts that ended without a reason
	why         error // of the first of these
	lost        int64 // sessions that ended after the agent was in
}

func runStorm(ctx context.Context, r *report, o options) error {
	for i, load := range storms(o.agents, o.short) {
		if i > 0 {
			r.note("")
		}
		cache := "no cache"
		if load.cached {
			cache = fmt.Sprintf("cache %v", stormCache)
		}
		r.note("%d agents of %d users at once, by forward_auth with %s, to a backend that takes %v and is away for %v",
			load.agents, load.users, cache, load.takes, load.away)
		res, err := measureStorm(ctx, o.caddy, load)
		if err != nil {
			return err
		}
		r.exactly(0, "agents", float64(res.out), "not in at the end")
		r.atMost(mostStorm.Seconds(), "s", res.all.Seconds(), "until all were in")
		r.info("s", res.half.Seconds(), "until half of them were in")
		r.exactly(0, "attempts", float64(res.counts.denied), "told denied")
		r.exactly(0, "agents", float64(res.counts.stopped), "told not to come back")
		r.atMost(mostAsked, "requests", float64(res.backend.Most), "at the backend at once")
		r.exactly(float64(load.users), "users", float64(res.backend.Users), "whom the backend was asked about")
		if load.cached {
			r.atMost(float64(load.mostRequests(res.all)), "requests", float64(res.backend.Requests), "at the backend, in all")
		} else {
			r.info("requests", float64(res.backend.Requests), "at the backend, in all")
		}
		r.info("attempts", float64(res.counts.unavailable), "told unavailable")
		r.info("attempts", float64(res.counts.otherwise), "refused for another reason")
		r.info("attempts", float64(res.counts.failed), "ended without a word")
		if why := res.counts.why; why != nil {
			r.note("the first of them: %v", why)
		}
		r.info("sessions", float64(res.counts.lost), "lost after all was well")
	}
	return nil
}

// mostRequests is how often a backend is asked in that time if its answers are cached.
func (l stormLoad) mostRequests(within time.Duration) int {
	return l.users * (1 + int(within/stormCache))
}

// A storm has what its agents share.
type storm struct {
	load  stormLoad
	at    target
	begin time.Time

	inside  atomic.Int64
	stopped atomic.Int64

	mu     sync.Mutex // guards the following
	times  []time.Duration
	counts stormCounts
}

func measureStorm(ctx context.Context, caddy string, load stormLoad) (res stormResult, err error) {
	if err := raiseFiles(load.agents + 200); err != nil {
		return res, err
	}
	b, err := startBackend(ctx, load.takes)
	if err != nil {
		return res, err
	}
	defer b.stop()
	server, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer server.stop()
	at, err := load.configure(ctx, server, b)
	if err != nil {
		return res, err
	}
	if load.away == 0 {
		if err := b.come(ctx); err != nil {
			return res, err
		}
	}

	s := &storm{load: load, at: at, begin: time.Now()}
	staying, leave := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range load.agents {
		wg.Go(func() { s.visit(staying, i) })
	}
	err = s.await(ctx, server, b)
	res.out = load.agents - int(s.inside.Load())
	if err == nil {
		res.backend, err = b.tally(ctx)
	}
	leave()
	wg.Wait()
	if err != nil {
		return res, err
	}
	res.counts = s.counts
	res.half, res.all = mostStorm+time.Second, mostStorm+time.Second // if they never connect
	slices.Sort(s.times)
	if n := len(s.times); n >= load.agents/2 {
		res.half = s.times[load.agents/2-1]
		if res.out == 0 {
			res.all = s.times[n-1]
		}
	}
	return res, nil
}

// configure loads the configuration with the gate, and returns its address.
func (l stormLoad) configure(ctx context.Context, s *server, b *backend) (at target, err error) {
	options := ""
	if l.cached {
		options = "cache " + stormCache.String()
	}
	return s.serve(ctx, stormCaddyfile, b.addr, options)
}

// await starts the backend again in time, and waits until all agents are connected, or will
// not try again.
func (s *storm) await(ctx context.Context, server *server, b *backend) error {
	if s.load.away > 0 {
		if err := pause(ctx, s.load.away); err != nil {
			return err
		}
		// On a busy machine nobody may have been asked about yet.
		if err := untilWithin(ctx, mostStorm-time.Since(s.begin), often, "waiting until somebody is told that the backend is away", func() (bool, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.counts.unavailable > 0, server.alive()
		}); err != nil {
			return err
		}
		if err := b.come(ctx); err != nil {
			return err
		}
	}
	return untilWithin(ctx, mostStorm-time.Since(s.begin), often, "waiting until all are in", func() (bool, error) {
		return int(s.inside.Load()+s.stopped.Load()) >= s.load.agents, server.alive()
	})
}

// visit connects, and comes back as the protocol says, until ctx ends.
func (s *storm) visit(ctx context.Context, i int) {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		end := s.attempt(ctx, i)
		if ctx.Err() != nil {
			return
		}
		s.count(end)
		if end.never {
			s.stopped.Add(1)
			return
		}
		if end.was {
			wait = firstWait
		}
		if pause(ctx, end.retry+mathrand.N(wait)) != nil { //nolint:gosec // G404: a random wait is no secret
			return
		}
	}
}

// An outcome is the result of an attempt.
type outcome struct {
	was    bool   // it was connected
	code   string // of the refusal; empty if there was none
	closed int    // the code of the end, 0 for none
	retry  time.Duration
	never  bool // retry is false
	why    error
}

func (s *storm) count(end outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counts
	if end.never {
		c.stopped++
	}
	switch {
	case end.was:
		c.lost++
	case end.code == "denied" || end.closed == 4401:
		c.denied++
	case end.code == "unavailable":
		c.unavailable++
	case end.code != "" || end.closed != 0:
		c.otherwise++
	default:
		c.failed++
		c.why = orDefault(c.why, end.why)
	}
}

// attempt opens a session, connects, and stays until the end.
func (s *storm) attempt(ctx context.Context, i int) (end outcome) {
	ws, err := dial(ctx, s.at, bare.path, socketOptions{cookie: fmt.Sprintf("%s=user-%d", userCookie, i%s.load.users)})
	if err != nil {
		return outcome{why: err}
	}
	defer ws.Cut()
	defer context.AfterFunc(ctx, ws.Cut)()
	if err := ws.Conn.SetDeadline(time.Now().Add(stormPatience)); err != nil {
		return outcome{why: err}
	}
	connect := fmt.Appendf(nil, `{"channel":"/meta/connect","uuid":"storm-%[1]d","agentId":"storm-%[1]d","data":{"credentials":null}}`, i)
	if err := ws.Write(wireclient.OpText, connect); err != nil {
		return outcome{why: err}
	}
	for end.why == nil {
		end.why = s.read(ws, &end)
	}
	if end.was {
		s.inside.Add(-1)
	}
	return end
}

// read reads a frame.
func (s *storm) read(ws *wireclient.WebSocket, end *outcome) error {
	payload, err := ws.Read()
	if closed := (*wireclient.CloseError)(nil); errors.As(err, &closed) {
		end.closed = closed.Code
	}
	if err != nil {
		return err
	}
	in, err := end.hear(payload)
	if in && !end.was {
		end.was = true
		s.enter()
		err = opened(ws)
	}
	return err
}

// enter counts a connected agent.
func (s *storm) enter() {
	s.mu.Lock()
	s.times = append(s.times, time.Since(s.begin))
	s.mu.Unlock()
	s.inside.Add(1)
}

// hear notes what a frame says, and reports whether it connects the agent.
func (e *outcome) hear(payload []byte) (in bool, err error) {
	var f struct {
		frame
		Retry json.RawMessage `json:"retry"`
	}
	if err := json.Unmarshal(payload, &f); err != nil {
		return false, err
	}
	switch f.Channel {
	case "/meta/connect":
		if f.Successful != nil && *f.Successful {
			return true, nil
		}
		err = json.Unmarshal(f.Code, &e.code)
	case "/meta/close":
		err = json.Unmarshal(f.Code, &e.closed)
	default:
		return false, fmt.Errorf("%s came", payload)
	}
	var ms int64
	switch {
	case err != nil:
		return false, err
	case string(f.Retry) == "false":
		e.never = true
	case len(f.Retry) > 0:
		err = json.Unmarshal(f.Retry, &ms)
		e.retry = max(e.retry, time.Duration(ms)*time.Millisecond)
	}
	return false, err
}
