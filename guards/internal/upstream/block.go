// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/suggest"
)

// A Block has the tokens of a guard that is configured like a directive of Caddy's: its
// first line, and the entries between its braces.
type Block struct {
	word        string
	Line        caddyfile.Segment // the guard's word and its arguments
	open, close caddyfile.Token
	Entries     []caddyfile.Segment
}

// ReadBlock reads the tokens of a guard. The guard must have a block.
func ReadBlock(h httpcaddyfile.Helper, example string) (*Block, error) {
	h.Next()
	b := &Block{word: h.Val()}
	d := caddyfile.NewDispenser(h.NextSegment())
	d.Next()
	b.Line = append(b.Line, d.Token())
	for d.NextArg() {
		b.Line = append(b.Line, d.Token())
	}
	last := *d
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if hint := suggest.MissingBrace(d.Val(), b.word); hint != "" {
			return nil, d.Err(hint)
		}
		b.Entries = append(b.Entries, d.NextSegment())
	}
	for _, entry := range b.Entries {
		for _, t := range entry {
			placeholder.NotePlace(t.Text, t.File, t.Line)
		}
	}
	if len(b.Entries) == 0 {
		return nil, d.Errf("%s needs a block; write: %s", b.word, example)
	}
	b.close = d.Token()
	last.Next()
	b.open = last.Token()
	return b, nil
}

// ErrAt returns an error at the place of a token.
func ErrAt(t caddyfile.Token, format string, args ...any) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.Errf(format, args...)
}

// Options removes the guard's own options from the block. parse reads one entry, and
// reports whether it was such an option.
func (b *Block) Options(parse func(d *caddyfile.Dispenser) (own bool, err error)) error {
	seen := make(map[string]bool)
	var others []caddyfile.Segment
	for _, entry := range b.Entries {
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
			return ErrAt(entry[0], "%s is written twice", name)
		}
		seen[name] = true
		if d.Next() {
			return d.Errf("unexpected %q after %s", d.Val(), name)
		}
	}
	b.Entries = others
	return nil
}

// Find returns the first entry with that name, or nil.
func (b *Block) Find(name string) caddyfile.Segment {
	for _, entry := range b.Entries {
		if entry.Directive() == name {
			return entry
		}
	}
	return nil
}

// Remove removes the first entry with that name.
func (b *Block) Remove(name string) {
	if i := slices.IndexFunc(b.Entries, func(s caddyfile.Segment) bool { return s.Directive() == name }); i >= 0 {
		b.Entries = slices.Delete(b.Entries, i, i+1)
	}
}

// ParseAs parses the block as a directive of Caddy's, and returns the resulting handler.
func (b *Block) ParseAs(h httpcaddyfile.Helper, directive string) (json.RawMessage, error) {
	// Caddy parses directives only inside a block. The tokens around them are made from
	// the block's own, so that they belong to the same file and import.
	word, open, end := b.open, b.open, b.close
	word.Text = "route"
	word.Line, open.Line = b.Line[0].Line-1, b.Line[0].Line-1
	end.Line++
	tokens := []caddyfile.Token{word, open}
	first := b.Line[0]
	first.Text = directive
	tokens = append(tokens, first)
	tokens = append(tokens, b.Line[1:]...)
	tokens = append(tokens, b.open)
	for _, entry := range b.Entries {
		tokens = append(tokens, entry...)
	}
	tokens = append(tokens, b.close, end)

	handler, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(caddyfile.NewDispenser(tokens)))
	if err != nil {
		return nil, b.located(err, directive, end)
	}
	routes, ok := handler.(*caddyhttp.Subroute)
	if !ok || len(routes.Routes) != 1 || len(routes.Routes[0].HandlersRaw) != 1 {
		return nil, ErrAt(b.Line[0], "%s did not make one handler of this", directive)
	}
	raw := routes.Routes[0].HandlersRaw[0]
	if about, err := placeholder.CheckHandler(raw); err != nil {
		return nil, ErrAt(b.token(about), "%w", err)
	}
	return raw, nil
}

