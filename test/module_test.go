// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/wireclient"
)

// talk makes two agents of a site exchange messages.
func talk(t *testing.T, s site, endpoint string, header http.Header) {
	t.Helper()
	one := s.connect(endpoint+"/websocket", header).subscribe("chat")
	two := s.connect(endpoint+"/websocket", header).subscribe("chat")
	one.publish("chat", "hello")
	one.wantMessage("chat", "hello")
	two.wantMessage("chat", "hello")
	two.publish("chat", "hello yourself")
	one.wantMessage("chat", "hello yourself")
	two.wantMessage("chat", "hello yourself")
}

// aliceHash is the password "secret of alice" as basic_auth stores it.
const aliceHash = "$2a$04$abZPgQ4cUuEJ6Gt.lRvpiuDRiPiwEO.i01SdIm4ltsWq6IJdvAGpW"

func basicAuth(user, password string) http.Header {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header
}

// TestWorksAmongOtherDirectives: agents exchange messages with other directives before
// pushit, and around it.
func TestWorksAmongOtherDirectives(t *testing.T) {
	cert, key := certificate(t, "localhost")
	for _, tc := range []struct {
		name, site, directives, endpoint string
		header                           http.Header
	}{
		{name: "alone", directives: "pushit", endpoint: "/push"},
		{name: "path", directives: "pushit /a/live/*", endpoint: "/a/live"},
		{name: "root", directives: "pushit /\nrespond nothing 404", endpoint: ""},
		{name: "case", directives: "pushit /Live", endpoint: "/Live"},
		{name: "unicode", directives: "pushit /café", endpoint: "/caf%C3%A9"},
		{name: "any", directives: "pushit * {\npath /live\n}", endpoint: "/live"},
		{name: "matcher", directives: "@it header X-It *\npushit @it", endpoint: "/push", header: http.Header{"X-It": {"yes"}}},
		{name: "handle_path", directives: "handle_path /live/* {\npushit {\npath /\n}\n}", endpoint: "/live"},
		{name: "handle_path and path", directives: "handle_path /live/* {\npushit\n}", endpoint: "/live/push"},
		{name: "handle", directives: "handle /live/* {\npushit /live\n}", endpoint: "/live"},
		{name: "route", directives: "route {\npushit\nrespond nothing 404\n}", endpoint: "/push"},
		{name: "rewrite", directives: "rewrite /ws /push/websocket\npushit", endpoint: "/push"},
		{name: "encode", directives: "encode\npushit", endpoint: "/push"},
		{name: "log", directives: "log\npushit", endpoint: "/push"},
		{name: "header", directives: "header X-Frame-Options DENY\nheader >Server it\npushit", endpoint: "/push"},
		{name: "request_body", directives: "request_body {\nmax_size 1KB\n}\npushit", endpoint: "/push"},
		{name: "templates and intercept", directives: "templates\nintercept {\n@x status 500\nhandle_response @x {\nrespond x\n}\n}\npushit", endpoint: "/push"},
		{name: "catch-all", directives: "pushit\nhandle {\nrespond nothing 404\n}", endpoint: "/push"},
		{
			name: "all of them", endpoint: "/push",
			directives: "encode\nlog\nheader X-Frame-Options DENY\nbasic_auth {\nalice " + aliceHash + "\n}\npushit\nfile_server",
			header:     basicAuth("alice", "secret of alice"),
		},
		{name: "TLS", site: "https://localhost", directives: "tls " + cert + " " + key + "\nencode\nlog\npushit", endpoint: "/push"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := tc.site
			if address == "" {
				address = "http://localhost"
			}
			s := serve(t, address+" {\n"+tc.directives+"\n}\n").site("localhost")
			s.tls = strings.HasPrefix(address, "https")
			header := maps.Clone(tc.header)
			if header == nil {
				header = http.Header{}
			}
			header.Set("Origin", s.origin()) // as browsers do
			talk(t, s, tc.endpoint, header)
		})
	}
}

