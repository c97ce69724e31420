// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/routing"
)

// A servedAt says where a handler is served, as far as it is known when the handler is
// provisioned.
type servedAt struct {
	// app is Caddy's HTTP app; nil outside of it.
	app *caddyhttp.App
	// server is the handler's server; nil outside of one.
	server *caddyhttp.Server
	// routed means that the routes around the handler are known. They are unknown in a
	// named route, because many routes may invoke it.
	routed bool
	// hosts has the hosts of each route around the handler that is limited to hosts.
	hosts []caddyhttp.MatchHost
	// inClear means that the server has a listener without TLS. exposed means that other
	// machines can reach such a listener.
	inClear, exposed bool
}

// whereServed looks at the configuration around the module that ctx provisions.
func whereServed(ctx caddy.Context) (s servedAt) {
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil {
		return s
	}
	s.server = srv
	around := []caddyhttp.RouteList{srv.Routes}
	httpPort := caddyhttp.DefaultHTTPPort
	for _, m := range ctx.Modules() {
		switch m := m.(type) {
		case *caddyhttp.App:
			s.app = m
			if m.HTTPPort != 0 {
				httpPort = m.HTTPPort
			}
		case *caddyhttp.Subroute:
			around = append(around, m.Routes)
		}
	}
	s.lookAtListeners(httpPort)
	for i, routes := range around {
		route := beingProvisioned(routes)
		if route == nil && i == 0 {
			return s
		}
		if route != nil {
			if hosts := hostsOf(route); hosts != nil {
				s.hosts = append(s.hosts, hosts)
			}
		}
	}
	s.routed = true
	return s
}

// beingProvisioned returns the route whose handlers are being loaded, or nil. Caddy loads
// them in order, and clears a route's raw handlers afterwards.
func beingProvisioned(routes caddyhttp.RouteList) *caddyhttp.Route {
	for i := range routes {
		if routes[i].HandlersRaw != nil {
			return &routes[i]
		}
	}
	return nil
}

// hostsOf returns the hosts that a route is limited to, or nil if it accepts any host.
func hostsOf(route *caddyhttp.Route) (hosts caddyhttp.MatchHost) {
	for _, set := range route.MatcherSets {
		var of caddyhttp.MatchHost
		for _, m := range set {
			if host, ok := m.(*caddyhttp.MatchHost); ok {
				of = append(of, *host...)
			}
		}
		if of == nil {
			return nil
		}
		hosts = append(hosts, of...)
	}
	return hosts
}

// lookAtListeners looks for listeners without TLS. Caddy uses no TLS on its HTTP port,
// nor on servers without a TLS policy.
func (s *servedAt) lookAtListeners(httpPort int) {
	for _, listen := range s.server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() {
			continue
		}
		if len(s.server.TLSConnPolicies) > 0 && int(addr.StartPort) != httpPort {
			continue
		}
		s.inClear = true
		s.exposed = s.exposed || !isLoopback(addr.Host)
	}
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// forThisMachine reports whether the handler's site has only names of the machine itself,
// such as localhost.
func (s *servedAt) forThisMachine() bool {
	return slices.ContainsFunc(s.hosts, func(hosts caddyhttp.MatchHost) bool {
		return !slices.ContainsFunc(hosts, func(host string) bool { return !isLoopback(host) })
	})
}

// place describes where in the configuration the handler is.
func (s *servedAt) place() string {
	switch {
	case s.server == nil:
		return "no server"
	case !s.routed:
		return "a named route of the server " + s.server.Name()
	}
	place := []string{"the server " + s.server.Name()}
	for _, hosts := range s.hosts {
		place = append(place, strings.Join(hosts, ", "))
	}
	return strings.Join(place, " for ")
}

// responseTime returns how long a response may last; 0 means no limit.
func (s *servedAt) responseTime() time.Duration {
	if s.server == nil {
		return 0
	}
	return responseTime(time.Duration(s.server.WriteTimeout))
}

// responseTime returns when a response has to end on a server with that limit. A tenth of
// the limit is left for ending it, but at least a second, or half of the limit: a busy
// server is late by more than a tenth of a short limit.
func responseTime(limit time.Duration) time.Duration {
	return limit - max(limit/10, min(time.Second, limit/2))
}

// keepsHTTP3 reports whether requests over HTTP/3 go on after a reload for as long as they
// want. Caddy cuts them at the end of its grace period, if there is one.
func (s *servedAt) keepsHTTP3() bool { return s.app != nil && s.app.GracePeriod <= 0 }

// serves reports whether the handler gets requests with the host of r.
func (s *servedAt) serves(r *http.Request) bool {
	for i := range s.hosts {
		if ok, err := s.hosts[i].MatchWithError(r); err != nil || !ok {
			return false
		}
	}
	return true
}

