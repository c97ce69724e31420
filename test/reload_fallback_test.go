// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// A client that polls, and has no request under way during a reload, misses nothing.
func TestReloadBetweenTwoPollsLosesNothing(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	ws := s.connect("/push/websocket", nil)
	a := s.fallback(s.client("h1"), "/push", "xhr").connect("news", "other")
	for i, block := range []string{"default allow\nheartbeat 20s", "default allow\nlimits {\nagents 5\n}", "default allow\nchannel other {\nsubscribe deny\n}"} {
		ws.publish("news", float64(2*i))
		s.reload(withRules(block))
		ws.publish("news", float64(2*i+1))
		if i == 2 {
			break
		}
		for n := range 2 {
			if f := a.receive(); f["data"] != float64(2*i+n) {
				t.Fatalf("got %v, want message %d", f, 2*i+n)
			}
		}
	}
	ws.publish("other", "nobody's")
	ended := 0
	for _, want := range []float64{4, 5} {
		f := a.receive()
		if f["channel"] == "/meta/unsubscribe" && f["code"] == "denied" {
			ended++
			f = a.receive()
		}
		if f["data"] != want {
			t.Fatalf("got %v, want message %v", f, want)
		}
	}
	if ended == 0 {
		if f := a.receive(); f["channel"] != "/meta/unsubscribe" || f["code"] != "denied" {
			t.Errorf("got %v, want the end of a subscription", f)
		}
	}
	s.reload(withRules("default allow\nconnect deny \"members only\""))
	if f := a.receive(); f["channel"] != "/meta/close" || f["code"] != float64(hub.CloseCut) {
		t.Errorf("got %v, want it cut", f)
	}
	a.finish()
	if f := a.frame(); f != `c[4403,"members only"]` {
		t.Errorf("after the notice came %q", f)
	}
}

// A poll that is under way during a reload gets messages that are published under the new
// configuration.
func TestReloadDuringAPoll(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	a := s.fallback(s.client("h1"), "/push", "xhr").connect("news")
	a.finish()
	before := a.Ended
	a.begin()
	s.reload(withRules("default allow\nheartbeat 20s"))
	s.connect("/push/websocket", nil).publish("news", "later")
	a.wantMessage("news", "later")
	if a.finish(); a.Ended != before+1 {
		t.Errorf("%d requests were needed, want one", a.Ended-before)
	}
}

// freeUDP returns an address that is free for TCP and UDP.
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

// During reloads streams continue, or end in order and the next one continues. No message
// is lost, and none comes twice. With grace_period, Caddy ends the streams of HTTP/3.
func TestReloadOfStreamsLosesNothing(t *testing.T) {
	cert, key := certificate(t, "localhost")
	addr := freeUDP(t)
	config := func(global, block string) string {
		return global + "\nhttps://localhost {\n\ttls " + cert + " " + key + "\n\tpushit {\n\t\tdefault allow\n\t\t" + block + "\n\t}\n}\n"
	}
	const graceful = "{\n\tgrace_period 1s\n}"
	s := serveAt(t, addr, config(graceful, "")).site("localhost")
	s.tls = true
	ws := s.connect("/push/websocket", nil)
	var readers sync.WaitGroup
	for _, version := range []string{"h1", "h2", "h3"} {
		for _, transport := range []string{"xhr_streaming", "eventsource"} {
			c := s.fallback(s.client(version), "/push", transport).connect("news")
			readers.Go(func() {
				for want := 1.0; ; want++ {
					switch got := c.receive()["data"]; got {
					case want:
						continue
					case "end":
					default:
						t.Errorf("%s over %s: got %v, want message %v", transport, version, got, want)
					}
					return
				}
			})
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
		// Messages in a stream that Caddy ends after the grace period are not lost.
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
	ws.publish("news", "end")
	readers.Wait()
}

// A session still belongs to its owner after a reload has changed session_cookies.
func TestReloadOfSessionCookies(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	mine := http.Header{"Cookie": {"sid=mine; theme=dark"}}
	a := s.fallback(s.client("h1"), "/push", "xhr")
	a.Header = mine
	a.connect("news")
	foreign := *a
	foreign.Header = http.Header{"Cookie": {"sid=other; theme=dark"}}
	const publication = `["{\"channel\":\"news\",\"uuid\":\"x\",\"agentId\":\"tester\",\"data\":\"not mine\"}"]`
	if status, answer := foreign.ask(http.MethodPost, "/xhr_send", publication); status != http.StatusNoContent {
		t.Errorf("without session_cookies, xhr_send was answered %d %s", status, answer)
	}
	a.receive()
	a.receive() // the message, and its acknowledgement
	for _, cookies := range []string{"sid", "sid theme", "theme sid"} {
		s.reload(withRules("default allow\nsession_cookies " + cookies))
		if status, answer := foreign.ask(http.MethodPost, "/xhr_send", publication); status != http.StatusNotFound {
			t.Errorf("session_cookies %s: another's xhr_send was answered %d %s", cookies, status, answer)
		}
		a.publish("news", "mine")
		a.wantMessage("news", "mine")
	}
}

func TestReloadOfTransports(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	ws := s.connect("/push/websocket", nil)
	a := s.fallback(s.client("h1"), "/push", "xhr").connect("news")
	s.reload(withRules("default allow\ntransports websocket xhr"))
	a.send("news", "still")
	a.receive()
	s.reload(withRules("default allow\ntransports websocket"))
	s.wantLog("agents moved to a new configuration", func(f object) bool { return f["agents_cut"] == 1.0 && f["agents"] == 2.0 })
	ws.subscribe("news")
	ws.publish("news", "on")
	ws.wantMessage("news", "on")
	s.reload(withRules("default allow\ntransports xhr"))
	ws.wantCut()
}
