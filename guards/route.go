// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/guards/internal/upstream"
)

func init() { caddy.RegisterModule(new(Route)) }

// Route is a chain of Caddy's own handlers as a guard. The handlers get a GET request
// made from the session: the path of the endpoint, and the query and the header fields
// that the session was opened with.
//
// The guard passes if the request reaches the end of the chain. If a handler answers
// before that, the guard refuses, also with a 200 or a redirect. The statuses 408, 425,
// 429, 499 and 5xx mean that it could not find out, so the agent may try again. A user
// that the chain authenticated, and header fields that it copied from a backend's
// response, hold for the guards behind it. In the connect gate they hold for the agent.
type Route struct {
	// HandlerRaw is the chain: an HTTP handler, most often a subroute.
	HandlerRaw json.RawMessage `json:"handler,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	BackendOptions

	handlerGuard
}

// CaddyModule returns the Caddy module information.
func (*Route) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.route", New: func() caddy.Module { return new(Route) }}
}

// Provision loads the handlers.
func (g *Route) Provision(ctx caddy.Context) error {
	return g.provision(ctx, g, &g.HandlerRaw, g.BackendOptions)
}

// Decide implements Guard.
func (g *Route) Decide(ctx context.Context, q *Question) Answer {
	return g.backend.decide(ctx, q, nil, g.ask)
}

func (g *Route) ask(ctx context.Context, q *Question) outcome {
	w := upstream.NewCapture(upstream.MaxAnswer)
	r, err := q.request(ctx, w, nil)
	if err != nil {
		return unavailable(err)
	}
	before := r.Header.Clone() // handlers change it in place
	x := upstream.With(g.handler, w, r)
	if !x.Passed() {
		out := refused(x)
		if out.Kind == Deny && x.Status()/100 == 2 {
			out.Err = errors.New("a directive ended the route; a request passes only if it reaches the end of the route")
		}
		return out
	}
	out := outcome{Answer: Answer{Kind: Pass}, noStore: x.NoStore()}
	var changed []string
	for _, name := range q.Env.Learned {
		if strings.Join(before[name], ", ") != strings.Join(x.End.Header[name], ", ") {
			changed = append(changed, name)
		}
	}
	l := &out.Learned
	l.Header, out.size = fieldsOf(x.End.Header, changed)
	if user := x.Placeholder("http.auth.user.id"); q.Agent.Opening().User() == "" && user != q.User() {
		l.User, l.UserBy = user, UserByLogin
		out.size += len(user)
	}
	if err := checkLearned(l, out.size); err != nil {
		return unavailable(err)
	}
	return out
}

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	route {
//		<directives>
//		cache <ttl>
//		key <values…>
//		in_flight <n>
//	}
//
// Directives are those that Caddy allows in a route. They run in the order in which they
// are written.
func (g *Route) UnmarshalHelper(h httpcaddyfile.Helper) error {
	b, err := upstream.ReadBlock(h, "route { <directives> }")
	if err != nil {
		return err
	}
	if len(b.Line) > 1 {
		return upstream.ErrAt(b.Line[1], "unexpected %q after route: write matchers on the directives inside: route { basic_auth %s { … } }", b.Line[1].Text, b.Line[1].Text)
	}
	if err := b.Options(g.unmarshalOption); err != nil {
		return err
	}
	if len(b.Entries) == 0 {
		return upstream.ErrAt(b.Line[0], "route needs a directive: an empty route would let everybody through; if you want that, write allow")
	}
	g.HandlerRaw, err = b.ParseAs(h, "route")
	return err
}

// Interface guards
var (
	_ Guard              = (*Route)(nil)
	_ HelperUnmarshaler  = (*Route)(nil)
	_ caddy.Provisioner  = (*Route)(nil)
	_ caddy.CleanerUpper = (*Route)(nil)
)
