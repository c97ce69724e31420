// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(Bearer)) }

// minBearer is the smallest number of bytes of a secret. 16 random bytes are 128 bits;
// shorter texts can be guessed.
const minBearer = 16

// What agents are told about tokens. It does not show how close a token was.
const (
	reasonNoToken  = "a token is needed"
	reasonBadToken = "the token is not valid"
)

// Bearer passes if the agent presents one of the secrets: in its credentials (a JSON
// string, or an object with "token"), or else as "Authorization: Bearer". The secret
// proves that the agent knows it, not who the agent is. An agent that presents nothing or
// anything else is denied.
type Bearer struct {
	// Secrets are the accepted secrets, each of at least 16 bytes. With two secrets you
	// can replace one without a moment in which neither is valid. The placeholders
	// {env.NAME} and {file.PATH} are expanded when the configuration is loaded.
	Secrets []string `json:"secrets,omitempty"`

	// Only hashes of the secrets are stored. All have the same length, so each comparison
	// takes the same time.
	hashes [][sha256.Size]byte
}

// CaddyModule returns the Caddy module information.
func (*Bearer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.bearer", New: func() caddy.Module { return new(Bearer) }}
}

// Provision expands the secrets, hashes them and forgets them.
func (g *Bearer) Provision(caddy.Context) error {
	if len(g.Secrets) == 0 {
		return errors.New("bearer: it needs a secret to compare with")
	}
	for i, setting := range g.Secrets {
		secret, err := placeholder.Resolve(setting)
		if err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("bearer: secret %d %w", i+1, err))
		}
		if err := checkSecret(secret, minBearer); err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("bearer: secret %d%s %w", i+1, placeholder.From(setting), err))
		}
		g.hashes = append(g.hashes, sha256.Sum256([]byte(secret)))
	}
	g.Secrets = nil
	return nil
}

// checkSecret returns what is wrong with a secret, without showing any of it.
func checkSecret(secret string, least int) error {
	switch {
	case secret == "":
		return errors.New("is empty; is an environment variable not set?")
	case len(secret) < least:
		return fmt.Errorf("has %d bytes and needs at least %d; make one with: openssl rand -hex %d", len(secret), least, least)
	}
	return nil
}

// Local implements Local.
func (*Bearer) Local() {}

// Decide implements Guard.
func (g *Bearer) Decide(_ context.Context, q *Question) Answer {
	token, presented := bearerPlaces.find(q)
	if !presented {
		return Answer{Kind: Deny, Reason: reasonNoToken}
	}
	hash := sha256.Sum256([]byte(token))
	matches := 0
	for i := range g.hashes { // compare with all, so that the time does not show which one matched
		matches |= subtle.ConstantTimeCompare(hash[:], g.hashes[i][:])
	}
	if matches == 0 {
		return Answer{Kind: Deny, Reason: reasonBadToken}
	}
	return Answer{Kind: Pass}
}

// bearerPlaces is where a secret may be, besides the credentials.
var bearerPlaces = tokenPlaces{header: "Authorization"}

// Presented implements Presenter.
func (g *Bearer) Presented(q *Question) bool {
	_, presented := bearerPlaces.find(q)
	return presented
}

// ForGate implements GateAware.
func (g *Bearer) ForGate(gate hub.GateName) error { return tokensForGate(gate) }

// tokensForGate refuses the gate deliver, in which a token says nothing new.
func tokensForGate(gate hub.GateName) error {
	if gate == hub.GateDeliver {
		return errors.New("tokens are not checked for each delivery; check the token in connect, and use cel with agent.user or agent.claims here")
	}
	return nil
}

// String keeps secrets out of what is printed.
func (*Bearer) String() string { return "bearer" }

// GoString keeps secrets out of what is printed.
func (*Bearer) GoString() string { return "bearer" }

// UnmarshalCaddyfile sets up the guard from Caddyfile tokens. Syntax:
//
//	bearer <secret...>
func (g *Bearer) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	for d.NextArg() {
		secret := d.Val()
		if err := placeholder.NoteSetting(d, "bearer: the secret", secret); err != nil {
			return err
		}
		if !strings.Contains(secret, "{") { // a placeholder is expanded later
			if err := checkSecret(secret, minBearer); err != nil {
				return d.Errf("bearer: the secret %w", err)
			}
		}
		g.Secrets = append(g.Secrets, secret)
	}
	if len(g.Secrets) == 0 {
		return d.Err("bearer needs a secret, for example bearer {env.PUSH_TOKEN}; is an environment variable not set?")
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("bearer takes no block: write its secrets on its line, for example bearer {env.PUSH_TOKEN}")
	}
	return nil
}

// Interface guards
var (
	_ Guard                 = (*Bearer)(nil)
	_ Presenter             = (*Bearer)(nil)
	_ GateAware             = (*Bearer)(nil)
	_ caddy.Provisioner     = (*Bearer)(nil)
	_ caddyfile.Unmarshaler = (*Bearer)(nil)
)
