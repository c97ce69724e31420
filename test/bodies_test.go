// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// halfSent sends the header of an HTTP/1.1 request and a part of its body.
func (s site) halfSent(method, path, fields, body string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := s.dial(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s", method, path, fields, body); err != nil {
		s.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// The server does not wait for a body that it does not need. This holds for each request,
// also for one of a session that does not exist.
func TestHalfSentBodiesAreNotWaitedFor(t *testing.T) {
	const long, chunked = "Referer: http://localhost/\r\nContent-Length: 100000\r\n", "Referer: http://localhost/\r\nTransfer-Encoding: chunked\r\n"
	s := serve(t, "http://localhost {\n\tpushit {\n\t\t"+allTransports+"\n\t}\n}\n").site("localhost")
	for i, request := range []struct {
		method, path string
		status       int
		begins       string
	}{
		{"POST", "/push/0/%s/xhr", 200, "o\n"},
		{"POST", "/push/0/%s/xhr_streaming", 200, "hhhh"},
		{"GET", "/push/0/%s/eventsource", 200, "\r\n"},
		{"GET", "/push/0/%s/htmlfile?c=f", 200, "<!"},
		{"GET", "/push/0/%s/jsonp?c=f", 200, "/**/f("},
		{"OPTIONS", "/push/0/%s/xhr", 204, ""},
		{"PUT", "/push/0/%s/xhr", 405, "This method"},
		{"POST", "/push/0/%s/xhr_send", 404, "There is no such session"},
		{"POST", "/push/0/%s/jsonp_send", 404, "There is no such session"},
		{"GET", "/push/info?%s", 200, "{"},
		{"GET", "/push?%s", 200, "Welcome"},
		{"GET", "/push/iframe%s.html", 404, "The SockJS iframe"},
		{"OPTIONS", "/push/0/%s/xhr_send", 204, ""},
		{"PUT", "/push/0/%s/xhr_send", 405, "This method"},
		{"POST", "/push/0/%s.dot/xhr_send", 404, "A session name"},
		{"POST", "/push/0/%s/websocket", 405, "This method"},
		{"GET", "/push/0/%s/websocket", 400, "Can"},
		{"POST", "/push/pushit.mjs?%s", 405, "This method"},
		{"GET", "/push/pushit.mjs?%s", 200, ""},
	} {
		for _, half := range []struct{ name, fields, body string }{{"length", long, "x"}, {"chunked", chunked, "5\r\nx"}} {
			path := fmt.Sprintf(request.path, fmt.Sprint("s", i, half.name))
			t.Run(request.method+" "+path, func(t *testing.T) {
				t.Parallel() // the server waits before it closes a connection
				_, r := s.halfSent(request.method, path, half.fields, half.body)
				resp, err := http.ReadResponse(r, &http.Request{Method: request.method})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				got := make([]byte, len(request.begins))
				_, err = io.ReadFull(resp.Body, got)
				if resp.StatusCode != request.status || string(got) != request.begins || err != nil {
					t.Errorf("status %d, %q, %v; want %d, %q", resp.StatusCode, got, err, request.status, request.begins)
				}
			})
		}
	}
}

// The same holds for upgrades, and for requests that are refused early.
func TestHalfSentBodiesOfRefusedRequests(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit\n}\n").site("localhost")
	const upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for name, request := range map[string]struct {
		method, path, fields string
		status               int
	}{
		"foreign send":        {"POST", "/push/0/a/xhr_send", "Origin: https://evil.example\r\n", 403},
		"foreign poll":        {"POST", "/push/0/a/xhr", "Origin: https://evil.example\r\n", 403},
		"foreign upgrade":     {"GET", "/push/websocket", upgrade + "Origin: https://evil.example\r\n", 403},
		"send in early data":  {"POST", "/push/0/a/xhr_send", "Early-Data: 1\r\n", 425},
		"transport not there": {"POST", "/push/0/a/jsonp_send", "", 404},
		"upgrade":             {"GET", "/push/websocket", upgrade, 400},
		"upgrade by POST":     {"POST", "/push/websocket", upgrade, 405},
	} {
		for _, half := range []string{"Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"} {
			t.Run(name+" "+half[:7], func(t *testing.T) {
				_, r := s.halfSent(request.method, request.path, request.fields+half, "1\r\n")
				resp, err := http.ReadResponse(r, &http.Request{Method: request.method})
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != request.status || !resp.Close {
					t.Errorf("status %d, closes %t; want %d, true", resp.StatusCode, resp.Close, request.status)
				}
			})
		}
	}
}

// A complete body does not cost the connection.
func TestCompleteBodiesKeepTheConnection(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit\n}\n").site("localhost")
	conn, r := s.halfSent("POST", "/push/0/whole/xhr", "Content-Length: 2\r\n", "{}")
	for range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK || resp.Close {
			t.Fatalf("status %d, close %t", resp.StatusCode, resp.Close)
		}
		if _, err := io.WriteString(conn, "GET /push HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// Requests that send half of their bodies do not delay a server that stops.
func TestStopDoesNotWaitForHalfSentBodies(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit {\n\t\tdrain 1s\n\t}\n}\n").site("localhost")
	s.elsewhere = s.addr(s.name) // unknown after Caddy has stopped
	c := s.fallback(s.client("h1"), "/push", "xhr_streaming").connect("room")
	session := c.URL[strings.Index(c.URL, "/push"):]
	for _, path := range []string{session + "/xhr_send", session + "/xhr_send", "/push/0/unknown/xhr_send", "/push/0/half/xhr", "/push/0/half/xhr_streaming", "/push/websocket", "/push/0/a.b/xhr_send", "/push/pushit.mjs"} {
		_, r := s.halfSent("POST", path, "Content-Length: 100000\r\n", "[")
		if !strings.HasPrefix(path, session) {
			if _, err := r.ReadByte(); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
	stopped := s.stopping()
	select {
	case <-stopped:
	case <-time.After(15 * time.Second): // the body of a request has 30 s in all
		t.Fatal("Caddy waits for bodies that do not come")
	}
}
