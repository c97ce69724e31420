// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

func TestAskAsks(t *testing.T) {
	u := newServer(t, statusOnly(204))
	plain := remoteGuardOf(t, "ask %s {\nuri /pushit?x=y\nheader_up X-Gate {pushit.gate}\n}", u.addr())
	all := remoteGuardOf(t, "ask %s {\nuri /pushit\nsend agentId claims attributes credentials\n}", u.addr())

	h, p := remoteHub(t)
	peer := hubtest.Open(t, h, p, hub.Opening{Scheme: "https", Host: "example.com", URI: "/push?q=1", RemoteAddr: "192.0.2.7:1", Namespace: "acme", Header: snapshotOf("Cookie", "sid=1", "Accept-Encoding", "br", "X-Http-Method-Override", "DELETE")}, hubtest.NewConn())
	defer peer.Leave()
	peer.Send(`{"channel":"/meta/connect","uuid":"u1","agentId":"tab1","data":{}}`)
	for late := time.Now().Add(time.Minute); !peer.Agent.IsConnected() && time.Now().Before(late); peer.Conn.Lines() {
		peer.Conn.AwaitWrite(time.Until(late))
	}
	a := &asker{t: t, agent: peer.Agent, env: newAsker(t, nil).env}

	uuid := a.agent.UUID()
	for _, test := range []struct {
		what  string
		guard Guard
		q     *Question
		with  func(*Question)
		want  string
	}{
		{
			"connect", plain, a.question(hub.GateConnect, ""), nil,
			`{"gate":"connect","namespace":"acme","agent":{"uuid":"` + uuid + `","user":null}}`,
		},
		{
			"subscribe", plain, a.question(hub.GateSubscribe, "stories/<5>"), func(q *Question) {
				q.Learned = Learned{User: "bob", Claims: map[string]any{"a": 1}}
				q.Credentials = []byte(`"secret"`)
			},
			`{"gate":"subscribe","channel":"stories/<5>","namespace":"acme","agent":{"uuid":"` + uuid + `","user":"bob"}}`,
		},
		{
			"a pattern", plain, a.question(hub.GateSubscribe, "stories/*"), func(q *Question) { q.Pattern = true },
			`{"gate":"subscribe","channel":"stories/*","pattern":true,"namespace":"acme","agent":{"uuid":"` + uuid + `","user":null}}`,
		},
		{
			"publish", plain, a.question(hub.GatePublish, "news"), nil,
			`{"gate":"publish","channel":"news","namespace":"acme","agent":{"uuid":"` + uuid + `","user":null},"message":{"uuid":"m1","data":{"text":"hello"}}}`,
		},
		{
			"all there is", all, a.question(hub.GateSubscribe, "news"), func(q *Question) {
				q.Learned = Learned{User: "bob", Claims: map[string]any{"a": int64(1)}, Attributes: map[string]any{"b": "c"}}
				q.Credentials = []byte(`{"token":"x"}`)
			},
			`{"gate":"subscribe","channel":"news","namespace":"acme","agent":{"uuid":"` + uuid + `","agentId":"tab1","user":"bob","claims":{"a":1},"attributes":{"b":"c"}},"credentials":{"token":"x"}}`,
		},
	} {
		if test.with != nil {
			test.with(test.q)
		}
		wantKind(t, test.what, test.guard.Decide(t.Context(), test.q), Pass)
		r, body := u.last(t)
		var got, want any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %s", test.what, err, body)
		}
		if err := json.Unmarshal([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: asked\n  %s\nwant\n  %s", test.what, body, test.want)
		}
		for _, test := range []struct{ what, got, want string }{
			{"method", r.Method, "POST"},
			{"Content-Type", r.Header.Get("Content-Type"), "application/json"},
			{"length", fmt.Sprint(r.ContentLength), fmt.Sprint(len(body))},
			{"Cookie", r.Header.Get("Cookie"), "sid=1"},
			{"override", r.Header.Get("X-Http-Method-Override"), ""},
			{"path", r.URL.Path, "/pushit"},
			{"host", r.Host, "example.com"},
			{"X-Forwarded-Proto", r.Header.Get("X-Forwarded-Proto"), "https"},
		} {
			if test.got != test.want {
				t.Errorf("%s = %q, want %q", test.what, test.got, test.want)
			}
		}
		if test.guard == plain && (r.URL.RawQuery != "x=y" || r.Header.Get("X-Gate") != string(test.q.Gate)) {
			t.Errorf("%s: query %s, X-Gate %s", test.what, r.URL.RawQuery, r.Header.Get("X-Gate"))
		}
	}
}

