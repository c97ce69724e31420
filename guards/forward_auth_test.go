// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

func TestForwardAuthAsks(t *testing.T) {
	u := newServer(t, statusOnly(204))
	g := remoteGuardOf(t, `forward_auth %s {
		uri /auth?gate={pushit.gate}&channel={pushit.channel}
		header_up X-User {http.auth.user.id}
	}`, u.addr())
	a := newAsker(t, func(o *hub.Opening) {
		o.Scheme, o.User, o.URI = "https", "bob", "/push?x=1"
		o.Header = snapshotOf("Cookie", "sid=1", "Authorization", "Bearer x", "Accept-Encoding", "gzip", "Content-Length", "5", "X-Forwarded-For", "6.6.6.6")
	})
	wantKind(t, "forward_auth", a.ask(g, "stories/5"), Pass)
	r, body := u.last(t)
	for _, test := range []struct{ what, got, want string }{
		{"method", r.Method, "GET"},
		{"URI", r.RequestURI, "/auth?gate=subscribe&channel=stories%2F5"},
		{"host", r.Host, "example.com"},
		{"body", body, ""},
		{"Cookie", r.Header.Get("Cookie"), "sid=1"},
		{"Authorization", r.Header.Get("Authorization"), "Bearer x"},
		{"X-User", r.Header.Get("X-User"), "bob"},
		{"X-Forwarded-For", r.Header.Get("X-Forwarded-For"), "192.0.2.7"},
		{"X-Forwarded-Proto", r.Header.Get("X-Forwarded-Proto"), "https"},
		{"X-Forwarded-Host", r.Header.Get("X-Forwarded-Host"), "example.com"},
		{"X-Forwarded-Method", r.Header.Get("X-Forwarded-Method"), "GET"},
		{"X-Forwarded-Uri", r.Header.Get("X-Forwarded-Uri"), "/push?x=1"},
		{"Content-Length", r.Header.Get("Content-Length"), ""},
	} {
		if test.got != test.want {
			t.Errorf("%s = %q, want %q", test.what, test.got, test.want)
		}
	}
}

// Behind a trusted proxy, the backend sees the address of the client, followed by that of
// the proxy.
func TestForwardAuthBehindAProxy(t *testing.T) {
	u := newServer(t, statusOnly(204))
	g := remoteGuardOf(t, "forward_auth %s {\nuri /auth\ntrusted_proxies 10.0.0.0/8\n}", u.addr())
	a := newAsker(t, func(o *hub.Opening) {
		o.RemoteAddr, o.RemoteIP = "10.0.0.2:5000", netip.MustParseAddr("203.0.113.9")
		o.Header = snapshotOf("X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https")
	})
	wantKind(t, "forward_auth", a.ask(g, "news"), Pass)
	r, _ := u.last(t)
	if got := r.Header.Get("X-Forwarded-For"); got != "203.0.113.9, 10.0.0.2" || r.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("X-Forwarded-For = %q, -Proto = %q", got, r.Header.Get("X-Forwarded-Proto"))
	}
}

