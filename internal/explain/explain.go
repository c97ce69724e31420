// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package explain answers caddy pushit explain: it loads a configuration, asks one gate
// about one agent, and tells what each guard has answered.
package explain

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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// Options are a question to a gate of a configuration: the flags of the command.
type Options struct {
	Config, Adapter                   string
	Gate, Channel, Data, From         string
	Site, Name, Path, Query, IP, User string
	Headers                           []string
	Connect                           bool // ask the connect gate first
	Credentials, Claims, Attributes   string
	Grants                            []string
}

// An Endpoint is a handler as explain needs it.
type Endpoint struct {
	Name, Path string
	Mount      string // the key of the handler in Places

	// The site of the handler.
	Server *caddyhttp.Server // nil if there is none
	Hosts  []caddyhttp.MatchHost
	HTTP   bool // the site is served without TLS
	Serves func(*http.Request) bool

	Broker string // what joins the machines of the hub; "" if there is one

	// The gates of the handler.
	Policy  *guards.Policy // nil: everything is allowed
	Env     *guards.Env
	Default string            // "", "allow" or "deny"
	Gates   map[string]bool   // the gates of the configuration, by JSON path
	Blocks  map[string]string // the patterns of channel blocks, by JSON path

	// Presence returns the presence rule of a channel; nil if there is none.
	Presence func(channel string) *hub.PresenceRule

	Opening func(*http.Request) (hub.Opening, *hub.Refusal)
	Open    func(hub.Opening) (*hub.Agent, error)
	Cleanup func() error
}

// Places has the file and line of each directive, gate, guard and channel block. Its keys
// are the mount, and the path in the JSON of the handler; "" stands for the directive.
// The Caddyfile adapter fills in the Places in its options.
type Places map[string]map[string]string

// PlacesOption is the option of the Caddyfile adapter for Places.
const PlacesOption = "http.handlers.pushit.places"

// of returns where something is written. If there is no Caddyfile, it returns the path in
// the JSON.
func (p Places) of(e *Endpoint, path string) string {
	if place, ok := p[e.Mount][path]; ok {
		return place
	}
	if path == "" {
		return "the JSON of the handler"
	}
	return path
}

