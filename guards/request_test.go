// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// replacedIn returns a template with its placeholders replaced on the request of a
// question.
func replacedIn(t *testing.T, q *Question, template string) (string, error) {
	t.Helper()
	r, err := q.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll(template, "")
	return text, upstream.Unanswerable(r)
}

func TestRequestOfASnapshot(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) {
		o.Scheme, o.Host, o.URI = "https", "shop.example.com:8443", "/live/push?token=a%2Fb&x="
		o.User = "bob"
		o.RemoteIP, o.RemoteAddr = netip.MustParseAddr("203.0.113.9"), "10.0.0.2:5000" // behind a proxy
		o.Header = snapshotOf("Cookie", "sid=1", "X-Many", "1", "X-Many", "2", "X-Forwarded-For", "203.0.113.9")
	})
	r, err := a.question(hub.GateSubscribe, "news").Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ what, got, want string }{
		{"method", r.Method, "GET"},
		{"path", r.URL.Path, "/live/push"},
		{"query", r.URL.RawQuery, "token=a%2Fb&x="},
		{"request URI", r.RequestURI, "/live/push?token=a%2Fb&x="},
		{"host", r.Host, "shop.example.com:8443"},
		{"far end", r.RemoteAddr, "10.0.0.2:5000"},
		{"X-Many", strings.Join(r.Header["X-Many"], "|"), "1|2"},
		{"X-Forwarded-For", r.Header.Get("X-Forwarded-For"), "203.0.113.9"},
		{"client IP", caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string), "203.0.113.9"},
	} {
		if test.got != test.want {
			t.Errorf("%s = %q, want %q", test.what, test.got, test.want)
		}
	}
	if r.TLS == nil {
		t.Error("a site on https gives a request without TLS")
	}
	got, err := replacedIn(t, a.question(hub.GateSubscribe, "news"),
		"{http.auth.user.id} {http.request.scheme} {http.request.host} {http.request.host.labels.2} {http.request.cookie.sid} {http.request.uri.query.token} {http.request.header.X-Many} {http.request.remote.host} {http.vars.client_ip} {http.request.orig_uri.path}")
	if want := "bob https shop.example.com shop 1 a/b 1,2 10.0.0.2 203.0.113.9 /live/push"; got != want || err != nil {
		t.Errorf("Caddy's placeholders = %q, %v, want %q", got, err, want)
	}
}

// Header fields that guards set are not taken from clients, and fields about the client's
// connection or exchange are not passed on.
func TestRequestDropsWhatIsNotToBeBelieved(t *testing.T) {
	sent := []string{
		"Remote-User", "Pushit-Grant", "Pushit-Anything", "Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Protocol",
		"Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Te", "Trailer", "Proxy-Authorization", "Keep-Alive",
		"Http2-Settings", "Expect", "If-None-Match", "Range", "Accept-Encoding", "X-Http-Method-Override", "X-Original-Url", "X-Rewrite-Url", "Host",
	}
	var pairs []string
	for _, name := range sent {
		pairs = append(pairs, name, "evil")
	}
	a := newAsker(t, func(o *hub.Opening) {
		o.Header = snapshotOf(append(pairs, "remote-user", "evil", "Remote_User", "evil", "X_Original_Url", "evil", "Pushit_Grant", "evil", "Authorization", "Bearer x", "Origin", "http://example.com")...)
	})
	a.env.Learned = []string{"Remote-User", "X-Role"}
	q := a.question(hub.GateSubscribe, "news")
	r, err := q.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name := range r.Header {
		if !slices.Contains([]string{"Authorization", "Origin"}, name) {
			t.Errorf("%s: %q was let through", name, r.Header[name])
		}
	}
	q.Learned.Header = []hub.HeaderField{{Name: "Remote-User", Value: "ann"}, {Name: "X-Role", Value: "editor"}, {Name: "Remote-User", Value: "bob"}, {Name: "X-Role", Value: ""}}
	if r, err = q.Request(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.Header["Remote-User"]; len(got) != 1 || got[0] != "bob" {
		t.Errorf("Remote-User = %q, want what the last guard learned", got)
	}
	if _, isThere := r.Header["X-Role"]; isThere {
		t.Error("a field that the last guard unlearned is still there")
	}
}

func TestRequestsAreOfTheirOwn(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) { o.Header = snapshotOf("X-A", "1") })
	q := a.question(hub.GateSubscribe, "news")
	first, err := q.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first.Header.Set("X-A", "2")
	first.URL.Path = "/elsewhere"
	caddyhttp.SetVar(first.Context(), "a", "b")
	second, err := q.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second.Header.Get("X-A") != "1" || second.URL.Path != "/push" || caddyhttp.GetVar(second.Context(), "a") != nil {
		t.Error("what was done to one request shows in another")
	}
}