func TestForwardAuthLearns(t *testing.T) {
	said := http.Header{}
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), said)
		w.WriteHeader(http.StatusOK)
	})
	g := remoteGuardOf(t, "forward_auth %s {\nuri /auth\nuser_header Remote-User\ncopy_headers Remote-Groups Remote-Mail>X-Mail\n}", u.addr())
	if got, want := g.(HeaderLearner).LearnsHeaders(), []string{"Remote-Groups", "Remote-User", "X-Mail"}; !reflect.DeepEqual(got, want) {
		t.Fatalf("learns %v, want %v", got, want)
	}
	a := newAsker(t, nil).learning(g)
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	said = http.Header{
		"Remote-User": {"bob"}, "Remote-Groups": {"staff", "editors"}, "Remote-Mail": {"bob@example.com"},
		"Pushit-Grant": {"stories/5  users/bob/*"}, "Pushit-Subscribe": {"users/bob"}, "Pushit-Expires": {at.Format(http.TimeFormat)},
	}
	l := g.Decide(t.Context(), a.question(hub.GateConnect, "")).Learned
	want := Learned{
		User: "bob", UserBy: UserByHeader, Grants: []string{"stories/5", "users/bob/*"}, Subscribe: []string{"users/bob"},
		Header: []hub.HeaderField{{Name: "Remote-Groups", Value: "staff,editors"}, {Name: "Remote-User", Value: "bob"}, {Name: "X-Mail", Value: "bob@example.com"}},
	}
	if !l.Expires.Equal(at) {
		t.Errorf("expires %v, want %v", l.Expires, at)
	}
	l.Expires = time.Time{}
	if !reflect.DeepEqual(l, want) {
		t.Errorf("learned %+v\nwant    %+v", l, want)
	}
	// Grants count only at connect. What the backend does not repeat is forgotten.
	said = http.Header{"Remote-User": {"bob"}, "Pushit-Grant": {"x"}, "Pushit-Subscribe": {"y"}, "Pushit-Expires": {"60"}}
	q := a.question(hub.GateSubscribe, "news")
	q.Learned = want
	l = g.Decide(t.Context(), q).Learned
	if l.Grants != nil || l.Subscribe != nil || time.Until(l.Expires) > time.Minute || time.Until(l.Expires) < 50*time.Second {
		t.Errorf("learned at subscribe: %+v", l)
	}
	q.Learned.merge(&l)
	r, err := q.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("Remote-User") != "bob" || r.Header.Get("X-Mail") != "" || r.Header.Get("Remote-Groups") != "" {
		t.Errorf("the next guard sees %v", r.Header)
	}
}

// What a backend says counts only if it passes and makes sense.
func TestForwardAuthAnswers(t *testing.T) {
	var name, value string
	code := http.StatusOK
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(name, value)
		w.WriteHeader(code)
	})
	g := remoteGuardOf(t, "forward_auth %s {\nuri /auth\nuser_header Remote-User\n}", u.addr())
	ask := newAsker(t, nil).learning(g)
	for _, test := range []struct {
		name, value string
		kind        Kind
	}{
		{"Pushit-Expires", "60", Pass},
		{"Pushit-Expires", "0", Unavailable},
		{"Pushit-Expires", "-5", Unavailable},
		{"Pushit-Expires", "soon", Unavailable},
		{"Pushit-Expires", "1893456000", Unavailable}, // seconds since 1970
		{"Pushit-Expires", "99999999999999999999", Unavailable},
		{"Pushit-Expires", "Mon, 02 Jan 2006 15:04:05 GMT", Unavailable},
		{"Pushit-Grant", "a b/*", Pass},
		{"Pushit-Grant", "*", Pass},
		{"Pushit-Grant", "", Pass},
		{"Pushit-Grant", "a,b", Unavailable},
		{"Pushit-Grant", "a, b", Unavailable},
		{"Pushit-Grant", "n*", Unavailable},
		{"Pushit-Grant", "../a", Unavailable},
		{"Pushit-Grant", "/meta/connect", Unavailable},
		{"Pushit-Grant", strings.Repeat("a ", maxGrants+1), Unavailable},
		{"Pushit-Subscribe", "a", Pass},
		{"Pushit-Subscribe", "a//b", Unavailable},
		{"Pushit-Subscribe", strings.Repeat("a ", maxSubscribe+1), Unavailable},
		{"Remote-User", strings.Repeat("x", upstream.MaxAnswer), Unavailable},
	} {
		name, value = test.name, test.value
		a := g.Decide(t.Context(), ask.question(hub.GateConnect, ""))
		wantKind(t, fmt.Sprintf("%s: %.40s", name, value), a, test.kind)
		if a.Kind != Pass && !reflect.DeepEqual(a.Learned, Learned{}) {
			t.Errorf("%s: %.40s: learned %+v", name, value, a.Learned)
		}
	}
	code = http.StatusForbidden
	for _, name = range []string{"Pushit-Grant", "Pushit-Subscribe", "Remote-User"} {
		value = "admin"
		if a := g.Decide(t.Context(), ask.question(hub.GateConnect, "")); a.Kind != Deny || !reflect.DeepEqual(a.Learned, Learned{}) {
			t.Errorf("a denial with %s: %s, learned %+v", name, a.Kind, a.Learned)
		}
	}
}

