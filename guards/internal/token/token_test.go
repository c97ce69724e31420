// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/push-it/pushit/guards/internal/token/tokentest"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

// What becomes of a token.
const (
	valid   = "valid"
	invalid = "invalid"
	notNow  = "not now"
)

// An answer is what became of a token.
type answer struct {
	Kind    string
	Expired bool
	Retry   time.Duration
	Token   *Token
	Err     error
}

func verify(ctx context.Context, v *Verifier, token string, left *time.Duration) answer {
	t, err := v.Verify(ctx, token, left, slog.New(slog.DiscardHandler))
	a := answer{Kind: valid, Token: t, Expired: errors.Is(err, ErrExpired), Err: err}
	var wait *NotNow
	switch {
	case errors.As(err, &wait):
		a.Kind, a.Retry = notNow, max(wait.Retry, 0)
	case err != nil:
		a.Kind = invalid
	}
	return a
}

func wantAnswer(t *testing.T, a answer, kind, err string) {
	t.Helper()
	if a.Kind != kind || (err == "") != (a.Err == nil) || a.Err != nil && !strings.Contains(a.Err.Error(), err) {
		t.Errorf("got %v (%v), want %v (%s)", a.Kind, a.Err, kind, err)
	}
}

func wantMistake(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// BenchmarkVerify verifies a token that is not in the cache.
func BenchmarkVerify(b *testing.B) {
	k := tokentest.Keys()
	for _, c := range []struct {
		alg string
		pem string
		key any
	}{
		{"RS256", k.RSAPEM, k.RSA},
		{"ES256", tokentest.PublicPEM(&k.P256.PublicKey), k.P256},
		{"EdDSA", k.EdPEM, k.Ed},
	} {
		b.Run(c.alg, func(b *testing.B) {
			keys, err := ParseKeys([]byte(c.pem))
			if err != nil {
				b.Fatal(err)
			}
			v := &Verifier{Keys: keys}
			token := tokentest.Make(tokentest.Object{"alg": c.alg}, tokentest.ValidClaims(), c.alg, c.key)
			b.ReportAllocs()
			for b.Loop() {
				v.cache.young = nil
				if _, err := v.Verify(b.Context(), token, nil, slog.New(slog.DiscardHandler)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// An endpoint publishes a JWK Set in memory.
type endpoint struct {
	mu      sync.Mutex
	text    []byte
	err     error
	takes   time.Duration
	fetches []time.Time
}

func (e *endpoint) publish(t testing.TB, keys ...jose.JSONWebKey) {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text = text
}

func (e *endpoint) away(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *endpoint) fetch(ctx context.Context) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fetches = append(e.fetches, time.Now())
	takes := e.takes
	e.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	e.mu.Lock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return e.text, e.err
}

func (e *endpoint) fetched() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.fetches)
}

// inKeySetBubble calls test in a bubble with its own clock. ask verifies a token with
// keys from an endpoint, which has the first RSA key as k1.
func inKeySetBubble(t *testing.T, test func(t *testing.T, e *endpoint, ask func(token string) answer)) {
	t.Helper()
	k := tokentest.Keys()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{takes: 50 * time.Millisecond}
		e.publish(t, jose.JSONWebKey{Key: &k.RSA.PublicKey, KeyID: "k1"})
		source := NewSource("the endpoint", e.fetch)
		v := &Verifier{Source: source}
		defer func() {
			if err := source.Destruct(); err != nil {
				t.Error(err)
			}
		}()
		test(t, e, func(token string) answer {
			left := 10 * time.Second
			return verify(t.Context(), v, token, &left)
		})
	})
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

func TestKeySetIsFetchedWhenNeeded(t *testing.T) {
	inKeySetBubble(t, func(t *testing.T, e *endpoint, ask func(string) answer) {
		time.Sleep(time.Hour)
		if n := e.fetched(); n != 0 {
			t.Errorf("%d fetches before anybody asked", n)
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { wantAnswer(t, ask(rs("k1")), valid, "") })
		}
		wg.Wait()
		if n := e.fetched(); n != 1 {
			t.Errorf("%d fetches for questions at one time", n)
		}
		time.Sleep(setRefresh - time.Second)
		wantAnswer(t, ask(rs("k1")), valid, "")
		if n := e.fetched(); n != 1 {
			t.Errorf("%d fetches of a set that is not old", n)
		}
		time.Sleep(2 * time.Second)
		begun := time.Now()
		wantAnswer(t, ask(rs("k1")), valid, "")
		if time.Since(begun) != 0 {
			t.Error("somebody waited for a refresh")
		}
		synctest.Wait()
		if n := e.fetched(); n != 2 {
			t.Errorf("%d fetches of a set that is old", n)
		}
	})
}

func TestKeySetRotation(t *testing.T) {
	k := tokentest.Keys()
	inKeySetBubble(t, func(t *testing.T, e *endpoint, ask func(string) answer) {
		wantAnswer(t, ask(rs("k1")), valid, "")
		time.Sleep(time.Second)
		old := rs("k1")
		wantAnswer(t, ask(old), valid, "")

		// A new key is found when a token names it.
		e.publish(t, jose.JSONWebKey{Key: &k.RSA.PublicKey, KeyID: "k1"}, jose.JSONWebKey{Key: &k.RSA2.PublicKey, KeyID: "k2"})
		wantAnswer(t, ask(rs("k2")), valid, "")
		wantAnswer(t, ask(old), valid, "")

		// A withdrawn key is accepted until the next refresh, even for a token that was
		// verified before.
		e.publish(t, jose.JSONWebKey{Key: &k.RSA2.PublicKey, KeyID: "k2"})
		time.Sleep(setRefresh)
		wantAnswer(t, ask(old), valid, "") // this starts the refresh
		time.Sleep(time.Second)
		wantAnswer(t, ask(old), invalid, "no key fits its algorithm, RS256, and key id, \"k1\"")
		wantAnswer(t, ask(rs("k2")), valid, "")
	})
}

func TestUnknownKeysAreLookedForOnceAMinute(t *testing.T) {
	inKeySetBubble(t, func(t *testing.T, e *endpoint, ask func(string) answer) {
		// The question itself has caused a fetch, so the answer is final.
		wantAnswer(t, ask(rs("k2")), invalid, "no key fits")
		if n := e.fetched(); n != 1 {
			t.Errorf("%d fetches for the first question", n)
		}
		time.Sleep(time.Second)
		wantAnswer(t, ask(rs("k2")), invalid, "no key fits")
		if n := e.fetched(); n != 2 {
			t.Errorf("%d fetches when an unknown key was asked for", n)
		}
		// After that the answer is unknown at first, which is not a no.
		for n := range 50 {
			time.Sleep(time.Second)
			a := ask(rs("k" + strings.Repeat("x", n)))
			wantAnswer(t, a, notNow, "fetched for another such token less than 1m0s ago")
			if a.Retry <= 0 || a.Retry > unknownKeyPause {
				t.Errorf("retry after %v", a.Retry)
			}
		}
		if n := e.fetched(); n != 2 {
			t.Errorf("%d fetches within a minute", n)
		}
		wantAnswer(t, ask(rs("k1")), valid, "")
		time.Sleep(unknownKeyPause)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { wantAnswer(t, ask(rs("k2")), invalid, "no key fits") })
		}
		wg.Wait()
		if n := e.fetched(); n != 3 {
			t.Errorf("%d fetches after a minute", n)
		}
		// Some tokens are not worth a fetch.
		time.Sleep(2 * unknownKeyPause)
		a := ask(rs("k2", "exp", time.Now().Unix()-1))
		wantAnswer(t, a, invalid, "expired")
		if !a.Expired {
			t.Error("an old token with an unknown key is not said to have expired")
		}
		wantAnswer(t, ask(tokentest.Make(tokentest.Object{"alg": "RS256"}, tokentest.ValidClaims(), "RS256", tokentest.Keys().RSA2)), invalid, "its signature")
		wantAnswer(t, ask(tokentest.Make(tokentest.Object{"alg": "RS256", "kid": "k1"}, tokentest.ValidClaims(), "RS256", tokentest.Keys().RSA2)), invalid, "its signature")
		wantAnswer(t, ask(tokentest.Make(tokentest.Object{"alg": "none", "kid": "k9"}, tokentest.ValidClaims(), "none", nil)), invalid, "not accepted")
		wantAnswer(t, ask(tokentest.Make(tokentest.Object{"alg": "ES256", "kid": "k1"}, tokentest.ValidClaims(), "ES256", tokentest.Keys().P256)), invalid, "no key fits")
		if n := e.fetched(); n != 3 {
			t.Errorf("%d fetches in the end", n)
		}
	})
}

