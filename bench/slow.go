// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

const (
	// A stalled agent may make the others' latency this much worse.
	slowExtra, slowFactor = time.Millisecond, 1.1
	// mostSlowMemory is what stalled agents may make the server grow by. One of
	// them may have a mebibyte queued.
	mostSlowMemory = 16.0 // MiB
	// mostOthers is what other processes may have of the machine in a pair of runs
	// without the pair being measured again: they delay both runs, but not alike.
	mostOthers = 0.03
)

// A slowLoad is the load of the agents that read.
type slowLoad struct {
	readers  int
	every    time.Duration // between publishes
	size     int           // bytes of a message's data
	window   time.Duration // of one run
	pairs    int
	again    int           // pairs that may be measured again
	deadline time.Duration // a stalled agent must be closed in it
}

var (
	slowFull  = slowLoad{readers: 200, every: 20 * time.Millisecond, size: 8 << 10, window: 10 * time.Second, pairs: 5, again: 10, deadline: 60 * time.Second}
	slowShort = slowLoad{readers: 20, every: 5 * time.Millisecond, size: 8 << 10, window: time.Second, pairs: 1, deadline: 60 * time.Second}
)

// A slowResult has a pair of runs at each index.
type slowResult struct {
	without, with []time.Duration // p99 of the latency
	stalled       int             // agents that stopped reading
	closed        int             // of them, by the server
	ends          map[string]int  // how they found their connection
	closedAfter   time.Duration   // the longest that one lasted
	growth        int64           // of the resident memory at its most, with a stalled agent over without
	lost          int             // readers that were closed
	others        []float64       // what other processes had of the machine, in a pair at most
	again         int             // pairs that were measured again, because that was too much
}

