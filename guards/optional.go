// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(Optional)) }

// Optional asks another guard only if the agent has presented something to it, such as a
// token for jwt. Otherwise it abstains. An agent that presents something wrong is
// refused.
type Optional struct {
	// GuardRaw is the guard: jwt, bearer or forward_auth.
	GuardRaw json.RawMessage `json:"of,omitempty" caddy:"namespace=http.pushit.guards inline_key=guard"`

	guards []NamedGuard // has one element
	of     Presenter
}

// CaddyModule returns the Caddy module information.
func (*Optional) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.optional", New: func() caddy.Module { return new(Optional) }}
}

// Provision loads the guard.
func (g *Optional) Provision(ctx caddy.Context) (err error) {
	if g.guards, err = Load(ctx, g, "GuardRaw", []json.RawMessage{g.GuardRaw}); err != nil {
		return err
	}
	of, ok := g.guards[0].Guard.(Presenter)
	if !ok {
		return fmt.Errorf("optional: it works only with jwt, bearer and forward_auth, to which agents present something; %s always has an answer", g.guards[0].Name)
	}
	g.of = of
	return nil
}

// Local implements Local.
func (*Optional) Local() {}

// answersEarly implements earlyAnswerer: the guard's answer is the answer of optional.
func (g *Optional) answersEarly() bool {
	e, ok := g.guards[0].Guard.(earlyAnswerer)
	return ok && e.answersEarly()
}

// Decide implements Guard.
func (g *Optional) Decide(ctx context.Context, q *Question) Answer {
	if !g.of.Presented(q) {
		return Answer{}
	}
	return askOne(ctx, g.guards[0].Guard, q)
}

// ForGate implements GateAware.
func (g *Optional) ForGate(gate hub.GateName) error { return forGate(g.guards, gate) }

// Unwrap implements Wrapper.
func (g *Optional) Unwrap() []NamedGuard { return g.guards }

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	optional jwt|bearer|forward_auth …
func (g *Optional) UnmarshalHelper(h httpcaddyfile.Helper) (err error) {
	h.Next() // the guard's word
	if !h.NextArg() {
		return h.Err("write optional before jwt, bearer or forward_auth: optional jwt { … }")
	}
	g.GuardRaw, err = ParseNext(h)
	return err
}

// Interface guards
var (
	_ Guard             = (*Optional)(nil)
	_ GateAware         = (*Optional)(nil)
	_ Wrapper           = (*Optional)(nil)
	_ HelperUnmarshaler = (*Optional)(nil)
	_ caddy.Provisioner = (*Optional)(nil)
)
