// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// fallbackPatience is how long a request of a fallback may take: longer than any
// test wants one to.
const fallbackPatience = 3 * patience

// The transports of SockJS over which frames are received, by the method of their
// requests.
var fallbackMethods = map[string]string{
	"xhr": http.MethodPost, "xhr_streaming": http.MethodPost,
	"eventsource": http.MethodGet, "htmlfile": http.MethodGet, "jsonp": http.MethodGet,
}

// streams are those whose responses hold more than one frame.
var streams = []string{"xhr_streaming", "eventsource", "htmlfile"}

// client returns an HTTP client that finds the site, by that version of HTTP.
//
//nolint:staticcheck // SA1019: net/http takes no connections for HTTP/2 that others have made
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
			_ = c.Close() // whatever it says, it is over
		}
	})
	return &http.Client{Transport: by}
}

// A fallbackClient is one session over a SockJS fallback, as a client sees it. It
// fails its test when something else comes than it expects, and when nothing
// comes. One goroutine uses it.
type fallbackClient struct {
	t         *testing.T
	http      *http.Client
	base      string // the session's URL
	transport string
	header    http.Header
	host      string // the Host that is sent, if it is another than the URL's

	// Of the request that receives; all are unset when there is none.
	coming chan *http.Response // buffered(1): its response, nil if it failed
	give   context.CancelFunc  // gives it up
	resp   *http.Response      // nil until it has come
	from   *bufio.Reader
	ended  int      // how many such requests have ended
	kept   []object // what came with others, but was not asked for yet
}

// fallback returns the client of a session of its own at the endpoint.
func (s site) fallback(by *http.Client, endpoint, transport string) *fallbackClient {
	return newFallbackClient(s.t, by, s.origin()+endpoint, transport)
}

func newFallbackClient(t *testing.T, by *http.Client, endpoint, transport string) *fallbackClient {
	return &fallbackClient{
		t: t, http: by, transport: transport,
		base: endpoint + "/000/" + uuid.NewString(), header: http.Header{},
	}
}

// do makes a request to the session. At a reload the kernel resets connections that
// the old listener has not accepted yet: then it is made again. Had it been read,
// what follows would tell.
func (c *fallbackClient) do(ctx context.Context, method, path, body string) (resp *http.Response, err error) {
	for range 5 {
		resp, err = c.doOnce(ctx, method, path, body)
		if err == nil || ctx.Err() != nil || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			break
		}
	}
	return resp, err
}

func (c *fallbackClient) doOnce(ctx context.Context, method, path, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, c.header)
	if _, ok := r.Header["Referer"]; !ok { // as pages of the site have it
		r.Header.Set("Referer", r.URL.Scheme+"://"+cmp.Or(c.host, r.URL.Host)+"/")
	}
	// As browsers do, make the request again when the server has closed the kept
	// connection meanwhile. It is not sent.
	r.Header["Idempotency-Key"] = nil
	r.Host = c.host
	return c.http.Do(r)
}

// ask makes a request and returns the whole answer.
func (c *fallbackClient) ask(method, path, body string) (status int, answer string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), fallbackPatience)
	defer cancel()
	resp, err := c.do(ctx, method, path, body)
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

// begin begins a request that receives.
func (c *fallbackClient) begin() {
	c.t.Helper()
	path := "/" + c.transport
	if c.transport == "jsonp" || c.transport == "htmlfile" {
		path += "?c=call"
	}
	// It ends with the server at the latest.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	coming := make(chan *http.Response, 1)
	c.coming, c.give, c.resp, c.from = coming, cancel, nil, nil
	asked := *c
	go func() {
		resp, err := asked.do(ctx, fallbackMethods[asked.transport], path, "")
		if err != nil {
			resp = nil
		}
		coming <- resp
	}()
}

// response waits for the response that receives.
func (c *fallbackClient) response() *http.Response {
	c.t.Helper()
	if c.resp != nil {
		return c.resp
	}
	select {
	case resp := <-c.coming:
		if resp == nil {
			c.t.Fatalf("%s: the request to receive failed", c.transport)
		}
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			c.t.Fatalf("%s: status %d: %s", c.transport, resp.StatusCode, text)
		}
		c.resp, c.from = resp, bufio.NewReader(resp.Body)
	case <-time.After(fallbackPatience):
		c.give()
		c.t.Fatalf("%s: no response to receive came", c.transport)
	}
	return c.resp
}

// frame returns the next frame, "o", "h", "a[…]", "c[…]", of the request that
// receives, which it begins if there is none. It is empty when that has ended.
func (c *fallbackClient) frame() string {
	c.t.Helper()
	if c.coming == nil {
		c.begin()
	}
	body := c.response().Body
	defer time.AfterFunc(fallbackPatience, func() { _ = body.Close() }).Stop()
	for {
		line, err := c.from.ReadString('\n')
		if err == io.EOF && (line == "" || line == "</script>") {
			_ = body.Close() // it was read
			c.coming, c.resp = nil, nil
			c.ended++
			return ""
		}
		if err != nil {
			c.t.Fatalf("%s: %q, %v", c.transport, line, err)
		}
		if f := undress(c.t, c.transport, line); f != "" {
			return f
		}
	}
}

