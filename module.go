// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/push-it/pushit/client"
	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/routing"
	"github.com/push-it/pushit/internal/statuspage"
	"github.com/push-it/pushit/internal/telemetry"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler adds publish/subscribe to a site: browsers open a WebSocket below its
// path, subscribe to channels and publish on them. Requests below its path that are
// not for pushit go to the next handler.
//
// Gates decide who may do this. Without gates, everybody may do everything.
//
// Connected endpoints are called agents. They stay connected when the configuration
// is reloaded, if the new configuration has an endpoint with the same name and path,
// and its gates allow it. Gates that have changed are asked again about each agent
// and each of its subscriptions.
//
// It has more than 25 fields because each option of the configuration is one.
type Handler struct {
	// The hub that this endpoint belongs to. Required. Endpoints with the same name share
	// their agents and channels, also on different sites. Others share nothing. Letters,
	// digits and - _ . , at most 64. The Caddyfile writes `default` here if it has no
	// name.
	Name string `json:"name,omitempty"`

	// The path of the endpoint, which includes everything below it. The handler
	// compares it with the path of the request that it gets. So after a handler that
	// strips the prefix, the path is `/`. It is case-sensitive. Default: `/push`.
	Path string `json:"path,omitempty"`

	// Further origins whose pages may use the endpoint, such as
	// `https://app.example.com`. Default: only pages with the endpoint's own scheme,
	// host and port, as trusted proxies report them.
	Origins []string `json:"origins,omitempty"`

	// The transports: `websocket`, and SockJS's fallbacks for pages that cannot use
	// WebSocket: `xhr_streaming`, `xhr` (polling), `eventsource`, `htmlfile`, `jsonp`.
	// `htmlfile` and `jsonp` are for browsers from before 2012. `sse` serves streams of
	// Server-Sent Events, for anything that only listens. Default: all but `htmlfile` and
	// `jsonp`.
	Transports []string `json:"transports,omitempty"`

	// The names of your login cookies. A session over a fallback transport consists of
	// many requests, joined by a name in their addresses. A request joins the session
	// only if it has the same values of these cookies as the request that opened it,
	// and the same host, origin, user and `Authorization`. `JSESSIONID` is something
	// else: the server sets it for load balancers that keep a client at one server.
	// Default: none.
	SessionCookies []string `json:"session_cookies,omitempty"`

	// Compresses messages of at least 256 bytes on WebSockets, if the client offers
	// permessage-deflate (RFC 7692), as browsers do. Each message is compressed once for
	// all who get it. Default: false.
	Compression bool `json:"compression,omitempty"`

	// How often the server sends each agent a sign of life. It closes an agent that
	// was silent for two intervals. Between 1s and 10m; above 30s a proxy may close
	// the connection. Default: 25s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// How long a session may stay open before it connects as an agent. Between 1s and
	// 5m. Default: 10s.
	Handshake caddy.Duration `json:"handshake,omitempty"`

	// How long the server waits for agents when it stops. They get what is queued for
	// them and a notice that says when to come back; then the remaining connections
	// are closed. It must be shorter than Caddy's grace period, if there is one.
	// Between 1s and 1m. Default: 5s, or three quarters of a shorter grace period.
	Drain caddy.Duration `json:"drain,omitempty"`

	// How long an agent stays connected or subscribed while the gate does not answer:
	// after a reload that changed the gate, or after a recheck was due. Then the
	// connection or subscription ends, and the agent is told that it may try again.
	// Between 1s and 10m. Default: 60s.
	Grace caddy.Duration `json:"grace,omitempty"`

	// Limits on how much of the server agents can use. A limit that a reload lowers
	// closes no agent; it holds for later requests.
	Limits Limits `json:"limits,omitzero"`

	// A placeholder that separates the channels of tenants, such as
	// `{http.request.host.labels.2}`. Agents with different values share nothing.
	// Channel names do not include the value. The server reads it when a session
	// opens, and refuses the session if the value is not one segment of a channel's
	// name. Do not use a value that clients can choose, such as a query or a header,
	// unless tenants may see each other's messages. Default: none; all share the
	// channels of the hub.
	Namespace string `json:"namespace,omitempty"`

	// The answer where there is no gate: `allow` or `deny`. It applies to `connect`,
	// `subscribe` and `publish`; the other operations are allowed if they have no
	// gate. Required if there is any gate, but not each of these three at this level.
	// Without any gate everything is allowed, and the log has a warning.
	Default string `json:"default,omitempty"`

	// The gates, by name: `connect`, `subscribe`, `unsubscribe`, `publish`, `deliver`,
	// `disconnect`, `presence`, `history`, `api` for programs that publish with requests,
	// and `debug` for people who see the status page. The gates of `channels` take
	// precedence.
	Gates map[string]*Gate `json:"gates,omitempty"`

	// How long the guards of a gate may take, by the name of the gate. The `timeout` of a
	// gate takes precedence. Between 10ms and 5m.
	Timeouts map[string]caddy.Duration `json:"timeouts,omitempty"`

	// Gates for some of the channels. For each operation, the first block decides that
	// matches the channel and has the gate.
	Channels []ChannelBlock `json:"channels,omitempty"`

	// Which messages the server keeps for agents that were away. The `history` of
	// `channels` takes precedence. Default: none.
	History *History `json:"history,omitempty"`

	// Connects the hub with the same hub on other machines: a module of the namespace
	// `http.pushit.brokers`, named by `engine`. All machines together are then one hub. It
	// belongs to the hub: all endpoints with a broker and the same name must have the same
	// one. It lives as long as the hub, also over reloads. Default: none, this is the only
	// machine.
	BrokerRaw json.RawMessage `json:"broker,omitempty" caddy:"namespace=http.pushit.brokers inline_key=engine"`

	// Tells pages who is in channels. The `presence` of `channels` goes before it.
	// Default: nobody is told.
	Presence *Presence `json:"presence,omitempty"`

	gates    *guards.Policy      // nil: everything is allowed
	asks     asked               // what gates ask for
	env      *guards.Env         // the environment of gates
	site     servedAt            // immutable after Provision
	drain    time.Duration       // immutable after Provision
	endpoint *transport.Endpoint // immutable after Provision
	membership
}

