// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// A decision is a guard that gives the answer of a function.
type decision func(q *guards.Question) guards.Answer

func (d decision) Decide(_ context.Context, q *guards.Question) guards.Answer { return d(q) }
func (decision) Local()                                                       {}

// answers returns a guard that always gives the same answer.
func answers(a guards.Answer) guards.Guard {
	return decision(func(*guards.Question) guards.Answer { return a })
}

// gate returns the configuration of a gate with these guards, which are called a, b, ….
func gate(list ...guards.Guard) *guards.GateConfig {
	g := new(guards.GateConfig)
	for i, one := range list {
		g.Guards = append(g.Guards, guards.NamedGuard{Name: string(rune('a' + i)), Guard: one})
	}
	return g
}

// endpoint returns an endpoint at /push of a hub called name, with a policy unless c is nil.
func endpoint(t *testing.T, name string, c *guards.PolicyConfig) *Endpoint {
	t.Helper()
	h, err := hub.New(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	e := &Endpoint{
		Name: name, Path: "/push", Mount: name + " /push",
		Env:    &guards.Env{Generation: guards.NextGeneration(), Log: slog.New(slog.DiscardHandler)},
		Serves: func(*http.Request) bool { return true },
		Opening: func(r *http.Request) (hub.Opening, *hub.Refusal) {
			return hub.Opening{URI: r.URL.RequestURI(), Host: r.Host, RemoteAddr: r.RemoteAddr}, nil
		},
		Cleanup: func() error { return nil },
	}
	used := h.Use(&hub.Policy{Mount: e.Mount})
	e.Open = func(o hub.Opening) (*hub.Agent, error) { return h.Open(used, o) }
	if c == nil {
		return e
	}
	e.Default, e.Gates, e.Blocks = c.Default, make(map[string]bool), make(map[string]string)
	for gate := range c.Gates {
		e.Gates["gates."+string(gate)] = true
	}
	for _, b := range c.Blocks {
		e.Blocks[b.Where] = strings.Join(b.Match, " ")
		for gate := range b.Gates {
			e.Gates[b.Where+".gates."+string(gate)] = true
		}
	}
	if e.Policy, err = guards.Compile(*c, e.Env); err != nil {
		t.Fatal(err)
	}
	return e
}

// options returns the defaults of the command's flags, with a configuration that is empty.
func options(t *testing.T) Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "caddy.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Options{Config: file, Data: "null", IP: "127.0.0.1"}
}

// having returns the endpoints for Options.Run.
func having(all ...*Endpoint) func(<-chan struct{}) []*Endpoint {
	return func(<-chan struct{}) []*Endpoint { return all }
}

