// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// A soakLoad is a crowd that changes all the time, and a few agents that stay.
type soakLoad struct {
	duration time.Duration
	stayers  int           // agents that stay and check all they get
	churners int           // agents that come, publish and leave, at a time
	channels int           // each agent that stays is subscribed to all of them
	stream   int           // messages that a churner publishes before it leaves
	every    time.Duration // between the messages of a churner
	reload   time.Duration // between reloads of the configuration
	sample   time.Duration // between looks at the server's memory
}

const (
	soakDuration = 5 * time.Minute
	// mostSoakGrowth is how much more the server may weigh in the last third of
	// the time than in the third before.
	mostSoakGrowth = 8.0 // MiB
)

func soakFull(duration time.Duration) soakLoad {
	return soakLoad{
		duration: duration, stayers: 20, churners: 40, channels: 4, stream: 20,
		every: 20 * time.Millisecond, reload: 20 * time.Second, sample: duration / 60,
	}
}

func soakShort(duration time.Duration) soakLoad {
	return soakLoad{
		duration: duration, stayers: 6, churners: 8, channels: 3, stream: 10,
		every: 5 * time.Millisecond, reload: time.Second, sample: 500 * time.Millisecond,
	}
}

// A soakResult is the result.
type soakResult struct {
	visits     int64    // of churners
	unanswered int64    // of them, found no answer while the configuration changed
	published  int64    // messages that were acknowledged
	delivered  int64    // to those who stayed
	reloads    int      // of the configuration
	faults     []string // the first messages that were lost, doubled, out of order
	faultCount int
	lost       int // of those who stayed, closed
	samples    []soakSample
	left       census
}

// A soakSample is the server as it was at one moment.
type soakSample struct {
	heap, resident int64 // bytes, after a collection
	goroutines     int
}

