// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/push-it/pushit/hub"
)

// A sockJSAgent is a session over a fallback transport of SockJS.
type sockJSAgent struct {
	t      *testing.T
	client *http.Client
	url    string // of the session
	header http.Header
	kept   []object // what came, but was not asked for yet
}

var sockJSSessions atomic.Int64

// via returns a client for the site that speaks one version of HTTP.
func (s site) via(version int) *http.Client {
	var transport http.RoundTripper
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }
	insecure := &tls.Config{InsecureSkipVerify: true}
	switch version {
	case 1:
		transport = &http.Transport{DialContext: dial, DialTLSContext: dial}
	case 2:
		//nolint:staticcheck // SA1019: net/http takes no connections for HTTP/2 that others have made
		transport = &http2.Transport{TLSClientConfig: insecure, DialTLSContext: func(ctx context.Context, network, _ string, config *tls.Config) (net.Conn, error) {
			d := tls.Dialer{Config: config}
			return d.DialContext(ctx, network, s.addr(s.name))
		}}
	case 3:
		t := &http3.Transport{TLSClientConfig: insecure}
		s.t.Cleanup(func() { _ = t.Close() })
		transport = t
	}
	return &http.Client{Transport: transport, Timeout: 2 * patience}
}

// openSockJS opens a session over a transport, and connects.
func (s site) openSockJS(client *http.Client, origin, transport string, header http.Header) *sockJSAgent {
	s.t.Helper()
	a := &sockJSAgent{t: s.t, client: client, url: origin + "/push/000/session" + strconv.FormatInt(sockJSSessions.Add(1), 10) + "/", header: header}
	if transport == "xhr" {
		if text := a.pollText(); text != "o\n" {
			s.t.Fatalf("the session begins with %q", text)
		}
	}
	return a
}

// do makes a request, again if the server has just closed the connection that it
// was made over, as browsers do.
func (a *sockJSAgent) do(method, path, body string) *http.Response {
	a.t.Helper()
	for late := time.Now().Add(patience); ; {
		r, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
		if err != nil {
			a.t.Fatal(err)
		}
		maps.Copy(r.Header, a.header)
		r.Header["X-Idempotency-Key"] = []string{} // sends nothing, but lets net/http do the same
		resp, err := a.client.Do(r)
		if err == nil {
			return resp
		}
		if time.Now().After(late) {
			a.t.Fatal(err)
		}
	}
}