// wantError checks that an error contains a text, or is nil if the text is empty.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestQuestion(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		want string // in the error
	}{
		{"connect", Options{Gate: "connect"}, ""},
		{"connect with a channel", Options{Gate: "connect", Channel: "news"}, "connect is not about a channel: leave out --channel"},
		{"disconnect with a channel", Options{Gate: "disconnect", Channel: "news"}, "disconnect is not about a channel"},
		{"api with a channel", Options{Gate: "api", Channel: "news"}, "api is not about a channel"},
		{"subscribe without a channel", Options{Gate: "subscribe"}, "subscribe is about a channel: write --channel"},
		{"subscribe", Options{Gate: "subscribe", Channel: "news"}, ""},
		{"subscribe to a pattern", Options{Gate: "subscribe", Channel: "news/*"}, ""},
		{"publish on a pattern", Options{Gate: "publish", Channel: "news/*", Data: "1"}, "--channel news/*: "},
		{"bad name", Options{Gate: "subscribe", Channel: "/news"}, "--channel /news: "},
		{"publish", Options{Gate: "publish", Channel: "news", Data: `{"a":1}`}, ""},
		{"publish without quotes", Options{Gate: "publish", Channel: "news", Data: "hello"}, "--data is not JSON; write a string with its quotes"},
		{"deliver without quotes", Options{Gate: "deliver", Channel: "news", Data: "hello"}, "--data is not JSON"},
		{"claims", Options{Gate: "connect", Claims: `{"role":"editor"}`}, ""},
		{"claims that are a list", Options{Gate: "connect", Claims: "[1]"}, "--claims is not a JSON object: [1]"},
		{"attributes that are no JSON", Options{Gate: "connect", Attributes: "{"}, "--attributes is not a JSON object: {"},
		{"credentials", Options{Gate: "connect", Credentials: `"secret"`}, ""},
		{"credentials without quotes", Options{Gate: "connect", Credentials: "secret"}, "--credentials is not JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q, err := tc.o.question()
			wantError(t, err, tc.want)
			if err != nil {
				return
			}
			if string(q.Gate) != tc.o.Gate || q.Channel != tc.o.Channel || q.Pattern != strings.HasSuffix(tc.o.Channel, "*") {
				t.Errorf("the question is about %s of %q, a pattern: %t", q.Gate, q.Channel, q.Pattern)
			}
			if want := tc.o.Gate == "publish" || tc.o.Gate == "deliver"; (q.Message != nil) != want {
				t.Errorf("the question has the message %v", q.Message)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	for _, tc := range []struct {
		name string
		e    Endpoint
		o    Options
		url  string // empty for an error
		want string // in the error
	}{
		{"no host", Endpoint{Path: "/push"}, Options{}, "https://localhost/push", ""},
		{"plain HTTP", Endpoint{Path: "/push", HTTP: true}, Options{}, "http://localhost/push", ""},
		{"host of the site", Endpoint{Path: "/", Hosts: []caddyhttp.MatchHost{{"example.com", "other.com"}}}, Options{}, "https://example.com/", ""},
		{"wildcard", Endpoint{Path: "/push", Hosts: []caddyhttp.MatchHost{{"*.example.com"}}}, Options{}, "https://localhost/push", ""},
		{"placeholder", Endpoint{Path: "/push", Hosts: []caddyhttp.MatchHost{{"{env.HOST}"}}}, Options{}, "https://localhost/push", ""},
		{"site", Endpoint{Path: "/push", HTTP: true}, Options{Site: "a.example.com:8080"}, "http://a.example.com:8080/push", ""},
		{"site with a scheme", Endpoint{Path: "/push", HTTP: true}, Options{Site: "https://a.example.com"}, "https://a.example.com/push", ""},
		{"query", Endpoint{Path: "/push"}, Options{Query: "?a=b"}, "https://localhost/push?a=b", ""},
		{"site with another scheme", Endpoint{Path: "/push"}, Options{Site: "ftp://example.com"}, "", "--site ftp://example.com is not a site"},
		{"site without a host", Endpoint{Path: "/push"}, Options{Site: "https://"}, "", "is not a site"},
		{"bad address", Endpoint{Path: "/push"}, Options{IP: "localhost"}, "", "--ip localhost is not an address"},
		{"header without a colon", Endpoint{Path: "/push"}, Options{Headers: []string{"Cookie"}}, "", `--header "Cookie" is not a header field`},
		{"header without a name", Endpoint{Path: "/push"}, Options{Headers: []string{": x"}}, "", "is not a header field"},
		{"header Host", Endpoint{Path: "/push"}, Options{Headers: []string{"host: a"}}, "", "write the host with --site"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.o.IP == "" {
				tc.o.IP = "127.0.0.1"
			}
			r, err := tc.o.request(&tc.e)
			wantError(t, err, tc.want)
			if err != nil {
				return
			}
			if got := r.URL.String(); got != tc.url || (r.TLS != nil) != strings.HasPrefix(tc.url, "https:") {
				t.Errorf("the request is for %s, over TLS: %t; want %s", got, r.TLS != nil, tc.url)
			}
		})
	}
}

// The request has the address, the header fields and the user of the flags.
func TestRequestOfAClient(t *testing.T) {
	o := Options{IP: "2001:db8::1", User: "alice", Headers: []string{"Cookie: a=1", "cookie:b=2"}}
	r, err := o.request(&Endpoint{Path: "/push"})
	if err != nil {
		t.Fatal(err)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	user, _ := repl.GetString("http.auth.user.id")
	if r.RemoteAddr != "[2001:db8::1]:1024" || strings.Join(r.Header.Values("Cookie"), "; ") != "a=1; b=2" || user != "alice" {
		t.Errorf("the request is from %s, with the cookies %q and the user %q", r.RemoteAddr, r.Header.Values("Cookie"), user)
	}
}

func TestChoose(t *testing.T) {
	serves := func(host string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Host == host }
	}
	chat := &Endpoint{Name: "chat", Path: "/push", Mount: "chat /push", Serves: serves("a.example.com")}
	twin := &Endpoint{Name: "chat", Path: "/push", Mount: "chat /push", Serves: serves("a.example.com")}
	live := &Endpoint{Name: "chat", Path: "/live", Mount: "chat /live", Serves: serves("a.example.com")}
	news := &Endpoint{Name: "news", Path: "/push", Mount: "news /push", Serves: serves("b.example.com")}
	places := Places{"news /push": {"": "Caddyfile:7"}}
	for _, tc := range []struct {
		name string
		all  []*Endpoint
		o    Options
		want *Endpoint // nil for an error
		err  string
	}{
		{"none", nil, Options{}, nil, "there is no pushit in this configuration"},
		{"the only one", []*Endpoint{news}, Options{}, news, ""},
		{"the same on two servers", []*Endpoint{chat, twin}, Options{}, chat, ""},
		{"several", []*Endpoint{chat, news}, Options{}, nil, "there are several endpoints; choose one with --name, --path or --site: name chat, path /push (the JSON of the handler); name news, path /push (Caddyfile:7)"},
		{"by name", []*Endpoint{chat, news}, Options{Name: "news"}, news, ""},
		{"by path", []*Endpoint{chat, live}, Options{Path: "/live"}, live, ""},
		{"by site", []*Endpoint{chat, news}, Options{Site: "b.example.com"}, news, ""},
		{"no such name", []*Endpoint{chat, news}, Options{Name: "other"}, nil, "no endpoint matches --name, --path and --site; the endpoints are: name chat"},
		{"no such site", []*Endpoint{chat}, Options{Site: "c.example.com"}, nil, "no endpoint matches"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.IP = "127.0.0.1"
			e, r, err := tc.o.choose(tc.all, places)
			wantError(t, err, tc.err)
			if e != tc.want || (r == nil) != (tc.want == nil) {
				t.Errorf("the endpoint is %+v, and the request %v", e, r)
			}
		})
	}
}

