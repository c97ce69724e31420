// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"fmt"
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

// hasControl reports whether s has what ends a line or a string in protocols.
func hasControl(s string) bool { return strings.ContainsAny(s, "\r\n\x00") }

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

// isVariable reports whether the value of a placeholder of Caddy's can be another
// for another question before anything was asked.
func isVariable(name string) bool {
	for _, prefix := range []string{"env.", "file.", "system.", "http.reverse_proxy.", "http.error."} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return !strings.ContainsAny(name, "\"'{ \t\r\n") // JSON in a response, say
}

// eachObject calls f for v and every object in it.
func eachObject(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			eachObject(e, f)
		}
	case map[string]any:
		f(v)
		for _, e := range v {
			eachObject(e, f)
		}
	}
}