func runSoak(ctx context.Context, r *report, o options) error {
	load := soakFull(orDefault(o.duration, soakDuration))
	if o.short {
		load = soakShort(orDefault(o.duration, 5*time.Second))
	}
	load.churners = orDefault(o.agents, load.churners)
	r.note("%v: %d agents stay, %d at a time come, publish %d numbered messages on %d channels and leave, in order or not,",
		load.duration, load.stayers, load.churners, load.stream, load.channels)
	r.note("on the bare and the SockJS endpoint, with and without TLS; a reload every %v", load.reload)
	res, err := measureSoak(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	r.info("visits", float64(res.visits), "agents that came and left")
	r.atMost(float64(res.reloads*load.churners), "visits", float64(res.unanswered), "not answered, because the configuration changed under them")
	r.info("messages", float64(res.published), "published and acknowledged")
	r.info("deliveries", float64(res.delivered), "to those who stayed")
	r.info("reloads", float64(res.reloads), "of the configuration")
	for _, fault := range res.faults {
		r.note("%s", fault)
	}
	r.exactly(0, "messages", float64(res.faultCount), "lost, doubled or out of order")
	r.exactly(0, "agents", float64(res.lost), "of those who stayed, closed")
	if thirds := len(res.samples) / 3; thirds > 0 {
		middle, last := res.samples[thirds:2*thirds], res.samples[2*thirds:]
		heap := func(s soakSample) float64 { return float64(s.heap) / (1 << 20) }
		resident := func(s soakSample) float64 { return float64(s.resident) / (1 << 20) }
		routines := func(s soakSample) float64 { return float64(s.goroutines) }
		r.info("MiB", medianOf(last, heap), "live heap, last third")
		r.info("MiB", medianOf(last, resident), "resident memory, last third")
		if o.short {
			r.note("the time is too short to tell whether memory is flat")
		} else {
			r.atMost(mostSoakGrowth, "MiB", medianOf(last, heap)-medianOf(middle, heap), "live heap, last third over the one before")
			r.atMost(mostSoakGrowth, "MiB", medianOf(last, resident)-medianOf(middle, resident), "resident memory, last third over the one before")
			r.atMost(float64(load.churners), "goroutines", medianOf(last, routines)-medianOf(middle, routines), "goroutines, last third over the one before")
		}
	}
	r.atMost(fewGoroutines, "goroutines", float64(res.left.goroutines), "left behind")
	r.atMost(fewFiles, "files", float64(res.left.files), "left behind")
	return nil
}

func medianOf(samples []soakSample, value func(soakSample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return median(values)
}

// A soak has the state that its goroutines share.
type soak struct {
	load   soakLoad
	server *server
	ledger *ledger

	visits, streams, unanswered atomic.Int64
}

func measureSoak(ctx context.Context, caddy string, load soakLoad) (res soakResult, err error) {
	if err := raiseFiles(load.stayers + 4*load.churners + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	so := &soak{load: load, server: s, ledger: newLedger(load.stayers)}
	if err := so.warm(ctx); err != nil {
		return res, err
	}
	before, err := quiet(ctx, s)
	if err != nil {
		return res, err
	}
	stayers, err := so.stay(ctx)
	if err != nil {
		return res, err
	}
	defer stayers.vanish()
	if err := so.churn(ctx, &res); err != nil {
		return res, errors.Join(err, s.alive())
	}
	if err := so.awaitAll(ctx); err != nil {
		return res, err
	}
	res.visits, res.unanswered = so.visits.Load(), so.unanswered.Load()
	res.lost, _ = stayers.lost()
	so.ledger.report(&res)
	if err := stayers.depart(ctx); err != nil {
		return res, fmt.Errorf("leaving: %w", err)
	}
	res.left, err = s.emptied(ctx, before)
	return res, err
}

// warm connects each kind of agent once, and reloads the configuration.
func (so *soak) warm(ctx context.Context) error {
	for _, t := range []target{so.server.plain, so.server.secure} {
		for _, at := range []endpoint{bare, sockjs} {
			if err := comeAndGo(ctx, 1, t, at); err != nil {
				return err
			}
		}
	}
	return so.server.reload(ctx, "11s")
}

// stay connects the agents that check everything. They subscribe to each channel by its name,
// by a pattern, or by both, in turn. Each must get every message once.
func (so *soak) stay(ctx context.Context) (crowd, error) {
	all := make(crowd, so.load.stayers)
	err := each(len(all), func(i int) (err error) {
		at := []endpoint{bare, sockjs}[i%2]
		var subscribe []string
		if i%3 != 0 {
			subscribe = append(subscribe, "soak/*")
		}
		if i%3 != 1 {
			for c := range so.load.channels {
				subscribe = append(subscribe, soakChannel(c))
			}
		}
		all[i], err = come(ctx, so.server.plain, at, agentOptions{
			socketOptions: socketOptions{readBuffer: 4 << 10},
			subscribe:     subscribe,
			onMessage:     func(payload []byte) { so.ledger.received(i, at, payload) },
		})
		return err
	})
	if err != nil {
		all.vanish()
		return nil, err
	}
	return all, nil
}

func soakChannel(c int) string { return "soak/" + strconv.Itoa(c) }

// churn connects and disconnects agents until the time is up, and looks at the server.
func (so *soak) churn(ctx context.Context, res *soakResult) error {
	within, cancel := context.WithTimeout(ctx, so.load.duration)
	defer cancel()
	var wg sync.WaitGroup
	failures := make([]error, so.load.churners+2)
	for i := range so.load.churners {
		wg.Go(func() {
			for within.Err() == nil && failures[i] == nil {
				if failures[i] = so.visit(ctx); failures[i] != nil {
					cancel()
				}
			}
		})
	}
	wg.Go(func() {
		failures[so.load.churners] = so.reloads(within, &res.reloads)
	})
	wg.Go(func() {
		failures[so.load.churners+1] = so.sample(within, &res.samples)
	})
	wg.Wait()
	return errors.Join(append(failures, ctx.Err())...)
}

// visit is the visit of one agent.
func (so *soak) visit(ctx context.Context) error {
	r := rand.New(rand.NewPCG(uint64(so.visits.Add(1)), 1)) //nolint:gosec // G404: any number will do
	t := so.server.plain
	if r.IntN(4) == 0 {
		t = so.server.secure
	}
	at := []endpoint{bare, sockjs}[r.IntN(2)]
	if r.IntN(10) == 0 {
		return so.peek(ctx, t, at)
	}
	a, err := come(ctx, t, at, agentOptions{subscribe: []string{soakChannel(r.IntN(so.load.channels))}})
	if err != nil {
		return so.tolerated(err)
	}
	defer a.vanish()
	channel := r.IntN(so.load.channels)
	stream := so.streams.Add(1)
	for n := range so.load.stream {
		data := fmt.Appendf(nil, `{"stream":%d,"n":%d}`, stream, n+1)
		if err := a.publish(soakChannel(channel), data); err != nil {
			return errors.Join(err, a.ended())
		}
		if err := pause(ctx, time.Duration(r.Int64N(int64(2*so.load.every)))); err != nil {
			return err
		}
	}
	if r.IntN(4) == 0 {
		// It leaves without waiting for answers. The messages that arrived must have no gap.
		return nil
	}
	if err := so.acknowledged(ctx, a); err != nil {
		return err
	}
	so.ledger.promised(stream, so.load.stream)
	if r.IntN(2) == 0 {
		return a.depart(ctx)
	}
	return nil
}

// peek opens a connection and closes it before the handshake.
func (so *soak) peek(ctx context.Context, t target, at endpoint) error {
	ws, err := dial(ctx, t, at.path, socketOptions{})
	if err != nil {
		return so.tolerated(err)
	}
	ws.Cut()
	return nil
}

// tolerated returns nil for an opening without an answer, and counts it. A reload cuts
// some: Caddy closes the old listener with the connections that the kernel has queued
// there, and net/http closes a connection whose first request comes while its server shuts
// down. If the old listener closes before the kernel has told the client that it is
// connected, connecting itself fails.
func (so *soak) tolerated(err error) error {
	if errors.Is(err, wireclient.ErrUnanswered) || errors.Is(err, syscall.ECONNRESET) {
		so.unanswered.Add(1)
		return nil
	}
	return err
}

// acknowledged waits until all that a visitor published is.
func (so *soak) acknowledged(ctx context.Context, a *agent) error {
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return until(within, often, "waiting for a publisher's answers", func() (bool, error) {
		select {
		case <-a.done:
			return false, fmt.Errorf("a publisher was closed: %w", errors.Join(a.failure, closingError(a.closing)))
		default:
		}
		if n := a.refused.Load(); n > 0 {
			return false, fmt.Errorf("%d publishes were refused", n)
		}
		return a.acknowledged.Load() == int64(so.load.stream), nil
	})
}

// reloads loads the configuration again and again, with something changed.
func (so *soak) reloads(ctx context.Context, count *int) error {
	tick := time.NewTicker(so.load.reload)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		beat := []string{heartbeat, "11s"}[*count%2]
		// A reload under way goes on even if ctx ends.
		if err := so.server.reload(context.WithoutCancel(ctx), beat); err != nil {
			return fmt.Errorf("reloading: %w", err)
		}
		*count++
	}
}

// sample looks at the server's memory from time to time.
func (so *soak) sample(ctx context.Context, samples *[]soakSample) error {
	tick := time.NewTicker(so.load.sample)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		one, err := so.look(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the time was up in the middle
		}
		if err != nil {
			return fmt.Errorf("looking at the server: %w", err)
		}
		*samples = append(*samples, one)
	}
}

func (so *soak) look(ctx context.Context) (one soakSample, err error) {
	if err := so.server.collect(ctx); err != nil {
		return one, err
	}
	m, err := so.server.memory(ctx)
	if err != nil {
		return one, err
	}
	one.heap = m.HeapAlloc
	if one.resident, err = residentMemory(so.server.pid()); err != nil {
		return one, err
	}
	one.goroutines, err = so.server.goroutines(ctx)
	return one, err
}

// awaitAll waits until the agents that stayed have all messages, or gives the rest up for
// lost.
func (so *soak) awaitAll(ctx context.Context) error {
	return untilWithin(ctx, 20*time.Second, often, "waiting for the last messages", func() (bool, error) {
		return so.ledger.complete(), so.server.alive()
	})
}

// A ledger has the messages that the agents that stay have got, and those that they must get.
type ledger struct {
	mu       sync.Mutex // guards the following
	got      []map[int64]int
	promises map[int64]int // by stream, how many were acknowledged
	total    int64
	faults   []string
	count    int
}

func newLedger(stayers int) *ledger {
	l := &ledger{got: make([]map[int64]int, stayers), promises: make(map[int64]int)}
	for i := range l.got {
		l.got[i] = make(map[int64]int)
	}
	return l
}

// received notes what an agent that stays got. The messages of a stream must come
// one after the other from the first on.
func (l *ledger) received(stayer int, at endpoint, payload []byte) {
	objects, err := at.objects(payload)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.faultLocked("agent %d got %q: %v", stayer, payload, err)
		return
	}
	for _, object := range objects {
		var message struct {
			Data struct {
				Stream int64
				N      int
			}
		}
		if err := json.Unmarshal(object, &message); err != nil {
			l.faultLocked("agent %d got %q: %v", stayer, object, err)
			continue
		}
		stream, n := message.Data.Stream, message.Data.N
		if want := l.got[stayer][stream] + 1; n != want {
			l.faultLocked("agent %d got message %d of stream %d, and %d was next", stayer, n, stream, want)
		}
		l.got[stayer][stream] = n
		l.total++
	}
}

