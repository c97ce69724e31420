// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
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

// roads are what agents of fallbacks make their requests by. Over HTTP/1.1 each has
// connections of its own, as browsers have: one of them is kept between two requests.
// Those of HTTP/2 share one connection.
type roads struct {
	unread unread

	mu    sync.Mutex // guards the following
	own   []*http.Transport
	two   *http.Transport
	quic  []*quicRoad
	taken int // agents of HTTP/3
}

// An unread counts requests, and of them those that no server has read, by the version
// of HTTP.
type unread struct {
	requests atomic.Int64
	fresh    [4]atomic.Int64 // no connection was to be had, or it was a new one
	kept     [4]atomic.Int64 // over a connection that requests were answered over before
}

func (u *unread) count(version int, reused bool, n int) {
	if reused {
		u.kept[version].Add(int64(n))
	} else {
		u.fresh[version].Add(int64(n))
	}
}

// of returns what an agent makes its requests by. Certificates are not looked at:
// they change meanwhile.
func (r *roads) of(version int) http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // G402: the server is the one that was started here
	if version == 3 {
		if r.taken%streamsAtOnce == 0 {
			r.quic = append(r.quic, &quicRoad{unread: &r.unread})
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
func (r *roads) unserved() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.quic {
		q.mu.Lock()
		n += q.unserved
		q.mu.Unlock()
	}
	return n
}

func (r *roads) close() {
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

// A fallbackAgent is a session of pushit over a fallback, as sockjs-client has it:
// one request after the other receives, others send.
type fallbackAgent struct {
	client    http.Client
	url       string // of the session
	by        route
	id        string
	onMessage func(object []byte)
	unread    *unread
	ctx       context.Context //nolint:containedctx // ends all requests of the agent
	cancel    context.CancelFunc
	done      chan struct{} // closed when run has returned

	mu      sync.Mutex // guards the following
	answers map[string]chan frame
	count   int // of frames sent

	// Owned by run until done is closed.
	open    bool
	failure error // why run ended
}

// comeByFallback opens a session, connects and subscribes.
func comeByFallback(ctx context.Context, origin string, by route, roads *roads, channel string, onMessage func([]byte)) (*fallbackAgent, error) {
	id := "bench-" + strconv.FormatInt(agentCount.Add(1), 10)
	a := &fallbackAgent{
		client: http.Client{Transport: roads.of(by.version)}, url: origin + "/push/000/" + id + "/", by: by, id: id,
		onMessage: onMessage, unread: &roads.unread,
		done: make(chan struct{}), answers: make(map[string]chan frame),
	}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	opened := make(chan struct{})
	go a.run(sync.OnceFunc(func() { close(opened) }))
	err := a.begin(ctx, opened, channel)
	if err != nil {
		a.vanish()
		return nil, fmt.Errorf("%s by %s: %w", id, by, errors.Join(err, a.failure))
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

// ask sends a frame and waits for its answer, which must be a yes.
func (a *fallbackAgent) ask(ctx context.Context, channel, data string) error {
	a.mu.Lock()
	a.count++
	uuid := a.id + "-" + strconv.Itoa(a.count)
	answer := make(chan frame, 1)
	a.answers[uuid] = answer
	a.mu.Unlock()
	object := fmt.Sprintf(`{"channel":%q,"uuid":%q,"agentId":%q,"data":%s}`, channel, uuid, a.id, data)
	body, err := json.Marshal([]string{object})
	if err != nil {
		return err
	}
	resp, err := a.request(ctx, http.MethodPost, "xhr_send", body)
	if err != nil {
		return fmt.Errorf("%s: %w", channel, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: xhr_send was answered %s", channel, resp.Status)
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

// mostTries is how often an agent makes a request that no server has read: what is
// measured is what becomes of its session, not whether it is lucky.
const mostTries = 5

// request makes a request. If no server can have read it, it is counted, and made again.
func (a *fallbackAgent) request(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	a.unread.requests.Add(1)
	for try := 1; ; try++ {
		resp, reused, err := a.requestOnce(ctx, method, path, body)
		if err == nil || ctx.Err() != nil || !isUnread(err) {
			return resp, err
		}
		a.unread.count(a.by.version, reused, 1)
		if try == mostTries {
			return nil, err
		}
		if err := pause(ctx, often); err != nil {
			return nil, err
		}
	}
}

// requestOnce makes a request, and tells whether it went over a connection that was
// used before. What net/http makes again by itself, it counts.
func (a *fallbackAgent) requestOnce(ctx context.Context, method, path string, body []byte) (resp *http.Response, reused bool, err error) {
	var mu sync.Mutex // guards the following and reused: net/http may dial beside
	attempts := 0
	trace := &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			mu.Lock()
			defer mu.Unlock()
			if attempts++; attempts > 1 {
				a.unread.count(a.by.version, reused, 1)
			}
			reused = info.Reused
		},
	}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("Content-Type", "text/plain")
	resp, err = a.client.Do(r)
	mu.Lock()
	defer mu.Unlock()
	return resp, reused, err
}

// isUnread reports whether a server that has not answered so may not have read the
// request. If it has, and what it wrote is lost, the book tells.
func isUnread(err error) bool {
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*http3.Error](err); ok && e.ErrorCode == http3.ErrCodeRequestRejected {
		return true
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return e.ErrorCode == quic.ConnectionRefused
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return true
	}
	for _, text := range []string{
		"connection in graceful shutdown",  // of quic-go, which has no name for it
		"server closed idle connection",    // of net/http, likewise
		"client connection lost", "GOAWAY", // of its HTTP/2
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// run receives until the session ends.
func (a *fallbackAgent) run(opened func()) {
	defer close(a.done)
	method, body := http.MethodPost, []byte(nil)
	if a.by.transport == "eventsource" {
		method = http.MethodGet
	}
	for a.ctx.Err() == nil {
		resp, err := a.request(a.ctx, method, a.by.transport, body)
		if err != nil {
			a.failure = err
			return
		}
		err = a.receive(resp, opened)
		_ = resp.Body.Close()
		if err != nil {
			a.failure = fmt.Errorf("%s: %w", a.by, err)
			return
		}
	}
	a.failure = a.ctx.Err()
}

// receive reads a response to its end.
func (a *fallbackAgent) receive(resp *http.Response, opened func()) error {
	switch {
	case resp.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	case resp.ProtoMajor != a.by.version:
		return fmt.Errorf("came over %s", resp.Proto)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxPayload)
	for lines.Scan() {
		text := strings.TrimPrefix(strings.TrimSuffix(lines.Text(), "\r"), "data: ")
		if text == "" || text[0] == 'h' || text[0] == ':' {
			continue
		}
		switch text[0] {
		case 'o':
			if a.open {
				return errors.New("the session is another one: no request came in time to receive for it")
			}
			a.open = true
			opened()
		case 'a':
			if err := a.frames(text[1:]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the server said %.200q", text)
		}
	}
	return lines.Err()
}

func (a *fallbackAgent) frames(array string) error {
	var objects []string
	if err := json.Unmarshal([]byte(array), &objects); err != nil {
		return err
	}
	for _, object := range objects {
		if !strings.Contains(object[:min(len(object), 40)], `"/meta/`) {
			a.onMessage([]byte(object))
			continue
		}
		var f frame
		if err := json.Unmarshal([]byte(object), &f); err != nil {
			return err
		}
		if f.Channel == "/meta/close" {
			return errors.New(object)
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

// lost returns why the session has ended, if it has by itself.
func (a *fallbackAgent) lost() error {
	select {
	case <-a.done:
		return a.failure
	default:
		return nil
	}
}

// patience bounds how long the end of what a server has is waited for.
const patience = 30 * time.Second
