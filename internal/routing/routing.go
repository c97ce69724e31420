// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package routing finds what stands before a pushit and takes its requests without anybody
// noticing: Caddy finds nothing wrong with a try_files that makes /index.html of
// /push/pushit.mjs. So requests like those of the client are sent through a model of the
// routes, and it is seen whether they arrive. Where the configuration does not tell
// whether a matcher matches, they are taken to pass it by, with a doubt.
package routing

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// An Endpoint is what a pushit says of itself, as far as routes are concerned. It is part
// of the JSON of the handler.
type Endpoint struct {
	Name       string   `json:"name"`
	Path       string   `json:"path"`
	Namespace  string   `json:"namespace"`
	Transports []string `json:"transports"`
}

// mount names an endpoint over all configurations.
func (e *Endpoint) mount() string { return e.Name + " " + cmp.Or(e.Path, DefaultPath) }

// servesFallbacks reports whether clients make requests other than for a WebSocket.
func (e *Endpoint) servesFallbacks() bool {
	return e.Transports == nil || slices.ContainsFunc(e.Transports, func(name string) bool { return name != "websocket" })
}

// Check returns what is wrong with where the endpoint of a mount, its name and path with
// a space between, stands on a server. defaulted says that the Caddyfile is known not to
// have its path.
func Check(server *caddyhttp.Server, mount string, defaulted bool) (all []Trap) {
	for _, o := range occurrences(routesOf(server), mount) {
		o.defaulted = defaulted
		all = append(all, o.traps()...)
	}
	return all
}

// A routeNode is a route in the model. Its tree has the routes of a server, with
// those of subroutes and of named routes in their places.
type routeNode struct {
	sets     [][]any // matchers, all of one set must match; no set matches everything
	group    string
	terminal bool
	handlers []*handlerNode
}

// A handlerNode is a handler in the model.
type handlerNode struct {
	name   string          // of the module, without its namespace
	module any             // only of those that the model runs
	raw    json.RawMessage // what it is configured with, if that is of interest
	routes []*routeNode    // of a subroute, or of the named route that is invoked
}

// A treeBuilder makes the model of the routes of a server. They may be provisioned,
// or not yet, or some of them: what has been loaded is no longer there as JSON.
type treeBuilder struct {
	ctx      caddy.Context
	named    map[string]*caddyhttp.Route
	invoking []string // the named routes that are around
}

// routesOf returns the model of a server.
func routesOf(server *caddyhttp.Server) []*routeNode {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	b := treeBuilder{ctx: ctx, named: server.NamedRoutes}
	return b.routes(server.Routes)
}

func (b *treeBuilder) routes(list caddyhttp.RouteList) []*routeNode {
	nodes := make([]*routeNode, len(list))
	for i := range list {
		nodes[i] = b.route(&list[i])
	}
	return nodes
}

func (b *treeBuilder) route(r *caddyhttp.Route) *routeNode {
	n := &routeNode{group: r.Group, terminal: r.Terminal, sets: b.sets(r.MatcherSets, r.MatcherSetsRaw)}
	if r.HandlersRaw == nil {
		for _, h := range r.Handlers {
			n.handlers = append(n.handlers, b.provisioned(h))
		}
		return n
	}
	for _, raw := range r.HandlersRaw {
		n.handlers = append(n.handlers, b.written(raw))
	}
	return n
}

// provisioned is the model of a handler that has been loaded.
func (b *treeBuilder) provisioned(h caddyhttp.MiddlewareHandler) *handlerNode {
	n := &handlerNode{module: h}
	if m, ok := h.(caddy.Module); ok {
		n.name = m.CaddyModule().ID.Name()
	}
	switch h := h.(type) {
	case *caddyhttp.Subroute:
		n.routes = b.routes(h.Routes)
	case *caddyhttp.Invoke:
		n.routes = b.invoked(h.Name)
	default:
		if raw, err := json.Marshal(h); err == nil && isOfCaddy(n.name) {
			n.raw = raw
		}
	}
	return n
}

