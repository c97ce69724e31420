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

// A servedAt is what can be known, when a handler is provisioned, of where it is
// served.
type servedAt struct {
	// app is Caddy's of HTTP; nil outside of it.
	app *caddyhttp.App
	// server is the handler's; nil outside of one.
	server *caddyhttp.Server
	// routed says that the routes around the handler are known. Those of a named
	// route, which many may invoke, are not.
	routed bool
	// hosts are, for each route around it that is for certain hosts alone, these.
	hosts []caddyhttp.MatchHost
	// inClear says that it has a listener without TLS, exposed that one of these
	// can be reached from other machines.
	inClear, exposed bool
}

// whereServed looks around in the configuration of which ctx provisions a module.
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

// beingProvisioned returns the one of routes whose handlers are being loaded now:
// they are loaded in order, and the raw form goes when that is done. It returns
// nil when there is none.
func beingProvisioned(routes caddyhttp.RouteList) *caddyhttp.Route {
	for i := range routes {
		if routes[i].HandlersRaw != nil {
			return &routes[i]
		}
	}
	return nil
}

// hostsOf returns the hosts that a route is for; nil when it is for any.
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

// lookAtListeners finds out whether there is one without TLS: Caddy speaks none
// on its HTTP port, nor where it has no policy for it.
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

// forThisMachine reports whether only names that lead to the machine itself lead
// to the handler.
func (s *servedAt) forThisMachine() bool {
	return slices.ContainsFunc(s.hosts, func(hosts caddyhttp.MatchHost) bool {
		return !slices.ContainsFunc(hosts, func(host string) bool { return !isLoopback(host) })
	})
}

// place tells people where in the configuration it is.
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

// responseTime is how long a response may last; 0 is no limit. A tenth of what the
// server allows is left for ending it.
func (s *servedAt) responseTime() time.Duration {
	if s.server == nil {
		return 0
	}
	return time.Duration(s.server.WriteTimeout) * 9 / 10
}

// serves reports whether requests like r come to the handler, as far as that
// depends on their host.
func (s *servedAt) serves(r *http.Request) bool {
	for i := range s.hosts {
		if ok, err := s.hosts[i].MatchWithError(r); err != nil || !ok {
			return false
		}
	}
	return true
}

// lookAround finds mistakes in where h stands among other handlers. It returns what
// may be one, and an error about what certainly is.
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

// warn tells the operator what may not be meant as it is written, and what to do
// about it, beginning with doubts of what stands around h. Another server may have
// the same endpoint: each is told once.
func (h *Handler) warn(log *slog.Logger, doubts []string) {
	once := func(about string) bool { return h.use.Once(about) }
	for _, doubt := range doubts {
		if once(doubt) {
			problem, lines, _ := strings.Cut(doubt, ". Write\n\n")
			log.Warn(problem, "to_do", "write\n\n"+lines) //nolint:sloglint // the same text as an error has, one for each mistake
		}
	}
	if h.gates == nil && once("no gate") {
		log.Warn("there is no gate: everybody can subscribe to every channel and publish on it",
			"to_do", "write connect, subscribe and publish in the block of pushit, or write default allow if you want this")
	}
	// A browser tells the page's host by its name. When any name will do, a page
	// of any site whose name leads here passes for one of this site's. Over TLS
	// the certificate would have to name it.
	if h.site.routed && h.site.hosts == nil && h.site.inClear && once("any host") {
		log.Warn("this site accepts any host name, so pages of other sites can pass its origin check",
			"to_do", "write the host names of the site in its address")
	}
	if len(h.SessionCookies) == 0 && h.servesFallbacks() && h.asksElsewhere() && once("session cookies") {
		log.Warn("a fallback session is protected by its name, host, origin and user, but not by a login cookie",
			"to_do", "write session_cookies with the names of your login cookies. Name only cookies whose value stays the same during a login: a cookie that changes with each response would give each request a session of its own")
	}
	if len(h.SessionCookies) > 0 && h.servesFallbacks() && once("renewed cookies") {
		log.Info("a request belongs to a fallback session only if its session_cookies have the values with which the session was opened",
			"cookies", h.SessionCookies,
			"to_do", "make sure that your application does not set one of them again (Set-Cookie) during a login, because each request would then open a session of its own")
	}
	if h.asksWho && h.site.exposed && !h.site.forThisMachine() && once("in the clear") {
		log.Warn("credentials are sent unencrypted, because this site uses plain HTTP",
			"to_do", "serve the site over HTTPS, unless a proxy in front of it does")
	}
}

// asksElsewhere reports whether the connect gate asks outside this process: a
// backend, which most likely knows its users by a cookie.
func (h *Handler) asksElsewhere() bool {
	if h.gates == nil {
		return false
	}
	local, ok := h.gates.Gate(hub.GateConnect, "").(hub.LocalGate)
	return ok && !local.Local()
}

// asksWho reports whether the connect gate wants to know who somebody is, and not
// just where the request comes from.
func asksWho(c guards.PolicyConfig) bool {
	connect := c.Gates[hub.GateConnect]
	return connect != nil && slices.ContainsFunc(connect.Guards, func(g guards.NamedGuard) bool {
		return g.Name != "allow" && g.Name != "deny" && g.Name != "cel"
	})
}
