// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// TestBodies: 204 means that the agent got the frames.
func TestBodies(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{Limits: smallLimits}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	ok := jsonArray(publication(t, "taken"))
	large := jsonArray(publication(t, strings.Repeat("x", 10_000)))
	for _, tc := range []struct {
		name     string
		header   http.Header
		body     string
		status   int
		sentence string
	}{
		{"messages", nil, ok, 204, ""},
		{"a string alone", nil, ok[1 : len(ok)-1], 204, ""},
		{"with space around", nil, " \r\n" + ok + "\n ", 204, ""},
		{"of another type", http.Header{"Content-Type": {"application/json; charset=utf-8"}}, ok, 204, ""},
		{"of a type that is none", http.Header{"Content-Type": {"T"}}, ok, 204, ""},
		{"identity", http.Header{"Content-Encoding": {"identity"}}, ok, 204, ""},
		{"no messages", nil, "[]", 204, ""},
		{"empty", nil, "", 400, "Payload expected"},
		{"numbers", nil, "[1,2]", 400, "Broken JSON encoding"},
		{"an object", nil, `{"a":1}`, 400, "Broken JSON encoding"},
		{"null", nil, `[null]`, 400, "Broken JSON encoding"},
		{"not at its end", nil, `["x`, 400, "Broken JSON encoding"},
		{"more behind it", nil, ok + ok, 400, "Broken JSON encoding"},
		{"lone surrogate", nil, `["\ud800"]`, 400, "Broken JSON encoding"},
		{"not UTF-8", nil, "[\"\xff\"]", 400, "UTF-8"},
		{"nested", nil, `[["a"]]`, 400, "Broken JSON encoding"},
		{"compressed", http.Header{"Content-Encoding": {"gzip"}}, ok, 415, "Compressed"},
		{"over the limit", nil, large, 413, fmt.Sprintf("at most %d bytes", bodyLimit(smallLimits.WithDefaults()))},
		{"too many strings", nil, "[" + strings.Repeat(`"",`, maxStrings) + `""]`, 413, "1024 strings"},
	} {
		c.Header = http.Header{}
		maps.Copy(c.Header, tc.header)
		status, answer, h := c.ask(http.MethodPost, "/xhr_send", tc.body)
		if status != tc.status || !strings.Contains(answer, tc.sentence) || status != 204 && !strings.HasSuffix(answer, ".\n") {
			t.Errorf("%s: status %d, %q", tc.name, status, answer)
		}
		if got := h.Get("Content-Type"); got != "text/plain; charset=UTF-8" && status != 204 {
			t.Errorf("%s: Content-Type %q", tc.name, got)
		}
	}
	c.Header = http.Header{}

	// The agent got the six bodies with 204, and nothing of the others.
	c.publish("last")
	var got []string
	for len(got) == 0 || got[len(got)-1] != `"last"` {
		got = append(got, c.messages("xhr_streaming", 1)...)
	}
	// A publish with the same uuid as before is acknowledged, but not published again.
	if len(got) != 2 || got[0] != `"taken"` {
		t.Errorf("messages %q", got)
	}
	e.only(t)
}

