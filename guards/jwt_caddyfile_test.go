// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/push-it/pushit/guards/internal/token/tokentest"
	"github.com/push-it/pushit/hub"
)

func TestJWTInCaddyfiles(t *testing.T) {
	k := tokentest.Keys()
	jwk, err := json.Marshal(jose.JSONWebKey{Key: k.Ed.Public(), KeyID: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	text := func(s string) string {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for settings, want := range map[string]string{
		"secret {env.JWT_SECRET}":                              `"secrets":["{env.JWT_SECRET}"]`,
		"secret {env.NEW} {env.OLD}\nsecret {file./run/s}":     `"secrets":["{env.NEW}","{env.OLD}","{file./run/s}"]`,
		"key \"" + k.RSAPEM + "\"":                             `"keys":[` + text(k.RSAPEM) + `]`,
		"key `" + string(jwk) + "`":                            `"keys":[` + text(string(jwk)) + `]`,
		"key {file./run/public.pem}":                           `"keys":["{file./run/public.pem}"]`,
		"key_file /run/a.pem\nkey_file /run/b.pem":             `"key_files":["/run/a.pem","/run/b.pem"]`,
		"jwks https://id.example.com/jwks.json":                `"jwks":"https://id.example.com/jwks.json"`,
		"jwks {env.JWKS}":                                      `"jwks":"{env.JWKS}"`,
		"jwks keys.json\nissuer a b\naudience push\nleeway 1m": `"jwks":"keys.json","issuers":["a","b"],"audiences":["push"],"leeway":60000000000`,
		"jwks k\nrequire role\nrequire scope read write":       `"jwks":"k","require":{"role":[],"scope":["read","write"]}`,
		"jwks k\nheader X-Token\ncookie session\nquery token":  `"jwks":"k","header":"X-Token","cookie":"session","query":"token"`,
		"jwks k\nuser_claim email\ngrant_claim channels":       `"jwks":"k","user_claim":"email","grant_claim":"channels"`,
	} {
		t.Run(settings, func(t *testing.T) {
			if got := mustAdapt(t, "", "jwt {\n"+settings+"\n}"); !sameJSON(t, got, `{"guard":"jwt",`+want+`}`) {
				t.Errorf("got %s", got)
			}
		})
	}
	if got := mustAdapt(t, "", "optional jwt {\njwks k\n}"); got != `{"guard":"optional","of":{"guard":"jwt","jwks":"k"}}` {
		t.Errorf("got %s", got)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		t.Fatalf("not JSON: %s, %s", a, b)
	}
	return reflect.DeepEqual(x, y)
}

func TestMistakesInJWT(t *testing.T) {
	k := tokentest.Keys()
	private, err := x509.MarshalPKCS8PrivateKey(k.Ed)
	if err != nil {
		t.Fatal(err)
	}
	privatePEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	for text, want := range map[string]string{
		"jwt":                                             "jwt: it needs a key to verify tokens with: secret, key, key_file or jwks; is an environment variable",
		"jwt {env.JWT_SECRET}":                            "jwt takes a block: jwt { secret {env.JWT_SECRET} }, with a setting on each line, at Caddyfile:3",
		"jwt {\nissuer a\n}":                              "jwt: it needs a key to verify tokens with",
		"jwt {\nsecret\n}":                                "secret needs a value; is an environment variable not set?, at Caddyfile:4",
		"jwt {\nsecret {$NOT_SET}\n}":                     "secret needs a value",
		"jwt {\nsecret \"\"\n}":                           "a value of secret is empty; is an environment variable not set?, at Caddyfile:4",
		"jwt {\nsecret letmein\n}":                        "the secret has 7 bytes and needs at least 32; make one with: openssl rand -hex 32, at Caddyfile:4",
		"jwt {\nkey public.pem\n}":                        "the key is neither a public key in PEM (-----BEGIN PUBLIC KEY-----) nor a JWK ({\"kty\": …}); write key_file for a file, at Caddyfile:4",
		"jwt {\nkey `{\"kty\":\"RSA\"}`\n}":               "the key is a JWK that cannot be read",
		"jwt {\nkey `{\"kty\":\"RSA\"` x\n}":              "the key is a JWK that cannot be read",
		"jwt {\nkey \"" + privatePEM + "\"\n}":            "the key is a private key; write the public key, which is enough to verify tokens: openssl pkey",
		"jwt {\nkey_file\n}":                              "key_file needs a value",
		"jwt {\njwks ftp://x/y\n}":                        "write an address, for example https://id.example.com/jwks.json, or a file, at Caddyfile:4",
		"jwt {\njwks https://\n}":                         "write an address",
		"jwt {\njwks a b\n}":                              `unexpected "b": jwks takes one value`,
		"jwt {\njwks a\njwks b\n}":                        "jwks is given twice, first on line 4: keep one, at Caddyfile:5",
		"jwt {\njwks a\nissuer a\nissuer b\n}":            "issuer is given twice, first on line 5",
		"jwt {\njwks a\nissuer {env.X}\n}":                "placeholders are not expanded in issuer {env.X}; write an environment variable as {$NAME}",
		"jwt {\njwks a\nrequire a b\nrequire a\n}":        "require a is given twice: write all its values on one line, at Caddyfile:6",
		"jwt {\njwks a\nrequire a {x}\n}":                 "placeholders are not expanded in require {x}",
		"jwt {\njwks a\nleeway 30\n}":                     "leeway 30: write a duration of 1s to 10m0s",
		"jwt {\njwks a\nleeway 0s\n}":                     "leeway 0s: write a duration of 1s",
		"jwt {\njwks a\nleeway 1h\n}":                     "leeway 1h: write a duration",
		"jwt {\njwks a\nheader X: Y\n}":                   `unexpected "Y": header takes one value`,
		"jwt {\njwks a\nheader X:\n}":                     `"X:" is not a valid name for a header field`,
		"jwt {\njwks a\nheader Sec-WebSocket-Protocol\n}": "header Sec-WebSocket-Protocol is not stored in sessions; present the token in the credentials",
		"jwt {\njwks a\nheader Pushit-Token\n}":           "header Pushit-Token is not stored",
		"jwt {\njwks a\ncookie a=b\n}":                    `"a=b" is not a valid name`,
		"jwt {\njwks a\nkey_fiel x\n}":                    `unknown setting "key_fiel" of jwt; did you mean "key_file"?, at Caddyfile:5`,
		"jwt {\njwks a\nalgorithm HS256\n}":               "unknown setting algorithm of jwt: the key decides the algorithm: leave it out",
		"jwt {\njwks a\naud push\n}":                      "unknown setting aud of jwt: write audience",
		"jwt {\njwks_url https://x/y\n}":                  "write jwks",
		"jwt {\njwks a\nsomething else\n}":                `unknown setting "something" of jwt; there are secret, key, key_file, jwks, issuer`,
		"jwt {\njwks a {\nb\n}\n}":                        "the settings of jwt take no block",
		"jwt {\njwks a\n} x":                              "x",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := adaptGuards("", text)
			wantMistake(t, err, want)
			for _, told := range []string{"letmein", "MC4CAQ"} {
				if strings.Contains(err.Error(), told) {
					t.Errorf("the error has the key: %v", err)
				}
			}
		})
	}
}

func TestBadKeysInConfigurations(t *testing.T) {
	k := tokentest.Keys()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk := func(key any, use, alg string) string {
		raw, err := json.Marshal(jose.JSONWebKey{Key: key, Use: use, Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	// 1024 bits; Go does not make such keys.
	const small = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdlatRjRjogo3WojgGHFHYLugd\nUWAY9iR3fy4arWNA1KoS8kVw33cJibXr8bvwUAUparCwlvdbH6dvEOfou0/gCFQs\nHUfQrSDv+MuSUMAe8jzKE4qW+jK+xQU9a03GUnKHkkle+Q0pX/g6jXZ7r1/xAK5D\no2kQ+X5xK9cipRgEKwIDAQAB\n-----END PUBLIC KEY-----\n"
	t.Setenv("JWT_EMPTY", "")
	for name, c := range map[string]struct {
		settings []any
		why      string
	}{
		"nothing":             {nil, "jwt: it needs a key to verify tokens with"},
		"empty secret":        {[]any{"secrets", []string{""}}, "jwt: secret 1 is empty; is an environment variable"},
		"secret from nowhere": {[]any{"secrets", []string{"{env.JWT_EMPTY}"}}, "jwt: secret 1 is empty, because {env.JWT_EMPTY} is: set the environment variable JWT_EMPTY for Caddy"},
		"short secret":        {[]any{"secrets", []string{secretOfTests, secretOfTests[1:]}}, "jwt: secret 2 has 31 bytes and needs at least 32"},
		"short secret, JWK":   {[]any{"keys", []string{jwk([]byte("short"), "", "")}}, "jwt: key 1 has 5 bytes"},
		"no file":             {[]any{"key_files", []string{filepath.Join(dir, "none.pem")}}, "jwt: key_file: open " + filepath.Join(dir, "none.pem")},
		"empty file":          {[]any{"key_files", []string{file("empty.pem", "\n")}}, "empty.pem is empty"},
		"not a key":           {[]any{"key_files", []string{file("bad.pem", "hello")}}, "bad.pem is neither a public key in PEM"},
		"broken PEM":          {[]any{"key_files", []string{file("broken.pem", strings.Replace(k.RSAPEM, "MIIB", "AAAA", 1))}}, "broken.pem has a PEM block, PUBLIC KEY, that cannot be read"},
		"other PEM":           {[]any{"key_files", []string{file("csr.pem", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")}}, "PUBLIC KEY, RSA PUBLIC KEY and CERTIFICATE are accepted"},
		"a huge file":         {[]any{"key_files", []string{file("huge.pem", strings.Repeat("x", 1<<20+1))}}, "huge.pem is larger than 1048576 bytes"},
		"a weak RSA key":      {[]any{"keys", []string{small}}, "jwt: key 1 is an RSA key of 1024 bits; 2048 to 8192 are accepted"},
		"another curve":       {[]any{"keys", []string{tokentest.PublicPEM(&p224.PublicKey)}}, "jwt: key 1 is on an unsupported curve"},
		"for encryption":      {[]any{"keys", []string{jwk(&k.RSA.PublicKey, "enc", "")}}, `is a JWK for "enc", not for signatures`},
		"for what it is not":  {[]any{"keys", []string{jwk(&k.RSA.PublicKey, "", "HS256")}}, `is for the algorithm "HS256"`},
		"private JWK":         {[]any{"keys", []string{jwk(k.RSA, "", "")}}, "is a private key"},
		"jwks, no file":       {[]any{"jwks", "id.example.com/keys"}, "jwt: jwks: id.example.com/keys: open id.example.com/keys: no such file or directory; an address begins with https://"},
		"jwks, a bad file":    {[]any{"jwks", file("keys.json", `{"keys":[]}`)}, "keys.json: has no keys"},
		"jwks from nowhere":   {[]any{"jwks", "{env.JWT_EMPTY}"}, "jwt: jwks is empty, because {env.JWT_EMPTY} is"},
		"jwks over what":      {[]any{"jwks", "gopher://x"}, "write an address"},
		"leeway":              {append([]any{"leeway", "11m"}, withSecret...), "leeway is 11m0s; at most 10m0s is allowed"},
		"header":              {append([]any{"header", "a b"}, withSecret...), `"a b" is not a valid name`},
		"an unknown setting":  {append([]any{"algorithm", "RS256"}, withSecret...), "algorithm"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadGuard(t, jwtConfig(c.settings...))
			wantMistake(t, err, c.why)
			if strings.Contains(err.Error(), secretOfTests[1:]) {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

func TestKeysFromFilesAndCertificates(t *testing.T) {
	k := tokentest.Keys()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.RSA.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&k.RSA.PublicKey)})
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, k.RSA)})
	t.Setenv("JWT_KEY_FILE", file("env.pem", []byte(k.RSAPEM)))
	q := questionOf(t, hub.Opening{}, `"`+rs("k1")+`"`)
	for name, settings := range map[string][]any{
		"PEM":                 {"key_files", []string{file("key.pem", []byte("a comment\n"+k.RSAPEM))}},
		"the second of two":   {"key_files", []string{file("keys.pem", []byte(k.EdPEM+k.RSAPEM))}},
		"PKCS 1":              {"key_files", []string{file("pkcs1.pem", pkcs1)}},
		"a certificate":       {"key_files", []string{file("cert.pem", certificate)}},
		"a JWK Set":           {"key_files", []string{file("set.json", set)}},
		"a file by variable":  {"key_files", []string{"{env.JWT_KEY_FILE}"}},
		"a key by file":       {"keys", []string{"{file." + filepath.ToSlash(filepath.Join(dir, "key.pem")) + "}"}},
		"a JWK Set by file":   {"keys", []string{"{file." + filepath.ToSlash(filepath.Join(dir, "set.json")) + "}"}},
		"a JWK Set, inline":   {"keys", []string{string(set)}},
		"a JWK Set as a jwks": {"jwks", filepath.Join(dir, "set.json")},
	} {
		t.Run(name, func(t *testing.T) {
			wantAnswer(t, mustLoad(t, jwtConfig(settings...)).Decide(t.Context(), q), Pass, "")
		})
	}
}
