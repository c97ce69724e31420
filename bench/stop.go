// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

const (
	stopAgents  = 2000
	stopStalled = 20
	stopChannel = "news"
	// stopDrain is the server's drain: the default.
	stopDrain = 5 * time.Second
	// mostLinger is how long the server may take to stop after its agents are gone:
	// net/http waits that long for connections without a request.
	mostLinger = 5 * time.Second
	// stopSlots divides the window in which agents should come back. Each slot has its
	// share of them, between leastShare and mostShare.
	stopSlots             = 10
	leastShare, mostShare = 0.05, 0.15
	// The window that is documented (R34) begins then, and is as long as it takes for
	// stopRate agents a second, but a second at least and a minute at most.
	stopFrom = time.Second
	stopRate = 500
)

// stopTo is the end of the window for that many agents.
func stopTo(agents float64) time.Duration {
	length := time.Duration(agents / stopRate * float64(time.Second))
	return stopFrom + min(max(length, time.Second), time.Minute)
}

// A stopLoad is a crowd that is connected when the server stops.
type stopLoad struct {
	agents  int
	stalled int  // further agents that read nothing: the drain must end without them
	byAdmin bool // stopped at the admin endpoint, in place of SIGTERM
}

// A guest is an agent that waits until the server sends it away.
type guest interface {
	// ended is closed when the session has ended.
	ended() <-chan struct{}
	// notice returns what /meta/close said, and the code that the session was closed
	// with by its transport; nil and 0 where there was none.
	notice() (said []byte, code int)
	vanish()
}

// A stopKind is one kind of connection.
type stopKind struct {
	name string
	asks bool // a client that polls hears of the end only with its next request, and the server may be gone by then
	come func(ctx context.Context, c *stopCrowd, onMessage func([]byte)) (guest, error)
}

// stopKinds are all kinds, each with the same number of agents.
var stopKinds = []stopKind{
	{"WebSocket, bare", false, webSocketGuest(bare, false)},
	{"WebSocket, SockJS", false, webSocketGuest(sockjs, false)},
	{"WebSocket, bare, TLS", false, webSocketGuest(bare, true)},
	{"WebSocket, SockJS, TLS", false, webSocketGuest(sockjs, true)},
	{"xhr_streaming, HTTP/1.1", false, fallbackGuest(route{"xhr_streaming", 1})},
	{"xhr_streaming, HTTP/2", false, fallbackGuest(route{"xhr_streaming", 2})},
	{"eventsource, HTTP/1.1", false, fallbackGuest(route{"eventsource", 1})},
	{"eventsource, HTTP/2", false, fallbackGuest(route{"eventsource", 2})},
	{"xhr, HTTP/1.1", true, fallbackGuest(route{"xhr", 1})},
	{"xhr, HTTP/2", true, fallbackGuest(route{"xhr", 2})},
}

// fallbackGuest connects agents over a fallback: over HTTP/1.1, or over TLS and HTTP/2.
func fallbackGuest(by route) func(context.Context, *stopCrowd, func([]byte)) (guest, error) {
	return func(ctx context.Context, c *stopCrowd, onMessage func([]byte)) (guest, error) {
		t := c.server.plain
		if by.version == 2 {
			t = c.server.secure
		}
		a, err := comeByFallback(ctx, t.origin(), by, &c.clients, stopChannel, onMessage)
		if err != nil {
			return nil, err // not an interface with a nil pointer in it
		}
		return a, nil
	}
}

func webSocketGuest(at endpoint, secure bool) func(context.Context, *stopCrowd, func([]byte)) (guest, error) {
	return func(ctx context.Context, c *stopCrowd, onMessage func([]byte)) (guest, error) {
		t := c.server.plain
		if secure {
			t = c.server.secure
		}
		a, err := come(ctx, t, at, agentOptions{subscribe: []string{stopChannel}, onMessage: onMessage})
		if err != nil {
			return nil, err
		}
		return webSocket{a}, nil
	}
}

// webSocket is a guest.
type webSocket struct{ *agent }

func (w webSocket) ended() <-chan struct{} { return w.done }

func (w webSocket) notice() (said []byte, code int) {
	if closed, ok := errors.AsType[*wireclient.CloseError](w.failure); ok {
		code = closed.Code
	}
	objects, err := w.at.objects([]byte(w.closing))
	if err != nil || len(objects) == 0 || w.closing == "" {
		return nil, code
	}
	return objects[len(objects)-1], code
}

// A stopResult is the result.
type stopResult struct {
	gone     time.Duration // from the signal until all but those that take nothing had gone
	took     time.Duration // to the end of the process
	status   int           // of the process
	messages int64         // of what was published right before, not got
	counted  [2]float64    // agents and deliveries, as the metrics had them before
	refused  string        // the answer to an agent that came meanwhile
	kinds    []stopCount
	slots    [stopSlots]int
	outside  int // told to come back outside of the window
}

