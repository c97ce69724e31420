// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/freeaddr"
	"github.com/push-it/pushit/internal/needs"
)

const askExamples = "../examples/ask"

// A dialogue is a question to the backends in examples/ask, and what they answer.
type dialogue struct {
	gate        hub.GateName
	channel     string
	credentials string
	user, role  string
	data        string

	kind    Kind
	learned Learned
	reason  string
}

var dialogues = []dialogue{
	{gate: "connect", credentials: `{"token":"ann-secret"}`, kind: Pass, learned: Learned{User: "ann", Claims: map[string]any{"role": "editor"}}},
	{gate: "connect", credentials: `{"token":"bob-secret"}`, kind: Pass, learned: Learned{User: "bob", Claims: map[string]any{"role": "reader"}}},
	{gate: "connect", credentials: `{"token":"wrong"}`, kind: Deny, reason: "wrong token"},
	{gate: "connect", credentials: `{"token":"constructor"}`, kind: Deny, reason: "wrong token"},
	{gate: "connect", credentials: `{}`, kind: Deny, reason: "wrong token"},
	{gate: "connect", kind: Deny, reason: "wrong token"},
	{gate: "subscribe", channel: "news", user: "bob", kind: Pass},
	{gate: "subscribe", channel: "users/bob", user: "bob", kind: Pass},
	{gate: "subscribe", channel: "users/ann", user: "bob", kind: Deny, reason: "this channel is not yours"},
	{gate: "subscribe", channel: "users/*", user: "bob", kind: Deny, reason: "this channel is not yours"},
	{gate: "subscribe", channel: "users/null", kind: Deny, reason: "this channel is not yours"},
	{gate: "subscribe", channel: "users/None", kind: Deny, reason: "this channel is not yours"},
	{gate: "publish", channel: "news", user: "ann", role: "editor", data: `{"text":" hello ü ","from":"bob"}`, kind: Pass, learned: Learned{Data: []byte(`{"from":"ann","text":"hello ü"}`)}},
	{gate: "publish", channel: "news", user: "ann", role: "editor", data: `{"text":"  "}`, kind: Pass, learned: Learned{Drop: true}},
	{gate: "publish", channel: "news", user: "bob", role: "reader", data: `{"text":"hello"}`, kind: Deny, reason: "only editors write here"},
	{gate: "publish", channel: "users/bob", user: "ann", role: "editor", data: `{"text":"hello"}`, kind: Deny, reason: "only editors write here"},
	{gate: "unsubscribe", channel: "news", user: "ann", kind: Deny, reason: "not a question"},
}

// runDialogues asks a backend the questions, through the guard whose block ends with
// more.
func runDialogues(t *testing.T, upstream, uri, more string) {
	t.Helper()
	g := remoteGuardOf(t, "ask %s {\nuri %s\nsend claims credentials\n%s\n}", upstream, uri, more)
	ask := newAsker(t, nil)
	for _, d := range dialogues {
		what := fmt.Sprintf("%s %s by %q with %s%s", d.gate, d.channel, d.user, d.credentials, d.data)
		q := ask.question(d.gate, d.channel)
		q.Pattern = hub.IsPattern(d.channel)
		q.Credentials = []byte(d.credentials)
		q.Learned.User = d.user
		if d.role != "" {
			q.Learned.Claims = map[string]any{"role": d.role}
		}
		if d.gate == hub.GatePublish {
			q.Message = hub.NewMessage(d.channel, "m1", []byte(d.data))
		}
		a := g.Decide(t.Context(), q)
		wantKind(t, what, a, d.kind)
		if a.Reason != d.reason {
			t.Errorf("%s: reason %q, want %q", what, a.Reason, d.reason)
		}
		if want := d.learned; string(a.Learned.Data) != string(want.Data) && !equalJSON(a.Learned.Data, want.Data) {
			t.Errorf("%s: data %s, want %s", what, a.Learned.Data, want.Data)
		}
		a.Learned.Data = d.learned.Data
		if !reflect.DeepEqual(a.Learned, d.learned) {
			t.Errorf("%s: learned %+v, want %+v", what, a.Learned, d.learned)
		}
	}
}

func equalJSON(a, b []byte) bool {
	var va, vb any
	return json.Unmarshal(a, &va) == nil && json.Unmarshal(b, &vb) == nil && reflect.DeepEqual(va, vb)
}

