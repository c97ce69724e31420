// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/push-it/pushit/hub"
)

// overHTTP3 makes requests look as if they came over HTTP/3.
func overHTTP3(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ProtoMajor, r.ProtoMinor, r.Proto = 3, 0, "HTTP/3.0"
		h.ServeHTTP(w, r)
	})
}

// TestRetire: Retire completes the responses over HTTP/3, including later ones. Between two
// responses the client misses nothing.
func TestRetire(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, hub.Limits{})
	e.Transports = AllTransports
	s := httptest.NewServer(overHTTP3(handler(e)))
	t.Cleanup(func() {
		e.Hub.Drop(e.Policy)
		s.Close()
	})
	clients := make(map[string]*sockJSClient)
	for _, name := range fallbackNames {
		clients[name] = newSockJSClient(t, s)
		clients[name].connect(name)
		if framings[name].poll {
			clients[name].receiveOver(name)
		}
	}
	e.Retire()
	for name, c := range clients {
		if f := c.frame(); f != "h" {
			t.Errorf("%s: got %q, want a heartbeat, the last frame", name, f)
		}
		c.wantEnd()
		c.finish()
	}
	const messages = 5
	for i := range messages {
		clients["xhr"].publish(i)
	}
	for name, c := range clients {
		if got := c.messages(name, messages); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
			t.Errorf("%s: got %s", name, got)
		}
	}
	for _, c := range clients {
		c.abort()
	}
}

// TestRetireLeavesOthersAlone: Retire does not touch the responses of the hub's other endpoints.
func TestRetireLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, hub.Limits{})
	other := &Endpoint{Hub: e.Hub, Policy: e.Hub.Use(&hub.Policy{Mount: "other"}), Sessions: e.Sessions, Caller: e.Caller, Opening: e.Opening}
	s := httptest.NewServer(overHTTP3(handler(other)))
	t.Cleanup(func() {
		e.Hub.Drop(other.Policy)
		s.Close()
	})
	c := newSockJSClient(t, s)
	c.connect("xhr_streaming")
	e.Retire()
	c.publish("x")
	for {
		f := c.frame()
		if f == "" || f == "h" {
			t.Fatal("the response has ended")
		}
		if f[0] == 'a' && slices.ContainsFunc(objects(t, f), func(object string) bool {
			_, isMessage := dataOf(t, object)
			return isMessage
		}) {
			break
		}
	}
	other.Retire()
	for f := c.frame(); f != ""; f = c.frame() { // its end
	}
	c.abort()
}
