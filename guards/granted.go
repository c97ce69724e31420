// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(Granted)) }

// Granted passes if the agent's connect gate granted the channel, or a pattern that
// covers it: with the response header Pushit-Grant, or with grant in the answer to ask.
// Otherwise it abstains.
type Granted struct{}

// CaddyModule returns the Caddy module information.
func (*Granted) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.granted", New: func() caddy.Module { return new(Granted) }}
}

// Local implements Local.
func (*Granted) Local() {}

// Decide implements Guard.
func (*Granted) Decide(_ context.Context, q *Question) Answer {
	if coversName(q.Learned.Grants, q.Channel) {
		return Answer{Kind: Pass}
	}
	return Answer{}
}

// UnmarshalCaddyfile sets up the guard from Caddyfile tokens. Syntax:
//
//	granted
func (*Granted) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	if d.NextArg() {
		return d.Errf("granted takes no arguments: the connect gate says what is granted")
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("granted takes no block: the connect gate says what is granted")
	}
	return nil
}

// Interface guards
var (
	_ Guard                 = (*Granted)(nil)
	_ caddyfile.Unmarshaler = (*Granted)(nil)
)
