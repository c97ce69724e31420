// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// A client that polls, and has no request under way during a reload, misses nothing.
func TestReloadBetweenTwoPollsLosesNothing(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	ws := s.connect("/push/websocket", nil)
	join := func() *fallbackClient {
		s.reload(withRules("default allow"))
		return s.fallback(s.client("h1"), "/push", "xhr").connect("news", "other")
	}
	a := join()
	for i, block := range []string{"default allow\nheartbeat 20s", "default allow\nlimits {\nagents 50\n}", "default allow\nchannel other {\nsubscribe deny\n}"} {
		a = a.betweenPolls(join, func() {
			ws.publish("news", float64(2*i))
			s.reload(withRules(block))
			ws.publish("news", float64(2*i+1))
		})
		if i == 2 {
			break
		}
		for n := range 2 {
			a.wantMessage("news", float64(2*i+n))
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
	a = a.betweenPolls(join, func() { s.reload(withRules("default allow\nconnect deny \"members only\"")) })
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

// During reloads streams continue, or end in order and the next one continues. No message
// is lost, and none comes twice. pushit ends the streams of HTTP/3 before Caddy cuts them.
func TestReloadOfStreamsLosesNothing(t *testing.T) {
	cert, key := certificate(t, "localhost")
	config := func(global, block string) string {
		return global + "\nhttps://localhost {\n\ttls " + cert + " " + key + "\n\tpushit {\n\t\tdefault allow\n\t\t" + block + "\n\t}\n}\n"
	}
	// Responses that Caddy cuts, because a grace period is over, lose what is under way.
	const graceful = "{\n\tgrace_period 30s\n}"
	s := serveAt(t, freeAddress(t), config(graceful, "")).site("localhost")
	s.tls = true
	var readers []*follower
	for _, version := range []string{"h1", "h2", "h3"} {
		for _, transport := range []string{"xhr_streaming", "eventsource"} {
			c := s.fallback(s.client(version), "/push", transport).connect("news")
			readers = append(readers, &follower{fallbackClient: c, name: transport + " over " + version, ends: version == "h3"})
		}
	}
	numbers := s.count("/push/websocket", "news", 20*time.Millisecond)
	for i := range 4 {
		s.reloadUnder(numbers, readers, config(graceful, fmt.Sprintf("heartbeat %ds", 20+i)))
	}
	numbers.end(readers)
}

// A session still belongs to its owner after a reload has changed session_cookies.
func TestReloadOfSessionCookies(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	mine := http.Header{"Cookie": {"sid=mine; theme=dark"}}
	a := s.fallback(s.client("h1"), "/push", "xhr")
	a.Header = mine
	a.connect("news").begin()
	foreign := *a
	foreign.Header = http.Header{"Cookie": {"sid=other; theme=dark"}}
	const publication = `["{\"channel\":\"news\",\"uuid\":\"x\",\"agentId\":\"tester\",\"data\":\"not mine\"}"]`
	if status, answer := foreign.ask(http.MethodPost, "/xhr_send", publication); status != http.StatusNoContent {
		t.Errorf("without session_cookies, xhr_send was answered %d %s", status, answer)
	}
	a.receive()
	a.receive() // the message, and its acknowledgement
	for _, cookies := range []string{"sid", "sid theme", "theme sid"} {
		a.begin()
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
	a.begin()
	s.reload(withRules("default allow\ntransports websocket xhr"))
	a.send("news", "still")
	a.receive()
	a.begin()
	s.reload(withRules("default allow\ntransports websocket"))
	s.wantLog("agents moved to a new configuration", func(f object) bool { return f["agents_cut"] == 1.0 && f["agents"] == 2.0 })
	ws.subscribe("news")
	ws.publish("news", "on")
	ws.wantMessage("news", "on")
	s.reload(withRules("default allow\ntransports xhr"))
	ws.wantCut()
}
