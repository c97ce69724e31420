// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"net"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/hub/transport"
)

// accepting maps each server whose new connections take turns to the handler that has seen to
// that. So a connection waits once, even if several handlers are on its server.
var accepting sync.Map // of *caddyhttp.Server to *Handler

// takeTurns makes new connections of a server take turns. While those that it has accepted
// keep it busy, the others wait in the system's queue, and not in front of messages.
func (h *Handler) takeTurns(server *caddyhttp.Server) {
	if server == nil {
		return
	}
	if _, taken := accepting.LoadOrStore(server, h); !taken {
		server.RegisterConnState(whenNew(transport.AwaitAccepting))
	}
}

// endTurns forgets the server of h. Its connections take turns until it has ended.
func (h *Handler) endTurns() {
	if h.site.server != nil {
		accepting.CompareAndDelete(h.site.server, h)
	}
}

// whenNew returns a function for http.Server.ConnState that waits at a new connection. net/http
// does not accept the next one meanwhile.
func whenNew(wait func()) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			wait()
		}
	}
}
