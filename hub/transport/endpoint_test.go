// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// calmTimes returns times for busy machines: a client that is late has not left. A test that is
// about one of them changes it.
func calmTimes() *times {
	calm := *defaultTimes
	calm.disconnect, calm.doubt = 3*patience, 3*patience // longer than a test waits for an end that has another reason
	calm.abandoned, calm.write, calm.goodbye, calm.relay = patience, patience, patience, patience
	return &calm
}

// newEndpoint returns an Endpoint with a new hub, and calmTimes.
func newEndpoint(t *testing.T, limits hub.Limits, origins ...string) *Endpoint {
	t.Helper()
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	listed, err := ParseOrigins(origins)
	if err != nil {
		t.Fatal(err)
	}
	return &Endpoint{
		Hub:      h,
		Policy:   h.Use(&hub.Policy{Mount: "test", Handshake: time.Hour, Limits: limits}),
		Origins:  listed,
		Sessions: NewSessions(),
		times:    calmTimes(),
		Caller: func(r *http.Request) Caller {
			c := Caller{Scheme: "http", Host: r.Host, User: r.Header.Get("Test-User"), Certificate: r.Header.Get("Test-Certificate")}
			if r.TLS != nil {
				c.Scheme = "https"
			}
			return c
		},
		Opening: func(r *http.Request) (hub.Opening, *hub.Refusal) {
			return hub.Opening{Host: r.Host, URI: r.URL.RequestURI(), RemoteIP: netip.MustParseAddrPort(r.RemoteAddr).Addr()}, nil
		},
	}
}

// handler serves an Endpoint at /push.
func handler(e *Endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/push")
		if !ok || !e.Serve(w, r, rest) {
			http.Error(w, "next handler", http.StatusTeapot)
		}
	})
}

