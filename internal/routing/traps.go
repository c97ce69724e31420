// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/push-it/pushit/guards"
)

// A trapKind is a kind of mistake.
type trapKind int

const (
	trapTaken     trapKind = iota // a handler before the pushit takes its requests
	trapExcluded                  // matchers around the pushit exclude its requests
	trapSkipped                   // another handle block gets its requests
	trapStripped                  // a handler strips the prefix that is in the pushit's path
	trapDefaulted                 // likewise, and the pushit gives no path
	trapUnset                     // no handler before the pushit sets the placeholder of its namespace
)

// A Trap is a mistake that Caddy does not find.
type Trap struct {
	kind    trapKind
	Certain bool // otherwise it depends on the request
	by      *handlerNode
	on      *routeNode
	asks    string // the path of a request that fails
	becomes string // what the request becomes; "" if it is answered
	prefix  string // the prefix that is stripped
	at      string // the address of the pushit because of that
	o       *occurrence
}

// traps returns the mistakes in the routes around o.
func (o *occurrence) traps() (found []Trap) {
	arrived, failed := o.send(o.handler.Path)
	bases := []string{o.handler.Path}
	prefixes, otherwise := o.strips()
	stripped := strings.TrimSuffix(strings.Join(prefixes, ""), "/")
	if stripped != "" && len(arrived) == 0 {
		bases = append(bases, stripped+strings.TrimSuffix(o.handler.Path, "/"))
		arrivedThere, failedThere := o.send(bases[1])
		last := prefixes[len(prefixes)-1]
		if _, doubled := Below(last, o.handler.Path); doubled {
			return append(found, Trap{kind: trapStripped, Certain: true, prefix: last, at: bases[1], o: o})
		}
		arrived, failed = arrivedThere, failedThere
		if o.defaulted && len(arrived) > 0 {
			found = append(found, Trap{kind: trapDefaulted, prefix: stripped, at: bases[1], o: o})
		}
	}
	if len(arrived) == 0 {
		t, ok := o.diagnose(failed[0])
		if !ok || t.kind == trapExcluded && otherwise { // another path may pass the matcher after the change
			return nil
		}
		t.Certain = true
		return append(found, t)
	}
	for _, w := range failed {
		if t, ok := o.diagnose(w); ok && t.kind == trapTaken && !o.isMeant(t.on) && !o.arrivesElsewhere(w, arrived) {
			found = append(found, t)
		}
	}
	for _, w := range arrived {
		for _, d := range w.doubts {
			if !isDeliberate(d) && !o.isMeant(d.on) {
				found = append(found, Trap{kind: trapTaken, by: d.by, on: d.on, asks: w.asked, becomes: d.becomes, o: o})
			}
		}
	}
	if name := strings.Trim(o.handler.Namespace, "{}"); name != "" && !isAlwaysSet(name) && !slices.ContainsFunc(arrived, func(w *walk) bool { return w.set.sets(name) }) {
		found = append(found, Trap{kind: trapUnset, Certain: true, o: o})
	}
	return distinct(found)
}

// send sends all probes to o at base, for each of its hosts.
func (o *occurrence) send(base string) (arrived, failed []*walk) {
	for _, host := range o.hosts() {
		for _, p := range probesOf(&o.handler) {
			if w := newWalk(o, base, host, p); w.run() {
				arrived = append(arrived, w)
			} else {
				failed = append(failed, w)
			}
		}
	}
	return arrived, failed
}

