// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A connection waits when it is accepted and at its first request, and nothing of it stays.
func TestConnectionsTakeTurns(t *testing.T) {
	const isNew, active, idle, hijacked, closed = http.StateNew, http.StateActive, http.StateIdle, http.StateHijacked, http.StateClosed
	for name, tc := range map[string]struct {
		states []http.ConnState
		want   []http.ConnState // in which it waits
	}{
		"a WebSocket":        {[]http.ConnState{isNew, active, hijacked}, []http.ConnState{isNew, active}},
		"many requests":      {[]http.ConnState{isNew, active, idle, active, idle, closed}, []http.ConnState{isNew, active}},
		"no request":         {[]http.ConnState{isNew, closed}, []http.ConnState{isNew}},
		"requests of HTTP/2": {[]http.ConnState{isNew, active, active, idle, closed}, []http.ConnState{isNew, active}},
	} {
		t.Run(name, func(t *testing.T) {
			var now http.ConnState
			var waited []http.ConnState
			wait := func() { waited = append(waited, now) }
			f := &freshConns{accept: wait, handle: wait}
			conn, other := net.Pipe()
			defer func() { _, _ = conn.Close(), other.Close() }()
			for _, now = range tc.states {
				f.note(conn, now)
			}
			if !slices.Equal(waited, tc.want) {
				t.Errorf("it waits in %v, want %v", waited, tc.want)
			}
			f.conns.Range(func(conn, _ any) bool {
				t.Errorf("%v stays", conn)
				return true
			})
		})
	}
}

// A valueConn cannot be the key of a map.
type valueConn struct {
	net.Conn
	_ []byte
}

func TestConnectionsThatCannotBeCompared(t *testing.T) {
	wait := func() { t.Error("it waits") }
	f := &freshConns{accept: wait, handle: wait}
	for _, state := range []http.ConnState{http.StateNew, http.StateActive, http.StateClosed} {
		f.note(valueConn{}, state)
		f.note(struct{ net.Conn }{valueConn{}}, state) // as Caddy wraps a connection
	}
}

func TestOneHandlerOfAServerSeesToTurns(t *testing.T) {
	server := new(caddyhttp.Server)
	first, second := &Handler{site: servedAt{server: server}}, &Handler{site: servedAt{server: server}}
	first.takeTurns(server)
	second.takeTurns(server)
	second.endTurns()
	if by, _ := accepting.Load(server); by != first {
		t.Errorf("%v sees to the turns, want the first handler", by)
	}
	first.endTurns()
	if _, taken := accepting.Load(server); taken {
		t.Error("the server is not forgotten")
	}
}
