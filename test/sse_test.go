// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/needs"
	"github.com/push-it/pushit/internal/wireclient"
)

// An eventStream is what a client of Server-Sent Events reads. It fails its test if it gets
// something unexpected, or nothing.
type eventStream struct {
	*wireclient.EventReader
	t      *testing.T
	resp   *http.Response
	cancel context.CancelFunc
}

// events asks for a stream. address has the query.
func events(t *testing.T, by *http.Client, address, lastID string, h http.Header) *eventStream {
	t.Helper()
	s, err := tryEvents(t, by, address, lastID, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tryEvents is events for a network that fails.
func tryEvents(t *testing.T, by *http.Client, address, lastID string, h http.Header) (*eventStream, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, h)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	late := time.AfterFunc(patience, cancel)
	resp, err := by.Do(r)
	late.Stop()
	if err != nil {
		cancel()
		return nil, err
	}
	s := &eventStream{EventReader: wireclient.NewEventReader(resp.Body, lastID), t: t, resp: resp, cancel: cancel}
	t.Cleanup(s.leave)
	return s, nil
}

func (s *eventStream) leave() {
	s.cancel()
	_ = s.resp.Body.Close() // nothing is read any more
}

func (s *eventStream) next() wireclient.Event {
	s.t.Helper()
	e, err := s.tryNext()
	if err != nil {
		s.t.Fatalf("status %d, no event: %v", s.resp.StatusCode, err)
	}
	return e
}

// tryNext returns an error if the stream ends, or is silent for too long.
func (s *eventStream) tryNext() (wireclient.Event, error) {
	defer time.AfterFunc(fallbackPatience, s.cancel).Stop()
	return s.Next()
}

func (s *eventStream) want(name, data string) {
	s.t.Helper()
	if e := s.next(); e.Name != name || e.Data != data {
		s.t.Fatalf("event %+v; want %s %q", e, name, data)
	}
}

// refusal returns the status and the sentence in place of a stream.
func (s *eventStream) refusal() string {
	s.t.Helper()
	text, err := io.ReadAll(s.resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", s.resp.StatusCode, strings.TrimSpace(string(text)))
}

func streamSite(address, around, gates string) string {
	return address + " {\n\tlog\n\t" + around + "\n\tpushit /push {\n\t\t" + gates + "\n\t\theartbeat 10m\n\t\thistory 10000 1h\n\t\tapi bearer \"" + apiSecret + "\"\n\t}\n}\n"
}

// say publishes on a channel as a program does. If there is no answer, it repeats the request:
// a reload resets connections that the old listener has not accepted yet.
func (s site) say(by *http.Client, channel string, data any) {
	s.t.Helper()
	body, err := json.Marshal(object{"channel": channel, "data": data, "uuid": cryptorand.Text()})
	if err != nil {
		s.t.Fatal(err)
	}
	for tries := 1; ; tries++ {
		r, err := http.NewRequestWithContext(context.WithoutCancel(s.t.Context()), http.MethodPost, s.origin()+"/push/publish", bytes.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		r.Header = asBackend()
		r.Header.Set("Content-Type", "application/json")
		resp, err := by.Do(r)
		if err != nil && tries < 3 {
			continue
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			s.t.Errorf("publishing: %d %s", resp.StatusCode, text)
		}
		return
	}
}

// TestEventStreamsOverEveryHTTP: each event arrives at once over every version of HTTP, also
// behind encode, and the next request continues after it.
func TestEventStreamsOverEveryHTTP(t *testing.T) {
	cert, key := certificate(t, "localhost")
	srv := &server{t: t, listen: freeAddress(t), http3: true}
	srv.start(streamSite("https://localhost", "tls "+cert+" "+key+"\n\tencode zstd gzip {\n\t\tminimum_length 1\n\t\tmatch header Content-Type *\n\t}", "default allow"))
	s := srv.site("localhost")
	s.tls = true
	for version, proto := range map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2.0", "h3": "HTTP/3.0"} {
		by := s.client(version)
		address := s.origin() + "/push/sse?channel=" + version
		c := events(t, by, address, "", header("Accept-Encoding", "gzip, zstd"))
		if c.resp.Proto != proto || c.resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s, Content-Encoding %q", c.resp.Proto, c.resp.Header.Get("Content-Encoding"))
		}
		for n := range 3 { // each comes before the next is published
			s.say(by, version, fmt.Sprintf("<p>%d\n</p>", n))
			c.want("message", fmt.Sprintf("<p>%d\n</p>", n))
		}
		c.leave()
		s.say(by, version, "away")
		events(t, by, address, c.LastID, nil).want("message", "away")
	}
}

// TestEventStreamsHaveGates: the gates decide about streams as about every agent, and see
// cookies and header fields. A parameter of the query is a credential only if it is named.
func TestEventStreamsHaveGates(t *testing.T) {
	srv := serve(t, streamSite("http://site.test", "", `
		default deny
		connect {
			cel `+"`request.cookies.login == 'ann' || request.headers['X-Key'] == 'k' || request.query.named == 'q'`"+`
		}
		channel stories/* {
			subscribe allow
			patterns
		}
		channel secret/* {
			subscribe cel `+"`channel == 'secret/ann'`"+`
		}`))
	s := srv.site("site.test")
	by := s.client("h1")
	for _, tc := range []struct {
		query  string
		header http.Header
		want   string
	}{
		{"channel=stories/1", nil, "401"},
		{"channel=stories/1&login=ann", nil, "401"},
		{"channel=stories/1", header("X-Key", "other"), "401"},
		{"channel=stories/1", header("Authorization", "Bearer x"), "403"},
		{"channel=secret/bob", header("Cookie", "login=ann"), `403 The channel "secret/bob":`},
		{"channel=stories/1&channel=secret/bob", header("Cookie", "login=ann"), `403 The channel "secret/bob":`},
		{"channel=secret/*", header("Cookie", "login=ann"), `403 The channel "secret/*":`},
		{"channel=stories/1", http.Header{"Cookie": {"login=ann"}, "Origin": {"http://evil.test"}}, "403"},
	} {
		c := events(t, by, s.origin()+"/push/sse?"+tc.query, "", tc.header)
		if got := c.refusal(); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s %v: %s, want %s", tc.query, tc.header, got, tc.want)
		}
	}
	for query, h := range map[string]http.Header{
		"channel=stories/*&channel=secret/ann": header("Cookie", "login=ann"),
		"channel=stories/1":                    header("X-Key", "k"),
		"channel=stories/1&named=q":            nil,
	} {
		c := events(t, by, s.origin()+"/push/sse?"+query, "", h)
		s.say(by, "stories/1", query)
		c.want("message", query)
	}
}

