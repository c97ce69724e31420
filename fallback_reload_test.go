// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// generation is a Caddyfile that differs with the value of a header, so that to
// load it is a reload.
func generation(options, value string) string {
	return fallbackReloadSite("http://localhost", options, value)
}

func fallbackReloadSite(address, options, value string) string {
	return "{\n\tgrace_period 1s\n}\n" + address + " {\n\tlog\n\theader X-Generation " + value +
		"\n\tpushit {\n\t\t" + allTransports + "\n\t\t" + options + "\n\t}\n}\n"
}

// serveStill is serve for a server that stays where it is over reloads.
func serveStill(t *testing.T, config string, http3 bool) site {
	t.Helper()
	srv := &server{t: t, listen: freeAddress(t), http3: http3}
	srv.start(config)
	return srv.site("localhost")
}

// TestReloadBetweenPolls has a session be without a request while the
// configuration changes.
func TestReloadBetweenPolls(t *testing.T) {
	for _, transport := range []string{"xhr", "jsonp"} {
		t.Run(transport, func(t *testing.T) {
			s := serveStill(t, generation("heartbeat 10m", "0"), false)
			publisher := s.connect("/push/websocket", nil)
			c := s.fallback(s.client("h1"), "/push", transport).connect("room")
			c.finish()
			for _, n := range []string{"1", "2", "3"} {
				publisher.publish("room", "before "+n)
				if err := s.load(generation("heartbeat 10m", n)); err != nil {
					t.Fatal(err)
				}
				publisher.publish("room", "after "+n)
				c.wantMessage("room", "before "+n)
				c.wantMessage("room", "after "+n)
				c.publish("room", "sent "+n)
				c.wantMessage("room", "sent "+n)
				c.finish()
			}
		})
	}
}

// TestReloadDuringAResponse has a request receive while the configuration
// changes: over HTTP/1.1 and 2 it goes on as if nothing were.
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
			if c.coming == nil {
				c.begin()
			}
			clients[version+" "+transport] = c
		}
	}
	ended := map[string]int{}
	for name, c := range clients {
		ended[name] = c.ended
	}
	for i, n := range []string{"1", "2"} {
		if err := s.load(config(n)); err != nil {
			t.Fatal(err)
		}
		publisher.publish("room", "after "+n)
		for name, c := range clients {
			c.wantMessage("room", "after "+n)
			if _, transport, _ := strings.Cut(name, " "); slices.Contains(streams, transport) && c.ended != ended[name] {
				t.Errorf("%s: reload %d: the response has ended", name, i+1)
			}
		}
	}
	for _, c := range clients {
		c.publish("own", "still sends")
	}
}

// TestReloadOverHTTP3 has messages be published all the time while the
// configuration changes: Caddy ends the streams of HTTP/3, sessions go on with
// another request, and miss nothing.
func TestReloadOverHTTP3(t *testing.T) {
	cert, key := certificate(t, "localhost")
	config := func(value string) string {
		return fallbackReloadSite("https://localhost", "heartbeat 10m\n\t}\n\ttls "+cert+" "+key+" {\n\t\tprotocols tls1.2 tls1.3", value)
	}
	s := serveStill(t, config("0"), true)
	s.tls = true
	publisher := s.connect("/push/websocket", nil)
	_ = publisher.conn.SetDeadline(time.Now().Add(time.Minute))
	clients := map[string]*fallbackClient{}
	for _, transport := range everyFallback {
		clients[transport] = s.fallback(s.client("h3"), "/push", transport).connect("numbers")
	}
	// Caddy cuts the old generation's streams when the grace period is over.
	const reloads, between = 2, 1500 * time.Millisecond
	go func() {
		published := 0.0
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range reloads {
			if err := s.load(config(strings.Repeat("1", i+1))); err != nil {
				t.Error(err)
			}
			for end := time.Now().Add(between); time.Now().Before(end); published++ {
				publisher.publish("numbers", published)
				<-tick.C
			}
		}
		publisher.publish("numbers", "end")
	}()
	concurrently(everyFallback, func(transport string) {
		c := clients[transport]
		for want := 0.0; ; want++ {
			switch got := c.receive()["data"]; got {
			case want:
				continue
			case "end":
			default:
				t.Errorf("%s: got %v, want %v", transport, got, want)
			}
			break
		}
		if c.ended < reloads {
			t.Errorf("%s: %d responses have ended, want one with each of %d reloads", transport, c.ended, reloads)
		}
		c.publish("own", "still sends")
	})
}

// TestReloadChangesTransports has a session go on over those that are left.
func TestReloadChangesTransports(t *testing.T) {
	s := serveStill(t, generation("heartbeat 10m", "0"), false)
	publisher := s.connect("/push/websocket", nil)
	c := s.fallback(s.client("h1"), "/push", "xhr").connect("room")
	c.finish()
	publisher.publish("room", "before")
	without := strings.Replace(generation("heartbeat 10m", "0"), allTransports, "transports xhr", 1)
	if err := s.load(without); err != nil {
		t.Fatal(err)
	}
	for transport, method := range fallbackMethods {
		if transport == "xhr" {
			continue
		}
		if status, answer := c.ask(method, "/"+transport+"?c=call", ""); status != http.StatusNotFound || answer != "This transport is not served: use xhr.\n" {
			t.Errorf("%s: status %d: %s", transport, status, answer)
		}
	}
	if status, _ := c.ask(http.MethodPost, "/jsonp_send", "d=[]"); status != http.StatusNotFound {
		t.Errorf("jsonp_send: status %d, want 404", status)
	}
	if a, resp := s.upgrade("/push/000/abcdefgh/websocket", nil); a != nil || resp.StatusCode != http.StatusNotFound {
		t.Error("a WebSocket was opened, want 404")
	}
	c.wantMessage("room", "before")
	publisher.publish("room", "an open WebSocket goes on") // transports are for who comes
	c.wantMessage("room", "an open WebSocket goes on")
	c.echo("room", 1)
}

// TestReloadChangesOrigins has a page of another site that is listed, and then not
// any more.
func TestReloadChangesOrigins(t *testing.T) {
	s := serveStill(t, generation("origins https://other.example", "0"), false)
	c := s.fallback(s.client("h1"), "/push", "xhr")
	c.header = header("Origin", "https://other.example")
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
	if err := s.load(generation("origins https://another.example https://other.example", "0")); err != nil {
		t.Fatal(err)
	}
	c.echo("room", 1) // within the time that a session lives without a request
}

// TestReloadChangesSessionCookies has the way change in which logins are told
// apart: who opened a session cannot be told any more, so nobody gets it.
func TestReloadChangesSessionCookies(t *testing.T) {
	s := serveStill(t, generation("session_cookies login", "0"), false)
	open := func() *fallbackClient {
		c := s.fallback(s.client("h1"), "/push", "xhr")
		c.header = header("Cookie", "login=alice; role=editor")
		c.connect("room")
		c.finish()
		return c
	}
	c := open()
	if err := s.load(generation("session_cookies login", "1")); err != nil {
		t.Fatal(err)
	}
	c.echo("room", 1)
	if err := s.load(generation("session_cookies login role", "1")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/xhr", "/xhr_send"} {
		if status, answer := c.ask(http.MethodPost, path, "[]"); status != http.StatusNotFound {
			t.Errorf("%s: status %d: %s; want 404", path, status, answer)
		}
	}
	open().echo("room", 1)
}