// diagnose says why a request did not arrive.
func (o *occurrence) diagnose(w *walk) (t Trap, ok bool) {
	t = Trap{asks: w.asked, o: o}
	inGroup := w.sibling != nil && w.sibling.group != "" && slices.ContainsFunc(o.around, func(n *routeNode) bool { return n.group == w.sibling.group })
	switch c := w.diverted(); {
	case c != nil:
		t.kind, t.by, t.on, t.becomes = trapTaken, c.by, c.on, c.becomes
	case w.skipped != nil:
		t.kind, t.on = trapSkipped, w.skipped
	case inGroup:
		t.kind, t.on = trapSkipped, w.sibling
	case w.byRoute != nil:
		t.kind, t.by, t.on = trapTaken, w.by, w.byRoute
	case w.excluded != nil:
		t.kind, t.on = trapExcluded, w.excluded
	default:
		return t, false
	}
	return t, t.by != nil || t.kind != trapTaken
}

// isMeant reports whether a route has a matcher for paths of this endpoint.
func (o *occurrence) isMeant(n *routeNode) bool {
	return slices.ContainsFunc(pathsOf(n), func(path string) bool {
		return o.handler.Path != "/" && strings.HasPrefix(strings.ToLower(path), strings.ToLower(o.handler.Path))
	})
}

// arrivesElsewhere reports whether a request that failed for one host arrived for
// another. Then the site treats its hosts differently on purpose.
func (*occurrence) arrivesElsewhere(failed *walk, arrived []*walk) bool {
	return slices.ContainsFunc(arrived, func(w *walk) bool { return w.want == failed.want })
}

// isDeliberate reports whether a doubt is about a rule that is probably meant for pushit
// too: a rule for some of the time (with a file matcher), a redirect for some clients or
// hosts, or any other answer. A rewrite for some clients is never meant, because pushit
// has no other path.
func isDeliberate(d doubt) bool {
	meant := []string{"file"}
	switch {
	case d.by.name == "rewrite":
	case directiveOf(d.by, d.on)[0] == "redir":
		meant = append(meant, "client_ip", "host", "protocol", "remote_ip", "tls")
	default:
		return true
	}
	return slices.ContainsFunc(matcherNames(d.on), func(name string) bool { return slices.Contains(meant, name) })
}

// distinct keeps one trap for each handler: moving the handler helps all requests.
func distinct(traps []Trap) (kept []Trap) {
	for _, t := range traps {
		if !slices.ContainsFunc(kept, func(k Trap) bool { return k.kind == t.kind && k.by == t.by }) {
			kept = append(kept, t)
		}
	}
	return kept
}

// directiveOf returns the directives that a handler may come from, the likeliest first.
func directiveOf(h *handlerNode, n *routeNode) []string {
	switch h.name {
	case "rewrite":
		return rewriteDirective(h, n)
	case "static_response":
		answer := unmarshal[struct {
			Abort   bool                `json:"abort"`
			Headers map[string][]string `json:"headers"`
		}](h.raw)
		switch {
		case answer.Abort:
			return []string{"abort"}
		case answer.Headers["Location"] != nil:
			return []string{"redir"}
		}
		return []string{"respond"}
	case "reverse_proxy":
		if unmarshal[struct {
			Transport struct{ Protocol string } `json:"transport"`
		}](h.raw).Transport.Protocol == "fastcgi" {
			return []string{"php_fastcgi"}
		}
	}
	return []string{h.name}
}

func rewriteDirective(h *handlerNode, n *routeNode) []string {
	rewrites, ok := h.module.(*rewrite.Rewrite)
	if !ok {
		return []string{"rewrite"}
	}
	switch files := tried(n); {
	case files != nil && len(files.SplitPath) > 0:
		return []string{"php_fastcgi", "rewrite"}
	case files != nil && strings.HasPrefix(rewrites.URI, "{http.matchers.file.relative}"):
		return []string{"try_files", "rewrite"}
	case rewrites.URI != "":
		return []string{"rewrite"}
	case rewrites.Method != "":
		return []string{"method"}
	case rewrites.StripPathPrefix != "":
		return []string{"uri", "handle_path"}
	}
	return []string{"uri"}
}

