// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// printOf returns the fingerprint of a subscribe gate with these guards, which are JSON.
func printOf(t *testing.T, guards string, learned ...string) hub.Fingerprint {
	t.Helper()
	return chainOf(t, &GateConfig{Where: "here"}, guards, learned...).Fingerprint()
}

func chainOf(t *testing.T, g *GateConfig, guards string, learned ...string) *Chain {
	t.Helper()
	ctx := provisioning(t)
	in := new(Any)
	if err := json.Unmarshal([]byte(guards), &in.GuardsRaw); err != nil {
		t.Fatal(err)
	}
	var err error
	if g.Guards, err = Load(ctx, in, "GuardsRaw", in.GuardsRaw); err != nil {
		t.Fatal(err)
	}
	env := testEnv()
	env.Learned = learned
	c, err := compileGate(hub.GateSubscribe, g, 0, env, newSampler(env.Log))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writePublicKey writes a new public key to a file.
func writePublicKey(t *testing.T, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: text}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFingerprintIsOfWhatIsWritten(t *testing.T) {
	const user = `[{"guard":"user","ids":["bob","eve"]}]`
	if a, b := printOf(t, user), printOf(t, "[ {\"ids\" : [\"bob\", \"eve\"],\n\"guard\":\"user\"} ]"); a != b || a == "" {
		t.Error("white space and the order of keys make a difference")
	}
	all := map[hub.Fingerprint]string{"": "none"}
	for _, guards := range []string{
		user,
		`[{"guard":"user","ids":["bob"]}]`,
		`[{"guard":"user","ids":["eve","bob"]}]`,
		`[{"guard":"user"}]`,
		`[{"guard":"granted"},{"guard":"user"}]`,
		`[{"guard":"user"},{"guard":"granted"}]`,
		`[{"guard":"any","guards":[{"guard":"user"},{"guard":"granted"}]}]`,
		`[{"guard":"any","guards":[{"guard":"user"}]},{"guard":"granted"}]`,
		`[{"guard":"allow","match":[{"header":{"X-Team":["red"]}}]}]`,
		`[{"guard":"allow","match":[{"header":{"X-Team":["blue"]}}]}]`,
		`[{"guard":"allow","match":[{"header":{"X-Team":["red"]}},{"header":{"X-Team":["blue"]}}]}]`,
		`[{"guard":"deny"}]`,
		`[{"guard":"deny","reason":"closed"}]`,
		`[{"guard":"cel","expr":"parts[0] == \"a\""}]`,
		`[{"guard":"cel","expr":"parts[0] == \"b\""}]`,
		`[{"guard":"cel","expr":"parts[0] == \"b\"","reason":"no"}]`,
		`[{"guard":"bearer","secrets":["0123456789abcdef"]}]`,
		`[{"guard":"bearer","secrets":["0123456789abcdeF"]}]`,
		`[{"guard":"route","handler":{"handler":"subroute","routes":[{"handle":[{"handler":"static_response","status_code":403}]}]}}]`,
		`[{"guard":"route","handler":{"handler":"subroute","routes":[{"handle":[{"handler":"static_response","status_code":404}]}]}}]`,
		`[{"guard":"ask","handler":{"handler":"reverse_proxy","upstreams":[{"dial":"localhost:1"}]}}]`,
		`[{"guard":"ask","handler":{"handler":"reverse_proxy","upstreams":[{"dial":"localhost:2"}]}}]`,
		`[{"guard":"ask","send":["claims"],"handler":{"handler":"reverse_proxy","upstreams":[{"dial":"localhost:2"}]}}]`,
	} {
		p := printOf(t, guards)
		if other, ok := all[p]; ok {
			t.Errorf("%s and %s have one fingerprint", guards, other)
		}
		if p != printOf(t, guards) {
			t.Errorf("%s has two fingerprints", guards)
		}
		all[p] = guards
	}
	if printOf(t, user) == printOf(t, user, "X-Role") {
		t.Error("which header fields are not believed makes no difference")
	}
	plain := chainOf(t, &GateConfig{}, user)
	for what, g := range map[string]*GateConfig{"recheck": {Recheck: time.Minute}} {
		if chainOf(t, g, user).Fingerprint() == plain.Fingerprint() {
			t.Errorf("%s makes no difference", what)
		}
	}
	if chainOf(t, &GateConfig{Timeout: time.Minute}, user).Fingerprint() != plain.Fingerprint() {
		t.Error("the time for asking makes a difference, though not to what has been answered")
	}
}

func TestFingerprintIsOfWhatItIsResolvedTo(t *testing.T) {
	dir := t.TempDir()
	key, set, secret, ca := filepath.Join(dir, "key.pem"), filepath.Join(dir, "set.json"), filepath.Join(dir, "secret"), filepath.Join(dir, "ca.pem")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setEnv := func(value string) func() { return func() { t.Setenv("PUSHIT_TEST_SECRET", value) } }
	jwk := func(k string) string { return `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + k + `"}]}` }
	for name, test := range map[string]struct {
		guards        string
		first, second func()
	}{
		"a secret in the environment": {
			guards: `[{"guard":"jwt","secrets":["{env.PUSHIT_TEST_SECRET}"]}]`,
			first:  setEnv("0123456789abcdef0123456789abcdef"), second: setEnv("0123456789abcdef0123456789abcdeF"),
		},
		"a bearer's secret in a file": {
			guards: `[{"guard":"bearer","secrets":["{file.` + secret + `}"]}]`,
			first:  func() { write(secret, "0123456789abcdef") }, second: func() { write(secret, "0123456789abcdeF") },
		},
		"a key file": {
			guards: `[{"guard":"jwt","key_files":["` + key + `"]}]`,
			first:  func() { writePublicKey(t, key) }, second: func() { writePublicKey(t, key) },
		},
		"a key file, among others": {
			guards: `[{"guard":"any","guards":[{"guard":"user"},{"guard":"optional","of":{"guard":"jwt","key_files":["` + key + `"]}}]}]`,
			first:  func() { writePublicKey(t, key) }, second: func() { writePublicKey(t, key) },
		},
		"a key set in a file": {
			guards: `[{"guard":"jwt","jwks":"` + set + `"}]`,
			first:  func() { write(set, jwk("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")) },
			second: func() { write(set, jwk("22qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")) },
		},
		"a header sent to a backend": {
			guards: `[{"guard":"ask","handler":{"handler":"reverse_proxy","headers":{"request":{"set":{"X-Key":["{env.PUSHIT_TEST_SECRET}"]}}},"upstreams":[{"dial":"localhost:1"}]}}]`,
			first:  setEnv("one"), second: setEnv("two"),
		},
		"what a backend is known by": {
			guards: `[{"guard":"ask","handler":{"handler":"reverse_proxy","transport":{"protocol":"http","tls":{"ca":{"provider":"file","pem_files":["` + ca + `"]}}},"upstreams":[{"dial":"localhost:1"}]}}]`,
			first:  func() { write(ca, certificatePEM(t)) }, second: func() { write(ca, certificatePEM(t)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.first()
			one, again := printOf(t, test.guards), printOf(t, test.guards)
			test.second()
			other := printOf(t, test.guards)
			if one == "" || one != again {
				t.Error("nothing has changed, but the fingerprint has")
			}
			if one == other {
				t.Error("the fingerprint has not changed")
			}
		})
	}
}

// certificatePEM returns a new certificate of an authority.
func certificatePEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	text, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: text}))
}

