// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// fallbackNames are the fallback transports, in a fixed order.
var fallbackNames = []string{"xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp"}

// newFallbackServer serves an endpoint with all transports at /push, after change,
// if it is not nil, has changed it. If p does not say how long a client may take to connect, it
// may take as long as the test.
func newFallbackServer(t *testing.T, p *hub.Policy, change func(*Endpoint)) (*httptest.Server, *Endpoint) {
	t.Helper()
	e := newEndpoint(t, hub.Limits{}, "https://friend.example", "null")
	p.Mount = "fallback"
	if p.Handshake == 0 {
		p.Handshake = time.Hour
	}
	e.Policy = e.Hub.Use(p)
	e.Transports = AllTransports
	if change != nil {
		change(e)
	}
	s := httptest.NewServer(handler(e))
	t.Cleanup(func() {
		e.Hub.Drop(e.Policy) // what still receives would keep the server from closing
		s.Close()
	})
	return s, e
}

// newBystanders returns a server of e's hub with calmTimes: for clients that a short time of e's,
// which a test is about, must not end.
func newBystanders(t *testing.T, e *Endpoint) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler(&Endpoint{Hub: e.Hub, Policy: e.Policy, Sessions: e.Sessions, Origins: e.Origins, Transports: e.Transports, times: calmTimes(), Caller: e.Caller, Opening: e.Opening}))
	t.Cleanup(func() {
		e.Hub.Drop(e.Policy)
		s.Close()
	})
	return s
}

// The preludes of SockJS, and its frames, as they are on the wire.
func preludeOf(t *testing.T, transport string) string {
	t.Helper()
	switch transport {
	case "xhr_streaming":
		return strings.Repeat("h", 2048) + "\n"
	case "eventsource":
		return "\r\n"
	}
	return ""
}

func dressed(transport, frame string) string {
	quoted, _ := json.Marshal(frame)
	switch transport {
	case "eventsource":
		return "data: " + strings.ReplaceAll(frame, "%", "%25") + "\r\n\r\n"
	case "htmlfile":
		return "<script>\np(" + string(quoted) + ");\n</script>\r\n"
	case "jsonp":
		return "/**/call(" + string(quoted) + ");\r\n"
	}
	return frame + "\n"
}

// TestFallbackOpens checks the prelude, the o frame and the header fields of each
// transport (SockJS protocol, test_transport of each).
func TestFallbackOpens(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	types := map[string]string{
		"xhr": "application/javascript; charset=UTF-8", "xhr_streaming": "application/javascript; charset=UTF-8",
		"eventsource": "text/event-stream", "htmlfile": "text/html; charset=UTF-8", "jsonp": "application/javascript; charset=UTF-8",
	}
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.receiveOver(name)
			resp := c.response()
			for field, want := range map[string]string{
				"Content-Type":                     types[name],
				"Cache-Control":                    "no-store, no-cache, no-transform, must-revalidate, max-age=0",
				"X-Content-Type-Options":           "nosniff",
				"X-Accel-Buffering":                "no",
				"Access-Control-Allow-Origin":      "",
				"Access-Control-Allow-Credentials": "",
				"Vary":                             "Origin",
				"Set-Cookie":                       "",
			} {
				if got := resp.Header.Get(field); got != want {
					t.Errorf("%s: %q, want %q", field, got, want)
				}
			}
			if name == "htmlfile" {
				var page strings.Builder
				for !strings.HasSuffix(page.String(), "\r\n\r\n") {
					b := make([]byte, 1)
					if _, err := io.ReadFull(c.Stream(), b); err != nil {
						t.Fatalf("%q: %v", page.String(), err)
					}
					page.Write(b)
				}
				if !strings.Contains(page.String(), "var c = parent.call;") || page.Len() < 1024 {
					t.Errorf("the page is %d bytes: %q", page.Len(), page.String())
				}
			}
			c.want(preludeOf(t, name) + dressed(name, "o"))
			if framings[name].poll {
				c.wantEnd()
				return
			}
			c.send(metaConnect)
			c.want(dressed(name, `a[`+jsonString(`{"channel":"/meta/connect","uuid":"1","agentId":"a","successful":true,"error":""}`)+`]`))
		})
	}
}