// isAlwaysSet reports whether a placeholder needs no handler that sets it.
func isAlwaysSet(name string) bool {
	need, err := guards.NeedsSnapshot(name)
	switch {
	case strings.HasPrefix(name, "http.reverse_proxy."):
		return false
	case err != nil, strings.HasPrefix(name, "http.request."):
		return true // checkNamespace has checked it
	case !need:
		return !strings.HasPrefix(name, "http.auth.user.")
	}
	return false
}

// IsAboutNamespace reports whether the mistake is the namespace.
func (t *Trap) IsAboutNamespace() bool { return t.kind == trapUnset }

// Text says what is wrong and what to write instead. It quotes the Caddyfile if from is
// not nil.
func (t *Trap) Text(from *Source) string {
	pushit := t.o.written()
	switch t.kind {
	case trapTaken:
		return t.taken(from, pushit)
	case trapSkipped:
		return fmt.Sprintf("another handle block%s gets the requests of this pushit, such as %s. Write\n\n\t%s\n\noutside of handle blocks: it runs before all of them",
			forPaths(t.on), t.asks, pushit)
	case trapStripped:
		return t.doubled(from)
	case trapDefaulted:
		return fmt.Sprintf("%s is stripped from the path before a request comes to this pushit, and the pushit does not say its path, so its address is %s. Write\n\n\tpath /\n\nin the block of pushit to have it at %s, or path %s to keep it where it is",
			t.prefix, t.at, t.prefix, t.o.handler.Path)
	case trapExcluded:
		return t.excluded(from, pushit)
	default:
		return t.unset()
	}
}

// written returns the line that puts the pushit into the site.
func (o *occurrence) written() string {
	for _, h := range o.through {
		if invoke, ok := h.module.(*caddyhttp.Invoke); ok {
			return "invoke " + invoke.Name
		}
		if h.name == "invoke" {
			return "invoke " + unmarshal[caddyhttp.Invoke](h.raw).Name
		}
	}
	return "pushit " + o.handler.Path
}

func (t *Trap) taken(from *Source, pushit string) string {
	names := directiveOf(t.by, t.on)
	line, where := from.directive(names)
	if line == "" {
		line = reconstructed(names[0], t.by, t.on)
	}
	if where != "" {
		where = " at " + where
	}
	takes := "takes the requests of this pushit before it runs: "
	if !t.Certain {
		takes = "may take requests of this pushit before it runs: "
	}
	level, inner := t.o.level(t.by), len(t.o.lists)-1
	lines, why := "route {\n\t\t"+pushit+"\n\t\t"+line+"\n\t}", "in a route, directives run in the order in which they are written"
	switch {
	case level >= 0 && level < inner && t.o.around[inner-1].isBlock(): // the handler is outside of the block around pushit
		lines = fmt.Sprintf("handle %s {\n\t\t%s\n\t}\n\thandle {\n\t\t%s\n\t}", t.o.below("/*"), pushit, line)
		why = "of handle blocks, only one gets a request"
	case level == inner && slices.ContainsFunc(t.o.lists[inner], (*routeNode).isBlock): // a route would run after the handle blocks
		lines = fmt.Sprintf("%s\n\thandle {\n\t\t%s\n\t}", pushit, line)
		why = "pushit runs before handle blocks"
	}
	return fmt.Sprintf("%s%s %s%s %s. Write\n\n\t%s\n\nin place of both, and keep their blocks: %s", names[0], where, takes, t.asks, cmp.Or(t.becomes, "does not arrive"), lines, why)
}

// doubled describes a pushit with a path that begins with a stripped prefix.
func (t *Trap) doubled(from *Source) string {
	problem := fmt.Sprintf("%s is stripped from the path before a request comes to this pushit, so its address is %s", t.prefix, t.at)
	lines := "pushit {\n\t\tpath /\n\t}"
	if opener := from.opener(); from == nil || strings.HasPrefix(opener, "handle_path ") {
		lines = fmt.Sprintf("handle_path %s/* {\n\t\tpushit {\n\t\t\tpath /\n\t\t}\n\t}", t.prefix)
	}
	return fmt.Sprintf("%s. Write\n\n\t%s\n\nto have it at %s", problem, lines, t.prefix)
}

