// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// tokenPlaces are where an agent may present a token. The credentials of
// /meta/connect come first, then these in their order; the first place that has
// one counts, whatever the others have. A place that is "" is not looked at.
type tokenPlaces struct {
	header string // canonical; Authorization has it behind the word Bearer
	cookie string
	query  string
}

// find returns the token that the agent presents; presented is false when there
// is none. What is presented and cannot be a token is "".
func (p *tokenPlaces) find(q *Question) (token string, presented bool) {
	if token, presented = tokenOfCredentials(q.Credentials); presented {
		return token, true
	}
	if p.header != "" {
		for _, value := range snapshotHeader(q, p.header) {
			bare, isBearer := cutBearer(value)
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
		_, query, _ := strings.Cut(q.Agent.Opening().URI, "?")
		if values, _ := url.ParseQuery(query); values.Has(p.query) {
			return values.Get(p.query), true
		}
	}
	return "", false
}

// tokenOfCredentials returns the token in credentials: a JSON string, or the
// member "token" of an object, in exactly that case. Empty is none.
func tokenOfCredentials(credentials []byte) (token string, presented bool) {
	raw := bytes.TrimSpace(credentials)
	if rest, ok := bytes.CutPrefix(raw, []byte(`{"token":`)); ok && bytes.HasSuffix(rest, []byte("}")) {
		// What clients send, as they send it: a fifth of the time that decoding takes.
		if token, ok = plainString(rest[:len(rest)-1]); ok {
			return token, token != ""
		}
	}
	if len(raw) > 0 && raw[0] == '{' {
		var members map[string]json.RawMessage
		if json.Unmarshal(raw, &members) != nil {
			return "", false
		}
		raw = members["token"]
		if len(raw) == 0 || string(raw) == "null" {
			return "", false
		}
		if raw[0] != '"' {
			return "", true
		}
	}
	if token, ok := plainString(raw); ok {
		return token, token != ""
	}
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &token) != nil {
		return "", false
	}
	return token, token != ""
}

// plainString returns the content of a JSON string that has nothing escaped in
// it.
func plainString(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	content := raw[1 : len(raw)-1]
	return string(content), bytes.IndexByte(content, '"') < 0 && bytes.IndexByte(content, '\\') < 0
}

// cutBearer returns what follows the word Bearer (RFC 6750, section 2.1), or the
// value itself.
func cutBearer(value string) (token string, isBearer bool) {
	const word = "Bearer "
	if len(value) >= len(word) && strings.EqualFold(value[:len(word)], word) {
		return strings.TrimSpace(value[len(word):]), true
	}
	return value, false
}

// snapshotHeader returns the values of a header field, whose name is canonical,
// as [Question.Request] would have them: what guards learned last, else what the
// client sent, unless that is not to be believed.
func snapshotHeader(q *Question, name string) (values []string) {
	for _, f := range slices.Backward(q.Learned.Header) {
		if http.CanonicalHeaderKey(f.Name) != name {
			continue
		}
		if f.Value == "" { // it is deleted
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
