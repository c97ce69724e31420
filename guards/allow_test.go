// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/hub"
)

// adapted has the guards of the Caddyfile that is being adapted.
var adapted []json.RawMessage

func init() {
	caddy.RegisterModule(brokenMatcher{})
	httpcaddyfile.RegisterDirective("tokens_under_test", func(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
		h.Next()
		for nesting := h.Nesting(); h.NextBlock(nesting); {
			raw, err := ParseGuard(h.WithDispenser(h.NewFromNextSegment()))
			if err != nil {
				return nil, err
			}
			adapted = append(adapted, raw)
		}
		return nil, nil
	})
}

// adaptGuards returns the JSON of guards in a site with the given named matchers. The
// first guard is on the second line after these.
func adaptGuards(matchers, guards string) ([]json.RawMessage, error) {
	adapted = nil
	text := ":80 {\n" + matchers + "tokens_under_test {\n" + guards + "\n}\n}\n"
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	return adapted, err
}

// mustAdapt is adaptGuards for one guard. It must succeed.
func mustAdapt(t testing.TB, matchers, guard string) string {
	t.Helper()
	guards, err := adaptGuards(matchers, guard)
	if err != nil {
		t.Fatal(err)
	}
	if len(guards) != 1 {
		t.Fatalf("got %d guards", len(guards))
	}
	return string(guards[0])
}

// loadGuard loads a guard as a configuration does.
func loadGuard(t testing.TB, config string) (Guard, error) {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &raw); err != nil {
		t.Fatal(err)
	}
	var name string
	if err := json.Unmarshal(raw["guard"], &name); err != nil {
		t.Fatal(err)
	}
	delete(raw, "guard")
	rest, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	module, err := ctx.LoadModuleByID(Namespace+"."+name, rest)
	if err != nil {
		return nil, err
	}
	return module.(Guard), nil
}