// A compressed answer is read if the transport has asked for compression.
func TestAskReadsCompressedAnswers(t *testing.T) {
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "br") // the client has not asked for it
		io.WriteString(w, "{}")                  //nolint:errcheck // the answer shows it
	})
	g := remoteGuardOf(t, "ask %s {\nuri /\n}", u.addr())
	wantKind(t, "brotli", newAsker(t, nil).ask(g, "news"), Unavailable)
	if r, _ := u.last(t); r.Header.Get("Accept-Encoding") != "gzip" {
		t.Errorf("Accept-Encoding: %q, want what the transport can read", r.Header.Get("Accept-Encoding"))
	}
}

// An answer, or a reason, whose encoding is identity has none.
func TestAskReadsWhatIsNotEncoded(t *testing.T) {
	status, kind, body := 200, "application/json", "{}"
	u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "Identity")
		answering(status, kind, body)(w, r)
	})
	ask := newAsker(t, nil)
	g := remoteGuardOf(t, "ask %s {\nuri /\n}", u.addr())
	wantKind(t, "answer", ask.ask(g, "news"), Pass)
	status, kind, body = 403, "text/plain", "no"
	if a := ask.ask(g, "news"); a.Kind != Deny || a.Reason != "no" {
		t.Errorf("got %+v, want the reason", a)
	}
}