// TestChunkedAndSlowBodies: a body may come in pieces, but not for ever.
func TestChunkedAndSlowBodies(t *testing.T) {
	t.Parallel()
	var s *httptest.Server
	var c *sockJSClient
	serve := func(message time.Duration) {
		s, _ = newFallbackServer(t, &hub.Policy{Limits: smallLimits}, func(e *Endpoint) { e.times.message = message })
		c = newSockJSClient(t, s)
	}
	post := func(head string, pieces ...string) *http.Response {
		nc := dial(t, s)
		resp, _ := exchange(t, nc, "POST "+strings.TrimPrefix(c.URL, s.URL)+"/xhr_send HTTP/1.1\r\nHost: "+strings.TrimPrefix(s.URL, "http://")+"\r\n"+head, []byte(strings.Join(pieces, "")))
		return resp
	}
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	serve(defaultTimes.message)
	c.connect("xhr_streaming")
	body := jsonArray(publication(t, "in pieces"))
	if resp := post("Transfer-Encoding: chunked\r\n", chunk(body[:7]), chunk(body[7:30]), chunk(body[30:]), chunk("")); resp.StatusCode != 204 {
		t.Errorf("in pieces: status %d", resp.StatusCode)
	}
	if got := c.messages("xhr_streaming", 1); got[0] != `"in pieces"` {
		t.Errorf("got %q", got)
	}
	want := func(status int, head, sent string) {
		t.Helper()
		if resp := post(head, sent); resp.StatusCode != status {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
			t.Errorf("%q: status %d, want %d: %s", head, resp.StatusCode, status, text)
		}
	}
	want(http.StatusRequestEntityTooLarge, "Content-Length: 1000000\r\n", "")
	want(http.StatusRequestEntityTooLarge, "Transfer-Encoding: chunked\r\n", chunk(strings.Repeat("x", 10_000)))
	serve(100 * time.Millisecond)
	c.receiveOver("xhr_streaming")
	if f := c.frame(); f != "o" { // to connect it would send a body, which may take longer here
		t.Fatalf("the session begins with %q", f)
	}
	want(http.StatusRequestTimeout, "Content-Length: 100\r\n", "")
	want(http.StatusRequestTimeout, "Transfer-Encoding: chunked \r\n", "")
}

// TestFallbackAnswers checks the rules for methods, unknown sessions and other sites' pages.
func TestFallbackAnswers(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	all := map[string]string{"xhr_send": http.MethodPost, "jsonp_send": http.MethodPost}
	for name, kind := range framings {
		all[name] = kind.method
	}
	for name, method := range all {
		for _, wrong := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch} {
			if wrong == method {
				continue
			}
			c := newSockJSClient(t, s)
			status, answer, h := c.ask(wrong, "/"+name, "")
			if status != http.StatusMethodNotAllowed || h.Get("Allow") != "OPTIONS, "+method || wrong != http.MethodHead && !strings.HasSuffix(answer, ".\n") {
				t.Errorf("%s %s: status %d, Allow %q, %q", wrong, name, status, h.Get("Allow"), answer)
			}
		}
		for _, origin := range []string{"https://friend.example", "null", "", "https://foe.example"} {
			c := newSockJSClient(t, s)
			want, allowed := http.StatusNoContent, origin
			if origin != "" {
				c.Header.Set("Origin", origin)
			}
			if origin == "https://foe.example" {
				want, allowed = http.StatusForbidden, ""
			}
			status, _, h := c.ask(http.MethodOptions, "/"+name, "")
			if status != want || h.Get("Access-Control-Allow-Origin") != allowed {
				t.Errorf("OPTIONS %s from %q: status %d, %v", name, origin, status, h)
			}
			if allowed == "" {
				continue
			}
			for field, want := range map[string]string{
				"Access-Control-Allow-Credentials": "true", "Access-Control-Allow-Methods": "OPTIONS, " + method, "Vary": "Origin",
				"Access-Control-Max-Age": "31536000", "Cache-Control": "public, max-age=31536000",
			} {
				if got := h.Get(field); got != want {
					t.Errorf("OPTIONS %s: %s: %q, want %q", name, field, got, want)
				}
			}
			if expires, err := http.ParseTime(h.Get("Expires")); err != nil || time.Until(expires) < 300*24*time.Hour {
				t.Errorf("Expires: %q, %v", h.Get("Expires"), err)
			}
		}
		c := newSockJSClient(t, s)
		c.Header.Set("Origin", "https://foe.example")
		if status, answer, h := c.ask(method, "/"+name+"?c=f", `["x"]`); status != http.StatusForbidden || h.Get("Access-Control-Allow-Origin") != "" || answer != errOrigin.reason+"\n" {
			t.Errorf("%s from a foreign page: status %d, %q", name, status, answer)
		}
		c.Header = http.Header{"Early-Data": {"1"}}
		if status, _, _ := c.ask(method, "/"+name+"?c=f", `["x"]`); status != http.StatusTooEarly {
			t.Errorf("%s in early data: status %d", name, status)
		}
	}
	for _, name := range []string{"xhr_send", "jsonp_send"} {
		c := newSockJSClient(t, s)
		if status, answer, _ := c.ask(http.MethodPost, "/"+name, `["x"]`); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
			t.Errorf("%s to an unknown session: status %d, %q", name, status, answer)
		}
		c.URL = s.URL + "/push/000/" + strings.Repeat("x", maxSessionID+1)
		if status, _, _ := c.ask(http.MethodPost, "/"+name, `["x"]`); status != http.StatusNotFound {
			t.Errorf("%s to a name too long: status %d", name, status)
		}
	}
	e.wantAgents(t, 0)

	c := newSockJSClient(t, s)
	c.Header.Set("Origin", "https://friend.example")
	c.receiveOver("xhr")
	if h := c.response().Header; h.Get("Access-Control-Allow-Origin") != "https://friend.example" || h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Vary") != "Origin" {
		t.Errorf("a listed page: %v", h)
	}
	c.send(metaConnect)
}