func mustLoad(t testing.TB, config string) Guard {
	t.Helper()
	g, err := loadGuard(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// fields makes a header block of name, value pairs.
func fields(pairs ...string) string {
	return hub.HeaderBlock(func(yield func(name, value string) bool) {
		for pair := range slices.Chunk(pairs, 2) {
			if !yield(http.CanonicalHeaderKey(pair[0]), pair[1]) {
				return
			}
		}
	})
}

// questionOf returns a question of an agent with that opening and those credentials.
func questionOf(t testing.TB, o hub.Opening, credentials string) *Question {
	t.Helper()
	return &Question{
		Question: &hub.Question{Gate: hub.GateConnect, Agent: testAgent(t, o), Identity: new(hub.Identity), Credentials: []byte(credentials)},
		Env:      testEnv(),
	}
}

// wantMistake checks that an error contains a text.
func wantMistake(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

// brokenMatcher is a matcher that fails.
type brokenMatcher struct{}

func (brokenMatcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.broken_under_test", New: func() caddy.Module { return new(brokenMatcher) }}
}

func (brokenMatcher) MatchWithError(*http.Request) (bool, error) {
	return false, caddyhttp.Error(http.StatusTeapot, errors.New("broken"))
}

var opening = hub.Opening{
	RemoteIP: netip.MustParseAddr("203.0.113.9"), RemoteAddr: "10.0.0.1:4711", Scheme: "https", Host: "www.example.com:8443",
	URI: "/push?room=5&name=Bob", User: "bob",
	Header: fields("User-Agent", "Firefox", "Cookie", "theme=dark", "X-Role", "editor", "Upgrade", "websocket"),
}

func TestAllowAndDenyMatch(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		match   string
		matches bool
	}{
		"nothing":                    {`[]`, true},
		"path":                       {`[{"path":["/push"]}]`, true},
		"path of a session":          {`[{"path":["/push/*/*/websocket"]}]`, false},
		"path_regexp":                {`[{"path_regexp":{"pattern":"^/pu"}}]`, true},
		"host":                       {`[{"host":["www.example.com"]}]`, true},
		"other host":                 {`[{"host":["example.com"]}]`, false},
		"query":                      {`[{"query":{"room":["5"]}}]`, true},
		"other query":                {`[{"query":{"room":["6"]}}]`, false},
		"header":                     {`[{"header":{"X-Role":["ed*"]}}]`, true},
		"header that is not there":   {`[{"header":{"X-Other":null}}]`, true},
		"header of host":             {`[{"header":{"Host":["www.example.com:8443"]}}]`, true},
		"header_regexp":              {`[{"header_regexp":{"User-Agent":{"pattern":"Fire"}}}]`, true},
		"remote_ip":                  {`[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]`, true},
		"other remote_ip":            {`[{"remote_ip":{"ranges":["203.0.113.9"]}}]`, false},
		"client_ip":                  {`[{"client_ip":{"ranges":["203.0.113.0/24"]}}]`, true},
		"other client_ip":            {`[{"client_ip":{"ranges":["10.0.0.1"]}}]`, false},
		"protocol":                   {`[{"protocol":"https"}]`, true},
		"other protocol":             {`[{"protocol":"http"}]`, false},
		"tls":                        {`[{"tls":{}}]`, true},
		"not":                        {`[{"not":[{"path":["/push"]}]}]`, false},
		"all of one set":             {`[{"path":["/push"],"host":["example.com"]}]`, false},
		"one of several sets":        {`[{"host":["example.com"]},{"path":["/push"]}]`, true},
		"expression":                 {`[{"expression":"{http.request.cookie.theme} == 'dark' && remote_ip('10.0.0.0/8')"}]`, true},
		"expression with the user":   {`[{"expression":"{http.auth.user.id} == 'bob'"}]`, true},
		"expression with pushit's":   {`[{"expression":"{pushit.gate} == 'connect'"}]`, true},
		"vars with a placeholder":    {`[{"vars":{"{http.request.host}":["www.example.com"]}}]`, true},
		"vars with what Caddy knows": {`[{"vars":{"client_ip":["203.0.113.9"]}}]`, true},
		"url_pattern":                {`[{"url_pattern":{"pattern":"/:what"}}]`, true},
		"file":                       {`[{"file":{"root":"` + filepath.ToSlash(dir) + `","try_files":["/open"]}}]`, true},
		"file that is not there":     {`[{"file":{"root":"` + filepath.ToSlash(dir) + `","try_files":["/{http.auth.user.id}"]}}]`, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := questionOf(t, opening, "")
			for guard, kind := range map[string]Kind{"allow": Allow, "deny": Deny} {
				if !c.matches {
					kind = Abstain
				}
				g := mustLoad(t, `{"guard":"`+guard+`","match":`+c.match+`}`)
				if a := g.Decide(t.Context(), q); a.Kind != kind || a.Err != nil {
					t.Errorf("%s answers %v (%v), want %v", guard, a.Kind, a.Err, kind)
				}
			}
		})
	}
}

// A matcher that could not find out must not let an agent pass that a rule denies.
func TestMatchersThatCannotTell(t *testing.T) {
	unix := opening
	unix.RemoteAddr, unix.RemoteIP = "@", netip.Addr{}
	odd := opening
	odd.User = "bo\r\nb"
	for name, c := range map[string]struct {
		match   string
		opening hub.Opening
	}{
		"a matcher that fails":       {`[{"broken_under_test":{}}]`, opening},
		"a matcher that fails, not":  {`[{"not":[{"broken_under_test":{}}]}]`, opening},
		"remote_ip without one":      {`[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]`, unix},
		"not remote_ip without one":  {`[{"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]}]`, unix},
		"client_ip without one":      {`[{"client_ip":{"ranges":["10.0.0.0/8"]}}]`, unix},
		"remote_ip in an expression": {`[{"expression":"!remote_ip('10.0.0.0/8')"}]`, unix},
		"client_ip in an expression": {`[{"expression":"!client_ip('10.0.0.0/8')"}]`, unix},
		"an address by placeholder":  {`[{"expression":"{http.request.remote.host} != '10.0.0.1'"}]`, unix},
		"a placeholder in a value":   {`[{"vars":{"{http.request.host}":["{http.vars.client_ip}"]}}]`, unix},
		"a value that ends a line":   {`[{"path":["/push"]}]`, odd},
	} {
		t.Run(name, func(t *testing.T) {
			for _, guard := range []string{"allow", "deny"} {
				g := mustLoad(t, `{"guard":"`+guard+`","match":`+c.match+`}`)
				if a := g.Decide(t.Context(), questionOf(t, c.opening, "")); a.Kind != Unavailable || a.Err == nil {
					t.Errorf("%s answers %v (%v)", guard, a.Kind, a.Err)
				}
			}
		})
	}
}

func TestMatchersOfWhatIsNotKept(t *testing.T) {
	for match, want := range map[string]string{
		`[{}]`:                                   "an empty matcher matches everything",
		`[{"not":[{}]}]`:                         "matcher not: an empty matcher",
		`[{"method":["GET"]}]`:                   "matcher method: sessions do not store the method",
		`[{"not":[{"method":["POST"]}]}]`:        "matcher not: matcher method: sessions do not store the method",
		`[{"protocol":"http/2"}]`:                "http/2 never matches",
		`[{"protocol":"grpc"}]`:                  "grpc never matches",
		`[{"tls":{"handshake_complete":false}}]`: "early_data never matches",
		`[{"header":{"Upgrade":["websocket"],"Connection":["*Upgrade*"]}}]`: "sessions do not store",
		`[{"header":{"sec-websocket-protocol":["x"]}}]`:                     "sessions do not store the header field sec-websocket-protocol",
		`[{"header":{}}]`: "it has no fields",
		`[{"header_regexp":{"Content-Type":{"pattern":"x"}}}]`:            "sessions do not store the header field Content-Type",
		`[{"remote_ip":{"ranges":[]}}]`:                                   "it has no addresses; is an environment variable",
		`[{"client_ip":{}}]`:                                              "it has no addresses",
		`[{"not":[{"remote_ip":{}}]}]`:                                    "it has no addresses",
		`[{"host":[]}]`:                                                   "it has no hosts",
		`[{"path":[]}]`:                                                   "it has no paths",
		`[{"path":["/{http.request.tls.client.subjct}"]}]`:                "there is no placeholder {http.request.tls.client.subjct}; did you mean {http.request.tls.client.subject}?",
		`[{"vars":{"{http.request.tls.client.certificate_pem}":["x"]}}]`:  "has line breaks, which a request cannot have; write {http.request.tls.client.certificate_der_base64}",
		`[{"vars":{"{http.request.nonsense}":["x"]}}]`:                    "there is no placeholder {http.request.nonsense}",
		`[{"vars":{"{cookies.sid}":["x"]}}]`:                              "did you mean {http.request.cookie.sid}?",
		`[{"not":[{"vars":{"{http.request.tls.client.subjct}":["x"]}}]}]`: "did you mean {http.request.tls.client.subject}?",
		`[{"vars":{}}]`:                                                   "it has no variables",
		`[{"vars_regexp":{"{http.request.body}":{"pattern":"x"}}}]`:       "sessions do not store the value of {http.request.body}",
		`[{"file":{"try_files":["/x"]}}]`:                                 "sessions do not store what the directive root sets",
		`[{"expression":"method('GET')"}]`:                                "matcher expression: sessions do not store the method",
		`[{"expression":"protocol('http/3')"}]`:                           "http/3 never matches",
		`[{"expression":"header({'Upgrade': 'websocket'})"}]`:             "sessions do not store the header field Upgrade",
		`[{"expression":"{http.request.header.Upgrade} == 'x'"}]`:         "sessions do not store the header field Upgrade",
		`[{"expression":"{http.request.header.Host} == 'x'"}]`:            "write {http.request.hostport}",
		`[{"expression":"{pushit.chanel} == 'x'"}]`:                       "did you mean {pushit.channel}?",
		`[{"expression":"vars({'a': 'b'})"}]`:                             "write the placeholder itself",
		`[{"expression":"tls('early_data')"}]`:                            "early_data never matches",
		`[{"expression":"file('/x')"}]`:                                   "write the root",
	} {
		for _, guard := range []string{"allow", "deny"} {
			_, err := loadGuard(t, `{"guard":"`+guard+`","match":`+match+`}`)
			t.Run(match, func(t *testing.T) { wantMistake(t, err, guard+": "); wantMistake(t, err, want) })
		}
	}
	// Names of functions in strings do not count.
	mustLoad(t, `{"guard":"allow","match":[{"expression":"{http.request.uri.query.q} == 'method(x)'"}]}`)
}

func TestAllowAndDenyThatAlwaysDo(t *testing.T) {
	for config, want := range map[string]bool{
		`{"guard":"allow"}`:                            true,
		`{"guard":"deny","reason":"closed"}`:           true,
		`{"guard":"allow","match":[{"path":["/x"]}]}`:  false,
		`{"guard":"deny","match":[{"path":["/p*"]}]}`:  false,
		`{"guard":"allow","match":[{"path":["/p*"]}]}`: false,
	} {
		g := mustLoad(t, config)
		if _, fixed := g.(Fixed).Fixed(); fixed != want {
			t.Errorf("%s: fixed = %v", config, fixed)
		}
	}
	if mustLoad(t, `{"guard":"deny"}`).(Bounded).CanApprove() {
		t.Error("deny can approve")
	}
	if a := mustLoad(t, `{"guard":"deny","reason":"closed"}`).Decide(t.Context(), questionOf(t, opening, "")); a.Reason != "closed" {
		t.Errorf("the reason is %q", a.Reason)
	}
}

func TestAllowAndDenyInCaddyfiles(t *testing.T) {
	const matchers = "@editors header X-Role editor\n@office {\nremote_ip 10.0.0.0/8\nheader X-Office *\n}\n"
	for text, want := range map[string]string{
		"allow":                          `{"guard":"allow"}`,
		"deny":                           `{"guard":"deny"}`,
		`deny "closed"`:                  `{"guard":"deny","reason":"closed"}`,
		"allow @editors":                 `{"guard":"allow","match":[{"header":{"X-Role":["editor"]}}]}`,
		"deny @office \"not from here\"": `{"guard":"deny","match":[{"header":{"X-Office":["*"]},"remote_ip":{"ranges":["10.0.0.0/8"]}}],"reason":"not from here"}`,
		"allow {\nremote_ip 10.0.0.0/8 192.168.0.0/16\n}":   `{"guard":"allow","match":[{"remote_ip":{"ranges":["10.0.0.0/8","192.168.0.0/16"]}}]}`,
		"allow {\npath /push\nnot query bot=1\n}":           `{"guard":"allow","match":[{"not":[{"query":{"bot":["1"]}}],"path":["/push"]}]}`,
		"allow {\n`{cookie.theme} == 'dark'`\n}":            `{"guard":"allow","match":[{"expression":"{http.request.cookie.theme} == 'dark'"}]}`,
		"deny \"members only\" {\nnot header X-Member *\n}": `{"guard":"deny","match":[{"not":[{"header":{"X-Member":["*"]}}]}],"reason":"members only"}`,
		"deny @editors `no`":                                `{"guard":"deny","match":[{"header":{"X-Role":["editor"]}}],"reason":"no"}`,
		"any {\nallow @editors\nallow {\npath /push\n}\n}":  `{"guard":"any","guards":[{"guard":"allow","match":[{"header":{"X-Role":["editor"]}}]},{"guard":"allow","match":[{"path":["/push"]}]}]}`,
	} {
		t.Run(text, func(t *testing.T) {
			got := mustAdapt(t, matchers, text)
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			mustLoad(t, got)
		})
	}
}

func TestMistakesInAllowAndDeny(t *testing.T) {
	const matchers = "@editors header X-Role editor\n@office remote_ip 10.0.0.0/8\n@nobody {\n}\n@sockets header Upgrade websocket\n"
	for text, want := range map[string]string{
		"allow editors":                    "allow takes the name of a matcher with its @: write allow @editors, at Caddyfile:8",
		"allow edtors":                     "did you mean allow @editors?, at Caddyfile:8",
		"allow everybody":                  "write allow @everybody, at Caddyfile:8",
		"allow @edtors":                    `there is no matcher @edtors; did you mean "@editors"?, at Caddyfile:8`,
		"allow @members":                   "there is no matcher @members; there are @editors, @nobody, @office, @sockets, at Caddyfile:8",
		"allow @nobody":                    "an empty matcher matches everything; if you want that, leave it out, at Caddyfile:8",
		"allow @sockets":                   "matcher header: sessions do not store the header field Upgrade",
		"allow /foo":                       "allow takes no path: all requests here are to the endpoint; select channels with channel { … }, and requests with a matcher, for example allow { path /foo }, at Caddyfile:8",
		"allow *":                          "allow matches all requests without *: leave it out",
		"allow @editors @office":           "unexpected @office after @editors: write one matcher a line",
		"allow @editors {\npath /x\n}":     "allow has the matcher @editors and a block of matchers: keep one of them",
		"allow remote_ip 10.0.0.0/8":       "write matchers in a block: allow { remote_ip 10.0.0.0/8 }, one a line",
		"allow `agent.user == 'bob'`":      "allow takes no reason; write an expression as cel",
		"allow {\nremote_pi 10.0.0.0/8\n}": `unknown matcher "remote_pi"; did you mean "remote_ip"?, at Caddyfile:9`,
		"allow {\nsubnet 10.0.0.0/8\n}":    `unknown matcher "subnet"; there are `,
		"allow {\n@editors\n}":             "write a named matcher on the line of allow: write allow @editors, at Caddyfile:9",
		"allow {\nremote_ip\n}":            "it has no addresses; is an environment variable not set?",
		"allow {\nmethod GET\n}":           "sessions do not store the method",
		"deny @office go away":             `write the reason in quotes: deny @office "go away", at Caddyfile:8`,
		"deny go away":                     `write the reason in quotes: deny "go away", at Caddyfile:8`,
		"deny editors":                     "deny takes the name of a matcher with its @: write deny @editors",
		"deny office2":                     "did you mean deny @office?",
		"deny closed":                      `write deny @closed for a matcher, or deny "closed" for a reason`,
		`deny ""`:                          "the reason is empty; is an environment variable not set?",
		`deny "a" "b"`:                     `unexpected "b": deny takes one reason`,
		`deny "a" @office`:                 "write @office before the reason",
		`deny "no {http.auth.user.id}"`:    "placeholders are not expanded in the reason",
		"allow {\npath /x\n} extra":        "extra",
		"deny @office \"a\" {\npath /x\n}": "deny has the matcher @office and a block of matchers",
		"any {\nallow @edtors\n}":          `did you mean "@editors"?, at Caddyfile:9`,
	} {
		t.Run(text, func(t *testing.T) {
			_, err := adaptGuards(matchers, text)
			wantMistake(t, err, want)
		})
	}
	_, err := adaptGuards("", "allow @editors")
	wantMistake(t, err, "there is no matcher @editors; define it in the site or in pushit, as @editors { … }, at Caddyfile:3")

	h := httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser("allow {\n}")}
	wantMistake(t, new(AllowGuard).UnmarshalHelper(h), "the block of allow is empty: write allow alone")
}

func BenchmarkAllow(b *testing.B) {
	for name, config := range map[string]string{
		"fixed":     `{"guard":"allow"}`,
		"remote_ip": `{"guard":"allow","match":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]}`,
		"header":    `{"guard":"allow","match":[{"header":{"X-Role":["editor"]}}]}`,
	} {
		b.Run(name, func(b *testing.B) { benchmarkGuard(b, config, questionOf(b, opening, ""), Allow) })
	}
}

func benchmarkGuard(b *testing.B, config string, q *Question, want Kind) {
	g := mustLoad(b, config)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if a := g.Decide(ctx, q); a.Kind != want {
			b.Fatal(a)
		}
	}
}
