// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(Any)) }

// Any passes if one of its guards does. It asks them in order until one passes. If all
// abstain, it abstains. If none passes and one is unavailable, it is unavailable.
// Otherwise it denies. Only what the passing guard learned counts. Any never allows
// outright, so the guards behind it are asked, too.
type Any struct {
	// GuardsRaw are the guards.
	GuardsRaw []json.RawMessage `json:"guards,omitempty" caddy:"namespace=http.pushit.guards inline_key=guard"`

	guards []NamedGuard
}

// CaddyModule returns the Caddy module information.
func (*Any) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.any", New: func() caddy.Module { return new(Any) }}
}

// Provision loads the guards.
func (g *Any) Provision(ctx caddy.Context) (err error) {
	g.guards, err = Load(ctx, g, "GuardsRaw", g.GuardsRaw)
	return err
}

// Validate refuses guards that cannot be alternatives.
func (g *Any) Validate() error {
	if len(g.guards) == 0 {
		return errors.New("any: it needs at least one guard: any { user bob; granted }")
	}
	for _, in := range g.guards {
		if b, ok := in.Guard.(Bounded); ok && !b.CanApprove() {
			return fmt.Errorf("any: %s never approves; put it before any", in.Name)
		}
	}
	return nil
}

// Local implements Local.
func (*Any) Local() {}

// Decide implements Guard.
func (g *Any) Decide(ctx context.Context, q *Question) Answer {
	result := Answer{Kind: Abstain}
	for _, in := range g.guards {
		a := askOne(ctx, in.Guard, q)
		switch a.Kind {
		case Pass, Allow:
			a.Kind = Pass
			return a
		case Unavailable:
			if result.Kind != Unavailable {
				result = a
			}
		case Deny:
			if result.Kind == Abstain {
				result = a
			}
		}
	}
	result.Learned = Learned{}
	return result
}

// ForGate implements GateAware.
func (g *Any) ForGate(gate hub.GateName) error { return forGate(g.guards, gate) }

// Unwrap implements Wrapper.
func (g *Any) Unwrap() []NamedGuard { return g.guards }

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	any {
//		<guard>
//		<guard>
//	}
func (g *Any) UnmarshalHelper(h httpcaddyfile.Helper) error {
	h.Next() // the guard's word
	if h.NextArg() {
		return h.Errf("any takes its guards in a block, one a line: any { %s }", h.Val())
	}
	for nesting := h.Nesting(); h.NextBlock(nesting); {
		raw, err := ParseNext(h)
		if err != nil {
			return err
		}
		g.GuardsRaw = append(g.GuardsRaw, raw)
	}
	if len(g.GuardsRaw) == 0 {
		return h.Err("any needs guards in a block, one a line")
	}
	return nil
}

// Interface guards
var (
	_ Guard             = (*Any)(nil)
	_ GateAware         = (*Any)(nil)
	_ Wrapper           = (*Any)(nil)
	_ HelperUnmarshaler = (*Any)(nil)
	_ caddy.Provisioner = (*Any)(nil)
	_ caddy.Validator   = (*Any)(nil)
)