func (a *sockJSAgent) text(resp *http.Response) string {
	a.t.Helper()
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// send sends a frame, and returns its uuid.
func (a *sockJSAgent) send(channel string, data any) (uuid string) {
	a.t.Helper()
	uuid, status := a.trySend(channel, data)
	if status != http.StatusNoContent {
		a.t.Fatalf("xhr_send was answered %d", status)
	}
	return uuid
}

func (a *sockJSAgent) trySend(channel string, data any) (uuid string, status int) {
	a.t.Helper()
	uuid = "u" + strconv.FormatInt(uuids.Add(1), 10)
	frame, err := json.Marshal(object{"channel": channel, "uuid": uuid, "agentId": "tester", "data": data})
	if err != nil {
		a.t.Fatal(err)
	}
	body, err := json.Marshal([]string{string(frame)})
	if err != nil {
		a.t.Fatal(err)
	}
	resp := a.do(http.MethodPost, "xhr_send", string(body))
	a.text(resp)
	return uuid, resp.StatusCode
}

// pollText is one poll.
func (a *sockJSAgent) pollText() string {
	a.t.Helper()
	return a.text(a.do(http.MethodPost, "xhr", ""))
}

// poll polls until frames come, and returns the first.
func (a *sockJSAgent) poll() object {
	a.t.Helper()
	for len(a.kept) == 0 {
		text := a.pollText()
		if text != "h\n" {
			a.kept = framesIn(a.t, text)
		}
	}
	f := a.kept[0]
	a.kept = a.kept[1:]
	return f
}

// framesIn are the frames of what came as a["…"].
func framesIn(t *testing.T, text string) (frames []object) {
	t.Helper()
	array, ok := strings.CutPrefix(strings.TrimSpace(text), "a")
	var texts []string
	if !ok || json.Unmarshal([]byte(array), &texts) != nil {
		t.Fatalf("got %q, want frames", text)
	}
	for _, one := range texts {
		var f object
		if err := json.Unmarshal([]byte(one), &f); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	return frames
}

// join connects and subscribes, by polling.
func (a *sockJSAgent) join(channels ...string) *sockJSAgent {
	a.t.Helper()
	a.send("/meta/connect", nil)
	for _, ch := range channels {
		a.send("/meta/subscribe", object{"channel": ch})
	}
	for range 1 + len(channels) {
		if f := a.poll(); f["successful"] != true {
			a.t.Fatalf("got %v", f)
		}
	}
	return a
}

// Who polls, and has no request under way at that moment, misses nothing.
func TestReloadBetweenTwoPolls(t *testing.T) {
	s := serve(t, ruled("default allow")).site("localhost")
	ws := s.connect("/push/websocket", nil)
	a := s.openSockJS(s.via(1), "http://localhost", "xhr", nil).join("news", "other")
	for i, block := range []string{"default allow\nheartbeat 20s", "default allow\nlimits {\nagents 5\n}", "default allow\nchannel other {\nsubscribe deny\n}"} {
		ws.publish("news", float64(2*i))
		s.reload(ruled(block))
		ws.publish("news", float64(2*i+1))
		if i == 2 {
			break
		}
		for n := range 2 {
			if f := a.poll(); f["data"] != float64(2*i+n) {
				t.Fatalf("got %v, want message %d", f, 2*i+n)
			}
		}
	}
	ws.publish("other", "nobody's")
	ended := 0
	for _, want := range []float64{4, 5} {
		f := a.poll()
		if f["channel"] == "/meta/unsubscribe" && f["code"] == "denied" {
			ended++
			f = a.poll()
		}
		if f["data"] != want {
			t.Fatalf("got %v, want message %v", f, want)
		}
	}
	if ended == 0 {
		if f := a.poll(); f["channel"] != "/meta/unsubscribe" || f["code"] != "denied" {
			t.Errorf("got %v, want the end of a subscription", f)
		}
	}
	s.reload(ruled("default allow\nconnect deny \"members only\""))
	if f := a.poll(); f["channel"] != "/meta/close" || f["code"] != float64(hub.CloseCut) {
		t.Errorf("got %v, want it cut", f)
	}
	if text := a.pollText(); text != "c[4403,\"members only\"]\n" {
		t.Errorf("after the notice came %q", text)
	}
}

// A poll that is under way is answered by the server that it came to, with what is
// published under the new configuration.
func TestReloadDuringAPoll(t *testing.T) {
	s := serve(t, ruled("default allow")).site("localhost")
	a := s.openSockJS(s.via(1), "http://localhost", "xhr", nil).join("news")
	got := make(chan string, 1)
	go func() { got <- a.pollText() }()
	s.reload(ruled("default allow\nheartbeat 20s"))
	s.connect("/push/websocket", nil).publish("news", "later")
	if text := <-got; !strings.Contains(text, "later") {
		t.Errorf("the poll was answered %q", text)
	}
}

// freeUDP returns an address on which there is room for TCP and UDP.
func freeUDP(t *testing.T) string {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		p, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err == nil {
			_ = p.Close()
			return addr
		}
	}
	t.Fatal("no port is free for TCP and UDP")
	return ""
}

// Streams go on over a reload, or end in order, and then the next one goes on: no
// message is lost, and none comes twice. With grace_period, Caddy ends those of
// HTTP/3.
func TestReloadOfStreams(t *testing.T) {
	cert, key := certificate(t, "localhost")
	addr := freeUDP(t)
	config := func(global, block string) string {
		return global + "\nhttps://localhost {\n\ttls " + cert + " " + key + "\n\tpushit {\n\t\tdefault allow\n\t\t" + block + "\n\t}\n}\n"
	}
	const graceful = "{\n\tgrace_period 200ms\n}"
	s := serveAt(t, addr, config(graceful, "")).site("localhost")
	s.tls = true
	// The Host of requests over HTTP/3 has the port: it is dialled.
	origins := map[int]string{1: "https://localhost", 2: "https://localhost", 3: "https://" + strings.Replace(addr, "127.0.0.1", "localhost", 1)}
	ws := s.connect("/push/websocket", nil)
	var readers []*streamReader
	for version := 1; version <= 3; version++ {
		for _, transport := range []string{"xhr_streaming", "eventsource"} {
			readers = append(readers, s.stream(version, origins[version], transport))
		}
	}
	n := 0.0
	publish := func() {
		for range 3 {
			n++
			ws.publish("news", n)
		}
	}
	for i := range 4 {
		publish()
		s.reload(config(graceful, fmt.Sprintf("heartbeat %ds", 10+i)))
		publish()
		// What is cut after the grace period must not take anything with it.
		grace := time.NewTimer(250 * time.Millisecond)
		for wait := true; wait; {
			select {
			case <-grace.C:
				wait = false
			case <-time.After(20 * time.Millisecond):
				publish()
			}
		}
	}
	for _, r := range readers {
		r.want(n)
	}
}

// A streamReader reads a stream of SockJS, and the ones after it.
type streamReader struct {
	*sockJSAgent
	name   string
	frames chan object // closed when the session ends; how says how
	how    atomic.Value
}

// stream opens a session over a stream, and joins news.
func (s site) stream(version int, origin, transport string) *streamReader {
	s.t.Helper()
	r := &streamReader{
		sockJSAgent: s.openSockJS(s.via(version), origin, transport, nil),
		name:        fmt.Sprintf("%s over HTTP/%d", transport, version), frames: make(chan object, 1000),
	}
	opened := make(chan struct{})
	go r.read(transport, version, opened)
	select {
	case <-opened:
	case <-time.After(patience):
		s.t.Fatalf("%s: the stream does not open: %v", r.name, r.how.Load())
	}
	r.send("/meta/connect", nil)
	r.send("/meta/subscribe", object{"channel": "news"})
	for range 2 {
		if f := r.next(); f["successful"] != true {
			s.t.Fatalf("%s: got %v", r.name, f)
		}
	}
	return r
}

func (r *streamReader) next() object {
	r.t.Helper()
	select {
	case f, ok := <-r.frames:
		if !ok {
			r.t.Fatalf("%s: the session has ended: %v", r.name, r.how.Load())
		}
		return f
	case <-time.After(patience):
		r.t.Fatalf("%s: nothing comes", r.name)
	}
	return nil
}

// want wants the numbers from 1 to n, each once and in order.
func (r *streamReader) want(n float64) {
	r.t.Helper()
	for want := 1.0; want <= n; want++ {
		if f := r.next(); f["data"] != want {
			r.t.Fatalf("%s: got %v, want message %v", r.name, f, want)
		}
	}
}

func (r *streamReader) read(transport string, version int, opened chan<- struct{}) {
	defer close(r.frames)
	method := http.MethodPost
	if transport == "eventsource" {
		method = http.MethodGet
	}
	for r.t.Context().Err() == nil {
		req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+transport, http.NoBody)
		if err != nil {
			r.how.Store(err.Error())
			return
		}
		req.Header["X-Idempotency-Key"] = []string{}
		resp, err := r.client.Do(req)
		if err != nil {
			continue // the server has closed the connection: by another one then
		}
		if how := r.readOne(resp, version, &opened); how != "" {
			r.how.Store(how)
			return
		}
	}
}