func (l *ledger) faultLocked(format string, args ...any) {
	const shown = 10
	if l.count++; l.count <= shown {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// promised notes that all messages of a stream were acknowledged.
func (l *ledger) promised(stream int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.promises[stream] = n
}

// complete reports whether all agents have all acknowledged messages, and the same number of
// the others.
func (l *ledger) complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, got := range l.got {
		for stream, n := range l.promises {
			if got[stream] < n {
				return false
			}
		}
		if !maps.Equal(got, l.got[0]) {
			return false
		}
	}
	return true
}

// report adds what is missing to the faults. A stream whose publisher did not wait for
// answers may end anywhere, but for all agents at the same message.
func (l *ledger) report(res *soakResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for stayer, got := range l.got {
		for stream, n := range l.promises {
			if got[stream] != n {
				l.faultLocked("agent %d got %d of %d messages of stream %d", stayer, got[stream], n, stream)
			}
			res.published += int64(n)
		}
		for stream, n := range got {
			if other := l.got[0][stream]; n != other {
				l.faultLocked("agent %d got %d messages of stream %d, agent 0 got %d", stayer, n, stream, other)
			}
		}
	}
	res.published /= int64(max(1, len(l.got)))
	res.delivered = l.total
	res.faults, res.faultCount = slices.Clone(l.faults), l.count
}