func TestAskExamples(t *testing.T) {
	for _, example := range []struct {
		name, needs string
		command     func(t *testing.T, addr string) []string
	}{
		{"PHP", "php", func(_ *testing.T, addr string) []string {
			return []string{"php", "-S", addr, askExamples + "/php/pushit.php"}
		}},
		{"Node", "node", func(*testing.T, string) []string { return []string{"node", askExamples + "/node/pushit.mjs"} }},
		{"Python", "python3", func(*testing.T, string) []string { return []string{"python3", askExamples + "/python/pushit.py"} }},
		{"Go", "go", func(t *testing.T, _ string) []string {
			binary := filepath.Join(t.TempDir(), "backend")
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, askExamples+"/go/main.go").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return []string{binary}
		}},
	} {
		t.Run(example.name, func(t *testing.T) {
			needs.Program(t, example.needs)
			addr, err := freeaddr.On("127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(addr)
			startBackend(t, "tcp", addr, []string{"PORT=" + port}, example.command(t, addr)...)
			runDialogues(t, addr, "/", "")
		})
	}
}

// startBackend runs a program until the test ends, and returns when it listens.
func startBackend(t *testing.T, network, addr string, env []string, command ...string) {
	t.Helper()
	var output bytes.Buffer
	c := exec.Command(command[0], command[1:]...)
	c.Env = append(os.Environ(), env...)
	c.Stdout, c.Stderr = &output, &output
	c.WaitDelay = 10 * time.Second // for the processes that it has started
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Wait() //nolint:errcheck // it is told to end
	}()
	t.Cleanup(func() {
		if c.Process.Signal(syscall.SIGTERM) != nil { // php-fpm also ends its workers then
			c.Process.Kill() //nolint:errcheck // it may have ended
		}
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", command[0], output.String())
		}
	})
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for {
		if conn, err := net.Dial(network, addr); err == nil {
			conn.Close() //nolint:errcheck // nothing came over it
			return
		}
		select {
		case <-again.C:
		case <-ended:
			t.Fatalf("%s has ended:\n%s", command[0], output.String())
		case <-late:
			t.Fatalf("%s does not listen on %s", command[0], addr)
		}
	}
}

// Over FastCGI on a unix socket: PHP without a web server.
func TestPHP(t *testing.T) {
	fpm := needs.Program(t, "php-fpm", "php-fpm*")
	dir, err := os.MkdirTemp("", "fpm") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // it is in the folder for what is temporary
	root, err := filepath.Abs(askExamples + "/php")
	if err != nil {
		t.Fatal(err)
	}
	const auth = `<?php
$user = $_COOKIE['user'] ?? '';
if ($user === 'slow') sleep(30);
if ($user === '') { http_response_code(401); exit('who are you?'); }
if (($_GET['channel'] ?? '') === "users/$user") { header("Remote-User: $user"); header('X-Asked: ' . $_SERVER['SCRIPT_NAME']); http_response_code(204); exit; }
http_response_code(403);
`
	if err := os.WriteFile(filepath.Join(dir, "auth.php"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, config := filepath.Join(dir, "s"), filepath.Join(dir, "c")
	text := fmt.Sprintf("[global]\nerror_log = %s/log\ndaemonize = no\n[www]\nlisten = %s\npm = static\npm.max_children = 4\ncatch_workers_output = yes\n", dir, socket)
	command := []string{fpm, "-F", "-y", config}
	if os.Geteuid() == 0 {
		text += "user = root\ngroup = root\n"
		command = append(command, "-R")
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startBackend(t, "unix", socket, nil, command...)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			t.Logf("php-fpm's log:\n%s", log)
		}
	})

	t.Run("ask", func(t *testing.T) {
		runDialogues(t, "unix/"+socket, "/pushit.php", "transport fastcgi {\nroot "+root+"\n}")
	})
	t.Run("forward_auth", func(t *testing.T) {
		g := remoteGuardOf(t, "forward_auth unix/%s {\nuri /auth.php?channel={pushit.channel}\nuser_header Remote-User\ncopy_headers X-Asked\ntransport fastcgi {\nroot %s\n}\n}", socket, dir)
		nobody := newAsker(t, func(o *hub.Opening) { o.Header = snapshotOf("Remote-User", "bob") }).learning(g)
		bob := newAsker(t, func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "user=bob") }).learning(g)
		wantKind(t, "nobody", nobody.ask(g, "users/bob"), Deny)
		wantKind(t, "bob, at ann's", bob.ask(g, "users/ann"), Deny)
		wantKind(t, "bob, at his with more", bob.ask(g, "users/bob&channel=users/ann"), Deny)
		a := bob.ask(g, "users/bob")
		wantKind(t, "bob, at his", a, Pass)
		want := []hub.HeaderField{{Name: "Remote-User", Value: "bob"}, {Name: "X-Asked", Value: "/auth.php"}}
		if a.Learned.User != "bob" || !slices.Equal(a.Learned.Header, want) {
			t.Errorf("learned %+v", a.Learned)
		}
		// PHP-FPM has no such script.
		gone := remoteGuardOf(t, "forward_auth unix/%s {\nuri /gone.php\ntransport fastcgi {\nroot %s\n}\n}", socket, dir)
		wantKind(t, "no such script", bob.ask(gone, "users/bob"), Deny)
	})
	t.Run("php_fastcgi in a route", func(t *testing.T) {
		g := remoteGuardOf(t, "route {\nroot %s\nrewrite /auth.php?channel={pushit.channel}\nphp_fastcgi unix/%s {\n@yes status 2xx\nhandle_response @yes {\nrequest_header X-Asked {rp.header.X-Asked}\n}\n}\n}", dir, socket)
		bob := newAsker(t, func(o *hub.Opening) { o.Header = snapshotOf("Cookie", "user=bob", "X-Asked", "me") }).learning(g)
		a := bob.ask(g, "users/bob")
		wantKind(t, "bob, at his", a, Pass)
		if len(a.Learned.Header) != 1 || a.Learned.Header[0].Value != "/auth.php" {
			t.Errorf("learned %+v", a.Learned)
		}
		wantKind(t, "bob, at ann's", bob.ask(g, "users/ann"), Deny)
	})
}