func TestAdapterName(t *testing.T) {
	for _, tc := range []struct{ file, adapter, want string }{
		{"Caddyfile", "", "caddyfile"},
		{"site.conf", "", "caddyfile"},
		{"caddy.json", "", ""},
		{"CADDY.JSON", "", ""},
		{"caddy.json", "caddyfile", "caddyfile"},
		{"Caddyfile", "json", ""},
		{"caddy.yaml", "yaml", "yaml"},
	} {
		if got := (&Options{Config: tc.file, Adapter: tc.adapter}).adapterName(); got != tc.want {
			t.Errorf("the adapter of %s with --adapter %q is %q, want %q", tc.file, tc.adapter, got, tc.want)
		}
	}
}

// An error says which file is wrong. No endpoint is asked for then.
func TestLoadFails(t *testing.T) {
	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, tc := range map[string]struct {
		file, adapter, want string
	}{
		"no file":           {filepath.Join(t.TempDir(), "missing"), "", "missing: no such file"},
		"no adapter":        {write("a.toml", ""), "toml", `there is no config adapter "toml"`},
		"bad Caddyfile":     {write("Caddyfile", "localhost {\n"), "", "adapting "},
		"bad JSON":          {write("a.json", "{"), "", "a.json: "},
		"unknown field":     {write("b.json", `{"ap":{}}`), "", "b.json: "},
		"cannot be started": {write("c.json", `{"apps":{"nothing":{}}}`), "", "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Config: tc.file, Adapter: tc.adapter}
			_, _, err := o.load(func(<-chan struct{}) []*Endpoint {
				t.Error("endpoints were asked for")
				return nil
			})
			wantError(t, err, tc.want)
		})
	}
}

