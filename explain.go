// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
)

// explainOptions are a question to a gate of a configuration.
type explainOptions struct {
	config, adapter                   string
	gate, channel, data, from         string
	site, name, path, query, ip, user string
	headers                           []string
	connect                           bool
	credentials, claims, attributes   string
	grants                            []string
}

// places tells where things are written: by mount, and by where they are in the
// JSON of the handler, "" for the directive. It is what the Caddyfile adapter is
// given in its options to be told.
type places map[string]map[string]caddyfile.Token

// placesOption is the option of the Caddyfile adapter that has the places.
const placesOption = "http.handlers.pushit.places"

// tell notes where p's handler is written, if anybody wants to know.
func (p *parser) tell() {
	if p.Option(probingOption) == nil {
		p.noteAdapted()
	}
	if wanted, ok := p.Option(placesOption).(places); ok {
		p.places[""] = p.directive
		wanted[p.handler.mount()] = p.places
	}
}

// of tells people where something is written, which without a Caddyfile is where
// it is in the JSON.
func (p places) of(h *Handler, path string) string {
	if t, ok := p[h.mount()][path]; ok {
		return place(t)
	}
	if path == "" {
		return "the JSON of the handler"
	}
	return path
}

// explain asks, and writes the answer to out.
func (o *explainOptions) explain(ctx context.Context, out io.Writer) (allowed bool, err error) {
	q, err := o.question()
	if err != nil {
		return false, err
	}
	handlers, written, done, err := o.load()
	if err != nil {
		return false, err
	}
	defer done()
	h, r, err := o.choose(handlers, written)
	if err != nil {
		return false, err
	}
	e := explanation{out: out, h: h, places: written}
	e.line("endpoint", fmt.Sprintf("pushit at %s, name %s, path %s", written.of(h, ""), h.Name, h.Path))
	opening, refusal := h.opening(r)
	if refusal != nil {
		e.line("session", "refused: "+refusal.Reason)
		return false, e.err
	}
	if opening.Namespace != "" {
		e.line("namespace", opening.Namespace)
	}
	agent, err := h.hub.Open(h.used, opening)
	if err != nil {
		return false, err
	}
	defer agent.Left("explained")
	q.Agent = agent
	if o.asksConnect() {
		connect := *q
		connect.Gate, connect.Channel, connect.Pattern, connect.Message = hub.GateConnect, "", false, nil
		v := e.ask(ctx, &connect)
		if v.Refusal != nil {
			return false, e.err
		}
		if v.Identity != nil {
			q.Identity = v.Identity
		}
	}
	v := e.ask(ctx, q)
	return v.Refusal == nil, e.err
}

// asksConnect reports whether the connect gate is asked before the one that is
// meant.
func (o *explainOptions) asksConnect() bool {
	return o.gate != string(hub.GateConnect) && (o.connect || o.credentials != "")
}

// question is what the gate is asked, but for who asks.
func (o *explainOptions) question() (*hub.Question, error) {
	if o.gate == "" {
		return nil, fmt.Errorf("which gate? Write --gate and one of %s", strings.Join(gateNames, ", "))
	}
	if err := checkGateName(o.gate); err != nil {
		return nil, err
	}
	q := &hub.Question{Gate: hub.GateName(o.gate), Channel: o.channel, Credentials: []byte("null")}
	id := &hub.Identity{Grants: o.grants}
	q.Identity = id
	for _, field := range []struct {
		flag, text string
		to         *map[string]any
	}{{"claims", o.claims, &id.Claims}, {"attributes", o.attributes, &id.Attributes}} {
		if field.text != "" && json.Unmarshal([]byte(field.text), field.to) != nil {
			return nil, fmt.Errorf("--%s is not a JSON object: %s", field.flag, field.text)
		}
	}
	if o.credentials != "" {
		q.Credentials = []byte(o.credentials)
		if !json.Valid(q.Credentials) {
			return nil, errors.New("--credentials is not JSON; a text is written with its quotes: '\"secret\"'")
		}
	}
	return q, o.aboutChannel(q)
}