// The user is the one that the site has authenticated, or else the one that a guard has
// named.
func TestRequestUser(t *testing.T) {
	for _, test := range []struct{ opening, learned, want string }{
		{"", "", ""}, {"bob", "", "bob"}, {"", "ann", "ann"}, {"bob", "ann", "bob"},
	} {
		a := newAsker(t, func(o *hub.Opening) { o.User = test.opening })
		q := a.question(hub.GateSubscribe, "news")
		q.Learned.User = test.learned
		if got, err := replacedIn(t, q, "{http.auth.user.id}{http.auth.user.id}"); got != test.want+test.want || err != nil {
			t.Errorf("opening %q, learned %q: {http.auth.user.id} = %q, %v", test.opening, test.learned, got, err)
		}
	}
}

// A value that the session does not store must not look absent.
func TestRequestKnowsWhatItLacks(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) { o.Scheme = "https" })
	q := a.question(hub.GateSubscribe, "news")
	for _, name := range []string{"http.request.tls.client.fingerprint", "http.request.tls.version", "http.request.local.port", "http.request.proto", "http.auth.user.email"} {
		if _, err := replacedIn(t, q, "{"+name+"}"); err == nil {
			t.Errorf("{%s} is not missed", name)
		}
	}
	if _, err := replacedIn(t, q, "{http.request.header.Absent}{http.request.cookie.absent}{http.auth.user.id}{http.request.uri.query.absent}{http.vars.absent}{pushit.agent.claims.absent}"); err != nil {
		t.Errorf("what is merely absent is missed: %v", err)
	}
}

func TestRequestOfAUserWithALineBreak(t *testing.T) {
	a := newAsker(t, nil)
	q := a.question(hub.GateSubscribe, "news")
	q.Learned.User = "bob\r\nX-Role: admin"
	if _, err := q.Request(t.Context()); err == nil {
		t.Error("a user with a line break got into a request")
	}
}

// A session over a unix socket has no address.
func TestRequestWithoutAddress(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) { o.RemoteIP, o.RemoteAddr = netip.Addr{}, "@" })
	r, err := a.question(hub.GateConnect, "").Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey); got != "" || r.RemoteAddr != "@" {
		t.Errorf("client IP %q, far end %q", got, r.RemoteAddr)
	}
}

// Caddy's matchers see what they would have seen in the opening request.
func TestMatchersOnARequest(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) {
		o.URI, o.Header = "/push?room=5", snapshotOf("Cookie", "sid=1", "User-Agent", "test")
		o.RemoteAddr, o.RemoteIP = "10.0.0.2:5000", netip.MustParseAddr("192.0.2.7")
	})
	for matcher, kind := range map[string]Kind{
		"header User-Agent test":     Pass,
		"header User-Agent other":    Deny,
		"query room=5":               Pass,
		"query room=6":               Deny,
		"path /push":                 Pass,
		"host example.com":           Pass,
		"host other.com":             Deny,
		"client_ip 192.0.2.0/24":     Pass,
		"client_ip 10.0.0.0/8":       Deny,
		"remote_ip 10.0.0.0/8":       Pass,
		"method GET":                 Pass,
		"vars {pushit.channel} news": Pass,
		"vars {pushit.channel} olds": Deny,
		"expression `{pushit.channel}.startsWith(\"ne\")`": Pass,
		"header_regexp Cookie sid=[0-9]":                   Pass,
		"vars_regexp {pushit.channel} ^n":                  Pass,
		"vars {http.request.proto} HTTP/1.1":               Unavailable,
	} {
		g := remoteGuardOf(t, "route {\n@m %s\nhandle @m {\n}\nhandle {\nrespond 403\n}\n}", matcher)
		wantKind(t, matcher, a.ask(g, "news"), kind)
	}
}
