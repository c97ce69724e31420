// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(CEL)) }

// CEL passes if an expression in CEL (https://cel.dev) is true. If it is false or fails,
// the guard denies. An expression fails if it uses a claim that is missing, or a part
// that the channel does not have.
//
// Variable | Description
// ---------|------------
// `agent.uuid` | The name the server gave the agent
// `agent.agentId` | The name the agent gave itself, which proves nothing
// `agent.user` | The agent's user; null if unknown
// `agent.claims`, `agent.attributes` | What tokens and backends said about the user
// `agent.credentials` | What the agent presented when it connected; null without
// `agent.remote_ip` | The client's address, for example for `cidr("10.0.0.0/8").containsIP(agent.remote_ip)`
// `channel` | The channel, or the pattern that the agent wants to subscribe to
// `parts` | The segments of the channel; of a pattern those before the `*`
// `is_pattern` | Whether the agent wants to subscribe to a pattern
// `message.uuid`, `message.data` | What is published or delivered
// `message.user`, `message.agent` | At deliver: the user, and the uuid of the agent, who published it; null if unknown
// `request.host`, `request.path` | What the session was opened with; host is in lower case and without the port
// `request.headers`, `request.cookies`, `request.query` | By name. The first of equal cookies or parameters counts; equal header fields are joined with commas
// `now` | The time
//
// connect and disconnect have no channel. Only publish and deliver have a message. If you
// name one elsewhere, loading the configuration fails, as it does for misspelt names and
// wrong types. Whole numbers are of type int, and numbers of different types can be
// compared. Write a question mark before what may be missing:
// `agent.claims.?role.orValue("") == "editor"`.
//
// Besides its own functions, CEL has its extensions for strings, lists, sets, math,
// regular expressions, addresses, `cel.bind`, and maps, such as
// `message.data.transformMap(k, v, k != "price", v)`. Patterns of regular expressions
// must be text in quotes. Loops are limited: an expression may take about 250,000 steps,
// which is at most about 50 ms.
type CEL struct {
	// Expr is the expression. It must be true or false.
	Expr string `json:"expr,omitempty"`
	// Reason is what the agent is told if the expression is false. Default: a general
	// reason.
	Reason string `json:"reason,omitempty"`

	programs map[hub.GateName]*expr.Program // does not change once the guard is in use
}

// CaddyModule returns the Caddy module information.
func (*CEL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.cel", New: func() caddy.Module { return new(CEL) }}
}

// Validate finds mistakes that do not depend on the gate.
func (c *CEL) Validate() error {
	if strings.TrimSpace(c.Expr) == "" {
		return errors.New("cel: the expression is empty; write for example: cel `agent.user == \"bob\"`")
	}
	if _, err := expr.CompileBool(c.Expr, expr.ScopeOf(hub.GateDeliver)); err != nil {
		return fmt.Errorf("cel: %w", err)
	}
	return nil
}

// ForGate implements GateAware. It compiles the expression with the names that the gate
// has.
func (c *CEL) ForGate(gate hub.GateName) error {
	p, err := expr.CompileBool(c.Expr, expr.ScopeOf(gate))
	if err != nil {
		return err
	}
	if c.programs == nil {
		c.programs = make(map[hub.GateName]*expr.Program)
	}
	c.programs[gate] = p
	return nil
}

// Local implements Local.
func (*CEL) Local() {}

// Decide implements Guard.
func (c *CEL) Decide(_ context.Context, q *Question) Answer {
	p := c.programs[q.Gate]
	if p == nil {
		return Answer{Kind: Unavailable, Err: fmt.Errorf("cel: the expression was not compiled for %s", q.Gate)}
	}
	yes, err := p.Bool(q.Question, session{q})
	switch {
	case yes:
		return Answer{Kind: Pass}
	case err == nil:
		return Answer{Kind: Deny, Reason: c.Reason}
	default:
		return Answer{Kind: Deny, Err: err}
	}
}

// UnmarshalCaddyfile sets up the guard from Caddyfile tokens. Syntax:
//
//	cel <expr> ["reason"]
//
// The expression is one token: write it in backquotes.
func (c *CEL) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	raw := make([]string, 0, 2)
	var args []caddyfile.Token
	for d.NextArg() {
		args, raw = append(args, d.Token()), append(raw, d.ValRaw())
	}
	switch quoted := len(args) > 0 && args[0].Quoted(); {
	case len(args) == 0:
		return d.Err("cel needs an expression, in backquotes: cel `agent.user == \"bob\"`")
	case !quoted && (len(args) > 2 || len(args) == 2 && !args[1].Quoted()):
		return d.Errf("put the expression in backquotes: cel `%s`", strings.Join(raw, " "))
	case len(args) > 2:
		return d.Errf("put the reason in quotes: cel %s %q", raw[0], strings.Join(raw[1:], " "))
	case len(args) == 2:
		c.Reason = args[1].Text
	}
	c.Expr = args[0].Text
	if d.NextBlock(d.Nesting()) {
		return d.Err("cel takes no block, only an expression and a reason in quotes")
	}
	return nil
}

// CanApprove implements Bounded.
func (*CEL) CanApprove() bool { return true }

// Interface guards
var (
	_ Guard                 = (*CEL)(nil)
	_ Bounded               = (*CEL)(nil)
	_ GateAware             = (*CEL)(nil)
	_ caddy.Validator       = (*CEL)(nil)
	_ caddyfile.Unmarshaler = (*CEL)(nil)
)
