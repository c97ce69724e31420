// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// fetch makes a request without a body, and does not follow redirects.
func (s site) fetch(method, path string, headers ...http.Header) (*http.Response, string) {
	s.t.Helper()
	client := s.once()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	all := make(http.Header)
	for _, h := range headers {
		maps.Copy(all, h)
	}
	return s.request(client, method, path, all)
}

// statusFiles returns the paths of the status page's files below it, and of the state.
func statusFiles(t *testing.T) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir("internal/statuspage/site")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "index.html" {
			paths = append(paths, "/"+e.Name())
		}
	}
	return append(paths, "", "/state")
}

// Each file of the status page, and the state, is only for those that the gate debug allows.
// There is none without the gate.
func TestStatusPageIsGated(t *testing.T) {
	server := serve(t, `
		http://site.test {
			pushit /push {
				default allow
				debug allow @operators
				@operators header Role operator
			}
			respond "the site" 200
		}
		http://none.test {
			pushit /push {
				name none
				default allow
			}
			respond "the site" 200
		}`)
	s, none := server.site("site.test"), server.site("none.test")
	reader, operator := http.Header{"Role": {"reader"}, "Authorization": {"Bearer x"}}, http.Header{"Role": {"operator"}}
	foreign := http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
	for _, path := range append(statusFiles(t), "/", "/nothing") {
		for _, tc := range []struct {
			name   string
			site   site
			method string
			header http.Header
			status int
			body   string
		}{
			{"as nobody", s, "GET", nil, 401, "This is not allowed.\n"},
			{"as somebody else", s, "GET", reader, 403, "This is not allowed.\n"},
			{"without the gate", none, "GET", nil, 404, "There is no status page: the configuration has no debug gate.\n"},
			{"POST", s, "POST", operator, 405, "This method is not allowed here.\n"},
			{"OPTIONS as nobody", s, "OPTIONS", nil, 405, "This method is not allowed here.\n"},
			{"from a page of another origin", s, "GET", foreign, 403, "Pages of this origin may not use this endpoint.\n"},
		} {
			resp, body := tc.site.fetch(tc.method, "/push/debug"+path, tc.header)
			if resp.StatusCode != tc.status || body != tc.body {
				t.Errorf("%s %s: %d %q, want %d %q", path, tc.name, resp.StatusCode, body, tc.status, tc.body)
			}
		}
		want := map[string]int{"/": http.StatusPermanentRedirect, "/nothing": http.StatusNotFound}[path]
		if want == 0 {
			want = http.StatusOK
		}
		resp, body := s.fetch("GET", "/push/debug"+path, operator)
		h := resp.Header
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %.100q", path, resp.StatusCode, want, body)
		}
		if !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'") || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Referrer-Policy") != "no-referrer" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: the header is %v", path, h)
		}
		if cache := h.Get("Cache-Control"); path == "/state" && cache != "no-store" || path == "/page.mjs" && cache != "private, no-cache" {
			t.Errorf("%s may be cached: %q", path, cache)
		}
		head, body := s.fetch("HEAD", "/push/debug"+path, operator)
		if head.StatusCode != want || body != "" || head.Header.Get("Content-Type") != h.Get("Content-Type") {
			t.Errorf("HEAD %s: status %d, %q, %v", path, head.StatusCode, body, head.Header)
		}
	}

	// A link on a page of another site may lead to the page itself, but not to its files
	// and its state.
	click := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
	frame := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"iframe"}}
	for path, want := range map[string][2]int{"": {200, 403}, "/": {308, 403}, "/state": {403, 403}} {
		for i, h := range []http.Header{click, frame} {
			if resp, _ := s.fetch("GET", "/push/debug"+path, operator, h); resp.StatusCode != want[i] {
				t.Errorf("%s after %v: status %d, want %d", path, h, resp.StatusCode, want[i])
			}
		}
	}
	if resp, _ := s.fetch("GET", "/push/debug/?a=b", operator); resp.Header.Get("Location") != "../debug?a=b" {
		t.Errorf("/push/debug/ leads to %q", resp.Header.Get("Location"))
	}
	// A session of a fallback may be at a server that is called debug. Other paths are the site's.
	if resp, body := s.fetch("POST", "/push/debug/abcdefgh/xhr_send"); resp.StatusCode != http.StatusNotFound || strings.Contains(body, "status page") {
		t.Errorf("a fallback: %d %q", resp.StatusCode, body)
	}
	if _, body := s.fetch("GET", "/push/debugger"); body != "the site" {
		t.Errorf("another path: %q", body)
	}
}

