// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/push-it/pushit/internal/wireclient"
)

// fallbackPatience bounds a request of a fallback. It is longer than any test needs.
const fallbackPatience = 2 * patience

// streams are the transports whose responses have more than one frame.
var streams = []string{"xhr_streaming", "eventsource", "htmlfile"}

// client returns an HTTP client that reaches the site with that version of HTTP.
//
//nolint:staticcheck // SA1019: net/http accepts no HTTP/2 connections made by others
func (s site) client(version string) *http.Client {
	insecure := &tls.Config{ServerName: s.host, InsecureSkipVerify: true}
	var by interface {
		http.RoundTripper
		CloseIdleConnections()
	}
	switch version {
	case "h1":
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }
		by = &http.Transport{DialContext: dial, DialTLSContext: dial, DisableCompression: true}
	case "h2":
		by = &http2.Transport{
			DisableCompression: true,
			TLSClientConfig:    insecure,
			DialTLSContext: func(ctx context.Context, network, _ string, config *tls.Config) (net.Conn, error) {
				d := tls.Dialer{Config: config}
				return d.DialContext(ctx, network, s.address())
			},
		}
	case "h3":
		by = &http3.Transport{
			DisableCompression: true,
			TLSClientConfig:    insecure,
			Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
				return quic.DialAddr(ctx, s.address(), tlsConfig, config)
			},
		}
	default:
		s.t.Fatalf("there is no HTTP %s", version)
	}
	s.t.Cleanup(func() {
		by.CloseIdleConnections()
		if c, ok := by.(io.Closer); ok { // HTTP/3's has goroutines
			_ = c.Close() // the test is over, so errors do not matter
		}
	})
	if s.proxied {
		return &http.Client{Transport: proxied{by}}
	}
	return &http.Client{Transport: by}
}

// A fallbackClient is one session over a SockJS fallback. It fails its test if it gets
// something unexpected, or nothing. Use it in one goroutine.
type fallbackClient struct {
	wireclient.Fallback
	t    testing.TB
	kept []object  // received together with others, but not asked for yet
	last time.Time // when the last request to receive began
}

// fallback returns the client of a new session at the endpoint.
func (s site) fallback(by *http.Client, endpoint, transport string) *fallbackClient {
	return newFallbackClient(s.t, by, s.origin()+endpoint, transport)
}

func newFallbackClient(t *testing.T, by *http.Client, endpoint, transport string) *fallbackClient {
	return &fallbackClient{t: t, Fallback: wireclient.Fallback{
		HTTP: by, URL: wireclient.NewSession(endpoint), Transport: transport, Page: "/", Patience: fallbackPatience,
		// A reload resets connections that the old listener has not accepted yet. If the
		// server has read the request anyway, its next answer shows it.
		OnUnread: func(reused bool) {
			t.Logf("%s: a request was not read; its connection had been used: %t", transport, reused)
		},
	}}
}

// ask makes a request and returns the whole answer.
func (c *fallbackClient) ask(method, path, body string) (status int, answer string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), fallbackPatience)
	defer cancel()
	resp, err := c.Do(ctx, method, path, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(text)
}

// life is the context of requests to receive. They end when the server ends, at the
// latest.
func (c *fallbackClient) life() context.Context { return context.WithoutCancel(c.t.Context()) }

// begin begins a request to receive, unless one is under way.
func (c *fallbackClient) begin() {
	if !c.Receiving() {
		c.last = time.Now()
		c.Begin(c.life())
	}
}

// response waits for the response to the request to receive.
func (c *fallbackClient) response() *http.Response {
	c.t.Helper()
	c.begin()
	resp, err := c.Stream().Response()
	if err != nil {
		c.t.Fatalf("%s: %v", c.Transport, err)
	}
	return resp
}

// frame returns the next frame, "o", "h", "a[…]", "c[…]", of the request to receive. It
// begins one if necessary. It returns "" at the end of the response.
func (c *fallbackClient) frame() string {
	c.t.Helper()
	c.begin()
	frame, err := c.Next(c.life())
	if err != nil {
		c.t.Fatal(err)
	}
	return frame
}

