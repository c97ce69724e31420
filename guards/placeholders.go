// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/suggest"
)

// The placeholders of a question. Values are never expanded again: what a client
// writes is not a template.
const (
	placeholderPrefix = "pushit."
	escapedPrefix     = placeholderPrefix + "escaped."
	partsPrefix       = "parts."
	claimsPrefix      = "agent.claims."
	attributesPrefix  = "agent.attributes."
)

// placeholders are those with a fixed name, without placeholderPrefix.
var placeholders = []string{
	"gate", "channel", "namespace",
	"agent.uuid", "agent.agent_id", "agent.user", "agent.remote_ip", "agent.credentials",
}

// An errControl says that the value of a placeholder has a CR, LF or NUL.
type errControl string

func (e errControl) Error() string {
	return fmt.Sprintf("the value of {%s} has a line break or a NUL in it", string(e))
}

// An errLacking says that a session's snapshot has no value for a placeholder.
type errLacking string

func (e errLacking) Error() string {
	return fmt.Sprintf("{%s} is not known of a session once it is open", string(e))
}

// An errStar says that the value of a placeholder could be taken for a pattern.
type errStar string

func (e errStar) Error() string {
	return fmt.Sprintf("the value of {%s} has a * in it, which a rule could take for the pattern that is asked about", string(e))
}

// hasControl reports whether s has what ends a line or a string in protocols.
func hasControl(s string) bool { return strings.ContainsAny(s, "\r\n\x00") }

// replace is the replacer function of the request r.
func (q *Question) replace(name string, r *http.Request, m *misses) (any, bool) {
	if !strings.HasPrefix(name, placeholderPrefix) {
		return q.remembered(name, r, m)
	}
	value, err := q.placeholder(name)
	if err != nil {
		m.note(err)
		return "", true
	}
	return value, true
}

// remembered returns the value of a placeholder of Caddy's, or of other modules,
// that was looked up when the session opened. What handlers of a guard have set
// since goes before it; for variables Caddy sees to that, since setVars has set them.
func (q *Question) remembered(name string, r *http.Request, m *misses) (any, bool) {
	value, kind := lookedUp(q.Agent.Opening(), name)
	variable, isVar := strings.CutPrefix(name, varsPrefix)
	switch {
	case isVar && caddyhttp.GetVar(r.Context(), variable) != nil:
		return nil, false
	case kind == hasNone:
		return nil, !isVar
	case kind == hasValue && !isVar:
		return value, true
	case kind == isUnsafe:
		m.note(errControl(name))
		return "", true
	case kind == isUnknown, isLacking(name, r), slices.Contains(q.Env.Snapshot, name):
		m.note(errLacking(name))
		return nil, true
	}
	return nil, false
}

// isLacking reports whether a placeholder of Caddy's has a value that the request
// had which opened the session, but that is not kept of it.
func isLacking(name string, r *http.Request) bool {
	switch {
	case strings.HasPrefix(name, "http.request.tls."):
		return r.TLS != nil
	case strings.HasPrefix(name, "http.request.local"), strings.HasPrefix(name, "http.request.proto"):
		return true
	case strings.HasPrefix(name, "http.auth.user."):
		return name != "http.auth.user.id" // which is set if there is one
	}
	return false
}

// placeholder returns the value of {pushit.…}, "" where there is none. An error
// says that the value must not get into a request.
func (q *Question) placeholder(name string) (string, error) {
	plain, escaped := strings.CutPrefix(name, escapedPrefix)
	if !escaped {
		plain = strings.TrimPrefix(name, placeholderPrefix)
	}
	value := q.plain(plain)
	if hasControl(value) {
		return "", errControl(name)
	}
	if q.Pattern && strings.HasPrefix(plain, "agent.") && strings.Contains(value, "*") {
		return "", errStar(name) // see withoutStars
	}
	if !escaped {
		return value, nil
	}
	if plain == "channel" { // a name has no empty segment, none is . or ..
		segments := strings.Split(value, "/")
		for i, s := range segments {
			segments[i] = escapeSegment(s)
		}
		return strings.Join(segments, "/"), nil
	}
	if value == "." || value == ".." || strings.Contains(value, "/") {
		// Caddy unescapes %2F when it rewrites, and many a server when it routes.
		return "", fmt.Errorf("the value of {%s} cannot be one segment of a path; put it in the query: ?…={%s%s}", name, placeholderPrefix, plain)
	}
	return escapeSegment(value), nil
}