// Only a 2xx passes, also if a handler for other responses lets one through.
func TestForwardAuthHandlesResponses(t *testing.T) {
	u := newServer(t, statusOnly(http.StatusUnauthorized))
	for block, kind := range map[string]Kind{
		"@bad status 401\nhandle_response @bad {\nvars a b\n}":        Deny,
		"@bad status 401\nhandle_response @bad {\nrespond no 503\n}":  Unavailable,
		"@bad status 401\nhandle_response @bad {\nrespond yes 200\n}": Unavailable,
		"@bad status 401\nreplace_status @bad 200":                    Unavailable,
		"@bad status 401\nreplace_status @bad 503":                    Unavailable,
		"@bad status 401\nreplace_status @bad 404":                    Deny,
	} {
		g := remoteGuardOf(t, "forward_auth %s {\nuri /auth\n%s\n}", u.addr(), block)
		wantKind(t, block, newAsker(t, nil).ask(g, "news"), kind)
	}
}

func TestForwardAuthNoStore(t *testing.T) {
	control := "no-store"
	code := http.StatusOK
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", control)
		w.WriteHeader(code)
	})
	for _, guard := range []string{"forward_auth %s {\nuri /auth\ncache 1h\n}", "route {\nforward_auth %s {\nuri /auth\n}\ncache 1h\n}"} {
		for _, test := range []struct {
			control string
			code    int
			asked   int
		}{
			{"no-store", 200, 2}, {"private, No-Store", 200, 2}, {"private", 200, 1}, {"", 200, 1}, {"no-store", 403, 2}, {"", 403, 1},
		} {
			control, code = test.control, test.code
			g := remoteGuardOf(t, guard, u.addr())
			before := u.times()
			ask := newAsker(t, nil)
			ask.ask(g, "news")
			ask.ask(g, "news")
			if n := u.times() - before; n != test.asked {
				t.Errorf("%s: Cache-Control: %s, %d: asked %d times, want %d", guard, control, code, n, test.asked)
			}
		}
	}
}

func TestForwardAuthIsPresentedSomething(t *testing.T) {
	g := remoteGuardOf(t, "forward_auth localhost:1 {\nuri /auth?t={query.token}\nheader_up X-Key {header.X-Api-Key}\n}").(Presenter)
	named := remoteGuardOf(t, "forward_auth localhost:1 {\nuri /auth?t={pushit.agent.credentials}\n}").(Presenter)
	for what, test := range map[string]struct {
		change      func(*hub.Opening)
		credentials string
		some, named bool
	}{
		"nothing":       {func(*hub.Opening) {}, "", false, false},
		"a cookie":      {func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "a=b") }, "", true, true},
		"authorization": {func(o *hub.Opening) { o.Header = snapshotOf("Authorization", "x") }, "", true, true},
		"a token":       {func(o *hub.Opening) { o.URI = "/push?token=x" }, "", true, false},
		"another query": {func(o *hub.Opening) { o.URI = "/push?other=x" }, "", false, false},
		"a header":      {func(o *hub.Opening) { o.Header = snapshotOf("X-Api-Key", "x") }, "", true, false},
		"credentials":   {func(*hub.Opening) {}, `"x"`, false, true},
	} {
		q := newAsker(t, test.change).question(hub.GateSubscribe, "news")
		q.Credentials = []byte(test.credentials)
		if g.Presented(q) != test.some || named.Presented(q) != test.named {
			t.Errorf("%s: presented %v and %v, want %v and %v", what, g.Presented(q), named.Presented(q), test.some, test.named)
		}
	}
}