// The gate takes all kinds of guards: addresses, tokens, and backends, whose refusal the
// browser sees.
func TestStatusPageWithOtherGuards(t *testing.T) {
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Cookie") {
		case "session=1":
		case "":
			http.Redirect(w, r, "/login", http.StatusFound)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	const secret = "0123456789abcdef0123456789abcdef"
	cookie := func(value string) http.Header { return http.Header{"Cookie": {value}} }
	for _, tc := range []struct {
		guards      string
		good, wrong []http.Header
	}{
		{"debug forward_auth " + address + " {\nuri /\n}", []http.Header{cookie("session=1")}, []http.Header{nil, cookie("session=2")}},
		{"debug jwt {\nsecret " + secret + "\ncookie token\n}", []http.Header{cookie("token=" + token(t, secret, object{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}))}, []http.Header{nil, cookie("token=x")}},
		{`debug bearer "` + apiSecret + `"`, []http.Header{asBackend()}, []http.Header{nil, {"Authorization": {"Bearer x"}}}},
		{"debug allow @here\n@here remote_ip 127.0.0.1", []http.Header{nil}, nil},
		{"debug allow @here\n@here remote_ip 192.0.2.1", nil, []http.Header{nil}},
		{"debug deny", nil, []http.Header{nil, asUser("alice")}},
	} {
		s := gated(t, "default allow\n"+tc.guards)
		for _, path := range []string{"", "/page.mjs", "/state"} {
			for _, h := range tc.good {
				if resp, body := s.fetch("GET", "/push/debug"+path, h); resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s with %v: %d %q", tc.guards, path, h, resp.StatusCode, body)
				}
			}
			for _, h := range tc.wrong {
				resp, body := s.fetch("GET", "/push/debug"+path, h)
				if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden || !strings.HasSuffix(body, ".\n") || strings.Contains(body, "/login") {
					t.Errorf("%s: %s with %v: %d %q", tc.guards, path, h, resp.StatusCode, body)
				}
			}
		}
	}
}

// The login of the site may stand before the page.
func TestStatusPageBehindBasicAuth(t *testing.T) {
	s := serve(t, "http://localhost {\nbasic_auth /push/debug* {\nalice "+aliceHash+"\nbob "+bobHash+"\n}\npushit {\ndefault allow\ndebug user alice\n}\n}").site("localhost")
	if resp, _ := s.fetch("GET", "/push/debug"); resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("without a login: %d, %v", resp.StatusCode, resp.Header)
	}
	if resp, body := s.fetch("GET", "/push/debug/state", basicAuth("bob", "secret of alice")); resp.StatusCode != http.StatusForbidden || body != "This is not allowed.\n" {
		t.Errorf("as bob: %d %q", resp.StatusCode, body)
	}
	if resp, body := s.fetch("GET", "/push/debug/state", asUser("alice")); resp.StatusCode != http.StatusOK {
		t.Errorf("as alice: %d %q", resp.StatusCode, body)
	}
}

// After handle_path, the page still finds its files and its endpoint: all addresses in it are
// relative.
func TestStatusPageBelowAStrippedPath(t *testing.T) {
	s := serve(t, "http://localhost {\n@here remote_ip 127.0.0.1\nhandle_path /live/* {\npushit {\npath /\ndefault allow\ndebug allow @here\n}\n}\n}").site("localhost")
	for _, path := range statusFiles(t) {
		if resp, body := s.fetch("GET", "/live/debug"+path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	for _, name := range []string{"index.html", "page.mjs", "poll.mjs", "console.mjs", "style.css"} {
		text, err := os.ReadFile("internal/statuspage/site/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, absolute := range []string{`"/`, `'/`, `(/`, "://"} {
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, absolute) && !strings.Contains(line, "'/ s'") {
					t.Errorf("%s has an address that is not relative: %s", name, line)
				}
			}
		}
	}
}