// A stopCount is the agents of a kind.
type stopCount struct {
	name    string
	asks    bool
	agents  int
	noticed int // were told in /meta/close, with 4503
	closed  int // were closed by their transport with 4503
}

func runStop(ctx context.Context, r *report, o options) error {
	load := stopLoad{agents: orDefault(o.agents, stopAgents), stalled: stopStalled}
	if o.short {
		load = stopLoad{agents: 200, stalled: 2}
	}
	for _, load.byAdmin = range []bool{false, true} {
		how := "SIGTERM"
		if load.byAdmin {
			how = "POST /stop"
		}
		r.note("%s with %d agents, and %d that take nothing; drain %v", how, load.agents, load.stalled, stopDrain)
		res, err := measureStop(ctx, o.caddy, load)
		if err != nil {
			return err
		}
		r.atMost(stopDrain.Seconds(), "s", res.gone.Seconds(), "%s: until all who read had gone", how)
		r.atMost((stopDrain + mostLinger).Seconds(), "s", res.took.Seconds(), "%s: to the end of the process", how)
		r.exactly(0, "code", float64(res.status), how+": its exit")
		r.exactly(0, "messages", float64(res.messages), how+": published right before and not delivered")
		r.exactly(float64(load.agents+load.stalled+1), "agents", res.counted[0], how+": as the metrics had them before")
		for _, k := range res.kinds {
			r.exactly(float64(k.agents), "agents", float64(k.noticed), fmt.Sprintf("%s: %s, told to come back", how, k.name))
			if k.asks {
				r.info("agents", float64(k.closed), "%s: %s, asked again and were answered 4503", how, k.name)
				continue
			}
			r.exactly(float64(k.agents), "agents", float64(k.closed), fmt.Sprintf("%s: %s, closed with 4503", how, k.name))
		}
		r.exactly(0, "agents", float64(res.outside), how+": told to come back outside of the window")
		r.atMost(mostShare*100, "%", share(slices.Max(res.slots[:]), res.slots[:]), "%s: come back in the fullest tenth of the window", how)
		r.atLeast(leastShare*100, "%", share(slices.Min(res.slots[:]), res.slots[:]), "%s: come back in the emptiest tenth of the window", how)
		r.note("answered to who came meanwhile: %s", res.refused)
	}
	return nil
}

// share returns n in percent of all.
func share(n int, all []int) float64 {
	sum := 0
	for _, m := range all {
		sum += m
	}
	return 100 * float64(n) / float64(max(sum, 1))
}