func jsonString(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// TestFallbackTalks sends messages with awkward contents over each transport, one by one and
// many at once.
func TestFallbackTalks(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	awkward := []any{
		"plain", "", "quote \" and \\ backslash", "line\nfeed\rreturn\ttab", "\u2028\u2029\u200c\ufeff", "100% %41 %0A", "</script><script>alert(1)</script>",
		"é ü 漢字 \U0001F600", "\x00\x01\x1e\x1f\x7f", `}\u001e{`, "}\x1e{", `"]`, `a["h"]`, `c[2010,"x"]`, "h",
		map[string]any{"a": []any{1, nil, true, "}\x1e{"}},
		strings.Repeat("long ", 5000),
	}
	var want []string
	for _, v := range awkward {
		text, _ := json.Marshal(v)
		want = append(want, string(text))
	}
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.connect(name)
			for i, v := range awkward {
				c.publish(v)
				if got := c.messages(name, 1); !sameJSON(got[0], want[i]) {
					t.Errorf("got %q, want %q", shorten([]byte(got[0])), shorten([]byte(want[i])))
				}
			}
			var all []string
			for _, v := range awkward {
				all = append(all, publication(t, v))
			}
			for at := 0; at < len(all); at += 6 {
				c.send(all[at:min(at+6, len(all))]...)
			}
			for i, got := range c.messages(name, len(all)) {
				if !sameJSON(got, want[i]) {
					t.Errorf("message %d: got %q, want %q", i, shorten([]byte(got)), shorten([]byte(want[i])))
				}
			}
		})
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// TestWhatWaitsComesInOneFrame publishes messages between two polls.
func TestWhatWaitsComesInOneFrame(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range []string{"xhr", "jsonp"} {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.connect(name)
			c.finish()
			c.send(publication(t, 1), publication(t, 2), publication(t, 3))
			c.receiveOver(name)
			var got []string
			for _, object := range objects(t, undress(t, name, c.all())) {
				if d, ok := dataOf(t, object); ok {
					got = append(got, d)
				}
			}
			// The writer may have taken the first one alone.
			if len(got) < 1 || got[0] != "1" {
				t.Errorf("messages %q in one poll", got)
			}
			for i, d := range append(got, c.rest(name, 3-len(got))...) {
				if d != fmt.Sprint(i+1) {
					t.Errorf("message %d is %s", i, d)
				}
			}
		})
	}
}

// rest returns the data of n more messages, over new requests.
func (c *sockJSClient) rest(transport string, n int) []string {
	c.t.Helper()
	c.finish()
	return c.messages(transport, n)
}

// TestFallbackCloses checks the c frame (SockJS protocol, test_close): the response gets it,
// and so do later requests.
func TestFallbackCloses(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.connect(name)
			if framings[name].poll {
				c.receiveOver(name)
			}
			e.only(t).Close(4403, `cut: "50 %"`, hub.NoRetry)
			bye := `c[4403,"cut: \"50 %\""]`
			notice := c.receive(name)
			if len(notice) != 1 || !strings.Contains(notice[0], `/meta/close`) {
				t.Errorf("before the end: %q", notice)
			}
			for range 3 {
				if framings[name].poll || !c.Receiving() {
					c.receiveOver(name)
				}
				if got := c.frame(); got != bye {
					t.Errorf("got %q, want %q", got, bye)
				}
				c.wantEnd()
				c.finish()
			}
			if status, answer, _ := c.ask(http.MethodPost, "/xhr_send", `["{}"]`); status != http.StatusNotFound {
				t.Errorf("sending to what has ended: status %d, %q", status, answer)
			}
			e.wantAgents(t, 0)
		})
	}
}

