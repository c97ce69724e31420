// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/push-it/pushit/internal/sampler"
)

// logged returns the log lines whose message begins with that text.
func (s *server) logged(message string) (lines []map[string]any) {
	s.t.Helper()
	for line := range strings.Lines(s.log()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			s.t.Fatal(err)
		}
		if text, _ := entry["msg"].(string); strings.HasPrefix(text, message) {
			lines = append(lines, entry)
		}
	}
	return lines
}

const (
	cookiesAtStart = "a request belongs to a fallback session only if its session_cookies"
	cookiesDiffer  = "a request was refused, because session cookies differ"
)

// A site with session_cookies logs at start what to check, once. Others do not.
func TestSessionCookiesAtStart(t *testing.T) {
	for options, want := range map[string]int{
		"session_cookies login sid":                       1,
		"heartbeat 20s":                                   0,
		"transports websocket\n\t\tsession_cookies login": 0, // a WebSocket is one request
	} {
		s := serve(t, "http://localhost, http://localhost:8080 {\n\tpushit {\n\t\t"+options+"\n\t}\n}\n")
		lines := s.logged(cookiesAtStart)
		if len(lines) != want {
			t.Errorf("%s: %d lines, want %d", options, len(lines), want)
		}
		for _, line := range lines {
			if line["level"] != "info" || !strings.Contains(s.log(), `"cookies":["login","sid"]`) || !strings.Contains(line["to_do"].(string), "Set-Cookie") {
				t.Errorf("%s: %v", options, line)
			}
		}
		s.stop()
	}
}

// A cookie that changes during a session is the likeliest mistake in session_cookies. The
// log has its name, but not its value, in at most ten lines a second.
func TestRenewedCookiesAreLogged(t *testing.T) {
	config := strings.Replace(fallbackSite("http://localhost", ""), "heartbeat 10m", "heartbeat 10m\n\t\tsession_cookies sid login JSESSIONID\n\t\torigins https://listed.example", 1)
	s := serve(t, config).site("localhost")
	by := s.client("h1")
	cookies := func(text string) http.Header { return header("Cookie", text) }
	mine := cookies("sid=secret-one; login=alice-secret; theme=dark; JSESSIONID=x")
	renewed := cookies("sid=secret-two; login=alice-secret; theme=dark; JSESSIONID=x")

	for _, opened := range []string{"xhr", "xhr_streaming"} {
		c := s.fallback(by, "/push", opened)
		c.Header = mine
		c.connect("room").begin()
		for _, tc := range []struct {
			name   string
			header http.Header
			differ []any // nil: nothing is logged
		}{
			{"one is renewed", renewed, []any{"sid"}},
			{"both are", cookies("sid=secret-two; login=bob-secret"), []any{"sid", "login"}},
			{"one is gone", cookies("sid=secret-one"), []any{"login"}},
			{"one is there twice", cookies("sid=secret-one; sid=secret-two; login=alice-secret"), []any{"sid"}},
			{"other credentials too", headers(renewed, header("Authorization", "Bearer secret-three")), nil},
			{"another origin too", headers(renewed, header("Origin", "https://listed.example")), nil},
		} {
			for _, path := range []string{"/xhr", "/xhr_send"} {
				before := len(s.logged(cookiesDiffer))
				other := *c
				other.Header = tc.header
				if status, answer := other.ask(http.MethodPost, path, `["{}"]`); status != http.StatusNotFound {
					t.Errorf("%s, %s: status %d: %s", tc.name, path, status, answer)
				}
				lines := s.logged(cookiesDiffer)[before:]
				switch {
				case tc.differ == nil && len(lines) == 0:
				case tc.differ == nil || len(lines) != 1:
					// A line may be left out if all this happens within a second.
					if before < sampler.LinesPerSecond || tc.differ == nil {
						t.Errorf("%s, %s: the log has %v", tc.name, path, lines)
					}
				default:
					if got, _ := lines[0]["cookies"].([]any); !slices.Equal(got, tc.differ) || lines[0]["logger"] != "http.handlers.pushit" || lines[0]["level"] != "info" {
						t.Errorf("%s, %s: %v, want the cookies %v", tc.name, path, lines[0], tc.differ)
					}
				}
			}
		}
		c.echo("room", 1)
	}

	// A name that no client has opened a session with belongs to no session.
	before := len(s.logged(cookiesDiffer))
	stranger := s.fallback(by, "/push", "xhr")
	stranger.Header = renewed
	if status, _ := stranger.ask(http.MethodPost, "/xhr_send", `["{}"]`); status != http.StatusNotFound {
		t.Errorf("a session that is not there: status %d", status)
	}
	if lines := s.logged(cookiesDiffer)[before:]; len(lines) > 0 {
		t.Errorf("a session that is not there: the log has %v", lines)
	}

	c := s.fallback(by, "/push", "xhr")
	c.Header = mine
	c.connect("room").begin()
	c.Header = renewed
	began := len(s.logged(cookiesDiffer))
	seconds := make(map[int64]bool)
	for range 5 * sampler.LinesPerSecond {
		if status, _ := c.ask(http.MethodPost, "/xhr_send", `["{}"]`); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
	}
	lines := s.logged(cookiesDiffer)[began:]
	for _, line := range lines {
		seconds[int64(line["ts"].(float64))] = true
	}
	// The test may count a line one second, and the log write it in the next.
	if most := sampler.LinesPerSecond * (len(seconds) + 1); len(lines) > most {
		t.Errorf("%d lines in %d seconds", len(lines), len(seconds))
	}
	for line := range strings.Lines(s.log()) {
		if strings.Contains(line, `"logger":"http.handlers.pushit"`) && strings.Contains(line, "secret") {
			t.Errorf("the log has the value of a cookie: %s", line)
		}
	}
}
