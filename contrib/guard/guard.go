// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package openinghours is a guard of its own for pushit. It is a module like any other
// module of Caddy: the build of the server has to import it.
package openinghours

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards"
)

func init() { caddy.RegisterModule(new(OpeningHours)) }

// OpeningHours passes during these hours of the day, in UTC, and denies outside of them.
type OpeningHours struct {
	// Open and Close are hours from 0 to 24.
	Open  int `json:"open"`
	Close int `json:"close"`

	now func() time.Time // for tests
}

// CaddyModule returns the Caddy module information. The last part of the ID is the guard's
// word in a Caddyfile.
func (*OpeningHours) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.opening_hours", New: func() caddy.Module { return &OpeningHours{now: time.Now} }}
}

// Validate refuses hours that there are not.
func (g *OpeningHours) Validate() error {
	if g.Open < 0 || g.Close > 24 || g.Open >= g.Close {
		return fmt.Errorf("opening_hours: write the first and the last hour, such as opening_hours 9 17, not %d %d", g.Open, g.Close)
	}
	return nil
}

// Local implements guards.Local: the guard answers at once, so it needs no goroutine.
func (*OpeningHours) Local() {}

// Decide implements guards.Guard.
func (g *OpeningHours) Decide(_ context.Context, _ *guards.Question) guards.Answer {
	if h := g.now().UTC().Hour(); h < g.Open || h >= g.Close {
		return guards.Answer{Kind: guards.Deny, Reason: fmt.Sprintf("we are here from %d to %d o'clock UTC", g.Open, g.Close)}
	}
	return guards.Answer{Kind: guards.Pass}
}

// UnmarshalCaddyfile reads
//
//	opening_hours <open> <close>
func (g *OpeningHours) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	var open, end string
	if !d.Args(&open, &end) {
		return d.ArgErr()
	}
	if _, err := fmt.Sscan(open+" "+end, &g.Open, &g.Close); err != nil {
		return d.Errf("opening_hours: %s and %s must be hours: %v", open, end, err)
	}
	return nil
}

// Interface guards
var (
	_ guards.Guard          = (*OpeningHours)(nil)
	_ guards.Local          = (*OpeningHours)(nil)
	_ caddy.Validator       = (*OpeningHours)(nil)
	_ caddyfile.Unmarshaler = (*OpeningHours)(nil)
)