// excluded describes a pushit whose requests are excluded by the block around it, or by
// its own matcher.
func (t *Trap) excluded(from *Source, pushit string) string {
	h := &t.o.handler
	paths := pathsOf(t.on)
	if len(paths) == 0 {
		return fmt.Sprintf("the matchers around this pushit exclude all of its requests, such as %s: write pushit outside of the block, or another matcher", t.asks)
	}
	problem := fmt.Sprintf("only requests for %s come to this pushit, which is at %s, so %s never arrives", strings.Join(paths, " "), h.Path, t.asks)
	itself := slices.ContainsFunc(paths, func(path string) bool { return strings.EqualFold(strings.TrimRight(path, "/"), h.Path) })
	if itself {
		problem = fmt.Sprintf("only requests for %s itself come to this pushit, and none for paths below it, such as %s", h.Path, t.asks)
	}
	opener := from.opener()
	word, arguments, _ := strings.Cut(opener, " ")
	place := opener
	if opener == "" {
		word, place = "handle", "the block around it"
	}
	mount, everything := TrimWildcard(paths[0]), t.o.below("/*")
	if itself || CheckPath(mount) != nil {
		mount = h.Path
	}
	var lines string
	switch own := t.on == t.o.around[len(t.o.around)-1]; {
	case own:
		lines, place = "path "+everything, "the paths in the matcher of pushit"
	case strings.HasPrefix(arguments, "@"):
		lines, place = "path "+everything, "the paths in the matcher "+arguments
	case word == "handle_path":
		lines = fmt.Sprintf("handle_path %s/* {\n\t\tpushit {\n\t\t\tpath /\n\t\t}\n\t}", strings.TrimSuffix(TrimWildcard(paths[0]), "/"))
	case !itself && strings.HasSuffix(paths[0], "*"):
		lines, place = "pushit "+mount, pushit
	default:
		lines = fmt.Sprintf("%s %s/* {\n\t\tpushit %s\n\t}", word, strings.TrimSuffix(mount, "/"), mount)
	}
	return fmt.Sprintf("%s. Write\n\n\t%s\n\nin place of %s", problem, lines, place)
}

func forPaths(n *routeNode) string {
	if paths := pathsOf(n); len(paths) > 0 {
		return ", for " + strings.Join(paths, " ") + ","
	}
	return ""
}

// unset describes how to set the placeholder of the namespace.
func (t *Trap) unset() string {
	name := strings.Trim(t.o.handler.Namespace, "{}")
	problem := fmt.Sprintf("nothing before this pushit sets the placeholder of its namespace, {%s}, so it would refuse every session. ", name)
	if variable, ok := strings.CutPrefix(name, "http.vars."); ok {
		return problem + fmt.Sprintf("Write\n\n\tvars %s {labels.2}\n\nin the site; in a route, write it before pushit. Replace {labels.2} if something else tells your tenants apart", variable)
	}
	if strings.HasPrefix(name, "http.auth.user.") {
		return problem + "Write basic_auth, or another login, in the site; in a route, write it before pushit"
	}
	if strings.HasPrefix(name, "http.reverse_proxy.") {
		return problem + "A proxy sets it only after its own request: write a placeholder of the request, such as namespace {labels.2}"
	}
	if strings.HasPrefix(name, "http.") {
		return problem + "A matcher sets it for the requests that it matches: write pushit with that matcher, or namespace {labels.2}"
	}
	return problem + fmt.Sprintf("Write\n\n\tmap {host} {%s} {\n\t\tacme.example.com acme\n\t}\n\nin the site, with your tenants; in a route, write it before pushit. Caddy's own placeholders look like {labels.2}", name)
}