// TestScriptsAndFramesOfOtherPages: browsers send no Origin for scripts and frames, and over
// plain HTTP only the Referer shows which page asks.
func TestScriptsAndFramesOfOtherPages(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range []string{"jsonp", "htmlfile"} {
		for referer, want := range map[string]int{
			s.URL + "/page?x#y":                http.StatusOK,
			s.URL:                              http.StatusOK,
			"https://friend.example/a":         http.StatusOK,
			"":                                 http.StatusForbidden,
			"http://foe.example/":              http.StatusForbidden,
			"http://foe.example/?" + s.URL:     http.StatusForbidden,
			strings.TrimPrefix(s.URL, "http:"): http.StatusForbidden,
			"null":                             http.StatusForbidden,
			"about:blank":                      http.StatusForbidden,
			"%":                                http.StatusForbidden,
			strings.Replace(s.URL, "http", "https", 1) + "/": http.StatusForbidden,
		} {
			c := newSockJSClient(t, s)
			c.Header = http.Header{"Referer": nil}
			if referer != "" {
				c.Header.Set("Referer", referer)
			}
			resp, err := c.Do(t.Context(), http.MethodGet, "/"+name+"?c=call", "")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // the status says it
			if resp.StatusCode != want {
				t.Errorf("%s, Referer %q: status %d, want %d", name, referer, resp.StatusCode, want)
			}
		}
		c := newSockJSClient(t, s)
		c.Header = http.Header{"Sec-Fetch-Site": {"same-origin"}, "Referer": nil}
		c.receiveOver(name)
		if f := c.frame(); f != "o" {
			t.Errorf("%s, same-origin without Referer: %q", name, f)
		}
		c.abort()
	}
}

// TestTransportsAreWhatIsListed: /info lists the transports of the configuration, and requests
// to others are refused with a sentence.
func TestTransportsAreWhatIsListed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		served Transports
		off    string // with what is to be used instead
		on     string
		info   string
	}{
		{Transports{"xhr"}, "websocket: use xhr.", "xhr xhr_send", `{"websocket":false,"origins":["*:*"],"cookie_needed":false,`},
		{Transports{"jsonp", "websocket"}, "xhr_send: use websocket or jsonp.", "jsonp_send", `"transports":["websocket","jsonp"]`},
		{Transports{"eventsource"}, "jsonp_send: use eventsource.", "eventsource xhr_send", `"transports":["eventsource"]`},
	} {
		s, _ := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) { e.Transports = tc.served })
		off, sentence, _ := strings.Cut(tc.off, ": ")
		c := newSockJSClient(t, s)
		method := http.MethodPost
		if off == webSocket {
			method = http.MethodGet
		}
		if status, answer, _ := c.ask(method, "/"+off, ""); status != http.StatusNotFound || !strings.Contains(answer, sentence) {
			t.Errorf("%v: %s: status %d, %q", tc.served, off, status, answer)
		}
		for name := range strings.FieldsSeq(tc.on) {
			if framings[name] != nil {
				c.receiveOver(name)
				if f := c.frame(); f != "o" {
					t.Errorf("%v: %s: %q", tc.served, name, f)
				}
			} else if status, answer, _ := c.ask(http.MethodPost, "/"+name, `["x"]`); status == http.StatusNotFound && strings.Contains(answer, "served") {
				t.Errorf("%v: %s: %q", tc.served, name, answer)
			}
		}
		resp, err := http.Get(s.URL + "/push/info")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
		if err != nil || !strings.Contains(string(text), tc.info) {
			t.Errorf("%v: %s, %v", tc.served, text, err)
		}
	}
}

