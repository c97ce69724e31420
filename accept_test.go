// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A connection waits once, when it is new.
func TestConnectionsTakeTurns(t *testing.T) {
	waits := 0
	note := whenNew(func() { waits++ })
	for _, state := range []http.ConnState{http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateHijacked, http.StateClosed} {
		if note(nil, state); waits != 1 {
			t.Errorf("%v: it has waited %d times", state, waits)
		}
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