func TestForwardAuthInACaddyfile(t *testing.T) {
	raw, err := parseRemote("forward_auth a:1 b:2 {\n\turi /auth\n\tuser_header Remote-User\n\tcache 10s\n\tkey {pushit.agent.user} {pushit.channel}\n\tin_flight 8\n\tlb_policy first\n}")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"guard":"forward_auth"`, `"user_header":"Remote-User"`, `"cache":10000000000`, `"key":["{pushit.agent.user}","{pushit.channel}"]`, `"in_flight":8`,
		`"handler":{"handle_response":`, `"upstreams":[{"dial":"a:1"},{"dial":"b:2"}]`, `"rewrite":{"method":"GET","uri":"/auth"}`, `"policy":"first"`, `"Remote-User":["{http.reverse_proxy.header.Remote-User}"]`,
	} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("there is no %s in %s", part, raw)
		}
	}
	for text, words := range map[string]string{
		"forward_auth a:1":                                                          "forward_auth needs a block; write: forward_auth localhost:8080 { uri /auth }, at Caddyfile:4",
		"forward_auth a:1 {\n}":                                                     "forward_auth needs a block",
		"forward_auth a:1 {\ncopy_headers X\n}":                                     "forward_auth needs the path to ask at the upstream: uri /auth, at Caddyfile:4",
		"forward_auth a:1 {\nuri\n}":                                                "uri /auth, at Caddyfile:5",
		"forward_auth a:1 {\nuri auth\n}":                                           "uri /auth, at Caddyfile:5",
		"forward_auth a:1 {\nuri /a /b\n}":                                          "uri /auth, at Caddyfile:5",
		"forward_auth a:1 {\nuri /a\nuri /b\n}":                                     "uri is written twice, at Caddyfile:6",
		"forward_auth {\nuri /auth\n}":                                              "forward_auth needs an upstream to ask: forward_auth localhost:8080 { … }, at Caddyfile:4",
		"forward_auth @example a:1 {\nuri /auth\n}":                                 "forward_auth takes no matcher: requests that @example does not match would pass unchecked; if you want that, write route { … }, at Caddyfile:4",
		"forward_auth /path a:1 {\nuri /auth\n}":                                    "forward_auth takes no matcher",
		"forward_auth a:1 {\nuri /auth\nmethod POST\n}":                             "to send the question itself, write ask, at Caddyfile:6",
		"forward_auth a:1 {\nuri /auth\nrewrite /x\n}":                              "forward_auth has no rewrite: write the path with uri",
		"forward_auth a:1 {\nuri /auth\nuser_header\n}":                             "user_header takes the header field of the answer that has the user's name: user_header Remote-User, at Caddyfile:6",
		"forward_auth a:1 {\nuri /auth\nuser_header A>B\n}":                         "user_header takes",
		"forward_auth a:1 {\nuri /auth\nuser_header A\nuser_header B\n}":            "user_header is written twice, at Caddyfile:7",
		"forward_auth a:1 {\nuri /auth\nnonsense x\n}":                              "unrecognized subdirective nonsense, at Caddyfile:6",
		"forward_auth a:1 {\nuri /auth\ntransport nonsense\n}":                      "nonsense",
		"forward_auth a:1 {\nuri /auth\nhandle_response @nobody {\nrespond x\n}\n}": "nobody",
		"forward_auth http://a:1/path {\nuri /auth\n}":                              "components, at Caddyfile:4",
	} {
		_, err := parseRemote(text)
		if !says(err, words) {
			t.Errorf("%s\n  error: %v\n  want:  … %s …", text, err, words)
		}
		if err != nil && (strings.Count(err.Error(), ", at ") != 1 && !strings.Contains(text, "nobody")) {
			t.Errorf("%s\n  error that is not at one place: %v", text, err)
		}
	}
	// user_header copies the field, also next to copy_headers.
	for _, text := range []string{
		"forward_auth a:1 {\nuri /auth\nuser_header X-User\ncopy_headers A>X-User\n}",
		"forward_auth {\nto a:1\nuri /auth\nuser_header X-User\nheader_up A b\n}",
		"forward_auth a:1 {\nuri /auth\nheader_up A b\nuser_header x-user\n}",
	} {
		if learns := remoteGuardOf(t, "%s", text).(HeaderLearner).LearnsHeaders(); !reflect.DeepEqual(learns, []string{"X-User"}) {
			t.Errorf("%s: learns %v", text, learns)
		}
	}
	if _, err := loadRemote(t, []byte(`{"guard":"forward_auth","user_header":"X-User","handler":{"handler":"reverse_proxy"}}`)); !says(err, "does not copy") {
		t.Errorf("JSON with a user_header that is not copied: %v", err)
	}
	if _, err := loadRemote(t, []byte(`{"guard":"forward_auth"}`)); !says(err, "handler is missing") {
		t.Errorf("JSON without a handler: %v", err)
	}
	if _, err := loadRemote(t, []byte(`{"guard":"forward_auth","handler":{"handler":"reverse_proxy","rewrite":{"uri":"/x/{pushit.channel}"}}}`)); !says(err, "write {pushit.escaped.channel}") {
		t.Errorf("JSON with a raw placeholder in a path: %v", err)
	}
}

// The tokens of a guard may come from several places: snippets, guards around it, nested
// blocks.
func TestGuardsFromSnippets(t *testing.T) {
	remoteParsedMu.Lock()
	defer remoteParsedMu.Unlock()
	const config = `
(backend) {
	uri /auth?for={args[0]}
	user_header Remote-User
	header_up X-A b
}
(whole) {
	forward_auth {args[0]} {
		import backend whole
		cache {args[1]}
	}
}
(routed) {
	@internal client_ip private_ranges
	respond @internal 403
}
http://example.com {
	@elsewhere host elsewhere.example.com
	DIRECTIVE {
		GUARD
	}
}
`
	adapt := func(guard string) (string, error) {
		remoteParsed = nil
		text := strings.NewReplacer("DIRECTIVE", remoteDirective, "GUARD", guard).Replace(config)
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		return string(remoteParsed), err
	}
	for guard, parts := range map[string][]string{
		"import whole a:1 5s": {`"uri":"/auth?for=whole"`, `"dial":"a:1"`, `"cache":5000000000`, `"user_header":"Remote-User"`},
		"forward_auth a:1 {\nimport backend x\nin_flight 2\n}":        {`"uri":"/auth?for=x"`, `"in_flight":2`, `"Remote-User":["{http.reverse_proxy.header.Remote-User}"]`},
		"optional forward_auth a:1 {\nimport backend x\n}":            {`"guard":"optional"`, `"guard":"forward_auth"`, `"uri":"/auth?for=x"`},
		"any {\nask a:1 {\nuri /ask\n}\nroute {\nimport routed\n}\n}": {`"guard":"ask"`, `"guard":"route"`, `"client_ip"`},
		"route {\nimport routed\nrespond @elsewhere 404\n}":           {`"client_ip"`, `elsewhere.example.com`},
	} {
		raw, err := adapt(guard)
		if err != nil {
			t.Errorf("%s: %v", guard, err)
		}
		for _, part := range parts {
			if !strings.Contains(raw, part) {
				t.Errorf("%s: there is no %s in %s", guard, part, raw)
			}
		}
	}
	for guard, words := range map[string]string{
		"import whole a:1 soon":                                  `not "soon", at Caddyfile:10`,
		"forward_auth a:1 {\nimport backend {pushit.chanel}\n}":  "did you mean {pushit.channel}?, at Caddyfile:3",
		"forward_auth a:1 {\nimport backend x\nuser_header B\n}": "user_header is written twice, at Caddyfile:22",
	} {
		if _, err := adapt(guard); !says(err, words) {
			t.Errorf("%s: %v, want %s", guard, err, words)
		}
	}
}