// TestSessionBelongsToItsOwner: another client that knows a session's name cannot use it.
func TestSessionBelongsToItsOwner(t *testing.T) {
	t.Parallel()
	cookies := []string{"login", "JSESSIONID"}
	s, _ := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) { e.SessionCookies = cookies })
	own := http.Header{"Test-User": {"ann"}, "Test-Certificate": {"hash"}, "Authorization": {"Basic x"}, "Cookie": {"login=1; other=2"}}
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			c := newSockJSClient(t, s)
			c.Header = own.Clone()
			c.connect(name)
			for what, change := range map[string]func(*sockJSClient){
				"another user":          func(c *sockJSClient) { c.Header.Set("Test-User", "bob") },
				"no user":               func(c *sockJSClient) { c.Header.Del("Test-User") },
				"another certificate":   func(c *sockJSClient) { c.Header.Set("Test-Certificate", "other") },
				"no certificate":        func(c *sockJSClient) { c.Header.Del("Test-Certificate") },
				"another authorization": func(c *sockJSClient) { c.Header.Set("Authorization", "Basic y") },
				"no authorization":      func(c *sockJSClient) { c.Header.Del("Authorization") },
				"two authorizations":    func(c *sockJSClient) { c.Header.Add("Authorization", "Basic x") },
				"another login":         func(c *sockJSClient) { c.Header.Set("Cookie", "login=2; other=2") },
				"no login":              func(c *sockJSClient) { c.Header.Set("Cookie", "other=2") },
				"two logins":            func(c *sockJSClient) { c.Header.Set("Cookie", "login=1; login=1") },
				"another host":          func(c *sockJSClient) { c.Host = "elsewhere.example" },
				"a listed origin":       func(c *sockJSClient) { c.Header.Set("Origin", "https://friend.example") },
				"another listed origin": func(c *sockJSClient) { c.Header.Set("Origin", "null") },
				"nothing but the name":  func(c *sockJSClient) { c.Header = http.Header{} },
			} {
				thief := *c
				thief.Header = c.Header.Clone()
				change(&thief)
				for _, way := range fallbackNames {
					if status, answer, _ := thief.ask(framings[way].method, "/"+way+"?c=call", ""); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
						t.Errorf("%s, %s: status %d, %q", what, way, status, answer)
					}
				}
				for _, way := range []string{xhrSend, jsonpSend} {
					if status, answer, _ := thief.ask(http.MethodPost, "/"+way, jsonArray(publication(t, "stolen"))); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
						t.Errorf("%s, %s: status %d, %q", what, way, status, answer)
					}
				}
			}
			for what, change := range map[string]func(*sockJSClient){
				"its own origin":       func(c *sockJSClient) { c.Header.Set("Origin", s.URL) },
				"another order":        func(c *sockJSClient) { c.Header.Set("Cookie", "other=3; login=1") },
				"the balancer's mark":  func(c *sockJSClient) { c.Header.Set("Cookie", "login=1; JSESSIONID=dummy") },
				"other fields":         func(c *sockJSClient) { c.Header.Set("User-Agent", "x") },
				"another address":      func(*sockJSClient) {}, // connections come from other ports
				"the name of a server": func(c *sockJSClient) { c.URL = strings.Replace(c.URL, "/000/", "/999/", 1) },
			} {
				same := *c
				same.Header = c.Header.Clone()
				change(&same)
				if status, answer, _ := same.ask(http.MethodPost, "/xhr_send", `[]`); status != http.StatusNoContent {
					t.Errorf("%s: status %d, %q", what, status, answer)
				}
			}
			c.publish("own")
			if got := c.messages(name, 1); got[0] != `"own"` {
				t.Errorf("got %q", got)
			}
			c.abort()
		})
	}
}