// aboutChannel completes q with what it asks about the channel.
func (o *explainOptions) aboutChannel(q *hub.Question) error {
	ofChannel := q.Gate != hub.GateConnect && q.Gate != hub.GateDisconnect
	switch {
	case !ofChannel && o.channel != "":
		return fmt.Errorf("%s is not about a channel: leave out --channel", o.gate)
	case ofChannel && o.channel == "":
		return fmt.Errorf("%s is about a channel: write --channel", o.gate)
	case !ofChannel:
		return nil
	}
	check := hub.CheckName
	if q.Gate == hub.GateSubscribe || q.Gate == hub.GateUnsubscribe {
		check = hub.CheckPattern
		q.Pattern = hub.IsPattern(o.channel)
	}
	if refusal := check(o.channel, hub.MaxNameLength); refusal != nil {
		return fmt.Errorf("--channel %s: %s", o.channel, refusal.Reason)
	}
	if q.Gate == hub.GatePublish || q.Gate == hub.GateDeliver {
		if !json.Valid([]byte(o.data)) {
			return errors.New("--data is not JSON; a text is written with its quotes: '\"hello\"'")
		}
		q.Message = hub.NewMessage(o.channel, "explained", []byte(o.data))
		q.Message.From = &hub.Sender{User: o.from}
	}
	return nil
}

// load provisions the configuration, and returns its endpoints and where they are
// written. done ends what was provisioned.
func (o *explainOptions) load() (handlers []*Handler, written places, done func(), err error) {
	text, err := os.ReadFile(o.config)
	if err != nil {
		return nil, nil, nil, err
	}
	written = make(places)
	if name := o.adapterName(); name != "" {
		adapter := caddyconfig.GetAdapter(name)
		if adapter == nil {
			return nil, nil, nil, fmt.Errorf("there is no config adapter %q", name)
		}
		if text, _, err = adapter.Adapt(text, map[string]any{"filename": o.config, placesOption: written}); err != nil {
			return nil, nil, nil, fmt.Errorf("adapting %s: %w", o.config, err)
		}
	}
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(text), &config); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", o.config, err)
	}
	// Nothing is to be seen of what a server would log, nor to be opened for it.
	config.Admin = &caddy.AdminConfig{Disabled: true}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, e := range hubpool.Endpoints(ctx.Done()) {
		handlers = append(handlers, e.Handler.(*Handler))
	}
	return handlers, written, func() {
		for _, h := range handlers {
			_ = h.Cleanup() // the process ends; only its tests go on
		}
	}, nil
}

// adapterName is the adapter for the file, "" for none: the one that was named,
// else what the file's name tells, as with Caddy's own commands.
func (o *explainOptions) adapterName() string {
	switch {
	case o.adapter == "json" || o.adapter == "" && strings.EqualFold(filepath.Ext(o.config), ".json"):
		return ""
	case o.adapter != "":
		return o.adapter
	default:
		return "caddyfile"
	}
}

// choose returns the one endpoint that is meant, and the request that opens the
// session there.
func (o *explainOptions) choose(handlers []*Handler, written places) (*Handler, *http.Request, error) {
	var fit []*Handler
	var opens *http.Request
	var list []string
	for _, h := range handlers {
		list = append(list, fmt.Sprintf("name %s, path %s (%s)", h.Name, h.Path, written.of(h, "")))
		r, err := o.request(h)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case o.name != "" && o.name != h.Name, o.path != "" && trimWildcard(o.path) != h.Path, o.site != "" && !h.site.serves(r):
			continue
		case len(fit) > 0 && fit[0].mount() == h.mount():
			continue // the same on another server
		case len(fit) == 0:
			opens = r
		}
		fit = append(fit, h)
	}
	switch {
	case len(handlers) == 0:
		return nil, nil, errors.New("there is no pushit in this configuration")
	case len(fit) == 0:
		return nil, nil, fmt.Errorf("no endpoint fits --name, --path and --site; there are: %s", strings.Join(list, "; "))
	case len(fit) > 1:
		return nil, nil, fmt.Errorf("there are several endpoints; say with --name, --path or --site which one is meant: %s", strings.Join(list, "; "))
	}
	return fit[0], opens, nil
}

