// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(User)) }

// User passes if the agent is one of the users, or, if none is listed, if it is any
// authenticated user. Otherwise it denies. The user comes from what stands before pushit
// in the site, such as basic_auth, or else from the connect gate.
type User struct {
	// IDs are the users. Default: everybody who is authenticated.
	IDs []string `json:"ids,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*User) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.user", New: func() caddy.Module { return new(User) }}
}

// Validate refuses ids that no user can have.
func (g *User) Validate() error {
	for _, id := range g.IDs {
		if err := checkUserID(id); err != nil {
			return fmt.Errorf("user: %w", err)
		}
	}
	return nil
}

// checkUserID returns what is wrong with an id, and what to write instead.
func checkUserID(id string) error {
	switch {
	case id == "":
		return errors.New("an id is empty; is an environment variable not set?")
	case id == "*":
		return errors.New("* is not an id; write user alone for everybody who is authenticated")
	case strings.HasPrefix(id, "@"):
		return fmt.Errorf("%s looks like a matcher; write allow %s, or, if it is the id, cel `agent.user == %q`", id, id, id)
	case strings.ContainsAny(id, "{}"):
		return fmt.Errorf("placeholders are not expanded in the id %s; write an environment variable as {$NAME}, and compare with the channel's name by cel `parts[1] == agent.user`", id)
	}
	return nil
}

// Local implements Local.
func (*User) Local() {}

// Decide implements Guard.
func (g *User) Decide(_ context.Context, q *Question) Answer {
	user := q.User()
	if user != "" && (len(g.IDs) == 0 || slices.Contains(g.IDs, user)) {
		return Answer{Kind: Pass}
	}
	if user == "" {
		return Answer{Kind: Deny, Reason: "you are not logged in"}
	}
	return Answer{Kind: Deny}
}

// UnmarshalCaddyfile sets up the guard from Caddyfile tokens. Syntax:
//
//	user [<id...>]
//
// Write an id from an environment variable in quotes, as "{$ADMIN}". Without quotes an
// unset variable leaves nothing, and user without an id passes every authenticated user.
func (g *User) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	for d.NextArg() {
		if err := checkUserID(d.Val()); err != nil {
			return d.Errf("user: %w", err)
		}
		g.IDs = append(g.IDs, d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("user takes no block: write the ids on its line, for example user alice bob")
	}
	return nil
}

// Interface guards
var (
	_ Guard                 = (*User)(nil)
	_ caddy.Validator       = (*User)(nil)
	_ caddyfile.Unmarshaler = (*User)(nil)
)
