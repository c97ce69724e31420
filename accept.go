// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"net"
	"net/http"
	"reflect"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/hub/transport"
)

// accepting maps each server whose connections take turns to the handler that has seen to that.
// So a connection waits once, even if several handlers are on its server.
var accepting sync.Map // of *caddyhttp.Server to *Handler

// takeTurns makes new connections of a server take turns with the sessions that begin. While
// those that it has accepted keep it busy, the others wait in the system's queue, and not in
// front of messages.
func (h *Handler) takeTurns(server *caddyhttp.Server) {
	if server == nil {
		return
	}
	if _, taken := accepting.LoadOrStore(server, h); !taken {
		f := &freshConns{accept: transport.AcceptTurn, handle: transport.Turn}
		server.RegisterConnState(f.note)
	}
}

// endTurns forgets the server of h. Its connections take turns until it has ended.
func (h *Handler) endTurns() {
	if h.site.server != nil {
		accepting.CompareAndDelete(h.site.server, h)
	}
}

// freshConns are the connections of a server that have not had a request so far. Each of them
// waits twice for its turn: when it is accepted, and when its first request has been read. A
// client may send that much later, and at the same time as many others.
type freshConns struct {
	accept, handle func() // wait
	conns          sync.Map
}

// note is for http.Server.ConnState. net/http waits for it: before it accepts the next
// connection, and before it handles the request.
func (f *freshConns) note(conn net.Conn, state http.ConnState) {
	if !reflect.ValueOf(conn).Comparable() { // a listener wrapper has made it
		return
	}
	switch state {
	case http.StateNew:
		f.conns.Store(conn, nil)
		f.accept()
	case http.StateActive:
		if _, fresh := f.conns.LoadAndDelete(conn); fresh {
			f.handle()
		}
	case http.StateClosed, http.StateHijacked:
		f.conns.Delete(conn)
	case http.StateIdle:
	}
}