func TestAskAnswers(t *testing.T) {
	var body string
	u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		answering(200, "application/json; charset=utf-8", body)(w, r)
	})
	g := remoteGuardOf(t, "ask %s {\nuri /\n}", u.addr())
	ask := newAsker(t, nil)
	long := strings.Repeat("a", 300)
	many := func(n int) string { return `["a"` + strings.Repeat(`,"a"`, n-1) + `]` }
	deep := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	type gates = []hub.GateName
	every := gates{hub.GateConnect, hub.GateSubscribe, hub.GateUnsubscribe, hub.GatePublish, hub.GateDisconnect}
	connect, publish := gates{hub.GateConnect}, gates{hub.GatePublish}
	for _, test := range []struct {
		body  string
		gates gates // gates at which it approves; it does not at others
		want  Learned
	}{
		{`{}`, every, Learned{}},
		{" {}\n", every, Learned{}},
		{`{"user":null,"claims":null,"attributes":null,"grant":null,"subscribe":null,"expires":null,"channels":null}`, every, Learned{}},
		{`{"user":"bob"}`, every, Learned{User: "bob"}},
		{`{"user":"Zoë 💬"}`, every, Learned{User: "Zoë 💬"}},
		{`{"claims":{"a":1,"b":1.5,"c":[1,{"d":2}],"e":12345678901234567890,"f":-1,"g":1e2}}`, every, Learned{Claims: map[string]any{"a": int64(1), "b": 1.5, "c": []any{int64(1), map[string]any{"d": int64(2)}}, "e": 12345678901234567890.0, "f": int64(-1), "g": 100.0}}},
		{`{"attributes":{"name":"Bob"}}`, every, Learned{Attributes: map[string]any{"name": "Bob"}}},
		{`{"grant":["stories/5","users/bob/*"],"subscribe":["users/bob"]}`, connect, Learned{Grants: []string{"stories/5", "users/bob/*"}, Subscribe: []string{"users/bob"}}},
		{`{"grant":["*"]}`, connect, Learned{Grants: []string{"*"}}},
		{`{"channels":["a","b/c"]}`, publish, Learned{Channels: []string{"a", "b/c"}}},
		{`{"channels":[]}`, publish, Learned{Channels: []string{}, Drop: true}},
		{`{"channels":` + many(16) + `}`, publish, Learned{Channels: []string{"a"}}}, // a message goes to a channel once
		{`{"channels":["b","a","b"]}`, publish, Learned{Channels: []string{"b", "a"}}},
		{`{"data":{"a": [1, 2]}}`, publish, Learned{Data: []byte(`{"a":[1,2]}`)}},
		{`{"data":` + deep(31) + `}`, publish, Learned{Data: []byte(deep(31))}}, // as deep as in a frame
		{`{"data":null}`, publish, Learned{Data: []byte(`null`)}},
		{`{"data":"` + strings.Repeat("x", 65_000) + `"}`, publish, Learned{Data: []byte(`"` + strings.Repeat("x", 65_000) + `"`)}},

		{``, nil, Learned{}},
		{`null`, nil, Learned{}},
		{`true`, nil, Learned{}},
		{`"yes"`, nil, Learned{}},
		{`[]`, nil, Learned{}},
		{`{} {}`, nil, Learned{}},
		{`{`, nil, Learned{}},
		{`{"user":"bob"`, nil, Learned{}},
		{"\xef\xbb\xbf{}", nil, Learned{}},
		{`{"user":"` + "\xff" + `"}`, nil, Learned{}},
		{`{"allowed":false}`, nil, Learned{}},
		{`{"error":"no"}`, nil, Learned{}},
		{`{"User":"bob"}`, nil, Learned{}},
		{`{"user":"bob","user":"ann"}`, nil, Learned{}},
		{`{"claims":{"a":{"b":1,"b":2}}}`, nil, Learned{}},
		{`{"user":""}`, nil, Learned{}},
		{`{"user":5}`, nil, Learned{}},
		{`{"user":"a\nb"}`, nil, Learned{}},
		{`{"user":"` + strings.Repeat("x", maxUser+1) + `"}`, nil, Learned{}},
		{`{"claims":[]}`, nil, Learned{}},
		{`{"claims":"x"}`, nil, Learned{}},
		{`{"claims":{"a":` + deep(31) + `}}`, nil, Learned{}},
		{`{"data":` + deep(32) + `}`, nil, Learned{}},
		{`{"grant":"a"}`, nil, Learned{}},
		{`{"grant":[5]}`, nil, Learned{}},
		{`{"grant":["n*"]}`, nil, Learned{}},
		{`{"grant":["/meta/x"]}`, nil, Learned{}},
		{`{"grant":["` + long + `"]}`, nil, Learned{}},
		{`{"grant":` + many(maxGrants+1) + `}`, nil, Learned{}},
		{`{"subscribe":["a//b"]}`, nil, Learned{}},
		{`{"channels":` + many(17) + `}`, nil, Learned{}},
		{`{"channels":["a/*"]}`, nil, Learned{}},
		{`{"channels":["/meta/subscribe"]}`, nil, Learned{}},
		{`{"channels":["../a"]}`, nil, Learned{}},
		{`{"data":"` + strings.Repeat("x", 65_536) + `"}`, nil, Learned{}}, // two bytes more than a message can have
		{`{"expires":0}`, nil, Learned{}},
		{`{"expires":-1}`, nil, Learned{}},
		{`{"expires":1893456000}`, nil, Learned{}},
		{`{"expires":"soon"}`, nil, Learned{}},
		{`{"expires":"2006-01-02T15:04:05Z"}`, nil, Learned{}},
		{`{"expires":[]}`, nil, Learned{}},
	} {
		body = test.body
		for _, gate := range every {
			kind := Unavailable
			for _, yes := range test.gates {
				if yes == gate {
					kind = Pass
				}
			}
			a := g.Decide(t.Context(), ask.question(gate, "news"))
			wantKind(t, fmt.Sprintf("%s at %s", test.body[:min(len(test.body), 60)], gate), a, kind)
			if kind == Pass && !reflect.DeepEqual(a.Learned, test.want) {
				t.Errorf("%.60s at %s: learned %+v, want %+v", test.body, gate, a.Learned, test.want)
			}
			if kind != Pass && (a.Err == nil || !reflect.DeepEqual(a.Learned, Learned{})) {
				t.Errorf("%.60s at %s: error %v, learned %+v", test.body, gate, a.Err, a.Learned)
			}
		}
	}
	for _, expires := range []string{`60`, `60.5`, `"` + time.Now().Add(time.Minute).Format(time.RFC3339) + `"`} {
		body = `{"expires":` + expires + `}`
		a := ask.ask(g, "news")
		wantKind(t, body, a, Pass)
		if in := time.Until(a.Learned.Expires); in < 50*time.Second || in > 61*time.Second {
			t.Errorf("%s: expires in %v", body, in)
		}
	}
}

