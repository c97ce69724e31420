// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
)

const (
	// connectAgents is how many agents connect.
	connectAgents = 2000
	// mostConnect is what a connection without TLS may cost.
	mostConnect = 200 // us
)

// connectsCaddyfile configures the server. Arguments: directory, address, the scheme, and the
// line that names the certificate.
const connectsCaddyfile = globalOptions + `%[3]s://%[2]s {
	%[4]s
	log {
		output file %[1]s/access.log
	}
	pushit /push {
		name connects
		default allow
		connect cel ` + "`request.headers['User-Agent'].contains('Chrome')`" + `
		limits {
			agents_per_ip unlimited
			frames_per_second unlimited
		}
	}
}
`

// A connectLoad says how agents connect.
type connectLoad struct {
	name    string
	secure  bool
	resumes bool // with TLS: each agent has a ticket of an earlier session
}

var connectLoads = []connectLoad{{"plain", false, false}, {"TLS 1.3, resumed", true, true}, {"TLS 1.3, new", true, false}}

// runConnects measures the cost of a connection: with what Chromium sends, a connect gate, a
// subscription, and Caddy's access log.
func runConnects(ctx context.Context, r *report, o options) error {
	n, runs := orDefault(o.agents, connectAgents), fanoutRuns
	if o.short {
		n, runs = orDefault(o.agents, 200), 1
	}
	r.note("processor time (user and system) of the server for a connection, the upgrade, /meta/connect and one subscription;")
	r.note("%d agents, %d at a time, best of %d runs; the floor is the same with a server that only upgrades", n, atOnce, runs)
	floor, err := measureFloorConnects(ctx, n, runs)
	if err != nil {
		return err
	}
	for _, load := range connectLoads {
		c, garbage, err := measureConnects(ctx, o.caddy, load, n, runs)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		if what := "connect and subscribe, " + load.name; load.secure {
			r.info("us", microseconds(c.cpu), "%s", what)
		} else {
			r.atMost(mostConnect, "us", microseconds(c.cpu), "%s", what)
		}
		r.info("us", microseconds(c.user), "connect and subscribe, %s: user mode of it", load.name)
		r.info("allocations", c.allocs, "connect and subscribe, %s", load.name)
		r.info("KiB", garbage/1024, "connect and subscribe, %s: allocated, also what stays", load.name)
	}
	r.info("us", microseconds(floor.cpu), "floor, plain")
	return nil
}

// measureConnects connects n agents to a new server, and disconnects them, several times. It
// also returns how many bytes the server allocates for each.
func measureConnects(ctx context.Context, caddy string, load connectLoad, n, runs int) (best cost, bytes float64, err error) {
	if err := raiseFiles(n + 200); err != nil {
		return best, 0, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return best, 0, err
	}
	defer s.stop()
	scheme, certificate := "http", ""
	if load.secure {
		scheme, certificate = "https", fmt.Sprintf("tls %[1]s/cert.pem %[1]s/key.pem", s.dir)
	}
	t, err := s.serve(ctx, connectsCaddyfile, scheme, certificate)
	if err != nil {
		return best, 0, err
	}
	if load.secure {
		t.tls = s.secure.tls.Clone()
		if load.resumes {
			t.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
	}
	allocs := func() (float64, error) {
		m, err := s.memory(ctx)
		return float64(m.Mallocs), err
	}
	for i := range runs + 1 { // the first is to warm up
		before, err := s.memory(ctx)
		if err != nil {
			return best, 0, err
		}
		var all crowd
		c, err := weighWork(s.pid(), float64(n), allocs, func() (err error) {
			all, err = gather(ctx, n, t, bare, subscribed)
			return err
		})
		if err == nil {
			var after memory
			after, err = s.memory(ctx)
			bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
		}
		if err == nil && load.resumes && i > 0 {
			err = all.resumed()
		}
		all.vanish()
		if err != nil {
			return best, bytes, errors.Join(err, s.alive())
		}
		if i > 0 {
			best = c.better(best)
		}
	}
	return best, bytes, nil
}

// resumed returns an error if an agent has not resumed its TLS session.
func (c crowd) resumed() error {
	for i, a := range c {
		if secure, ok := a.Conn.(*tls.Conn); !ok || !secure.ConnectionState().DidResume {
			return fmt.Errorf("agent %d has not resumed a TLS session", i)
		}
	}
	return nil
}

// measureFloorConnects connects n WebSockets to the floor.
func measureFloorConnects(ctx context.Context, n, runs int) (best cost, err error) {
	for i := range runs + 1 { // the first is to warm up
		f, err := startFloor(ctx)
		if err != nil {
			return best, err
		}
		var all crowd
		c, err := weighWork(f.pid(), float64(n), nil, func() (err error) {
			all, err = f.gather(ctx, n, func([]byte) {})
			return err
		})
		all.vanish()
		f.stop()
		if err != nil {
			return best, err
		}
		if i > 0 {
			best = c.better(best)
		}
	}
	return best, nil
}