// TestEventStreamsOutliveReloads: a stream stays open. A gate that has changed ends it with
// the reason, and refuses the next one.
func TestEventStreamsOutliveReloads(t *testing.T) {
	config := streamSite("http://site.test", "", "connect allow\n\t\tsubscribe allow\n\t\tpublish deny")
	srv := serve(t, config)
	s := srv.site("site.test")
	by := s.client("h1")
	address := s.origin() + "/push/sse?channel=a&channel=b"
	c := events(t, by, address, "", nil)
	s.say(by, "a", 1)
	c.want("message", "1")
	if err := srv.load(config + "\n# again\n"); err != nil {
		t.Fatal(err)
	}
	s.say(s.client("h1"), "b", 2)
	c.want("message", "2")
	if err := srv.load(strings.Replace(config, "subscribe allow", "subscribe cel `channel == 'a'`", 1)); err != nil {
		t.Fatal(err)
	}
	var end struct {
		Code    int
		Channel string
		Retry   int
	}
	e := c.next()
	if err := json.Unmarshal([]byte(e.Data), &end); err != nil || e.Name != "/meta/close" || end.Code != 4403 || end.Channel != "b" || c.Retry.Milliseconds() != int64(end.Retry) {
		t.Errorf("%+v, retry %v, %v", e, c.Retry, err)
	}
	if _, err := c.Next(); err == nil {
		t.Error("an event after the last one")
	}
	if got := events(t, s.client("h1"), address, c.LastID, nil).refusal(); !strings.HasPrefix(got, `403 The channel "b"`) {
		t.Error(got)
	}
}

