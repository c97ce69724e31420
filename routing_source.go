// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
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

	"github.com/push-it/pushit/internal/explain"
)

// probingOption is the option of the Caddyfile adapter that says that a Caddyfile is
// adapted only to see what stands around a pushit.
const probingOption = "http.handlers.pushit.probing"

// checkPlace finds what is wrong with where the directive stands. A directive is not
// told what else is in the site, so the file is adapted once more, as a whole. Where
// there is no file, or it is not this one, as for a configuration that comes over the
// admin API, the mistakes are found when the handler is provisioned.
func (p *parser) checkPlace() error {
	filename, _ := p.Option("filename").(string)
	if filename == "" || p.Option(probingOption) != nil {
		return nil
	}
	a := p.adaptation()
	if a.whole == nil {
		a.whole = adaptWhole(filename)
	}
	if a.whole.written[p.handler.mount()][""] != place(p.directive) {
		return nil
	}
	for _, server := range a.whole.servers {
		for _, o := range occurrences(routesOf(server), func(h *Handler) bool { return h.mount() == p.handler.mount() }) {
			for _, t := range o.traps() {
				if t.certain {
					return p.errorOf(&t, a.whole)
				}
			}
		}
	}
	return nil
}

func (p *parser) errorOf(t *trap, whole *wholeFile) error {
	at := p.directive
	if namespace, ok := p.seen["namespace"]; ok && t.kind == trapUnset {
		at = namespace
	}
	return errorAt(at, errors.New(t.text(whole.around(p.directive))))
}

// A wholeFile is what a Caddyfile as a whole says.
type wholeFile struct {
	servers map[string]*caddyhttp.Server
	written explain.Places
	blocks  []caddyfile.ServerBlock
}

// adaptWhole adapts a Caddyfile. If something is wrong with it, it has nothing: the
// adaptation that is under way will tell.
func adaptWhole(filename string) *wholeFile {
	body, err := os.ReadFile(filename)
	if err != nil {
		return new(wholeFile)
	}
	whole := &wholeFile{written: make(explain.Places)}
	text, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(body, map[string]any{"filename": filename, explain.PlacesOption: whole.written, probingOption: true})
	if err != nil {
		return new(wholeFile)
	}
	config := unmarshal[caddy.Config](text)
	whole.servers = unmarshal[caddyhttp.App](config.AppsRaw["http"]).Servers
	if whole.blocks, err = caddyfile.Parse(filename, body); err != nil {
		return new(wholeFile)
	}
	return whole
}

// A source is the part of a Caddyfile that is around a pushit. A nil *source is
// unknown.
type source struct {
	lines []sourceLine // of the site
	at    int          // the line of the pushit
}

// A sourceLine is a directive, or a line in the block of one.
type sourceLine struct {
	tokens []caddyfile.Token
	in     []int // the lines whose blocks it is in, from the outside
}

// around returns what is around that directive.
func (f *wholeFile) around(directive caddyfile.Token) *source {
	for _, block := range f.blocks {
		s := &source{}
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

// read adds the lines of a directive and its block.
func (s *source) read(segment caddyfile.Segment) {
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

// directive returns the one directive of the site that has the first of the names of
// which there is any, as it is written, and where.
func (s *source) directive(names []string) (line, where string) {
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

// opener returns the line whose block the pushit is in.
func (s *source) opener() (line, where string) {
	if s == nil || len(s.lines[s.at].in) == 0 {
		return "", ""
	}
	in := s.lines[s.at].in
	l := s.lines[in[len(in)-1]]
	return l.text(), place(l.tokens[0])
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

// reconstructed is a directive as it may be written.
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
		line := name + " " + matcher
		for _, upstream := range unmarshal[struct{ Upstreams []struct{ Dial string } }](h.raw).Upstreams {
			line += " " + upstream.Dial
		}
		return line
	case "file_server":
		return name + " " + matcher
	}
	return name + " …"
}

// tried returns the file matcher of a route, nil if it has none.
func tried(n *routeNode) *fileserver.MatchFile {
	for _, set := range n.sets {
		for _, m := range set {
			if files, ok := m.(*fileserver.MatchFile); ok {
				return files
			}
		}
	}
	return nil
}

// short turns placeholders into what is short for them in a Caddyfile.
var short = strings.NewReplacer(
	"{http.request.uri.path}", "{path}", "{http.request.uri}", "{uri}", "{http.request.uri.query}", "{query}",
	"{http.request.host}", "{host}", "{http.request.method}", "{method}", "{http.request.scheme}", "{scheme}",
	"{http.matchers.file.relative}", "{file_match.relative}",
)

// adaptedDirectives are the directives of the Caddyfile that this process has adapted
// last, for the configuration that it loads next: JSON does not tell where it is from.
var adaptedDirectives struct {
	sync.Mutex
	of map[string]adaptedDirective // by mount
	by <-chan struct{}             // the Done of the configuration that was loaded; nil before
}

type adaptedDirective struct {
	place  string  // empty if that is not known
	source *source // nil likewise
	bare   bool    // no path is written
}

// noteAdapted remembers where the directive of p stands.
func (p *parser) noteAdapted() {
	adaptedDirectives.Lock()
	defer adaptedDirectives.Unlock()
	if adaptedDirectives.of == nil || adaptedDirectives.by != nil {
		adaptedDirectives.of, adaptedDirectives.by = make(map[string]adaptedDirective), nil
	}
	_, inMatcher := p.seen["matcher"]
	_, inBlock := p.seen["path"]
	noted := adaptedDirective{place: place(p.directive), bare: !inMatcher && !inBlock}
	if whole := p.adaptation().whole; whole != nil {
		noted.source = whole.around(p.directive)
	}
	adaptedDirectives.of[p.handler.mount()] = noted
}

// adaptedFrom returns the directive that the handler of a mount comes from.
func adaptedFrom(ctx caddy.Context, mount string) adaptedDirective {
	adaptedDirectives.Lock()
	defer adaptedDirectives.Unlock()
	if adaptedDirectives.by == nil {
		adaptedDirectives.by = ctx.Done()
	}
	if adaptedDirectives.by != ctx.Done() {
		return adaptedDirective{}
	}
	return adaptedDirectives.of[mount]
}
