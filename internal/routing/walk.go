// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// A probe is a request that the client makes. rest is its path below the endpoint.
type probe struct {
	method, rest string
	header       http.Header
}

var (
	probeClient = probe{http.MethodGet, "/pushit.mjs", http.Header{"Accept": {"*/*"}, "Sec-Fetch-Dest": {"script"}, "Sec-Fetch-Mode": {"cors"}}}
	probeInfo   = probe{http.MethodGet, "/info", http.Header{"Accept": {"*/*"}, "Sec-Fetch-Dest": {"empty"}, "Sec-Fetch-Mode": {"cors"}}}
	probeSocket = probe{http.MethodGet, "/websocket", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Fetch-Dest": {"websocket"}, "Sec-Fetch-Mode": {"websocket"}}}
	probeXHR    = probe{http.MethodPost, "/0/session/xhr", http.Header{"Accept": {"*/*"}, "Sec-Fetch-Dest": {"empty"}, "Sec-Fetch-Mode": {"cors"}}}
)

// probePublish is a request of a program that publishes.
var probePublish = probe{http.MethodPost, "/publish", http.Header{"Accept": {"*/*"}}}

// probesOf returns the requests that h must get.
func probesOf(h *Endpoint) []probe {
	if ServesFallbacks(h.Transports) {
		return []probe{probeClient, probeInfo, probeSocket, probeXHR}
	}
	return []probe{probeClient, probeInfo, probeSocket}
}

// An outcome says what happened to a request in a list of routes.
type outcome int

const (
	passes  outcome = iota // it goes on after the list
	reaches                // it has reached the pushit
	ended                  // another handler has answered it
	strays                 // it cannot reach the pushit any more, or has a wrong path or method there
)

// A change is what a handler changed in a request.
type change struct {
	by         *handlerNode
	on         *routeNode
	becomes    string // the change, in words that follow the original path
	keepsAsked bool   // it only stripped what must be stripped
}

// A doubt is a handler that takes the request if the matchers of its route match.
type doubt struct {
	by      *handlerNode
	on      *routeNode // the route whose matchers are in doubt
	becomes string     // as in a change; "" if the handler answers
}

// A walk sends one request through the routes.
type walk struct {
	to             *occurrence
	host           string // "" for any
	asked          string // the path that the client asks for
	want           string // the path that the pushit must see
	method         string
	r              *http.Request
	repl           *caddy.Replacer
	rewritesToFile bool // the current route rewrites to the file that its matcher finds
	groups         map[string]bool

	changes  []change
	by       *handlerNode // the handler that has answered
	byRoute  *routeNode   // its route
	sibling  *routeNode   // byRoute, or the route around it that is in the same list as a route around the pushit
	excluded *routeNode   // a route around the pushit whose matchers exclude the request
	skipped  *routeNode   // a route around the pushit that does not run, because another one of its group did
	doubts   []doubt
	password bool // a handler before the pushit asks for a password
	set      *setters
}

// setters are the placeholders that handlers and matchers before the pushit set.
type setters struct {
	names    map[string]bool
	prefixes []string
	foreign  bool // unknown modules may set any placeholder
}

// newWalk returns a walk with the request p to o. The path of o is base.
func newWalk(o *occurrence, base, host string, p probe) *walk {
	w := &walk{to: o, host: host, asked: strings.TrimSuffix(base, "/") + p.rest, want: o.below(p.rest), method: p.method, groups: make(map[string]bool), set: &setters{names: make(map[string]bool)}}
	w.prepare(RequestTo(host, p.method, w.asked, p.header))
	return w
}

// RequestTo makes a request. An empty host stands for any host.
func RequestTo(host, method, path string, header http.Header) *http.Request {
	if host == "" {
		host = "localhost"
	}
	u := &url.URL{Path: path}
	return &http.Request{
		Method: method, Host: host, URL: u, RequestURI: u.RequestURI(), RemoteAddr: "192.0.2.1:1",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header.Clone(), Body: http.NoBody,
	}
}

func (w *walk) prepare(r *http.Request) {
	w.repl = caddy.NewReplacer()
	w.r = caddyhttp.PrepareRequest(r, w.repl, nil, new(caddyhttp.Server))
}

// run reports whether the request reaches the pushit.
func (w *walk) run() bool { return w.routes(w.to.routes) == reaches }

func (w *walk) routes(list []*routeNode) outcome {
	for _, n := range list {
		leads := w.to.on[n]
		if n.group != "" && w.groups[n.group] {
			if leads {
				w.skipped = n
				return strays
			}
			continue
		}
		w.set.matchers(n)
		switch c := w.match(n); {
		case c == fails:
			w.byRoute = n
			if len(n.handlers) > 0 {
				w.by = n.handlers[0]
			}
			return ended
		case c == no && leads:
			w.excluded = n
			return strays
		case c == no:
			continue
		case c == maybe && !leads:
			w.consider(n)
			continue
		}
		if n.group != "" {
			w.groups[n.group] = true
		}
		for _, h := range n.handlers {
			if result := w.handler(h, n); result != passes {
				if !leads {
					w.sibling = n
				}
				return result
			}
		}
		if n.terminal {
			w.sibling = n
			w.byRoute = n
			if len(n.handlers) > 0 {
				w.by = n.handlers[len(n.handlers)-1]
			}
			return ended
		}
	}
	return passes
}

// consider notes a doubt if a route would take the request. Its matchers may match.
func (w *walk) consider(n *routeNode) {
	alone := *w
	alone.prepare(w.r.Clone(context.Background()))
	alone.changes, alone.doubts, alone.groups = nil, nil, maps.Clone(w.groups)
	for _, h := range n.handlers {
		switch result := alone.handler(h, n); {
		case result == ended && alone.by != nil && len(alone.changes) == 0:
			w.doubts = append(w.doubts, doubt{by: alone.by, on: n})
			return
		case len(alone.changes) > 0:
			w.doubts = append(w.doubts, doubt{by: alone.changes[0].by, on: n, becomes: alone.changes[0].becomes})
			return
		case result != passes:
			return
		}
	}
}

func (w *walk) handler(h *handlerNode, n *routeNode) outcome {
	w.set.handler(h)
	if answers(h) {
		w.by, w.byRoute = h, n
		return ended
	}
	switch h.name {
	case "subroute", "invoke":
		return w.routes(h.routes)
	case "pushit":
		if h != w.to.node && h.mount() != w.to.node.mount() { // one with the same name and path will do
			return passes
		}
		if w.r.URL.Path == w.want && w.r.Method == w.method {
			return reaches
		}
		if h != w.to.node {
			return passes
		}
		return strays
	case "rewrite":
		w.rewrite(h, n)
	case "authentication":
		w.password = w.password || asksForPassword(h)
	}
	return passes
}

// asksForPassword reports whether a login is basic_auth.
func asksForPassword(h *handlerNode) bool {
	if a, ok := h.module.(*caddyauth.Authentication); ok {
		_, basic := a.Providers["http_basic"]
		return basic
	}
	_, basic := unmarshal[caddyauth.Authentication](h.raw).ProvidersRaw["http_basic"]
	return basic
}

func (w *walk) rewrite(h *handlerNode, n *routeNode) {
	rewrites, ok := h.module.(*rewrite.Rewrite)
	if !ok {
		return
	}
	path, method := w.r.URL.Path, w.r.Method
	rewrites.Rewrite(w.r, w.repl)
	switch {
	case w.r.URL.Path != path:
		kept := strings.HasSuffix(path, w.r.URL.Path) && strings.HasSuffix(w.r.URL.Path, w.want)
		w.changes = append(w.changes, change{by: h, on: n, becomes: "becomes " + w.r.URL.Path, keepsAsked: kept})
	case w.r.Method != method:
		w.changes = append(w.changes, change{by: h, on: n, becomes: "is asked for with " + w.r.Method})
	}
}

// diverted returns the first change that led the request away from the pushit, or nil.
func (w *walk) diverted() *change {
	for i := range w.changes {
		if !w.changes[i].keepsAsked {
			return &w.changes[i]
		}
	}
	return nil
}

// answers reports whether a handler answers each request.
func answers(h *handlerNode) bool {
	switch h.name {
	case "static_response", "error", "metrics":
		return true
	case "file_server":
		return !unmarshal[struct {
			PassThru bool `json:"pass_thru"`
		}](h.raw).PassThru
	case "reverse_proxy": // with handle_response, as in forward_auth, the request may go on
		return len(unmarshal[struct {
			HandleResponse []any `json:"handle_response"`
		}](h.raw).HandleResponse) == 0
	}
	return false
}

// handler notes which placeholders h sets.
func (s *setters) handler(h *handlerNode) {
	switch h.name {
	case "vars":
		for name := range unmarshal[map[string]any](h.raw) {
			s.names["http.vars."+name] = true
		}
	case "map":
		for _, name := range unmarshal[struct{ Destinations []string }](h.raw).Destinations {
			s.names[strings.Trim(name, "{}")] = true
		}
	case "authentication":
		s.prefixes = append(s.prefixes, "http.auth.user.")
	case "reverse_proxy":
		s.prefixes = append(s.prefixes, "http.reverse_proxy.")
	default:
		s.foreign = s.foreign || !isOfCaddy(h.name)
	}
}

// matchers notes which placeholders the matchers of n set.
func (s *setters) matchers(n *routeNode) {
	for _, name := range matcherNames(n) {
		switch {
		case strings.HasSuffix(name, "_regexp"):
			s.prefixes = append(s.prefixes, "http.regexp.")
		case name == "file", name == "url_pattern":
			s.prefixes = append(s.prefixes, "http.matchers.", "http.url_pattern.")
		case name == "expression":
			s.prefixes = append(s.prefixes, "http.regexp.", "http.matchers.")
		case !isMatcherOfCaddy(name):
			s.foreign = true
		}
	}
}

func isMatcherOfCaddy(name string) bool {
	return slices.Contains([]string{
		"client_ip", "header", "host", "method", "not", "path", "protocol", "query", "remote_ip", "tls", "vars",
	}, name)
}

// sets reports whether a placeholder may have been set.
func (s *setters) sets(name string) bool {
	return s.foreign || s.names[name] || slices.ContainsFunc(s.prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