// runSlow measures how much an agent that stops reading delays the others.
func runSlow(ctx context.Context, r *report, o options) error {
	load := slowFull
	if o.short {
		load = slowShort
	}
	load.readers = orDefault(o.agents, load.readers)
	res, err := measureSlow(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	r.note("%d agents, a message of %d bytes every %v, runs of %v; latency from when a publish is due to when an agent has the message",
		load.readers, load.size, load.every, load.window)
	over := make([]float64, len(res.with))
	for i, with := range res.with {
		allowed := time.Duration(slowFactor*float64(res.without[i])) + slowExtra
		over[i] = milliseconds(with - allowed)
		r.note("pair %d: p99 without %.3f ms, with a stalled agent %.3f ms; other processes had %.0f %% of the machine",
			i+1, milliseconds(res.without[i]), milliseconds(with), 100*res.others[i])
	}
	r.info("pairs", float64(res.again), "measured again, because other processes had more than %.0f %% of the machine", 100*mostOthers)
	r.info("ms", milliseconds(median(res.without)), "p99 latency without a stalled agent, median")
	r.info("ms", milliseconds(median(res.with)), "p99 latency beside a stalled agent, median")
	r.atMost(0, "ms", median(over), "p99 latency beside a stalled agent, over 1 ms + 10 %% more than without, median of %d pairs", len(over))
	r.exactly(float64(res.stalled), "agents", float64(res.closed), "stalled agents closed by their limits")
	r.info("s", res.closedAfter.Seconds(), "a stalled agent lasted at most")
	for end, n := range res.ends {
		r.info("agents", float64(n), "stalled agents that found: %s", end)
	}
	r.exactly(0, "agents", float64(res.lost), "other agents closed")
	r.atMost(mostSlowMemory, "MiB", float64(res.growth)/(1<<20), "resident memory at its most, over that without a stalled agent")
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median[T ~int64 | ~float64](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

const slowChannel = "busy"

// measureSlow runs the load in turns without and with a stalled agent.
func measureSlow(ctx context.Context, caddy string, load slowLoad) (res slowResult, err error) {
	if err := raiseFiles(load.readers + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	start := time.Now()
	clock := &latencies{start: start}
	readers, err := gather(ctx, load.readers, s.plain, bare, func(int) agentOptions {
		return agentOptions{
			socketOptions: socketOptions{readBuffer: 2*load.size + 512},
			subscribe:     []string{slowChannel},
			onMessage:     clock.take,
		}
	})
	if err != nil {
		return res, err
	}
	defer readers.vanish()
	publisher, err := come(ctx, s.plain, bare, agentOptions{})
	if err != nil {
		return res, err
	}
	defer publisher.vanish()

	run := slowRun{server: s, load: load, readers: readers, publisher: publisher, clock: clock}
	if _, err := run.window(ctx); err != nil { // to warm up
		return res, err
	}
	res.ends = make(map[string]int)
	var peakWithout, peakWith int64
	for len(res.with) < load.pairs {
		without, err := run.window(ctx)
		if err != nil {
			return res, err
		}
		stalls := startStalling(ctx, s, load)
		with, err := run.window(ctx)
		for err == nil && !stalls.over() {
			// The channel stays busy until the last one is closed.
			_, err = run.window(ctx)
		}
		if err = errors.Join(err, stalls.wait()); err != nil {
			return res, err
		}
		res.add(stalls)
		others := max(without.others, with.others)
		if others > mostOthers && res.again < load.again {
			res.again++
			continue
		}
		res.others = append(res.others, others)
		res.without, res.with = append(res.without, without.p99), append(res.with, with.p99)
		peakWithout, peakWith = max(peakWithout, without.peak), max(peakWith, with.peak)
	}
	res.growth = peakWith - peakWithout
	lost, why := readers.lost()
	if res.lost = lost; lost > 0 {
		return res, fmt.Errorf("%d agents that read were closed: %w", lost, why)
	}
	return res, nil
}

func (res *slowResult) add(st *stalls) {
	res.stalled += st.stalled
	res.closed += st.closed
	res.closedAfter = max(res.closedAfter, st.longest)
	for _, end := range st.ends {
		res.ends[end]++
	}
}

// A slowRun has the state that all runs share.
type slowRun struct {
	server    *server
	load      slowLoad
	readers   crowd
	publisher *agent
	clock     *latencies
}

type slowWindow struct {
	p99    time.Duration
	peak   int64   // resident memory of the server at its most
	others float64 // what other processes had of the machine, 0 to 1
}

// window publishes at a steady pace and returns how long deliveries took.
func (w *slowRun) window(ctx context.Context) (res slowWindow, err error) {
	total := int(w.load.window / w.load.every)
	w.clock.reset(total * w.load.readers)
	pad := bytes.Repeat([]byte{'x'}, w.load.size)
	acknowledged := w.publisher.acknowledged.Load()
	watch, err := startWatch(w.server.pid(), os.Getpid())
	if err != nil {
		return res, err
	}
	begun := time.Since(w.clock.start)
	for i := range total {
		// Each message says when it was due, not when it was sent: a delay of its
		// publishing counts, also for the messages behind it.
		due := begun + time.Duration(i)*w.load.every
		if err := pause(ctx, due-time.Since(w.clock.start)); err != nil {
			return res, err
		}
		data := fmt.Appendf(nil, `"%s%d;`, stampMark, due)
		data = append(append(data, pad[:w.load.size-len(data)-1]...), '"')
		if err := w.publisher.publish(slowChannel, data); err != nil {
			return res, errors.Join(err, w.server.alive())
		}
		if i%8 == 0 {
			rss, err := residentMemory(w.server.pid())
			if err != nil {
				return res, err
			}
			res.peak = max(res.peak, rss)
		}
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = until(within, often, "waiting for all messages", func() (bool, error) {
		return w.clock.count.Load() == int64(total*w.load.readers) &&
			w.publisher.acknowledged.Load()-acknowledged == int64(total), w.server.alive()
	})
	if err != nil {
		lost, why := w.readers.lost()
		return res, fmt.Errorf("%w: %d of %d deliveries, %d of %d answers, %d agents that read were closed: %w", err,
			w.clock.count.Load(), total*w.load.readers, w.publisher.acknowledged.Load()-acknowledged, total, lost, why)
	}
	if n := w.publisher.refused.Load(); n > 0 {
		return res, fmt.Errorf("%d publishes were refused", n)
	}
	res.others, err = watch.others()
	res.p99 = w.clock.percentile(0.99)
	return res, err
}

// A watch measures how much other processes disturb a run.
type watch struct {
	pids  []int
	begun time.Time
	busy  time.Duration // of the machine
	own   time.Duration // of the processes of this measurement
}

func startWatch(pids ...int) (w watch, err error) {
	w.pids, w.begun = pids, time.Now()
	w.busy, w.own, err = w.read()
	return w, err
}

func (w *watch) read() (busy, own time.Duration, err error) {
	if busy, err = busyTime(); err != nil {
		return 0, 0, err
	}
	for _, pid := range w.pids {
		user, system, err := cpuTime(pid)
		if err != nil {
			return 0, 0, err
		}
		own += user + system
	}
	return busy, own, nil
}

// others returns the share of the machine that other processes had since the start, 0 to 1.
func (w *watch) others() (float64, error) {
	busy, own, err := w.read()
	whole := time.Since(w.begun) * time.Duration(runtime.NumCPU())
	return max(0, float64(busy-w.busy-(own-w.own))/float64(whole)), err
}

// stampMark stands before the time in a message.
const stampMark = "due="

// sentMark stands before the time at which a message that was due was sent.
const sentMark = "sent="

// latencies collects how long messages took. take is called by many goroutines.
type latencies struct {
	start time.Time
	mark  string       // before the time in a message; default stampMark
	next  atomic.Int64 // index into took
	count atomic.Int64 // of took, how many are written
	took  []time.Duration
}

func (l *latencies) reset(n int) {
	l.took = make([]time.Duration, n)
	l.next.Store(0)
	l.count.Store(0)
}

func (l *latencies) take(payload []byte) { l.takeAt(time.Since(l.start), payload) }

// takeAt is take for a message that came at another time, which is since l.start.
func (l *latencies) takeAt(now time.Duration, payload []byte) {
	_, rest, ok := bytes.Cut(payload, []byte(orDefault(l.mark, stampMark)))
	if !ok {
		return
	}
	digits, _, _ := bytes.Cut(rest, []byte{';'})
	due, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return
	}
	if i := l.next.Add(1); i <= int64(len(l.took)) {
		l.took[i-1] = now - time.Duration(due)
	}
	l.count.Add(1)
}

func (l *latencies) percentile(p float64) time.Duration {
	slices.Sort(l.took)
	return l.took[min(int(float64(len(l.took))*p), len(l.took)-1)]
}

// stalls keeps one agent at a time that reads nothing, until the first of them has been
// closed and the time is up.
type stalls struct {
	finished chan struct{} // closed when it is over; then the rest is set
	stalled  int
	closed   int
	longest  time.Duration
	ends     []string
	err      error
	wg       sync.WaitGroup
}

func startStalling(ctx context.Context, s *server, load slowLoad) *stalls {
	st := &stalls{finished: make(chan struct{})}
	end := time.Now().Add(load.window)
	st.wg.Go(func() {
		defer close(st.finished)
		for st.err == nil && (st.stalled == 0 || time.Now().Before(end)) {
			st.err = st.one(ctx, s, load)
		}
	})
	return st
}

func (st *stalls) over() bool {
	select {
	case <-st.finished:
		return true
	default:
		return false
	}
}

func (st *stalls) wait() error {
	st.wg.Wait()
	return st.err
}

// one connects an agent that stops reading, waits until the server has closed its
// connection, and then reads how it ended.
func (st *stalls) one(ctx context.Context, s *server, load slowLoad) error {
	before, err := openFiles(s.pid())
	if err != nil {
		return err
	}
	a, err := come(ctx, s.plain, bare, agentOptions{
		socketOptions: socketOptions{receiveBuffer: 4 << 10},
		subscribe:     []string{slowChannel},
		stalls:        true,
	})
	if err != nil {
		return err
	}
	defer a.Cut()
	st.stalled++
	since := time.Now()
	closed := false
	// This side does not see the end, because unread bytes come before it. But the
	// server then has one file less.
	err = untilWithin(ctx, load.deadline, time.Second/4, "waiting for the stalled agent to be closed", func() (bool, error) {
		now, err := openFiles(s.pid())
		closed = now <= before
		return closed, err
	})
	if err != nil || !closed {
		return err
	}
	st.closed++
	st.longest = max(st.longest, time.Since(since))
	go a.run()
	select {
	case <-a.done:
		st.ends = append(st.ends, ending(a))
		return nil
	case <-time.After(dialTimeout):
		return errors.New("a closed connection does not end")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ending says how a stalled agent found its connection when it read again.
func ending(a *agent) string {
	var frame *wireclient.CloseError
	switch {
	case a.closing != "":
		return a.closing
	case errors.As(a.failure, &frame):
		return fmt.Sprintf("a close frame with %d", frame.Code)
	default:
		return "a cut connection"
	}
}