// written is the model of a handler that is JSON.
func (b *treeBuilder) written(raw json.RawMessage) *handlerNode {
	var inline struct{ Handler, Name string }
	if json.Unmarshal(raw, &inline) != nil {
		return new(handlerNode)
	}
	n := &handlerNode{name: inline.Handler, raw: raw}
	switch inline.Handler {
	case "subroute":
		var s caddyhttp.Subroute
		if json.Unmarshal(raw, &s) == nil {
			n.routes = b.routes(s.Routes)
		}
	case "invoke":
		n.routes = b.invoked(inline.Name)
	case "rewrite":
		rewrites := new(rewrite.Rewrite)
		if json.Unmarshal(raw, rewrites) == nil && rewrites.Provision(b.ctx) == nil {
			n.module = rewrites
		}
	}
	return n
}

// invoked returns what the named route of that name consists of.
func (b *treeBuilder) invoked(name string) []*routeNode {
	route := b.named[name]
	if route == nil || slices.Contains(b.invoking, name) {
		return nil
	}
	b.invoking = append(b.invoking, name)
	defer func() { b.invoking = b.invoking[:len(b.invoking)-1] }()
	return []*routeNode{b.route(route)}
}

// sets returns the matchers of a route: those that are loaded, else those that are
// JSON.
func (b *treeBuilder) sets(loaded caddyhttp.MatcherSets, raw caddyhttp.RawMatcherSets) (sets [][]any) {
	for _, set := range loaded {
		sets = append(sets, set)
	}
	if loaded != nil {
		return sets
	}
	for _, set := range raw {
		var matchers []any
		for name, raw := range set {
			matchers = append(matchers, b.matcher(name, raw))
		}
		sets = append(sets, matchers)
	}
	return sets
}

// An unknownMatcher is one of which nothing can be told.
type unknownMatcher struct{ name string }

// A negation is Caddy's not matcher: none of the sets must match.
type negation [][]any

// matcher makes a matcher of its JSON. It is ready to run if the model runs it.
func (b *treeBuilder) matcher(name string, raw json.RawMessage) any {
	info, err := caddy.GetModule("http.matchers." + name)
	if err != nil {
		return unknownMatcher{name}
	}
	m := info.New()
	if json.Unmarshal(raw, m) != nil {
		return unknownMatcher{name}
	}
	switch m := m.(type) {
	case *caddyhttp.MatchNot:
		return negation(b.sets(nil, m.MatcherSetsRaw))
	case *caddyhttp.MatchPath, *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod, *caddyhttp.MatchHost, *caddyhttp.MatchExpression:
		if m.(caddy.Provisioner).Provision(b.ctx) != nil { //nolint:forcetypeassert // each of these is one
			return unknownMatcher{name}
		}
	}
	return m
}

// handlersOfCaddy are the handlers that come with Caddy. Of others nothing is known:
// they may answer, and may set placeholders.
var handlersOfCaddy = []string{
	"acme_server", "authentication", "copy_response", "copy_response_headers", "encode", "error", "file_server", "headers",
	"intercept", "invoke", "log_append", "map", "metrics", "push", "pushit", "request_body", "reverse_proxy", "rewrite",
	"static_response", "subroute", "templates", "timeouts", "tracing", "vars",
}

func isOfCaddy(handler string) bool { return slices.Contains(handlersOfCaddy, handler) }

// mount is that of a pushit.
func (n *handlerNode) mount() string {
	e := unmarshal[Endpoint](n.raw)
	return e.mount()
}

// An occurrence is a pushit in the model. A named route has one for each invoke.
type occurrence struct {
	handler   Endpoint
	defaulted bool // it is known that its path was not written
	node      *handlerNode
	routes    []*routeNode     // of the server
	around    []*routeNode     // the routes that lead to it, from the outside
	through   []*handlerNode   // the handlers in them that do
	lists     [][]*routeNode   // the lists that they are in
	on        map[any]bool     // these routes and handlers
	before    [][]*handlerNode // for each of around: what stands before in the same list
}

