// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/push-it/pushit/hub"
)

type keysOfTests struct {
	rsa, rsa2     *rsa.PrivateKey
	p256, p384    *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
	rsaPEM, edPEM string
}

// testKeys are made once: RSA keys take their time.
var testKeys = sync.OnceValue(func() (k keysOfTests) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.rsa2, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	k.rsaPEM, k.edPEM = publicPEM(&k.rsa.PublicKey), publicPEM(k.ed.Public())
	return k
})

func publicPEM(key any) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// object is a JSON object.
type object map[string]any

func (o object) with(pairs ...any) object {
	c := object{}
	maps.Copy(c, o)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		} else {
			c[pairs[i].(string)] = pairs[i+1]
		}
	}
	return c
}

func encode(v any) string {
	text, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		text = string(raw)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// makeToken makes a token of a header and claims, which are objects or JSON, and
// signs it with the key for what alg says, whatever the header does.
func makeToken(header, claims any, alg string, key any) string {
	signed := encode(header) + "." + encode(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature(signed, alg, key))
}

func signature(signed, alg string, key any) (sig []byte) {
	if alg == "none" {
		return nil
	}
	h, newHash := crypto.SHA256, func() hash.Hash { return sha256.New() }
	switch {
	case strings.HasSuffix(alg, "384"):
		h, newHash = crypto.SHA384, sha512.New384
	case strings.HasSuffix(alg, "512"):
		h, newHash = crypto.SHA512, sha512.New
	}
	digest := newHash()
	digest.Write([]byte(signed))
	sum := digest.Sum(nil)
	var err error
	switch alg[:2] {
	case "HS":
		mac := hmac.New(newHash, key.([]byte))
		mac.Write([]byte(signed))
		return mac.Sum(nil)
	case "RS":
		sig, err = rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), h, sum)
	case "PS":
		sig, err = rsa.SignPSS(rand.Reader, key.(*rsa.PrivateKey), h, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		k := key.(*ecdsa.PrivateKey)
		r, s, e := ecdsa.Sign(rand.Reader, k, sum)
		size := (k.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), e
	case "Ed":
		return ed25519.Sign(key.(ed25519.PrivateKey), []byte(signed))
	}
	if err != nil {
		panic(err)
	}
	return sig
}

// validClaims are those of bob, for an hour.
func validClaims() object {
	now := time.Now().Unix()
	return object{"sub": "bob", "iss": "https://id.example.com", "aud": "push", "iat": now, "exp": now + 3600}
}

var secret = []byte(secretOfTests)

// hs is a token of bob's with the secret of tests.
func hs(claims object) string {
	return makeToken(object{"alg": "HS256", "typ": "JWT"}, claims, "HS256", secret)
}

// jwtConfig is the JSON of a guard with the settings given as name, value pairs.
func jwtConfig(settings ...any) string {
	raw, err := json.Marshal(object{"guard": "jwt"}.with(settings...))
	if err != nil {
		panic(err)
	}
	return string(raw)
}

var withSecret = []any{"secrets", []string{secretOfTests}}

// present is a question with a token in its credentials.
func present(t testing.TB, token string) *Question {
	return questionOf(t, hub.Opening{}, `{"token":"`+token+`"}`)
}

// againWith is q with another token.
func againWith(q *Question, token string) *Question {
	h := *q.Question
	h.Credentials = []byte(`{"token":"` + token + `"}`)
	c := *q
	c.Question = &h
	return &c
}

