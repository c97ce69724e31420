// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

// TestPlaceholdersAreDocumented looks for each placeholder in docs/gates.md.
func TestPlaceholdersAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/gates.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{placeholder.PartsPrefix + "0", placeholder.ClaimsPrefix + "<name>", placeholder.AttributesPrefix + "<name>"}, placeholder.Names...) {
		if !strings.Contains(string(text), "`{"+placeholder.Prefix+name+"}`") {
			t.Errorf("docs/gates.md lacks {%s%s}", placeholder.Prefix, name)
		}
	}
}

func TestPlaceholderValues(t *testing.T) {
	a := newAsker(t, func(o *hub.Opening) { o.Namespace, o.User = "acme", "bob@example.com" })
	q := a.question(hub.GateSubscribe, "stories/5/é b?&#%2f")
	q.Credentials = []byte(`{"token":"?>?>"}`)
	q.Learned.Claims = map[string]any{"role": "editor", "age": int64(7), "ok": true, "nested": map[string]any{"a": map[string]any{"b": "deep"}}, "https://x.io/r": "url", "list": []any{"a", 1.5}, "null": nil}
	q.Learned.Attributes = map[string]any{"name": "Bob", "evil": "a\r\nb"}
	for template, want := range map[string]string{
		"{pushit.gate}":                        "subscribe",
		"{pushit.channel}":                     "stories/5/é b?&#%2f",
		"{pushit.escaped.channel}":             "stories/5/%C3%A9%20b%3F%26%23%252f",
		"{pushit.parts.0}|{pushit.parts.1}":    "stories|5",
		"{pushit.parts.2}":                     "é b?&#%2f",
		"{pushit.escaped.parts.2}":             "%C3%A9%20b%3F%26%23%252f",
		"{pushit.parts.3}":                     "",
		"{pushit.namespace}":                   "acme",
		"{pushit.agent.uuid}":                  a.agent.UUID(),
		"{pushit.agent.agent_id}":              "",
		"{pushit.agent.user}":                  "bob@example.com",
		"{pushit.escaped.agent.user}":          "bob%40example.com",
		"{pushit.agent.remote_ip}":             "192.0.2.7",
		"{pushit.agent.credentials}":           "eyJ0b2tlbiI6Ij8-Pz4ifQ",
		"{pushit.agent.claims.role}":           "editor",
		"{pushit.agent.claims.age}":            "7",
		"{pushit.agent.claims.ok}":             "true",
		"{pushit.agent.claims.nested.a.b}":     "deep",
		"{pushit.agent.claims.nested.a}":       `{"b":"deep"}`,
		"{pushit.agent.claims.nested.x.b}":     "",
		"{pushit.agent.claims.https://x.io/r}": "url",
		"{pushit.agent.claims.list}":           `["a",1.5]`,
		"{pushit.agent.claims.null}":           "",
		"{pushit.agent.claims.absent}":         "",
		"{pushit.agent.attributes.name}":       "Bob",
	} {
		if got, err := replacedIn(t, q, template); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", template, got, err, want)
		}
	}
	if got, err := replacedIn(t, q, "{pushit.agent.attributes.evil}"); err == nil {
		t.Errorf("a value with a line break = %q", got)
	}
	if got, err := replacedIn(t, a.question(hub.GateConnect, ""), "{pushit.channel}{pushit.parts.0}{pushit.agent.credentials}"); got != "" || err != nil {
		t.Errorf("at connect = %q, %v", got, err)
	}
}