// A membership connects a Handler with its hub, from Provision to Cleanup.
type membership struct {
	hub   *hubpool.Hub
	stage *telemetry.Stage  // receives the hub's events
	entry *hubpool.Endpoint // the Handler, as the hub knows it
	use   *hubpool.Use      // all endpoints of the hub in this configuration
	used  *hub.Policy       // what Provision gave to the hub

	joinedBy string // what the broker connects to, for operators
}

// CaddyModule returns the Caddy module information. Events call it at any time.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.pushit",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks h, joins the hub of its name and gives the hub the policy of this
// configuration. The agents get this policy when the old configuration ends. There is no
// Validate, because a mistake must be found before the hub gets the policy.
func (h *Handler) Provision(ctx caddy.Context) error {
	drainWritten := h.Drain != 0
	h.withDefaults()
	origins, err := h.check()
	if err != nil {
		return err
	}
	log := ctx.Slogger().With("hub", h.Name, "path", h.Path)
	settings := h.settings() // before the guards are loaded, because loading clears their JSON
	h.site = whereServed(ctx)
	h.takeTurns(h.site.server)
	if err := h.setDrain(drainWritten); err != nil {
		return err
	}
	h.env = &guards.Env{Generation: guards.NextGeneration(), Mount: h.mount(), Server: h.site.server, Log: log}
	if h.gates, err = h.policy(ctx, h.env); err != nil {
		return err
	}
	engine, err := h.engine(ctx, ctx.Slogger().With("hub", h.Name))
	if err != nil {
		return err
	}
	if h.hub, err = hubpool.Acquire(h.Name); err != nil {
		return err
	}
	h.entry = &hubpool.Endpoint{
		Generation: ctx.Done(), Path: h.Path, Place: h.site.place(), Settings: settings,
		Gates: h.gates, Drain: h.drain, Log: log, Handler: h,
	}
	if h.use, err = h.hub.Register(h.entry); err != nil {
		return err
	}
	doubts, err := h.lookAround(ctx)
	if err != nil {
		return err
	}
	if err := h.observe(ctx); err != nil {
		return err
	}
	p := &hub.Policy{
		Mount:     h.mount(),
		Heartbeat: time.Duration(h.Heartbeat),
		Handshake: time.Duration(h.Handshake),
		Grace:     time.Duration(h.Grace),
		Limits:    hub.Limits(h.Limits),
		Admission: &hubpool.Admission{Listed: h.Origins, Origins: origins, Transports: h.transports(), Namespace: h.Namespace, Env: h.env},
		Log:       log,
	}
	if h.gates != nil { // a nil pointer in an interface is not nil
		p.Gates = h.gates
	}
	if p.Deliveries, err = h.deliveries(); err != nil {
		return err
	}
	if p.Histories, err = h.histories(); err != nil {
		return err
	}
	if p.Presences, err = h.presences(); err != nil {
		return err
	}
	if err := errors.Join(h.keepHistory(log), h.connect(engine)); err != nil {
		return err
	}
	h.used = h.hub.Use(p)
	if h.site.server != nil {
		h.site.server.RegisterConnContext(transport.ConnContext)
	}
	h.endpoint = h.newEndpoint(origins)
	h.warn(log, doubts)
	if c := ctx.Logger().Check(zap.DebugLevel, "endpoint provisioned"); c != nil {
		c.Write(zap.String("hub", h.Name), zap.String("path", h.Path))
	}
	return nil
}

