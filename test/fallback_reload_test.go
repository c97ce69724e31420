// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// generation is a Caddyfile with a header of that value, so that loading it is a reload.
func generation(options, value string) string {
	return fallbackReloadSite("http://localhost", options, value)
}

func fallbackReloadSite(address, options, value string) string {
	return "{\n\tgrace_period 30s\n}\n" + address + " {\n\tlog\n\theader X-Generation " + value +
		"\n\tpushit {\n\t\t" + allTransports + "\n\t\t" + options + "\n\t}\n}\n"
}

// serveStill is serve for a server that keeps its address during reloads.
func serveStill(t *testing.T, config string, http3 bool) site {
	t.Helper()
	srv := &server{t: t, listen: freeAddress(t), http3: http3}
	srv.start(config)
	return srv.site("localhost")
}

// TestReloadBetweenPolls reloads while a session has no request under way.
func TestReloadBetweenPolls(t *testing.T) {
	for _, transport := range []string{"xhr", "jsonp"} {
		t.Run(transport, func(t *testing.T) {
			s := serveStill(t, generation("heartbeat 10m", "0"), false)
			publisher := s.connect("/push/websocket", nil)
			join := func() *fallbackClient { return s.fallback(s.client("h1"), "/push", transport).connect("room") }
			c := join()
			for _, n := range []string{"1", "2", "3"} {
				c = c.betweenPolls(join, func() {
					publisher.publish("room", "before "+n)
					s.reload(generation("heartbeat 10m", n))
					publisher.publish("room", "after "+n)
				})
				c.wantMessage("room", "before "+n)
				c.wantMessage("room", "after "+n)
				c.publish("room", "sent "+n)
				c.wantMessage("room", "sent "+n)
			}
		})
	}
}

// TestReloadDuringAResponse reloads while a request receives. Over HTTP/1.1 and HTTP/2 it
// continues.
func TestReloadDuringAResponse(t *testing.T) {
	cert, key := certificate(t, "localhost")
	config := func(value string) string {
		return fallbackReloadSite("https://localhost", "heartbeat 10m\n\t}\n\ttls "+cert+" "+key+" {\n\t\tprotocols tls1.2 tls1.3", value)
	}
	s := serveStill(t, config("0"), false)
	s.tls = true
	publisher := s.connect("/push/websocket", nil)
	clients := map[string]*fallbackClient{}
	for _, version := range []string{"h1", "h2"} {
		for _, transport := range everyFallback {
			c := s.fallback(s.client(version), "/push", transport).connect("room")
			c.begin()
			clients[version+" "+transport] = c
		}
	}
	ended := map[string]int{}
	for name, c := range clients {
		ended[name] = c.Ended
	}
	for i, n := range []string{"1", "2"} {
		if err := s.load(config(n)); err != nil {
			t.Fatal(err)
		}
		publisher.publish("room", "after "+n)
		for name, c := range clients {
			c.wantMessage("room", "after "+n)
			if _, transport, _ := strings.Cut(name, " "); slices.Contains(streams, transport) && c.Ended != ended[name] {
				t.Errorf("%s: reload %d: the response has ended", name, i+1)
			}
		}
	}
	for _, c := range clients {
		c.publish("own", "still sends")
	}
}

// TestReloadOverHTTP3 reloads while messages are published. Responses over HTTP/3 end at a
// reload. Sessions continue with another request, and miss nothing.
func TestReloadOverHTTP3(t *testing.T) {
	cert, key := certificate(t, "localhost")
	config := func(value string) string {
		return fallbackReloadSite("https://localhost", "heartbeat 10m\n\t}\n\ttls "+cert+" "+key+" {\n\t\tprotocols tls1.2 tls1.3", value)
	}
	s := serveStill(t, config("0"), true)
	s.tls = true
	var clients []*follower
	for _, transport := range everyFallback {
		c := s.fallback(s.client("h3"), "/push", transport).connect("numbers")
		clients = append(clients, &follower{fallbackClient: c, name: transport, ends: true})
	}
	numbers := s.count("/push/websocket", "numbers", 20*time.Millisecond)
	for i := range 2 {
		s.reloadUnder(numbers, clients, config(strings.Repeat("1", i+1)))
	}
	numbers.end(clients)
	for _, c := range clients {
		c.publish("own", "still sends")
	}
}

// TestReloadChangesOrigins has a page of another site whose origin a reload removes.
func TestReloadChangesOrigins(t *testing.T) {
	s := serveStill(t, generation("origins https://other.example", "0"), false)
	c := s.fallback(s.client("h1"), "/push", "xhr")
	c.Header = header("Origin", "https://other.example")
	c.connect("room")
	c.finish()
	if err := s.load(generation("origins https://another.example", "0")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/xhr", "/xhr_send"} {
		if status, answer := c.ask(http.MethodPost, path, "[]"); status != http.StatusForbidden {
			t.Errorf("%s: status %d: %s; want 403", path, status, answer)
		}
	}
}

// TestReloadChangesTheHeartbeat reloads with another heartbeat while sessions are open.
func TestReloadChangesTheHeartbeat(t *testing.T) {
	s := serveStill(t, generation("heartbeat 10m", "0"), false)
	clients := map[string]*fallbackClient{}
	for _, transport := range everyFallback {
		c := s.fallback(s.client("h1"), "/push", transport).connect("own/" + transport)
		c.begin()
		clients[transport] = c
	}
	if err := s.load(generation("heartbeat 5s", "0")); err != nil {
		t.Fatal(err)
	}
	concurrently(everyFallback, func(transport string) {
		c := clients[transport]
		f := c.frame()
		for f == "" { // the end of a response that had its frame
			f = c.frame()
		}
		if f != "h" {
			t.Errorf("%s: got %q, want a heartbeat", transport, f)
		}
		c.echo("own/"+transport, 1)
	})
}

// TestDeniedMessagesDoNotReachTheNextPoll: messages wait between two polls, and a reload
// denies them. They must not be sent, no matter which gate denies them.
func TestDeniedMessagesDoNotReachTheNextPoll(t *testing.T) {
	for _, transport := range []string{"xhr", "jsonp"} {
		for _, denies := range []string{"connect deny", "subscribe deny", "deliver {\n\t\t\tdeny\n\t\t}"} {
			gate, _, _ := strings.Cut(denies, " ")
			t.Run(transport+" "+gate, func(t *testing.T) {
				s := serveStill(t, generation("heartbeat 10m\n\t\tdefault allow", "0"), false)
				join := func() *fallbackClient {
					s.reload(generation("heartbeat 10m\n\t\tdefault allow", "0"))
					return s.fallback(s.client("h1"), "/push", transport).connect("room")
				}
				c := join().betweenPolls(join, func() {
					publisher := s.connect("/push/websocket", nil)
					for n := range 40 {
						publisher.publish("room", float64(n))
					}
					s.reload(generation("heartbeat 10m\n\t\tdefault allow\n\t\t"+denies, "1"))
				})
				if gate == "deliver" { // the session goes on, with its answers
					id := c.send("elsewhere", "x")
					if f := c.receive(); f["channel"] != "/meta/successful" || f["uuid"] != id {
						t.Fatalf("got %v, want the answer to a publish", f)
					}
					return
				}
				want := map[string]string{"connect": "/meta/close", "subscribe": "/meta/unsubscribe"}[gate]
				if f := c.receive(); f["channel"] != want {
					t.Fatalf("got %v, want %s", f, want)
				}
			})
		}
	}
}