func TestAccessLogShows101(t *testing.T) {
	s := serve(t, "http://localhost {\n\tlog\n\tpushit\n}\n").site("localhost")
	s.connect("/push/websocket", nil)
	// Caddy writes the line when the handler has returned, which may be after the session
	// works.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		for line := range strings.Lines(s.log()) {
			if strings.Contains(line, "http.log.access") && strings.Contains(line, `"status":101`) {
				return
			}
		}
	}
	t.Error("the access log has no line with status 101 while the session is open")
}

func TestBasicAuthIsAskedFirst(t *testing.T) {
	s := serve(t, "http://localhost {\n\tbasic_auth {\n\t\talice "+aliceHash+"\n\t}\n\tpushit\n}\n").site("localhost")
	for name, header := range map[string]http.Header{"no login": nil, "wrong login": basicAuth("alice", "secret of bob")} {
		if _, resp := s.upgrade("/push/websocket", header); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: status %d, want 401", name, resp.StatusCode)
		}
	}
	s.connect("/push/websocket", basicAuth("alice", "secret of alice"))
}

func TestOtherRequestsGoToTheNextHandler(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"index.html": "the page", "pushover": "not pushit", "push/notes.txt": "notes"} {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type answers map[string]string // by path
	ours := answers{"/push": "200 Welcome to SockJS!\n", "/push/": "200 Welcome to SockJS!\n"}
	for _, tc := range []struct {
		name, directives string
		want             answers
	}{
		{
			"file server", "pushit\nfile_server",
			answers{"/": "200 the page", "/pushover": "200 not pushit", "/push/notes.txt": "200 notes", "/push/none": "404 ", "/PUSH": "404 "},
		},
		{
			"single-page application", "route {\npushit\ntry_files {path} /index.html\nfile_server\n}",
			answers{"/": "200 the page", "/pushover": "200 not pushit", "/push/none": "200 the page", "/some/page": "200 the page"},
		},
		{
			"matcher", "@it header X-It *\npushit @it\nrespond next",
			answers{"/push": "200 next", "/push/": "200 next"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, "http://localhost {\nroot "+root+"\n"+tc.directives+"\n}\n").site("localhost")
			want := maps.Clone(ours)
			maps.Copy(want, tc.want)
			for path, want := range want {
				status, body := s.get(path, nil)
				if got := fmt.Sprintf("%d %s", status, body); got != want {
					t.Errorf("%s: %q, want %q", path, got, want)
				}
			}
		})
	}
}

func TestLongerPathsAreAskedFirst(t *testing.T) {
	// /push/admin/x/websocket is also a SockJS session of /push.
	s := serve(t, `http://localhost {
		pushit /push {
			name all
		}
		pushit /push/admin/x {
			name admin
		}
	}`).site("localhost")
	s.connect("/push/admin/x/websocket", nil)
	if all, admin := hubAgents("all"), hubAgents("admin"); all != 0 || admin != 1 {
		t.Errorf("agents of all = %d, of admin = %d; want 0 and 1", all, admin)
	}
}