// only returns the only agent.
func (e *Endpoint) only(t *testing.T) agent {
	t.Helper()
	var found agent
	for _, f := range e.Sessions.all() {
		if !f.isOver() {
			found = f.agent
		}
	}
	if found == nil {
		t.Fatal("no agent is there")
	}
	return found
}

// wantAgents waits until the hub has that many agents.
func (e *Endpoint) wantAgents(t *testing.T, want int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d agents", want), func() bool { return e.Hub.Agents() == want })
}

// TestFallbackHeartbeats waits for the h frame. It ends a poll, and a stream that has been open
// for half an interval: the client's next request shows that the client is alive.
func TestFallbackHeartbeats(t *testing.T) {
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time it waits
			// After a heartbeat, a client on a busy machine has three seconds before it looks silent.
			s, _ := newFallbackServer(t, &hub.Policy{Heartbeat: 4 * time.Second}, nil)
			c := newSockJSClient(t, s)
			c.connect(name)
			for i := range 3 { // at least two intervals: silence would have ended it
				if i > 0 || framings[name].poll {
					c.receiveOver(name)
				}
				beats := 0
				for f := c.frame(); f != ""; f = c.frame() {
					if f != "h" {
						t.Fatalf("got %q", f)
					}
					beats++
				}
				if beats == 0 || beats > 3 || framings[name].poll && beats != 1 {
					t.Errorf("%d heartbeats in one response", beats)
				}
			}
			c.publish("still there")
			c.finish()
			c.messages(name, 1)
			c.abort()
		})
	}
}

// TestStreamEndsAtItsLimit publishes more than one response may carry (SockJS protocol,
// test_response_limit). All messages arrive, in several responses.
func TestStreamEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{Limits: hub.Limits{PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited}}, nil)
	for _, name := range []string{"xhr_streaming", "eventsource", "htmlfile"} {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.connect(name)
			const n, size = 40, 20_000
			var sender sync.WaitGroup
			defer sender.Wait() // its last answer may come after the last message
			from := *c          // sends beside what receives
			sender.Go(func() {
				for i := range n {
					from.publish(fmt.Sprintf("%d %s", i, strings.Repeat("x", size)))
				}
			})
			responses, inOne, most := 1, 0, 0
			for next := 0; next < n; {
				f := c.frame()
				if f == "" {
					responses++
					c.receiveOver(name)
					inOne = 0
					continue
				}
				inOne += len(f)
				most = max(most, inOne)
				for _, object := range objects(t, f) {
					d, ok := dataOf(t, object)
					if !ok {
						continue
					}
					if !strings.HasPrefix(d, fmt.Sprintf(`"%d x`, next)) {
						t.Fatalf("message %d begins %q", next, d[:10])
					}
					next++
				}
			}
			if responses < n*size/responseLimit/2 || most > 2*responseLimit {
				t.Errorf("%d responses, %d bytes in the largest", responses, most)
			}
		})
	}
}

// TestSecondReceiverIsTurnedAway: a second request to receive gets 2010, and does not disturb
// the first (SockJS protocol, test_abort_xhr_streaming, test_abort_xhr_polling).
func TestSecondReceiverIsTurnedAway(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) { e.times.abandoned = 20 * time.Millisecond })
	for _, name := range fallbackNames {
		for _, second := range fallbackNames {
			t.Run(name+" then "+second, func(t *testing.T) {
				c := newSockJSClient(t, s)
				c.connect(name)
				if framings[name].poll {
					c.receiveOver(name)
					e.wantReceiver(t)
				}
				other := *c
				other.receiveOver(second)
				if got, want := other.frame(), `c[2010,"Another connection still open"]`; got != want {
					t.Errorf("the second got %q, want %q", got, want)
				}
				other.wantEnd()
				c.publish("first")
				// The answer and the message, in any order.
				if got := strings.Join(c.receiveN(name, 2), " "); !strings.Contains(got, `"data":"first"`) {
					t.Errorf("the first got %q", got)
				}
				if framings[name].poll {
					c.receiveOver(name)
					e.wantReceiver(t)
				}
				c.abort()
				e.wantAgents(t, 0)
			})
		}
	}
}