// occurrences returns the pushits of a mount in the routes.
func occurrences(routes []*routeNode, mount string) (found []*occurrence) {
	var visit func(list []*routeNode, o occurrence)
	visit = func(list []*routeNode, o occurrence) {
		var before []*handlerNode
		for _, n := range list {
			for _, h := range n.handlers {
				in := occurrence{
					routes: routes, node: h,
					around:  append(slices.Clip(o.around), n),
					through: append(slices.Clip(o.through), h),
					lists:   append(slices.Clip(o.lists), list),
					before:  append(slices.Clip(o.before), slices.Clone(before)),
				}
				if h.name == "pushit" && h.raw != nil && json.Unmarshal(h.raw, &in.handler) == nil {
					in.handler.Path = cmp.Or(in.handler.Path, DefaultPath)
					if in.handler.mount() == mount {
						in.on = map[any]bool{h: true}
						for _, r := range in.around {
							in.on[r] = true
						}
						found = append(found, &in)
					}
				}
				visit(h.routes, in)
				before = append(before, h)
			}
		}
	}
	visit(routes, occurrence{})
	return found
}

// below returns the path of a request to o that is rest below where o is.
func (o *occurrence) below(rest string) string {
	return strings.TrimSuffix(o.handler.Path, "/") + rest
}

// level returns how deep in the blocks around o a handler stands, 0 for the outermost;
// -1 if it stands elsewhere.
func (o *occurrence) level(h *handlerNode) int {
	return slices.IndexFunc(o.before, func(list []*handlerNode) bool {
		return slices.ContainsFunc(list, func(in *handlerNode) bool { return in.has(h) })
	})
}

// has reports whether h is n or in it.
func (n *handlerNode) has(h *handlerNode) bool {
	return n == h || slices.ContainsFunc(n.routes, func(r *routeNode) bool {
		return slices.ContainsFunc(r.handlers, func(in *handlerNode) bool { return in.has(h) })
	})
}

// isBlock reports whether a route is a handle block.
func (n *routeNode) isBlock() bool {
	return slices.ContainsFunc(n.handlers, func(h *handlerNode) bool { return h.name == "subroute" }) && (n.group != "" || len(n.sets) > 0)
}

// hosts returns the hosts that the routes around are for, "" if they are for any.
// For each wildcard there is one host that it matches.
func (o *occurrence) hosts() []string {
	var all []string
	eachHostMatcher(o.around, func(hosts caddyhttp.MatchHost) {
		for _, host := range hosts {
			if strings.Contains(host, "{") {
				host = ""
			}
			all = append(all, strings.ReplaceAll(host, "*", "any"))
		}
	})
	if len(all) == 0 || slices.Contains(all, "") {
		return []string{""}
	}
	slices.Sort(all)
	all = slices.DeleteFunc(slices.Compact(all), func(host string) bool {
		return slices.ContainsFunc(o.around, func(n *routeNode) bool { return !isForHost(n, host) })
	})
	return all[:min(len(all), maxHosts)]
}

// maxHosts bounds how many hosts of a site are tried.
const maxHosts = 32

func eachHostMatcher(routes []*routeNode, f func(caddyhttp.MatchHost)) {
	for _, n := range routes {
		for _, set := range n.sets {
			for _, m := range set {
				if hosts, ok := m.(*caddyhttp.MatchHost); ok {
					f(*hosts)
				}
			}
		}
	}
}

// isForHost reports whether one of the sets of a route is for that host, or any.
func isForHost(n *routeNode, host string) bool {
	w := walk{host: host}
	w.prepare(RequestTo(host, http.MethodGet, "/", http.Header{}))
	return len(n.sets) == 0 || slices.ContainsFunc(n.sets, func(set []any) bool {
		return !slices.ContainsFunc(set, func(m any) bool {
			_, isHost := m.(*caddyhttp.MatchHost)
			return isHost && w.matcher(m) == no
		})
	})
}

// strips returns the prefixes that are stripped on the way, from the outside, and
// whether the path is changed otherwise too.
func (o *occurrence) strips() (prefixes []string, otherwise bool) {
	for _, list := range o.before {
		for _, h := range list {
			rewrites, ok := h.module.(*rewrite.Rewrite)
			switch {
			case !ok:
			case rewrites.StripPathPrefix != "" && !strings.Contains(rewrites.StripPathPrefix, "{"):
				prefixes = append(prefixes, TrimWildcard("/"+strings.Trim(rewrites.StripPathPrefix, "/")))
			default:
				otherwise = true
			}
		}
	}
	return prefixes, otherwise
}
