// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

func init() {
	narrow = func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10),
				// Systems size the buffers by the largest packet, which has 64 KiB on
				// loopback.
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536),
			)
		})
		return errors.Join(err, failed)
	}
}

// A stalledAgent reads only when next is called.
type stalledAgent struct {
	name  string
	send  func(channel string, data any) (uuid string)
	close func()
	// next returns the next frame. ok is false if the session is over.
	next func() (f object, ok bool)
}

// stalledWebSocket connects over a WebSocket, and subscribes to room.
func (s site) stalledWebSocket() *stalledAgent {
	s.t.Helper()
	a := s.connect("/push/websocket", nil).subscribe("room")
	return &stalledAgent{name: "websocket", send: a.send, close: func() { _ = a.conn.Close() }, next: func() (f object, ok bool) {
		op, payload := a.read() // it ends with a close frame
		if op == wireclient.OpClose {
			return nil, false
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			s.t.Errorf("%s: %v", payload, err)
		}
		return f, true
	}}
}

// stalledStream connects over a transport and a version of HTTP, and subscribes to room.
// If the session ends while the server writes, the response may break off.
func (s site) stalledStream(version, transport string) *stalledAgent {
	s.t.Helper()
	c := s.fallback(s.client(version), "/push", transport).connect("room")
	c.response()
	a := &stalledAgent{name: version + " " + transport, send: c.send, close: c.GiveUp}
	a.next = func() (f object, ok bool) {
		for len(c.kept) == 0 {
			switch frame, err := c.Next(c.life()); {
			case err != nil || strings.HasPrefix(frame, "c"):
				return nil, false
			case frame != "" && frame != "h":
				c.keep(frame)
			}
		}
		return c.receive(), true
	}
	return a
}

// TestDeniedMessagesDoNotReachAStalledAgent has agents that do not read, so messages fill
// the buffers of the system and then wait in the hub. If a reload denies the waiting
// messages, they never arrive, over any transport, whichever gate denies them. The metrics
// account for each message.
func TestDeniedMessagesDoNotReachAStalledAgent(t *testing.T) {
	cert, key := certificate(t, "localhost")
	for _, scheme := range []string{"http", "https"} {
		for _, denies := range []string{"connect deny", "subscribe deny", "deliver {\n\t\t\tdeny\n\t\t}"} {
			gate, _, _ := strings.Cut(denies, " ")
			for again := true; again; {
				again = false
				t.Run(scheme+" "+gate, func(t *testing.T) { again = !denyWhatWaits(t, scheme, gate, denies, cert+" "+key) })
			}
		}
	}
}

// denyWhatWaits is TestDeniedMessagesDoNotReachAStalledAgent for one gate. It returns false if
// the machine was too busy for a verdict.
func denyWhatWaits(t *testing.T, scheme, gate, denies, pair string) (ok bool) {
	// 1 MiB: eight times what Linux holds. A response ends after 128 KiB, and its session 5 s
	// later: all has to be published by then.
	const messages, size = 32, 32 << 10
	config := func(rules, generation string) string {
		site := "http://localhost {\n"
		if scheme == "https" {
			site = "https://localhost {\n\ttls " + pair + "\n"
		}
		return site + "\tmetrics /metrics\n\theader X-Generation " + generation + "\n\tpushit {\n\t\t" + allTransports + `
		heartbeat 10m
		limits {
			frames_per_second unlimited
			publishes_per_second unlimited
			queue_messages 100000
			queue_bytes 256MiB
		}
		default allow
		` + rules + "\n\t}\n}\n"
	}
	s := serveStill(t, config("", "0"), false)
	s.tls = scheme == "https"
	publisher := s.connect("/push/websocket", nil)

	slow := s
	slow.narrow = true
	agents := []*stalledAgent{slow.stalledWebSocket()}
	for _, transport := range streams {
		agents = append(agents, slow.stalledStream("h1", transport))
		if s.tls {
			agents = append(agents, slow.stalledStream("h2", transport))
		}
	}

	data := strings.Repeat("x", size)
	began := time.Now()
	for n := range messages {
		publisher.send("room", object{"n": n, "x": data})
	}
	for range messages {
		if f := publisher.receive(); f["channel"] != "/meta/successful" {
			t.Fatalf("got %v, want the answer to a publish", f)
		}
	}
	s.reload(config(denies, "1"))
	if took := time.Since(began); took > 3*time.Second {
		t.Logf("once more: sessions may have ended in the %v until the reload", took)
		return false
	}

	// All at once: a session ends 5 s after the end of its response.
	var read atomic.Int64
	var readers sync.WaitGroup
	for _, a := range agents {
		readers.Go(func() { read.Add(int64(a.readAfter(t, gate, messages))) })
	}
	readers.Wait()
	received := float64(read.Load())
	dropped := "reason=revoked"
	if gate == "deliver" {
		dropped = "reason=gate"
	}
	total := float64(messages * len(agents))
	if gate != "connect" { // a write to an agent that is cut may continue
		s.awaitMetrics(scrape{of("messages_delivered_total"): received, of("messages_dropped_total", dropped): total - received})
	} else if got := s.awaitMetrics(scrape{of("agents", "transport=websocket"): 0}); got[of("messages_dropped_total", dropped)] < total/2 || got[of("messages_delivered_total")] < received {
		t.Errorf("%v of %v were received, but %v delivered and %v dropped", received, total, got[of("messages_delivered_total")], got[of("messages_dropped_total", dropped)])
	}
	for _, a := range agents {
		a.close()
	}
	return true
}

// readAfter reads what comes after a reload, up to its notice or the answer to a ping. It
// returns how many messages came. They must be the first ones.
func (a *stalledAgent) readAfter(t *testing.T, gate string, messages int) (n int) {
	t.Helper()
	notice := map[string]string{"connect": "/meta/close", "subscribe": "/meta/unsubscribe"}[gate]
	var ping string
	if notice == "" {
		ping = a.send("/meta/ping", nil)
	}
	for {
		f, ok := a.next()
		switch data, _ := f["data"].(object); {
		case !ok && gate == "connect":
			return n
		case !ok:
			t.Errorf("%s: the session has ended", a.name)
			return n
		case f["channel"] == "room":
			if data["n"] != float64(n) {
				t.Errorf("%s: message %v comes, want %d", a.name, data["n"], n)
			}
			if n++; n > messages/2 {
				t.Errorf("%s: message %d comes, which was in the hub when the reload denied it", a.name, n)
			}
		case ping != "" && f["uuid"] == ping:
			return n
		case notice != "" && f["channel"] == notice:
			notice = ""
			if gate == "subscribe" {
				ping = a.send("/meta/ping", nil)
			}
		case f["channel"] != "/meta/successful":
			t.Errorf("%s: got %v", a.name, f)
		}
	}
}
