// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fallbackSite is a Caddyfile with a site of all transports. Its heartbeat is rare,
// because a heartbeat could push out what a proxy holds back.
func fallbackSite(address, around string) string {
	return address + " {\n\tlog\n\t" + around + "\n\tpushit {\n\t\t" + allTransports + "\n\t\theartbeat 10m\n\t}\n\trespond next 404\n}\n"
}

// TestFallbacksOverEveryHTTP: sessions over each transport and each version of HTTP
// exchange messages with each other and with a WebSocket.
func TestFallbacksOverEveryHTTP(t *testing.T) {
	cert, key := certificate(t, "localhost")
	srv := &server{t: t, listen: freeAddress(t), http3: true}
	srv.start(fallbackSite("https://localhost", "tls "+cert+" "+key+"\n\tencode"))
	s := srv.site("localhost")
	s.tls = true
	listener := s.connect("/push/websocket", nil).subscribe("all")
	for _, version := range []string{"h1", "h2", "h3"} {
		by := s.client(version)
		concurrently(everyFallback, func(transport string) {
			c := s.fallback(by, "/push", transport).connect("own/" + version + transport)
			c.echo("own/"+version+transport, 3)
			c.publish("all", version+" "+transport)
			if got, want := c.response().Proto, map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2.0", "h3": "HTTP/3.0"}[version]; slices.Contains(streams, transport) && got != want {
				t.Errorf("%s: %s, want %s", transport, got, want)
			}
		})
		var heard []string
		for range everyFallback {
			heard = append(heard, listener.receive()["data"].(string))
		}
		slices.Sort(heard)
		for i, transport := range slices.Sorted(slices.Values(everyFallback)) {
			if want := version + " " + transport; heard[i] != want {
				t.Errorf("a WebSocket heard %q, want %q", heard[i], want)
			}
		}
	}
}

// TestFallbacksAmongOtherDirectives: sessions work with other directives before pushit,
// and around it.
func TestFallbacksAmongOtherDirectives(t *testing.T) {
	dir, err := os.MkdirTemp("", "pushit-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, tc := range []struct{ name, listen, site, endpoint string }{
		{name: "handle_path", endpoint: "/live", site: "http://localhost {\nhandle_path /live/* {\npushit {\npath /\n" + allTransports + "\n}\n}\n}"},
		{name: "header, log, metrics", endpoint: "/push", site: "{\nmetrics\n}\nhttp://localhost {\nlog\nheader >X-It yes\nencode\nintercept {\n@no status 599\nhandle_response @no {\nrespond no\n}\n}\npushit {\n" + allTransports + "\n}\n}"},
		{name: "unix socket", listen: "unix/" + filepath.Join(dir, "s"), endpoint: "/push", site: fallbackSite("http://localhost", "")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := &server{t: t, listen: tc.listen}
			srv.start(tc.site)
			s := srv.site("localhost")
			if socket, ok := strings.CutPrefix(tc.listen, "unix/"); ok {
				s.elsewhere = socket
			}
			by := s.client("h1")
			concurrently(everyFallback, func(transport string) {
				s.fallback(by, tc.endpoint, transport).connect("own/"+transport).echo("own/"+transport, 2)
			})
		})
	}
}

// TestEncodeLeavesStreamsAlone: clients accept compressed responses and Caddy compresses.
// It must not compress streams.
func TestEncodeLeavesStreamsAlone(t *testing.T) {
	cert, key := certificate(t, "localhost")
	s := serve(t, "https://localhost {\n\ttls "+cert+" "+key+"\n\tlog\n\tencode zstd gzip {\n\t\tminimum_length 1\n\t\tmatch header Content-Type *\n\t}\n\tpushit {\n\t\t"+
		allTransports+"\n\t\theartbeat 10m\n\t}\n\trespond \"next, please, and as long as it takes\"\n}\n").site("localhost")
	s.tls = true
	for _, version := range []string{"h1", "h2"} {
		by := s.client(version)
		other := s.fallback(by, "", "")
		other.Header = header("Accept-Encoding", "gzip, zstd")
		if resp, err := other.Do(t.Context(), http.MethodGet, "/other", ""); err != nil {
			t.Fatal(err)
		} else if _ = resp.Body.Close(); resp.Header.Get("Content-Encoding") == "" {
			t.Fatalf("%s: what is not pushit's is not compressed, so that nothing is tried here", version)
		}
		concurrently(everyFallback, func(transport string) {
			c := s.fallback(by, "/push", transport)
			c.Header = header("Accept-Encoding", "gzip, zstd")
			c.connect("own/" + transport)
			c.publish("own/"+transport, strings.Repeat("compressible ", 200))
			c.wantMessage("own/"+transport, strings.Repeat("compressible ", 200))
			c.send("own/"+transport, "once more") // the answer comes over a response that the test checks
			c.begin()
			h := c.response().Header
			if got := h.Get("Content-Encoding"); got != "" {
				t.Errorf("%s %s: Content-Encoding = %q", version, transport, got)
			}
			if got := h.Get("Cache-Control"); !strings.Contains(got, "no-transform") {
				t.Errorf("%s %s: Cache-Control = %q, want no-transform in it", version, transport, got)
			}
		})
	}
}

// TestFallbacksOutliveTimeouts: Caddy's timeouts are short. A response ends before the
// server cuts it, and the next one misses nothing.
func TestFallbacksOutliveTimeouts(t *testing.T) {
	cert, key := certificate(t, "localhost")
	s := serve(t, `{
	servers {
		timeouts {
			read_header 5s
			read_body 5s
			read_body_idle 2s
			write 5s
			write_idle 2s
			idle 2s
		}
	}
}
https://localhost {
	tls `+cert+" "+key+`
	log
	encode
	pushit {
		`+allTransports+`
	}
}
`).site("localhost")
	s.tls = true
	s.elsewhere = s.addr(s.name) // unknown after Caddy has stopped
	const long = 9 * time.Second // two responses, which end after 4 s, and more
	var sessions []string
	for _, version := range []string{"h1", "h2"} {
		for _, transport := range everyFallback {
			sessions = append(sessions, "busy/"+version+"/"+transport, "quiet/"+version+"/"+transport)
		}
	}
	numbers := s.count("/push/websocket", "numbers", 400*time.Millisecond)
	var done, gone sync.WaitGroup
	one := func(name string) {
		kind, rest, _ := strings.Cut(name, "/")
		version, transport, _ := strings.Cut(rest, "/")
		c := s.fallback(s.client(version), "/push", transport)
		began := time.Now()
		again := func() bool {
			took := time.Since(began)
			if took > fallbackPatience {
				t.Fatalf("%s: %d responses have ended in %v, want one every 4 s", name, c.Ended, took)
			}
			return took < long || c.Ended < 2
		}
		if kind == "quiet" {
			c.connect(name)
			c.idle(again)
			c.echo(name, 1)
		} else {
			c.connect("numbers")
			for n := c.receive()["data"].(float64); again(); {
				n++
				c.wantMessage("numbers", n)
			}
		}
		// It receives until all are counted: a session without a request ends after 5 s.
		c.OnUnread = nil
		gone.Go(func() {
			for frame, err := "", error(nil); err == nil && !strings.HasPrefix(frame, "c"); {
				frame, err = c.Next(c.life())
			}
		})
	}
	for _, name := range sessions {
		done.Go(func() { one(name) })
	}
	done.Wait()
	numbers.stop()
	if got, want := hubAgents("default"), len(sessions)+1; got != want {
		t.Errorf("%d agents are left, want %d", got, want)
	}
	s.stop()
	gone.Wait()
}
