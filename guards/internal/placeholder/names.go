// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package placeholder knows the placeholders in the settings of guards: which ones
// exist, which values a session stores for them, and what is wrong with the others.
package placeholder

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/suggest"
)

// Parts of the names of placeholders of a question. Their values are never expanded
// again, because clients choose them.
const (
	Prefix           = "pushit."
	EscapedPrefix    = Prefix + "escaped."
	PartsPrefix      = "parts."
	ClaimsPrefix     = "agent.claims."
	AttributesPrefix = "agent.attributes."
)

// Names are the placeholders of a question with a fixed name, without Prefix.
var Names = []string{
	"gate", "channel", "namespace",
	"agent.uuid", "agent.agent_id", "agent.user", "agent.remote_ip", "agent.credentials",
}

// A ControlError says that the value of a placeholder has a CR, LF or NUL.
type ControlError string

func (e ControlError) Error() string {
	return fmt.Sprintf("the value of {%s} has a line break or a NUL in it", string(e))
}

// A LackingError says that a session has no value for a placeholder.
type LackingError string

func (e LackingError) Error() string {
	return fmt.Sprintf("{%s} is unknown after a session was opened", string(e))
}

// HasControl reports whether s has a character that ends a line or a string in protocols.
func HasControl(s string) bool { return strings.ContainsAny(s, "\r\n\x00") }

// InJSON returns the placeholders in a configuration, without repetitions.
func InJSON(raw json.RawMessage) (names []string, err error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	EachString(v, func(s string) { names = append(names, In(s)...) })
	slices.Sort(names)
	return slices.Compact(names), nil
}

// EachString calls f for every string in v, including the keys of objects.
func EachString(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, e := range v {
			EachString(e, f)
		}
	case map[string]any:
		for k, e := range v {
			f(k)
			EachString(e, f)
		}
	}
}

// In returns what stands between { and } in a template. If a template can be read in
// several ways, it returns the names of all of them.
func In(s string) (names []string) {
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

// CheckHandler finds wrong uses of a question's placeholders in the configuration of a
// handler. about is the text that the error is about.
func CheckHandler(raw json.RawMessage) (about string, err error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", err
	}
	EachString(v, func(s string) {
		if e := checkUnclosed(s); e != nil && err == nil {
			about, err = s, e
		}
		for _, name := range In(s) {
			e := CheckName(name)
			if e == nil {
				_, e = MustLookUp(name)
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

// CheckName refuses a {pushit.*} placeholder that does not exist.
func CheckName(name string) error {
	plain, ok := strings.CutPrefix(name, Prefix)
	if !ok {
		return nil
	}
	plain = strings.TrimPrefix(plain, "escaped.")
	n, isPart := strings.CutPrefix(plain, PartsPrefix)
	switch _, err := strconv.ParseUint(n, 10, 8); {
	case slices.Contains(Names, plain), isPart && err == nil:
		return nil
	case strings.HasPrefix(plain, ClaimsPrefix) && plain != ClaimsPrefix, strings.HasPrefix(plain, AttributesPrefix) && plain != AttributesPrefix:
		return nil
	case isPart:
		return fmt.Errorf("{%s}: parts are counted from 0: {%s%s0}", name, Prefix, PartsPrefix)
	}
	if near := suggest.Nearest(plain, Names); near != "" {
		return fmt.Errorf("there is no placeholder {%s}; did you mean {%s%s}?", name, Prefix, near)
	}
	return fmt.Errorf("there is no placeholder {%s}; there are {%s%s}, {%s%s0}, {%s%s…} and {%s%s…}", name,
		Prefix, strings.Join(Names, "}, {"+Prefix), Prefix, PartsPrefix,
		Prefix, ClaimsPrefix, Prefix, AttributesPrefix)
}

// eachRewrite calls f for the configuration of each handler that rewrites the URI, and of
// each proxy that rewrites what it sends.
func eachRewrite(v any, f func(map[string]any)) {
	EachObject(v, func(handler map[string]any) {
		if handler["handler"] == "rewrite" {
			f(handler)
		}
		if rewrite, ok := handler["rewrite"].(map[string]any); ok {
			f(rewrite)
		}
	})
}

// checkRewrite checks such a configuration. Unescaped values could change a path. In a
// query, Caddy escapes values itself, so they must not be escaped before.
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
		for _, name := range In(p) {
			if plain, ok := strings.CutPrefix(name, Prefix); ok && !strings.HasPrefix(name, EscapedPrefix) {
				return "{" + name + "}", fmt.Errorf("{%s} in a path could change the path; write {%s%s} there, or write it in the query: ?…={%s}", name, EscapedPrefix, plain, name)
			}
		}
	}
	for _, name := range In(query) {
		if plain, ok := strings.CutPrefix(name, EscapedPrefix); ok {
			return "{" + name + "}", fmt.Errorf("{%s} is for paths; in a query it would be escaped twice, write {%s%s}", name, Prefix, plain)
		}
	}
	return "", nil
}

// IsInSnapshot reports whether every session stores all that the value of a placeholder
// of Caddy's depends on.
func IsInSnapshot(name string) bool {
	return hasPrefix(name, "http.request.header.", "http.request.cookie.", "http.request.uri", "http.request.orig_uri", "http.request.host") || slices.Contains([]string{
		"http.request.method", "http.request.orig_method", "http.request.scheme", "http.request.port", "http.request.body", "http.request.body_base64",
		"http.auth.user.id", "http.vars." + caddyhttp.ClientIPVarKey,
	}, name)
}

// IsVariable reports whether the value of a placeholder of Caddy's can differ between
// questions before anything was asked.
func IsVariable(name string) bool {
	return !hasPrefix(name, "env.", "file.", "system.", "http.reverse_proxy.", "http.error.") &&
		!strings.ContainsAny(name, "\"'{ \t\r\n") // braces around JSON are no placeholder
}

// hasPrefix reports whether a name has one of the prefixes.
func hasPrefix(name string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// EachObject calls f for v and every object in it.
func EachObject(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			EachObject(e, f)
		}
	case map[string]any:
		f(v)
		for _, e := range v {
			EachObject(e, f)
		}
	}
}