// Run loads the configuration, asks the gate and writes the answer to out. endpoints must
// return the endpoints of a provisioned configuration.
func (o *Options) Run(ctx context.Context, out io.Writer, endpoints func(generation <-chan struct{}) []*Endpoint) (allowed bool, err error) {
	q, err := o.question()
	if err != nil {
		return false, err
	}
	all, places, err := o.load(endpoints)
	if err != nil {
		return false, err
	}
	defer func() {
		for _, e := range all {
			_ = e.Cleanup() // the process ends anyway, except in tests
		}
	}()
	at, r, err := o.choose(all, places)
	if err != nil {
		return false, err
	}
	e := explanation{Endpoint: at, out: out, places: places}
	e.line("endpoint", fmt.Sprintf("pushit at %s, name %s, path %s", places.of(at, ""), at.Name, at.Path))
	if at.Broker != "" {
		e.line("broker", at.Broker)
	}
	opening, refusal := at.Opening(r)
	if refusal != nil {
		e.line("session", "refused: "+refusal.Reason)
		return false, e.err
	}
	if opening.Namespace != "" {
		e.line("namespace", opening.Namespace)
	}
	agent, err := at.Open(opening)
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

// asksConnect reports whether the connect gate must be asked before the gate of o.
func (o *Options) asksConnect() bool {
	return o.Gate != string(hub.GateConnect) && (o.Connect || o.Credentials != "")
}

// question returns the question to the gate. It has no agent yet.
func (o *Options) question() (*hub.Question, error) {
	q := &hub.Question{Gate: hub.GateName(o.Gate), Channel: o.Channel, Credentials: []byte("null")}
	id := &hub.Identity{Grants: o.Grants}
	q.Identity = id
	for _, field := range []struct {
		flag, text string
		to         *map[string]any
	}{{"claims", o.Claims, &id.Claims}, {"attributes", o.Attributes, &id.Attributes}} {
		if field.text != "" && json.Unmarshal([]byte(field.text), field.to) != nil {
			return nil, fmt.Errorf("--%s is not a JSON object: %s", field.flag, field.text)
		}
	}
	if o.Credentials != "" {
		q.Credentials = []byte(o.Credentials)
		if !json.Valid(q.Credentials) {
			return nil, errors.New("--credentials is not JSON; write a string with its quotes: '\"secret\"'")
		}
	}
	return q, o.aboutChannel(q)
}

// aboutChannel adds the channel and the message to q.
func (o *Options) aboutChannel(q *hub.Question) error {
	ofChannel := q.Gate.IsAboutChannel()
	switch {
	case !ofChannel && o.Channel != "":
		return fmt.Errorf("%s is not about a channel: leave out --channel", o.Gate)
	case ofChannel && o.Channel == "":
		return fmt.Errorf("%s is about a channel: write --channel", o.Gate)
	case !ofChannel:
		return nil
	}
	check := hub.CheckName
	if q.Gate == hub.GateSubscribe || q.Gate == hub.GateUnsubscribe || q.Gate == hub.GateHistory {
		check = hub.CheckPattern
		q.Pattern = hub.IsPattern(o.Channel)
	}
	if refusal := check(o.Channel, hub.MaxNameLength); refusal != nil {
		return fmt.Errorf("--channel %s: %s", o.Channel, refusal.Reason)
	}
	if q.Gate == hub.GatePublish || q.Gate == hub.GateDeliver {
		if !json.Valid([]byte(o.Data)) {
			return errors.New("--data is not JSON; write a string with its quotes: '\"hello\"'")
		}
		q.Message = hub.NewMessage(o.Channel, "explained", []byte(o.Data))
		q.Message.From = &hub.Sender{User: o.From}
	}
	return nil
}

// load provisions the configuration. It returns the endpoints, which the caller cleans
// up, and where they are written.
func (o *Options) load(endpoints func(generation <-chan struct{}) []*Endpoint) ([]*Endpoint, Places, error) {
	text, err := os.ReadFile(o.Config)
	if err != nil {
		return nil, nil, err
	}
	places := make(Places)
	if name := o.adapterName(); name != "" {
		adapter := caddyconfig.GetAdapter(name)
		if adapter == nil {
			return nil, nil, fmt.Errorf("there is no config adapter %q", name)
		}
		if text, _, err = adapter.Adapt(text, map[string]any{"filename": o.Config, PlacesOption: places}); err != nil {
			return nil, nil, fmt.Errorf("adapting %s: %w", o.Config, err)
		}
	}
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(text), &config); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.Config, err)
	}
	// The command writes no server log and opens no listener.
	config.Admin = &caddy.AdminConfig{Disabled: true}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		return nil, nil, err
	}
	return endpoints(ctx.Done()), places, nil
}

// adapterName returns the name of the adapter, or "" for JSON. It uses --adapter, or the
// extension of the file, as Caddy's own commands do.
func (o *Options) adapterName() string {
	switch {
	case o.Adapter == "json" || o.Adapter == "" && strings.EqualFold(filepath.Ext(o.Config), ".json"):
		return ""
	case o.Adapter != "":
		return o.Adapter
	default:
		return "caddyfile"
	}
}