func TestKeySetEndpointIsAway(t *testing.T) {
	inKeySetBubble(t, func(t *testing.T, e *endpoint, ask func(string) answer) {
		e.away(errors.New("connection refused"))
		for range 60 {
			a := ask(rs("k1"))
			wantAnswer(t, a, notNow, "the endpoint: connection refused")
			if a.Retry <= 0 || a.Retry > maxFetchPause {
				t.Errorf("retry after %v", a.Retry)
			}
			time.Sleep(time.Second)
		}
		if n := e.fetched(); n != 6 { // after 0, 1, 3, 7, 15, 31 s
			t.Errorf("%d fetches in a minute", n)
		}
		e.away(nil)
		time.Sleep(maxFetchPause)
		wantAnswer(t, ask(rs("k1")), valid, "")

		// The previous set is used for as long as the endpoint does not answer.
		e.away(errors.New("connection refused"))
		for range 48 {
			time.Sleep(30 * time.Minute)
			wantAnswer(t, ask(rs("k1")), valid, "")
		}
		synctest.Wait()
		failed := e.fetched()
		if failed > 7+48 {
			t.Errorf("%d fetches in a day", failed)
		}
		// It is unknown whether the set has a new key.
		wantAnswer(t, ask(rs("k2")), notNow, "connection refused")
		e.away(nil)
		time.Sleep(2 * maxFetchPause)
		wantAnswer(t, ask(rs("k2")), invalid, "no key fits")
	})
}

func TestKeySetEndpointIsAwayIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := new(endpoint)
		e.publish(t, jose.JSONWebKey{Key: &tokentest.Keys().RSA.PublicKey, KeyID: "k1"})
		source := NewSource("the endpoint", e.fetch)
		defer source.Destruct() //nolint:errcheck // it has none
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		v, token := &Verifier{Source: source}, rs("k1")
		if _, err := v.Verify(t.Context(), token, nil, log); err != nil {
			t.Fatal(err)
		}
		e.away(errors.New("connection refused"))
		time.Sleep(setRefresh)
		if _, err := v.Verify(t.Context(), token, nil, log); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if log := out.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "connection refused") || !strings.Contains(log, `jwks="the endpoint"`) {
			t.Errorf("logged: %s", log)
		}
	})
}

func TestFetchThatPanics(t *testing.T) {
	source := NewSource("the endpoint", func(context.Context) ([]byte, error) { panic("oops") })
	defer source.Destruct() //nolint:errcheck // it has none
	wantAnswer(t, verify(t.Context(), &Verifier{Source: source}, rs("k1"), nil), notNow, "the endpoint: panic: oops")
}

// An agent that asked first may leave, and the others still get their answer. No agent
// waits longer than its time for asking.
func TestWaitingForKeysEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{takes: 5 * time.Second}
		e.publish(t, jose.JSONWebKey{Key: &tokentest.Keys().RSA.PublicKey, KeyID: "k1"})
		source := NewSource("the endpoint", e.fetch)
		defer source.Destruct() //nolint:errcheck // it has none
		v, token := &Verifier{Source: source}, rs("k1")
		ask := func(ctx context.Context, left time.Duration) (answer, time.Duration) {
			begun := time.Now()
			a := verify(ctx, v, token, &left)
			if took := time.Since(begun); took > 0 && left > 10*time.Second-took {
				t.Errorf("%v are left after %v", left, took)
			}
			return a, time.Since(begun)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if a, took := ask(ctx, 10*time.Second); a.Kind != notNow || took != time.Second {
				t.Errorf("who left: %v after %v", a.Kind, took)
			}
		})
		wg.Go(func() {
			if a, took := ask(t.Context(), 2*time.Second); a.Kind != notNow || took != 2*time.Second {
				t.Errorf("who had 2 s: %v after %v", a.Kind, took)
			}
		})
		wg.Go(func() {
			time.Sleep(time.Second)
			if a, took := ask(t.Context(), 10*time.Second); a.Kind != valid || took != 4*time.Second {
				t.Errorf("who stayed: %v after %v", a.Kind, took)
			}
		})
		wg.Wait()
		if n := e.fetched(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestDestructEndsAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{takes: time.Hour}
		source := NewSource("the endpoint", e.fetch)
		go func() {
			time.Sleep(time.Second)
			source.Destruct() //nolint:errcheck // it has none
		}()
		begun := time.Now()
		if _, _, err := source.current(t.Context(), slog.New(slog.DiscardHandler)); err == nil || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
		if _, _, err := source.current(t.Context(), slog.New(slog.DiscardHandler)); err == nil || e.fetched() != 1 {
			t.Errorf("afterwards: %v, %d fetches", err, e.fetched())
		}
	})
}