// Values that clients choose are never templates.
func TestPlaceholdersAreNotExpandedAgain(t *testing.T) {
	t.Setenv("PUSHIT_TEST_SECRET", "secret")
	const evil = "{env.PUSHIT_TEST_SECRET}"
	u := newServer(t, statusOnly(http.StatusOK))
	g := remoteGuardOf(t, `forward_auth %s {
		uri /auth?user={pushit.agent.user}&claim={pushit.agent.claims.c}&query={query.q}
		header_up X-User {pushit.agent.user}
		header_up X-Claim {pushit.agent.claims.c}
		header_up X-Sent {header.X-Evil}
	}`, u.addr())
	a := newAsker(t, func(o *hub.Opening) {
		o.User, o.URI, o.Header = evil, "/push?q="+url.QueryEscape(evil), snapshotOf("X-Evil", evil)
	})
	q := a.question(hub.GateSubscribe, "news")
	q.Credentials = []byte(`"` + evil + `"`)
	q.Learned.Claims = map[string]any{"c": evil}
	wantKind(t, "with templates as values", g.Decide(t.Context(), q), Pass)
	r, _ := u.last(t)
	for what, got := range map[string]string{
		"user": r.URL.Query().Get("user"), "claim": r.URL.Query().Get("claim"), "query": r.URL.Query().Get("query"),
		"X-User": r.Header.Get("X-User"), "X-Claim": r.Header.Get("X-Claim"), "X-Sent": r.Header.Get("X-Sent"),
	} {
		if got != evil {
			t.Errorf("%s = %q, want it as it was written", what, got)
		}
	}
	dump, err := json.Marshal(r.Header)
	if err != nil || strings.Contains(string(dump)+r.URL.String(), "secret") {
		t.Errorf("a secret of the server's was sent: %s %s %v", r.URL, dump, err)
	}
	// An escaped value in a path.
	g = remoteGuardOf(t, "forward_auth %s {\nuri /auth/{pushit.escaped.agent.user}/x\n}", u.addr())
	wantKind(t, "escaped", a.ask(g, "news"), Pass)
	if r, _ = u.last(t); r.URL.Path != "/auth/"+evil+"/x" {
		t.Errorf("path = %q", r.URL.Path)
	}
}

// Whatever the name of the channel is, the upstream is asked at the configured path,
// about that channel.
func TestChannelNamesAgainstTheUpstreamsPath(t *testing.T) {
	u := newServer(t, statusOnly(http.StatusOK))
	query := remoteGuardOf(t, "forward_auth %s {\nuri /auth?channel={pushit.channel}&part={pushit.parts.1}&end\n}", u.addr())
	path := remoteGuardOf(t, "forward_auth %s {\nuri /auth/{pushit.escaped.channel}/end?a=b\n}", u.addr())
	part := remoteGuardOf(t, "forward_auth %s {\nuri /auth/{pushit.escaped.parts.1}/end?\n}", u.addr())
	replaceIn := remoteGuardOf(t, "route {\nuri replace push x/{pushit.escaped.channel}\nreverse_proxy %s {\n@ok status 2xx\nhandle_response @ok {\nvars a b\n}\n}\n}", u.addr())
	a := newAsker(t, nil)
	for _, name := range []string{
		"a/..%2f..%2fadmin", "a/%2e%2e/%2e%2e/admin", "a/?admin=1", "a/#x", "a/&part=evil&channel=b", "a/b=c", "a/x;y", "a/%00", "a/%0d%0aX-Role:%20admin",
		"a/\\..\\admin", "a/+x", "a/ü", "a/$1", "a/$(0)", "a/..;/x", "a/...", "a/%", "a/%zz", "a/'\"<>",
	} {
		if r := hub.CheckName(name, hub.MaxNameLength); r != nil {
			t.Fatal(r)
		}
		_, second, _ := strings.Cut(name, "/")
		second, _, _ = strings.Cut(second, "/")

		wantKind(t, name+" in a query", a.ask(query, name), Pass)
		r, _ := u.last(t)
		if q := r.URL.Query(); r.URL.Path != "/auth" || q.Get("channel") != name || len(q["channel"]) != 1 || q.Get("part") != second || len(q) != 3 {
			t.Errorf("%q in a query was asked as %s", name, r.URL)
		}
		wantKind(t, name+" in a path", a.ask(path, name), Pass)
		if r, _ = u.last(t); r.URL.Path != "/auth/"+name+"/end" || r.URL.RawQuery != "a=b" {
			t.Errorf("%q in a path was asked as %s", name, r.RequestURI)
		}
		wantKind(t, name+" in part", a.ask(part, name), Pass)
		if r, _ = u.last(t); r.URL.Path != "/auth/"+second+"/end" || r.URL.RawQuery != "" {
			t.Errorf("%q in part was asked as %s", name, r.RequestURI)
		}
		wantKind(t, name+" in uri replace", a.ask(replaceIn, name), Pass)
		if r, _ = u.last(t); r.URL.Path != "/x/"+name || r.URL.RawQuery != "" {
			t.Errorf("%q in uri replace was asked as %s", name, r.RequestURI)
		}
	}
}