// request is the one that opens the session at h.
func (o *explainOptions) request(h *Handler) (*http.Request, error) {
	ip, err := netip.ParseAddr(o.ip)
	if err != nil {
		return nil, fmt.Errorf("--ip %s is not an address", o.ip)
	}
	u, err := o.url(h)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.RequestURI = u.RequestURI()
	if u.Scheme == "https" {
		r.TLS = new(tls.ConnectionState)
	}
	r.RemoteAddr = net.JoinHostPort(ip.String(), "1024")
	for _, field := range o.headers {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not a header field: write 'Name: value'", field)
		}
		if strings.EqualFold(name, "Host") {
			return nil, errors.New("write the host with --site")
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	server := h.site.server
	if server == nil {
		server = new(caddyhttp.Server)
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, nil, server)
	if o.user != "" {
		repl.Set("http.auth.user.id", o.user)
	}
	return r, nil
}

// url is that of the endpoint h.
func (o *explainOptions) url(h *Handler) (*url.URL, error) {
	site := o.site
	if site == "" {
		site = "localhost"
		if len(h.site.hosts) > 0 && !strings.ContainsAny(h.site.hosts[0][0], "*{") {
			site = h.site.hosts[0][0]
		}
	}
	if !strings.Contains(site, "://") {
		scheme := "https://"
		if h.site.inClear {
			scheme = "http://"
		}
		site = scheme + site
	}
	u, err := url.Parse(site)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--site %s is not a site: write it as example.com, or https://example.com", o.site)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: h.Path, RawQuery: strings.TrimPrefix(o.query, "?")}, nil
}

// An explanation writes what a gate of h says.
type explanation struct {
	out    io.Writer
	h      *Handler
	places places
	err    error
}

// line writes one line, unless writing has failed before.
func (e *explanation) line(what, text string) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.out, "%-10s %s\n", what, text)
	}
}

// ask asks the gate that q is for, and writes what happens.
func (e *explanation) ask(ctx context.Context, q *hub.Question) hub.Verdict {
	about := string(q.Gate)
	if q.Channel != "" {
		about += " " + q.Channel
	}
	e.line("gate", about)
	chain, block, refusal := e.find(q)
	if refusal != nil {
		e.line("verdict", verdict(refusal))
		return hub.Verdict{Refusal: refusal}
	}
	e.line("written", e.written(q, block))
	if chain == nil {
		e.line("verdict", "allowed: nothing is asked")
		return hub.Allow
	}
	ctx, cancel := context.WithTimeout(ctx, chain.Timeout())
	defer cancel()
	steps, v := chain.Explain(ctx, q)
	path := "gates." + string(q.Gate)
	if block != "" {
		path = block + "." + path
	}
	for i, s := range steps {
		at := ""
		if t, ok := e.places[e.h.mount()][guardPath(path, i)]; ok {
			at = " (" + place(t) + ")"
		}
		e.line("guard", s.Guard+at+": "+answer(&s.Answer))
	}
	if g := e.gate(path); v.Refusal == nil && q.Gate == hub.GateDeliver && g != nil && g.Transform != "" {
		data, err := e.transformed(ctx, q, g.Transform)
		if err != nil {
			v.Refusal = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "transform: " + err.Error()}
		}
		v.Publish = &hub.Publishing{Data: data}
	}
	e.line("verdict", verdict(v.Refusal))
	if v.Refusal == nil {
		e.consequences(q, &v)
	}
	return v
}

// gate is that which in the JSON of the handler is at path, nil for none.
func (e *explanation) gate(path string) (found *Gate) {
	_ = e.h.eachGate(func(where, _ string, g *Gate) error {
		if where == path {
			found = g
		}
		return nil
	})
	return found
}

