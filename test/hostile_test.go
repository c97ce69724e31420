// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// hostileSite is a Caddyfile with short heartbeats, because they show what proxies do to
// sessions. They are not shorter, because a session ends after 1.75 heartbeats of silence.
const hostileSite = "http://localhost {\n\tpushit {\n\t\t" + allTransports + "\n\t\theartbeat 4s\n\t\thandshake 8s\n\t}\n}\n"

// holding serves a proxy before s. It holds each response back until it is complete, and
// removes Upgrade from requests. If refuse is not 0, it answers upgrades with that
// status.
func holding(t *testing.T, s *server, refuse int) site {
	t.Helper()
	upstream := &http.Transport{}
	t.Cleanup(upstream.CloseIdleConnections)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" && refuse != 0 {
			http.Error(w, "no", refuse)
			return
		}
		asked := r.Clone(r.Context())
		asked.URL.Scheme, asked.URL.Host, asked.RequestURI = "http", s.addr("srv0"), ""
		asked.Header.Del("Upgrade")
		asked.Header.Del("Connection")
		resp, err := upstream.RoundTrip(asked)
		if err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(text) // the client may have left
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	through := s.site("localhost")
	through.elsewhere = proxy.Listener.Addr().String()
	return through
}

// TestProxyThatHoldsResponsesBack: a stream's frames arrive when the stream ends. It ends
// at a heartbeat.
func TestProxyThatHoldsResponsesBack(t *testing.T) {
	s := serve(t, hostileSite)
	through := holding(t, s, 0)
	direct := s.site("localhost").client("h1")
	var connected, published sync.WaitGroup
	connected.Add(len(everyFallback))
	published.Go(func() {
		connected.Wait()
		publisher := s.site("localhost").connect("/push/websocket", nil)
		for n := range 20 {
			publisher.publish("room", float64(n))
		}
	})
	concurrently(everyFallback, func(transport string) {
		c := through.fallback(through.client("h1"), "/push", transport)
		func() {
			defer connected.Done() // also if it fails, so that the others go on
			c.connect("room")
		}()
		for n := range 20 {
			c.wantMessage("room", float64(n))
		}
		c.HTTP = direct // its last request is not held back
	})
	published.Wait()
}

// TestProxyThatRefusesWebSockets: one proxy answers upgrades itself, another one makes
// plain requests of them. The client sees at once that it cannot use WebSocket.
func TestProxyThatRefusesWebSockets(t *testing.T) {
	s := serve(t, hostileSite)
	for name, refuse := range map[string]int{"answers": http.StatusForbidden, "takes Upgrade out": 0} {
		through := holding(t, s, refuse)
		want := refuse
		if want == 0 {
			want = http.StatusBadRequest
		}
		for _, path := range []string{"/push/websocket", "/push/000/abcdefgh/websocket"} {
			if a, resp := through.upgrade(path, nil); a != nil || resp.StatusCode != want {
				t.Errorf("%s: %s: want status %d", name, path, want)
			}
		}
		c := through.fallback(through.client("h1"), "/push", "xhr").connect("room")
		c.echo("room", 2)
		c.HTTP = s.site("localhost").client("h1") // its last request is not held back
	}
}

// cutting serves a proxy before s. It cuts connections over which the server sends
// nothing for some time. cuts counts them.
func cutting(t *testing.T, s *server, silence time.Duration, cuts *atomic.Int64) site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	serveOne := func(client net.Conn) {
		defer func() { _ = client.Close() }()
		server, err := net.Dial("tcp", s.addr("srv0"))
		if err != nil {
			return
		}
		defer func() { _ = server.Close() }()
		all.Go(func() {
			_, _ = io.Copy(server, client) // until one of them is closed
			_ = server.Close()
		})
		buffer := make([]byte, 32<<10)
		for {
			_ = server.SetReadDeadline(time.Now().Add(silence))
			n, err := server.Read(buffer)
			if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // an error of the connection itself
				cuts.Add(1)
			}
			if err != nil {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serveOne(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // it may be closed
	})
	through := s.site("localhost")
	through.elsewhere = l.Addr().String()
	return through
}

// TestProxyThatCutsSilentConnections: the proxy cuts connections that are silent for 12 s,
// but each transport sends a heartbeat before that.
func TestProxyThatCutsSilentConnections(t *testing.T) {
	const silence, long = 12 * time.Second, 13 * time.Second
	s := serve(t, hostileSite)
	var cuts atomic.Int64
	through := cutting(t, s, silence, &cuts)
	// The proxy does cut a silent connection.
	mute, err := through.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	a := through.connect("/push/websocket", nil).subscribe("ws")
	concurrently(append([]string{"websocket"}, everyFallback...), func(transport string) {
		if transport == "websocket" {
			for end := time.Now().Add(long); time.Now().Before(end); {
				switch op, payload := a.read(); op {
				case wireclient.OpPing:
					a.write(wireclient.OpPong, payload)
				case wireclient.OpText:
				default:
					t.Errorf("WebSocket: opcode %d %q", op, payload)
				}
			}
			a.publish("ws", "still here")
			return
		}
		c := through.fallback(through.client("h1"), "/push", transport).connect("own/" + transport)
		end := time.Now().Add(long)
		c.idle(func() bool { return time.Now().Before(end) })
		c.echo("own/"+transport, 1)
	})
	_ = mute.SetReadDeadline(time.Now().Add(patience))
	if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || cuts.Load() == 0 {
		t.Errorf("nothing was cut, so that nothing is tried here: %v", err)
	}
}