// located replaces the position in an error of Caddy's, which is around the block, with
// the position of the mistake.
func (b *Block) located(err error, directive string, end caddyfile.Token) error {
	text := err.Error()
	for _, around := range []caddyfile.Token{end, b.close} {
		text = strings.TrimSuffix(text, ErrAt(around, "").Error())
	}
	text = strings.TrimPrefix(text, "parsing caddyfile tokens for '"+directive+"': ")
	if strings.Contains(text, ", at ") && !strings.HasSuffix(text, ", at :0") {
		return errors.New(text)
	}
	text = strings.TrimSuffix(text, ", at :0")
	for _, entry := range b.Entries {
		for i, t := range entry {
			if (i == 0 || strings.HasPrefix(t.Text, "@")) && strings.Contains(text, t.Text) {
				return ErrAt(t, "%s", text)
			}
		}
	}
	return ErrAt(b.Line[0], "%s", text)
}

// token returns the first token of the block that contains text.
func (b *Block) token(text string) caddyfile.Token {
	for _, entry := range b.Entries {
		for _, t := range entry {
			if strings.Contains(t.Text, text) {
				return t
			}
		}
	}
	return b.Line[0]
}

// CheckProxy checks what forward_auth and ask have in common: they need an upstream and a
// path.
func (b *Block) CheckProxy() error {
	for _, t := range b.Line[1:] {
		if strings.HasPrefix(t.Text, "@") || strings.HasPrefix(t.Text, "/") || t.Text == "*" {
			return ErrAt(t, "%s takes no matcher: requests that %s does not match would pass unchecked; if you want that, write route { … }", b.word, t.Text)
		}
	}
	if len(b.Line) == 1 && b.Find("to") == nil && b.Find("dynamic") == nil {
		return ErrAt(b.Line[0], "%s needs an upstream to ask: %s localhost:8080 { … }", b.word, b.word)
	}
	uri := b.Find("uri")
	if len(uri) != 2 || !strings.HasPrefix(uri[1].Text, "/") {
		at := b.Line[0]
		if uri != nil {
			at = uri[0]
		}
		return ErrAt(at, "%s needs the path to ask at the upstream: uri /%s", b.word, map[string]string{"ask": "pushit", "forward_auth": "auth"}[b.word])
	}
	for _, name := range []string{"method", "rewrite"} {
		if entry := b.Find(name); entry != nil {
			return ErrAt(entry[0], "%s has no %s: write the path with uri; %s", b.word, name, map[string]string{
				"ask": "a question is always a POST", "forward_auth": "it always asks with GET; to send the question itself, write ask",
			}[b.word])
		}
	}
	for _, entry := range b.Entries {
		if entry.Directive() == "uri" && &entry[0] != &uri[0] {
			return ErrAt(entry[0], "uri is written twice")
		}
	}
	return nil
}

// fastCGITimeout is the default time to wait for a FastCGI server. Caddy's FastCGI
// transport ignores the context of a request, so without a timeout a question could hold
// its place forever.
const fastCGITimeout = "30s"

// BoundFastCGI adds timeouts to a FastCGI transport that has none.
func BoundFastCGI(transport map[string]any) {
	if transport["protocol"] != "fastcgi" {
		return
	}
	for _, name := range []string{"read_timeout", "write_timeout"} {
		if transport[name] == nil {
			transport[name] = fastCGITimeout
		}
	}
}

// CompleteFastCGI adds defaults to a proxy's FastCGI transport: timeouts, and, as
// php_fastcgi does, that the path of a PHP script ends behind .php.
func CompleteFastCGI(proxy map[string]any) {
	transport, _ := proxy["transport"].(map[string]any)
	if transport["protocol"] != "fastcgi" {
		return
	}
	BoundFastCGI(transport)
	rewrite, _ := proxy["rewrite"].(map[string]any)
	uri, _ := rewrite["uri"].(string)
	if path, _, _ := strings.Cut(uri, "?"); transport["split_path"] == nil && strings.Contains(path, ".php") {
		transport["split_path"] = []string{".php"}
	}
}

// Changed returns the configuration of a handler after change has changed it.
func Changed(raw json.RawMessage, change func(handler map[string]any)) (json.RawMessage, error) {
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("what Caddy made of it: %w", err)
	}
	change(v)
	return json.Marshal(v)
}

// Copies reports whether copy_headers in the block sets the header field.
func (b *Block) Copies(field string) bool {
	for _, entry := range b.Entries {
		if entry.Directive() != "copy_headers" {
			continue
		}
		for _, t := range entry[1:] {
			_, to, renamed := strings.Cut(t.Text, ">")
			if !renamed {
				to = t.Text
			}
			if strings.EqualFold(to, field) {
				return true
			}
		}
	}
	return false
}