// newEndpoint returns what answers requests.
func (h *Handler) newEndpoint(origins *transport.Origins) *transport.Endpoint {
	return &transport.Endpoint{
		Hub:            h.hub.Hub,
		Policy:         h.used,
		Sessions:       h.hub.Sessions,
		Origins:        origins,
		Transports:     h.Transports,
		SessionCookies: h.SessionCookies,
		Compression:    h.Compression,
		ResponseTime:   h.site.responseTime(),
		KeepsHTTP3:     h.site.keepsHTTP3(),
		Caller:         caller,
		Opening:        h.opening,
		Status:         statuspage.New(h.hub.Hub).Serve,
	}
}

// observe reports what happens in the hub to metrics and events, and tells the hub when
// the server stops.
func (h *Handler) observe(ctx caddy.Context) error {
	if err := telemetry.Register(ctx, hubpool.Each); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	events := app.(*caddyevents.App)
	if h.stage, err = h.hub.Announcer.Begin(ctx, events); err != nil {
		return err
	}
	return h.use.DrainAtStop(events, h.site.server, h.site.app != nil && h.site.app.ShutdownDelay > 0)
}

// withDefaults fills in the settings that h leaves out, except the name.
func (h *Handler) withDefaults() {
	h.Path = cmp.Or(h.Path, routing.DefaultPath)
	h.Heartbeat = cmp.Or(h.Heartbeat, caddy.Duration(hub.DefaultHeartbeat))
	h.Handshake = cmp.Or(h.Handshake, caddy.Duration(hub.DefaultHandshake))
	h.Drain = cmp.Or(h.Drain, caddy.Duration(hubpool.DefaultDrain))
	h.Grace = cmp.Or(h.Grace, caddy.Duration(hub.DefaultGrace))
}

// check returns the origins of h, or what is wrong with h.
func (h *Handler) check() (*transport.Origins, error) {
	if h.Name == "" {
		return nil, fmt.Errorf(`the endpoint needs a name: write "name": %q; endpoints with the same name share a hub`, defaultName)
	}
	var origins *transport.Origins
	var originsErr error
	if len(h.Origins) > 0 {
		origins, originsErr = transport.ParseOrigins(h.Origins)
	}
	return origins, errors.Join(
		checkName(h.Name),
		routing.CheckPath(h.Path),
		originsErr,
		checkRange("heartbeat", h.Heartbeat, minHeartbeat, maxHeartbeat),
		checkRange("handshake", h.Handshake, minHandshake, maxHandshake),
		checkRange("drain", h.Drain, minDrain, maxDrain),
		checkRange("grace", h.Grace, minGrace, maxGrace),
		checkTransports(h.Transports),
		checkSessionCookies(h.SessionCookies),
		h.Limits.check(),
		h.checkGates(),
		h.checkHistories(),
		h.checkBroker(),
		h.checkPresences(),
	)
}

// transports returns the transports that h serves.
func (h *Handler) transports() []string {
	if h.Transports == nil {
		return transport.DefaultTransports
	}
	return h.Transports
}

// mount identifies the endpoint across reloads.
func (h *Handler) mount() string { return h.Name + " " + h.Path }

// settings returns the settings of h with defaults, for comparison. It returns hashes,
// because the settings include secrets and are kept.
func (h *Handler) settings() hubpool.Settings {
	all := *h
	all.Limits = Limits(hub.Limits(h.Limits).WithDefaults())
	all.withDefaults()
	var fields map[string]json.RawMessage
	text, err := json.Marshal(&all)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		panic(err) // strings, numbers, and JSON that was parsed before, always marshal
	}
	hashes := make(hubpool.Settings, len(fields))
	for name, value := range fields {
		hashes[name] = sha256.Sum256(value)
	}
	return hashes
}

// Cleanup moves the agents of h to the newest configuration that has their endpoint. If
// there is none, it closes them. Cleanup also works after Provision failed.
func (h *Handler) Cleanup() error {
	h.endTurns()
	if h.hub == nil {
		return nil
	}
	// If the whole server stops, agents are told when to come back. If only this endpoint
	// is removed, they are closed.
	var reload *hub.Reload
	if h.used != nil && !hubpool.Leaving() {
		reload = h.hub.Drop(h.used)
		h.endpoint.Retire()
	}
	if hubpool.Leaving() {
		h.hub.BeginDrain()
	}
	if h.stage != nil {
		h.hub.Announcer.End(h.stage)
	}
	if h.use != nil {
		h.use.Unregister(h.entry, reload)
	}
	left := h.hub
	h.membership = membership{}
	return left.Release()
}

// ServeHTTP answers requests that are for pushit. The transport reports errors itself,
// and may have taken the connection from the server. So only next returns errors.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ok := routing.Below(h.Path, r.URL.Path)
	if ok && client.Version(strings.TrimPrefix(rest, "/")) != "" {
		transport.LeaveBody(w, r)
	}
	if ok && (client.Serve(w, r, rest) || h.endpoint.Serve(w, r, rest)) {
		return nil
	}
	return next.ServeHTTP(w, r)
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
