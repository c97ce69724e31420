// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// A reloadLoad is a crowd on all transports to which a stream is published while
// the configuration is edited.
type reloadLoad struct {
	agents  int
	reloads int
	pause   time.Duration // between two reloads
	every   time.Duration // between two messages
}

var (
	reloadFull  = reloadLoad{agents: 2000, reloads: 50, pause: time.Second, every: time.Second}
	reloadShort = reloadLoad{agents: 60, reloads: 10, pause: 200 * time.Millisecond, every: 200 * time.Millisecond}
)

// mostReloadGrowth and mostReloadGoroutines are how much more the server may hold
// in the last third of the reloads than in the third before.
const (
	mostReloadGrowth     = 8.0 // MiB
	mostReloadGoroutines = 100
	// fewReloadFiles are beside fewFiles the logs of configurations that are gone,
	// which Caddy closes a little later.
	fewReloadFiles = fewFiles + 4
)

// A reloadResult is the result.
type reloadResult struct {
	transports int
	reloads    int
	slowest    time.Duration // of the reloads
	published  int64
	delivered  int64
	faults     []string // the first messages that were lost, doubled, out of order
	faultCount int
	lost       map[string]int // agents that were dropped, by reason
	asked      int64          // of the backend
	unserved   int            // connections of HTTP/3 that an old server took and did not serve
	requests   int64          // over fallbacks
	fresh      [4]int64       // requests over new connections that no server read, by the version of HTTP
	kept       [4]int64       // requests over others that no server read, likewise
	samples    []soakSample
	left       census
}

