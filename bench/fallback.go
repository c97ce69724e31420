// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// A route is a SockJS fallback transport over a version of HTTP.
type route struct {
	transport string // xhr, xhr_streaming, eventsource
	version   int    // of HTTP: 1, 2, 3
}

func (v route) String() string { return fmt.Sprintf("%s over HTTP/%d", v.transport, v.version) }

// streamsAtOnce is how many agents share a connection of HTTP/3, on which a server
// lets 100 requests be open at once; an agent has two.
const streamsAtOnce = 40

// httpClients are the HTTP clients of agents over fallbacks. Over HTTP/1.1 each has
// connections of its own, as browsers have: one of them is kept between two requests.
// Those of HTTP/2 share one connection.
type httpClients struct {
	unread unread

	mu    sync.Mutex // guards the following
	own   []*http.Transport
	two   *http.Transport
	quic  []*quicTransport
	taken int // agents of HTTP/3
}

// An unread counts requests, and of them those that no server has read, by the version
// of HTTP.
type unread struct {
	requests atomic.Int64
	fresh    [4]atomic.Int64 // there was no connection, or it was a new one
	kept     [4]atomic.Int64 // over a connection on which requests were answered before
}

func (u *unread) count(version int, reused bool, n int) {
	if reused {
		u.kept[version].Add(int64(n))
	} else {
		u.fresh[version].Add(int64(n))
	}
}

// of returns the HTTP client of an agent. It does not check certificates, because they
// change during the measurement.
func (r *httpClients) of(version int) http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // G402: the server is the one that was started here
	if version == 3 {
		if r.taken%streamsAtOnce == 0 {
			r.quic = append(r.quic, &quicTransport{unread: &r.unread})
		}
		r.taken++
		return r.quic[len(r.quic)-1]
	}
	if version == 1 {
		own := &http.Transport{TLSClientConfig: insecure, MaxIdleConnsPerHost: 1}
		r.own = append(r.own, own)
		return own
	}
	if r.two == nil {
		r.two = &http.Transport{TLSClientConfig: insecure, ForceAttemptHTTP2: true}
	}
	return r.two
}

// unserved returns how many connections of HTTP/3 a server took and did not serve.
func (r *httpClients) unserved() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.quic {
		q.mu.Lock()
		n += q.unserved
		q.mu.Unlock()
	}
	return n
}

func (r *httpClients) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.own {
		t.CloseIdleConnections()
	}
	if r.two != nil {
		r.two.CloseIdleConnections()
	}
	for _, q := range r.quic {
		q.close()
	}
}

// A fallbackAgent is a session over a fallback, as sockjs-client makes it: one request after
// the other receives, and further requests send.
type fallbackAgent struct {
	*wireclient.Fallback // its receiving half is owned by run
	by                   route
	id                   string
	onMessage            func(object []byte)
	ctx                  context.Context //nolint:containedctx // ends all requests of the agent
	cancel               context.CancelFunc
	done                 chan struct{} // closed when run has returned

	mu      sync.Mutex // guards the following
	answers map[string]chan frame
	count   int // of frames sent

	// Owned by run until done is closed.
	said    []byte // by /meta/close
	failure error  // why run ended: how the session was closed, or what went wrong
}

// newFallback returns the client of a session whose requests are counted.
func (r *httpClients) newFallback(origin string, by route) *wireclient.Fallback {
	return &wireclient.Fallback{
		HTTP:      &http.Client{Transport: r.of(by.version)},
		URL:       wireclient.NewSession(origin + "/push"),
		Transport: by.transport,
		Header:    http.Header{"Content-Type": {"text/plain"}},
		OnRequest: func() { r.unread.requests.Add(1) },
		OnUnread:  func(reused bool) { r.unread.count(by.version, reused, 1) },
	}
}

// comeByFallback opens a session, connects and subscribes.
func comeByFallback(ctx context.Context, origin string, by route, clients *httpClients, channel string, onMessage func([]byte)) (*fallbackAgent, error) {
	a := &fallbackAgent{
		Fallback: clients.newFallback(origin, by), by: by, id: "bench-" + strconv.FormatInt(agentCount.Add(1), 10),
		onMessage: onMessage, done: make(chan struct{}), answers: make(map[string]chan frame),
	}
	a.OnResponse = a.check
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	opened := make(chan struct{})
	go a.run(opened)
	err := a.begin(ctx, opened, channel)
	if err != nil {
		a.vanish()
		return nil, fmt.Errorf("%s by %s: %w", a.id, by, errors.Join(err, a.failure))
	}
	return a, nil
}

