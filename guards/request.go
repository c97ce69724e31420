// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// Request returns a GET of the endpoint, with the query and the header fields
// that the session was opened with and with what was learned since: what Caddy's
// matchers and handlers look at, and what is sent to a backend. It is ready for
// them, with placeholders and variables, and the caller's own.
//
// It is made from the agent's snapshot, which does not have everything that the
// request itself had. Ask unanswerable once the request was used.
func (q *Question) Request(ctx context.Context) (*http.Request, error) {
	return q.request(ctx, nil, nil)
}

// request is Request for handlers that write to w; if body is not nil, it is a
// POST of that, which is JSON.
func (q *Question) request(ctx context.Context, w http.ResponseWriter, body []byte) (*http.Request, error) {
	o := q.Agent.Opening()
	return upstream.NewRequest(ctx, &upstream.Session{Opening: o, User: q.User(), Header: q.header(o), Server: q.Env.Server, Replace: q.replace}, w, body)
}

// Remembered returns the value that a placeholder of Caddy's has for who would open
// the session of a now, with the request that it was opened with. ok is false if
// what is kept of that request does not tell.
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

// isRewritten reports whether a placeholder's value may be another in the snapshot
// than it was in the request: the path is the endpoint's there, and the host is
// what a trusted proxy says that it is.
func isRewritten(placeholder string, o *hub.Opening) bool {
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

// header returns the header fields: those of the snapshot without what is not to
// be believed, and what guards have learned.
func (q *Question) header(o *hub.Opening) http.Header {
	header := make(http.Header)
	for name, value := range o.Fields {
		// To what speaks CGI, Remote_User and Remote-User are one.
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