// receive returns the next object. It makes as many requests as necessary.
func (c *fallbackClient) receive() object {
	c.t.Helper()
	end := time.Now().Add(fallbackPatience)
	for len(c.kept) == 0 {
		switch f := c.frame(); {
		case strings.HasPrefix(f, "a"):
			c.keep(f)
		case f != "" && f != "o" && f != "h":
			c.t.Fatalf("%s: got %q", c.Transport, f)
		case time.Now().After(end):
			c.t.Fatalf("%s: no message came", c.Transport)
		}
	}
	o := c.kept[0]
	c.kept = c.kept[1:]
	return o
}

// keep stores the objects of a frame for receive.
func (c *fallbackClient) keep(frame string) {
	c.t.Helper()
	texts, err := wireclient.Objects(frame)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, text := range texts {
		var o object
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			c.t.Fatalf("%q: %v", text, err)
		}
		c.kept = append(c.kept, o)
	}
}

// send sends a frame and returns its uuid.
func (c *fallbackClient) send(channel string, data any) (id string) {
	c.t.Helper()
	id = "u" + strconv.FormatInt(uuids.Add(1), 10)
	frame, err := json.Marshal(object{"channel": channel, "uuid": id, "agentId": "tester", "data": data})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), fallbackPatience)
	defer cancel()
	if err := c.Send(ctx, string(frame)); err != nil {
		c.t.Fatalf("%s: %v", c.Transport, err)
	}
	return id
}

// connect opens the session, connects, and subscribes to the channels.
func (c *fallbackClient) connect(channels ...string) *fallbackClient {
	c.t.Helper()
	c.t.Cleanup(func() {
		// If no request receives when the server stops, it waits for one.
		last := *c
		last.Transport = "xhr_streaming"
		select {
		case <-last.Begin(c.life()).Came():
		case <-time.After(patience):
		}
	})
	if f := c.frame(); f != "o" {
		c.t.Fatalf("%s: the session begins with %q", c.Transport, f)
	}
	request := func(channel string, data any) {
		c.t.Helper()
		id := c.send(channel, data)
		if f := c.receive(); f["channel"] != channel || f["uuid"] != id || f["successful"] != true {
			c.t.Fatalf("%s: %s was answered with %v", c.Transport, channel, f)
		}
	}
	request("/meta/connect", nil)
	for _, channel := range channels {
		request("/meta/subscribe", object{"channel": channel})
	}
	return c
}

// publish publishes, and waits for the acknowledgement. It keeps messages that come first
// for receive.
func (c *fallbackClient) publish(channel string, data any) {
	c.t.Helper()
	id := c.send(channel, data)
	var before []object
	for {
		f := c.receive()
		if f["channel"] == "/meta/successful" && f["uuid"] == id {
			c.kept = append(before, c.kept...)
			return
		}
		if f["data"] == nil {
			c.t.Fatalf("%s: publishing on %s was answered with %v", c.Transport, channel, f)
		}
		before = append(before, f)
	}
}

// wantMessage checks that the next object is that message.
func (c *fallbackClient) wantMessage(channel string, data any) {
	c.t.Helper()
	if f := c.receive(); f["channel"] != channel || f["data"] != data {
		c.t.Fatalf("%s: got %v, want %v on %s", c.Transport, f, data, channel)
	}
}

// finish reads the rest of the response to the request to receive.
func (c *fallbackClient) finish() {
	c.t.Helper()
	for c.Receiving() {
		if f := c.frame(); f != "" && f != "h" {
			c.t.Fatalf("%s: got %q, want the response to end", c.Transport, f)
		}
	}
}

