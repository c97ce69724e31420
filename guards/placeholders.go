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

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// replace returns the value of a placeholder in the request r.
func (q *Question) replace(r *http.Request, name string) (value any, known bool, err error) {
	if !strings.HasPrefix(name, placeholder.Prefix) {
		return q.remembered(r, name)
	}
	text, err := q.placeholder(name)
	return text, true, err
}

// remembered returns the value of a placeholder that was looked up when the session
// opened. Values that handlers of a guard have set since take precedence. For variables,
// Caddy takes care of that after placeholder.SetVars.
func (q *Question) remembered(r *http.Request, name string) (_ any, known bool, _ error) {
	value, kind := placeholder.LookUp(q.Agent.Opening(), name)
	variable, isVar := strings.CutPrefix(name, placeholder.VarsPrefix)
	switch {
	case isVar && caddyhttp.GetVar(r.Context(), variable) != nil:
		return nil, false, nil
	case kind == placeholder.HasNone:
		return nil, !isVar, nil
	case kind == placeholder.HasValue && !isVar:
		return value, true, nil
	case kind == placeholder.IsUnsafe:
		return "", true, placeholder.ControlError(name)
	case kind == placeholder.IsUnknown, isLacking(name, r), slices.Contains(q.Env.Snapshot, name):
		return nil, true, placeholder.LackingError(name)
	}
	return nil, false, nil
}

// isLacking reports whether the opening request had a value for this placeholder of
// Caddy's that sessions do not store.
func isLacking(name string, r *http.Request) bool {
	switch {
	case strings.HasPrefix(name, "http.request.tls."):
		return r.TLS != nil
	case strings.HasPrefix(name, "http.request.local"), strings.HasPrefix(name, "http.request.proto"):
		return true
	case strings.HasPrefix(name, "http.auth.user."):
		return name != "http.auth.user.id" // that one is set if there is a user
	}
	return false
}

// placeholder returns the value of {pushit.*}, "" if there is none. The error says that
// the value must not get into a request.
func (q *Question) placeholder(name string) (string, error) {
	plain, escaped := strings.CutPrefix(name, placeholder.EscapedPrefix)
	if !escaped {
		plain = strings.TrimPrefix(name, placeholder.Prefix)
	}
	value := q.plain(plain)
	if placeholder.HasControl(value) {
		return "", placeholder.ControlError(name)
	}
	if q.Pattern {
		switch {
		case plain == "channel":
		case strings.HasPrefix(plain, placeholder.PartsPrefix) && value == "":
			// It would equal every other empty value, such as the user of somebody unknown.
			return "", placeholder.AmbiguousError(fmt.Sprintf("the pattern of the subscription does not say what {%s} is", name))
		case strings.Contains(value, "*"):
			return "", placeholder.StarError(name) // see withoutStars in internal/expr
		}
	}
	if !escaped {
		return value, nil
	}
	if plain == "channel" { // a name has no empty segment, and no segment . or ..
		segments := strings.Split(value, "/")
		for i, s := range segments {
			segments[i] = escapeSegment(s)
		}
		return strings.Join(segments, "/"), nil
	}
	if value == "." || value == ".." || strings.Contains(value, "/") {
		// Caddy unescapes %2F when it rewrites, and many servers do so when they route.
		return "", fmt.Errorf("the value of {%s} cannot be one segment of a path; write it in the query: ?…={%s%s}", name, placeholder.Prefix, plain)
	}
	return escapeSegment(value), nil
}

// plain returns the value of a placeholder by its name without the prefix.
func (q *Question) plain(name string) string {
	if n, ok := strings.CutPrefix(name, placeholder.PartsPrefix); ok {
		if i, err := strconv.Atoi(n); err == nil {
			if parts := q.Parts(); 0 <= i && i < len(parts) {
				return parts[i]
			}
		}
		return ""
	}
	if path, ok := strings.CutPrefix(name, placeholder.ClaimsPrefix); ok {
		return memberText(q.Learned.Claims, path)
	}
	if path, ok := strings.CutPrefix(name, placeholder.AttributesPrefix); ok {
		return memberText(q.Learned.Attributes, path)
	}
	o := q.Agent.Opening()
	switch name {
	case "gate":
		return string(q.Gate)
	case "channel":
		return q.Channel
	case "namespace":
		return o.Namespace()
	case "agent.uuid":
		return q.Agent.UUID()
	case "agent.agent_id":
		return q.Agent.AgentID()
	case "agent.user":
		return q.User()
	case "agent.remote_ip":
		if ip := o.RemoteIP(); ip.IsValid() {
			return ip.String()
		}
	case "agent.credentials":
		return base64.RawURLEncoding.EncodeToString(q.Credentials)
	}
	return ""
}

// memberText returns the value in m under a key. Dots in the key lead into objects.
// Strings are returned as they are, other values as JSON, and nothing as "".
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

// escapeSegment escapes everything except what has no special meaning in any part of a
// URI (RFC 3986, section 2.3).
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
