// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures a real server: it builds cmd/caddy, starts it with a Caddyfile of
// its own on a free port of the loopback interface, and puts a bounded load on it.
//
//	go run -C bench . [-n agents] [-short] idle|slow|fanout|bursts|receive|connects|reconnect|channels|programs|recover|operators|history|durable|storm|streams|presence|cluster|stop|all
//	go run -C bench . [-short] polls|kills|size
//	go run -C bench . [-duration 5m] [-short] soak
//	go run -C bench . [-n agents] [-short] reload
//	go run -C bench . [-short] [-peer bun=path] [-peer centrifugo=path] [-peer mercure=path] peers
//
// Each figure is a line: PASS or FAIL if it has a limit, else INFO. The exit status is 1 if
// a figure is over its limit, and 2 if nothing could be measured. PUSHIT_CADDY names a binary
// to measure in place of a new build.
//
// The package is larger than 3,500 lines because the measurements share servers, crowds of
// agents and the report. Each measurement has a file of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says, and the server to measure.
type options struct {
	caddy    string
	agents   int
	short    bool
	duration time.Duration
	profiles string
	peers    map[string]string // the programs of peers, by name
}

// A measurement loads servers and reports figures.
type measurement struct {
	name string
	run  func(context.Context, *report, options) error
	all  bool // part of "all"
}

var measurements = []measurement{
	{"idle", runIdle, true},
	{"slow", runSlow, true},
	{"fanout", runFanout, true},
	{"bursts", runBursts, true},
	{"receive", runReceive, true},
	{"connects", runConnects, true},
	{"reconnect", runReconnect, true},
	{"channels", runChannels, true},
	{"programs", runPrograms, true},
	{"recover", runRecover, true},
	{"operators", runOperators, true},
	{"history", runHistory, true},
	{"durable", runDurable, true},
	{"kills", runKills, false},
	{"storm", runStorm, true},
	{"streams", runStreams, true},
	{"polls", runPolls, false},
	{"presence", runPresence, true},
	{"cluster", runCluster, true},
	{"stop", runStop, true},
	{"peers", runPeers, true},
	{"size", runSize, false},
	{"soak", runSoak, false},
	{"reload", runReload, false},
}

// measurementNames lists them.
func measurementNames() string {
	names := make([]string, len(measurements))
	for i, m := range measurements {
		names[i] = m.name
	}
	return strings.Join(names, ", ")
}

func main() { os.Exit(mainStatus()) }

func mainStatus() int {
	var o options
	flag.IntVar(&o.agents, "n", 0, "number of agents (default: what each measurement is about)")
	flag.BoolVar(&o.short, "short", false, "a small load, to see that everything works: its figures say little")
	flag.DurationVar(&o.duration, "duration", 0, "how long soak goes on (default 5m)")
	flag.StringVar(&o.profiles, "profiles", "", "folder for profiles of the server's heap and goroutines, full of idle agents")
	flag.Func("peer", "a server to compare with in peers, as name=path of its program; may be repeated; names: "+strings.Join(peerNames, ", "), o.givePeer)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	what := flag.Arg(0)
	if what == floorCommand || what == backendCommand || what == busyCommand || what == comebackCommand {
		if err := serveOther(ctx, what); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 2
		}
		return 0
	}
	if what == "" {
		what = "all"
	}
	var chosen []measurement
	for _, m := range measurements {
		if m.name == what || what == "all" && m.all {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		fmt.Fprintf(os.Stderr, "bench: there is no %q; there are all, %s\n", what, measurementNames())
		return 2
	}
	failures, err := measure(ctx, chosen, o)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	case failures > 0:
		return 1
	default:
		return 0
	}
}

// serveOther runs the commands that this program starts as processes of their own.
func serveOther(ctx context.Context, what string) error {
	switch what {
	case floorCommand:
		return serveFloor(ctx, flag.Arg(1))
	case busyCommand:
		beBusy(ctx)
		return nil
	case comebackCommand:
		return serveComeback(ctx, flag.Arg(1))
	default:
		return serveBackend(ctx, flag.Arg(1))
	}
}

// measure builds the server, measures, prints, and returns how many figures are
// over their limits.
func measure(ctx context.Context, chosen []measurement, o options) (failures int, err error) {
	dir, err := os.MkdirTemp("", "pushit-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.caddy, err = buildServer(ctx, dir); err != nil {
		return 0, err
	}
	r := newReport(os.Stdout)
	r.header(ctx)
	for _, m := range chosen {
		r.section(m.name)
		if err := m.run(ctx, r, o); err != nil {
			return r.failures, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return r.failures, nil
}

// orDefault returns the first of the values that is not zero.
func orDefault[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}

// often is the interval of cheap polls.
const often = 20 * time.Millisecond

// until polls done until it returns true or ctx ends.
func until(ctx context.Context, every time.Duration, what string, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// untilWithin is until with a time limit. Exceeding it is no error: the figures show it.
func untilWithin(ctx context.Context, limit, every time.Duration, what string, done func() (bool, error)) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := until(within, every, what, done)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// pause waits, or returns early with an error if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