// A guard about which nothing is known counts as changed at each reload.
func TestFingerprintOfTheUnknown(t *testing.T) {
	c, err := compileGate(hub.GateSubscribe, gateOf(always{Kind: Pass}), 0, testEnv(), newSampler(testEnv().Log))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Fingerprint(); p != "" {
		t.Errorf("the fingerprint is %x, want none", p)
	}
}

func TestChangedNamesGates(t *testing.T) {
	compile := func(c PolicyConfig) *Policy {
		t.Helper()
		p, err := Compile(c, testEnv())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	gate := func(guards string) *GateConfig {
		g := &GateConfig{Where: "here"}
		chainOf(t, g, guards)
		return g
	}
	type gates = map[hub.GateName]*GateConfig
	const user, granted = `[{"guard":"user"}]`, `[{"guard":"granted"}]`
	base := func() PolicyConfig {
		return PolicyConfig{
			Default: DefaultDeny,
			Gates:   gates{hub.GateConnect: gate(user)},
			Blocks: []BlockConfig{
				{Match: []string{"a/*"}, Gates: gates{hub.GateSubscribe: gate(user)}},
				{Match: []string{"*"}, Gates: gates{hub.GateSubscribe: gate(granted)}},
			},
		}
	}
	for name, test := range map[string]struct {
		edit func(c *PolicyConfig)
		want []string
	}{
		"nothing": {func(*PolicyConfig) {}, nil},
		"a guard": {func(c *PolicyConfig) { c.Gates[hub.GateConnect] = gate(granted) }, []string{"connect"}},
		"another": {func(c *PolicyConfig) { c.Gates[hub.GatePublish] = gate(user) }, []string{"publish"}},
		"in a block": {
			func(c *PolicyConfig) { c.Blocks[0].Gates[hub.GateSubscribe] = gate(granted) },
			[]string{"channel a/* subscribe"},
		},
		"a block gone": {func(c *PolicyConfig) { c.Blocks = c.Blocks[1:] }, []string{"channel a/* subscribe"}},
		"patterns":     {func(c *PolicyConfig) { c.Blocks[1].Patterns = true }, []string{"channel * patterns"}},
		"a timeout": {
			func(c *PolicyConfig) { c.Gates[hub.GateConnect].Timeout = time.Minute },
			[]string{"timeout of connect"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := base()
			test.edit(&c)
			if got := compile(c).Changed(compile(base())); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if got, want := compile(base()).Changed(nil), []string{"connect", "subscribe", "publish", "channel a/* subscribe", "channel * subscribe"}; !slices.Equal(got, want) {
		t.Errorf("from none: got %q, want %q", got, want)
	}
}

// What a guard decides by besides its own text.
func TestFingerprintReaches(t *testing.T) {
	route := func(handler string) string { return `[{"guard":"route","handler":` + handler + `}]` }
	invoke := route(`{"handler":"subroute","routes":[{"match":[{"path":["/x"]}],"handle":[{"handler":"invoke","name":"auth"}]}]}`)
	server := func(auth string) *caddyhttp.Server {
		s := new(caddyhttp.Server)
		if err := json.Unmarshal([]byte(`{"named_routes":{"auth":{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"invoke","name":"inner"}]}]}]},"inner":{"handle":[`+auth+`]}}}`), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	sumOf := func(s *caddyhttp.Server, guards string) upstream.Sum {
		ctx := caddy.Context{Context: context.WithValue(t.Context(), caddyhttp.ServerCtxKey, s)}
		var raw []json.RawMessage
		if err := json.Unmarshal([]byte(guards), &raw); err != nil {
			t.Fatal(err)
		}
		var named struct {
			Guard string `json:"guard"`
		}
		if err := json.Unmarshal(raw[0], &named); err != nil {
			t.Fatal(err)
		}
		return upstream.SumOf(ctx, Namespace+"."+named.Guard, raw[0])
	}
	const unknown = `{"handler":"file_server"}`
	one, other := server(`{"handler":"vars","a":"b"}`), server(`{"handler":"static_response","status_code":403}`)
	if a, b := sumOf(one, invoke), sumOf(other, invoke); a == b || a == (upstream.Sum{}) || b == (upstream.Sum{}) || a != sumOf(one, invoke) {
		t.Error("a named route makes no difference")
	}
	if sumOf(server(unknown), invoke) != (upstream.Sum{}) || sumOf(new(caddyhttp.Server), invoke) != (upstream.Sum{}) || sumOf(nil, invoke) != (upstream.Sum{}) {
		t.Error("a named route that is not known has a sum")
	}
	for handler, known := range map[string]bool{
		`{"handler":"static_response","status_code":403}`:                                                       true,
		`{"handler":"authentication","providers":{"http_basic":{"accounts":[],"hash":{"algorithm":"bcrypt"}}}}`: true,
		`{"handler":"reverse_proxy","upstreams":[{"dial":"localhost:1"}],"dynamic_upstreams":{"source":"srv","name":"x"},"load_balancing":{"selection_policy":{"policy":"header","field":"X","fallback":{"policy":"random"}}}}`: true,
		`{"handler":"reverse_proxy","handle_response":[{"match":{"status_code":[2]},"routes":[{"handle":[` + unknown + `]}]}]}`:                                                                                                 false,
		`{"handler":"reverse_proxy","transport":{"protocol":"http","tls":{"client_certificate_automate":"example.com"}}}`:                                                                                                       false,
		`{"handler":"reverse_proxy","transport":{"protocol":"http","tls":{"ca":{"provider":"pki_root","authority":["local"]}}}}`:                                                                                                false,
		`{"handler":"subroute","errors":{"routes":[{"handle":[` + unknown + `]}]}}`:                                                                                                                                             false,
		`{"handler":"subroute","routes":[{"match":[{"not":[{"file":{"root":"/srv","try_files":["/open"]}}]}],"handle":[]}]}`:                                                                                                    false,
		`{"handler":"subroute","routes":[{"match":[{"expression":"file({'root':'/srv'})"}],"handle":[]}]}`:                                                                                                                      false,
		`{"handler":"nobody_knows"}`: false,
	} {
		if got := sumOf(one, route(handler)) != (upstream.Sum{}); got != known {
			t.Errorf("%s: known %t, want %t", handler, got, known)
		}
		if got := sumOf(one, `[{"guard":"any","guards":`+route(handler)+`}]`) != (upstream.Sum{}); got != known {
			t.Errorf("any of %s: known %t, want %t", handler, got, known)
		}
	}
	if sumOf(one, `[{"guard":"allow","match":[{"file":{"root":"/srv"}}]}]`) != (upstream.Sum{}) {
		t.Error("a matcher of files has a sum")
	}
}

// What guards share between configurations is dropped with the last of them.
func TestSharedStates(t *testing.T) {
	before := upstream.SharedStates()
	compiled := func() (askers []*upstream.Asker[Answer], end func()) {
		ctx, cancel := caddy.NewContext(provisioning(t))
		gates := make(map[hub.GateName]*GateConfig)
		for _, name := range []hub.GateName{hub.GateConnect, hub.GateSubscribe, hub.GatePublish} {
			in := &Any{GuardsRaw: []json.RawMessage{json.RawMessage(`{"guard":"any","guards":[{"guard":"route","handler":{"handler":"static_response","status_code":403}}]}`)}}
			list, err := Load(ctx, in, "GuardsRaw", in.GuardsRaw)
			if err != nil {
				t.Fatal(err)
			}
			gates[name] = &GateConfig{Guards: list, Where: "here"}
		}
		env := testEnv()
		env.Mount = "a test /push"
		p, err := Compile(PolicyConfig{Gates: gates}, env)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range gateNames[:2] {
			walk(p.handler[name].guards, func(g NamedGuard) {
				if r, ok := g.Guard.(*Route); ok {
					askers = append(askers, r.backend.asker)
				}
			})
		}
		return askers, cancel
	}
	shared := func(a, b []*upstream.Asker[Answer]) bool {
		return slices.EqualFunc(a, b, func(a, b *upstream.Asker[Answer]) bool { return a.SharesWith(b) })
	}
	one, end := compiled()
	two, endToo := compiled()
	if len(one) != 2 || one[0].SharesWith(one[1]) || !shared(one, two) {
		t.Errorf("the states of two configurations are %p and %p", one, two)
	}
	end()
	three, endOfAll := compiled()
	if !shared(one, three) {
		t.Error("the state did not outlive the first configuration")
	}
	endToo()
	endOfAll()
	if n := upstream.SharedStates(); n != before {
		t.Errorf("%d states are left", n-before)
	}
}
