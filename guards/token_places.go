// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/push-it/pushit/guards/internal/token"
)

// tokenPlaces are the places in which an agent may present a token. The credentials of
// /meta/connect come first, then these in their order. The first place that has a token
// counts. A place that is "" is not used.
type tokenPlaces struct {
	header string // canonical; Authorization has the token behind the word Bearer
	cookie string
	query  string
}

// find returns the token that the agent presents. presented is false if there is none. If
// the agent presents something that cannot be a token, find returns "".
func (p *tokenPlaces) find(q *Question) (text string, presented bool) {
	if text, presented = token.InCredentials(q.Credentials); presented {
		return text, true
	}
	if p.header != "" {
		for _, value := range snapshotHeader(q, p.header) {
			bare, isBearer := token.CutBearer(value)
			if isBearer || p.header != "Authorization" {
				return bare, true
			}
		}
	}
	if p.cookie != "" {
		r := http.Request{Header: http.Header{"Cookie": snapshotHeader(q, "Cookie")}}
		if c, err := r.Cookie(p.cookie); err == nil {
			return c.Value, true
		}
	}
	if p.query != "" {
		_, query, _ := strings.Cut(q.Agent.Opening().URI(), "?")
		if values, _ := url.ParseQuery(query); values.Has(p.query) {
			return values.Get(p.query), true
		}
	}
	return "", false
}

// snapshotHeader returns the values of a header field as [Question.Request] would have
// them: what guards have learned, or else what the client sent, if clients may set the
// field. name is canonical.
func snapshotHeader(q *Question, name string) (values []string) {
	for _, f := range slices.Backward(q.Learned.Header) {
		if http.CanonicalHeaderKey(f.Name) != name {
			continue
		}
		if f.Value == "" { // a guard has removed the field
			return nil
		}
		return []string{f.Value}
	}
	if q.Env.isLearned(name) {
		return nil
	}
	for n, value := range q.Agent.Opening().Fields {
		if n == name {
			values = append(values, value)
		}
	}
	return values
}