// TestStickyCookie: the cookie is set if the configuration wants it, and keeps its value.
func TestStickyCookie(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) { e.SessionCookies = []string{"JSESSIONID"} })
	for _, tc := range []struct{ sent, want string }{{"", "JSESSIONID=dummy; Path=/"}, {"JSESSIONID=abc", "JSESSIONID=abc; Path=/"}} {
		c := newSockJSClient(t, s)
		if tc.sent != "" {
			c.Header.Set("Cookie", tc.sent)
		}
		c.receiveOver("xhr")
		if got := c.response().Header.Get("Set-Cookie"); got != tc.want {
			t.Errorf("xhr: %q, want %q", got, tc.want)
		}
		if _, _, h := c.ask(http.MethodPost, "/xhr_send", `[]`); h.Get("Set-Cookie") != tc.want {
			t.Errorf("xhr_send: %q, want %q", h.Get("Set-Cookie"), tc.want)
		}
		c.URL = s.URL + "/push"
		if _, answer, h := c.ask(http.MethodGet, "/info", ""); h.Get("Set-Cookie") != tc.want || !strings.Contains(answer, `"cookie_needed":true`) {
			t.Errorf("info: %q, %s", h.Get("Set-Cookie"), answer)
		}
	}
}

// TestSessionFlood: one address cannot open more sessions than the limit.
func TestSessionFlood(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{Limits: hub.Limits{UnconnectedPerIP: 5}}, nil)
	refused := 0
	for i := range 50 {
		c := newSockJSClient(t, s)
		name := fallbackNames[i%len(fallbackNames)]
		r, err := http.NewRequestWithContext(t.Context(), framings[name].method, c.URL+"/"+name+"?c=call", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Referer", s.URL)
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			text, _ := io.ReadAll(resp.Body)
			if resp.Header.Get("Retry-After") == "" || !strings.HasSuffix(string(text), ".\n") {
				t.Errorf("%q, Retry-After %q", text, resp.Header.Get("Retry-After"))
			}
			refused++
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	if refused != 45 || e.Hub.Agents() != 5 {
		t.Errorf("%d refused, %d agents", refused, e.Hub.Agents())
	}
	// Requests to send open no sessions.
	for range 50 {
		c := newSockJSClient(t, s)
		c.ask(http.MethodPost, "/xhr_send", `["x"]`)
	}
	if len(e.Sessions.all()) != 5 {
		t.Errorf("%d sessions", len(e.Sessions.all()))
	}
}

// TestSendersAreBounded: a few requests may send to one session at once; others are refused.
func TestSendersAreBounded(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	f := e.Sessions.all()[0]
	f.turn <- struct{}{} // the agent is busy
	statuses := make(chan int)
	for range 30 {
		go func() {
			resp, err := c.Do(t.Context(), http.MethodPost, "/xhr_send", jsonArray(publication(t, "x")))
			if err != nil {
				statuses <- 0
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	for range 30 - maxSenders {
		if got := <-statuses; got != http.StatusTooManyRequests {
			t.Errorf("status %d", got)
		}
	}
	<-f.turn
	for range maxSenders {
		if got := <-statuses; got != http.StatusNoContent {
			t.Errorf("status %d", got)
		}
	}
	c.messages("xhr_streaming", maxSenders)
}

// TestFramesAfterTheEndAreNotTaken: the agent exceeds a limit in the middle of a body.
func TestFramesAfterTheEndAreNotTaken(t *testing.T) {
	s, _ := newFallbackServer(t, &hub.Policy{Limits: hub.Limits{FramesPerSecond: 2}}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	var many []string
	for i := range 100 {
		many = append(many, publication(t, i))
	}
	if status, answer, _ := c.ask(http.MethodPost, "/xhr_send", jsonArray(many...)); status != http.StatusNoContent { // what came of them the stream says
		t.Errorf("status %d, %q", status, answer)
	}
	var last string
	for f := c.frame(); f != ""; f = c.frame() {
		last = f
	}
	if !strings.HasPrefix(last, "c[4429,") {
		t.Errorf("the session ends with %q", last)
	}
}

// TestResponsesEndBeforeTheServerCutsThem.
func TestResponsesEndBeforeTheServerCutsThem(t *testing.T) {
	t.Parallel()
	s, _ := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) { e.ResponseTime = 200 * time.Millisecond })
	for _, name := range fallbackNames {
		c := newSockJSClient(t, s)
		c.connect(name)
		c.finish() // if that takes long, its heartbeat has come already
		for range 3 {
			c.receiveOver(name)
			if f := c.frame(); f != "h" {
				t.Errorf("%s: %q", name, f)
			}
			c.wantEnd()
		}
		c.receiveOver(name)
		c.publish("x")
		if got := c.messages(name, 1); got[0] != `"x"` {
			t.Errorf("%s: %q", name, got)
		}
		c.abort()
	}
}

// TestHTTP2 uses all transports over one HTTP/2 connection. Retire does not touch it: the
// server only cuts HTTP/3.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, hub.Limits{})
	e.Transports = AllTransports
	s := httptest.NewUnstartedServer(handler(e))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() {
		e.Hub.Drop(e.Policy)
		s.Close()
	})
	for _, name := range fallbackNames {
		c := newSockJSClient(t, s)
		c.HTTP = s.Client()
		c.connect(name)
		e.Retire()
		for i := range 20 {
			c.publish(i)
			if got := c.messages(name, 1); got[0] != fmt.Sprint(i) {
				t.Errorf("%s: %q", name, got)
			}
		}
		c.abort()
	}
}

// stalledReader opens a session, and stops reading when the agent is connected.
func stalledReader(t *testing.T, s *httptest.Server, name string) *sockJSClient {
	t.Helper()
	c := newSockJSClient(t, s)
	small := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4 << 10)
		}
		return nc, err
	}, ReadBufferSize: 1 << 10, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	c.HTTP = &http.Client{Transport: small}
	t.Cleanup(small.CloseIdleConnections)
	c.connect(name)
	return c
}