// choose returns the endpoint that the flags select, and the request that opens the
// session there.
func (o *Options) choose(all []*Endpoint, places Places) (*Endpoint, *http.Request, error) {
	var fit []*Endpoint
	var opens *http.Request
	var list []string
	for _, e := range all {
		list = append(list, fmt.Sprintf("name %s, path %s (%s)", e.Name, e.Path, places.of(e, "")))
		r, err := o.request(e)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case o.Name != "" && o.Name != e.Name, o.Path != "" && o.Path != e.Path, o.Site != "" && !e.Serves(r):
			continue
		case len(fit) > 0 && fit[0].Mount == e.Mount:
			continue // the same endpoint on another server
		case len(fit) == 0:
			opens = r
		}
		fit = append(fit, e)
	}
	switch {
	case len(all) == 0:
		return nil, nil, errors.New("there is no pushit in this configuration")
	case len(fit) == 0:
		return nil, nil, fmt.Errorf("no endpoint matches --name, --path and --site; the endpoints are: %s", strings.Join(list, "; "))
	case len(fit) > 1:
		return nil, nil, fmt.Errorf("there are several endpoints; choose one with --name, --path or --site: %s", strings.Join(list, "; "))
	}
	return fit[0], opens, nil
}

// request returns the request that opens the session at e.
func (o *Options) request(e *Endpoint) (*http.Request, error) {
	ip, err := netip.ParseAddr(o.IP)
	if err != nil {
		return nil, fmt.Errorf("--ip %s is not an address", o.IP)
	}
	u, err := o.url(e)
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
	for _, field := range o.Headers {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not a header field: write 'Name: value'", field)
		}
		if strings.EqualFold(name, "Host") {
			return nil, errors.New("write the host with --site")
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	server := e.Server
	if server == nil {
		server = new(caddyhttp.Server)
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, nil, server)
	if o.User != "" {
		repl.Set("http.auth.user.id", o.User)
	}
	return r, nil
}

// url returns the URL of e.
func (o *Options) url(e *Endpoint) (*url.URL, error) {
	site := o.Site
	if site == "" {
		site = "localhost"
		if len(e.Hosts) > 0 && !strings.ContainsAny(e.Hosts[0][0], "*{") {
			site = e.Hosts[0][0]
		}
	}
	if !strings.Contains(site, "://") {
		scheme := "https://"
		if e.HTTP {
			scheme = "http://"
		}
		site = scheme + site
	}
	u, err := url.Parse(site)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--site %s is not a site: write it as example.com, or https://example.com", o.Site)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: e.Path, RawQuery: strings.TrimPrefix(o.Query, "?")}, nil
}

// An explanation writes what a gate of its endpoint answers.
type explanation struct {
	*Endpoint
	out    io.Writer
	places Places
	err    error
}

// line writes one line. After a write has failed, it does nothing.
func (e *explanation) line(what, text string) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.out, "%-10s %s\n", what, text)
	}
}

// ask asks the gate about q, and writes the steps and the verdict.
func (e *explanation) ask(ctx context.Context, q *hub.Question) hub.Verdict {
	about := string(q.Gate)
	if q.Channel != "" {
		about += " " + q.Channel
	}
	e.line("gate", about)
	if q.Gate == hub.GatePresence {
		rule := e.Presence(q.Channel)
		if rule == nil {
			r := &hub.Refusal{Code: hub.CodeDenied, Reason: "this channel tells nobody who is in it: write presence in its channel block"}
			e.line("verdict", verdict(r))
			return hub.Verdict{Refusal: r}
		}
		e.shown(q, rule)
	}
	chain, block, refusal := e.find(q)
	if refusal != nil {
		e.line("verdict", verdict(refusal))
		return hub.Verdict{Refusal: refusal}
	}
	if chain == nil && (q.Gate == hub.GatePresence || q.Gate == hub.GateHistory) {
		e.line("written", "nowhere, so the gate subscribe decides")
		subscribe := *q
		subscribe.Gate = hub.GateSubscribe
		return e.ask(ctx, &subscribe)
	}
	e.line("written", e.written(q, block))
	if chain == nil && q.Gate.OpensAddress() {
		r := &hub.Refusal{Code: hub.CodeMissing, Reason: "without this gate the address answers HTTP 404: write " + string(q.Gate) + " with a guard in the block of pushit"}
		e.line("verdict", verdict(r))
		return hub.Verdict{Refusal: r}
	}
	if chain == nil {
		e.line("verdict", "allowed: there is no gate")
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
		if place, ok := e.places[e.Mount][fmt.Sprintf("%s.guards[%d]", path, i)]; ok {
			at = " (" + place + ")"
		}
		e.line("guard", s.Guard+at+": "+answer(&s.Answer))
	}
	e.line("verdict", verdict(v.Refusal))
	if v.Refusal == nil {
		e.consequences(q, &v)
	}
	return v
}