// lookAround finds mistakes in the routes around h. It returns doubts about what may be a
// mistake, and an error about what certainly is one.
func (h *Handler) lookAround(ctx caddy.Context) (doubts []string, err error) {
	from := routing.Noted(ctx, h.mount())
	if h.site.server == nil {
		return nil, nil
	}
	where := h.site.place()
	if from.Place != "" {
		where = from.Place + ", " + where
	}
	for _, t := range routing.Check(h.site.server, h.mount(), from.Bare) {
		text := t.Text(from.Source)
		if t.Certain {
			return nil, fmt.Errorf("pushit %s (%s): %s", h.Path, where, text)
		}
		doubts = append(doubts, fmt.Sprintf("pushit %s (%s): %s", h.Path, where, text))
	}
	return doubts, nil
}

// warn tells the operator what may be a mistake, and what to do about it. It begins with
// doubts about the routes around h. It gives each warning once, even if several servers
// have the endpoint.
func (h *Handler) warn(log *slog.Logger, doubts []string) {
	once := func(about string) bool { return h.use.Once(about) }
	for _, doubt := range doubts {
		if once(doubt) {
			problem, lines, _ := strings.Cut(doubt, ". Write\n\n")
			log.Warn(problem, "to_do", "write\n\n"+lines) //nolint:sloglint // each mistake has a text of its own, which is also an error's
		}
	}
	if h.gates == nil && once("no gate") {
		log.Warn("there is no gate: everybody can subscribe to every channel and publish on it",
			"to_do", "write connect, subscribe and publish in the block of pushit, or write default allow if you want this")
	}
	// A browser names the page's host in the request. If the site accepts any host, a
	// page of another site passes as one of this site's if its name leads here. With TLS,
	// the certificate must have the name, which prevents this.
	if h.site.routed && h.site.hosts == nil && h.site.inClear && once("any host") {
		log.Warn("this site accepts any host name, so pages of other sites can pass its origin check",
			"to_do", "write the host names of the site in its address")
	}
	if h.asks.token && h.site.server != nil {
		if path := routing.PasswordAt(h.site.server, h.mount()); path != "" && once("password "+path) {
			log.Warn("basic_auth asks programs that publish for a password, so the api gate never gets their bearer token: both are in the field Authorization",
				"to_do", fmt.Sprintf("leave their address out of the login: write\n\n\t@people not path %s\n\tbasic_auth @people {\n\nin place of basic_auth {", path))
		}
	}
	if len(h.SessionCookies) == 0 && routing.ServesFallbacks(h.Transports) && h.asksElsewhere() && once("session cookies") {
		log.Warn("a fallback session is protected by its name, host, origin and user, but not by a login cookie",
			"to_do", "write session_cookies with the names of your login cookies. Name only cookies whose value stays the same during a login: a cookie that changes with each response would give each request a session of its own")
	}
	if len(h.SessionCookies) > 0 && routing.ServesFallbacks(h.Transports) && once("renewed cookies") {
		log.Info("a request belongs to a fallback session only if its session_cookies have the values with which the session was opened",
			"cookies", h.SessionCookies,
			"to_do", "make sure that your application does not set one of them again (Set-Cookie) during a login, because each request would then open a session of its own")
	}
	if h.asks.who && h.site.exposed && !h.site.forThisMachine() && once("in the clear") {
		log.Warn("credentials are sent unencrypted, because this site uses plain HTTP",
			"to_do", "serve the site over HTTPS, unless a proxy in front of it does")
	}
}

// asksElsewhere reports whether the connect gate asks a backend. A backend usually knows
// its users by a cookie.
func (h *Handler) asksElsewhere() bool {
	if h.gates == nil {
		return false
	}
	local, ok := h.gates.Gate(hub.GateConnect, "").(hub.LocalGate)
	return ok && !local.Local()
}

// An asked says what gates ask for.
type asked struct {
	who   bool // connect asks for credentials, and does not only look at where the request comes from
	token bool // api asks for a bearer token, which is in the field Authorization
}

func whatGatesAsk(c guards.PolicyConfig) (a asked) {
	if connect := c.Gates[hub.GateConnect]; connect != nil {
		a.who = slices.ContainsFunc(connect.Guards, func(g guards.NamedGuard) bool {
			return g.Name != "allow" && g.Name != "deny" && g.Name != "cel"
		})
	}
	if api := c.Gates[hub.GateAPI]; api != nil {
		a.token = slices.ContainsFunc(api.Guards, func(g guards.NamedGuard) bool { return g.Name == "bearer" })
	}
	return a
}
