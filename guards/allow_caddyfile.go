// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/suggest"
)

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	allow [@<matcher>]
//	allow {
//		<matcher> …
//	}
func (g *AllowGuard) UnmarshalHelper(h httpcaddyfile.Helper) error {
	p := matchingParser{Helper: h, word: "allow"}
	if err := p.parse(); err != nil {
		return err
	}
	g.MatcherSetsRaw = p.sets
	return nil
}

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	deny [@<matcher>] ["<reason>"]
//	deny ["<reason>"] {
//		<matcher> …
//	}
func (g *DenyGuard) UnmarshalHelper(h httpcaddyfile.Helper) error {
	p := matchingParser{Helper: h, word: "deny"}
	if err := p.parse(); err != nil {
		return err
	}
	g.MatcherSetsRaw, g.Reason = p.sets, p.reason
	return nil
}

// A matchingParser parses the tokens of one allow or deny.
type matchingParser struct {
	httpcaddyfile.Helper
	word   string
	named  string // the named matcher, if there is one
	sets   caddyhttp.RawMatcherSets
	reason string
}

func (p *matchingParser) parse() error {
	p.Next() // the guard's word
	for p.NextArg() {
		if err := p.argument(); err != nil {
			return err
		}
	}
	if p.opensBlock() {
		if err := p.block(); err != nil {
			return err
		}
	}
	if _, err := placeholder.CheckMatchers(p.sets); err != nil {
		return p.Errf("%s: %w", p.word, err)
	}
	return nil
}

// argument reads the name of a matcher, or a reason.
func (p *matchingParser) argument() error {
	text, quoted := p.Val(), p.Token().Quoted()
	switch {
	case quoted || text == "":
		return p.setReason(text)
	case strings.HasPrefix(text, "@"):
		return p.setNamed(text)
	case text == "*":
		return p.Errf("%s matches all requests without *: leave it out", p.word)
	case strings.HasPrefix(text, "/"):
		return p.Errf("%s takes no path: all requests here are to the endpoint; select channels with channel { … }, and requests with a matcher, for example %s { path %s }", p.word, p.word, text)
	}
	if isMatcher(text) {
		rest := strings.Join(p.RemainingArgsRaw(), " ")
		return p.Errf("write matchers in a block: %s { %s }, one a line", p.word, strings.TrimSpace(text+" "+rest))
	}
	known := p.names()
	switch near := suggest.Nearest("@"+text, known); {
	case slices.Contains(known, "@"+text):
		return p.Errf("%s takes the name of a matcher with its @: write %s @%s", p.word, p.word, text)
	case p.word == "deny" && (p.named != "" || p.CountRemainingArgs() > 0):
		reason := strings.Join(append([]string{text}, p.RemainingArgs()...), " ")
		return p.Errf("write the reason in quotes: %s", fmt.Sprintf("%s %q", strings.TrimSpace("deny "+p.named), reason))
	case near != "":
		return p.Errf("%s takes the name of a matcher with its @: did you mean %s %s?", p.word, p.word, near)
	case p.word == "deny":
		return p.Errf("write deny @%s for a matcher, or deny %q for a reason", text, text)
	}
	return p.Errf("%s takes the name of a matcher with its @: write %s @%s", p.word, p.word, text)
}

func (p *matchingParser) setReason(text string) error {
	switch {
	case p.word == "allow":
		return p.Errf("unexpected %q: allow takes no reason; write an expression as cel `…`", text)
	case p.reason != "":
		return p.Errf("unexpected %q: deny takes one reason", text)
	case text == "":
		return p.Err("the reason is empty; is an environment variable not set?")
	case strings.ContainsAny(text, "{}"):
		return p.Errf("placeholders are not expanded in the reason %q; write an environment variable as {$NAME}", text)
	}
	p.reason = text
	return nil
}

func (p *matchingParser) setNamed(name string) error {
	if p.named != "" {
		return p.Errf("unexpected %s after %s: write one matcher a line; two lines match if either does; to require both, define one matcher with the content of both", name, p.named)
	}
	if p.reason != "" {
		return p.Errf("write %s before the reason", name)
	}
	p.Prev() // MatcherToken moves to it
	set, ok, err := p.MatcherToken()
	if err != nil || !ok {
		return p.unknownMatcher(name)
	}
	p.named, p.sets = name, caddyhttp.RawMatcherSets{set}
	return nil
}

func (p *matchingParser) unknownMatcher(name string) error {
	known := p.names()
	if len(known) == 0 {
		return p.Errf("there is no matcher %s; define it in the site or in pushit, as %s { … }", name, name)
	}
	return p.Errf("there is no matcher %s; %s", name, suggest.Instead(name, known))
}

// names returns the names of the matchers in scope, with their @. The Helper does not
// export them. If they cannot be read, errors only say less.
func (p *matchingParser) names() (names []string) {
	defs := reflect.ValueOf(p.Helper).FieldByName("matcherDefs")
	if !defs.IsValid() || defs.Kind() != reflect.Map {
		return nil
	}
	for _, key := range defs.MapKeys() {
		if key.Kind() == reflect.String {
			names = append(names, key.String())
		}
	}
	slices.Sort(names)
	return names
}

// opensBlock reports whether a block follows. It does not read the block.
func (p *matchingParser) opensBlock() bool {
	if !p.Next() {
		return false
	}
	defer p.Prev()
	return p.Val() == "{" && !p.Token().Quoted()
}

// block reads matchers without a name.
func (p *matchingParser) block() error {
	if p.named != "" {
		return p.Errf("%s has the matcher %s and a block of matchers: keep one of them", p.word, p.named)
	}
	look := *p.Dispenser // look at the words of the block before Caddy reads it
	empty := true
	for nesting := look.Nesting(); look.NextBlock(nesting); {
		empty = false
		word := look.Val()
		if look.Token().Quoted() { // an expression
			continue
		}
		if strings.HasPrefix(word, "@") {
			return look.Errf("write a named matcher on the line of %s: write %s %s", p.word, p.word, word)
		}
		if !isMatcher(word) {
			return look.Errf("unknown matcher %q; %s", word, insteadOf(word, "http.matchers"))
		}
		look.NextSegment()
	}
	if empty {
		return p.Errf("the block of %s is empty: write %s alone to match all requests", p.word, p.word)
	}
	set, err := caddyhttp.ParseCaddyfileNestedMatcherSet(p.Dispenser)
	if err != nil {
		return err
	}
	p.sets = caddyhttp.RawMatcherSets{set}
	return nil
}
