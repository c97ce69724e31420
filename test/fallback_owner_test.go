// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/push-it/pushit/internal/wireclient"
)

// bobHash is the password "secret of alice" as basic_auth stores it. Bob has the same
// password as alice.
const bobHash = aliceHash

// headers merges headers.
func headers(all ...http.Header) http.Header {
	joined := http.Header{}
	for _, h := range all {
		maps.Copy(joined, h)
	}
	return joined
}

// TestLeakedSessionNameGivesNothing: the name of a session is in addresses, and so in logs.
// Other clients that know it get nothing.
func TestLeakedSessionNameGivesNothing(t *testing.T) {
	alice := basicAuth("alice", "secret of alice")
	const password = "basic_auth {\n\t\talice " + aliceHash + "\n\t\tbob " + bobHash + "\n\t}"
	for _, tc := range []struct {
		name, around, options string
		owner                 http.Header
		others                map[string]http.Header
		statuses              map[string]int // default: 404
	}{
		{
			name: "another user of basic_auth", around: password, owner: alice,
			others:   map[string]http.Header{"bob": basicAuth("bob", "secret of alice"), "nobody": nil, "a wrong password": basicAuth("alice", "guessed")},
			statuses: map[string]int{"nobody": http.StatusUnauthorized, "a wrong password": http.StatusUnauthorized},
		},
		{
			name: "another login", options: "session_cookies login\n\t\torigins https://listed.example",
			owner: header("Cookie", "theme=dark; login=alice"),
			others: map[string]http.Header{
				"another": header("Cookie", "theme=dark; login=bob"), "none": header("Cookie", "theme=dark"), "no cookie": nil,
				"an empty one": header("Cookie", "login="), "two": header("Cookie", "login=alice; login=bob"), "case": header("Cookie", "Login=alice"),
				"with Authorization": headers(header("Cookie", "login=alice"), header("Authorization", "Bearer x")),
				"from another site":  headers(header("Cookie", "login=alice"), header("Origin", "https://listed.example")),
				"from a foreign one": headers(header("Cookie", "login=alice"), header("Origin", "https://foreign.example")),
			},
			statuses: map[string]int{"from a foreign one": http.StatusForbidden},
		},
		{
			name: "other credentials", owner: header("Authorization", "Bearer alice"),
			others: map[string]http.Header{"others": header("Authorization", "Bearer bob"), "none": nil},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := strings.Replace(fallbackSite("http://localhost", tc.around), "heartbeat 10m", "heartbeat 10m\n\t\t"+tc.options, 1)
			s := serve(t, config).site("localhost")
			by := s.client("h1")
			for _, opened := range everyFallback {
				c := s.fallback(by, "/push", opened)
				c.Header = tc.owner
				c.connect("room").begin()
				agents := hubAgents("default")
				for who, h := range tc.others {
					want := tc.statuses[who]
					if want == 0 {
						want = http.StatusNotFound
					}
					other := *c
					other.Header = h
					other.wantRefusedEverywhere(who, want)
				}
				if n := hubAgents("default"); n != agents {
					t.Errorf("%s: there are %d agents after others tried, and were %d", opened, n, agents)
				}
				c.echo("room", 1) // nothing else was received in between
				if tc.name == "another login" {
					c.Header = header("Cookie", "login=alice; theme=light")
					c.echo("room", 1) // other cookies may change
				}
			}
		})
	}
}

// wantRefusedEverywhere tries each transport with the session's name. Each must be refused
// with that status.
func (c *fallbackClient) wantRefusedEverywhere(who string, status int) {
	c.t.Helper()
	publication := `["{\"channel\":\"room\",\"uuid\":\"x\",\"agentId\":\"tester\",\"data\":\"not mine\"}"]`
	tries := map[string]string{"/xhr_send": publication, "/jsonp_send": publication}
	for transport := range wireclient.Methods {
		tries["/"+transport+"?c=call"] = ""
	}
	for path, body := range tries {
		method := http.MethodPost
		if m := wireclient.Methods[strings.TrimSuffix(path[1:], "?c=call")]; m != "" {
			method = m
		}
		if got, answer := c.ask(method, path, body); got != status {
			c.t.Errorf("%s, by %s: %s %s: status %d: %s; want %d", c.Transport, who, method, path, got, answer, status)
		}
	}
	form := url.Values{"d": {publication}}.Encode()
	c.Header = headers(c.Header, header("Content-Type", "application/x-www-form-urlencoded"))
	if got, answer := c.ask(http.MethodPost, "/jsonp_send", form); got != status {
		c.t.Errorf("%s, by %s: a form: status %d: %s; want %d", c.Transport, who, got, answer, status)
	}
}

// TestSessionNamesOfOtherSites has two hosts and two endpoints of one hub. The name of
// one endpoint's session is unknown at the other.
func TestSessionNamesOfOtherSites(t *testing.T) {
	one := strings.Replace(fallbackSite("http://localhost", "pushit /live {\n\t\tname chat\n\t}"), "pushit {", "pushit {\n\t\tname chat", 1)
	s := serve(t, one+strings.ReplaceAll(one, "//localhost", "//other.localhost")).site("localhost")
	by := s.client("h1")
	c := s.fallback(by, "/push", "xhr").connect("room")
	c.begin()
	host, endpoint := *c, *c
	host.Host = "other.localhost"
	endpoint.URL = strings.Replace(c.URL, "/push/", "/live/", 1)
	host.wantRefusedEverywhere("another host", http.StatusNotFound)
	if status, answer := endpoint.ask(http.MethodPost, "/xhr_send", `["{}"]`); status != http.StatusNotFound {
		t.Errorf("another endpoint: xhr_send: status %d: %s; want 404", status, answer)
	}
	if status, answer := endpoint.ask(http.MethodPost, "/xhr", ""); status != http.StatusOK || answer != "o\n" {
		t.Errorf("another endpoint: xhr: status %d: %s; want a session of its own", status, answer)
	}
	c.echo("room", 1)
}
