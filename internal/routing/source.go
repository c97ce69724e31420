// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// ProbingOption is the option of the Caddyfile adapter for a second adaptation, which
// only checks the routes around a pushit.
const ProbingOption = "http.handlers.pushit.probing"

// A File is a whole Caddyfile.
type File struct {
	Servers map[string]*caddyhttp.Server
	blocks  []caddyfile.ServerBlock
}

// AdaptFile adapts a Caddyfile. The options are those of the adapter. If the file has an
// error, AdaptFile returns an empty File, because the first adaptation reports the error.
func AdaptFile(filename string, options map[string]any) *File {
	body, err := os.ReadFile(filename) //nolint:gosec // G304: the Caddyfile that Caddy adapts
	if err != nil {
		return new(File)
	}
	options = maps.Clone(options)
	options["filename"], options[ProbingOption] = filename, true
	text, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(body, options)
	if err != nil {
		return new(File)
	}
	config := unmarshal[caddy.Config](text)
	f := &File{Servers: unmarshal[caddyhttp.App](config.AppsRaw["http"]).Servers}
	if f.blocks, err = caddyfile.Parse(filename, body); err != nil {
		return new(File)
	}
	return f
}

// place returns the position of a token as Caddy's errors write it.
func place(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }

// A Source is the site around a pushit in a Caddyfile. A nil *Source is unknown.
type Source struct {
	lines []sourceLine // the lines of the site
	at    int          // the line of the pushit
}

// A sourceLine is a directive, or a line in a directive's block.
type sourceLine struct {
	tokens []caddyfile.Token
	in     []int // the lines whose blocks contain it, the outermost first
}

// Around returns the site around a directive, or nil if it is not in the file.
func (f *File) Around(directive caddyfile.Token) *Source {
	for _, block := range f.blocks {
		s := &Source{}
		for _, segment := range block.Segments {
			s.read(segment)
		}
		s.at = slices.IndexFunc(s.lines, func(l sourceLine) bool {
			return l.tokens[0].Text == directive.Text && place(l.tokens[0]) == place(directive)
		})
		if s.at >= 0 {
			return s
		}
	}
	return nil
}

// read adds the lines of a directive and of its block.
func (s *Source) read(segment caddyfile.Segment) {
	var in []int
	for i := 0; i < len(segment); {
		line := []caddyfile.Token{segment[i]}
		for i++; i < len(segment) && place(segment[i]) == place(line[0]); i++ {
			line = append(line, segment[i])
		}
		if line[0].Text == "}" && !line[0].Quoted() {
			in = in[:max(len(in)-1, 0)]
			continue
		}
		opens := line[len(line)-1].Text == "{" && !line[len(line)-1].Quoted()
		if opens && len(line) > 1 {
			line = line[:len(line)-1]
		}
		s.lines = append(s.lines, sourceLine{line, slices.Clone(in)})
		if opens {
			in = append(in, len(s.lines)-1)
		}
	}
}

// directive returns the site's directive with the first of the names that occurs, and its
// position. If several directives have this name, it returns nothing.
func (s *Source) directive(names []string) (line, where string) {
	if s == nil {
		return "", ""
	}
	for _, name := range names {
		var found []sourceLine
		for _, l := range s.lines {
			if l.tokens[0].Text == name && !slices.Contains(l.in, s.at) {
				found = append(found, l)
			}
		}
		switch {
		case len(found) == 1:
			return found[0].text(), place(found[0].tokens[0])
		case len(found) > 1:
			return "", ""
		}
	}
	return "", ""
}

// opener returns the line that opens the block around the pushit.
func (s *Source) opener() string {
	if s == nil || len(s.lines[s.at].in) == 0 {
		return ""
	}
	in := s.lines[s.at].in
	l := s.lines[in[len(in)-1]]
	return l.text()
}

func (l *sourceLine) text() string {
	words := make([]string, len(l.tokens))
	for i, t := range l.tokens {
		words[i] = t.Text
		switch {
		case t.Quoted() && strings.Contains(t.Text, `"`):
			words[i] = "`" + t.Text + "`"
		case t.Quoted():
			words[i] = `"` + t.Text + `"`
		}
	}
	return strings.Join(words, " ")
}

// reconstructed returns a directive as a Caddyfile may have it.
func reconstructed(name string, h *handlerNode, n *routeNode) string {
	rewrites, ok := h.module.(*rewrite.Rewrite)
	matcher := "*"
	if paths := pathsOf(n); len(paths) == 1 && len(n.sets) == 1 && len(n.sets[0]) == 1 {
		matcher = paths[0]
	} else if len(n.sets) > 0 {
		matcher = "@matcher"
	}
	switch files := tried(n); {
	case name == "try_files" && files != nil:
		return "try_files " + short.Replace(strings.Join(files.TryFiles, " "))
	case name == "rewrite" && ok:
		return "rewrite " + matcher + " " + short.Replace(rewrites.URI)
	}
	switch name {
	case "redir":
		answer := unmarshal[struct {
			Headers map[string][]string `json:"headers"`
			Status  any                 `json:"status_code"`
		}](h.raw)
		return short.Replace(fmt.Sprintf("redir %s %s %v", matcher, strings.Join(answer.Headers["Location"], " "), answer.Status))
	case "reverse_proxy", "php_fastcgi":
		words := []string{name, matcher}
		for _, upstream := range unmarshal[struct{ Upstreams []struct{ Dial string } }](h.raw).Upstreams {
			words = append(words, upstream.Dial)
		}
		return strings.Join(words, " ")
	case "file_server":
		return name + " " + matcher
	}
	return name + " …"
}

// tried returns the file matcher of a route, or nil.
func tried(n *routeNode) *fileserver.MatchFile {
	if all := matchersOf[*fileserver.MatchFile](n); len(all) > 0 {
		return all[0]
	}
	return nil
}

// short replaces placeholders by their short forms in a Caddyfile.
var short = strings.NewReplacer(
	"{http.request.uri.path}", "{path}", "{http.request.uri}", "{uri}", "{http.request.uri.query}", "{query}",
	"{http.request.host}", "{host}", "{http.request.method}", "{method}", "{http.request.scheme}", "{scheme}",
	"{http.matchers.file.relative}", "{file_match.relative}",
)

// directives are the pushit directives that this process adapted last. They belong to the
// configuration that it loads next, because JSON does not say where it comes from.
var directives struct {
	sync.Mutex
	of map[string]Directive // by mount
	by <-chan struct{}      // the Done channel of the configuration that was loaded; nil before
}

// A Directive is a pushit in a Caddyfile. The zero Directive is unknown.
type Directive struct {
	Place  string  // file:line
	Source *Source // the site around it; nil if it is unknown
	Bare   bool    // it gives no path
}

// Note remembers the directive of a mount.
func Note(mount string, d Directive) {
	directives.Lock()
	defer directives.Unlock()
	if directives.of == nil || directives.by != nil {
		directives.of, directives.by = make(map[string]Directive), nil
	}
	directives.of[mount] = d
}

// Noted returns the directive of the endpoint of a mount.
func Noted(ctx caddy.Context, mount string) Directive {
	directives.Lock()
	defer directives.Unlock()
	if directives.by == nil {
		directives.by = ctx.Done()
	}
	if directives.by != ctx.Done() {
		return Directive{}
	}
	return directives.of[mount]
}