// shown writes what others see of the agent as a member.
func (e *explanation) shown(q *hub.Question, rule *hub.PresenceRule) {
	if rule.Info == nil {
		return
	}
	if info, err := rule.Info(q); err != nil {
		e.line("info", "none: "+err.Error())
	} else {
		e.line("info", string(info))
	}
}

// find returns the guards that decide q, or nil if there are none, and their channel
// block. If q is refused before any guard is asked, it returns the Refusal.
func (e *explanation) find(q *hub.Question) (chain *guards.Chain, block string, _ *hub.Refusal) {
	if e.Policy == nil {
		return nil, "", nil
	}
	refusal := (*hub.Refusal)(nil)
	switch {
	case q.Pattern && q.Gate == hub.GateSubscribe:
		_, refusal = e.Policy.Pattern(q.Channel)
	case q.Pattern && q.Gate == hub.GateHistory:
		refusal = e.Policy.PatternHistory(q.Channel)
	default:
		chain, block = e.Policy.Find(q.Gate, q.Channel)
		return chain, block, nil
	}
	if refusal != nil {
		return nil, "", refusal
	}
	// One block decides about all channels of the pattern, so any of them will do.
	chain, block = e.Policy.Find(q.Gate, strings.TrimSuffix(q.Channel, "*")+"x")
	return chain, block, nil
}

// written returns where the gate for q is written. block is the JSON path of its channel
// block, or "".
func (e *explanation) written(q *hub.Question, block string) string {
	name := string(q.Gate)
	if patterns, ok := e.Blocks[block]; ok {
		return fmt.Sprintf("%s, in channel %s (%s)", e.places.of(e.Endpoint, block+".gates."+name), patterns, e.places.of(e.Endpoint, block))
	}
	switch {
	case e.Gates["gates."+name]:
		return e.places.of(e.Endpoint, "gates."+name)
	case e.Policy == nil:
		return "nowhere: there is no gate at all"
	case e.Default != "" && slices.Contains([]hub.GateName{hub.GateConnect, hub.GateSubscribe, hub.GatePublish}, q.Gate):
		return "nowhere, so default " + e.Default + " applies"
	default:
		return "nowhere"
	}
}

// answer describes a guard's answer.
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

// consequences writes what an allowing verdict changes.
func (e *explanation) consequences(q *hub.Question, v *hub.Verdict) {
	if id := v.Identity; id != nil {
		e.value("user", id.User, id.User != "" && q.Agent.Opening().User() == "")
		e.value("claims", id.Claims, id.Claims != nil)
		e.value("attributes", id.Attributes, id.Attributes != nil)
		e.value("grants", id.Grants, id.Grants != nil)
	}
	e.value("subscribe", v.Subscribe, v.Subscribe != nil)
	if p := v.Publish; p != nil {
		e.value("to", p.Channels, p.Channels != nil)
		e.value("data", json.RawMessage(p.Data), p.Data != nil)
		if p.Discard {
			e.line("discarded", "the message is acknowledged, but goes nowhere")
		}
	}
	if !v.Expires.IsZero() {
		e.line("expires", v.Expires.Format("2006-01-02 15:04:05 MST"))
	}
	if v.Recheck > 0 {
		e.line("recheck", v.Recheck.String())
	}
}

// value writes a value as JSON, if ok is set.
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