const upgradeHeaders = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// exchange sends a request as it stands and returns the response.
func exchange(t *testing.T, nc net.Conn, head string, then ...[]byte) (*http.Response, *peer) {
	t.Helper()
	p := newPeer(t, nc)
	if _, err := nc.Write(append([]byte(head+"\r\n"), join(then...)...)); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(p.r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return resp, p
}

func dial(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	var nc net.Conn
	var err error
	if s.TLS != nil {
		nc, err = tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	} else {
		nc, err = net.Dial("tcp", s.Listener.Addr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// open opens a WebSocket at path.
func open(t *testing.T, s *httptest.Server, path string, then ...[]byte) *peer {
	t.Helper()
	resp, p := exchange(t, dial(t, s), "GET "+path+" HTTP/1.1\r\nHost: site.example\r\n"+upgradeHeaders, then...)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d: %s", resp.StatusCode, body)
	}
	return p
}

// without is upgradeHeaders without one of them.
func without(name string) string {
	var kept []string
	for line := range strings.SplitAfterSeq(upgradeHeaders, "\r\n") {
		if !strings.HasPrefix(line, name+":") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

var httpAnswers = []struct {
	name   string
	head   string // request line and headers, but Host
	status int
	body   string // a part of it
	header map[string]string
}{
	{"greeting", "GET /push HTTP/1.1\r\n", 200, "Welcome to SockJS!\n", map[string]string{"Content-Type": "text/plain; charset=UTF-8"}},
	{"greeting with a slash", "GET /push/ HTTP/1.1\r\n", 200, "Welcome to SockJS!\n", nil},
	{"greeting, HEAD", "HEAD /push HTTP/1.1\r\n", 200, "", nil},
	{"greeting, POST", "POST /push HTTP/1.1\r\nContent-Length: 0\r\n", 405, "not allowed", map[string]string{"Allow": "GET, HEAD"}},
	{
		"info", "GET /push/info HTTP/1.1\r\n", 200, `{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":`, // and more
		map[string]string{"Content-Type": "application/json; charset=UTF-8", "Access-Control-Allow-Origin": "", "Vary": "Origin"},
	},
	{
		"info, listed", "GET /push/info HTTP/1.1\r\nOrigin: https://friend.example\r\n", 200, `"entropy"`,
		map[string]string{"Access-Control-Allow-Origin": "https://friend.example", "Access-Control-Allow-Credentials": "true", "Vary": "Origin"},
	},
	{"info, own page", "GET /push/info HTTP/1.1\r\nOrigin: http://site.example\r\n", 200, `"entropy"`, map[string]string{"Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": ""}},
	{"info, foreign", "GET /push/info HTTP/1.1\r\nOrigin: https://foe.example\r\n", 403, "Pages of this origin may not use this endpoint.\n", map[string]string{"Access-Control-Allow-Origin": ""}},
	{
		"info, preflight, listed", "OPTIONS /push/info HTTP/1.1\r\nOrigin: https://friend.example\r\nAccess-Control-Request-Method: GET\r\n", 204, "",
		map[string]string{"Access-Control-Allow-Origin": "https://friend.example", "Access-Control-Allow-Methods": "OPTIONS, GET, HEAD", "Access-Control-Max-Age": "31536000"},
	},
	{"info, preflight, foreign", "OPTIONS /push/info HTTP/1.1\r\nOrigin: https://foe.example\r\n", 403, "origin", nil},
	{"info, POST", "POST /push/info HTTP/1.1\r\nContent-Length: 0\r\n", 405, "not allowed", map[string]string{"Allow": "OPTIONS, GET, HEAD"}},

	{"not ours", "GET /push/else HTTP/1.1\r\n", 418, "", nil},
	{"not ours, a neighbour", "GET /pushover HTTP/1.1\r\n", 418, "", nil},
	{"not ours, a slash behind", "GET /push/info/ HTTP/1.1\r\n", 418, "", nil},
	{"not ours, too deep", "GET /push/a/b/c/websocket HTTP/1.1\r\n", 418, "", nil},
	{"not ours, no such transport", "GET /push/a/b/carrier HTTP/1.1\r\n", 418, "", nil},
	{"not ours, even for a foreign page", "GET /push/else HTTP/1.1\r\nOrigin: https://foe.example\r\n", 418, "", nil},
	{"iframe", "GET /push/iframe.html HTTP/1.1\r\n", 404, "iframe is not served", nil},
	{"iframe with a version", "GET /push/iframe-1.6.1.html?t=1 HTTP/1.1\r\n", 404, "iframe is not served", nil},
	{"fallback that is off", "GET /push/000/abc/jsonp?c=f HTTP/1.1\r\nReferer: http://site.example/\r\n", 404, "use websocket, xhr_streaming, xhr or eventsource.", nil},
	{"fallback that is off, sending", "POST /push/000/abc/jsonp_send HTTP/1.1\r\nContent-Length: 0\r\n", 404, "use websocket", nil},

	{"no server name", "GET /push//abc/websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A server name must have 1 to 64 bytes and no dot.", nil},
	{"no session name", "GET /push/000//websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A session name must have 1 to 128 bytes and no dot.", nil},
	{"a dot in the server name", "GET /push/a.b/abc/websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A server name", nil},
	{"a dot in the session name", "GET /push/000/a.b/websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A session name", nil},
	{"server name too long", "GET /push/" + strings.Repeat("s", 65) + "/abc/websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A server name", nil},
	{"session name too long", "GET /push/000/" + strings.Repeat("s", 129) + "/websocket HTTP/1.1\r\n" + upgradeHeaders, 404, "A session name", nil},
	{"the longest names", "GET /push/" + strings.Repeat("s", 64) + "/" + strings.Repeat("s", 128) + "/websocket HTTP/1.1\r\n" + upgradeHeaders, 101, "", nil},

	{"no upgrade", "GET /push/websocket HTTP/1.1\r\n", 400, "Can \"Upgrade\" only to \"WebSocket\".\n", map[string]string{"Content-Type": "text/plain; charset=UTF-8"}},
	{"no upgrade, SockJS", "GET /push/000/abc/websocket HTTP/1.1\r\n", 400, "Can \"Upgrade\" only to \"WebSocket\".\n", nil},
	{"upgrade to something else", "GET /push/websocket HTTP/1.1\r\nUpgrade: h2c\r\n" + without("Upgrade"), 400, "Can \"Upgrade\"", nil},
	{"connection not upgraded", "GET /push/websocket HTTP/1.1\r\nConnection: keep-alive\r\n" + without("Connection"), 400, "\"Connection\" must be \"Upgrade\".", nil},
	{"POST", "POST /push/websocket HTTP/1.1\r\nContent-Length: 0\r\n" + upgradeHeaders, 405, "not allowed", map[string]string{"Allow": "GET"}},
	{"HEAD", "HEAD /push/websocket HTTP/1.1\r\n" + upgradeHeaders, 405, "", map[string]string{"Allow": "GET"}},
	{"HTTP/1.0", "GET /push/websocket HTTP/1.0\r\n" + upgradeHeaders, 400, "HTTP/1.1", nil},
	{"with a body", "GET /push/websocket HTTP/1.1\r\nContent-Length: 4\r\n" + upgradeHeaders + "\r\nbody", 400, "must not have a body", nil},
	{"with a chunked body", "GET /push/websocket HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + upgradeHeaders + "\r\n0\r\n", 400, "must not have a body", nil},
	{"no version", "GET /push/websocket HTTP/1.1\r\n" + without("Sec-WebSocket-Version"), 426, "must be 13", map[string]string{"Sec-WebSocket-Version": "13", "Upgrade": "websocket"}},
	{"version 8", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Version: 8\r\n" + without("Sec-WebSocket-Version"), 426, "must be 13", map[string]string{"Sec-WebSocket-Version": "13"}},
	{"two versions", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Version: 8\r\n" + upgradeHeaders, 426, "must be 13", nil},
	{"no key", "GET /push/websocket HTTP/1.1\r\n" + without("Sec-WebSocket-Key"), 400, "16 bytes in base64", nil},
	{"two keys", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + upgradeHeaders, 400, "one value", nil},
	{"key of 15 bytes", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n" + without("Sec-WebSocket-Key"), 400, "16 bytes", nil},
	{"key of 17 bytes", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n" + without("Sec-WebSocket-Key"), 400, "16 bytes", nil},
	{"key not in base64", "GET /push/websocket HTTP/1.1\r\nSec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n" + without("Sec-WebSocket-Key"), 400, "16 bytes", nil},
	{"early data", "GET /push/websocket HTTP/1.1\r\nEarly-Data: 1\r\n" + upgradeHeaders, 425, "early data", nil},
	{"extended CONNECT", "CONNECT /push/websocket HTTP/1.1\r\n", 501, "HTTP/1.1", nil},
	{"foreign", "GET /push/websocket HTTP/1.1\r\nOrigin: https://foe.example\r\n" + upgradeHeaders, 403, "origin", nil},
	{"foreign before all else", "PUT /push/a.b/./websocket HTTP/1.1\r\nOrigin: null\r\nContent-Length: 0\r\n", 403, "origin", nil},
	{"foreign greeting", "GET /push HTTP/1.1\r\nSec-Fetch-Site: cross-site\r\n", 403, "origin", nil},
	{
		"extensions and subprotocols are offered", "GET /push/websocket HTTP/1.1\r\nOrigin: http://site.example\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat, mqtt\r\n" + upgradeHeaders, 101, "",
		map[string]string{"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-WebSocket-Extensions": "", "Sec-WebSocket-Protocol": "", "Upgrade": "websocket", "Connection": "Upgrade"},
	},
}

func TestHTTPAnswers(t *testing.T) {
	server := httptest.NewServer(handler(newEndpoint(t, hub.Limits{}, "https://friend.example")))
	defer server.Close()
	const host = "Host: site.example\r\n"
	for _, tc := range httpAnswers {
		t.Run(tc.name, func(t *testing.T) {
			line, rest, _ := strings.Cut(tc.head, "\r\n")
			resp, p := exchange(t, dial(t, server), line+"\r\n"+host+rest)
			if resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
			for name, want := range tc.header {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if tc.status == http.StatusSwitchingProtocols {
				p.send(frame(opClose, true, ""))
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(body), tc.body) {
				t.Errorf("body %q, %v; want %q", body, err, tc.body)
			}
			if tc.status >= 400 && tc.status != 418 && resp.Request.Method != http.MethodHead && !strings.HasSuffix(string(body), ".\n") {
				t.Errorf("body %q is no sentence", body)
			}
		})
	}
}

func TestInfoIsNeverCachedAndRandom(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	seen := make(map[float64]bool)
	for range 4 {
		w := httptest.NewRecorder()
		e.Serve(w, httptest.NewRequest(http.MethodGet, "/info", nil), "/info")
		var got struct {
			Websocket bool     `json:"websocket"`
			Origins   []string `json:"origins"`
			Cookie    bool     `json:"cookie_needed"`
			Entropy   float64  `json:"entropy"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !got.Websocket || got.Cookie || len(got.Origins) != 1 || got.Origins[0] != "*:*" {
			t.Fatalf("%s: %+v, %v", w.Body, got, err)
		}
		seen[got.Entropy] = true
		for _, word := range []string{"no-store", "no-cache", "no-transform"} {
			if !strings.Contains(w.Header().Get("Cache-Control"), word) {
				t.Errorf("Cache-Control: %q, want %s in it", w.Header().Get("Cache-Control"), word)
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("entropies %v", seen)
	}
}

func TestEarlyDataAndExtendedConnect(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	request := func(change func(*http.Request)) int {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET /websocket HTTP/1.1\r\nHost: site.example\r\n" + upgradeHeaders + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = "192.0.2.1:1"
		change(r)
		w := httptest.NewRecorder()
		e.Serve(w, r, "/websocket")
		return w.Code
	}
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"handshake not complete", func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, http.StatusTooEarly},
		{"HTTP/2", func(r *http.Request) {
			r.Method, r.ProtoMajor, r.Header[":protocol"] = http.MethodConnect, 2, []string{"websocket"}
		}, http.StatusNotImplemented},
		{"HTTP/3", func(r *http.Request) { r.Method, r.ProtoMajor, r.Proto = http.MethodConnect, 3, "websocket" }, http.StatusNotImplemented},
		{"GET over HTTP/2", func(r *http.Request) { r.ProtoMajor = 2 }, http.StatusBadRequest},
		{"a writer that cannot be hijacked", func(*http.Request) {}, http.StatusInternalServerError},
	} {
		if got := request(tc.change); got != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.want)
		}
	}
	if got := e.Hub.Agents(); got != 0 {
		t.Errorf("%d agents are there", got)
	}
}

func TestRefusedByTheHub(t *testing.T) {
	server := httptest.NewServer(handler(newEndpoint(t, hub.Limits{UnconnectedPerIP: 1})))
	defer server.Close()
	first := open(t, server, "/push/websocket")
	resp, _ := exchange(t, dial(t, server), "GET /push/websocket HTTP/1.1\r\nHost: site.example\r\n"+upgradeHeaders)
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.HasSuffix(string(body), ".\n") {
		t.Errorf("status %d, Retry-After %q, %q, %v", resp.StatusCode, resp.Header.Get("Retry-After"), body, err)
	}
	first.send(frame(opClose, true, ""))
	first.want(opClose, "")
	first.wantEnd()
	// The hub frees the place before the answer is sent.
	open(t, server, "/push/websocket").send(frame(opClose, true, ""))
}

// quoted returns an object as SockJS clients send and get it.
func quoted(object string) string { return string(jsontext.AppendQuoted(nil, []byte(object))) }

func quotedHTML(s string) string { return string(jsontext.AppendQuotedHTML(nil, s)) }

func TestAgentsTalk(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler(newEndpoint(t, hub.Limits{})))
			if secure {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			const connect, subscribe = `{"channel":"/meta/connect","uuid":"1","agentId":"a"}`, `{"channel":"/meta/subscribe","uuid":"2","data":{"channel":"chat"}}`
			// The agent gets a frame that comes right after the handshake.
			sock := open(t, server, "/push/000/abc/websocket", text(`["`+quoted(connect)+`","`+quoted(subscribe)+`"]`))
			bare := open(t, server, "/push/websocket", text(connect))
			sock.want(opText, "o")
			for _, p := range []*peer{sock, sock, bare} {
				if op, answer, err := p.read(); err != nil || op != opText || !strings.Contains(answer, "successful") {
					t.Fatalf("%x %q, %v", op, answer, err)
				}
			}
			bare.send(text(`{"channel":"chat","uuid":"3","data":{"say":"\"hé\u2028llo\""}}`))
			bare.want(opText, `{"channel":"/meta/successful","uuid":"3"}`)
			_, got, err := sock.read()
			var objects []string
			if err != nil || json.Unmarshal([]byte(strings.TrimPrefix(got, "a")), &objects) != nil || len(objects) != 1 || !strings.Contains(objects[0], `"uuid":"3"`) {
				t.Errorf("%q, %v", got, err)
			}
			bare.send(text(``))
			if _, answer, err := bare.read(); err != nil || !strings.Contains(answer, `"invalid"`) {
				t.Errorf("an empty message: %q, %v", answer, err)
			}
			bare.send(closing(1000, ""))
			bare.wantClose(1000, "")
			bare.wantEnd()
			sock.send(text(`[1,2]`))
			if _, notice, err := sock.read(); err != nil || !strings.Contains(notice, `/meta/close`) || !strings.Contains(notice, "4400") {
				t.Errorf("%q, %v", notice, err)
			}
			sock.want(opText, fmt.Sprintf(`c[4400,"%s"]`, errNotSockJS))
			sock.wantClose(hub.CloseInvalid, errNotSockJS.Error())
		})
	}
}

// The writers that a server wraps around the connection, as Caddy does.
type (
	plainWrapper struct{ http.ResponseWriter }
	// recordingWriter sees the status, and puts a conn of its own around the
	// connection when it is hijacked.
	recordingWriter struct {
		http.ResponseWriter
		statuses []int
		hijacked bool
		ballast  [1 << 20]byte
	}
)

func (w *plainWrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recordingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recordingWriter) WriteHeader(status int) {
	w.statuses = append(w.statuses, status)
	w.Header().Set("Added-By", "the way out")
	w.ResponseWriter.WriteHeader(status)
}

func (w *recordingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func TestUpgradeGoesThroughAllWritersAndKeepsNone(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	gone := make(chan string, 2) // buffered, so that cleanups do not block
	outside := make(chan *[]int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recordingWriter{ResponseWriter: &plainWrapper{w}}
		rec.ballast[0] = 1
		runtime.AddCleanup(rec, func(what string) { gone <- what }, "writer")
		runtime.AddCleanup(r, func(what string) { gone <- what }, "request")
		e.Serve(&plainWrapper{rec}, r, "/websocket")
		if rec.hijacked {
			t.Error("a wrapper was hijacked, not the connection")
		}
		statuses := rec.statuses
		outside <- &statuses
	}))
	defer server.Close()
	resp, p := exchange(t, dial(t, server), "GET /websocket HTTP/1.1\r\nHost: site.example\r\n"+upgradeHeaders)
	if resp.StatusCode != 101 || resp.Header.Get("Added-By") == "" {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
	if got := *<-outside; len(got) != 1 || got[0] != 101 {
		t.Errorf("the wrapper saw %v, want 101 once", got)
	}
	p.send(text(`{}`)) // the session lives
	if _, _, err := p.read(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the request and the writer to be freed", func() bool {
		runtime.GC()
		return len(gone) == cap(gone)
	})
	p.send(frame(opClose, true, ""))
	p.want(opClose, "")
}

// A deadlineConn tells which deadlines hold.
type deadlineConn struct {
	net.Conn
	mu          sync.Mutex // guards the following
	read, write time.Time
	seen        bool // one was set at some time
}

func (c *deadlineConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *deadlineConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.seen = t, c.seen || !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}

func (c *deadlineConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.Conn.SetWriteDeadline(t)
}

type deadlineListener struct {
	net.Listener
	conns chan *deadlineConn // buffered, so that accepting does not block
}

func (l *deadlineListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &deadlineConn{Conn: nc}
	l.conns <- c
	return c, nil
}

func TestDeadlinesOfTheServerEndWithTheUpgrade(t *testing.T) {
	server := httptest.NewUnstartedServer(handler(newEndpoint(t, hub.Limits{})))
	server.Config.ReadTimeout, server.Config.WriteTimeout, server.Config.IdleTimeout = time.Hour, time.Hour, time.Hour
	l := &deadlineListener{Listener: server.Listener, conns: make(chan *deadlineConn, 1)}
	server.Listener = l
	server.Start()
	defer server.Close()
	p := open(t, server, "/push/websocket", frame(opPing, true, ""))
	p.want(opPong, "") // by now the handler has nothing to do with it any more
	c := <-l.conns
	c.mu.Lock()
	if !c.seen || !c.read.IsZero() {
		t.Errorf("the read deadline is %v; one was set: %v", c.read, c.seen)
	}
	c.mu.Unlock()
	p.send(frame(opClose, true, ""))
	p.want(opClose, "")
}

func TestManyComeAndGo(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	server := httptest.NewServer(handler(e))
	defer server.Close()
	const n = 100
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = open(t, server, "/push/websocket")
	}
	if got := e.Hub.Agents(); got != n {
		t.Errorf("%d agents, want %d", got, n)
	}
	for i, p := range peers {
		if i%2 == 0 {
			_ = p.nc.Close()
			continue
		}
		p.send(closing(1001, ""))
		p.wantClose(1001, "")
		p.wantEnd()
	}
	e.wantAgents(t, 0)
}

func TestHasToken(t *testing.T) {
	for _, tc := range []struct {
		values []string
		want   bool
	}{
		{[]string{"Upgrade"}, true},
		{[]string{"keep-alive, UPGRADE"}, true},
		{[]string{"keep-alive", "upgrade"}, true},
		{[]string{"upgraded"}, false},
		{[]string{"keep-alive"}, false},
		{[]string{""}, false},
		{nil, false},
	} {
		if got := hasToken(tc.values, "upgrade"); got != tc.want {
			t.Errorf("hasToken(%q) = %v", tc.values, got)
		}
	}
}

func TestNothingIsSaidTwice(t *testing.T) {
	var complaints bytes.Buffer
	server := httptest.NewUnstartedServer(handler(newEndpoint(t, hub.Limits{})))
	server.Config.ErrorLog = log.New(&complaints, "", 0)
	server.Start()
	p := open(t, server, "/push/websocket")
	p.send(frame(opClose, true, ""))
	p.want(opClose, "")
	p.wantEnd()
	server.Close()
	if complaints.Len() > 0 {
		t.Errorf("the server complains: %s", &complaints)
	}
}