// The state has what an operator needs, and no credentials, addresses, agentIds or header
// fields, whoever connects and whatever is refused.
func TestStatusHasNoSecrets(t *testing.T) {
	s := gated(t, `
		connect {
			deny @evil
			allow @anonymous
			route {
				basic_auth {
					alice `+aliceHash+`
				}
			}
		}
		subscribe allow
		publish allow
		channel staff {
			subscribe deny
		}
		debug allow @here
		@here remote_ip 127.0.0.1
		@evil query evil=*
		@anonymous not header Authorization *`)
	header := asUser("alice")
	header.Set("Cookie", "session=s3cret-cookie")
	a, _ := s.open("/push/websocket?key=s3cret-query", header, object{"password": "s3cret-credentials"})
	a.subscribe("news").subscribe("rooms/1")
	a.wantRefused(a.askToSubscribe("staff"), hub.CodeDenied)
	a.publish("news", "s3cret-data")
	evil, _ := s.open("/push/websocket?evil=s3cret-query", header, "s3cret-credentials")
	evil.wantClose(int(hub.CloseDenied))
	for _, query := range []string{"", "?user=alice", "?channel=news", "?prefix=n", "?limit=1"} {
		resp, body := s.fetch("GET", "/push/debug/state"+query)
		if resp.StatusCode != http.StatusOK || !json.Valid([]byte(body)) {
			t.Fatalf("%s: %d %q", query, resp.StatusCode, body)
		}
		for _, bad := range []string{"s3cret", "127.0.0.1", "::1", "tester", "Basic", "Cookie", header.Get("Authorization")[len("Basic "):]} {
			if strings.Contains(body, bad) {
				t.Errorf("%s: the state has %q: %s", query, bad, body)
			}
		}
	}
	_, body := s.fetch("GET", "/push/debug/state?prefix=")
	var got struct {
		Hub      string
		Machines []struct{ Agents map[string]int }
		Channels []struct {
			Name        string
			Subscribers int
		}
		Agents []struct {
			User, Transport string
			Channels        []string
			Connected       bool
		}
		Refusals []struct{ Operation, Code, Guard, Channel, User string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Hub != "default" || len(got.Machines) != 1 || len(got.Channels) != 2 || got.Channels[0].Name != "news" || got.Channels[0].Subscribers != 1 {
		t.Errorf("the state is %s", body)
	}
	i := slices.IndexFunc(got.Agents, func(a struct {
		User, Transport string
		Channels        []string
		Connected       bool
	},
	) bool {
		return a.User == "alice" && a.Transport == "websocket" && a.Connected && slices.Equal(a.Channels, []string{"news", "rooms/1"})
	})
	if i < 0 {
		t.Errorf("the agents are %+v", got.Agents)
	}
	if len(got.Refusals) != 2 || got.Refusals[0].Operation != "connect" || got.Refusals[0].Guard != "deny" || got.Refusals[0].Code != "denied" ||
		got.Refusals[1].Operation != "subscribe" || got.Refusals[1].Channel != "staff" || got.Refusals[1].User != "alice" {
		t.Errorf("the refusals are %+v", got.Refusals)
	}
	for query, want := range map[string]string{
		"?limit=0":                              "limit must be a number from 1 to 100",
		"?limit=101":                            "limit must be a number from 1 to 100",
		"?limit=x":                              "limit must be a number from 1 to 100",
		"?address=1":                            `there is no parameter "address": there are prefix, channel, user and limit`,
		"?channel=a%20b":                        "channel: ",
		"?prefix=" + strings.Repeat("x", 1025):  "prefix has more than 1024 bytes",
		"?user=" + strings.Repeat("x", 1025):    "user has more than 1024 bytes",
		"?user=%zz":                             "it cannot be read",
		"?channel=" + strings.Repeat("x", 1025): "channel has more than 1024 bytes",
	} {
		if resp, body := s.fetch("GET", "/push/debug/state"+query); resp.StatusCode != http.StatusBadRequest || !strings.HasPrefix(body, "The query is wrong: "+want) {
			t.Errorf("%.40s: %d %q", query, resp.StatusCode, body)
		}
	}
}

// With a namespace, the lists are those of the tenant that the page's address belongs to.
func TestStatusOfATenant(t *testing.T) {
	server := serve(t, `
		http://acme.test, http://other.test {
			@here remote_ip 127.0.0.1
			pushit /push {
				namespace {labels.1}
				default allow
				channel staff {
					subscribe deny
				}
				debug allow @here
			}
		}`)
	for _, tenant := range []string{"acme", "other"} {
		a, _ := server.site(tenant+".test").open("/push/websocket", nil, nil)
		a.subscribe("of-" + tenant)
		a.wantRefused(a.askToSubscribe("staff"), hub.CodeDenied)
	}
	for _, tenant := range []string{"acme", "other"} {
		_, body := server.site(tenant+".test").fetch("GET", "/push/debug/state")
		var got struct {
			Channels []struct{ Namespace, Name string }
			Agents   []struct{ Namespace string }
			Refusals []struct{ Namespace string }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Channels) != 1 || got.Channels[0].Name != "of-"+tenant || len(got.Agents) != 1 || got.Agents[0].Namespace != tenant || len(got.Refusals) != 1 || got.Refusals[0].Namespace != tenant {
			t.Errorf("%s sees %s", tenant, body)
		}
	}
}