// The endpoints are those of the configuration that was loaded, and places is filled in by
// the adapter.
func TestLoad(t *testing.T) {
	o := options(t)
	e := endpoint(t, "chat", nil)
	var generation <-chan struct{}
	all, places, err := o.load(func(done <-chan struct{}) []*Endpoint {
		generation = done
		return []*Endpoint{e}
	})
	if err != nil || len(all) != 1 || all[0] != e || places == nil {
		t.Fatalf("the endpoints are %v, the places %v, the error %v", all, places, err)
	}
	if generation == nil {
		t.Error("the configuration has no end by which its endpoints can be found")
	}
	if got := places.of(e, ""); got != "the JSON of the handler" {
		t.Errorf("the handler is at %q", got)
	}
	if got := places.of(e, "gates.publish"); got != "gates.publish" {
		t.Errorf("the gate is at %q", got)
	}
	places[e.Mount] = map[string]string{"": "Caddyfile:1", "gates.publish": "Caddyfile:2"}
	if got := places.of(e, "") + " " + places.of(e, "gates.publish"); got != "Caddyfile:1 Caddyfile:2" {
		t.Errorf("they are at %q", got)
	}
}

func TestRun(t *testing.T) {
	pass, deny := answers(guards.Answer{Kind: guards.Pass}), answers(guards.Answer{Kind: guards.Deny, Reason: "not you"})
	unavailable := answers(guards.Answer{Kind: guards.Unavailable, Err: errors.New("no route to the backend")})
	login := answers(guards.Answer{Kind: guards.Pass, Learned: guards.Learned{User: "alice", Claims: map[string]any{"role": "<b>"}, Subscribe: []string{"news"}}})
	isAlice := decision(func(q *guards.Question) guards.Answer {
		if q.User() != "alice" {
			return guards.Answer{Kind: guards.Deny}
		}
		return guards.Answer{Kind: guards.Pass}
	})
	transform := func(expression string) *guards.GateConfig {
		g := gate(pass)
		g.Transform = expression
		return g
	}
	recheck, discard := gate(login), gate(pass)
	recheck.Recheck, discard.Discard = 5*time.Minute, true
	policy := &guards.PolicyConfig{
		Default: guards.DefaultDeny,
		Gates:   map[hub.GateName]*guards.GateConfig{"connect": recheck, "subscribe": gate(deny), "unsubscribe": gate(unavailable)},
		Blocks: []guards.BlockConfig{
			{Match: []string{"users/*"}, Patterns: true, Where: "channels[0]", Gates: map[hub.GateName]*guards.GateConfig{
				"subscribe": gate(answers(guards.Answer{}), isAlice), "history": gate(isAlice), "publish": transform(`{"from": agent.user}`), "deliver": transform("message.data.text"),
			}},
			{Match: []string{"void"}, Where: "channels[1]", Gates: map[hub.GateName]*guards.GateConfig{"publish": discard}},
		},
	}
	begin := "endpoint   pushit at the JSON of the handler, name chat, path /push\n"
	connected := "gate       connect\nwritten    gates.connect\nguard      a: pass\nverdict    allowed\nuser       \"alice\"\nclaims     {\"role\":\"<b>\"}\nsubscribe  [\"news\"]\nrecheck    5m0s\n"
	for _, tc := range []struct {
		name    string
		policy  *guards.PolicyConfig
		o       Options
		allowed bool
		want    string // after begin
	}{
		{"no policy", nil, Options{Gate: "publish", Channel: "news"}, true, "gate       publish news\nwritten    nowhere: there is no gate at all\nverdict    allowed: there is no gate\n"},
		{"a reason", policy, Options{Gate: "subscribe", Channel: "news"}, false, "gate       subscribe news\nwritten    gates.subscribe\nguard      a: deny, \"not you\"\nverdict    refused, denied: not you\n"},
		{"a failure", policy, Options{Gate: "unsubscribe", Channel: "news"}, false, "gate       unsubscribe news\nwritten    gates.unsubscribe\nguard      a: unavailable (no route to the backend)\nverdict    refused, unavailable: could not check whether this is allowed; try again\n"},
		{"the default", policy, Options{Gate: "publish", Channel: "news"}, false, "gate       publish news\nwritten    nowhere, so default deny applies\nguard      default deny: deny\nverdict    refused, denied: this is not allowed\n"},
		{"connect", policy, Options{Gate: "connect"}, true, connected},
		{"connect first", policy, Options{Gate: "subscribe", Channel: "users/bob", Connect: true}, true, connected + "gate       subscribe users/bob\nwritten    channels[0].gates.subscribe, in channel users/* (channels[0])\nguard      a: abstain\nguard      b: pass\nverdict    allowed\n"},
		{"not connected", policy, Options{Gate: "subscribe", Channel: "users/bob"}, false, "gate       subscribe users/bob\nwritten    channels[0].gates.subscribe, in channel users/* (channels[0])\nguard      a: abstain\nguard      b: deny\nverdict    refused, denied: this is not allowed\n"},
		{"credentials imply connect", policy, Options{Gate: "publish", Channel: "void", Credentials: "1"}, true, connected + "gate       publish void\nwritten    channels[1].gates.publish, in channel void (channels[1])\nguard      a: pass\nverdict    allowed\ndiscarded  the message is acknowledged, but goes nowhere\n"},
		{"a pattern", policy, Options{Gate: "subscribe", Channel: "users/*", Connect: true}, true, connected + "gate       subscribe users/*\nwritten    channels[0].gates.subscribe, in channel users/* (channels[0])\nguard      a: abstain\nguard      b: pass\nverdict    allowed\n"},
		{"a pattern of several blocks", policy, Options{Gate: "subscribe", Channel: "*"}, false, "gate       subscribe *\nverdict    refused, denied: you cannot subscribe to patterns here; subscribe to the channels\n"},
		{"history", policy, Options{Gate: "history", Channel: "users/*"}, false, "gate       history users/*\nwritten    channels[0].gates.history, in channel users/* (channels[0])\nguard      a: deny\nverdict    refused, denied: this is not allowed\n"},
		{"history by subscribe", policy, Options{Gate: "history", Channel: "news"}, false, "gate       history news\nwritten    nowhere, so the gate subscribe decides\ngate       subscribe news\nwritten    gates.subscribe\nguard      a: deny, \"not you\"\nverdict    refused, denied: not you\n"},
		{"history of several blocks", policy, Options{Gate: "history", Channel: "*"}, false, "gate       history *\nverdict    refused, denied: you cannot get kept messages of patterns here; ask for those of the channels\n"},
		{"transform", policy, Options{Gate: "publish", Channel: "users/bob", Connect: true}, true, connected + "gate       publish users/bob\nwritten    channels[0].gates.publish, in channel users/* (channels[0])\nguard      a: pass\nverdict    allowed\ndata       {\"from\":\"alice\"}\n"},
		{"transform of a delivery", policy, Options{Gate: "deliver", Channel: "users/bob", Data: `{"text":"hi"}`}, true, "gate       deliver users/bob\nwritten    channels[0].gates.deliver, in channel users/* (channels[0])\nguard      a: pass\nverdict    allowed\ndata       \"hi\"\n"},
		{"transform that fails", policy, Options{Gate: "deliver", Channel: "users/bob"}, false, "gate       deliver users/bob\nwritten    channels[0].gates.deliver, in channel users/* (channels[0])\nguard      a: pass\nguard      transform: deny, \"this channel does not accept this data: it lacks the member text\" (transform: no such key: text)\nverdict    refused, invalid: this channel does not accept this data: it lacks the member text\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, e := options(t), endpoint(t, "chat", tc.policy)
			cleanups := 0
			e.Cleanup = func() error { cleanups++; return nil }
			o.Gate, o.Channel, o.Connect, o.Credentials = tc.o.Gate, tc.o.Channel, tc.o.Connect, tc.o.Credentials
			if tc.o.Data != "" {
				o.Data = tc.o.Data
			}
			var out strings.Builder
			allowed, err := o.Run(t.Context(), &out, having(e))
			if err != nil || allowed != tc.allowed || cleanups != 1 {
				t.Errorf("allowed: %t, want %t; error %v; cleaned up %d times", allowed, tc.allowed, err, cleanups)
			}
			if got := out.String(); got != begin+tc.want {
				t.Errorf("the output is\n%swant\n%s%s", got, begin, tc.want)
			}
		})
	}
}

