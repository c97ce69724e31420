// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/push-it/pushit/guards/internal/token"
	"github.com/push-it/pushit/guards/internal/token/tokentest"
)

func wantAnswer(t *testing.T, a Answer, kind Kind, err string) {
	t.Helper()
	if a.Kind != kind || (err == "") != (a.Err == nil) || a.Err != nil && !strings.Contains(a.Err.Error(), err) {
		t.Errorf("got %v (%v), want %v (%s)", a.Kind, a.Err, kind, err)
	}
}

// If the endpoint does not answer during a reload, agents stay connected.
func TestKeySetOutlivesAReload(t *testing.T) {
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &tokentest.Keys().RSA.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(text) })) //nolint:errcheck // a test
	defer server.Close()
	generation := func() *JWT {
		g := &JWT{JWKS: server.URL}
		if err := g.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return g
	}
	q := present(t, rs("k1"))
	first := generation()
	wantAnswer(t, first.Decide(t.Context(), q), Pass, "")
	server.Close()
	second := generation()
	if err := first.Cleanup(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, second.Decide(t.Context(), q), Pass, "")
	if err := second.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if n, ok := token.Sources.References(server.URL); ok {
		t.Errorf("%d still hold the keys", n)
	}
	third := generation()
	wantAnswer(t, third.Decide(t.Context(), q), Unavailable, "connect")
	if err := third.Cleanup(); err != nil {
		t.Fatal(err)
	}
}

func TestKeySetInAFile(t *testing.T) {
	k := tokentest.Keys()
	path := filepath.Join(t.TempDir(), "jwks.json")
	write := func(keys ...jose.JSONWebKey) {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(jose.JSONWebKey{Key: &k.RSA.PublicKey, KeyID: "k1"})
	g := mustLoad(t, jwtConfig("jwks", path)).(*JWT)
	q := present(t, rs("k1"))
	wantAnswer(t, g.Decide(t.Context(), q), Pass, "")
	write(jose.JSONWebKey{Key: &k.RSA2.PublicKey, KeyID: "k2"})
	wantAnswer(t, g.Decide(t.Context(), againWith(q, rs("k2"))), Pass, "")
	if g.Unwrap() != nil {
		t.Error("a file is remote")
	}
}

// A guard that may wait for an address is remote, so no local question waits for it.
func TestJWTWithAnAddressIsRemote(t *testing.T) {
	remote := mustLoad(t, jwtConfig("jwks", "https://id.example.com/keys"))
	if firstRemote([]NamedGuard{{Name: "jwt", Guard: remote}}) == "" {
		t.Error("an address is not remote")
	}
	local := mustLoad(t, jwtConfig(withSecret...))
	if firstRemote([]NamedGuard{{Name: "jwt", Guard: local}}) != "" {
		t.Error("a secret is remote")
	}
}

// rs returns a token signed by the key with that id, valid for a day.
func rs(id string, claims ...any) string {
	k := tokentest.Keys()
	key := k.RSA
	if id == "k2" {
		key = k.RSA2
	}
	return tokentest.Make(tokentest.Object{"alg": "RS256", "kid": id}, tokentest.ValidClaims().With("exp", time.Now().Unix()+86400).With(claims...), "RS256", key)
}