// TestStalledReaders: a client that does not read is closed when it exceeds the limits. Other
// clients do not wait for it, nor for requests with its session's name.
func TestStalledReaders(t *testing.T) {
	t.Parallel()
	limits := hub.Limits{QueueMessages: 64, QueueBytes: 256 << 10, PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited}
	s, e := newFallbackServer(t, &hub.Policy{Limits: limits}, func(e *Endpoint) { e.times.write = 20 * time.Minute })
	var stalled []*sockJSClient
	for _, name := range []string{"xhr_streaming", "eventsource", "htmlfile"} {
		stalled = append(stalled, stalledReader(t, s, name))
	}
	sender := newSockJSClient(t, newBystanders(t, e))
	sender.connect("xhr_streaming")
	for i := 0; e.Hub.Agents() > 1; i++ {
		if i > 5000 {
			t.Fatalf("%d agents are left", e.Hub.Agents())
		}
		for _, c := range stalled { // others that use its name
			if i%20 == 0 {
				go func() {
					if resp, err := c.Do(t.Context(), http.MethodPost, "/xhr", ""); err == nil {
						_ = resp.Body.Close()
					}
				}()
			}
		}
		sender.publish(strings.Repeat("x", 20_000))
		sender.messages("xhr_streaming", 1)
	}
}

// TestWhoNeverReceivesIsForgotten.
func TestWhoNeverReceivesIsForgotten(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{Limits: hub.Limits{PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited, QueueMessages: 20}}, func(e *Endpoint) {
		e.times.disconnect = 6 * time.Second // a busy client is not as late as that between two of its requests
	})
	c := newSockJSClient(t, s)
	c.connect("xhr")
	e.wantAgents(t, 0)
	if n := len(e.Sessions.all()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	c.receiveOver("xhr")
	if f := c.frame(); f != "o" {
		t.Errorf("the name begins with %q", f)
	}
	c.abort()
}