// Other values than channels can have anything in them.
func TestValuesThatAreNoSegment(t *testing.T) {
	u := newServer(t, statusOnly(http.StatusOK))
	path := remoteGuardOf(t, "forward_auth %s {\nuri /users/{pushit.escaped.agent.user}/rights\n}", u.addr())
	query := remoteGuardOf(t, "forward_auth %s {\nuri /rights?user={pushit.agent.user}\n}", u.addr())
	for _, user := range []string{"../admin", "..", ".", "a/b", "/"} {
		a := newAsker(t, func(o *hub.Opening) { o.User = user })
		before := u.times()
		wantKind(t, user+" in a path", a.ask(path, "news"), Unavailable)
		if u.times() != before {
			r, _ := u.last(t)
			t.Errorf("%q was asked as %s", user, r.RequestURI)
		}
		wantKind(t, user+" in a query", a.ask(query, "news"), Pass)
		if r, _ := u.last(t); r.URL.Path != "/rights" || r.URL.Query().Get("user") != user {
			t.Errorf("%q was asked as %s", user, r.RequestURI)
		}
	}
	for _, user := range []string{"..%2fadmin", "%2e%2e", "a\\..\\b", "x?y#z", "a;b"} {
		a := newAsker(t, func(o *hub.Opening) { o.User = user })
		wantKind(t, user+" in a path", a.ask(path, "news"), Pass)
		if r, _ := u.last(t); r.URL.Path != "/users/"+user+"/rights" || r.URL.RawQuery != "" {
			t.Errorf("%q was asked as %s", user, r.RequestURI)
		}
	}
}

func TestPlaceholdersInConfigurations(t *testing.T) {
	for text, words := range map[string]string{
		"forward_auth localhost:1 {\nuri /auth/{pushit.channel}\n}":                                    "write {pushit.escaped.channel} there, or write it in the query: ?…={pushit.channel}, at Caddyfile:5",
		"forward_auth localhost:1 {\nuri /auth/{pushit.parts.1}?x={pushit.channel}\n}":                 "write {pushit.escaped.parts.1}",
		"forward_auth localhost:1 {\nuri /auth?x={pushit.escaped.channel}\n}":                          "in a query it would be escaped twice, write {pushit.channel}, at Caddyfile:5",
		"forward_auth localhost:1 {\nuri /auth?x={pushit.chanel}\n}":                                   "there is no placeholder {pushit.chanel}; did you mean {pushit.channel}?, at Caddyfile:5",
		"forward_auth localhost:1 {\nuri /auth\nheader_up X-A {pushit.agent.agentId}\n}":               "did you mean {pushit.agent.agent_id}?, at Caddyfile:6",
		"forward_auth localhost:1 {\nuri /auth\nheader_up X-A {pushit.nonsense}\n}":                    "there is no placeholder {pushit.nonsense}; there are {pushit.gate}, {pushit.channel}",
		"forward_auth localhost:1 {\nuri /auth\nheader_up X-A {pushit.parts.x}\n}":                     "parts are counted from 0",
		"ask localhost:1 {\nuri /ask/{pushit.agent.user}\n}":                                           "write {pushit.escaped.agent.user} there",
		"route {\nrewrite /x/{pushit.channel}\nrespond 200\n}":                                         "write {pushit.escaped.channel} there",
		"route {\nrewrite * /x/{pushit.channel}\nrespond 200\n}":                                       "write {pushit.escaped.channel} there",
		"route {\nuri replace a {pushit.agent.user}\n}":                                                "write {pushit.escaped.agent.user} there",
		"route {\nuri path_regexp ^(.*)$ /x/{pushit.channel}\n}":                                       "write {pushit.escaped.channel} there",
		"route {\nreverse_proxy localhost:1 {\nrewrite /x/{pushit.channel}\n}\n}":                      "write {pushit.escaped.channel} there, or write it in the query: ?…={pushit.channel}, at Caddyfile:6",
		"route {\nforward_auth localhost:1 {\nuri /x/{pushit.channel}\n}\n}":                           "write {pushit.escaped.channel} there",
		"route {\n@a path /x\nhandle @a {\nroute {\nrewrite /x/{pushit.channel}\n}\n}\nrespond 200\n}": "write {pushit.escaped.channel} there",
	} {
		if _, err := parseRemote(text); !says(err, words) {
			t.Errorf("%s\n  error: %v\n  want:  … %s …", text, err, words)
		}
	}
	for _, text := range []string{
		"forward_auth localhost:1 {\nuri /auth/{pushit.escaped.channel}?c={pushit.channel}\n}",
		"forward_auth localhost:1 {\nuri /auth\nheader_up X-C {pushit.channel}\n}",
		"route {\nvars channel {pushit.channel}\nrewrite ?c={pushit.channel}\nuri query +c {pushit.channel}\n}",
		"route {\nrespond `{\"a\":\"{pushit.agent.claims.x.y}\"}` 403\n}",
	} {
		if _, err := parseRemote(text); err != nil {
			t.Errorf("%s\n  error: %v", text, err)
		}
	}
}
