// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package placeholder_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

// Some placeholders are looked up when a session opens, but never the body, which may not
// be there yet.
func TestWhatIsLookedUp(t *testing.T) {
	for name, want := range map[string]bool{
		"http.request.tls.client.fingerprint": true, "http.request.tls.client.san.uris.3": true, "http.request.tls.version": true,
		"http.request.local.port": true, "http.request.proto": true, "http.vars.tenant": true, "http.auth.user.email": true, "tenant": true, "geo.country": true,
		"http.request.body": false, "http.request.body_base64": false, "http.request.duration": false, "http.request.header.X": false, "http.request.cookie.a": false,
		"http.request.uri.query.q": false, "http.request.remote.host": false, "http.vars.client_ip": false, "http.reverse_proxy.header.X": false,
		"http.error.status_code": false, "env.X": false, "file./x": false, "time.now": false, "system.hostname": false, "pushit.channel": false, "1,3": false,
	} {
		if got, err := placeholder.MustLookUp(name); got != want || err != nil {
			t.Errorf("{%s}: %t, %v; want %t", name, got, err, want)
		}
	}
}

func TestSnapshot(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/push", nil)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), "tenant", "acme")
	caddyhttp.SetVar(r.Context(), "split", "a\nb")
	names := []string{"http.vars.tenant", "http.vars.split", "http.request.tls.client.subject"}
	values, err := placeholder.Snapshot(r, names)
	if err != nil {
		t.Fatal(err)
	}
	h, err := hub.New("snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	a, err := h.Open(h.Use(&hub.Policy{}), hub.Opening{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Left("the test is over") })
	o := a.Opening()
	if value, kind := placeholder.LookUp(o, "http.vars.tenant"); value != "acme" || kind != placeholder.HasValue {
		t.Errorf("tenant is %q, %c", value, kind)
	}
	if _, kind := placeholder.LookUp(o, "http.vars.split"); kind != placeholder.IsUnsafe || placeholder.Lacks(o, "http.vars.split") == nil {
		t.Errorf("a value with a line break is %c", kind)
	}
	if _, kind := placeholder.LookUp(o, "http.request.tls.client.subject"); kind != placeholder.HasNone {
		t.Errorf("without a certificate its subject is %c", kind)
	}
	if !placeholder.WasLookedUp(o, names) || placeholder.WasLookedUp(o, []string{"http.vars.other"}) {
		t.Error("what was looked up is not what was asked for")
	}
	caddyhttp.SetVar(r.Context(), "tenant", strings.Repeat("x", 64<<10))
	if _, err := placeholder.Snapshot(r, names); err == nil {
		t.Error("a session may store values of any size")
	}
}
