// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// Request returns a GET of the endpoint, with the query and the header fields that the
// session was opened with, and with what guards have learned since. Caddy's matchers and
// handlers look at it, and backends get it. Placeholders and variables work in it. The
// caller owns it.
//
// A session does not store everything that its request had. After you have used the
// request, check upstream.Unanswerable.
func (q *Question) Request(ctx context.Context) (*http.Request, error) {
	return q.request(ctx, nil, nil)
}

// request is Request for handlers that write to w. If body is not nil, the request is a
// POST of that JSON.
func (q *Question) request(ctx context.Context, w http.ResponseWriter, body []byte) (*http.Request, error) {
	return upstream.NewRequest(ctx, session{q}, w, body)
}

// fooled returns an error if a value of the session would fool matchers that see r.
func (q *Question) fooled(r *http.Request, c *placeholder.Compared) error {
	if c.NeedsNothing(q.Pattern) {
		return nil
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return c.Fooled(q.Pattern, func(name string) string {
		value, _ := repl.GetString(name)
		return value
	})
}

// A session is a question as requests are made from it, and as expressions see it.
type session struct{ *Question }

// Opening implements upstream.Session.
func (s session) Opening() *hub.Opened { return s.Agent.Opening() }

// Header implements upstream.Session and expr.Subject.
func (s session) Header() http.Header { return s.header(s.Agent.Opening()) }

// Server implements upstream.Session.
func (s session) Server() *caddyhttp.Server { return s.Env.Server }

// Replace implements upstream.Session.
func (s session) Replace(r *http.Request, name string) (value any, known bool, err error) {
	return s.replace(r, name)
}

// Claims implements expr.Subject.
func (s session) Claims() map[string]any { return s.Learned.Claims }

// Attributes implements expr.Subject.
func (s session) Attributes() map[string]any { return s.Learned.Attributes }

// Replaced implements expr.Subject.
func (s session) Replaced() []byte { return s.Learned.Data }

// Remembered returns the value of a placeholder of Caddy's for the session of a, as if a
// new request had opened it. ok is false if the session does not store enough to tell.
func Remembered(a *hub.Agent, env *Env, name string) (value string, ok bool) {
	if value, kind := placeholder.LookUp(a.Opening(), name); kind != placeholder.NeverLookedUp {
		return value, kind == placeholder.HasValue
	}
	var reads placeholder.Reads
	if placeholder.CheckInMatcher(name, &reads) != nil || reads.Missing(a.Opening()) != nil || isRewritten(name, a.Opening()) {
		return "", false
	}
	q := &Question{Question: &hub.Question{Gate: hub.GateConnect, Agent: a, Identity: a.Identity()}, Env: env}
	r, err := q.Request(context.Background())
	if err != nil {
		return "", false
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value, ok = repl.GetString(name)
	return value, ok && upstream.Unanswerable(r) == nil
}

// isRewritten reports whether a placeholder may have another value in a session than it
// had in the request. The path of a session is the endpoint's, and its host is what a
// trusted proxy says.
func isRewritten(placeholder string, o *hub.Opened) bool {
	switch {
	case strings.HasPrefix(placeholder, "http.request.uri.query."):
		return false
	case strings.HasPrefix(placeholder, "http.request.uri"), strings.HasPrefix(placeholder, "http.request.orig_uri"):
		return true
	case strings.HasPrefix(placeholder, "http.request.host"), strings.HasPrefix(placeholder, "http.request.port"):
		for name := range o.Fields {
			if name == "X-Forwarded-Host" {
				return true
			}
		}
	}
	return false
}

// header returns the header fields of the session, without those that must not come from
// clients, and with those that guards have learned.
func (q *Question) header(o *hub.Opened) http.Header {
	header := make(http.Header)
	for name, value := range o.Fields {
		// CGI does not distinguish Remote_User from Remote-User.
		if alike := strings.ReplaceAll(name, "_", "-"); !q.Env.isLearned(alike) && !placeholder.IsDropped(alike) {
			header.Add(name, value)
		}
	}
	for _, f := range q.Learned.Header {
		if f.Value == "" {
			header.Del(f.Name)
		} else {
			header.Set(f.Name, f.Value)
		}
	}
	return header
}