func TestForeignOriginIsRefused(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit {\n\t\torigins https://app.example.com\n\t}\n}\n").site("localhost")
	for origin, want := range map[string]int{
		"http://localhost":        http.StatusSwitchingProtocols,
		"https://app.example.com": http.StatusSwitchingProtocols,
		"https://localhost":       http.StatusForbidden,
		"http://localhost:8080":   http.StatusForbidden,
		"https://evil.example":    http.StatusForbidden,
		"null":                    http.StatusForbidden,
	} {
		if _, resp := s.upgrade("/push/websocket", http.Header{"Origin": {origin}}); resp.StatusCode != want {
			t.Errorf("Origin %s: status %d, want %d", origin, resp.StatusCode, want)
		}
	}
}

func TestHubsAreApartUnlessNamedAlike(t *testing.T) {
	s := serve(t, `
		http://a.localhost {
			pushit {
				name shared
			}
			pushit /own
		}
		http://b.localhost {
			pushit /live {
				name shared
			}
			pushit /own {
				name b
			}
		}`)
	a, b := s.site("a.localhost"), s.site("b.localhost")

	sharedA := a.connect("/push/websocket", nil).subscribe("chat")
	sharedB := b.connect("/live/websocket", nil).subscribe("chat")
	ownA := a.connect("/own/websocket", nil).subscribe("chat")
	ownB := b.connect("/own/websocket", nil).subscribe("chat")
	for i, from := range []*agent{sharedA, ownA, ownB, sharedB} {
		from.publish("chat", float64(i))
	}
	// A message of another namespace would arrive before the last one of the agent's own.
	for name, tc := range map[string]struct {
		agent *agent
		want  []float64
	}{
		"shared on a": {sharedA, []float64{0, 3}},
		"shared on b": {sharedB, []float64{0, 3}},
		"own of a":    {ownA, []float64{1}},
		"own of b":    {ownB, []float64{2}},
	} {
		for _, want := range tc.want {
			if f := tc.agent.receive(); f["data"] != want {
				t.Errorf("%s: got %v, want %v", name, f, want)
			}
		}
	}
}

// TestCredentialsAreNeverLogged searches everything that Caddy logs for a secret, with
// the access log on and every level.
func TestCredentialsAreNeverLogged(t *testing.T) {
	const secret = "correct horse battery staple"
	s := serve(t, "http://localhost {\n\tlog\n\tpushit {\n\t\tlimits {\n\t\t\tcredentials_size 256\n\t\t}\n\t}\n}\n").site("localhost")
	for name, credentials := range map[string]any{
		"text":     secret,
		"object":   object{"token": secret, secret: true},
		"too long": strings.Repeat(secret, 20),
	} {
		a, _ := s.upgrade("/push/websocket", nil)
		a.send("/meta/connect", object{"credentials": credentials})
		if f := a.receive(); f["channel"] != "/meta/connect" {
			t.Errorf("%s: answered with %v", name, f)
		}
	}
	broken, _ := s.upgrade("/push/websocket", nil)
	broken.write(wireclient.OpText, []byte(`{"channel":"/meta/connect","uuid":"1","agentId":"a","data":{"credentials":"`+secret))
	broken.receive()
	s.stop() // the log is complete then
	if log := s.log(); strings.Contains(log, "correct horse") || !strings.Contains(log, `"status":101`) {
		t.Error("the log has the secret in it, or nothing")
	}
}

// endpoint returns the JSON of a pushit handler.
func endpoint(fields object) object {
	h := object{"handler": "pushit"}
	maps.Copy(h, fields)
	return h
}

// gate returns the JSON of a gate with one guard.
func gate(guard, fields object) object {
	g := object{"guards": []any{guard}}
	maps.Copy(g, fields)
	return g
}

// servers returns a configuration with servers of one route each.
func servers(handlers ...object) object {
	all := object{}
	for i, h := range handlers {
		all[fmt.Sprintf("srv%d", i)] = object{"routes": []any{object{"handle": []any{h}}}}
	}
	return object{"apps": object{"http": object{"servers": all}}}
}

func TestJSONIsChecked(t *testing.T) {
	s := &server{t: t, logFile: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() { _ = caddy.Stop() })
	for _, tc := range []struct {
		name   string
		config object
		want   []string // parts of the error; none if the configuration is valid
	}{
		{"name alone", servers(endpoint(object{"name": "a"})), nil},
		{"limits", servers(endpoint(object{"name": "a", "limits": object{"agents": -1, "message_size": 1 << 20, "queue_bytes": 2 << 20}})), nil},
		{"nothing", servers(endpoint(nil)), []string{`write "name": "default"`}},
		{"unknown field", servers(endpoint(object{"name": "a", "channels": 1})), []string{"channels"}},
		{"name", servers(endpoint(object{"name": "a b"})), []string{`the name "a b"`}},
		{"path", servers(endpoint(object{"name": "a", "path": "push"})), []string{"write /push"}},
		{"origins", servers(endpoint(object{"name": "a", "origins": []any{"app.example.com"}})), []string{"write https://app.example.com"}},
		{"durations", servers(endpoint(object{"name": "a", "heartbeat": "1ms", "handshake": "1h"})), []string{"heartbeat must be", "handshake must be"}},
		{"limit", servers(endpoint(object{"name": "a", "limits": object{"name_length": 256}})), []string{"limits: name_length must be between 1 and 255, not 256"}},
		{"unlimited", servers(endpoint(object{"name": "a", "limits": object{"queue_bytes": -1}})), []string{"limits: queue_bytes must be between"}},
		{"queue", servers(endpoint(object{"name": "a", "limits": object{"queue_bytes": 100000}})), []string{"at least twice message_size"}},
		{"gates", servers(endpoint(object{
			"name": "a", "default": "deny", "namespace": "{http.request.host.labels.2}", "timeouts": object{"connect": "5s"},
			"gates": object{"connect": gate(object{"guard": "user"}, object{"timeout": "10s", "recheck": "5m"})},
			"channels": []any{object{"match": []any{"news", "stories/*"}, "patterns": true, "gates": object{
				"subscribe": gate(object{"guard": "allow"}, nil),
				"publish":   gate(object{"guard": "cel", "expr": "true"}, object{"to": []any{"a", "b"}, "transform": "message.data"}),
			}}},
		})), nil},
		{
			"gate name", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"subscribes": gate(object{"guard": "allow"}, nil)}})),
			[]string{"gates.subscribes: there is no gate", `did you mean "subscribe"?`},
		},
		{"gate null", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"subscribe": nil}})), []string{"gates.subscribe is null"}},
		{"gate field", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"subscribe": object{"guard": "allow"}}})), []string{`unknown field "guard"`}},
		{"guard name", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"subscribe": gate(object{"guard": "alow"}, nil)}})), []string{"gates.subscribe: ", "http.pushit.guards.alow"}},
		{"guard without a name", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"subscribe": gate(object{}, nil)}})), []string{"gates.subscribe: "}},
		{
			"guard's settings", servers(endpoint(object{"name": "a", "default": "deny", "channels": []any{object{"match": []any{"x"}, "gates": object{"publish": gate(object{"guard": "bearer"}, nil)}}}})),
			[]string{"channels[0].gates.publish: ", "bearer"},
		},
		{"default", servers(endpoint(object{"name": "a", "default": "open"})), []string{`default must be allow or deny`}},
		{"missing gates", servers(endpoint(object{"name": "a", "gates": object{"subscribe": gate(object{"guard": "allow"}, nil)}})), []string{"not connect and publish"}},
		{"namespace", servers(endpoint(object{"name": "a", "default": "deny", "namespace": "acme"})), []string{"is not a placeholder"}},
		{"namespace that is short for another", servers(endpoint(object{"name": "a", "namespace": "{labels.2}"})), []string{"in JSON write {http.request.host.labels.2}"}},
		{"namespace that nothing sets", servers(endpoint(object{"name": "a", "namespace": "{tenant}"})), []string{"pushit /push (the server", "nothing before this pushit sets"}},
		{
			"timeouts", servers(endpoint(object{"name": "a", "default": "deny", "timeouts": object{"conect": "5s", "publish": "1h", "deliver": "1s"}})),
			[]string{`did you mean "connect"?`, "timeouts.publish must be between 10ms and 5m, not 1h", "deliver has no timeout"},
		},
		{
			"gate's durations", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"connect": gate(object{"guard": "user"}, object{"timeout": "1ms", "recheck": "30d"})}})),
			[]string{"gates.connect: timeout must be", "recheck must be"},
		},
		{
			"pattern", servers(endpoint(object{"name": "a", "default": "deny", "channels": []any{object{"match": []any{"n*"}, "gates": object{"publish": gate(object{"guard": "allow"}, nil)}}}})),
			[]string{`channel pattern "n*"`, "channels[0]"},
		},
		{
			"no pattern", servers(endpoint(object{"name": "a", "default": "deny", "channels": []any{object{"gates": object{"publish": gate(object{"guard": "allow"}, nil)}}}})),
			[]string{"channels[0]", "at least one pattern"},
		},
		{"shadowed", servers(endpoint(object{"name": "a", "default": "deny", "channels": []any{
			object{"match": []any{"a/*"}, "gates": object{"publish": gate(object{"guard": "allow"}, nil)}},
			object{"match": []any{"a/b"}, "gates": object{"publish": gate(object{"guard": "user"}, nil)}},
		}})), []string{"channels[0]", "channels[1]", "never reached"}},
		{
			"key file", servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"connect": gate(object{"guard": "jwt", "key_files": []any{"/no/such/file.pem"}}, nil)}})),
			[]string{"gates.connect: ", "/no/such/file.pem"},
		},
		{
			"different gates on two servers",
			servers(endpoint(object{"name": "a", "default": "deny"}), endpoint(object{"name": "a", "default": "allow", "gates": object{"connect": gate(object{"guard": "allow"}, nil)}})),
			[]string{"differ in default, gates"},
		},
		{
			"equal gates on two servers",
			servers(endpoint(object{"name": "a", "default": "deny", "gates": object{"connect": gate(object{"guard": "allow"}, nil)}}), endpoint(object{"name": "a", "default": "deny", "gates": object{"connect": gate(object{"guard": "allow"}, nil)}})),
			nil,
		},
		{"equal on two servers", servers(endpoint(object{"name": "a"}), endpoint(object{"name": "a", "path": "/push", "heartbeat": "25s"})), nil},
		{"two paths", servers(endpoint(object{"name": "a"}), endpoint(object{"name": "a", "path": "/live", "heartbeat": "20s"})), nil},
		{"two names", servers(endpoint(object{"name": "a"}), endpoint(object{"name": "b", "heartbeat": "20s"})), nil},
		{
			"different on two servers", servers(endpoint(object{"name": "a"}), endpoint(object{"name": "a", "heartbeat": "20s", "origins": []any{"null"}})),
			[]string{"in the server srv0 and in the server srv1", `the name "a" and the path /push`, "differ in heartbeat, origins"},
		},
	} {
		err := s.loadJSON(tc.config)
		if (err == nil) != (tc.want == nil) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q, want %q in it", tc.name, err, want)
			}
		}
	}
	s.stop()
	for _, name := range []string{"a", "b"} {
		if n := hubpool.References(name); n != 0 {
			t.Errorf("%d references to hub %s are left", n, name)
		}
	}
}

