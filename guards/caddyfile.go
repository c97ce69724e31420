// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/guards/internal/suggest"
)

// A HelperUnmarshaler is a guard whose Caddyfile syntax needs more than its own tokens:
// the matchers of the site, or Caddy's directives. The first Next of h is the guard's
// word.
type HelperUnmarshaler interface {
	UnmarshalHelper(h httpcaddyfile.Helper) error
}

// Nearest returns the word of known that an operator most likely meant by word, or
// "" if none is close. Errors of guards use it to say "did you mean ...?".
func Nearest(word string, known []string) string { return suggest.Nearest(word, known) }

// Instead says what to write in place of an unknown word: the nearest of known, or any.
func Instead(word string, known []string) string { return suggest.Instead(word, known) }

// directives are directives of Caddy's that people write as guards. They belong in a
// route.
var directives = []string{
	"abort", "authelia", "authenticate", "authorize", "basic_auth", "basicauth", "error", "handle", "handle_path", "header",
	"map", "php_fastcgi", "rate_limit", "redir", "request_header", "respond", "reverse_proxy", "rewrite", "uri", "vars",
}

// ParseNext parses the guard at the current token of h, up to the end of its line or
// block.
func ParseNext(h httpcaddyfile.Helper) (json.RawMessage, error) {
	if hasEmptyBlock(h.Dispenser) {
		// A segment does not show an empty block, so "allow { }" would be allow.
		return nil, h.Errf("the block of %s is empty; write what belongs in it, or leave the braces out", h.Val())
	}
	return ParseGuard(h.WithDispenser(h.NewFromNextSegment()))
}

// hasEmptyBlock reports whether the line of the current token ends in an empty block. It
// does not move d.
func hasEmptyBlock(d *caddyfile.Dispenser) (empty bool) {
	steps := 0
	for d.NextArg() {
		steps++
	}
	if d.Next() {
		steps++
		if d.Val() == "{" && d.Next() {
			steps++
			empty = d.Val() == "}"
		}
	}
	for range steps {
		d.Prev()
	}
	return empty
}

// ParseGuard parses one guard. h has only the tokens of that guard; the first is its
// word.
func ParseGuard(h httpcaddyfile.Helper) (json.RawMessage, error) {
	if !h.Next() {
		return nil, h.Err("a guard is missing, for example: allow")
	}
	word := h.Val()
	info, err := caddy.GetModule(Namespace + "." + word)
	if err != nil {
		return nil, unknownGuard(h, word)
	}
	h.Reset()
	module := info.New()
	switch g := module.(type) {
	case HelperUnmarshaler:
		err = g.UnmarshalHelper(h)
	case caddyfile.Unmarshaler:
		err = g.UnmarshalCaddyfile(h.Dispenser)
	default:
		err = h.Errf("the guard %s has no Caddyfile form; use JSON", word)
	}
	if err != nil {
		return nil, err
	}
	if h.Next() {
		return nil, h.Errf("unexpected %q after the guard %s: write one guard a line", h.Val(), word)
	}
	return caddyconfig.JSONModuleObject(module, "guard", word, nil), nil
}

// isMatcher reports whether one of Caddy's matchers has this name.
func isMatcher(name string) bool {
	_, err := caddy.GetModule("http.matchers." + name)
	return err == nil
}

// unknownGuard says what to write instead of word.
func unknownGuard(h httpcaddyfile.Helper, word string) error {
	switch {
	case suggest.MissingBrace(word, "the guard around it") != "":
		return h.Err(suggest.MissingBrace(word, "the guard around it"))
	case strings.HasPrefix(word, "@"):
		return h.Errf("%s is a matcher, not a guard; write: allow %s", word, word)
	case strings.HasPrefix(word, "/") || word == "*":
		return h.Errf("%q is not a guard; write paths in a matcher, and channels in channel { … }", word)
	case isMatcher(word):
		return h.Errf("%s is a matcher, not a guard; write it in a block: allow { %s … }, one a line", word, word)
	case slices.Contains(directives, word):
		return h.Errf("%s is a Caddy directive, not a guard; write: route { %s … }", word, word)
	}
	return h.Errf("unknown guard %q; %s", word, insteadOf(word, Namespace))
}

// insteadOf says which modules of a namespace there are in place of one that is unknown.
func insteadOf(word, namespace string) string {
	var known []string
	for _, m := range caddy.GetModules(namespace) {
		known = append(known, m.ID.Name())
	}
	return suggest.Instead(word, known)
}