// betweenPolls calls fn while the session has no request under way. A session without a
// request ends after 5 s. If fn takes nearly as long, because the machine is busy,
// betweenPolls calls it again, with a session that join opens. It returns the session for
// which fn was quick enough.
func (c *fallbackClient) betweenPolls(join func() *fallbackClient, fn func()) *fallbackClient {
	c.t.Helper()
	for {
		c.finish()
		fn()
		took := time.Since(c.last)
		if took < 4*time.Second {
			return c
		}
		c.t.Logf("%v without a poll: once more", took)
		c = join()
	}
}

// idle receives while again returns true, with as many requests as necessary, and accepts
// only heartbeats.
func (c *fallbackClient) idle(again func() bool) {
	c.t.Helper()
	for again() {
		if f := c.frame(); f != "" && f != "h" {
			c.t.Fatalf("%s: got %q, want nothing", c.Transport, f)
		}
	}
}

// echo publishes a message to the session itself.
func (c *fallbackClient) echo(channel string, count int) {
	c.t.Helper()
	for n := range count {
		c.publish(channel, float64(n))
		c.wantMessage(channel, float64(n))
	}
}

// A numberStream publishes the numbers 0, 1, 2, … on a channel until it is stopped.
type numberStream struct {
	stopping chan struct{}
	done     chan struct{}
	last     atomic.Int64 // -1 before the first
}

// count starts a numberStream over a WebSocket.
func (s site) count(path, channel string, every time.Duration) *numberStream {
	s.t.Helper()
	a := s.connect(path, nil)
	c := &numberStream{stopping: make(chan struct{}), done: make(chan struct{})}
	c.last.Store(-1)
	go func() {
		defer close(c.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := int64(0); ; n++ {
			a.publish(channel, n)
			c.last.Store(n)
			select {
			case <-tick.C:
			case <-c.stopping:
				return
			}
		}
	}()
	s.t.Cleanup(func() { c.stop() })
	return c
}

// stop stops it and returns the last number.
func (c *numberStream) stop() int64 {
	select {
	case <-c.done:
	default:
		close(c.stopping)
		<-c.done
	}
	return c.last.Load()
}

// A follower receives the numbers of a numberStream: each once, and in order.
type follower struct {
	*fallbackClient
	name string
	ends bool  // each reload ends its response
	next int64 // the number to receive next
}

// follow receives until done returns true.
func (f *follower) follow(done func() bool) {
	for late := time.Now().Add(fallbackPatience); !done(); f.next++ {
		if got := f.receive()["data"]; got != float64(f.next) {
			f.t.Fatalf("%s: got %v, want %v", f.name, got, f.next)
		}
		if time.Now().After(late) {
			f.t.Fatalf("%s: at number %d, %d responses have ended", f.name, f.next, f.Ended)
		}
	}
}

// reloadUnder reloads while all receive. It returns when each of them has a number that was
// published after the reload: only then has it made the request that the next reload ends.
func (s site) reloadUnder(numbers *numberStream, all []*follower, config string) {
	s.t.Helper()
	var after atomic.Int64
	after.Store(math.MaxInt64)
	var following sync.WaitGroup
	for _, f := range all {
		before := f.Ended
		following.Go(func() {
			f.follow(func() bool { return f.next > after.Load() && (!f.ends || f.Ended > before) })
		})
	}
	if err := s.load(config); err != nil {
		s.t.Error(err)
	}
	after.Store(numbers.last.Load() + 2) // the next one may be under way
	following.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// end stops the numbers. Each must have arrived.
func (c *numberStream) end(all []*follower) {
	last := c.stop()
	for _, f := range all {
		f.follow(func() bool { return f.next > last })
	}
}

// concurrently calls fn with each of the names at the same time, and waits. If fn fails
// the test, only its own call ends.
func concurrently(names []string, fn func(name string)) {
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { fn(name) })
	}
	all.Wait()
}

// everyFallback are all transports except WebSocket.
var everyFallback = []string{"xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp"}

const allTransports = "transports websocket xhr_streaming xhr eventsource htmlfile jsonp"

func header(name, value string) http.Header { return http.Header{name: {value}} }
