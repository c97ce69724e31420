// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

// openedBy returns what a session stores for a guard, if its request has a client
// certificate and variables.
func openedBy(t *testing.T, g Guard, subject string, vars map[string]any) (values string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com/push", nil)
	if r.TLS = new(tls.ConnectionState); subject != "" {
		r.TLS.PeerCertificates = []*x509.Certificate{{Subject: pkix.Name{CommonName: subject}}}
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, nil, new(caddyhttp.Server))
	for name, value := range vars {
		caddyhttp.SetVar(r.Context(), name, value)
	}
	repl.Set("geo.country", "at")
	values, err := placeholder.Snapshot(r, SnapshotNames([]NamedGuard{{Guard: g}}))
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// looking adds the placeholders of the guard to the policy.
func (a *asker) looking(g Guard) *asker {
	a.env.Snapshot = SnapshotNames([]NamedGuard{{Guard: g}})
	return a
}

// A backend gets what handlers before pushit and the connection say, and only for the
// right session.
func TestBackendsAreToldWhatTheSnapshotHas(t *testing.T) {
	u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(map[bool]int{true: http.StatusNoContent, false: http.StatusForbidden}[r.Header.Get("X-Tenant") == "acme"])
	})
	const fields = "header_up X-Subject {http.request.tls.client.subject}\nheader_up X-Tenant {http.vars.tenant}\nheader_up X-Country {geo.country}\nheader_up X-Proto {http.request.proto}"
	for _, text := range []string{
		"ask %s {\nuri /\n" + fields + "\ncache 1m\n}",
		"forward_auth %s {\nuri /\n" + fields + "\ncache 1m\n}",
		"route {\nforward_auth %s {\nuri /\n" + fields + "\n}\ncache 1m\n}",
		"route {\nforward_auth %s {\nuri /\n" + fields + "\n}\ncache 1m\nkey {http.vars.tenant}\n}",
	} {
		g := remoteGuardOf(t, text, u.addr())
		asker := func(subject string, vars map[string]any) *asker {
			return newAsker(t, func(o *hub.Opening) { o.Scheme, o.Values = "https", openedBy(t, g, subject, vars) }).looking(g)
		}
		wantKind(t, text, asker("ann", map[string]any{"tenant": "acme"}).ask(g, "news"), Pass)
		r, _ := u.last(t)
		for name, want := range map[string]string{"X-Subject": "CN=ann", "X-Tenant": "acme", "X-Country": "at", "X-Proto": "HTTP/1.1"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: the backend was told %s %q, want %q", text, name, got, want)
			}
		}
		wantKind(t, text+" of another tenant", asker("ann", map[string]any{"tenant": "evil"}).ask(g, "news"), Deny)
		before := u.times()
		wantKind(t, text+" without any", asker("", nil).ask(g, "news"), Deny)
		if r, _ = u.last(t); u.times() == before || r.Header.Get("X-Subject") != "" {
			t.Errorf("%s: without a certificate the backend was told %q", text, r.Header.Get("X-Subject"))
		}
		// An unknown value is not empty.
		before = u.times()
		for name, change := range map[string]func(*hub.Opening){
			"nothing was looked up": func(o *hub.Opening) { o.Scheme = "https" },
			"a line break": func(o *hub.Opening) {
				o.Values = openedBy(t, g, "ann", map[string]any{"tenant": "acme\nX-Role: admin"})
			},
			"nobody knew it": func(o *hub.Opening) {
				o.Values = strings.Replace(openedBy(t, g, "ann", map[string]any{"tenant": "acme"}), "=at", "?", 1)
			},
		} {
			wantKind(t, text+": "+name, newAsker(t, change).looking(g).ask(g, "news"), Unavailable)
		}
		if u.times() != before {
			t.Errorf("%s: the backend was asked about what is not known", text)
		}
	}
}

// Matchers see the values of the session, also in routes. What handlers of a route set
// takes precedence.
func TestMatchersOfTheSnapshot(t *testing.T) {
	for text, want := range map[string]Kind{
		"allow {\nvars tenant acme\n}":                                             Allow,
		"allow {\nvars tenant other\n}":                                            Abstain,
		"allow {\nvars_regexp tenant ^ac\n}":                                       Allow,
		"allow {\nnot vars tenant acme\n}":                                         Abstain,
		"allow {\nvars {http.request.tls.client.subject} CN=ann\n}":                Allow,
		"allow {\nexpression `{http.request.tls.client.subject} == 'CN=ann'`\n}":   Allow,
		"allow {\nvars {geo.country} at\n}":                                        Allow,
		"allow {\nvars unset x\n}":                                                 Abstain,
		"deny {\nvars tenant acme\n}":                                              Deny,
		"route {\n@no not vars tenant acme\nrespond @no 403\n}":                    Pass,
		"route {\nvars tenant other\n@no not vars tenant acme\nrespond @no 403\n}": Deny,

		"route {\nmap {http.vars.tenant} {plan} {\nacme gold\n}\n@no not vars {plan} gold\nrespond @no 403\n}":        Pass,
		"route {\n@no not vars {http.request.tls.client.subject} CN=ann\nrespond @no 403\n}":                          Pass,
		"route {\nvars own yes\n@no not vars own yes\nrespond @no 403\n}":                                             Pass,
		"route {\n@x path_regexp p ^/(push)\nhandle @x {\n@no not vars {http.regexp.p.1} push\nrespond @no 403\n}\n}": Pass,
	} {
		g := remoteGuardOf(t, "%s", text)
		values := openedBy(t, g, "ann", map[string]any{"tenant": "acme"})
		a := newAsker(t, func(o *hub.Opening) { o.Scheme, o.Values = "https", values }).looking(g)
		wantKind(t, text, a.ask(g, "news"), want)
		lacks := newAsker(t, func(o *hub.Opening) { o.Scheme = "https" }).looking(g)
		if len(a.env.Snapshot) > 0 && !strings.Contains(text, "vars tenant other\n@no") && !strings.Contains(text, "own") {
			want = Unavailable
		}
		wantKind(t, text+" of a session of which that is not known", lacks.ask(g, "news"), want)
	}
}

func TestSnapshotNamesOfGuardsInside(t *testing.T) {
	g := remoteGuardOf(t, "allow {\nvars tenant acme\n}")
	if names := SnapshotNames([]NamedGuard{{Guard: &Any{guards: []NamedGuard{{Guard: g}}}}}); !slices.Equal(names, []string{"http.vars.tenant"}) {
		t.Errorf("the names are %q", names)
	}
}