// undress takes away what a transport puts around a frame. What is not a line
// with a frame is empty.
func undress(t *testing.T, transport, line string) (frame string) {
	t.Helper()
	line = strings.TrimRight(line, "\r\n")
	quoted, ok := line, true
	switch transport {
	case "xhr", "xhr_streaming":
		if strings.HasPrefix(line, "hhh") { // the prelude
			return ""
		}
		return line
	case "eventsource":
		if line, ok = strings.CutPrefix(line, "data: "); !ok {
			return ""
		}
		text, err := url.PathUnescape(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return text
	case "htmlfile":
		if quoted, ok = strings.CutPrefix(line, "p("); !ok {
			return ""
		}
	case "jsonp":
		quoted, ok = strings.CutPrefix(line, "/**/call(")
	}
	if err := json.Unmarshal([]byte(strings.TrimSuffix(quoted, ");")), &frame); err != nil || !ok {
		t.Fatalf("%q: %v", line, err)
	}
	return frame
}

// receive returns the next object, over as many requests as it takes.
func (c *fallbackClient) receive() object {
	c.t.Helper()
	end := time.Now().Add(fallbackPatience)
	for len(c.kept) == 0 {
		switch f := c.frame(); {
		case strings.HasPrefix(f, "a"):
			var texts []string
			if err := json.Unmarshal([]byte(f[1:]), &texts); err != nil {
				c.t.Fatalf("%q: %v", f, err)
			}
			for _, text := range texts {
				var o object
				if err := json.Unmarshal([]byte(text), &o); err != nil {
					c.t.Fatalf("%q: %v", text, err)
				}
				c.kept = append(c.kept, o)
			}
		case f != "" && f != "o" && f != "h":
			c.t.Fatalf("%s: got %q", c.transport, f)
		case time.Now().After(end):
			c.t.Fatalf("%s: no message came", c.transport)
		}
	}
	o := c.kept[0]
	c.kept = c.kept[1:]
	return o
}

// sending is the path of requests that send.
func (c *fallbackClient) sending() string {
	if c.transport == "jsonp" {
		return "/jsonp_send"
	}
	return "/xhr_send"
}

// send sends a frame and returns its uuid.
func (c *fallbackClient) send(channel string, data any) (id string) {
	c.t.Helper()
	id = "u" + strconv.FormatInt(uuids.Add(1), 10)
	frame, err := json.Marshal(object{"channel": channel, "uuid": id, "agentId": "tester", "data": data})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := json.Marshal([]string{string(frame)})
	if err != nil {
		c.t.Fatal(err)
	}
	if status, answer := c.ask(http.MethodPost, c.sending(), string(body)); status != http.StatusNoContent && (status != http.StatusOK || answer != "ok") {
		c.t.Fatalf("%s: sending: status %d: %s", c.transport, status, answer)
	}
	return id
}

// connect opens the session, connects and subscribes to the channel.
func (c *fallbackClient) connect(channel string) *fallbackClient {
	c.t.Helper()
	c.t.Cleanup(func() {
		// Where no request receives when it stops, the server waits for one.
		last := *c
		last.transport = "xhr_streaming"
		last.begin()
		select {
		case <-last.coming:
		case <-time.After(patience):
		}
	})
	if f := c.frame(); f != "o" {
		c.t.Fatalf("%s: the session begins with %q", c.transport, f)
	}
	for _, meta := range []string{"/meta/connect", "/meta/subscribe"} {
		id := c.send(meta, object{"channel": channel})
		if f := c.receive(); f["channel"] != meta || f["uuid"] != id || f["successful"] != true {
			c.t.Fatalf("%s: %s was answered with %v", c.transport, meta, f)
		}
	}
	return c
}

// publish publishes and returns when that was acknowledged. Messages that come
// before are kept for receive.
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
			c.t.Fatalf("%s: publishing on %s was answered with %v", c.transport, channel, f)
		}
		before = append(before, f)
	}
}

// wantMessage wants the next object to be that message.
func (c *fallbackClient) wantMessage(channel string, data any) {
	c.t.Helper()
	if f := c.receive(); f["channel"] != channel || f["data"] != data {
		c.t.Fatalf("%s: got %v, want %v on %s", c.transport, f, data, channel)
	}
}

// finish reads what is left of the request that receives, until it ends.
func (c *fallbackClient) finish() {
	c.t.Helper()
	for c.coming != nil {
		if f := c.frame(); f != "" && f != "h" {
			c.t.Fatalf("%s: got %q, want the response to end", c.transport, f)
		}
	}
}

// idle goes on receiving, over as many requests as it takes, and wants nothing to
// come but heartbeats.
func (c *fallbackClient) idle(long time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); {
		if f := c.frame(); f != "" && f != "h" {
			c.t.Fatalf("%s: got %q, want nothing", c.transport, f)
		}
	}
}

// echo has the session publish to itself.
func (c *fallbackClient) echo(channel string, count int) {
	c.t.Helper()
	for n := range count {
		c.publish(channel, float64(n))
		c.wantMessage(channel, float64(n))
	}
}

// A numberStream publishes numbers on a channel, one after the other, until it is
// stopped.
type numberStream struct {
	stopping chan struct{}
	done     chan struct{}
	last     float64
}

// count begins to publish 0, 1, 2, … on the channel, over a WebSocket.
func (s site) count(path, channel string, every time.Duration) *numberStream {
	s.t.Helper()
	a := s.connect(path, nil)
	_ = a.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &numberStream{stopping: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0.0; ; n++ {
			a.publish(channel, n)
			c.last = n
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

// stop ends it and returns the last number.
func (c *numberStream) stop() float64 {
	select {
	case <-c.done:
	default:
		close(c.stopping)
		<-c.done
	}
	return c.last
}

// concurrently runs fn for each of the names, all at once, and waits. An fn that
// fails the test ends there.
func concurrently(names []string, fn func(name string)) {
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { fn(name) })
	}
	all.Wait()
}

// everyFallback are all transports but WebSocket.
var everyFallback = []string{"xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp"}

const allTransports = "transports websocket xhr_streaming xhr eventsource htmlfile jsonp"

func header(name, value string) http.Header { return http.Header{name: {value}} }