// The places of guards, gates and blocks are shown as file and line.
func TestRunShowsPlaces(t *testing.T) {
	e := endpoint(t, "chat", &guards.PolicyConfig{Default: guards.DefaultDeny, Blocks: []guards.BlockConfig{{
		Match: []string{"news"}, Where: "channels[0]",
		Gates: map[hub.GateName]*guards.GateConfig{"subscribe": gate(answers(guards.Answer{Kind: guards.Pass}))},
	}}})
	var out strings.Builder
	x := explanation{Endpoint: e, out: &out, places: Places{e.Mount: {
		"channels[0]": "Caddyfile:3", "channels[0].gates.subscribe": "Caddyfile:4", "channels[0].gates.subscribe.guards[0]": "Caddyfile:5",
	}}}
	agent, err := e.Open(hub.Opening{})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Left("the test is over")
	x.ask(t.Context(), &hub.Question{Gate: hub.GateSubscribe, Channel: "news", Agent: agent, Identity: new(hub.Identity)})
	const want = "gate       subscribe news\nwritten    Caddyfile:4, in channel news (Caddyfile:3)\nguard      a (Caddyfile:5): pass\nverdict    allowed\n"
	if out.String() != want {
		t.Errorf("the output is\n%swant\n%s", out.String(), want)
	}
}