// TestWhatNobodyComesForIsBounded: if a client makes no request to receive, its session is
// closed when its queue exceeds the limit. A later request gets the reason.
func TestWhatNobodyComesForIsBounded(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{Limits: hub.Limits{PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited, QueueMessages: 20}}, nil)
	c, other := newSockJSClient(t, s), newSockJSClient(t, s)
	c.connect("xhr")
	other.connect("xhr_streaming")
	for i := range 60 {
		other.publish(i)
		other.receiveN("xhr_streaming", 2) // the answer and the message
	}
	e.wantAgents(t, 1)
	var last string
	for c.receiveOver("xhr"); ; {
		f := c.frame()
		if f == "" {
			c.receiveOver("xhr")
		} else if last = f; f[0] != 'a' {
			break
		}
	}
	if !strings.HasPrefix(last, "c[4430,") {
		t.Errorf("it ends with %q", last)
	}
	other.abort()
}

// TestRepeatedSends: a client repeats a request to send, with the same number, if it did not
// get the answer. The agent gets the frames once.
func TestRepeatedSends(t *testing.T) {
	s, _ := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	for i, n := range []string{"1", "1", "2", "5", "2", "5"} {
		if status, answer, _ := c.ask(http.MethodPost, "/xhr_send?n="+n, jsonArray(publication(t, n))); status != http.StatusNoContent {
			t.Errorf("request %d, number %s: status %d, %q", i, n, status, answer)
		}
	}
	if got, want := c.messages("xhr_streaming", 3), []string{`"1"`, `"2"`, `"5"`}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	for _, n := range []string{"0", "-1", "x", "1.5", "99999999999999999999"} {
		if status, answer, _ := c.ask(http.MethodPost, "/xhr_send?n="+n, jsonArray(publication(t, n))); status != http.StatusBadRequest || answer != errNumber.reason+"\n" {
			t.Errorf("number %s: status %d, %q", n, status, answer)
		}
	}
}

// TestRepeatedRequestsToReceive: a client repeats a request to receive, with the same number,
// if it failed. If the server got the first one, frames may be lost, so it ends the session,
// even if it does not know yet that the first one failed.
func TestRepeatedRequestsToReceive(t *testing.T) {
	for _, transport := range []string{"xhr", "xhr_streaming"} {
		t.Run(transport, func(t *testing.T) {
			s, e := newFallbackServer(t, &hub.Policy{}, nil)
			c := newSockJSClient(t, s)
			other := *c
			c.Query = "n=1"
			c.receiveOver(transport)
			if f := c.frame(); f != "o" {
				t.Fatalf("received %q, want the opening", f)
			}
			for n := 2; transport == "xhr" && n < 5; n++ { // numbers that go up are no repeats
				c.Query = "n=" + strconv.Itoa(n)
				id := strconv.Itoa(n)
				c.send(`{"channel":"/meta/ping","uuid":"` + id + `"}`)
				c.receiveOver(transport)
				if f := c.frame(); !strings.HasPrefix(f, "a[") {
					t.Fatalf("received %q, want an answer", f)
				}
			}
			if transport == "xhr" {
				c.Query = "n=5"
				c.receiveOver(transport) // it waits, or is the one that comes second
			}
			other.Query = c.Query
			other.receiveOver(transport)
			if f, want := other.frame(), `c[1002,"Connection interrupted"]`; f != want {
				t.Errorf("received %q, want %q", f, want)
			}
			e.wantAgents(t, 0)
			if status, answer, _ := c.ask(http.MethodPost, "/"+transport+"?n=0", ""); status != http.StatusBadRequest || answer != errNumber.reason+"\n" {
				t.Errorf("number 0: status %d, %q", status, answer)
			}
			unknown := newSockJSClient(t, s)
			if status, answer, _ := unknown.ask(http.MethodPost, "/"+transport+"?n=2", ""); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
				t.Errorf("the second request of an unknown session: status %d, %q", status, answer)
			}
		})
	}
}