func TestWhatKeySetsMayHave(t *testing.T) {
	k := tokentest.Keys()
	text := func(key any, id, use, alg string) string {
		raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: id, Use: use, Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	good := text(&k.RSA.PublicKey, "k1", "sig", "RS256")
	many := strings.Repeat(good+",", maxKeys)
	for name, c := range map[string]struct {
		text string
		keys int
		why  string
	}{
		"a key":                      {`{"keys":[` + good + `]}`, 1, ""},
		"a kind that is not known":   {`{"keys":[{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"},` + good + `]}`, 1, ""},
		"a curve that is not known":  {`{"keys":[{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"},` + good + `]}`, 1, ""},
		"a key that encrypts":        {`{"keys":[` + text(&k.RSA2.PublicKey, "k2", "enc", "") + `,` + good + `]}`, 1, ""},
		"an algorithm that encrypts": {`{"keys":[` + text(&k.RSA2.PublicKey, "k2", "", "RSA-OAEP") + `,` + good + `]}`, 1, ""},
		"a secret":                   {`{"keys":[` + text(secret, "s", "", "HS256") + `,` + good + `]}`, 1, ""},
		"a private key":              {`{"keys":[` + text(k.RSA2, "k2", "", "") + `,` + good + `]}`, 1, ""},
		"only a secret":              {`{"keys":[` + text(secret, "s", "", "HS256") + `]}`, 0, "is a secret, which must not be published"},
		"only a private key":         {`{"keys":[` + text(k.RSA2, "k2", "", "") + `]}`, 0, "is a private key"},
		"no keys":                    {`{"keys":[]}`, 0, "has no keys"},
		"one key, no set":            {good, 0, "has no keys"},
		"too many":                   {`{"keys":[` + many + good + `]}`, 0, "has 33 keys; at most 32 are allowed"},
		"a web page":                 {`<!doctype html>`, 0, "is not a JWK Set"},
		"nothing":                    {``, 0, "is not a JWK Set"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := parseSet([]byte(c.text), false)
			if len(keys) != c.keys {
				t.Errorf("%d keys, want %d", len(keys), c.keys)
			}
			if c.why == "" && err == nil {
				return
			}
			wantMistake(t, err, c.why)
		})
	}
}

func TestKeySetOverHTTP(t *testing.T) {
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &tokentest.Keys().RSA.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { w.Write(text) }) //nolint:errcheck // a test
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/good", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) {
		w.Write(text)                                          //nolint:errcheck // a test
		w.Write(bytes.Repeat([]byte(" "), maxSet-len(text)+1)) //nolint:errcheck // a test
	})
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9999")
		w.Write(text) //nolint:errcheck // a test
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	token := rs("k1")
	for path, why := range map[string]string{
		"/good":  "",
		"/moved": "",
		"/loop":  "too many redirects",
		"/error": "the answer was 502 Bad Gateway",
		"/huge":  "is larger than 1048576 bytes",
		"/half":  "unexpected EOF",
		"/none":  "the answer was 404 Not Found",
	} {
		t.Run(path, func(t *testing.T) {
			source, err := AddressSource(server.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			defer Sources.Delete(server.URL + path) //nolint:errcheck // it has none
			kind := valid
			if why != "" {
				kind = notNow
			}
			wantAnswer(t, verify(t.Context(), &Verifier{Source: source}, token, nil), kind, why)
		})
	}
	check := newClient().CheckRedirect
	if check(&http.Request{URL: &url.URL{Scheme: "http"}}, []*http.Request{{URL: &url.URL{Scheme: "https"}}}) == nil {
		t.Error("redirected from https to http")
	}
}

func TestTokenCacheIsBounded(t *testing.T) {
	var c cache
	kept := &verified{}
	c.put([32]byte{1}, kept)
	for n := range 10 * maxVerified {
		c.put([32]byte{0, byte(n), byte(n >> 8), byte(n >> 16)}, new(verified))
		if c.get([32]byte{1}) != kept {
			t.Fatalf("what is used all the time was forgotten after %d", n)
		}
	}
	if n := len(c.young) + len(c.old); n > 2*maxVerified {
		t.Errorf("%d tokens are remembered", n)
	}
	if c.get([32]byte{0, 1}) != nil {
		t.Error("what was not used is remembered")
	}
}

// A verified token ends when it expires, cached or not.
func TestVerifiedTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := ParseSecret(string(secret))
		if err != nil {
			t.Fatal(err)
		}
		v := &Verifier{Keys: keys}
		hs := func(exp int64) string {
			return tokentest.Make(tokentest.Object{"alg": "HS256"}, tokentest.ValidClaims().With("exp", exp), "HS256", secret)
		}
		exp := time.Now().Add(time.Minute)
		token := hs(exp.Unix())
		for time.Now().Before(exp) {
			wantAnswer(t, verify(t.Context(), v, token, nil), valid, "")
			time.Sleep(time.Second)
		}
		a := verify(t.Context(), v, token, nil)
		wantAnswer(t, a, invalid, "expired")
		if !a.Expired {
			t.Error("it is not said to have expired")
		}
		// A token that never expires gets an expiry that durations can express.
		a = verify(t.Context(), v, hs(99999999999), nil)
		wantAnswer(t, a, valid, "")
		if life := time.Until(a.Token.Expires); life != maxExpiry {
			t.Errorf("it lives for %v", life)
		}
	})
}