// If the server would refuse to open the session, no gate is asked.
func TestRunRefusedSession(t *testing.T) {
	o, e := options(t), endpoint(t, "chat", nil)
	o.Gate = "connect"
	e.Opening = func(*http.Request) (hub.Opening, *hub.Refusal) {
		return hub.Opening{}, &hub.Refusal{Code: hub.CodeInvalid, Reason: "the tenant cannot be determined"}
	}
	var out strings.Builder
	allowed, err := o.Run(t.Context(), &out, having(e))
	if err != nil || allowed || !strings.HasSuffix(out.String(), "session    refused: the tenant cannot be determined\n") {
		t.Errorf("allowed: %t; error %v; output\n%s", allowed, err, out.String())
	}
}

// If the connect gate refuses, the gate that was asked for is not asked.
func TestRunStopsAtConnect(t *testing.T) {
	asked := false
	e := endpoint(t, "chat", &guards.PolicyConfig{Default: guards.DefaultDeny, Gates: map[hub.GateName]*guards.GateConfig{
		"connect": gate(answers(guards.Answer{Kind: guards.Deny})),
		"subscribe": gate(decision(func(*guards.Question) guards.Answer {
			asked = true
			return guards.Answer{Kind: guards.Pass}
		})),
	}})
	o := options(t)
	o.Gate, o.Channel, o.Connect = "subscribe", "news", true
	var out strings.Builder
	if allowed, err := o.Run(t.Context(), &out, having(e)); err != nil || allowed || asked || strings.Contains(out.String(), "subscribe") {
		t.Errorf("allowed: %t; error %v; subscribe asked: %t; output\n%s", allowed, err, asked, out.String())
	}
}

// A user that the site has authenticated is not repeated as what the connect gate learned.
func TestRunShowsOnlyLearnedUsers(t *testing.T) {
	login := answers(guards.Answer{Kind: guards.Pass, Learned: guards.Learned{User: "alice"}})
	e := endpoint(t, "chat", &guards.PolicyConfig{Default: guards.DefaultDeny, Gates: map[hub.GateName]*guards.GateConfig{"connect": gate(login)}})
	e.Opening = func(*http.Request) (hub.Opening, *hub.Refusal) { return hub.Opening{User: "bob"}, nil }
	o := options(t)
	o.Gate = "connect"
	var out strings.Builder
	if allowed, err := o.Run(t.Context(), &out, having(e)); err != nil || !allowed || strings.Contains(out.String(), "user") {
		t.Errorf("allowed: %t; error %v; output\n%s", allowed, err, out.String())
	}
}

// A brokenWriter fails at the second line, and then works again.
type brokenWriter struct {
	writes int
	cause  error
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.writes++; w.writes == 2 {
		return 0, w.cause
	}
	return len(p), nil
}

// If a line cannot be written, Run returns the error and writes no further lines.
func TestRunReportsAWriteError(t *testing.T) {
	o, e := options(t), endpoint(t, "chat", nil)
	o.Gate = "connect"
	w := &brokenWriter{cause: errors.New("the disk is full")}
	if _, err := o.Run(t.Context(), w, having(e)); !errors.Is(err, w.cause) || w.writes != 2 {
		t.Errorf("error %v after %d writes, want %v after 2", err, w.writes, w.cause)
	}
}
