// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
)

func init() {
	caddy.RegisterModule(new(AllowGuard))
	caddy.RegisterModule(new(DenyGuard))
}

// AllowGuard allows if the request that opened the session matches, whatever the guards
// behind it would say. Otherwise it abstains. Without matchers it always allows.
//
// The matchers see the request as the session stores it: a GET of the endpoint, with the
// query, header fields, host and addresses of the request that opened the session, with
// the variables and placeholders that the matchers name (such as those of a client
// certificate), and with what guards have learned. Matchers of what sessions do not
// store, such as the method or the HTTP version, are errors.
type AllowGuard struct{ Matching }

// CaddyModule returns the Caddy module information.
func (*AllowGuard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.allow", New: func() caddy.Module { return new(AllowGuard) }}
}

// Decide implements Guard.
func (g *AllowGuard) Decide(ctx context.Context, q *Question) Answer {
	return g.decide(ctx, q, Answer{Kind: Allow})
}

// Fixed implements Fixed.
func (g *AllowGuard) Fixed() (Kind, bool) { return Allow, g.always() && len(g.MatcherSetsRaw) == 0 }

// DenyGuard denies if the request that opened the session matches. Otherwise it abstains.
// Without matchers it always denies. It sees the same request as allow.
type DenyGuard struct {
	Matching

	// Reason is what the agent is told. Default: a general reason.
	Reason string `json:"reason,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*DenyGuard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.deny", New: func() caddy.Module { return new(DenyGuard) }}
}

// Decide implements Guard.
func (g *DenyGuard) Decide(ctx context.Context, q *Question) Answer {
	return g.decide(ctx, q, Answer{Kind: Deny, Reason: g.Reason})
}

// Fixed implements Fixed.
func (g *DenyGuard) Fixed() (Kind, bool) { return Deny, g.always() && len(g.MatcherSetsRaw) == 0 }

// CanApprove implements Bounded.
func (g *DenyGuard) CanApprove() bool { return false }

// Matching has the matchers of allow and deny. It does not change once it is loaded.
type Matching struct {
	// MatcherSetsRaw are Caddy's request matchers, as in routes. One of the sets must
	// match, with everything in it. Default: every request matches.
	MatcherSetsRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`

	sets     caddyhttp.MatcherSets // without sets, every request matches
	reads    placeholder.Reads
	compared placeholder.Compared
}

// Provision loads the matchers.
func (m *Matching) Provision(ctx caddy.Context) (err error) {
	if m.reads, err = placeholder.CheckMatchers(m.MatcherSetsRaw); err != nil {
		return err
	}
	if m.compared, err = placeholder.ComparedBy(m.MatcherSetsRaw); err != nil {
		return err
	}
	if len(m.MatcherSetsRaw) == 0 {
		return nil
	}
	loaded, err := ctx.LoadModule(m, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("loading matchers: %w", err)
	}
	return m.sets.FromInterface(loaded)
}

func (m *Matching) always() bool { return len(m.sets) == 0 }

// Local implements Local.
func (*Matching) Local() {}

// ReadsSnapshot implements SnapshotReader.
func (m *Matching) ReadsSnapshot() []string { return m.reads.LookedUp }

// onPatterns implements patternAware, also before the matchers are loaded.
func (m *Matching) onPatterns() error {
	if len(m.sets) > 0 {
		return m.compared.OnPatterns()
	}
	compared, err := placeholder.ComparedBy(m.MatcherSetsRaw)
	if err != nil {
		return err
	}
	return compared.OnPatterns()
}

// decide returns matched if the request matches, otherwise Abstain.
func (m *Matching) decide(ctx context.Context, q *Question, matched Answer) Answer {
	if m.always() {
		return matched
	}
	if err := m.reads.Missing(q.Agent.Opening()); err != nil {
		return undecided(err)
	}
	r, err := q.Request(ctx)
	if err != nil {
		return undecided(err)
	}
	if err := q.fooled(r, &m.compared); err != nil {
		return undecided(err)
	}
	ok, err := m.sets.AnyMatchWithError(r)
	if err == nil {
		err = upstream.Unanswerable(r)
	}
	switch {
	case err != nil:
		return undecided(fmt.Errorf("matching: %w", err))
	case ok:
		return matched
	default:
		return Answer{}
	}
}

// Interface guards
var (
	_ Guard             = (*AllowGuard)(nil)
	_ Fixed             = (*AllowGuard)(nil)
	_ HelperUnmarshaler = (*AllowGuard)(nil)
	_ caddy.Provisioner = (*AllowGuard)(nil)
	_ Guard             = (*DenyGuard)(nil)
	_ Fixed             = (*DenyGuard)(nil)
	_ Bounded           = (*DenyGuard)(nil)
	_ HelperUnmarshaler = (*DenyGuard)(nil)
	_ caddy.Provisioner = (*DenyGuard)(nil)
)