// Endpoints with the same name and path must have the same settings. This tests each
// setting.
func TestEverySettingHasToAgree(t *testing.T) {
	s := &server{t: t, logFile: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() { _ = caddy.Stop() })
	others := map[string]any{
		"origins": []any{"null"}, "transports": []any{"xhr"}, "session_cookies": []any{"sid"}, "compression": true,
		"heartbeat": "20s", "handshake": "20s", "drain": "2s", "grace": "20s",
		"limits": object{"agents": 5}, "namespace": "{http.request.host}", "history": object{"count": 5, "ttl": "1m"}, "presence": object{"linger": "20s"},
		"broker":  object{"engine": "nats"},
		"default": "deny", "gates": object{"publish": gate(object{"guard": "allow"}, nil)}, "timeouts": object{"publish": "2s"},
		"channels": []any{object{"match": []any{"a"}, "gates": object{"publish": gate(object{"guard": "allow"}, nil)}}},
	}
	for field := range reflect.TypeFor[pushit.Handler]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "name" || name == "path" { // they identify the endpoint
			continue
		}
		other, known := others[name]
		if !known {
			t.Errorf("%s: say what another endpoint may have", name)
			continue
		}
		err := s.loadJSON(servers(endpoint(object{"name": "a", "default": "allow"}), endpoint(object{"name": "a", "default": "allow", name: other})))
		if err == nil || !strings.Contains(err.Error(), "differ in "+name+":") {
			t.Errorf("two endpoints with another %s: %v", name, err)
		}
	}
}

// TestHandlerJSON checks that each field of the JSON has the same name as in the
// Caddyfile.
func TestHandlerJSON(t *testing.T) {
	var limits pushit.Limits
	text := `{"message_size":1,"credentials_size":2,"name_length":3,"channels_per_agent":4,"channels":5,"agents":6,"agents_per_ip":7,` +
		`"unconnected_per_ip":8,"queue_messages":9,"queue_bytes":10,"history_bytes":11,"frames_per_second":12,"publishes_per_second":13,"api_publishes_per_second":14}`
	if err := json.Unmarshal([]byte(text), &limits); err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(limits); err != nil || string(got) != text {
		t.Errorf("limits = %s, %v; want %s", got, err, text)
	}
}