// TestEventStreamsOverHTTP3OutliveReloads reloads while a program publishes. Without a grace
// period, streams go on. With one, Caddy cuts them at its end, so pushit ends them in order
// before. Then the clients come back at once, and miss nothing.
func TestEventStreamsOverHTTP3OutliveReloads(t *testing.T) {
	const reloads, before = 3, 10
	for _, tc := range []struct {
		name, global, channel string
		ends                  bool
	}{
		{"without a grace period", "", "numbers", false},
		{"with a grace period", "{\n\tgrace_period 30s\n}\n", "kept/numbers", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert, key := certificate(t, "localhost")
			config := tc.global + streamSite("https://localhost", "tls "+cert+" "+key+"\n\theader X-Generation 0", "default allow")
			config = strings.Replace(config, "history 10000 1h", "channel kept/* {\n\t\t\thistory 10000 1h\n\t\t}", 1)
			s := serveAt(t, freeAddress(t), config).site("localhost")
			s.tls = true
			query := s.origin() + "/push/sse?format=json&channel=" + tc.channel
			c := events(t, s.client("h3"), query, "", nil)
			if c.resp.Proto != "HTTP/3.0" {
				t.Fatal(c.resp.Proto)
			}
			var received atomic.Int64 // so many
			ended := 0
			over := make(chan struct{})
			go func() {
				defer close(over)
				for {
					e, err := c.tryNext()
					switch want := received.Load(); {
					case err == nil && e.Data == `"end"`:
						return
					case err == nil && e.Name == "message" && e.Data == fmt.Sprint(want):
						received.Add(1)
					case err != nil && tc.ends && c.Retry <= time.Second:
						ended++
						c.leave()
						c = eventsAgain(t, func() *http.Client { return s.client("h3") }, query, c.LastID)
					default:
						t.Errorf("%+v, want %d; the client comes back after %v: %v", e, want, c.Retry, err)
						return
					}
				}
			}()
			by, n := s.client("h1"), int64(0)
			say := func() {
				s.say(by, tc.channel, n)
				n++
			}
			for i := range reloads {
				for range before {
					say()
				}
				if err := s.load(strings.Replace(config, "Generation 0", fmt.Sprint("Generation ", 1+i), 1)); err != nil {
					t.Error(err)
				}
				by = s.client("h1") // the old one may have a connection that is being closed
				// The client has to be back before the next reload.
				for after, late := n, time.Now().Add(fallbackPatience); received.Load() <= after && time.Now().Before(late) && !t.Failed(); <-time.After(20 * time.Millisecond) {
					say()
				}
			}
			s.say(by, tc.channel, "end")
			<-over
			if tc.ends && ended < reloads {
				t.Errorf("%d streams have ended in %d reloads", ended, reloads)
			}
		})
	}
}

// eventsAgain comes back to a stream, as often as necessary: while a server reloads, a request
// may get no answer.
func eventsAgain(t *testing.T, client func() *http.Client, address, lastID string) *eventStream {
	t.Helper()
	for late := time.Now().Add(fallbackPatience); ; <-time.After(10 * time.Millisecond) {
		c, err := tryEvents(t, client(), address, lastID, nil)
		if err == nil && c.resp.StatusCode == http.StatusOK {
			return c
		}
		if time.Now().After(late) {
			t.Fatalf("the stream does not go on: %v", err)
		}
	}
}

// TestEventStreamsEndWhenTheServerStops: what is queued comes, then when to come back, over
// every version of HTTP.
func TestEventStreamsEndWhenTheServerStops(t *testing.T) {
	cert, key := certificate(t, "localhost")
	s := serveAt(t, freeAddress(t), streamSite("https://localhost", "tls "+cert+" "+key, "default allow")).site("localhost")
	s.tls = true
	streams := make(map[string]*eventStream)
	for _, version := range []string{"h1", "h2", "h3"} {
		streams[version] = events(t, s.client(version), s.origin()+"/push/sse?channel=a", "", nil)
	}
	s.say(s.client("h1"), "a", "last")
	stopped := s.stopping()
	for version, c := range streams {
		c.want("message", "last")
		if e := c.next(); e.Name != "/meta/close" || !strings.Contains(e.Data, `"code":4503`) || c.Retry < time.Second {
			t.Errorf("%s: %+v, retry %v", version, e, c.Retry)
		}
		if e, err := c.tryNext(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: after the last event: %+v, %v", version, e, err)
		}
	}
	<-stopped
}

