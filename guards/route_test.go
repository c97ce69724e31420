// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/base64"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/hub"
)

// remoteTestHandler is a handler for routes in tests.
type remoteTestHandler struct {
	Do string `json:"do"`
}

func init() { caddy.RegisterModule(remoteTestHandler{}) }

func (remoteTestHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.remote_handler_of_a_test", New: func() caddy.Module { return new(remoteTestHandler) }}
}

func (h remoteTestHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch h.Do {
	case "panic":
		panic("at the disco")
	case "hijack":
		if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
			return next.ServeHTTP(w, r)
		}
	case "flush":
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		return next.ServeHTTP(w, r)
	case "early hints":
		w.WriteHeader(http.StatusEarlyHints)
		return next.ServeHTTP(w, r)
	case "write and go on":
		w.WriteHeader(http.StatusOK)
		return next.ServeHTTP(w, r)
	case "go on and fail":
		if err := next.ServeHTTP(w, r); err != nil {
			return err
		}
		return caddyhttp.Error(http.StatusForbidden, nil)
	case "break header":
		r.Header.Set("X-Role", "a\r\nb")
		return next.ServeHTTP(w, r)
	}
	return nil
}

func TestRoute(t *testing.T) {
	for block, kind := range map[string]Kind{
		"vars a b":                              Pass,
		"header X-A b":                          Pass,
		"respond 200":                           Deny,
		"respond 204":                           Deny,
		"respond 403":                           Deny,
		"respond 404":                           Deny,
		"respond 429":                           Unavailable,
		"respond 503":                           Unavailable,
		"redir https://login.example.com/":      Deny,
		"error 403":                             Deny,
		"error 408":                             Unavailable,
		"error 500":                             Unavailable,
		"error \"no\" 425":                      Unavailable,
		"abort":                                 Unavailable,
		"@a header X-A *\nrespond @a 403":       Pass,
		"@a not header X-A *\nrespond @a 403":   Deny,
		"respond @example 403":                  Deny, // a matcher of the site
		"basic_auth {\nbob " + bobsHash + "\n}": Deny,
		"respond \"" + strings.Repeat("x", 70000) + "\" 403":                                          Unavailable,
		"handle {\nrespond 403\n}\nhandle {\n}":                                                       Deny,
		"rewrite /x\n@x path /x\nrespond @x 403":                                                      Deny, // in the order of the lines
		"@x path /x\nrespond @x 403\nrewrite /x":                                                      Pass,
		"vars x {pushit.channel}\n@n vars x news\nhandle @n {\nvars a b\n}\nhandle {\nrespond 403\n}": Pass,
	} {
		g := remoteGuardOf(t, "route {\n%s\n}", block)
		a := newAsker(t, nil).ask(g, "news")
		wantKind(t, block, a, kind)
		if a.Reason != "" || a.Kind > Pass && a.Err == nil {
			t.Errorf("%.60s: reason %q, error %v", block, a.Reason, a.Err)
		}
	}
	for do, kind := range map[string]Kind{
		"nothing": Deny, "panic": Unavailable, "hijack": Pass, "flush": Pass, "early hints": Pass,
		"write and go on": Deny, "go on and fail": Deny,
	} {
		g, err := loadRemote(t, []byte(`{"guard":"route","handler":{"handler":"remote_handler_of_a_test","do":"`+do+`"}}`))
		if err != nil {
			t.Fatal(err)
		}
		wantKind(t, do, newAsker(t, nil).ask(g, "news"), kind)
	}
	g, err := loadRemote(t, []byte(`{"guard":"route","handler":{"handler":"remote_handler_of_a_test","do":"break header"}}`))
	if err != nil {
		t.Fatal(err)
	}
	ask := newAsker(t, nil)
	ask.env.Learned = []string{"X-Role"}
	wantKind(t, "a header field with a line break", ask.ask(g, "news"), Unavailable)
}

// bobsHash is a cheap hash of the password hiccup.
const bobsHash = "$2a$04$pSRS0mPOmeRk/UvTdgK1Q.pHRi1o5E7AL8MrA6J27crsGkNX62dEG"

func TestRouteLearns(t *testing.T) {
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Remote-Role", "editor")
		w.Header().Set("Pushit-Grant", "secret") // only forward_auth reads this
	})
	g := remoteGuardOf(t, "route {\nbasic_auth {\nbob %s\n}\nforward_auth %s {\nuri /auth\ncopy_headers Remote-Role>X-Role\n}\nrequest_header X-Other set\n}", bobsHash, u.addr())
	credentials := "Basic " + base64.StdEncoding.EncodeToString([]byte("bob:hiccup"))
	a := newAsker(t, func(o *hub.Opening) { o.Header = snapshotOf("Authorization", credentials, "X-Role", "admin") }).learning(g)
	answer := g.Decide(t.Context(), a.question(hub.GateConnect, ""))
	wantKind(t, "bob", answer, Pass)
	if want := (Learned{User: "bob", UserBy: UserByLogin, Header: []hub.HeaderField{{Name: "X-Role", Value: "editor"}}}); !reflect.DeepEqual(answer.Learned, want) {
		t.Errorf("learned %+v, want %+v", answer.Learned, want)
	}
	if r, _ := u.last(t); r.Header.Get("X-Role") != "" {
		t.Errorf("the backend was sent the client's X-Role: %s", r.Header.Get("X-Role"))
	}
	// A user that the site has authenticated does not become bob.
	a = newAsker(t, func(o *hub.Opening) { o.User, o.Header = "ann", snapshotOf("Authorization", credentials) }).learning(g)
	if answer = g.Decide(t.Context(), a.question(hub.GateConnect, "")); answer.Kind != Pass || answer.Learned.User != "" {
		t.Errorf("ann, with bob's password: %s, user %q", answer.Kind, answer.Learned.User)
	}
	wrong := newAsker(t, func(o *hub.Opening) {
		o.Header = snapshotOf("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("bob:wrong")))
	}).learning(g)
	answer = g.Decide(t.Context(), wrong.question(hub.GateConnect, ""))
	wantKind(t, "a wrong password", answer, Deny)
	if !reflect.DeepEqual(answer.Learned, Learned{}) {
		t.Errorf("learned of a denial: %+v", answer.Learned)
	}
}

func TestRouteInACaddyfile(t *testing.T) {
	for text, words := range map[string]string{
		"route":                                   "route needs a block; write: route { <directives> }, at Caddyfile:4",
		"route {\n}":                              "route needs a block",
		"route {\ncache 10s\n}":                   "route needs a directive: an empty route would let everybody through; if you want that, write allow, at Caddyfile:4",
		"route @example {\nrespond 403\n}":        "write matchers on the directives inside: route { basic_auth @example { … } }, at Caddyfile:4",
		"route {\nrespnd 403\n}":                  "unrecognized directive: respnd",
		"route {\nrespond @nobody 403\n}":         "unrecognized matcher name: @nobody, at Caddyfile:5",
		"route {\nrespond a b c d\n}":             ", at Caddyfile:5",
		"route {\nreverse_proxy a:1 {\nx y\n}\n}": "unrecognized subdirective x, at Caddyfile:6",
		"route {\nforward_auth a:1 {\n}\n}":       "the 'uri' subdirective is required",
	} {
		if _, err := parseRemote(text); !says(err, words) {
			t.Errorf("%s\n  error: %v\n  want:  … %s …", text, err, words)
		}
	}
	if _, err := loadRemote(t, []byte(`{"guard":"route","handler":{"handler":"nobody"}}`)); err == nil {
		t.Error("an unknown handler was loaded")
	}
}