// TestCallbackNames: a callback is the name of a function, and nothing else.
func TestCallbackNames(t *testing.T) {
	for name, want := range map[string]bool{
		"f": true, "a.b_9.Z": true, strings.Repeat("f", 64): true,
		"": false, strings.Repeat("f", 65): false, "f(": false, "f;g": false, "f g": false, "f<b>": false, "f\n": false, "ä": false, "f-g": false, "f[0]": false,
	} {
		if got := isCallback(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// TestHalfSentBodyEndsWithItsSession: a request whose body is incomplete is answered when its
// session ends.
func TestHalfSentBodyEndsWithItsSession(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, func(e *Endpoint) {
		e.times = &times{disconnect: time.Hour, goodbye: time.Hour, message: time.Hour, write: time.Hour}
	})
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	_ = conn.SetDeadline(time.Now().Add(patience))
	path := strings.TrimPrefix(c.URL, s.URL) + "/xhr_send"
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\n[", path, s.Listener.Addr()); err != nil {
		t.Fatal(err)
	}
	f := e.Sessions.all()[0]
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		f.mu.Lock()
		reading := len(f.bodies) == 1
		f.mu.Unlock()
		if reading {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the body is not being read")
		}
	}
	f.agent.Close(hub.CloseCut, "cut", 0)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // the status says enough
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestNothingIsTakenOfASessionThatEnds: the session ends, and no request has told the client.
func TestNothingIsTakenOfASessionThatEnds(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr")
	e.only(t).Close(hub.CloseCut, "cut", 0)
	if status, answer, _ := c.ask(http.MethodPost, "/xhr_send", jsonArray(publication(t, "late"))); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
		t.Errorf("status %d, %q", status, answer)
	}
	c.finish()
	if got := c.receiveN("xhr", 1); !strings.HasPrefix(got[0], `{"channel":"/meta/close","code":4403,`) {
		t.Errorf("it ends with %s", got[0])
	}
}

// A watchedBody knows whether it was read to its end.
type watchedBody struct {
	io.Reader
	atEnd func() // nil for nothing; called once
	ended bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && !b.ended {
		b.ended = true
		if b.atEnd != nil {
			b.atEnd()
		}
	}
	return n, err
}

func (b *watchedBody) Close() error { return nil }

// A deadlineWriter is a ResponseWriter of HTTP/1.1 that notes when a read deadline is set
// though the body has ended. net/http reads on there, and a deadline would end the context
// of the connection, and with it the next request.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	body *watchedBody
	late bool
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error {
	w.late = w.late || w.body.ended && !t.IsZero()
	return nil
}

// TestNextRequestOfAConnectionLives: a request that is refused after its body was read, or
// whose session ends meanwhile, does not end the next one that its connection brings.
func TestNextRequestOfAConnectionLives(t *testing.T) {
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	c := newSockJSClient(t, s)
	c.connect("xhr")
	session := strings.TrimPrefix(c.URL, s.URL+"/push")
	post := func(path, body, kind, origin string, atEnd func()) *deadlineWriter {
		b := &watchedBody{Reader: strings.NewReader(body), atEnd: atEnd}
		r := httptest.NewRequest(http.MethodPost, "/push"+path, b)
		r.ContentLength, r.Host = int64(len(body)), s.Listener.Addr().String()
		r.Header.Set("Content-Type", kind)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder(), body: b}
		e.Serve(w, r, path)
		return w
	}
	const form = "application/x-www-form-urlencoded"
	for _, tc := range []struct {
		name, path, body, kind, origin string
		status                         int
	}{
		{"a form without a field", session + "/jsonp_send", "e=1", form, "", http.StatusBadRequest},
		{"no JSON", session + "/xhr_send", "[", "text/plain", "", http.StatusBadRequest},
		{"a foreign page", session + "/xhr", "body", "text/plain", "https://foreign.example", http.StatusForbidden},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := post(tc.path, tc.body, tc.kind, tc.origin, nil)
			if w.Code != tc.status || !w.body.ended {
				t.Errorf("status %d, %q, want %d; body read to its end: %v", w.Code, w.Body, tc.status, w.body.ended)
			}
			if w.late {
				t.Error("a read deadline was set behind the body")
			}
			if w.Header().Get("Connection") != "" {
				t.Error("the connection is closed for no reason")
			}
		})
	}
	t.Run("the session ends", func(t *testing.T) {
		ends := func() { e.Sessions.all()[0].end(sayInterrupted, "cut") } // it ends the reading of the body
		w := post(session+"/xhr_send", jsonArray(publication(t, "late")), "text/plain", "", ends)
		if w.Header().Get("Connection") != "close" {
			t.Errorf("status %d: the connection stays, though a deadline was set behind the body", w.Code)
		}
	})
}