// TestEventStreamsResume has a proxy cut streams while many publish. Everything comes exactly
// once, in the order of its channel.
func TestEventStreamsResume(t *testing.T) {
	const publishers, each = 5, 200
	s := serve(t, streamSite("http://site.test", "", "default allow")).site("site.test")
	target, err := url.Parse("http://" + s.address())
	if err != nil {
		t.Fatal(err)
	}
	through := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = "site.test"
	}}
	proxy := newCutter(t, through)
	by := s.client("h1")
	var all sync.WaitGroup
	done := make(chan struct{})
	for i, query := range []string{"channel=c/0&channel=c/1&channel=c/2&channel=c/3&channel=c/4", "channel=c/*", "channel=c/2&channel=*"} {
		stream := events(t, http.DefaultClient, proxy.URL+"/push/sse?format=frame&"+query, "", nil)
		all.Go(func() {
			var next [publishers]int
			cuts := 0
			for got := 0; got < publishers*each; {
				e, err := stream.Next()
				if err != nil {
					cuts++
					if again, err := tryEvents(t, http.DefaultClient, proxy.URL+"/push/sse?format=frame&"+query, stream.LastID, nil); err == nil && again.resp.StatusCode == http.StatusOK {
						stream = again
					}
					continue
				}
				var frame struct {
					Channel string
					Data    int
				}
				var p int
				if json.Unmarshal([]byte(e.Data), &frame) != nil {
					t.Errorf("%s: %+v", query, e)
					return
				}
				if _, err := fmt.Sscanf(frame.Channel, "c/%d", &p); err != nil || frame.Data != next[p] {
					t.Errorf("%s: %+v, want %d, after %d cuts", query, e, next[p], cuts)
					return
				}
				next[p]++
				got++
			}
			if cuts == 0 {
				t.Errorf("stream %d was never cut", i)
			}
			t.Logf("%s: %d messages over %d cuts", query, publishers*each, cuts)
		})
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for n := range each {
				s.say(by, fmt.Sprintf("c/%d", p), n)
				if rand.IntN(25) == 0 {
					proxy.cut()
				}
			}
		})
	}
	go func() { publishing.Wait(); all.Wait(); close(done) }()
	<-done
}

// A cutter is a server that cuts its connections on request.
type cutter struct {
	*httptest.Server

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

func newCutter(t *testing.T, h http.Handler) *cutter {
	t.Helper()
	c := &cutter{conns: make(map[net.Conn]struct{})}
	c.Server = httptest.NewUnstartedServer(h)
	c.Config.ErrorLog = nil
	c.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch state {
		case http.StateActive:
			c.conns[conn] = struct{}{}
		case http.StateClosed, http.StateHijacked:
			delete(c.conns, conn)
		}
	}
	c.Start()
	t.Cleanup(func() {
		c.cut()
		c.Close()
	})
	return c
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close() // its client notices
	}
}

// TestListeningFromTheCommandLine runs the command of docs/sse.md against the Caddyfile there.
func TestListeningFromTheCommandLine(t *testing.T) {
	curl := needs.Program(t, "curl")
	t.Setenv("PUBLISHER_SECRET", apiSecret)
	var config, command string
	for _, f := range fences(t) {
		if f.path == "docs/sse.md" && f.language() == "caddyfile" {
			config = f.text
		}
		if f.path == "docs/sse.md" && f.language() == "sh" {
			command = f.text
		}
	}
	s := serve(t, strings.Replace(config, "example.com {", "http://:8080 {", 1)).site("localhost")
	script := filepath.Join(t.TempDir(), "listen.sh")
	text := "exec " + strings.Replace(command, "https://example.com", "http://"+s.address(), 1)
	if !strings.Contains(text, "exec curl -N ") || os.WriteFile(script, []byte(text), 0o600) != nil {
		t.Fatalf("the command %q", text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), fallbackPatience)
	defer cancel()
	run := exec.CommandContext(ctx, "sh", script)
	run.Env = append(os.Environ(), "PATH="+filepath.Dir(curl)+":"+os.Getenv("PATH"))
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = run.Wait() }() // it was stopped
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "" { // what a stream begins with
	}
	s.say(s.client("h1"), "news", "It works.")
	s.say(s.client("h1"), "stories/5", "This too.")
	var got []string
	for len(got) < 2 && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			got = append(got, data)
		}
	}
	if strings.Join(got, " ") != "It works. This too." {
		t.Errorf("%q", got)
	}
}
