// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// A certainty says whether a matcher matches a request of the client.
type certainty int

const (
	no    certainty = iota
	maybe           // the configuration does not tell
	yes
	fails // the matcher ends the request with an error
)

// match reports whether one of the matcher sets of a route matches.
func (w *walk) match(n *routeNode) certainty {
	if len(n.sets) == 0 {
		return yes
	}
	w.rewritesToFile = slices.ContainsFunc(n.handlers, rewritesToFile)
	return w.anyOf(n.sets)
}

func (w *walk) anyOf(sets [][]any) certainty {
	result := no
	for _, set := range sets {
		switch c := w.allOf(set); c {
		case yes, fails:
			return c
		case maybe:
			result = maybe
		}
	}
	return result
}

func (w *walk) allOf(set []any) certainty {
	result := yes
	for _, m := range set {
		switch c := w.matcher(m); {
		case c == no:
			return no
		case c == maybe || result == yes:
			result = c
		}
	}
	return result
}

func (w *walk) matcher(m any) certainty {
	switch m := m.(type) {
	case *caddyhttp.MatchPath:
		if hasPlaceholder(*m...) {
			return maybe
		}
		return w.ask(m)
	case *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod:
		return w.ask(m.(caddyhttp.RequestMatcherWithError)) //nolint:forcetypeassert // both are
	case *caddyhttp.MatchQuery:
		return w.ask(m) // the client sends no query that matters
	case *caddyhttp.MatchHost:
		if w.host == "" || hasPlaceholder(*m...) {
			return maybe
		}
		return w.ask(m)
	case *caddyhttp.MatchHeader:
		return w.header(*m)
	case *fileserver.MatchFile:
		return w.file(m)
	case *caddyhttp.MatchExpression:
		if onlyPath(m.Expr) {
			return w.ask(m)
		}
	case *caddyhttp.MatchNot:
		sets := make(negation, len(m.MatcherSets))
		for i, set := range m.MatcherSets {
			sets[i] = set
		}
		return w.matcher(sets)
	case negation:
		return [...]certainty{no: yes, maybe: maybe, yes: no, fails: fails}[w.anyOf(m)]
	}
	return maybe
}

func hasPlaceholder(texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, "{") })
}

// ask runs the matcher itself.
func (w *walk) ask(m caddyhttp.RequestMatcherWithError) certainty {
	switch ok, err := m.MatchWithError(w.r); {
	case err != nil:
		return maybe
	case ok:
		return yes
	default:
		return no
	}
}

// knownHeaders are header fields that are the same for all clients.
var knownHeaders = []string{"Accept", "Connection", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Upgrade"}

func (w *walk) header(m caddyhttp.MatchHeader) certainty {
	result := yes
	for name, values := range m {
		c := maybe
		if slices.Contains(knownHeaders, http.CanonicalHeaderKey(name)) && !hasPlaceholder(values...) {
			c = w.ask(caddyhttp.MatchHeader{name: values})
		}
		if c == no {
			return no
		}
		result = min(result, c)
	}
	return result
}

// rewritesToFile reports whether a handler rewrites to the file that a matcher found.
func rewritesToFile(h *handlerNode) bool {
	rewrites, ok := h.module.(*rewrite.Rewrite)
	return ok && strings.HasPrefix(rewrites.URI, "{http.matchers.file.relative}")
}

// file decides a file matcher for a request without a file. It assumes that a fallback
// such as /index.html exists. It does not know whether a file exists that is tried alone:
// such a file may be a sign, for example that the site is under maintenance.
func (w *walk) file(m *fileserver.MatchFile) certainty {
	result, fallback := no, w.rewritesToFile
	for i, file := range m.TryFiles {
		last := i == len(m.TryFiles)-1
		switch {
		case last && m.TryPolicy == "first_exist_fallback", fallback && !hasPlaceholder(file) && !strings.ContainsAny(file, "*=["):
			w.repl.Set("http.matchers.file.relative", "/"+strings.TrimPrefix(w.repl.ReplaceAll(file, ""), "/"))
			return yes
		case last && strings.HasPrefix(file, "="):
			return fails
		case strings.Contains(file, "{http.request.uri"), strings.Contains(file, "{http.request.orig_uri"):
			fallback = true
		default:
			result = maybe
		}
	}
	return result
}

var (
	celText = regexp.MustCompile("'[^']*'|\"[^\"]*\"|`[^`]*`")
	celWord = regexp.MustCompile(`\{[^}]*\}|[A-Za-z_][A-Za-z0-9_]*`)
)

// celAboutPath are the words of expressions that depend only on a request's path and
// method.
var celAboutPath = []string{
	"path", "path_regexp", "method", "startsWith", "endsWith", "contains", "matches", "lowerAscii", "upperAscii", "size", "in", "true", "false",
	"{http.request.uri}", "{http.request.uri.path}", "{http.request.method}", "{http.request.orig_uri}", "{http.request.orig_uri.path}",
}

// onlyPath reports whether an expression depends only on the path and the method.
func onlyPath(expression string) bool {
	for _, word := range celWord.FindAllString(celText.ReplaceAllString(expression, ""), -1) {
		if !slices.Contains(celAboutPath, word) {
			return false
		}
	}
	return true
}

// matcherNames returns the names of the matchers of a route.
func matcherNames(n *routeNode) (names []string) {
	var visit func(sets [][]any)
	visit = func(sets [][]any) {
		for _, set := range sets {
			for _, m := range set {
				switch m := m.(type) {
				case unknownMatcher:
					names = append(names, m.name)
				case negation:
					visit(m)
				case *caddyhttp.MatchNot:
					for _, set := range m.MatcherSets {
						visit([][]any{set})
					}
				case caddy.Module:
					names = append(names, m.CaddyModule().ID.Name())
				}
			}
		}
	}
	visit(n.sets)
	return names
}

// matchersOf returns the matchers of a route that have a type.
func matchersOf[M any](n *routeNode) (all []M) {
	for _, set := range n.sets {
		for _, m := range set {
			if m, ok := m.(M); ok {
				all = append(all, m)
			}
		}
	}
	return all
}

// pathsOf returns the paths in the matchers of a route.
func pathsOf(n *routeNode) (paths []string) {
	for _, m := range matchersOf[*caddyhttp.MatchPath](n) {
		paths = append(paths, *m...)
	}
	return paths
}

// unmarshal is json.Unmarshal into a new T. It ignores values that do not fit.
func unmarshal[T any](raw json.RawMessage) (v T) {
	_ = json.Unmarshal(raw, &v) // Caddy reports the error
	return v
}
