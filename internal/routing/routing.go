// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package routing finds handlers around a pushit that take its requests. Caddy does not
// report them: a try_files may turn /push/pushit.mjs into /index.html, for example. The
// package makes a model of the routes, and sends requests like those of the client
// through it. Whether a matcher matches may be unknown. Then the package assumes that it
// does not, and notes a doubt.
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

// An Endpoint has the settings of a pushit that matter for routes. Its fields are part of
// the handler's JSON.
type Endpoint struct {
	Name       string   `json:"name"`
	Path       string   `json:"path"`
	Namespace  string   `json:"namespace"`
	Transports []string `json:"transports"`
}

// mount identifies an endpoint across configurations.
func (e *Endpoint) mount() string { return e.Name + " " + cmp.Or(e.Path, DefaultPath) }

// ServesFallbacks reports whether an endpoint with these transports gets other requests than
// those for a WebSocket. nil stands for the default transports.
func ServesFallbacks(transports []string) bool {
	return transports == nil || slices.ContainsFunc(transports, func(name string) bool { return name != "websocket" })
}

// Check returns the mistakes in how a server routes requests to an endpoint. mount is the
// endpoint's name and path with a space between. defaulted means that the Caddyfile does
// not give the path.
func Check(server *caddyhttp.Server, mount string, defaulted bool) (all []Trap) {
	for _, o := range occurrences(routesOf(server), mount) {
		o.defaulted = defaulted
		all = append(all, o.traps()...)
	}
	return all
}

// PasswordAt returns the path at which programs publish, if a basic_auth asks them for a
// password before they come to the endpoint. mount is as for Check.
func PasswordAt(server *caddyhttp.Server, mount string) (path string) {
	for _, o := range occurrences(routesOf(server), mount) {
		prefixes, _ := o.strips()
		stripped := strings.TrimSuffix(strings.Join(prefixes, ""), "/")
		for _, base := range []string{o.handler.Path, stripped + strings.TrimSuffix(o.handler.Path, "/")} {
			for _, host := range o.hosts() {
				if w := newWalk(o, base, host, probePublish); w.run() && w.password {
					return w.asked
				}
			}
		}
	}
	return ""
}

// A routeNode is a route in the model. The tree of a server has the routes of subroutes
// and named routes in the places where they run.
type routeNode struct {
	sets     [][]any // all matchers of one set must match; no set matches everything
	group    string
	terminal bool
	handlers []*handlerNode
}

// A handlerNode is a handler in the model.
type handlerNode struct {
	name   string          // of the module, without its namespace
	module any             // set only if the model runs it
	raw    json.RawMessage // its configuration, if the model needs it
	routes []*routeNode    // of a subroute, or of the invoked named route
}

// A treeBuilder makes the model of a server's routes. Caddy may have provisioned all,
// some or none of them. Caddy clears the JSON of a module when it provisions it.
type treeBuilder struct {
	ctx      caddy.Context
	named    map[string]*caddyhttp.Route
	invoking []string // the named routes around the current one
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
		n.handlers = append(n.handlers, b.unprovisioned(raw))
	}
	return n
}

// provisioned returns the model of a handler that Caddy has provisioned.
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

// unprovisioned returns the model of a handler in JSON.
func (b *treeBuilder) unprovisioned(raw json.RawMessage) *handlerNode {
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

// invoked returns the routes of a named route.
func (b *treeBuilder) invoked(name string) []*routeNode {
	route := b.named[name]
	if route == nil || slices.Contains(b.invoking, name) {
		return nil
	}
	b.invoking = append(b.invoking, name)
	defer func() { b.invoking = b.invoking[:len(b.invoking)-1] }()
	return []*routeNode{b.route(route)}
}

// sets returns the matchers of a route. It uses loaded if Caddy has provisioned the
// route, and raw otherwise.
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

// An unknownMatcher is a matcher that the model cannot run.
type unknownMatcher struct{ name string }

// A negation is Caddy's not matcher: it matches if no set matches.
type negation [][]any

// matcher makes a matcher from JSON. It is provisioned if the model runs it.
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

// handlersOfCaddy are the handlers that come with Caddy. Other handlers may answer, and
// may set placeholders: the model does not know.
var handlersOfCaddy = []string{
	"acme_server", "authentication", "copy_response", "copy_response_headers", "encode", "error", "file_server", "headers",
	"intercept", "invoke", "log_append", "map", "metrics", "push", "pushit", "request_body", "reverse_proxy", "rewrite",
	"static_response", "subroute", "templates", "timeouts", "tracing", "vars",
}

func isOfCaddy(handler string) bool { return slices.Contains(handlersOfCaddy, handler) }

// mount returns the mount of a pushit.
func (n *handlerNode) mount() string {
	e := unmarshal[Endpoint](n.raw)
	return e.mount()
}

// An occurrence is a pushit in the model. In a named route it occurs once for each
// invoke.
type occurrence struct {
	handler   Endpoint
	defaulted bool // the Caddyfile does not give its path
	node      *handlerNode
	routes    []*routeNode     // of the server
	around    []*routeNode     // the routes that lead to it, the outermost first
	through   []*handlerNode   // the handlers in around that lead to it
	lists     [][]*routeNode   // the lists that contain the routes of around
	on        map[any]bool     // these routes and handlers, as a set
	before    [][]*handlerNode // for each of around: the handlers before it in its list
}

// occurrences returns the occurrences of a mount in the routes.
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

// below returns the path of the endpoint with rest appended.
func (o *occurrence) below(rest string) string {
	return strings.TrimSuffix(o.handler.Path, "/") + rest
}

// level returns the index in before of the list that has the handler, or a block with it;
// 0 is the outermost. It returns -1 if no list has it.
func (o *occurrence) level(h *handlerNode) int {
	return slices.IndexFunc(o.before, func(list []*handlerNode) bool {
		return slices.ContainsFunc(list, func(in *handlerNode) bool { return in.has(h) })
	})
}

// has reports whether h is n, or is inside n.
func (n *handlerNode) has(h *handlerNode) bool {
	return n == h || slices.ContainsFunc(n.routes, func(r *routeNode) bool {
		return slices.ContainsFunc(r.handlers, func(in *handlerNode) bool { return in.has(h) })
	})
}

// isBlock reports whether a route is a handle block.
func (n *routeNode) isBlock() bool {
	return slices.ContainsFunc(n.handlers, func(h *handlerNode) bool { return h.name == "subroute" }) && (n.group != "" || len(n.sets) > 0)
}

// hosts returns the hosts in the matchers around o, or "" if they allow any host. For
// each wildcard it returns one host that matches.
func (o *occurrence) hosts() []string {
	var all []string
	for _, n := range o.around {
		for _, m := range matchersOf[*caddyhttp.MatchHost](n) {
			for _, host := range *m {
				if strings.Contains(host, "{") {
					host = ""
				}
				all = append(all, strings.ReplaceAll(host, "*", "any"))
			}
		}
	}
	if len(all) == 0 || slices.Contains(all, "") {
		return []string{""}
	}
	slices.Sort(all)
	all = slices.DeleteFunc(slices.Compact(all), func(host string) bool {
		return slices.ContainsFunc(o.around, func(n *routeNode) bool { return !isForHost(n, host) })
	})
	return all[:min(len(all), maxHosts)]
}

// maxHosts bounds how many hosts of a site are checked.
const maxHosts = 32

// isForHost reports whether a route is for that host, or for any.
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

// strips returns the prefixes that handlers before o strip, the outermost first, and
// whether handlers change the path in other ways.
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
