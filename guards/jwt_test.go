// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/push-it/pushit/guards/internal/token"
	"github.com/push-it/pushit/guards/internal/token/tokentest"
	"github.com/push-it/pushit/hub"
)

var secret = []byte(secretOfTests)

// hs returns a token of bob's, signed with the secret of the tests.
func hs(claims tokentest.Object) string {
	return tokentest.Make(tokentest.Object{"alg": "HS256", "typ": "JWT"}, claims, "HS256", secret)
}

// jwtConfig returns the JSON of a guard with settings given as name, value pairs.
func jwtConfig(settings ...any) string {
	raw, err := json.Marshal(tokentest.Object{"guard": "jwt"}.With(settings...))
	if err != nil {
		panic(err)
	}
	return string(raw)
}

var withSecret = []any{"secrets", []string{secretOfTests}}

// present returns a question with a token in its credentials.
func present(t testing.TB, token string) *Question {
	return questionOf(t, hub.Opening{}, `{"token":"`+token+`"}`)
}

// againWith returns q with another token.
func againWith(q *Question, token string) *Question {
	h := *q.Question
	h.Credentials = []byte(`{"token":"` + token + `"}`)
	c := *q
	c.Question = &h
	return &c
}

func TestJWTAlgorithms(t *testing.T) {
	k := tokentest.Keys()
	long := bytes.Repeat([]byte("0123456789abcdef"), 4)
	jwk := func(key any, alg string) string {
		raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: "k1", Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, c := range map[string]struct {
		setting, value string
		alg            string
		key            any
		want           Kind
	}{
		"HS256":                        {"secrets", secretOfTests, "HS256", secret, Pass},
		"HS384 with too short a key":   {"secrets", secretOfTests, "HS384", secret, Deny},
		"HS512 with too short a key":   {"secrets", secretOfTests, "HS512", secret, Deny},
		"HS384":                        {"secrets", string(long[:48]), "HS384", long[:48], Pass},
		"HS512":                        {"secrets", string(long), "HS512", long, Pass},
		"HS512 as JWK":                 {"keys", jwk(long, "HS512"), "HS512", long, Pass},
		"HS256 with a JWK of HS512":    {"keys", jwk(long, "HS512"), "HS256", long, Deny},
		"RS256":                        {"keys", k.RSAPEM, "RS256", k.RSA, Pass},
		"RS384":                        {"keys", k.RSAPEM, "RS384", k.RSA, Pass},
		"RS512":                        {"keys", k.RSAPEM, "RS512", k.RSA, Pass},
		"PS256":                        {"keys", k.RSAPEM, "PS256", k.RSA, Pass},
		"PS512":                        {"keys", k.RSAPEM, "PS512", k.RSA, Pass},
		"RS256 as JWK":                 {"keys", jwk(&k.RSA.PublicKey, "RS256"), "RS256", k.RSA, Pass},
		"RS256 of another key":         {"keys", k.RSAPEM, "RS256", k.RSA2, Deny},
		"PS256 with a JWK of RS256":    {"keys", jwk(&k.RSA.PublicKey, "RS256"), "PS256", k.RSA, Deny},
		"ES256":                        {"keys", tokentest.PublicPEM(&k.P256.PublicKey), "ES256", k.P256, Pass},
		"ES384":                        {"keys", tokentest.PublicPEM(&k.P384.PublicKey), "ES384", k.P384, Pass},
		"ES384 as JWK":                 {"keys", jwk(&k.P384.PublicKey, ""), "ES384", k.P384, Pass},
		"ES256 with another curve":     {"keys", tokentest.PublicPEM(&k.P384.PublicKey), "ES256", k.P256, Deny},
		"EdDSA":                        {"keys", k.EdPEM, "EdDSA", k.Ed, Pass},
		"EdDSA as JWK":                 {"keys", jwk(k.Ed.Public(), ""), "EdDSA", k.Ed, Pass},
		"HS256 with an RSA public key": {"keys", k.RSAPEM, "HS256", []byte(k.RSAPEM), Deny},
		"HS256 with an Ed25519 key":    {"keys", k.EdPEM, "HS256", []byte(k.Ed.Public().(ed25519.PublicKey)), Deny},
		"RS256 with an EC key":         {"keys", tokentest.PublicPEM(&k.P256.PublicKey), "RS256", k.RSA, Deny},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustLoad(t, jwtConfig(c.setting, []string{c.value}))
			a := g.Decide(t.Context(), present(t, tokentest.Make(tokentest.Object{"alg": c.alg}, tokentest.ValidClaims(), c.alg, c.key)))
			if a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

// attacks returns tokens that must not pass a guard with one key, the issuer
// https://id.example.com and the audience push.
func attacks(sign func(header, claims any) string) map[string]struct {
	token string
	why   string // part of the error in the operator's log
} {
	k := tokentest.Keys()
	valid, now := tokentest.ValidClaims(), time.Now().Unix()
	head := tokentest.Object{"alg": "RS256", "typ": "JWT"}
	good := sign(head, valid)
	parts := strings.Split(good, ".")
	other := strings.Split(sign(head, valid.With("sub", "alice")), ".")
	twice := strings.Replace(`{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":N,"exp":M}`, "N", fmt.Sprint(now+3600), 1)
	unsigned := func(alg string) string {
		return tokentest.Encode(tokentest.Object{"alg": alg}) + "." + tokentest.Encode(valid) + "."
	}
	type attack = struct {
		token string
		why   string
	}
	return map[string]attack{
		"alg none":                        {unsigned("none"), `its algorithm, "none", is not accepted`},
		"alg None":                        {unsigned("None"), `its algorithm, "None", is not accepted`},
		"alg NONE, signed":                {sign(tokentest.Object{"alg": "NONE"}, valid), `"NONE"`},
		"alg empty":                       {unsigned(""), `its algorithm, "", is not accepted`},
		"no alg":                          {tokentest.Encode("{}") + "." + tokentest.Encode(valid) + "." + parts[2], `its algorithm, ""`},
		"alg in another case":             {sign(`{"ALG":"RS256"}`, valid), `its algorithm, ""`},
		"alg twice":                       {sign(`{"alg":"none","alg":"RS256"}`, valid), "its header cannot be read"},
		"alg no string":                   {sign(`{"alg":["RS256"]}`, valid), "its header cannot be read"},
		"wrong alg: RSA public key as HS": {tokentest.Make(tokentest.Object{"alg": "HS256"}, valid, "HS256", []byte(k.RSAPEM)), "no key fits its algorithm, HS256"},
		"wrong alg: the same, trimmed":    {tokentest.Make(tokentest.Object{"alg": "HS256"}, valid, "HS256", []byte(strings.TrimSpace(k.RSAPEM))), "no key fits its algorithm"},
		"wrong alg: the header only":      {tokentest.Encode(tokentest.Object{"alg": "RS384"}) + "." + parts[1] + "." + parts[2], "its signature"},
		"another key":                     {tokentest.Make(head, valid, "RS256", k.RSA2), "its signature"},
		"no signature":                    {parts[0] + "." + parts[1] + ".", "its signature"},
		"two parts":                       {parts[0] + "." + parts[1], "it cannot be read"},
		"four parts":                      {good + "." + parts[2], "it cannot be read"},
		"five parts":                      {good + ".x.y", "it cannot be read"},
		"other claims":                    {parts[0] + "." + other[1] + "." + parts[2], "its signature"},
		"other signature":                 {parts[0] + "." + parts[1] + "." + other[2], "its signature"},
		"padding":                         {parts[0] + "=." + parts[1] + "." + parts[2], "it is not a JSON Web Token"},
		"white space":                     {" " + good, "it is not a JSON Web Token"},
		"a line break inside":             {parts[0] + "." + parts[1][:9] + `\n` + parts[1][9:] + "." + parts[2], "it is not a JSON Web Token"},
		"JSON serialization":              {`{\"payload\":\"` + parts[1] + `\",\"protected\":\"` + parts[0] + `\",\"signature\":\"` + parts[2] + `\"}`, "it is not a JSON Web Token"},
		"crit":                            {sign(head.With("crit", []string{"exp"}), valid), "crit or b64"},
		"crit that the library knows":     {sign(head.With("crit", []string{"b64"}, "b64", true), valid), "crit or b64"},
		"b64":                             {sign(head.With("b64", false), valid), "crit or b64"},
		"expired":                         {sign(head, valid.With("exp", now-1)), "expired"},
		"missing exp":                     {sign(head, valid.With("exp", nil)), "it has no expiry"},
		"exp null":                        {sign(head, `{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":null}`), "it has no expiry"},
		"exp in another case":             {sign(head, valid.With("exp", nil, "EXP", now+3600)), "it has no expiry"},
		"exp as text":                     {sign(head, valid.With("exp", fmt.Sprint(now+3600))), "claims cannot be read"},
		"exp beyond all bounds":           {sign(head, `{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":1e300}`), "claims cannot be read"},
		"exp that wraps":                  {sign(head, valid.With("exp", int64(1)<<62)), "claims cannot be read"},
		"exp twice":                       {sign(head, strings.Replace(twice, "M", fmt.Sprint(now+7200), 1)), "its claims cannot be read"},
		"nbf in the future":               {sign(head, valid.With("nbf", now+60)), "it is not valid yet"},
		"nbf that wraps":                  {sign(head, valid.With("nbf", uint64(1)<<63)), "claims cannot be read"},
		"iat in the future":               {sign(head, valid.With("iat", now+60)), "it was issued in the future"},
		"wrong aud":                       {sign(head, valid.With("aud", "shop")), `its audience is ["shop"]`},
		"wrong aud, a list":               {sign(head, valid.With("aud", []string{"shop", "push2"})), "its audience"},
		"no aud":                          {sign(head, valid.With("aud", nil)), "its audience"},
		"aud an object":                   {sign(head, valid.With("aud", tokentest.Object{"push": true})), "claims cannot be read"},
		"wrong iss":                       {sign(head, valid.With("iss", "https://id.example.com/")), `its issuer is "https://id.example.com/"`},
		"iss a list":                      {sign(head, valid.With("iss", []string{"https://id.example.com"})), "claims cannot be read"},
		"no iss":                          {sign(head, valid.With("iss", nil)), "its issuer"},
		"claims that are no object":       {sign(head, `["bob"]`), "its claims cannot be read"},
		"claims and more":                 {sign(head, `{"exp":1}{}`), "something follows its claims"},
		"a huge token":                    {sign(head, valid.With("pad", strings.Repeat("x", 8<<10))), "at most 8192 are allowed"},
		"sub an object":                   {sign(head, valid.With("sub", tokentest.Object{"id": "bob"})), "its claim sub does not name a user"},
		"not a token":                     {"letmein", "its header cannot be read"},
		"dots":                            {"..", "its header cannot be read"},
	}
}

// The leeway is for issuers whose clock is ahead. Tokens end exactly at their expiry.
func TestJWTLeeway(t *testing.T) {
	for name, c := range map[string]struct {
		leeway, claims []any // seconds from now
		want           Kind
	}{
		"made within it":         {nil, []any{"iat", 25}, Pass},
		"valid within it":        {nil, []any{"nbf", 25}, Pass},
		"made beyond it":         {nil, []any{"iat", 35}, Deny},
		"valid beyond it":        {nil, []any{"nbf", 35}, Deny},
		"made within a long one": {[]any{"leeway", "2m"}, []any{"iat", 110, "nbf", 110}, Pass},
		"made beyond a long one": {[]any{"leeway", "2m"}, []any{"iat", 130}, Deny},
		"expired within it":      {nil, []any{"exp", -5}, Deny},
	} {
		t.Run(name, func(t *testing.T) {
			claims := tokentest.ValidClaims()
			for i := 0; i < len(c.claims); i += 2 {
				claims[c.claims[i].(string)] = time.Now().Unix() + int64(c.claims[i+1].(int))
			}
			g := mustLoad(t, jwtConfig(append(c.leeway, withSecret...)...))
			if a := g.Decide(t.Context(), present(t, hs(claims))); a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

func TestJWTAttacks(t *testing.T) {
	k := tokentest.Keys()
	g := mustLoad(t, jwtConfig("keys", []string{k.RSAPEM}, "issuers", []string{"https://id.example.com"}, "audiences", []string{"push"}))
	sign := func(header, claims any) string { return tokentest.Make(header, claims, "RS256", k.RSA) }
	q := present(t, sign(tokentest.Object{"alg": "RS256"}, tokentest.ValidClaims()))
	if a := g.Decide(t.Context(), q); a.Kind != Pass {
		t.Fatalf("a valid token: %v (%v)", a.Kind, a.Err)
	}
	for name, c := range attacks(sign) {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time it may be in the cache
				a := g.Decide(t.Context(), againWith(q, c.token))
				if a.Kind != Deny {
					t.Fatalf("got %v (%v)", a.Kind, a.Err)
				}
				if a.Err == nil || !strings.Contains(a.Err.Error(), c.why) {
					t.Errorf("the error is %v, want one with %q", a.Err, c.why)
				}
				if a.Expired != (name == "expired") {
					t.Errorf("expired = %v", a.Expired)
				}
				if a.Learned.User != "" || a.Learned.Claims != nil {
					t.Errorf("something was learned: %+v", a.Learned)
				}
				if a.Reason != reasonBadToken && !a.Expired {
					t.Errorf("the agent is told %q", a.Reason)
				}
			}
		})
	}
}

// Keys in the header of a token are ignored: nothing is fetched, and no file is read.
func TestJWTHeadersThatPointElsewhere(t *testing.T) {
	k := tokentest.Keys()
	var asked atomic.Int32
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer evil.Close()
	public, err := json.Marshal(jose.JSONWebKey{Key: &k.RSA2.PublicKey, KeyID: "evil"})
	if err != nil {
		t.Fatal(err)
	}
	chain := []string{base64.StdEncoding.EncodeToString(selfSigned(t, k.RSA2))}
	file := filepath.Join(t.TempDir(), "evil.pem")
	if err := os.WriteFile(file, []byte(tokentest.PublicPEM(&k.RSA2.PublicKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.RSA.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for setting, g := range map[string]Guard{
		"key":  mustLoad(t, jwtConfig("keys", []string{k.RSAPEM})),
		"jwks": mustLoad(t, jwtConfig("jwks", keys)),
	} {
		q := present(t, "")
		for name, header := range map[string]tokentest.Object{
			"jku":           {"alg": "RS256", "jku": evil.URL + "/keys", "kid": "evil"},
			"jku alone":     {"alg": "RS256", "jku": evil.URL + "/keys"},
			"x5u":           {"alg": "RS256", "x5u": evil.URL + "/cert"},
			"jwk":           {"alg": "RS256", "jwk": json.RawMessage(public)},
			"x5c":           {"alg": "RS256", "x5c": chain},
			"kid a path":    {"alg": "RS256", "kid": file},
			"kid ../":       {"alg": "RS256", "kid": "../../../../../../.." + file},
			"kid a file":    {"alg": "RS256", "kid": "file://" + file},
			"kid a URL":     {"alg": "RS256", "kid": evil.URL + "/keys"},
			"kid SQL":       {"alg": "RS256", "kid": "x' UNION SELECT 'key"},
			"kid a command": {"alg": "RS256", "kid": "/dev/null; touch /tmp/x"},
			"kid known":     {"alg": "RS256", "kid": "k1", "jwk": json.RawMessage(public)},
		} {
			a := g.Decide(t.Context(), againWith(q, tokentest.Make(header, tokentest.ValidClaims(), "RS256", k.RSA2)))
			if a.Kind == Pass {
				t.Errorf("%s, %s: passed", setting, name)
			}
		}
		// These headers are harmless in a token that the right key has signed.
		a := g.Decide(t.Context(), againWith(q, tokentest.Make(tokentest.Object{"alg": "RS256", "jku": evil.URL, "jwk": json.RawMessage(public)}, tokentest.ValidClaims(), "RS256", k.RSA)))
		if a.Kind != Pass {
			t.Errorf("%s: a valid token with jku and jwk: %v (%v)", setting, a.Kind, a.Err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d fetches from where tokens pointed to", n)
	}
	// The content of a well-known file is not a secret.
	g := mustLoad(t, jwtConfig(withSecret...))
	for _, content := range []string{"", "\x00", "null"} {
		if a := g.Decide(t.Context(), present(t, tokentest.Make(tokentest.Object{"alg": "HS256", "kid": "/dev/null"}, tokentest.ValidClaims(), "HS256", []byte(content)))); a.Kind != Deny {
			t.Errorf("signed with %q: %v", content, a.Kind)
		}
	}
}

func selfSigned(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestJWTWithSeveralKeys(t *testing.T) {
	k := tokentest.Keys()
	jwk := func(id string, key any) string {
		raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: id})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	g := mustLoad(t, jwtConfig("secrets", []string{secretOfTests, "another " + secretOfTests},
		"keys", []string{jwk("same", &k.RSA.PublicKey), jwk("same", &k.RSA2.PublicKey), jwk("ec", &k.P256.PublicKey)}))
	q := present(t, "")
	for name, c := range map[string]struct {
		token string
		want  Kind
	}{
		"the first secret":             {tokentest.Make(tokentest.Object{"alg": "HS256"}, tokentest.ValidClaims(), "HS256", secret), Pass},
		"the second secret":            {tokentest.Make(tokentest.Object{"alg": "HS256"}, tokentest.ValidClaims(), "HS256", []byte("another "+secretOfTests)), Pass},
		"a secret, with any kid":       {tokentest.Make(tokentest.Object{"alg": "HS256", "kid": "x"}, tokentest.ValidClaims(), "HS256", secret), Pass},
		"the first of a duplicate kid": {tokentest.Make(tokentest.Object{"alg": "RS256", "kid": "same"}, tokentest.ValidClaims(), "RS256", k.RSA), Pass},
		"the other of it":              {tokentest.Make(tokentest.Object{"alg": "RS256", "kid": "same"}, tokentest.ValidClaims(), "RS256", k.RSA2), Pass},
		"no kid":                       {tokentest.Make(tokentest.Object{"alg": "RS256"}, tokentest.ValidClaims(), "RS256", k.RSA2), Pass},
		"an unknown kid":               {tokentest.Make(tokentest.Object{"alg": "RS256", "kid": "other"}, tokentest.ValidClaims(), "RS256", k.RSA), Deny},
		"the kid of another key":       {tokentest.Make(tokentest.Object{"alg": "RS256", "kid": "ec"}, tokentest.ValidClaims(), "RS256", k.RSA), Deny},
		"kid twice":                    {tokentest.Make(`{"alg":"RS256","kid":"ec","kid":"same"}`, tokentest.ValidClaims(), "RS256", k.RSA), Deny},
		"kid no string":                {tokentest.Make(`{"alg":"RS256","kid":1}`, tokentest.ValidClaims(), "RS256", k.RSA), Deny},
	} {
		t.Run(name, func(t *testing.T) {
			if a := g.Decide(t.Context(), againWith(q, c.token)); a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

func TestWhereTokensArePresented(t *testing.T) {
	good, bad := hs(tokentest.ValidClaims()), hs(tokentest.ValidClaims().With("exp", time.Now().Unix()-9))
	cookie := func(v string) string { return fields("Cookie", "a=b; session="+v) }
	for name, c := range map[string]struct {
		settings    []any
		credentials string
		header, uri string
		want        Kind
		presented   bool
	}{
		"credentials":                        {nil, `"` + good + `"`, "", "/", Pass, true},
		"credentials, an object":             {nil, `{"token":"` + good + `","name":"bob"}`, "", "/", Pass, true},
		"Authorization":                      {nil, ``, fields("Authorization", "Bearer "+good), "/", Pass, true},
		"Authorization: Basic":               {nil, ``, fields("Authorization", "Basic eDp5"), "/", Deny, false},
		"nothing":                            {nil, ``, "", "/", Deny, false},
		"a cookie that is not named":         {nil, ``, cookie(good), "/", Deny, false},
		"a cookie":                           {[]any{"cookie", "session"}, ``, cookie(good), "/", Pass, true},
		"a cookie of another name":           {[]any{"cookie", "sessio"}, ``, cookie(good), "/", Deny, false},
		"the query that is not named":        {nil, ``, "", "/push?token=" + good + "&access_token=" + good + "&jwt=" + good, Deny, false},
		"the query":                          {[]any{"query", "token"}, ``, "", "/push?token=" + good, Pass, true},
		"the query under another name":       {[]any{"query", "token"}, ``, "", "/push?Token=" + good, Deny, false},
		"another header":                     {[]any{"header", "x-token"}, ``, fields("X-Token", good), "/", Pass, true},
		"another header with Bearer":         {[]any{"header", "x-token"}, ``, fields("X-Token", "Bearer "+good), "/", Pass, true},
		"another header in place of":         {[]any{"header", "x-token"}, ``, fields("Authorization", "Bearer "+good), "/", Deny, false},
		"two: good credentials, bad cookie":  {[]any{"cookie", "session"}, `"` + good + `"`, cookie(bad), "/", Pass, true},
		"two: bad credentials, good cookie":  {[]any{"cookie", "session"}, `"` + bad + `"`, cookie(good), "/", Deny, true},
		"two: bad header, good cookie":       {[]any{"cookie", "session"}, ``, cookie(good) + fields("Authorization", "Bearer "+bad), "/", Deny, true},
		"two: bad cookie, good query":        {[]any{"cookie", "session", "query", "t"}, ``, cookie(bad), "/?t=" + good, Deny, true},
		"two: other credentials, a cookie":   {[]any{"cookie", "session"}, `{"name":"bob"}`, cookie(good), "/", Pass, true},
		"credentials that are not a string":  {[]any{"cookie", "session"}, `{"token":{"a":1}}`, cookie(good), "/", Deny, true},
		"two cookies of the name: the first": {[]any{"cookie", "session"}, ``, fields("Cookie", "session="+bad+"; session="+good), "/", Deny, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustLoad(t, jwtConfig(append(c.settings, withSecret...)...)).(*JWT)
			q := questionOf(t, hub.Opening{Header: c.header, URI: c.uri}, c.credentials)
			if a := g.Decide(t.Context(), q); a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
			if got := g.Presented(q); got != c.presented {
				t.Errorf("presented = %v", got)
			}
		})
	}
}

func TestWhatJWTLearns(t *testing.T) {
	exp := time.Now().Add(time.Hour).Unix()
	claims := tokentest.ValidClaims().With("exp", exp, "role", "editor", "age", 42, "big", json.Number("12345678901234567890"),
		"email", "bob@example.com", "channels", []string{"users/bob", "teams/*"}, "one", "news", "uid", json.Number("12345678901234567891"),
		"realm", tokentest.Object{"id": "r1", "roles": []string{"a", "b"}}, "flag", true)
	for name, c := range map[string]struct {
		settings []any
		claims   tokentest.Object
		user     string
		grants   string
		why      string // "" if it passes
	}{
		"sub":                      {nil, claims, "bob", "[]", ""},
		"no sub":                   {nil, claims.With("sub", nil), "", "[]", ""},
		"an empty sub":             {nil, claims.With("sub", ""), "", "[]", ""},
		"a sub that is a number":   {nil, claims.With("sub", 42), "42", "[]", ""},
		"user_claim":               {[]any{"user_claim", "email"}, claims, "bob@example.com", "[]", ""},
		"user_claim, all digits":   {[]any{"user_claim", "uid"}, claims, "12345678901234567891", "[]", ""},
		"user_claim in an object":  {[]any{"user_claim", "realm.id"}, claims, "r1", "[]", ""},
		"user_claim that lacks":    {[]any{"user_claim", "email"}, claims.With("email", nil), "", "", "its claim email does not name a user"},
		"user_claim that is empty": {[]any{"user_claim", "email"}, claims.With("email", ""), "", "", "does not name a user"},
		"user_claim a list":        {[]any{"user_claim", "channels"}, claims, "", "", "does not name a user"},
		"user_claim a truth value": {[]any{"user_claim", "flag"}, claims, "", "", "does not name a user"},
		"grant_claim":              {[]any{"grant_claim", "channels"}, claims, "bob", "[users/bob teams/*]", ""},
		"grant_claim, one":         {[]any{"grant_claim", "one"}, claims, "bob", "[news]", ""},
		"grant_claim that lacks":   {[]any{"grant_claim", "other"}, claims, "bob", "[]", ""},
		"grant_claim no strings":   {[]any{"grant_claim", "realm"}, claims, "", "", "its claim realm is not a list of strings"},
		"grants only when asked":   {nil, claims.With("grant", []string{"*"}), "bob", "[]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustLoad(t, jwtConfig(append(c.settings, withSecret...)...))
			a := g.Decide(t.Context(), present(t, hs(c.claims)))
			if c.why != "" {
				if a.Kind != Deny || a.Err == nil || !strings.Contains(a.Err.Error(), c.why) {
					t.Errorf("got %v (%v)", a.Kind, a.Err)
				}
				return
			}
			l := a.Learned
			if a.Kind != Pass || l.User != c.user || fmt.Sprint(l.Grants) != c.grants || l.Expires.Unix() != exp {
				t.Errorf("got %v (%v): %+v", a.Kind, a.Err, l)
			}
			if l.Claims["age"] != json.Number("42") || l.Claims["big"] != json.Number("12345678901234567890") || l.Claims["role"] != "editor" {
				t.Errorf("claims %v", l.Claims)
			}
		})
	}
}

func TestWhatJWTRequires(t *testing.T) {
	claims := tokentest.ValidClaims().With("role", "editor", "groups", []any{"a", "b", 3}, "level", 5, "ok", true, "scope", "read push:write",
		"https://example.com/tier", "gold", "realm_access", tokentest.Object{"roles": []string{"x", "y"}}, "empty", nil)
	for name, c := range map[string]struct {
		require tokentest.Object
		want    Kind
	}{
		"a claim":               {tokentest.Object{"role": []string{}}, Pass},
		"no such claim":         {tokentest.Object{"rol": []string{}}, Deny},
		"a null claim":          {tokentest.Object{"empty": []string{}}, Deny},
		"the value":             {tokentest.Object{"role": []string{"admin", "editor"}}, Pass},
		"another value":         {tokentest.Object{"role": []string{"admin"}}, Deny},
		"in another case":       {tokentest.Object{"role": []string{"Editor"}}, Deny},
		"part of the value":     {tokentest.Object{"role": []string{"edit"}}, Deny},
		"in a list":             {tokentest.Object{"groups": []string{"b"}}, Pass},
		"a number in a list":    {tokentest.Object{"groups": []string{"3"}}, Pass},
		"not in the list":       {tokentest.Object{"groups": []string{"c"}}, Deny},
		"a number":              {tokentest.Object{"level": []string{"5"}}, Pass},
		"a truth value":         {tokentest.Object{"ok": []string{"true"}}, Pass},
		"a word of scope":       {tokentest.Object{"scope": []string{"push:write"}}, Pass},
		"not a word of scope":   {tokentest.Object{"scope": []string{"push"}}, Deny},
		"a word of another":     {tokentest.Object{"role2": []string{"editor"}}, Deny},
		"a name with dots":      {tokentest.Object{"https://example.com/tier": []string{"gold"}}, Pass},
		"a claim in a claim":    {tokentest.Object{"realm_access.roles": []string{"y"}}, Pass},
		"a claim not in it":     {tokentest.Object{"realm_access.other": []string{}}, Deny},
		"a claim in no object":  {tokentest.Object{"role.x": []string{}}, Deny},
		"two, of which one not": {tokentest.Object{"role": []string{}, "groups": []string{"c"}}, Deny},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustLoad(t, jwtConfig(append([]any{"require", c.require}, withSecret...)...))
			if a := g.Decide(t.Context(), present(t, hs(claims))); a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

// Garbage is denied, and nothing breaks.
func FuzzJWT(f *testing.F) {
	k := tokentest.Keys()
	sign := func(header, claims any) string { return tokentest.Make(header, claims, "RS256", k.RSA) }
	for _, a := range attacks(sign) {
		f.Add(a.token)
	}
	g := mustLoad(f, jwtConfig("keys", []string{k.RSAPEM}, "issuers", []string{"https://id.example.com"}, "audiences", []string{"push"}))
	q := questionOf(f, hub.Opening{}, "")
	f.Fuzz(func(t *testing.T, token string) {
		credentials, err := json.Marshal(token)
		if err != nil {
			t.Fatal(err)
		}
		h := *q.Question
		h.Credentials = credentials
		if a := g.Decide(t.Context(), &Question{Question: &h, Env: q.Env}); a.Kind != Deny {
			t.Errorf("%q: %v", token, a.Kind)
		}
	})
}

func BenchmarkJWT(b *testing.B) {
	k := tokentest.Keys()
	for name, c := range map[string]struct {
		config string
		token  string
	}{
		"HS256": {jwtConfig(withSecret...), hs(tokentest.ValidClaims())},
		"RS256": {jwtConfig("keys", []string{k.RSAPEM}), tokentest.Make(tokentest.Object{"alg": "RS256"}, tokentest.ValidClaims(), "RS256", k.RSA)},
		"ES256": {jwtConfig("keys", []string{tokentest.PublicPEM(&k.P256.PublicKey)}), tokentest.Make(tokentest.Object{"alg": "ES256"}, tokentest.ValidClaims(), "ES256", k.P256)},
		"EdDSA": {jwtConfig("keys", []string{k.EdPEM}), tokentest.Make(tokentest.Object{"alg": "EdDSA"}, tokentest.ValidClaims(), "EdDSA", k.Ed)},
	} {
		b.Run(name+"/cached", func(b *testing.B) { benchmarkGuard(b, c.config, present(b, c.token), Pass) })
		b.Run(name+"/not cached", func(b *testing.B) {
			g := mustLoad(b, c.config).(*JWT)
			q, ctx := present(b, c.token), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				v := &g.verifier
				g.verifier = token.Verifier{ // has verified nothing yet
					Keys: v.Keys, Source: v.Source, Issuers: v.Issuers, Audiences: v.Audiences, Require: v.Require,
					Leeway: v.Leeway, UserClaim: v.UserClaim, GrantClaim: v.GrantClaim,
				}
				if a := g.Decide(ctx, q); a.Kind != Pass {
					b.Fatal(a)
				}
			}
		})
	}
}