// The operator's log explains a mistyped path.
func TestAskGetsTheIndexPage(t *testing.T) {
	u := newServer(t, answering(200, "text/html; charset=utf-8", "<!doctype html>"))
	a := newAsker(t, nil).ask(remoteGuardOf(t, "ask %s {\nuri /pushti\n}", u.addr()), "news")
	if a.Kind != Unavailable || !says(a.Err, "index page, and uri wrong?") {
		t.Errorf("%s: %v", a.Kind, a.Err)
	}
}

func TestAskNothingIsAYesButAPublishIsDropped(t *testing.T) {
	u := newServer(t, statusOnly(204))
	g := remoteGuardOf(t, "ask %s {\nuri /\n}", u.addr())
	ask := newAsker(t, nil)
	for _, gate := range []hub.GateName{hub.GateConnect, hub.GateSubscribe, hub.GateUnsubscribe, hub.GatePublish, hub.GateDisconnect} {
		a := g.Decide(t.Context(), ask.question(gate, "news"))
		wantKind(t, string(gate), a, Pass)
		if a.Learned.Drop != (gate == hub.GatePublish) {
			t.Errorf("%s: dropped %v", gate, a.Learned.Drop)
		}
	}
}

// An agent sees the backend's reason if it is a short line of plain text.
func TestAskReasons(t *testing.T) {
	var media, body string
	code := http.StatusForbidden
	u := newServer(t, func(w http.ResponseWriter, r *http.Request) { answering(code, media, body)(w, r) })
	ask := newAsker(t, nil)
	for _, block := range []string{"ask %s {\nuri /\n}", "forward_auth %s {\nuri /\n}", "route {\nreverse_proxy %s\n}"} {
		testReasons(t, ask, remoteGuardOf(t, block, u.addr()), &code, &media, &body)
	}
}

// testReasons makes a guard's backend refuse with different bodies, and checks which of
// them agents see.
func testReasons(t *testing.T, ask *asker, g Guard, code *int, media, body *string) {
	t.Helper()
	*code = http.StatusForbidden
	for _, test := range []struct{ media, body, want string }{
		{"text/plain", "members only", "members only"},
		{"text/plain; charset=utf-8", "nur für Mitglieder – sorry\n", "nur für Mitglieder – sorry"},
		{"text/plain", strings.Repeat("ä", 200), strings.Repeat("ä", 200)},
		{"text/plain", strings.Repeat("ä", 201), ""},
		{"text/plain", "", ""},
		{"text/plain", "two\nlines", ""},
		{"text/plain", "a\ttab", ""},
		{"text/plain", "a\x1b[31mcolor", ""},
		{"text/plain", "turned \u202e round", ""},
		{"text/plain", "line\u2028separator", ""},
		{"text/plain", "not \xff UTF-8", ""},
		{"text/plain; charset=iso-8859-1", "nur f\xfcr", ""},
		{"text/plain; charset=iso-8859-1", "ascii", ""},
		{"text/html", "<h1>Forbidden</h1>", ""},
		{"application/json", `{"error":"no"}`, ""},
		{"", "no", ""},
	} {
		*media, *body = test.media, test.body
		a := ask.ask(g, "news")
		wantKind(t, test.body, a, Deny)
		if a.Reason != test.want {
			t.Errorf("%T: %s %.30q: reason %q, want %q", g, *media, *body, a.Reason, test.want)
		}
	}
	*media, *body = "text/plain", "the database is at 10.0.0.5"
	for _, status := range []int{302, 408, 429, 500, 503} {
		*code = status
		if a := ask.ask(g, "news"); a.Reason != "" {
			t.Errorf("%T: %d: reason %q", g, *code, a.Reason)
		}
	}
}

