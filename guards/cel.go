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

	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(CEL)) }

// CEL passes when an expression in CEL (https://cel.dev) is true. When it is
// false, or fails, it denies: a claim that is not there fails, and so does a
// channel that has fewer parts than were asked for.
//
// Variable | Description
// ---------|------------
// `agent.uuid` | The name the server gave the agent
// `agent.agentId` | What the agent calls itself, which proves nothing
// `agent.user` | Who the agent is; null when nobody knows
// `agent.claims`, `agent.attributes` | What tokens and backends said of the user
// `agent.credentials` | What the agent presented when it connected; null without
// `agent.remote_ip` | The client's address, for example for `cidr("10.0.0.0/8").containsIP(agent.remote_ip)`
// `channel` | The channel, or the pattern that is to be subscribed to
// `parts` | The segments of the channel; of a pattern those before the `*`
// `is_pattern` | Whether a pattern is to be subscribed to
// `message.uuid`, `message.data` | What is published or delivered
// `message.user`, `message.agent` | At deliver: the user, and the uuid of the agent, who published it; null when not known
// `request.host`, `request.path` | What the session was opened with; host is in lower case and without the port
// `request.headers`, `request.cookies`, `request.query` | By name. Of a cookie or a parameter that was sent twice the first counts, header fields are joined with commas
// `now` | The time
//
// There is no channel at connect and disconnect, and a message only at publish
// and deliver; to name them elsewhere is a mistake that is found when the
// configuration is loaded, as are misspelt names and types that do not fit.
// Numbers that are whole are of type int, and numbers of different types can be
// compared. What may be absent is got at with a question mark:
// `agent.claims.?role.orValue("") == "editor"`.
//
// Beside CEL's own there are its extensions for strings, lists, sets, math,
// regular expressions, addresses, `cel.bind`, and for maps such as
// `message.data.transformMap(k, v, k != "price", v)`. Patterns of regular
// expressions must be written out. What loops is bounded: it may take about
// 500,000 steps, which is at most 50 ms or so.
type CEL struct {
	// Expr is the expression. It must be true or false.
	Expr string `json:"expr,omitempty"`
	// Reason is what the agent is told when the expression is false. Default: a
	// general reason.
	Reason string `json:"reason,omitempty"`

	programs map[hub.GateName]*Program // not changed any more once it is in use
}

// CaddyModule returns the Caddy module information.
func (*CEL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.cel", New: func() caddy.Module { return new(CEL) }}
}

// Validate finds the mistakes that are some at every gate.
func (c *CEL) Validate() error {
	if strings.TrimSpace(c.Expr) == "" {
		return errors.New("cel: the expression is empty; write for example: cel `agent.user == \"bob\"`")
	}
	if _, err := CompileBool(c.Expr, ScopeOf(hub.GateDeliver)); err != nil {
		return fmt.Errorf("cel: %w", err)
	}
	return nil
}

// ForGate implements GateAware: it compiles the expression with what there is at
// that gate.
func (c *CEL) ForGate(gate hub.GateName) error {
	p, err := CompileBool(c.Expr, ScopeOf(gate))
	if err != nil {
		return err
	}
	if c.programs == nil {
		c.programs = make(map[hub.GateName]*Program)
	}
	c.programs[gate] = p
	return nil
}

// Local implements Local.
func (*CEL) Local() {}

// Decide implements Guard.
func (c *CEL) Decide(ctx context.Context, q *Question) Answer {
	p := c.programs[q.Gate]
	if p == nil {
		return Answer{Kind: Unavailable, Err: fmt.Errorf("cel: the expression was not compiled for %s", q.Gate)}
	}
	yes, err := p.Bool(ctx, q)
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
// The expression is one token: put it in backquotes.
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