// The schemas say what the guard does.
func TestAskSchemas(t *testing.T) {
	type schema struct {
		Properties           map[string]schema `json:"properties"`
		AdditionalProperties *bool             `json:"additionalProperties"`
		MaxItems, MaxLength  int
		Examples             []json.RawMessage
	}
	read := func(name string) (s schema) {
		text, err := os.ReadFile("schema/ask." + name + ".schema.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	members := func(v any) (names []string) {
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	keys := func(s schema) (names []string) {
		for name := range s.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	q := read("question")
	for what, both := range map[string][2][]string{
		"question": {keys(q), members(question{})},
		"agent":    {keys(q.Properties["agent"]), members(questionAgent{})},
		"message":  {keys(q.Properties["message"]), members(questionData{})},
	} {
		if !slices.Equal(both[0], both[1]) {
			t.Errorf("%s: the schema has %v, the guard %v", what, both[0], both[1])
		}
	}
	for _, example := range q.Examples {
		d := json.NewDecoder(bytes.NewReader(example))
		d.DisallowUnknownFields()
		if err := d.Decode(new(question)); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
	a := read("answer")
	if a.AdditionalProperties == nil || *a.AdditionalProperties {
		t.Error("the schema of answers takes more than the guard")
	}
	for name := range a.Properties {
		_, connect := readAnswer(hub.GateConnect, []byte(`{"`+name+`":null}`), 100, time.Now())
		_, publish := readAnswer(hub.GatePublish, []byte(`{"`+name+`":null}`), 100, time.Now())
		if connect != nil && publish != nil {
			t.Errorf("the guard does not know %s", name)
		}
	}
	for name, most := range map[string]int{"grant": maxGrants, "subscribe": maxSubscribe, "channels": maxChannels} {
		if a.Properties[name].MaxItems != most {
			t.Errorf("the schema allows %d in %s, the guard %d", a.Properties[name].MaxItems, name, most)
		}
	}
	if a.Properties["user"].MaxLength != maxUser {
		t.Errorf("the schema allows users of %d characters, the guard %d bytes", a.Properties["user"].MaxLength, maxUser)
	}
	for _, example := range a.Examples {
		_, connect := readAnswer(hub.GateConnect, example, 1000, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
		_, publish := readAnswer(hub.GatePublish, example, 1000, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
		if connect != nil && publish != nil {
			t.Errorf("%s: %v, %v", example, connect, publish)
		}
	}
}