// readOne reads one response, and says how the session has ended, if it has.
func (r *streamReader) readOne(resp *http.Response, version int, opened *chan<- struct{}) (how string) {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != version {
		return resp.Proto + " " + resp.Status
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text := strings.TrimPrefix(strings.TrimSuffix(lines.Text(), "\r"), "data: ")
		switch {
		case text == "" || text[0] == 'h':
		case text[0] == 'o':
			close(*opened)
			*opened = nil
		case text[0] == 'a':
			for _, f := range framesIn(r.t, text) {
				r.frames <- f
			}
		default:
			return text
		}
	}
	if err := lines.Err(); err != nil {
		return "the stream broke: " + err.Error()
	}
	return ""
}

// A session stays its owner's when the cookies are others by which owners are told
// apart.
func TestReloadOfSessionCookies(t *testing.T) {
	s := serve(t, ruled("default allow")).site("localhost")
	mine := http.Header{"Cookie": {"sid=mine; theme=dark"}}
	a := s.openSockJS(s.via(1), "http://localhost", "xhr", mine).join("news")
	foreign := *a
	foreign.header = http.Header{"Cookie": {"sid=other; theme=dark"}}
	if _, status := foreign.trySend("news", "not told apart"); status != http.StatusNoContent {
		t.Errorf("without session_cookies, xhr_send was answered %d", status)
	}
	a.poll()
	a.poll() // the message, and its acknowledgement
	for _, cookies := range []string{"sid", "sid theme", "theme sid"} {
		s.reload(ruled("default allow\nsession_cookies " + cookies))
		if _, status := foreign.trySend("news", "x"); status != http.StatusNotFound {
			t.Errorf("session_cookies %s: another's xhr_send was answered %d", cookies, status)
		}
		a.send("news", "mine")
		a.poll()
		a.poll()
	}
}

func TestReloadOfTransports(t *testing.T) {
	s := serve(t, ruled("default allow")).site("localhost")
	ws := s.connect("/push/websocket", nil)
	a := s.openSockJS(s.via(1), "http://localhost", "xhr", nil).join("news")
	s.reload(ruled("default allow\ntransports websocket xhr"))
	a.send("news", "still")
	a.poll()
	s.reload(ruled("default allow\ntransports websocket"))
	s.wantLog("a new configuration holds for the agents", func(f object) bool { return f["agents_cut"] == 1.0 && f["agents"] == 2.0 })
	ws.subscribe("news")
	ws.publish("news", "on")
	ws.wantMessage("news", "on")
	s.reload(ruled("default allow\ntransports xhr"))
	ws.wantCut()
}