// Values that each tab makes up do not make questions different, unless they are sent.
func TestAskIsSpared(t *testing.T) {
	u := newServer(t, statusOnly(204))
	for guard, asked := range map[string]int{
		"ask %s {\nuri /\ncache 1h\n}":                                         2, // two credentials
		"ask %s {\nuri /\ncache 1h\nsend claims\n}":                            4,
		"ask %s {\nuri /\ncache 1h\nsend attributes\n}":                        2,
		"ask %s {\nuri /\ncache 1h\nheader_up X {pushit.agent.claims.role}\n}": 4,
		"ask %s {\nuri /\ncache 1h\nheader_up X {pushit.agent.uuid}\n}":        8,
	} {
		g := remoteGuardOf(t, guard, u.addr())
		before := u.times()
		for i := range 8 {
			a := newAsker(t, nil) // another uuid each time
			q := a.question(hub.GateSubscribe, "news")
			q.Credentials = []byte([]string{`"a"`, `"b"`}[i%2])
			q.Learned.Claims = map[string]any{"role": []string{"x", "y"}[i/2%2]}
			wantKind(t, guard, g.Decide(t.Context(), q), Pass)
		}
		if n := u.times() - before; n != asked {
			t.Errorf("%s: asked %d times, want %d", guard, n, asked)
		}
	}
}

func TestAskInACaddyfile(t *testing.T) {
	raw, err := parseRemote("ask unix//run/app.sock {\n\turi /pushit\n\tsend claims credentials\n\tcache 10s\n\tin_flight 8\n\ttransport fastcgi {\n\t\troot /srv\n\t}\n}")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"guard":"ask"`, `"send":["claims","credentials"]`, `"cache":10000000000`, `"in_flight":8`, `"dial":"unix//run/app.sock"`, `"rewrite":{"uri":"/pushit"}`, `"read_timeout":"30s"`,
	} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("there is no %s in %s", part, raw)
		}
	}
	raw, err = parseRemote("forward_auth unix//run/app.sock {\n\turi /pushit\n\ttransport fastcgi {\n\t\troot /srv\n\t\tread_timeout 3s\n\t}\n}")
	if err != nil || !strings.Contains(string(raw), `"read_timeout":3000000000`) {
		t.Errorf("a read_timeout of the operator's: %s, %v", raw, err)
	}
	for text, words := range map[string]string{
		"ask localhost:1":                                              "ask needs a block; write: ask localhost:8080 { uri /pushit }, at Caddyfile:4",
		"ask localhost:1 {\nsend claims\n}":                            "ask needs the path to ask at the upstream: uri /pushit, at Caddyfile:4",
		"ask {\nuri /pushit\n}":                                        "ask needs an upstream to ask: ask localhost:8080 { … }, at Caddyfile:4",
		"ask @example localhost:1 {\nuri /pushit\n}":                   "ask takes no matcher",
		"ask localhost:1 {\nuri /\nmethod GET\n}":                      "a question is always a POST, at Caddyfile:6",
		"ask localhost:1 {\nuri /\nsend\n}":                            "send takes what to send about an agent",
		"ask localhost:1 {\nuri /\nsend claim\n}":                      `did you mean "claims"?, at Caddyfile:6`,
		"ask localhost:1 {\nuri /\nsend agent_id\n}":                   `did you mean "agentId"?`,
		"ask localhost:1 {\nuri /\nsend everything\n}":                 "there are agentId, claims, attributes, credentials",
		"ask localhost:1 {\nuri /\ncopy_headers A\n}":                  "ask has no copy_headers: the answer says as JSON who the user is",
		"ask localhost:1 {\nuri /\nuser_header A\n}":                   "ask has no user_header",
		"ask localhost:1 {\nuri /\nhandle_response {\nrespond x\n}\n}": "ask has no handle_response",
		"ask localhost:1 {\nuri /\nnonsense\n}":                        "unrecognized subdirective nonsense, at Caddyfile:6",
	} {
		if _, err := parseRemote(text); !says(err, words) {
			t.Errorf("%s\n  error: %v\n  want:  … %s …", text, err, words)
		}
	}
	if _, err := loadRemote(t, []byte(`{"guard":"ask","send":["x"],"handler":{"handler":"reverse_proxy"}}`)); !says(err, `there is no "x"`) {
		t.Errorf("JSON that sends what there is not: %v", err)
	}
}