// measureStop connects a crowd, and stops the server.
func measureStop(ctx context.Context, caddy string, load stopLoad) (res stopResult, err error) {
	if err := raiseFiles(load.agents + load.stalled + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	c := &stopCrowd{server: s, all: make([]guest, load.agents)}
	defer c.vanish()
	if err := c.gather(ctx, load.stalled); err != nil {
		return res, err
	}
	publisher, err := come(ctx, s.plain, bare, agentOptions{})
	if err != nil {
		return res, err
	}
	defer publisher.vanish()
	// The metrics must count all agents and their messages.
	if err := c.publish(ctx, publisher, 1); err != nil {
		return res, err
	}
	if err := untilWithin(ctx, startTimeout, often, "waiting for the first message", func() (bool, error) {
		return c.got.Load() == int64(load.agents), s.alive()
	}); err != nil {
		return res, err
	}
	if res.counted, err = c.counted(ctx); err != nil {
		return res, err
	}
	const last = 3
	before := c.got.Load()
	if err := c.publish(ctx, publisher, last); err != nil {
		return res, err
	}
	var spare net.Conn // a connection without a request delays the end by seconds
	if load.stalled > 0 {
		if spare, err = net.DialTimeout("tcp", s.plain.addr, dialTimeout); err != nil {
			return res, err
		}
		defer func() { _ = spare.Close() }()
	}
	begun := time.Now()
	if err := s.end(ctx, load.byAdmin); err != nil {
		return res, err
	}
	gone := make(chan time.Duration, 1) // buffered: it may not be asked for
	go func() {
		c.await(4 * stopDrain)
		gone <- time.Since(begun)
	}()
	if spare != nil {
		select {
		case <-c.all[0].ended(): // so it has begun
		case <-time.After(stopDrain):
		}
		res.refused = knock(spare, s.plain)
	}
	select {
	case <-s.exited:
	case <-time.After(4 * stopDrain):
		return res, fmt.Errorf("the server has not ended within %v: %w", time.Since(begun), s.complaint())
	}
	res.took, res.status = time.Since(begun), s.cmd.ProcessState.ExitCode()
	res.gone = <-gone
	res.messages = int64(load.agents*last) - (c.got.Load() - before)
	c.count(&res)
	return res, nil
}

// end tells the server to stop, and does not wait.
func (s *server) end(ctx context.Context, byAdmin bool) error {
	if !byAdmin {
		return s.cmd.Process.Signal(syscall.SIGTERM)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin/stop", http.NoBody)
	if err != nil {
		return err
	}
	go func() {
		if resp, err := s.admin.Do(req); err == nil { // it may end before it answers
			_ = resp.Body.Close()
		}
	}()
	return nil
}

// A stopCrowd has the agents that are connected when the server stops.
type stopCrowd struct {
	server  *server
	clients httpClients // of the fallbacks
	all     []guest     // the kinds take turns
	stalled []*agent
	got     atomic.Int64 // messages, by all
}

func (c *stopCrowd) gather(ctx context.Context, stalled int) error {
	err := each(len(c.all), func(i int) (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		kind := stopKinds[i%len(stopKinds)]
		if c.all[i], err = kind.come(ctx, c, func([]byte) { c.got.Add(1) }); err != nil {
			err = fmt.Errorf("%s: %w", kind.name, err)
		}
		return err
	})
	for range stalled {
		if err != nil {
			return err
		}
		var a *agent
		if a, err = come(ctx, c.server.plain, bare, agentOptions{stalls: true}); err == nil {
			c.stalled = append(c.stalled, a)
		}
	}
	return err
}

func (c *stopCrowd) vanish() {
	for _, v := range c.all {
		if v != nil {
			v.vanish()
		}
	}
	for _, a := range c.stalled {
		a.Cut() // no goroutine reads for it
	}
	c.clients.close()
}

// publish publishes that many messages and waits for the answers.
func (c *stopCrowd) publish(ctx context.Context, publisher *agent, n int) error {
	want := publisher.acknowledged.Load() + int64(n)
	if err := publisher.publish(stopChannel, repeat([]byte(`"one of the last"`), n)...); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return until(within, time.Millisecond, "waiting for an acknowledgement", func() (bool, error) {
		return publisher.acknowledged.Load() == want, c.server.alive()
	})
}

// counted returns the agents and the deliveries that the server's metrics tell, when
// the latter are those of one message.
func (c *stopCrowd) counted(ctx context.Context) (out [2]float64, err error) {
	err = untilWithin(ctx, startTimeout, often, "waiting for the metrics", func() (bool, error) {
		body, err := c.server.get(ctx, "/metrics")
		if err != nil {
			return false, err
		}
		out = [2]float64{sumOf(body, "caddy_pushit_agents"), sumOf(body, "caddy_pushit_messages_delivered_total")}
		return out[1] == float64(len(c.all)), nil
	})
	if err == nil && out[1] != float64(len(c.all)) {
		err = fmt.Errorf("%v deliveries are counted, of %d", out[1], len(c.all))
	}
	return out, err
}

// sumOf adds up the series of a metric.
func sumOf(metrics []byte, name string) (sum float64) {
	for _, m := range regexp.MustCompile(`(?m)^`+name+`\{[^}]*\} (\S+)$`).FindAllSubmatch(metrics, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return math.NaN()
		}
		sum += v
	}
	return sum
}

// await waits until all sessions have ended, at most that long.
func (c *stopCrowd) await(within time.Duration) {
	late := make(chan struct{})
	timer := time.AfterFunc(within, func() { close(late) })
	defer timer.Stop()
	var wg sync.WaitGroup
	for _, v := range c.all {
		wg.Go(func() {
			select {
			case <-v.ended():
			case <-late:
			}
		})
	}
	wg.Wait()
}

// count counts how the agents were sent away.
func (c *stopCrowd) count(res *stopResult) {
	res.kinds = make([]stopCount, len(stopKinds))
	for i, kind := range stopKinds {
		res.kinds[i].name, res.kinds[i].asks = kind.name, kind.asks
	}
	for i, v := range c.all {
		k := &res.kinds[i%len(stopKinds)]
		k.agents++
		select {
		case <-v.ended():
		default:
			continue
		}
		said, code := v.notice()
		if code == 4503 {
			k.closed++
		}
		var notice struct {
			Channel string
			Code    int
			Retry   float64
		}
		if json.Unmarshal(said, &notice) != nil || notice.Channel != "/meta/close" || notice.Code != 4503 {
			continue
		}
		k.noticed++
		at := time.Duration(notice.Retry * float64(time.Millisecond))
		to := stopTo(res.counted[0])
		if at < stopFrom || at > to {
			res.outside++
			continue
		}
		res.slots[min(int((at-stopFrom)*stopSlots/(to-stopFrom)), stopSlots-1)]++
	}
}

// knock asks for a session on a connection, and returns the answer.
func knock(conn net.Conn, t target) string {
	_ = conn.SetDeadline(time.Now().Add(startTimeout))
	_, resp, err := wireclient.Open(conn, upgradeTo(t, bare.path, socketOptions{}))
	if resp == nil {
		return err.Error()
	}
	body, _ := io.ReadAll(resp.Body) // what there is of it
	_ = resp.Body.Close()
	return fmt.Sprintf("HTTP %s, Retry-After: %s, %s", resp.Status, resp.Header.Get("Retry-After"), bytes.TrimSpace(body))
}
