// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	burstPublishers = 4
	burstEach       = 500
	burstSize       = 2000 // bytes
	burstAgents     = 5    // on each kind of connection
	// burstPatience is how long a burst may take on a busy machine, with the race detector.
	burstPatience = 4 * time.Minute
)

// burstConfig has a site with TLS and one without, for the same hub.
func burstConfig(t *testing.T) string {
	cert, key := certificate(t, "localhost")
	const push = `
		pushit /push {
			name bursts
			default allow
			api bearer "` + apiSecret + `"
			limits {
				publishes_per_second unlimited
				frames_per_second unlimited
			}
		}
	}
`
	return "https://localhost {\n\ttls " + cert + " " + key + push + "http://localhost {" + push
}

// A burst that is larger than the queue of an agent closes no agent that reads it, over any
// kind of connection, whether agents or programs publish.
func TestBurstsCloseNobodyWhoReads(t *testing.T) {
	s := serve(t, burstConfig(t))
	secure, plain := s.site("localhost"), s.site("localhost")
	secure.tls, plain.name = true, "srv1"
	webSocket := func(t *testing.T, at site, channel string) func() ([]string, error) {
		at.t = t
		a, _ := at.open("/push/websocket", nil, nil)
		a.subscribe(channel)
		return func() ([]string, error) {
			text, err := a.ws.Read()
			return []string{string(text)}, err
		}
	}
	fallback := func(t *testing.T, at site, version, transport, channel string) func() ([]string, error) {
		at.t = t
		c := at.fallback(at.client(version), "/push", transport).connect(channel)
		return func() ([]string, error) { return c.Receive(t.Context()) }
	}
	for i, c := range []struct {
		name    string
		join    func(t *testing.T, channel string) (next func() (objects []string, err error))
		program bool // one program publishes everything, with one request
	}{
		{"WebSocket", func(t *testing.T, channel string) func() ([]string, error) { return webSocket(t, plain, channel) }, false},
		{"WebSocket, TLS", func(t *testing.T, channel string) func() ([]string, error) { return webSocket(t, secure, channel) }, false},
		{"WebSocket, TLS, a program publishes", func(t *testing.T, channel string) func() ([]string, error) { return webSocket(t, secure, channel) }, true},
		{"xhr_streaming", func(t *testing.T, channel string) func() ([]string, error) {
			return fallback(t, plain, "h1", "xhr_streaming", channel)
		}, true},
		{"xhr_streaming, HTTP/2", func(t *testing.T, channel string) func() ([]string, error) {
			return fallback(t, secure, "h2", "xhr_streaming", channel)
		}, false},
		{"xhr", func(t *testing.T, channel string) func() ([]string, error) {
			return fallback(t, plain, "h1", "xhr", channel)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			channel := fmt.Sprint("news", i)
			ended := make(chan error, burstAgents)
			for range burstAgents {
				next := c.join(t, channel)
				go func() { ended <- readBurst(next, channel) }()
			}
			at := plain
			at.t = t
			var publishing sync.WaitGroup
			defer publishing.Wait() // the last answers may come after the messages
			if c.program {
				publishing.Go(func() { at.publishAll(channel) })
			} else {
				at.publishByAgents(&publishing, channel)
			}
			late := time.After(burstPatience)
			for range burstAgents {
				select {
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				case <-late:
					t.Fatal("the burst took too long")
				}
			}
		})
	}
}

// readBurst reads until all messages of the burst have come.
func readBurst(next func() (objects []string, err error), channel string) error {
	for messages := 0; messages < burstPublishers*burstEach; {
		objects, err := next()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", messages, err)
		}
		for _, text := range objects {
			switch {
			case strings.Contains(text, `"channel":"`+channel+`"`):
				messages++
			case strings.Contains(text, "/meta/close"):
				return fmt.Errorf("after %d messages: %s", messages, text)
			}
		}
	}
	return nil
}

// publishByAgents has some agents publish the burst, each as fast as it can.
func (s site) publishByAgents(publishing *sync.WaitGroup, channel string) {
	data := strings.Repeat("x", burstSize)
	for range burstPublishers {
		p, _ := s.open("/push/websocket", nil, nil)
		publishing.Go(func() {
			for range burstEach {
				p.send(channel, data)
			}
		})
		publishing.Go(func() {
			for answered := range burstEach {
				if _, err := p.ws.Read(); err != nil {
					s.t.Errorf("a publisher after %d answers: %v", answered, err)
					return
				}
			}
		})
	}
}

// publishAll has a program publish the burst with one request.
func (s site) publishAll(channel string) {
	line := fmt.Sprintf(`{"channel":%q,"data":%q}`+"\n", channel, strings.Repeat("x", burstSize))
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.origin()+"/push/publish", strings.NewReader(strings.Repeat(line, burstPublishers*burstEach)))
	if err != nil {
		s.t.Error(err)
		return
	}
	r.Header = asBackend()
	r.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := s.client("h1").Do(r)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Errorf("status %d: %.500s, %v", resp.StatusCode, body, err)
	}
	for line := range strings.Lines(string(body)) {
		if strings.Contains(line, `"error"`) {
			s.t.Errorf("a message was not published: %s", line)
			return
		}
	}
}