func runReload(ctx context.Context, r *report, o options) error {
	load := reloadFull
	if o.short {
		load = reloadShort
	}
	load.agents = orDefault(o.agents, load.agents)
	r.note("%d agents on all transports, a numbered message every %v, %d reloads with edits at random", load.agents, load.every, load.reloads)
	res, err := measureReload(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	r.info("", float64(res.transports), "transports")
	r.info("messages", float64(res.published), "published")
	r.info("deliveries", float64(res.delivered), "in all")
	r.info("questions", float64(res.asked), "to a backend, about what agents had")
	r.info("connections", float64(res.unserved), "of HTTP/3, taken by a server that was going, which did not serve them")
	r.info("ms", float64(res.slowest.Milliseconds()), "the slowest reload")
	for _, fault := range res.faults {
		r.note("%s", fault)
	}
	dropped := 0
	for why, n := range res.lost {
		r.note("%d dropped: %s", n, why)
		dropped += n
	}
	r.exactly(float64(load.reloads), "reloads", float64(res.reloads), "done")
	r.exactly(0, "agents", float64(dropped), "dropped")
	res.reportUnread(r)
	r.exactly(0, "messages", float64(res.faultCount), "lost, doubled or out of order")
	if thirds := len(res.samples) / 3; thirds > 0 && !o.short {
		middle, last := res.samples[thirds:2*thirds], res.samples[2*thirds:]
		heap := func(s soakSample) float64 { return float64(s.heap) / (1 << 20) }
		routines := func(s soakSample) float64 { return float64(s.goroutines) }
		r.info("MiB", leastOf(last, heap), "live heap, last third")
		r.info("goroutines", medianOf(last, routines), "last third")
		r.atMost(mostReloadGrowth, "MiB", leastOf(last, heap)-leastOf(middle, heap), "live heap, last third over the one before")
		r.atMost(mostReloadGoroutines, "goroutines", medianOf(last, routines)-medianOf(middle, routines), "goroutines, last third over the one before")
	}
	r.atMost(fewGoroutines, "goroutines", float64(res.left.goroutines), "left behind")
	r.atMost(fewReloadFiles, "files", float64(res.left.files), "left behind")
	return nil
}

func (res *reloadResult) countUnread(u *unread) {
	res.requests = u.requests.Load()
	for version := range res.kept {
		res.fresh[version], res.kept[version] = u.fresh[version].Load(), u.kept[version].Load()
	}
}

// reportUnread says which requests a reload has left unread. Agents have made them again,
// and so missed nothing; a client that does not do so loses its session. Sessions must
// continue, so lost agents have a limit. Unread requests have none, because no server can
// read every request while it changes its configuration:
func (res *reloadResult) reportUnread(r *report) {
	r.info("requests", float64(res.requests), "made by agents over fallbacks")
	// It may close a kept connection of HTTP/1.1 in the moment in which the next request
	// is on its way (RFC 9112, section 9.3.1). Browsers do not make every POST again by
	// themselves.
	r.info("requests", float64(res.kept[1]), "not read: over a kept connection of HTTP/1.1, which was closed in that moment")
	// Caddy opens a new listener for each configuration (SO_REUSEPORT). The system
	// resets the connections that wait for the old one to accept them.
	r.info("requests", float64(res.fresh[1]), "not read: over a new connection of HTTP/1.1, which was reset with the old listener")
	// Of HTTP/2 and 3 the server says which requests it does not read, and browsers make
	// them again by themselves (RFC 9113, section 8.7; RFC 9114, section 5.2).
	r.info("requests", float64(res.fresh[2]+res.kept[2]), "not read: over HTTP/2, as GOAWAY said")
	r.info("requests", float64(res.fresh[3]+res.kept[3]), "not read: over HTTP/3, rejected")
}

// leastOf returns the least value, because messages in flight and pools only add to the
// others.
func leastOf(samples []soakSample, value func(soakSample) float64) float64 {
	least := math.MaxFloat64
	for _, s := range samples {
		least = min(least, value(s))
	}
	return least
}

// A visitor is an agent over any transport.
type visitor interface {
	lost() error // why it has ended by itself; nil if it has not
	vanish()
}

// lost returns why the connection has ended, if it has.
func (a *agent) lost() error {
	select {
	case <-a.done:
		return errors.Join(a.failure, closingError(a.closing))
	default:
		return nil
	}
}

// fallbackRoutes are all fallbacks, over every version of HTTP.
var fallbackRoutes = func() (all []route) {
	for _, transport := range []string{"xhr", "xhr_streaming", "eventsource"} {
		for version := 1; version <= 3; version++ {
			all = append(all, route{transport, version})
		}
	}
	return all
}()

// reloadChannel is the channel of all agents.
const reloadChannel = "reload"

// A reloader has the state that the goroutines of the measurement share.
type reloader struct {
	load    reloadLoad
	server  *server
	clients httpClients
	book    *book
	asked   atomic.Int64
}

func measureReload(ctx context.Context, caddy string, load reloadLoad) (res reloadResult, err error) {
	if err := raiseFiles(4*load.agents + 400); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	if err := s.makeCertificates(); err != nil {
		return res, err
	}
	re := &reloader{load: load, server: s, book: newBook(load.agents)}
	defer re.clients.close()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		re.asked.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer backend.Close()
	asked := backend.Listener.Addr().String()

	random := rand.New(rand.NewPCG(uint64(load.agents), uint64(load.reloads))) //nolint:gosec // G404: any edits will do
	for range 3 {                                                              // the first ones make what later ones share
		if err := s.load(ctx, s.edited(random, asked)); err != nil {
			return res, err
		}
	}
	if err := s.load(ctx, s.caddyfile(heartbeat)); err != nil {
		return res, err
	}
	before, err := quiet(ctx, s)
	if err != nil {
		return res, err
	}
	all, err := re.gather(ctx)
	if err != nil {
		return res, err
	}
	defer func() {
		for _, v := range all {
			v.vanish()
		}
	}()
	res.transports = min(len(fallbackRoutes)+3, load.agents)
	if err := re.stir(ctx, random, asked, &res); err != nil {
		return res, errors.Join(err, s.alive())
	}
	if err := re.awaitLast(ctx); err != nil {
		return res, err
	}
	res.lost = make(map[string]int)
	for _, v := range all {
		if why := v.lost(); why != nil {
			res.lost[why.Error()]++
		}
	}
	re.book.report(&res)
	res.unserved = re.clients.unserved()
	res.asked = re.asked.Load()
	res.countUnread(&re.clients.unread)
	_ = each(len(all), func(i int) error {
		all[i].vanish()
		return nil
	})
	all = nil
	re.clients.close()
	backend.Close() // also closes the server's idle connections to it
	// Old servers end with their last connections.
	if err := s.load(ctx, s.caddyfile(heartbeat)); err != nil {
		return res, err
	}
	for range 2 { // the connections of quicIdle go, too
		if res.left, err = s.emptied(ctx, before); err != nil || res.left.goroutines <= fewGoroutines {
			break
		}
	}
	return res, err
}

// gather connects the agents, in turn over each transport.
func (re *reloader) gather(ctx context.Context) ([]visitor, error) {
	all := make([]visitor, re.load.agents)
	err := each(len(all), func(i int) (err error) {
		kinds := len(fallbackRoutes) + 3
		received := func(object []byte) { re.book.received(i, object) }
		switch kind := i % kinds; kind {
		case 0, 1, 2:
			t, at := re.server.plain, []endpoint{bare, sockjs, bare}[kind]
			if kind == 2 {
				t = re.server.secure
			}
			all[i], err = come(ctx, t, at, agentOptions{subscribe: []string{reloadChannel}, onMessage: func(payload []byte) {
				objects, err := at.objects(payload)
				if err != nil {
					re.book.fault("agent %d got %q: %v", i, payload, err)
				}
				for _, object := range objects {
					received(object)
				}
			}})
		default:
			by := fallbackRoutes[kind-3]
			origin := re.server.secure.origin()
			if by.version == 1 && i%2 == 0 {
				origin = re.server.plain.origin()
			}
			all[i], err = comeByFallback(ctx, origin, by, &re.clients, reloadChannel, received)
		}
		return err
	})
	if err == nil {
		return all, nil
	}
	for _, v := range all {
		if a, ok := v.(*agent); ok && a != nil {
			a.vanish()
		}
		if a, ok := v.(*fallbackAgent); ok && a != nil {
			a.vanish()
		}
	}
	return nil, err
}

// stir reloads while a stream of messages is published.
func (re *reloader) stir(ctx context.Context, random *rand.Rand, asked string, res *reloadResult) error {
	publisher, err := come(ctx, re.server.plain, bare, agentOptions{})
	if err != nil {
		return err
	}
	defer publisher.vanish()
	within, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var failure error
	wg.Go(func() { failure = re.publish(within, publisher) })
	err = re.reload(ctx, random, asked, res)
	cancel()
	wg.Wait()
	return errors.Join(err, failure)
}

func (re *reloader) reload(ctx context.Context, random *rand.Rand, asked string, res *reloadResult) error {
	for range re.load.reloads {
		if err := pause(ctx, re.load.pause/2+time.Duration(random.Int64N(int64(re.load.pause)))); err != nil {
			return err
		}
		config := re.server.edited(random, asked)
		began := time.Now()
		if err := re.server.load(ctx, config); err != nil {
			return fmt.Errorf("reloading: %w\n%s", err, config)
		}
		res.slowest = max(res.slowest, time.Since(began))
		res.reloads++
		for range 2 { // what pools hold goes with the second
			if err := re.server.collect(ctx); err != nil {
				return err
			}
		}
		m, err := re.server.memory(ctx)
		if err != nil {
			return err
		}
		one := soakSample{heap: m.HeapAlloc}
		if one.goroutines, err = re.server.goroutines(ctx); err != nil {
			return err
		}
		res.samples = append(res.samples, one)
	}
	return pause(ctx, re.load.pause)
}

// publish publishes 1, 2, 3, … until ctx ends, and waits for the answers.
func (re *reloader) publish(ctx context.Context, a *agent) error {
	tick := time.NewTicker(re.load.every)
	defer tick.Stop()
	n := int64(0)
	for ctx.Err() == nil {
		n++
		if err := a.publish(reloadChannel, fmt.Appendf(nil, `{"n":%d}`, n)); err != nil {
			return errors.Join(err, a.ended())
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	re.book.last.Store(n)
	return untilWithin(context.WithoutCancel(ctx), patience, often, "waiting for a publisher's answers", func() (bool, error) {
		if why := a.lost(); why != nil {
			return false, fmt.Errorf("the publisher was closed: %w", why)
		}
		if refused := a.refused.Load(); refused > 0 {
			return false, fmt.Errorf("%d publishes were refused", refused)
		}
		return a.acknowledged.Load() == n, nil
	})
}

// awaitLast waits until all agents have the last message, or gives it up for lost.
func (re *reloader) awaitLast(ctx context.Context) error {
	return untilWithin(ctx, patience, often, "waiting for the last messages", func() (bool, error) {
		return re.book.isComplete(), re.server.alive()
	})
}

// load gives the server another configuration.
func (s *server) load(ctx context.Context, caddyfile []byte) error {
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, "http://admin/load", bytes.NewReader(caddyfile))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // load it though it is the same
	_, err = s.do(req)
	return err
}

// makeCertificates writes a second certificate beside the server's.
func (s *server) makeCertificates() error {
	other := filepath.Join(s.dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		return err
	}
	if _, err := makeCertificate(other); err != nil {
		return err
	}
	return errors.Join(
		os.Rename(filepath.Join(other, "cert.pem"), filepath.Join(s.dir, "other.pem")),
		os.Rename(filepath.Join(other, "key.pem"), filepath.Join(s.dir, "other-key.pem")),
		os.Link(filepath.Join(s.dir, "key.pem"), filepath.Join(s.dir, "cert-key.pem")),
	)
}

// A book has the last message of the stream that each agent got. Messages must come one
// after the other, from the first on.
type book struct {
	last atomic.Int64 // that was published
	got  []atomic.Int64

	mu     sync.Mutex // guards the following
	faults []string
	count  int
}

func newBook(agents int) *book { return &book{got: make([]atomic.Int64, agents)} }

// received notes what agent i got. It is called by one goroutine for each.
func (b *book) received(i int, object []byte) {
	var message struct{ Data struct{ N int64 } }
	if err := json.Unmarshal(object, &message); err != nil {
		b.fault("agent %d got %q: %v", i, object, err)
		return
	}
	if want := b.got[i].Load() + 1; message.Data.N != want {
		b.fault("agent %d got message %d, and %d was next", i, message.Data.N, want)
	}
	b.got[i].Store(message.Data.N)
}

func (b *book) fault(format string, args ...any) {
	const shown = 10
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count++; b.count <= shown {
		b.faults = append(b.faults, fmt.Sprintf(format, args...))
	}
}

func (b *book) isComplete() bool {
	for i := range b.got {
		if b.got[i].Load() < b.last.Load() {
			return false
		}
	}
	return true
}

// report adds what is missing at the end to the faults.
func (b *book) report(res *reloadResult) {
	res.published = b.last.Load()
	for i := range b.got {
		got := b.got[i].Load()
		res.delivered += got
		if got != res.published {
			b.fault("agent %d got message %d last, of %d", i, got, res.published)
		}
	}
	res.faults, res.faultCount = b.faults, b.count
}

// Interface guards
var (
	_ visitor = (*agent)(nil)
	_ visitor = (*fallbackAgent)(nil)
)