// wantReceiver waits until a session has a response attached.
func (e *Endpoint) wantReceiver(t *testing.T) {
	t.Helper()
	waitFor(t, "a request to receive", func() bool {
		return slices.ContainsFunc(e.Sessions.all(), func(f *session) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.bye == "" && f.response != nil && !f.response.isComplete()
		})
	})
}

// TestAbortEndsTheSession: if a client cancels a request to receive, frames may be lost, so the
// session ends with 1002 (SockJS protocol, test_abort_xhr_streaming).
func TestAbortEndsTheSession(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.connect(name)
			if framings[name].poll {
				c.receiveOver(name)
				e.wantReceiver(t)
			}
			c.abort()
			e.wantAgents(t, 0)
			for range 2 {
				c.receiveOver(name)
				if got, want := c.frame(), `c[1002,"Connection interrupted"]`; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				c.wantEnd()
			}
			if status, _, _ := c.ask(http.MethodPost, "/xhr_send", `["{}"]`); status != http.StatusNotFound {
				t.Errorf("sending: status %d", status)
			}
		})
	}
}

// TestSessionMovesBetweenTransports, as SockJS allows.
func TestSessionMovesBetweenTransports(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr")
	for i := range 10 {
		c.publish(i)
		c.finish()
		if got := c.messages([]string{"jsonp", "xhr"}[i%2], 1); got[0] != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, got)
		}
	}
}

// TestJSONPSends (SockJS protocol, JsonPolling).
func TestJSONPSends(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.receiveOver("jsonp")
	c.want(dressed("jsonp", "o"))
	body, _ := json.Marshal([]string{metaConnect, metaSubscribe})
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for i, tc := range []struct {
		header http.Header
		body   string
		status int
	}{
		{form, "d=" + url.QueryEscape(string(body)), 200},
		{http.Header{"Content-Type": {"text/plain"}}, jsonArray(publication(t, "a % b+c")), 200},
		{form, "d=" + url.QueryEscape(jsonArray(publication(t, "a % b+c"))), 200},
		{form, "", 400},
		{form, "e=1", 400},
		{form, "d=", 400},
		{form, "d=%zz", 400},
		{form, "d=%5B%22x", 400},
		{form, "d=%5B%5D&d=%5B%5D", 400},
	} {
		c.Header = tc.header
		status, answer, h := c.ask(http.MethodPost, "/jsonp_send", tc.body)
		if status != tc.status || status == 200 && (answer != "ok" || !strings.HasPrefix(h.Get("Content-Type"), "text/plain")) || status != 200 && !strings.HasSuffix(answer, ".\n") {
			t.Errorf("%d: status %d, %q", i, status, answer)
		}
	}
	c.Header = http.Header{}
	c.finish()
	for _, d := range c.messages("jsonp", 2) {
		if d != `"a % b+c"` {
			t.Errorf("got %q", d)
		}
	}
}

func jsonArray(list ...string) string {
	text, _ := json.Marshal(list)
	return string(text)
}

func TestCallbacks(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range []string{"htmlfile", "jsonp"} {
		for _, query := range []string{"", "?c=", "?c=a(b)", "?c=%3Cscript%3E", "?c=a%20b", "?c=a;b", "?c=" + strings.Repeat("a", 65)} {
			c := newSockJSClient(t, s)
			status, answer, h := c.ask(http.MethodGet, "/"+name+query, "")
			if status != http.StatusBadRequest || !strings.Contains(answer, `"callback" parameter required`) || h.Get("Content-Type") != "text/plain; charset=UTF-8" {
				t.Errorf("%s%s: status %d, %q", name, query, status, answer)
			}
		}
		c := newSockJSClient(t, s)
		c.Query = "c=_Jp.a1bC"
		c.receiveOver(name)
		c.response()
		text := make([]byte, 400)
		n, _ := c.Stream().Read(text)
		if !strings.Contains(string(text[:n]), "_Jp.a1bC") {
			t.Errorf("%s: %q", name, text[:n])
		}
	}
}