// plain returns the value of a placeholder by its name without prefix.
func (q *Question) plain(name string) string {
	if n, ok := strings.CutPrefix(name, partsPrefix); ok {
		if i, err := strconv.Atoi(n); err == nil {
			if parts := q.Parts(); 0 <= i && i < len(parts) {
				return parts[i]
			}
		}
		return ""
	}
	if path, ok := strings.CutPrefix(name, claimsPrefix); ok {
		return memberText(q.Learned.Claims, path)
	}
	if path, ok := strings.CutPrefix(name, attributesPrefix); ok {
		return memberText(q.Learned.Attributes, path)
	}
	o := q.Agent.Opening()
	switch name {
	case "gate":
		return string(q.Gate)
	case "channel":
		return q.Channel
	case "namespace":
		return o.Namespace
	case "agent.uuid":
		return q.Agent.UUID()
	case "agent.agent_id":
		return q.agentID()
	case "agent.user":
		return q.User()
	case "agent.remote_ip":
		if o.RemoteIP.IsValid() {
			return o.RemoteIP.String()
		}
	case "agent.credentials":
		return base64.RawURLEncoding.EncodeToString(q.Credentials)
	}
	return ""
}

// agentID returns what the agent calls itself.
func (q *Question) agentID() string { return q.Agent.AgentID() }

// memberText returns what is in m under a key, or under the keys of objects
// inside one another with dots between: strings as they are, anything else as
// JSON, "" where there is nothing.
func memberText(m map[string]any, path string) string {
	switch v := member(m, path).(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(text)
	}
}

func member(m map[string]any, path string) any {
	if v, ok := m[path]; ok {
		return v
	}
	key, rest, ok := strings.Cut(path, ".")
	if !ok {
		return nil
	}
	inner, _ := m[key].(map[string]any)
	return member(inner, rest)
}

// escapeSegment escapes all but what is never special in any part of a URI (RFC
// 3986, section 2.3).
func escapeSegment(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// namedIn returns the placeholders that a configuration names, each once.
func namedIn(raw json.RawMessage) (names []string, err error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	eachString(v, func(s string) { names = append(names, placeholdersIn(s)...) })
	slices.Sort(names)
	return slices.Compact(names), nil
}

// eachString calls f for every string in v, the keys of objects among them.
func eachString(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, e := range v {
			eachString(e, f)
		}
	case map[string]any:
		for k, e := range v {
			f(k)
			eachString(e, f)
		}
	}
}

// placeholdersIn returns what stands between { and } in a template. Where more
// than one reading is possible it returns all.
func placeholdersIn(s string) (names []string) {
	for {
		_, rest, ok := strings.Cut(s, "{")
		if !ok {
			return names
		}
		if name, _, ok := strings.Cut(rest, "}"); ok {
			names = append(names, name)
		}
		s = rest
	}
}

// checkPlaceholders finds what a handler's configuration does with placeholders
// of a question that it must not, and returns the text that it is about, too.
func checkPlaceholders(raw json.RawMessage) (about string, err error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", err
	}
	eachString(v, func(s string) {
		if e := checkUnclosed(s); e != nil && err == nil {
			about, err = s, e
		}
		for _, name := range placeholdersIn(s) {
			e := checkName(name)
			if e == nil {
				_, e = NeedsSnapshot(name)
			}
			if e != nil && err == nil {
				about, err = "{"+name+"}", e
			}
		}
	})
	if err != nil {
		return about, err
	}
	eachRewrite(v, func(rewrite map[string]any) {
		if a, e := checkRewrite(rewrite); e != nil && err == nil {
			about, err = a, e
		}
	})
	return about, err
}

