// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/suggest"
)

// A guardBlock is the tokens of a guard that stands for a directive of Caddy's: those on
// its first line, and what is in its braces, one segment each.
type guardBlock struct {
	word        string
	line        caddyfile.Segment // the guard's word and what follows it
	open, close caddyfile.Token
	entries     []caddyfile.Segment
}

// readBlock reads the tokens of a guard, which must have a block.
func readBlock(h httpcaddyfile.Helper, example string) (*guardBlock, error) {
	h.Next()
	b := &guardBlock{word: h.Val()}
	d := caddyfile.NewDispenser(h.NextSegment())
	d.Next()
	b.line = append(b.line, d.Token())
	for d.NextArg() {
		b.line = append(b.line, d.Token())
	}
	last := *d
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if hint := suggest.MissingBrace(d.Val(), b.word); hint != "" {
			return nil, d.Err(hint)
		}
		b.entries = append(b.entries, d.NextSegment())
	}
	for _, entry := range b.entries {
		for _, t := range entry {
			placeholder.NotePlace(t.Text, t.File, t.Line)
		}
	}
	if len(b.entries) == 0 {
		return nil, d.Errf("%s needs a block; write: %s", b.word, example)
	}
	b.close = d.Token()
	last.Next()
	b.open = last.Token()
	return b, nil
}

// errAt is an error of a token.
func errAt(t caddyfile.Token, format string, args ...any) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.Errf(format, args...)
}

// options takes the guard's own options out of the block: parse reads one, and
// reports whether it was one.
func (b *guardBlock) options(parse func(d *caddyfile.Dispenser) (own bool, err error)) error {
	seen := make(map[string]bool)
	var others []caddyfile.Segment
	for _, entry := range b.entries {
		d := caddyfile.NewDispenser(entry)
		d.Next()
		name := d.Val()
		own, err := parse(d)
		if err != nil {
			return err
		}
		if !own {
			others = append(others, entry)
			continue
		}
		if seen[name] {
			return errAt(entry[0], "%s is written twice", name)
		}
		seen[name] = true
		if d.Next() {
			return d.Errf("unexpected %q after %s", d.Val(), name)
		}
	}
	b.entries = others
	return nil
}

// find returns the first entry with that name, nil if there is none.
func (b *guardBlock) find(name string) caddyfile.Segment {
	for _, entry := range b.entries {
		if entry.Directive() == name {
			return entry
		}
	}
	return nil
}

// remove takes the first entry with that name out.
func (b *guardBlock) remove(name string) {
	if i := slices.IndexFunc(b.entries, func(s caddyfile.Segment) bool { return s.Directive() == name }); i >= 0 {
		b.entries = slices.Delete(b.entries, i, i+1)
	}
}

// unmarshalOption reads one of the options that the guards have in common.
func (s *Sparing) unmarshalOption(d *caddyfile.Dispenser) (own bool, err error) {
	switch d.Val() {
	case "cache":
		var text string
		if !d.AllArgs(&text) {
			return true, d.Errf("cache takes how long answers are kept: cache 10s")
		}
		ttl, err := caddy.ParseDuration(text)
		if err != nil || ttl <= 0 {
			return true, d.Errf("cache takes how long answers are kept, for example 10s, not %q", text)
		}
		s.Cache = caddy.Duration(ttl)
	case "key":
		if s.Key = d.RemainingArgs(); len(s.Key) == 0 {
			return true, d.Errf("key takes what makes questions equal: key {pushit.agent.user} {pushit.channel}")
		}
	case "in_flight":
		var text string
		if !d.AllArgs(&text) {
			return true, d.Errf("in_flight takes how many questions are asked at once: in_flight 64")
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return true, d.Errf("in_flight takes how many questions are asked at once, not %q", text)
		}
		s.InFlight = n
	default:
		return false, nil
	}
	return true, nil
}

// parseAs parses the block as a directive of Caddy's, and returns the handler it
// stands for.
func (b *guardBlock) parseAs(h httpcaddyfile.Helper, directive string) (json.RawMessage, error) {
	// Caddy parses directives only inside a block of them. The tokens around are
	// made of the block's own, to be of the same file and import.
	word, open, end := b.open, b.open, b.close
	word.Text = "route"
	word.Line, open.Line = b.line[0].Line-1, b.line[0].Line-1
	end.Line++
	tokens := []caddyfile.Token{word, open}
	first := b.line[0]
	first.Text = directive
	tokens = append(tokens, first)
	tokens = append(tokens, b.line[1:]...)
	tokens = append(tokens, b.open)
	for _, entry := range b.entries {
		tokens = append(tokens, entry...)
	}
	tokens = append(tokens, b.close, end)

	handler, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(caddyfile.NewDispenser(tokens)))
	if err != nil {
		return nil, b.located(err, directive, end)
	}
	routes, ok := handler.(*caddyhttp.Subroute)
	if !ok || len(routes.Routes) != 1 || len(routes.Routes[0].HandlersRaw) != 1 {
		return nil, errAt(b.line[0], "%s makes something else of this than one handler", directive)
	}
	raw := routes.Routes[0].HandlersRaw[0]
	if about, err := placeholder.CheckHandler(raw); err != nil {
		return nil, errAt(b.token(about), "%w", err)
	}
	return raw, nil
}