// transformed is what the agent of q is delivered in place of the message's data.
func (e *explanation) transformed(ctx context.Context, q *hub.Question, expression string) ([]byte, error) {
	program, err := guards.CompileValue(expression, guards.ScopeOf(q.Gate))
	if err != nil {
		return nil, err
	}
	id := q.Identity
	return program.Value(ctx, &guards.Question{Question: q, Env: e.h.env, Learned: guards.Learned{
		User: id.User, Claims: id.Claims, Attributes: id.Attributes, Header: id.Header, Grants: id.Grants,
	}})
}

// find returns the guards that q goes to, nil for none, and the block that has
// them; or the Refusal that stands already.
func (e *explanation) find(q *hub.Question) (chain *guards.Chain, block string, _ *hub.Refusal) {
	if e.h.gates == nil {
		return nil, "", nil
	}
	if !q.Pattern || q.Gate != hub.GateSubscribe {
		chain, block = e.h.gates.Explain(q.Gate, q.Channel)
		return chain, block, nil
	}
	if _, refusal := e.h.gates.Pattern(q.Channel); refusal != nil {
		return nil, "", refusal
	}
	// one block governs all that the pattern covers
	chain, block = e.h.gates.Explain(q.Gate, strings.TrimSuffix(q.Channel, "*")+"x")
	return chain, block, nil
}

// written tells where the gate that governs is written. block is the JSON path of
// its channel block, "" outside of any.
func (e *explanation) written(q *hub.Question, block string) string {
	name := string(q.Gate)
	for i, b := range e.h.Channels {
		if path := blockPath(i); path == block {
			return fmt.Sprintf("%s, in channel %s (%s)", e.places.of(e.h, path+".gates."+name), strings.Join(b.Match, " "), e.places.of(e.h, path))
		}
	}
	switch {
	case e.h.Gates[name] != nil:
		return e.places.of(e.h, "gates."+name)
	case e.h.gates == nil:
		return "nowhere: there is no gate at all"
	case e.h.Default != "" && slices.Contains([]hub.GateName{hub.GateConnect, hub.GateSubscribe, hub.GatePublish}, q.Gate):
		return "nowhere, so default " + e.h.Default + " speaks"
	default:
		return "nowhere"
	}
}

// answer tells what a guard answered.
func answer(a *guards.Answer) string {
	text := a.Kind.String()
	if a.Reason != "" {
		text += fmt.Sprintf(", %q", a.Reason)
	}
	if a.Err != nil {
		text += " (" + a.Err.Error() + ")"
	}
	return text
}

func verdict(r *hub.Refusal) string {
	if r == nil {
		return "allowed"
	}
	return fmt.Sprintf("refused, %s: %s", r.Code, r.Reason)
}

// consequences writes what follows from a verdict that allows.
func (e *explanation) consequences(q *hub.Question, v *hub.Verdict) {
	if id := v.Identity; id != nil {
		e.value("user", id.User, id.User != "" && q.Agent.Opening().User == "")
		e.value("claims", id.Claims, id.Claims != nil)
		e.value("attributes", id.Attributes, id.Attributes != nil)
		e.value("grants", id.Grants, id.Grants != nil)
	}
	e.value("subscribe", v.Subscribe, v.Subscribe != nil)
	if p := v.Publish; p != nil {
		e.value("to", p.Channels, p.Channels != nil)
		e.value("data", json.RawMessage(p.Data), p.Data != nil)
		if p.Discard {
			e.line("discarded", "it goes nowhere, and is acknowledged")
		}
	}
	if !v.Expires.IsZero() {
		e.line("expires", v.Expires.Format("2006-01-02 15:04:05 MST"))
	}
	if v.Recheck > 0 {
		e.line("recheck", v.Recheck.String())
	}
}

// value writes a value as JSON, if there is one.
func (e *explanation) value(what string, v any, ok bool) {
	if !ok {
		return
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		e.err = errors.Join(e.err, err)
		return
	}
	e.line(what, strings.TrimSpace(text.String()))
}
