// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// patientGates has the directives that let backends take their time: the machine may be busy.
const patientGates = "timeout connect 30s\ntimeout subscribe 30s\ntimeout publish 30s\ntimeout disconnect 30s\ntimeout debug 30s\n"

// gated returns a site on localhost whose pushit has that block.
func gated(t *testing.T, block string) site {
	t.Helper()
	return serve(t, withRules(block)).site("localhost")
}

// asUser is the header of a login. The policies of these tests take the user from it.
func asUser(name string) http.Header { return basicAuth(name, "secret of "+name) }

// logins is a connect gate that identifies alice by asUser, and lets others connect
// without a user.
const logins = `
	connect {
		allow @anonymous
		route {
			basic_auth {
				alice ` + aliceHash + `
			}
		}
	}
	@anonymous not header Authorization *
`

// backend starts an HTTP server, and returns its address.
func backend(t *testing.T, answer http.HandlerFunc) (address string) {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// token returns a JWT signed with HS256.
func token(t *testing.T, key string, claims object) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(object{"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func TestBasicAuthInTheConnectGate(t *testing.T) {
	s := gated(t, `
		connect route {
			basic_auth {
				alice `+aliceHash+`
			}
		}
		subscribe cel `+"`parts[0] == \"users\" && parts[1] == agent.user`"+`
		publish user alice`)
	for name, header := range map[string]http.Header{"nobody": nil, "wrong password": basicAuth("alice", "secret of bob")} {
		a, answer := s.open("/push/websocket", header, nil)
		if answer["successful"] != false || answer["code"] != string(hub.CodeDenied) {
			t.Errorf("%s: connecting was answered with %v", name, answer)
		}
		a.wantClose(int(hub.CloseDenied))
	}
	alice := s.connect("/push/websocket", asUser("alice"))
	alice.wantAllowed(alice.askToSubscribe("users/alice"))
	alice.wantRefused(alice.askToSubscribe("users/bob"), hub.CodeDenied)
	alice.publish("users/alice", "to myself")
	alice.wantMessage("users/alice", "to myself")
}

func TestForwardAuthIsAskedChannelByChannel(t *testing.T) {
	var asked atomic.Int64
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		q := r.URL.Query()
		switch {
		case r.URL.Path != "/may/subscribe" || r.Method != http.MethodGet || r.Header.Get("Cookie") != "session=1":
			w.WriteHeader(http.StatusInternalServerError)
		case q.Get("channel") == "news":
			w.Header().Set("Remote-Role", "reader")
		case q.Get("channel") == "login":
			w.Header().Set("Location", "/login")
			w.WriteHeader(http.StatusFound)
		case q.Get("channel") == "broken":
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	})
	s := gated(t, `
		connect allow
		publish allow
		subscribe {
			forward_auth `+address+` {
				uri /may/{pushit.escaped.gate}?channel={pushit.channel}
				copy_headers Remote-Role
			}
			cel `+"`request.headers[\"Remote-Role\"] == \"reader\"`"+`
		}`)
	a := s.connect("/push/websocket", http.Header{"Cookie": {"session=1"}, "Remote-Role": {"reader"}})
	a.wantAllowed(a.askToSubscribe("news"))
	a.wantRefused(a.askToSubscribe("secret"), hub.CodeDenied)
	a.wantRefused(a.askToSubscribe("login"), hub.CodeDenied)
	a.wantRefused(a.askToSubscribe("broken"), hub.CodeUnavailable)
	if n := asked.Load(); n != 4 {
		t.Errorf("the backend was asked %d times, want 4", n)
	}
	other := s.connect("/push/websocket", nil)
	other.wantRefused(other.askToSubscribe("news"), hub.CodeUnavailable)
}

func TestClientsCannotSendWhatABackendSays(t *testing.T) {
	address := backend(t, func(http.ResponseWriter, *http.Request) {}) // passes, and says nothing else
	s := gated(t, `
		connect forward_auth `+address+` {
			uri /
			copy_headers Remote-Role
		}
		publish allow
		subscribe allow @editors
		@editors header Remote-Role editor`)
	a := s.connect("/push/websocket", http.Header{"Remote-Role": {"editor"}, "Pushit-Grant": {"news"}})
	a.wantRefused(a.askToSubscribe("news"), hub.CodeDenied)
}

func TestJWTInTheConnectGate(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	s := gated(t, `
		connect jwt {
			secret `+key+`
			audience push
		}
		subscribe cel `+"`channel == \"users/\" + agent.user || \"editor\" in agent.claims.?roles.orValue([])`"+`
		publish deny`)
	soon := time.Now().Add(time.Hour).Unix()
	for name, tc := range map[string]struct {
		credentials any
		code        hub.Code
	}{
		"none":           {nil, hub.CodeDenied},
		"no token":       {"nonsense", hub.CodeDenied},
		"wrong key":      {token(t, strings.Repeat("x", 32), object{"sub": "bob", "aud": "push", "exp": soon}), hub.CodeDenied},
		"wrong audience": {token(t, key, object{"sub": "bob", "aud": "mail", "exp": soon}), hub.CodeDenied},
		"no exp":         {token(t, key, object{"sub": "bob", "aud": "push"}), hub.CodeDenied},
		"expired":        {token(t, key, object{"sub": "bob", "aud": "push", "exp": time.Now().Add(-time.Hour).Unix()}), hub.CodeExpired},
	} {
		_, answer := s.open("/push/websocket", nil, tc.credentials)
		if answer["successful"] != false || answer["code"] != string(tc.code) {
			t.Errorf("%s: connecting was answered with %v, want the code %s", name, answer, tc.code)
		}
	}
	bob, _ := s.open("/push/websocket", nil, token(t, key, object{"sub": "bob", "aud": "push", "exp": soon}))
	bob.wantAllowed(bob.askToSubscribe("users/bob"))
	bob.wantRefused(bob.askToSubscribe("users/eve"), hub.CodeDenied)
	editor, _ := s.open("/push/websocket", nil, token(t, key, object{"sub": "eve", "aud": "push", "exp": soon, "roles": []string{"editor"}}))
	editor.wantAllowed(editor.askToSubscribe("users/bob"))
	editor.wantRefused(editor.ask("users/bob", "hello"), hub.CodeDenied)
}

// TestOnlyTheOwnerReadsAnInbox: each user has an inbox. Some names look like those of other
// users.
func TestOnlyTheOwnerReadsAnInbox(t *testing.T) {
	s := gated(t, logins+`
		publish allow
		subscribe deny
		channel users/*/inbox {
			subscribe cel `+"`parts[1] == agent.user`"+`
		}`)
	alice := s.connect("/push/websocket", asUser("alice"))
	nobody := s.connect("/push/websocket", nil)
	alice.wantAllowed(alice.askToSubscribe("users/alice/inbox"))
	for _, a := range []*agent{alice, nobody} {
		for channel, code := range map[string]hub.Code{
			"users/bob/inbox":         hub.CodeDenied,
			"users/Alice/inbox":       hub.CodeDenied,
			"users/null/inbox":        hub.CodeDenied,
			"users/alice%2f../inbox":  hub.CodeDenied,
			"users/alice":             hub.CodeDenied,
			"users/alice/inbox/more":  hub.CodeDenied,
			"users/alice/inbox/*":     hub.CodeDenied,
			"users/*":                 hub.CodeDenied,
			"*":                       hub.CodeDenied,
			"users/*/inbox":           hub.CodeInvalid,
			"users//inbox":            hub.CodeInvalid,
			"//":                      hub.CodeInvalid,
			"users/alice//inbox":      hub.CodeInvalid,
			"users/alice/../x/inbox":  hub.CodeInvalid,
			"users/alice\u200b/inbox": hub.CodeInvalid,
			"n*":                      hub.CodeInvalid,
			"users/{user}/inbox":      hub.CodeInvalid,
			"/users/alice/inbox":      hub.CodeInvalid,
			"users/alice/inbox/":      hub.CodeInvalid,
		} {
			a.wantRefused(a.askToSubscribe(channel), code)
		}
	}
	nobody.wantRefused(nobody.askToSubscribe("users/alice/inbox"), hub.CodeDenied)
	nobody.publish("users/bob/inbox", "for bob alone")
	nobody.publish("users/alice/inbox", "for alice")
	alice.wantMessage("users/alice/inbox", "for alice")
}

// TestPatternsDoNotOpenWhatBlocksClose subscribes to patterns that some block allows.
func TestPatternsDoNotOpenWhatBlocksClose(t *testing.T) {
	s := gated(t, logins+`
		publish allow
		subscribe allow
		channel stories/secret/* {
			subscribe user alice
		}
		channel stories/* news {
			subscribe allow
			patterns
		}
		channel live/* {
			subscribe cel `+"`is_pattern == (agent.user == \"alice\")`"+`
			patterns
		}`)
	nobody := s.connect("/push/websocket", nil)
	alice := s.connect("/push/websocket", asUser("alice"))
	for pattern, allowed := range map[string]struct{ nobody, alice bool }{
		"*":                {false, false},
		"stories/*":        {false, false}, // includes channels of stories/secret
		"stories/open/*":   {true, true},
		"stories/secret/*": {false, false}, // the block does not say patterns
		"news/*":           {false, false}, // news is a name without channels below it
		"open/*":           {false, false}, // no block matches it
		"live/*":           {false, true},
		"live/a/*":         {false, true},
		"live/a":           {true, false},
		"stories/secret/a": {false, true},
		"stories/a":        {true, true},
	} {
		for a, want := range map[*agent]bool{nobody: allowed.nobody, alice: allowed.alice} {
			if f := a.askToSubscribe(pattern); f["successful"] != want {
				t.Errorf("%s: %v, want successful %t", pattern, f, want)
			}
		}
	}
}

// TestGrantsOfABackend: a backend says what each agent may do.
func TestGrantsOfABackend(t *testing.T) {
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		var question struct {
			Gate        string
			Credentials struct{ Ticket string }
		}
		if err := json.NewDecoder(r.Body).Decode(&question); err != nil || question.Gate != "connect" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"user":"bob","grant":["tickets/`+question.Credentials.Ticket+`","open/*"],"subscribe":["notices"]}`)
	})
	s := gated(t, `
		connect ask `+address+` {
			uri /
			send credentials
		}
		subscribe granted
		publish {
			any {
				granted
				user eve
			}
		}`)
	a, _ := s.open("/push/websocket", nil, object{"ticket": "7"})
	if f := a.receive(); f["channel"] != "/meta/subscribe" || f["successful"] != true {
		t.Errorf("got %v, want the subscription that the backend made", f)
	}
	a.wantAllowed(a.askToSubscribe("tickets/7"))
	a.wantAllowed(a.askToSubscribe("open/air"))
	a.wantRefused(a.askToSubscribe("tickets/8"), hub.CodeDenied)
	a.wantRefused(a.askToSubscribe("open"), hub.CodeDenied)
	a.publish("tickets/7", "hello")
	a.wantMessage("tickets/7", "hello")
	a.wantRefused(a.ask("tickets/8", "hello"), hub.CodeDenied)
}

func TestTransformStampsTheSender(t *testing.T) {
	s := gated(t, logins+`
		subscribe allow
		publish {
			user
			transform `+"`{\"text\": message.data.text, \"from\": agent.user}`"+`
		}`)
	alice := s.connect("/push/websocket", asUser("alice")).subscribe("chat")
	alice.publish("chat", object{"text": "hello", "from": "bob"})
	f := alice.receive()
	if data, _ := f["data"].(object); f["channel"] != "chat" || data["text"] != "hello" || data["from"] != "alice" || len(data) != 2 {
		t.Errorf("got %v", f)
	}
	// A message is not delivered if the expression cannot read its data.
	if f := alice.ask("chat", "text"); f["channel"] != "/meta/error" {
		t.Errorf("got %v, want an error", f)
	}
	nobody := s.connect("/push/websocket", nil)
	nobody.wantRefused(nobody.ask("chat", object{"text": "hello"}), hub.CodeDenied)
}

func TestDeliverHides(t *testing.T) {
	s := gated(t, logins+`
		subscribe allow
		publish allow
		channel house {
			deliver {
				cel `+"`agent.user == \"alice\" || !(message.data.?secret.orValue(false))`"+`
				transform `+"`agent.user == \"alice\" ? message.data : {\"text\": message.data.text}`"+`
			}
		}`)
	alice := s.connect("/push/websocket", asUser("alice")).subscribe("house")
	nobody := s.connect("/push/websocket", nil).subscribe("house")
	alice.publish("house", object{"text": "one", "secret": true, "price": 7})
	alice.publish("house", object{"text": "two", "price": 8})
	want := func(a *agent, text string, fields int) {
		t.Helper()
		f := a.receive()
		if data, _ := f["data"].(object); data["text"] != text || len(data) != fields {
			t.Errorf("got %v, want %s with %d fields", f, text, fields)
		}
	}
	want(alice, "one", 3)
	want(alice, "two", 2)
	want(nobody, "two", 1)
}

func TestToAndDiscard(t *testing.T) {
	s := gated(t, `
		connect allow
		subscribe allow
		publish {
			allow
			to moderation archive/all
		}
		channel void {
			publish {
				allow
				discard
			}
		}`)
	a := s.connect("/push/websocket", nil).subscribe("chat").subscribe("moderation").subscribe("archive/all").subscribe("void")
	a.publish("void", 1)
	a.publish("chat", "hello")
	got := map[any]any{}
	for range 2 {
		f := a.receive()
		got[f["channel"]] = f["data"]
	}
	if len(got) != 2 || got["moderation"] != "hello" || got["archive/all"] != "hello" {
		t.Errorf("got %v", got)
	}
}

func TestReservedAndInvalidChannelsTakeNoMessages(t *testing.T) {
	s := gated(t, `default allow`)
	a := s.connect("/push/websocket", nil).subscribe("chat")
	for channel, code := range map[string]hub.Code{
		"/meta/successful": hub.CodeInvalid,
		"/meta/close":      hub.CodeInvalid,
		"chat/*":           hub.CodeInvalid,
		"*":                hub.CodeInvalid,
		"chat//x":          hub.CodeInvalid,
		"../chat":          hub.CodeInvalid,
	} {
		a.wantRefused(a.ask(channel, "hello"), code)
	}
}

// TestAnAgentIDProvesNothing: two programs use the same agentId.
func TestAnAgentIDProvesNothing(t *testing.T) {
	s := gated(t, logins+`
		subscribe cel `+"`parts[0] == agent.user`"+`
		publish user`)
	alice := s.connect("/push/websocket", asUser("alice")).subscribe("alice/box")
	eve := s.connect("/push/websocket", nil) // with the same agentId as all agents of the tests
	eve.wantRefused(eve.askToSubscribe("alice/box"), hub.CodeDenied)
	eve.wantRefused(eve.ask("alice/box", "hello"), hub.CodeDenied)
	alice.publish("alice/box", "to myself")
	alice.wantMessage("alice/box", "to myself")
}

func TestReloadTightensPolicy(t *testing.T) {
	const open, closed = "default allow", "connect allow\nsubscribe deny \"closed for today\"\npublish cel `message.data != \"bad\"`"
	block := func(rules string) string {
		return "http://localhost {\n\tpushit {\n\t\t" + rules + "\n\t}\n}\n"
	}
	s := serve(t, block(open)).site("localhost")
	a := s.connect("/push/websocket", nil)
	a.subscribe("one")
	a.publish("two", "bad")
	if err := s.load(block(closed)); err != nil {
		t.Fatal(err)
	}
	a.wantEnded("one", hub.CodeDenied)
	f := a.askToSubscribe("three")
	a.wantRefused(f, hub.CodeDenied)
	if f["error"] != "closed for today" {
		t.Errorf("the reason is %q", f["error"])
	}
	a.wantRefused(a.ask("two", "bad"), hub.CodeDenied)
	a.wantAllowed(a.ask("two", "good"))
	if err := s.load(block(open)); err != nil {
		t.Fatal(err)
	}
	a.wantAllowed(a.askToSubscribe("three"))
}

// TestReloadWithABadGateChangesNothing loads a configuration that can be adapted, but not
// provisioned.
func TestReloadWithABadGateChangesNothing(t *testing.T) {
	s := gated(t, "default deny\nconnect allow")
	a := s.connect("/push/websocket", nil)
	bad := servers(endpoint(object{"name": "default", "default": "allow", "gates": object{
		"publish": object{"guards": []any{object{"guard": "cel", "expr": "no such thing"}}},
	}}))
	if err := s.loadJSON(bad); err == nil {
		t.Fatal("loaded")
	}
	a.wantRefused(a.askToSubscribe("chat"), hub.CodeDenied)
}

func TestNamespaceByHost(t *testing.T) {
	s := serve(t, "http://*.localhost {\n\tpushit {\n\t\tnamespace {labels.1}\n\t\tdefault allow\n\t}\n}\n")
	one, two := s.site("one.localhost"), s.site("two.localhost")
	a := one.connect("/push/websocket", nil).subscribe("chat").subscribe("*")
	b := two.connect("/push/websocket", nil).subscribe("chat").subscribe("*")
	b.publish("chat", "in two")
	b.publish("one/chat", "not in one")
	a.publish("chat", "in one")
	a.wantMessage("chat", "in one")
	b.wantMessage("chat", "in two")
	b.wantMessage("one/chat", "not in one")
}

func TestSessionWithoutANamespaceIsRefused(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit {\n\t\tnamespace {query.tenant}\n\t\tdefault allow\n\t}\n}\n").site("localhost")
	for _, query := range []string{"", "?tenant=", "?tenant=a/b", "?tenant=..", "?tenant=*", "?tenant=a%20b", "?tenant=a%00b", "?tenant=" + strings.Repeat("a", 256)} {
		for _, path := range []string{"/push/websocket", "/push/123/abcdefgh/websocket"} {
			a, resp := s.upgrade(path+query, nil)
			if a != nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s%s: status %d, want 400", path, query, resp.StatusCode)
			}
		}
	}
	if _, resp := s.upgrade("/push/websocket", http.Header{"Origin": {"https://evil.example"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign origin gets status %d, want 403 before anything else", resp.StatusCode)
	}
	s.connect("/push/websocket?tenant=acme", nil)
	if status, _ := s.get("/push", nil); status != http.StatusOK {
		t.Errorf("the greeting has status %d", status)
	}
}

// TestGatesNeverLogCredentials sends a secret in every possible way to guards of every
// kind. The log has the level debug.
func TestGatesNeverLogCredentials(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	down := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	})
	for name, connect := range map[string]string{
		"jwt":          "jwt {\n\tsecret 0123456789abcdef0123456789abcdef\n}",
		"bearer":       "bearer another-secret-of-some-length-0123456789",
		"cel":          "cel `agent.credentials.token == 1`",
		"ask":          "ask " + down + " {\n\turi /\n\tsend credentials\n}",
		"forward_auth": "forward_auth " + down + " {\n\turi /\n}",
		"route":        "route {\n\tbasic_auth {\n\t\talice " + aliceHash + "\n\t}\n}",
		"deny":         "deny",
		"allow":        "allow",
	} {
		t.Run(name, func(t *testing.T) {
			s := gated(t, "connect "+connect+"\nsubscribe cel `agent.credentials == 1`\npublish deny")
			header := basicAuth("alice", secret)
			header.Set("Cookie", "session="+secret)
			for _, credentials := range []any{secret, object{"token": secret}, []any{secret, 1}} {
				a, answer := s.open("/push/websocket", header, credentials)
				if answer["successful"] == true {
					a.askToSubscribe("chat")
					a.ask("chat", "hello")
				}
			}
			s.stop()
			encoded := base64.StdEncoding.EncodeToString([]byte("alice:" + secret))
			for _, bad := range []string{secret, encoded} {
				if strings.Contains(s.log(), bad) {
					t.Errorf("the log has %q in it", bad)
				}
			}
			if !strings.Contains(s.log(), "endpoint provisioned") {
				t.Error("the log has nothing of level debug")
			}
		})
	}
}

// TestDenialsAreLogged: the log says who was refused what, and by which guard.
func TestDenialsAreLogged(t *testing.T) {
	s := gated(t, "connect allow\nsubscribe deny \"not for you\"\npublish allow")
	a := s.connect("/push/websocket", nil)
	a.wantRefused(a.askToSubscribe("chat"), hub.CodeDenied)
	s.stop()
	for line := range strings.Lines(s.log()) {
		var entry object
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "denied" {
			got := fmt.Sprint(entry["level"], entry["gate"], entry["guard"], entry["channel"], entry["reason"], entry["hub"], entry["agent"] != "")
			if want := fmt.Sprint("info", "subscribe", "deny", "chat", "not for you", "default", true); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			return
		}
	}
	t.Error("the denial was not logged")
}