func (a *fallbackAgent) begin(ctx context.Context, opened <-chan struct{}, channel string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	select {
	case <-opened:
	case <-a.done:
		return errors.New("the session was not opened")
	case <-ctx.Done():
		return fmt.Errorf("opening: %w", ctx.Err())
	}
	if err := a.ask(ctx, "/meta/connect", `{"credentials":null}`); err != nil {
		return err
	}
	return a.ask(ctx, "/meta/subscribe", fmt.Sprintf(`{"channel":%q}`, channel))
}

// ask sends a frame and waits for its answer, which must be positive.
func (a *fallbackAgent) ask(ctx context.Context, channel, data string) error {
	a.mu.Lock()
	a.count++
	uuid := a.id + "-" + strconv.Itoa(a.count)
	answer := make(chan frame, 1)
	a.answers[uuid] = answer
	a.mu.Unlock()
	if err := a.Send(ctx, fmt.Sprintf(`{"channel":%q,"uuid":%q,"agentId":%q,"data":%s}`, channel, uuid, a.id, data)); err != nil {
		return fmt.Errorf("%s: %w", channel, err)
	}
	select {
	case f := <-answer:
		if f.Successful == nil || !*f.Successful {
			return fmt.Errorf("%s: refused: %s", channel, f.Error)
		}
		return nil
	case <-a.done:
		return fmt.Errorf("%s: the session has ended", channel)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", channel, ctx.Err())
	}
}

// run receives until the session ends. It closes opened when the session has begun.
func (a *fallbackAgent) run(opened chan<- struct{}) {
	defer close(a.done)
	defer a.GiveUp()
	frame, err := a.Frame(a.ctx)
	if err == nil && frame != "o" {
		err = fmt.Errorf("the session begins with %.200q", frame)
	}
	if err == nil {
		close(opened)
	}
	for err == nil {
		var objects []string
		if objects, err = a.Receive(a.ctx); err == nil {
			err = a.take(objects)
		}
	}
	a.failure = errors.Join(err, closingError(string(a.said)))
}

// check refuses a response that came over another version of HTTP than was intended.
func (a *fallbackAgent) check(resp *http.Response) error {
	if resp.ProtoMajor != a.by.version {
		return fmt.Errorf("the response came over %s", resp.Proto)
	}
	return nil
}

// take handles what came in a frame.
func (a *fallbackAgent) take(objects []string) error {
	for _, object := range objects {
		if !strings.Contains(object[:min(len(object), 40)], `"/meta/`) {
			a.onMessage([]byte(object))
			continue
		}
		var f frame
		if err := json.Unmarshal([]byte(object), &f); err != nil {
			return err
		}
		if f.Channel == "/meta/close" { // the frame that closes the session follows
			a.said = []byte(object)
			continue
		}
		a.mu.Lock()
		answer := a.answers[f.UUID]
		delete(a.answers, f.UUID)
		a.mu.Unlock()
		if answer == nil {
			return fmt.Errorf("nobody asked for %s", object)
		}
		answer <- f
	}
	return nil
}

// vanish ends the requests, and waits for the reader.
func (a *fallbackAgent) vanish() {
	a.cancel()
	<-a.done
}

// ended is closed when the session has ended.
func (a *fallbackAgent) ended() <-chan struct{} { return a.done }

// notice returns what /meta/close said and the code that closed the session.
func (a *fallbackAgent) notice() (said []byte, code int) {
	if closed, ok := errors.AsType[*wireclient.CloseError](a.failure); ok {
		code = closed.Code
	}
	return a.said, code
}

// lost returns why the session has ended by itself; nil if it has not.
func (a *fallbackAgent) lost() error {
	select {
	case <-a.done:
		return a.failure
	default:
		return nil
	}
}

// patience is how long to wait until a server has released everything.
const patience = 30 * time.Second