// located gives an error of Caddy's the position that it is about, in place of
// those that Caddy finds around it.
func (b *guardBlock) located(err error, directive string, end caddyfile.Token) error {
	text := err.Error()
	for _, around := range []caddyfile.Token{end, b.close} {
		text = strings.TrimSuffix(text, errAt(around, "").Error())
	}
	text = strings.TrimPrefix(text, "parsing caddyfile tokens for '"+directive+"': ")
	if strings.Contains(text, ", at ") && !strings.HasSuffix(text, ", at :0") {
		return errors.New(text)
	}
	text = strings.TrimSuffix(text, ", at :0")
	for _, entry := range b.entries {
		for i, t := range entry {
			if (i == 0 || strings.HasPrefix(t.Text, "@")) && strings.Contains(text, t.Text) {
				return errAt(t, "%s", text)
			}
		}
	}
	return errAt(b.line[0], "%s", text)
}

// token returns the first token of the block with text in it.
func (b *guardBlock) token(text string) caddyfile.Token {
	for _, entry := range b.entries {
		for _, t := range entry {
			if strings.Contains(t.Text, text) {
				return t
			}
		}
	}
	return b.line[0]
}

// proxied checks what forward_auth and ask have in common: both ask an upstream,
// and the operator says where.
func (b *guardBlock) proxied() error {
	for _, t := range b.line[1:] {
		if strings.HasPrefix(t.Text, "@") || strings.HasPrefix(t.Text, "/") || t.Text == "*" {
			return errAt(t, "%s takes no matcher: it would let through whom %s does not match; for that, write route { … }", b.word, t.Text)
		}
	}
	if len(b.line) == 1 && b.find("to") == nil && b.find("dynamic") == nil {
		return errAt(b.line[0], "%s needs an upstream to ask: %s localhost:8080 { … }", b.word, b.word)
	}
	uri := b.find("uri")
	if len(uri) != 2 || !strings.HasPrefix(uri[1].Text, "/") {
		at := b.line[0]
		if uri != nil {
			at = uri[0]
		}
		return errAt(at, "%s needs the path to ask at the upstream: uri /%s", b.word, map[string]string{"ask": "pushit", "forward_auth": "auth"}[b.word])
	}
	for _, name := range []string{"method", "rewrite"} {
		if entry := b.find(name); entry != nil {
			return errAt(entry[0], "%s has no %s: the path is written with uri, and %s", b.word, name, map[string]string{
				"ask": "a question is always a POST", "forward_auth": "it always asks with GET; to send the question itself, write ask",
			}[b.word])
		}
	}
	for _, entry := range b.entries {
		if entry.Directive() == "uri" && &entry[0] != &uri[0] {
			return errAt(entry[0], "uri is written twice")
		}
	}
	return nil
}

// fastCGITimeout is how long a handler's transport waits for a FastCGI server, where
// the operator has not said: unlike others it does not notice that nobody waits
// any more for what it asked, and holds a place until then.
const fastCGITimeout = "30s"

// boundFastCGI adds to a FastCGI transport how long it waits, where that is not
// written.
func boundFastCGI(transport map[string]any) {
	if transport["protocol"] != "fastcgi" {
		return
	}
	for _, name := range []string{"read_timeout", "write_timeout"} {
		if transport[name] == nil {
			transport[name] = fastCGITimeout
		}
	}
}

// completeFastCGI adds to a proxy's FastCGI transport what is not written: how
// long it waits, and that the path of a PHP script ends behind .php, as
// php_fastcgi has it.
func completeFastCGI(proxy map[string]any) {
	transport, _ := proxy["transport"].(map[string]any)
	if transport["protocol"] != "fastcgi" {
		return
	}
	boundFastCGI(transport)
	rewrite, _ := proxy["rewrite"].(map[string]any)
	uri, _ := rewrite["uri"].(string)
	if path, _, _ := strings.Cut(uri, "?"); transport["split_path"] == nil && strings.Contains(path, ".php") {
		transport["split_path"] = []string{".php"}
	}
}

// changed returns a handler's configuration as change leaves it.
func changed(raw json.RawMessage, change func(handler map[string]any)) (json.RawMessage, error) {
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("what Caddy made of it: %w", err)
	}
	change(v)
	return json.Marshal(v)
}