// checkName tells whether a placeholder of a question is none.
func checkName(name string) error {
	plain, ok := strings.CutPrefix(name, placeholderPrefix)
	if !ok {
		return nil
	}
	plain = strings.TrimPrefix(plain, "escaped.")
	n, isPart := strings.CutPrefix(plain, partsPrefix)
	switch _, err := strconv.ParseUint(n, 10, 8); {
	case slices.Contains(placeholders, plain), isPart && err == nil:
		return nil
	case strings.HasPrefix(plain, claimsPrefix) && plain != claimsPrefix, strings.HasPrefix(plain, attributesPrefix) && plain != attributesPrefix:
		return nil
	case isPart:
		return fmt.Errorf("{%s}: parts are counted from 0: {%s%s0}", name, placeholderPrefix, partsPrefix)
	}
	if near := suggest.Nearest(plain, placeholders); near != "" {
		return fmt.Errorf("there is no placeholder {%s}; did you mean {%s%s}?", name, placeholderPrefix, near)
	}
	return fmt.Errorf("there is no placeholder {%s}; there are {%s%s}, {%s%s0}, {%s%s…} and {%s%s…}", name,
		placeholderPrefix, strings.Join(placeholders, "}, {"+placeholderPrefix), placeholderPrefix, partsPrefix,
		placeholderPrefix, claimsPrefix, placeholderPrefix, attributesPrefix)
}

// eachRewrite calls f for the configuration of each handler that rewrites the
// URI, and of each proxy that does so for what it sends.
func eachRewrite(v any, f func(map[string]any)) {
	eachObject(v, func(handler map[string]any) {
		if handler["handler"] == "rewrite" {
			f(handler)
		}
		if rewrite, ok := handler["rewrite"].(map[string]any); ok {
			f(rewrite)
		}
	})
}

// checkRewrite checks one such. In a path, raw values could make another path of
// it; in a query Caddy escapes them itself, so there they must not be escaped
// already.
func checkRewrite(rewrite map[string]any) (about string, err error) {
	uri, _ := rewrite["uri"].(string)
	path, query, _ := strings.Cut(uri, "?")
	paths := []string{path}
	for _, list := range []string{"uri_substring", "path_regexp"} {
		ops, _ := rewrite[list].([]any)
		for _, op := range ops {
			if op, ok := op.(map[string]any); ok {
				text, _ := op["replace"].(string)
				paths = append(paths, text)
			}
		}
	}
	for _, p := range paths {
		for _, name := range placeholdersIn(p) {
			if plain, ok := strings.CutPrefix(name, placeholderPrefix); ok && !strings.HasPrefix(name, escapedPrefix) {
				return "{" + name + "}", fmt.Errorf("{%s} in a path could make another path of it; write {%s%s} there, or put it in the query: ?…={%s}", name, escapedPrefix, plain, name)
			}
		}
	}
	for _, name := range placeholdersIn(query) {
		if plain, ok := strings.CutPrefix(name, escapedPrefix); ok {
			return "{" + name + "}", fmt.Errorf("{%s} is for paths; in a query it would be escaped twice, write {%s%s}", name, placeholderPrefix, plain)
		}
	}
	return "", nil
}

// isInSnapshot reports whether a placeholder of Caddy's depends on nothing but
// what is of one snapshot.
func isInSnapshot(name string) bool {
	for _, prefix := range []string{"http.request.header.", "http.request.cookie.", "http.request.uri", "http.request.orig_uri", "http.request.host"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{
		"http.request.method", "http.request.orig_method", "http.request.scheme", "http.request.port", "http.request.body", "http.request.body_base64",
		"http.auth.user.id", "http.vars." + caddyhttp.ClientIPVarKey,
	}, name)
}