func TestJWTAlgorithms(t *testing.T) {
	k := testKeys()
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
		"RS256":                        {"keys", k.rsaPEM, "RS256", k.rsa, Pass},
		"RS384":                        {"keys", k.rsaPEM, "RS384", k.rsa, Pass},
		"RS512":                        {"keys", k.rsaPEM, "RS512", k.rsa, Pass},
		"PS256":                        {"keys", k.rsaPEM, "PS256", k.rsa, Pass},
		"PS512":                        {"keys", k.rsaPEM, "PS512", k.rsa, Pass},
		"RS256 as JWK":                 {"keys", jwk(&k.rsa.PublicKey, "RS256"), "RS256", k.rsa, Pass},
		"RS256 of another key":         {"keys", k.rsaPEM, "RS256", k.rsa2, Deny},
		"PS256 with a JWK of RS256":    {"keys", jwk(&k.rsa.PublicKey, "RS256"), "PS256", k.rsa, Deny},
		"ES256":                        {"keys", publicPEM(&k.p256.PublicKey), "ES256", k.p256, Pass},
		"ES384":                        {"keys", publicPEM(&k.p384.PublicKey), "ES384", k.p384, Pass},
		"ES384 as JWK":                 {"keys", jwk(&k.p384.PublicKey, ""), "ES384", k.p384, Pass},
		"ES256 with another curve":     {"keys", publicPEM(&k.p384.PublicKey), "ES256", k.p256, Deny},
		"EdDSA":                        {"keys", k.edPEM, "EdDSA", k.ed, Pass},
		"EdDSA as JWK":                 {"keys", jwk(k.ed.Public(), ""), "EdDSA", k.ed, Pass},
		"HS256 with an RSA public key": {"keys", k.rsaPEM, "HS256", []byte(k.rsaPEM), Deny},
		"HS256 with an Ed25519 key":    {"keys", k.edPEM, "HS256", []byte(k.ed.Public().(ed25519.PublicKey)), Deny},
		"RS256 with an EC key":         {"keys", publicPEM(&k.p256.PublicKey), "RS256", k.rsa, Deny},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustLoad(t, jwtConfig(c.setting, []string{c.value}))
			a := g.Decide(t.Context(), present(t, makeToken(object{"alg": c.alg}, validClaims(), c.alg, c.key)))
			if a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

// attacks are tokens that must not pass, whatever the guard accepts otherwise:
// one key, issuer https://id.example.com, audience push.
func attacks(sign func(header, claims any) string) map[string]struct {
	token string
	why   string // of the error, which the operator sees
} {
	k := testKeys()
	valid, now := validClaims(), time.Now().Unix()
	head := object{"alg": "RS256", "typ": "JWT"}
	good := sign(head, valid)
	parts := strings.Split(good, ".")
	other := strings.Split(sign(head, valid.with("sub", "alice")), ".")
	twice := strings.Replace(`{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":N,"exp":M}`, "N", fmt.Sprint(now+3600), 1)
	unsigned := func(alg string) string { return encode(object{"alg": alg}) + "." + encode(valid) + "." }
	type attack = struct {
		token string
		why   string
	}
	return map[string]attack{
		"alg none":                        {unsigned("none"), `its algorithm, "none", is not accepted`},
		"alg None":                        {unsigned("None"), `its algorithm, "None", is not accepted`},
		"alg NONE, signed":                {sign(object{"alg": "NONE"}, valid), `"NONE"`},
		"alg empty":                       {unsigned(""), `its algorithm, "", is not accepted`},
		"no alg":                          {encode("{}") + "." + encode(valid) + "." + parts[2], `its algorithm, ""`},
		"alg in another case":             {sign(`{"ALG":"RS256"}`, valid), `its algorithm, ""`},
		"alg twice":                       {sign(`{"alg":"none","alg":"RS256"}`, valid), "its header cannot be read"},
		"alg no string":                   {sign(`{"alg":["RS256"]}`, valid), "its header cannot be read"},
		"wrong alg: RSA public key as HS": {makeToken(object{"alg": "HS256"}, valid, "HS256", []byte(k.rsaPEM)), "no key fits its algorithm, HS256"},
		"wrong alg: the same, trimmed":    {makeToken(object{"alg": "HS256"}, valid, "HS256", []byte(strings.TrimSpace(k.rsaPEM))), "no key fits its algorithm"},
		"wrong alg: the header only":      {encode(object{"alg": "RS384"}) + "." + parts[1] + "." + parts[2], "its signature"},
		"another key":                     {makeToken(head, valid, "RS256", k.rsa2), "its signature"},
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
		"crit":                            {sign(head.with("crit", []string{"exp"}), valid), "crit or b64"},
		"crit that the library knows":     {sign(head.with("crit", []string{"b64"}, "b64", true), valid), "crit or b64"},
		"b64":                             {sign(head.with("b64", false), valid), "crit or b64"},
		"expired":                         {sign(head, valid.with("exp", now-1)), "expired"},
		"missing exp":                     {sign(head, valid.with("exp", nil)), "it has no expiry"},
		"exp null":                        {sign(head, `{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":null}`), "it has no expiry"},
		"exp in another case":             {sign(head, valid.with("exp", nil, "EXP", now+3600)), "it has no expiry"},
		"exp as text":                     {sign(head, valid.with("exp", fmt.Sprint(now+3600))), "claims cannot be read"},
		"exp beyond all bounds":           {sign(head, `{"sub":"bob","iss":"https://id.example.com","aud":"push","exp":1e300}`), "claims cannot be read"},
		"exp that wraps":                  {sign(head, valid.with("exp", int64(1)<<62)), "claims cannot be read"},
		"exp twice":                       {sign(head, strings.Replace(twice, "M", fmt.Sprint(now+7200), 1)), "its claims cannot be read"},
		"nbf in the future":               {sign(head, valid.with("nbf", now+60)), "it is not valid yet"},
		"nbf that wraps":                  {sign(head, valid.with("nbf", uint64(1)<<63)), "claims cannot be read"},
		"iat in the future":               {sign(head, valid.with("iat", now+60)), "it is from the future"},
		"wrong aud":                       {sign(head, valid.with("aud", "shop")), `its audience is ["shop"]`},
		"wrong aud, a list":               {sign(head, valid.with("aud", []string{"shop", "push2"})), "its audience"},
		"no aud":                          {sign(head, valid.with("aud", nil)), "its audience"},
		"aud an object":                   {sign(head, valid.with("aud", object{"push": true})), "claims cannot be read"},
		"wrong iss":                       {sign(head, valid.with("iss", "https://id.example.com/")), `its issuer is "https://id.example.com/"`},
		"iss a list":                      {sign(head, valid.with("iss", []string{"https://id.example.com"})), "claims cannot be read"},
		"no iss":                          {sign(head, valid.with("iss", nil)), "its issuer"},
		"claims that are no object":       {sign(head, `["bob"]`), "its claims cannot be read"},
		"claims and more":                 {sign(head, `{"exp":1}{}`), "something follows its claims"},
		"a huge token":                    {sign(head, valid.with("pad", strings.Repeat("x", maxToken))), "8192 are the most"},
		"sub an object":                   {sign(head, valid.with("sub", object{"id": "bob"})), "its claim sub does not name a user"},
		"not a token":                     {"letmein", "its header cannot be read"},
		"dots":                            {"..", "its header cannot be read"},
	}
}

// Leeway is for who makes the tokens: its clock may be ahead. The end of a token is
// exact.
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
			claims := validClaims()
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
	k := testKeys()
	g := mustLoad(t, jwtConfig("keys", []string{k.rsaPEM}, "issuers", []string{"https://id.example.com"}, "audiences", []string{"push"}))
	sign := func(header, claims any) string { return makeToken(header, claims, "RS256", k.rsa) }
	q := present(t, sign(object{"alg": "RS256"}, validClaims()))
	if a := g.Decide(t.Context(), q); a.Kind != Pass {
		t.Fatalf("a valid token: %v (%v)", a.Kind, a.Err)
	}
	for name, c := range attacks(sign) {
		t.Run(name, func(t *testing.T) {
			for range 2 { // also when it has been seen
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

// What a token says of keys leads nowhere: nothing is fetched, and no file read.
func TestJWTHeadersThatPointElsewhere(t *testing.T) {
	k := testKeys()
	var asked atomic.Int32
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer evil.Close()
	public, err := json.Marshal(jose.JSONWebKey{Key: &k.rsa2.PublicKey, KeyID: "evil"})
	if err != nil {
		t.Fatal(err)
	}
	chain := []string{base64.StdEncoding.EncodeToString(selfSigned(t, k.rsa2))}
	file := filepath.Join(t.TempDir(), "evil.pem")
	if err := os.WriteFile(file, []byte(publicPEM(&k.rsa2.PublicKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.rsa.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for setting, g := range map[string]Guard{
		"key":  mustLoad(t, jwtConfig("keys", []string{k.rsaPEM})),
		"jwks": mustLoad(t, jwtConfig("jwks", keys)),
	} {
		q := present(t, "")
		for name, header := range map[string]object{
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
			a := g.Decide(t.Context(), againWith(q, makeToken(header, validClaims(), "RS256", k.rsa2)))
			if a.Kind == Pass {
				t.Errorf("%s, %s: passed", setting, name)
			}
		}
		// The same headers do no harm to who has the key.
		a := g.Decide(t.Context(), againWith(q, makeToken(object{"alg": "RS256", "jku": evil.URL, "jwk": json.RawMessage(public)}, validClaims(), "RS256", k.rsa)))
		if a.Kind != Pass {
			t.Errorf("%s: a valid token with jku and jwk: %v (%v)", setting, a.Kind, a.Err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d fetches from where tokens pointed to", n)
	}
	// The content of a well-known file is no secret.
	g := mustLoad(t, jwtConfig(withSecret...))
	for _, content := range []string{"", "\x00", "null"} {
		if a := g.Decide(t.Context(), present(t, makeToken(object{"alg": "HS256", "kid": "/dev/null"}, validClaims(), "HS256", []byte(content)))); a.Kind != Deny {
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
	k := testKeys()
	jwk := func(id string, key any) string {
		raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: id})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	g := mustLoad(t, jwtConfig("secrets", []string{secretOfTests, "another " + secretOfTests},
		"keys", []string{jwk("same", &k.rsa.PublicKey), jwk("same", &k.rsa2.PublicKey), jwk("ec", &k.p256.PublicKey)}))
	q := present(t, "")
	for name, c := range map[string]struct {
		token string
		want  Kind
	}{
		"the first secret":             {makeToken(object{"alg": "HS256"}, validClaims(), "HS256", secret), Pass},
		"the second secret":            {makeToken(object{"alg": "HS256"}, validClaims(), "HS256", []byte("another "+secretOfTests)), Pass},
		"a secret, with any kid":       {makeToken(object{"alg": "HS256", "kid": "x"}, validClaims(), "HS256", secret), Pass},
		"the first of a duplicate kid": {makeToken(object{"alg": "RS256", "kid": "same"}, validClaims(), "RS256", k.rsa), Pass},
		"the other of it":              {makeToken(object{"alg": "RS256", "kid": "same"}, validClaims(), "RS256", k.rsa2), Pass},
		"no kid":                       {makeToken(object{"alg": "RS256"}, validClaims(), "RS256", k.rsa2), Pass},
		"an unknown kid":               {makeToken(object{"alg": "RS256", "kid": "other"}, validClaims(), "RS256", k.rsa), Deny},
		"the kid of another key":       {makeToken(object{"alg": "RS256", "kid": "ec"}, validClaims(), "RS256", k.rsa), Deny},
		"kid twice":                    {makeToken(`{"alg":"RS256","kid":"ec","kid":"same"}`, validClaims(), "RS256", k.rsa), Deny},
		"kid no string":                {makeToken(`{"alg":"RS256","kid":1}`, validClaims(), "RS256", k.rsa), Deny},
	} {
		t.Run(name, func(t *testing.T) {
			if a := g.Decide(t.Context(), againWith(q, c.token)); a.Kind != c.want {
				t.Errorf("got %v (%v), want %v", a.Kind, a.Err, c.want)
			}
		})
	}
}

func TestWhereTokensArePresented(t *testing.T) {
	good, bad := hs(validClaims()), hs(validClaims().with("exp", time.Now().Unix()-9))
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
	claims := validClaims().with("exp", exp, "role", "editor", "age", 42, "big", json.Number("12345678901234567890"),
		"email", "bob@example.com", "channels", []string{"users/bob", "teams/*"}, "one", "news", "uid", json.Number("12345678901234567891"),
		"realm", object{"id": "r1", "roles": []string{"a", "b"}}, "flag", true)
	for name, c := range map[string]struct {
		settings []any
		claims   object
		user     string
		grants   string
		why      string // "" passes
	}{
		"sub":                      {nil, claims, "bob", "[]", ""},
		"no sub":                   {nil, claims.with("sub", nil), "", "[]", ""},
		"an empty sub":             {nil, claims.with("sub", ""), "", "[]", ""},
		"a sub that is a number":   {nil, claims.with("sub", 42), "42", "[]", ""},
		"user_claim":               {[]any{"user_claim", "email"}, claims, "bob@example.com", "[]", ""},
		"user_claim, all digits":   {[]any{"user_claim", "uid"}, claims, "12345678901234567891", "[]", ""},
		"user_claim in an object":  {[]any{"user_claim", "realm.id"}, claims, "r1", "[]", ""},
		"user_claim that lacks":    {[]any{"user_claim", "email"}, claims.with("email", nil), "", "", "its claim email does not name a user"},
		"user_claim that is empty": {[]any{"user_claim", "email"}, claims.with("email", ""), "", "", "does not name a user"},
		"user_claim a list":        {[]any{"user_claim", "channels"}, claims, "", "", "does not name a user"},
		"user_claim a truth value": {[]any{"user_claim", "flag"}, claims, "", "", "does not name a user"},
		"grant_claim":              {[]any{"grant_claim", "channels"}, claims, "bob", "[users/bob teams/*]", ""},
		"grant_claim, one":         {[]any{"grant_claim", "one"}, claims, "bob", "[news]", ""},
		"grant_claim that lacks":   {[]any{"grant_claim", "other"}, claims, "bob", "[]", ""},
		"grant_claim no strings":   {[]any{"grant_claim", "realm"}, claims, "", "", "its claim realm is not a list of strings"},
		"grants only when asked":   {nil, claims.with("grant", []string{"*"}), "bob", "[]", ""},
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
	claims := validClaims().with("role", "editor", "groups", []any{"a", "b", 3}, "level", 5, "ok", true, "scope", "read push:write",
		"https://example.com/tier", "gold", "realm_access", object{"roles": []string{"x", "y"}}, "empty", nil)
	for name, c := range map[string]struct {
		require object
		want    Kind
	}{
		"a claim":               {object{"role": []string{}}, Pass},
		"no such claim":         {object{"rol": []string{}}, Deny},
		"a null claim":          {object{"empty": []string{}}, Deny},
		"the value":             {object{"role": []string{"admin", "editor"}}, Pass},
		"another value":         {object{"role": []string{"admin"}}, Deny},
		"in another case":       {object{"role": []string{"Editor"}}, Deny},
		"part of the value":     {object{"role": []string{"edit"}}, Deny},
		"in a list":             {object{"groups": []string{"b"}}, Pass},
		"a number in a list":    {object{"groups": []string{"3"}}, Pass},
		"not in the list":       {object{"groups": []string{"c"}}, Deny},
		"a number":              {object{"level": []string{"5"}}, Pass},
		"a truth value":         {object{"ok": []string{"true"}}, Pass},
		"a word of scope":       {object{"scope": []string{"push:write"}}, Pass},
		"not a word of scope":   {object{"scope": []string{"push"}}, Deny},
		"a word of another":     {object{"role2": []string{"editor"}}, Deny},
		"a name with dots":      {object{"https://example.com/tier": []string{"gold"}}, Pass},
		"a claim in a claim":    {object{"realm_access.roles": []string{"y"}}, Pass},
		"a claim not in it":     {object{"realm_access.other": []string{}}, Deny},
		"a claim in no object":  {object{"role.x": []string{}}, Deny},
		"two, of which one not": {object{"role": []string{}, "groups": []string{"c"}}, Deny},
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
	k := testKeys()
	sign := func(header, claims any) string { return makeToken(header, claims, "RS256", k.rsa) }
	for _, a := range attacks(sign) {
		f.Add(a.token)
	}
	g := mustLoad(f, jwtConfig("keys", []string{k.rsaPEM}, "issuers", []string{"https://id.example.com"}, "audiences", []string{"push"}))
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
	k := testKeys()
	for name, c := range map[string]struct {
		config string
		token  string
	}{
		"HS256": {jwtConfig(withSecret...), hs(validClaims())},
		"RS256": {jwtConfig("keys", []string{k.rsaPEM}), makeToken(object{"alg": "RS256"}, validClaims(), "RS256", k.rsa)},
		"ES256": {jwtConfig("keys", []string{publicPEM(&k.p256.PublicKey)}), makeToken(object{"alg": "ES256"}, validClaims(), "ES256", k.p256)},
		"EdDSA": {jwtConfig("keys", []string{k.edPEM}), makeToken(object{"alg": "EdDSA"}, validClaims(), "EdDSA", k.ed)},
	} {
		b.Run(name+"/cached", func(b *testing.B) { benchmarkGuard(b, c.config, present(b, c.token), Pass) })
		b.Run(name+"/not cached", func(b *testing.B) {
			g := mustLoad(b, c.config).(*JWT)
			q, ctx := present(b, c.token), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				g.cache.young = nil
				if a := g.Decide(ctx, q); a.Kind != Pass {
					b.Fatal(a)
				}
			}
		})
	}
}
