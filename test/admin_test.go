// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/needs"
)

// administered serves a site with an admin endpoint. Its connect gate takes an agent's
// credentials for the name of the user; the users of team have the plan "pro", all others
// "free".
func administered(t *testing.T, directives string, team ...string) site {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Credentials string
		}
		_ = json.NewDecoder(r.Body).Decode(&q) // a question without credentials has none
		plan := "free"
		for _, user := range team {
			if user == q.Credentials {
				plan = "pro"
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object{"user": q.Credentials, "attributes": object{"plan": plan, "secret": "s3cret"}})
	}))
	t.Cleanup(backend.Close)
	s := &server{t: t, admin: freeAddress(t)}
	s.start("http://localhost {\n\tpushit {\n" + patientGates + "\t\tdefault allow\n\t\tconnect ask " + strings.TrimPrefix(backend.URL, "http://") + " {\n\t\t\turi /\n\t\t\tsend credentials\n\t\t}\n\t\t" + directives + "\n\t}\n}\n")
	return s.site("localhost")
}

// ask asks the admin API, and returns the status and the answer.
func (s *server) askAdmin(method, path string, body any) (status int, answer object) {
	s.t.Helper()
	var sent io.Reader
	if body != nil {
		text, ok := body.(string)
		if !ok {
			encoded, err := json.Marshal(body)
			if err != nil {
				s.t.Fatal(err)
			}
			text = string(encoded)
		}
		sent = strings.NewReader(text)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.admin+"/pushit/"+path, sent)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(text, &answer) != nil {
		s.t.Fatalf("%s %s is answered with %d, %q: %v", method, path, resp.StatusCode, text, err)
	}
	if strings.Contains(string(text), "s3cret") {
		s.t.Errorf("%s shows a secret: %s", path, text)
	}
	return resp.StatusCode, answer
}

// command runs a command of pushit in this process, for this server.
func (s *server) command(stdin string, args ...string) (out string, err error) {
	s.t.Helper()
	cmd := &cobra.Command{Use: "pushit", SilenceErrors: true}
	caddycmd.Commands()["pushit"].CobraFunc(cmd)
	var printed bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&printed)
	cmd.SetErr(&printed)
	cmd.SetArgs(append(args, "--address", s.admin))
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute) // tail goes on until then
	defer cancel()
	err = cmd.ExecuteContext(ctx)
	return printed.String(), err
}

// crowd connects agents: those of each user, and others up to 1,000.
func (s site) crowd(users map[string]int) map[string][]*agent {
	s.t.Helper()
	all := make(map[string][]*agent)
	n := 0
	connect := func(user string) {
		a, answer := s.open("/push/websocket", nil, user)
		if answer["successful"] != true {
			s.t.Fatalf("%s: %v", user, answer)
		}
		all[user] = append(all[user], a.subscribe("news"))
		n++
	}
	for user, count := range users {
		for range count {
			connect(user)
		}
	}
	for n < 1000 {
		connect(fmt.Sprint("user", n%50))
	}
	return all
}

// TestAdminExamples runs each command of docs/operations.md that sees or steers, for a
// server with 1,000 agents.
func TestAdminExamples(t *testing.T) {
	curl := needs.Program(t, "curl")
	s := administered(t, "history 10 1h\n\t\theartbeat 10m\n\t\tlimits {\n\t\t\tagents_per_ip 5000\n\t\t}", "alice")
	crowd := s.crowd(map[string]int{"alice": 3, "bob": 2, "eve": 3, "mallory": 2})
	_, section, _ := strings.Cut(doctable.Read(t, "docs/operations.md"), "\n## Seeing and steering\n")
	section, _, _ = strings.Cut(section, "\n## ")
	ran := 0
	for _, m := range markdownFence.FindAllStringSubmatch(section, -1) {
		for line := range strings.Lines(m[2]) {
			line = strings.TrimSpace(line)
			ran++
			stdin := ""
			if before, after, ok := strings.Cut(line, " | "); ok {
				stdin, line = words(before)[1], after
			}
			args := words(line)
			switch {
			case args[0] == "caddy" && args[1] == "pushit":
				if out, err := s.command(stdin, args[2:]...); err != nil || out == "" {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
			case args[0] == "curl":
				line = strings.ReplaceAll(line, "http://localhost:2019", "http://"+s.admin)
				out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--fail-with-body"}, words(line)[1:]...)...).CombinedOutput()
				if err != nil || !json.Valid(out) {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
			default:
				t.Errorf("no test runs %s", line)
			}
		}
	}
	if ran < 15 {
		t.Errorf("only %d examples were found", ran)
	}
	for _, a := range crowd["eve"] {
		for {
			if f := a.receive(); f["channel"] == "/meta/close" {
				if f["code"] != float64(hub.CloseCut) || f["error"] != "your account was closed" || f["retry"] != false {
					t.Errorf("eve got %v", f)
				}
				break
			}
		}
	}
	status, answer := s.askAdmin("GET", "agents?limit=1000", nil)
	all, _ := answer["agents"].([]any)
	left := slices.DeleteFunc(all, func(a any) bool { return a.(object)["connected"] == false }) // sessions whose client has not read the close yet
	if status != http.StatusOK || len(all) == 0 || len(left) != 3 {
		t.Errorf("%d agents are connected, want the 3 that pay", len(left))
	}
}

// TestAdminTables compares tables and exit statuses of the commands.
func TestAdminTables(t *testing.T) {
	s := administered(t, "")
	a, _ := s.open("/push/websocket", nil, "alice")
	a.subscribe("news").subscribe("stories/*")
	out, err := s.command("", "agents")
	if lines := strings.Split(out, "\n"); err != nil || len(lines) != 3 || !strings.HasPrefix(lines[0], "AGENT  ") || !strings.HasSuffix(lines[1], "news stories/*") || !strings.Contains(lines[1], "  alice ") {
		t.Errorf("agents: %v\n%s", err, out)
	}
	out, err = s.command("", "channels")
	if lines := strings.Split(out, "\n"); err != nil || len(lines) != 4 || strings.Join(strings.Fields(lines[1]), " ") != "news - 1 - -" || strings.Join(strings.Fields(lines[2]), " ") != "stories/* - 1 - -" {
		t.Errorf("channels: %v\n%s", err, out)
	}
	out, err = s.command("", "hubs")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), "default - 1 2 1 1 0 0") {
		t.Errorf("hubs: %v\n%s", err, out)
	}
	out, err = s.command("7\n", "publish", "news", "--uuid", "u7")
	if err != nil || out != "Published u7 for 1 subscriptions of this machine.\n" {
		t.Errorf("publish: %v\n%s", err, out)
	}
	a.wantMessage("news", 7.0)
	for _, wrong := range []struct {
		args []string
		want string
	}{
		{[]string{"disconnect"}, "it names no agents"},
		{[]string{"disconnect", "--all", "--retry", "soon"}, "retry must be a time"},
		{[]string{"agents", "--attribute", "plan"}, "name=value"},
		{[]string{"agents", "--hub", "other"}, `there is no hub "other": there are default`},
		{[]string{"agents", "--color"}, "unknown flag"},
		{[]string{"publish", "news", "hello"}, "must be JSON"},
		{[]string{"publish", "no//name", "1"}, "name"},
		{[]string{"publish"}, "accepts between 1 and 2 arg"},
	} {
		out, err := s.command("", wrong.args...)
		if err == nil || !strings.Contains(out+err.Error(), wrong.want) {
			t.Errorf("%q: %v\n%s", wrong.args, err, out)
		}
	}
	away := &server{t: t, admin: nowhere}
	if out, err := away.command("", "hubs"); err == nil || !strings.Contains(err.Error(), "asking the server at "+nowhere) {
		t.Errorf("a server that there is not: %v\n%s", err, out)
	}
	out, err = s.command("", "unsubscribe", "news", "--user", "alice", "--reason", "enough")
	if err != nil || out != "Subscriptions ended: 1\n" {
		t.Errorf("unsubscribe: %v\n%s", err, out)
	}
	if f := a.receive(); f["channel"] != "/meta/unsubscribe" || f["error"] != "enough" {
		t.Errorf("alice got %v", f)
	}
}

// TestAdminAPIRefuses: each mistake has a status and a sentence.
func TestAdminAPIRefuses(t *testing.T) {
	s := administered(t, "history 10 1h")
	for _, wrong := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "nothing", "", 404, "there is no /pushit/nothing: GET agents"},
		{"GET", "", "", 404, "there is no /pushit/"},
		{"POST", "agents", "{}", 405, "takes GET, not POST"},
		{"GET", "disconnect", "", 405, "takes POST, not GET"},
		{"DELETE", "agents", "", 405, "takes GET, not DELETE"},
		{"GET", "agents?usr=alice", "", 400, `there is no parameter "usr"`},
		{"GET", "agents?limit=0", "", 400, "limit must be"},
		{"GET", "agents?limit=1001", "", 400, "limit must be"},
		{"GET", "agents?address=home", "", 400, "address \"home\" is neither"},
		{"GET", "agents?hub=x", "", 404, `there is no hub "x": there are default`},
		{"GET", "agents?%zz", "", 400, "the query cannot be read"},
		{"GET", "history", "", 400, "empty"},
		{"GET", "history?channel=news&before=x", "", 400, "no such position"},
		{"GET", "members?channel=news&after=x", "", 400, "after must be"},
		{"GET", "tail", "", 400, "name at least one channel"},
		{"GET", "tail?channel=a//b", "", 400, "empty"},
		{"GET", "tail?channel=a&last=x", "", 400, "last must be"},
		{"POST", "publish", "", 400, "the body must be a JSON object"},
		{"POST", "publish", "[1]", 400, "the body must be a JSON object"},
		{"POST", "publish", `{"chanel":"a"}`, 400, `unknown field "chanel"`},
		{"POST", "publish", `{"channel":"a"}`, 400, "data is missing"},
		{"POST", "publish", `{"channel":"a","data":1} {}`, 400, "one JSON object"},
		{"POST", "publish", `{"channel":"a","channels":["b"],"data":1}`, 400, "not both"},
		{"POST", "publish", `{"channel":"a","data":"` + strings.Repeat("x", 100_000) + `"}`, 413, "bytes"},
		{"POST", "publish", `{"channel":"a","data":"` + strings.Repeat("x", 1_100_000) + `"}`, 413, "too large"},
		{"POST", "disconnect", `{}`, 400, "it names no agents"},
		{"POST", "disconnect", `{"user":"a","all":true}`, 400, "all selects every agent"},
		{"POST", "disconnect", `{"user":"a","retry":"-1s"}`, 400, "retry must be"},
		{"POST", "unsubscribe", `{"user":"a"}`, 400, "channel is missing"},
		{"POST", "unsubscribe", `{"channel":"a","retry":"1s"}`, 400, "retry is for disconnect"},
		{"POST", "reauthorize", `{"user":"a","reason":"x"}`, 400, "takes no reason"},
	} {
		var body any
		if wrong.body != "" {
			body = wrong.body
		}
		status, answer := s.askAdmin(wrong.method, wrong.path, body)
		if message, _ := answer["error"].(string); status != wrong.status || !strings.Contains(message, wrong.want) {
			t.Errorf("%s %s %.60s: %d %v, want %d %q", wrong.method, wrong.path, wrong.body, status, answer, wrong.status, wrong.want)
		}
	}
}

// TestAdminTailIsSafe: a message is one line, and no command for the terminal.
func TestAdminTailIsSafe(t *testing.T) {
	s := administered(t, "history 10 1h")
	a, _ := s.open("/push/websocket", nil, "alice")
	a.publish("news", object{"text": "\u009b31m \u202eé\U0001F44B \x7f\U000E0001"})
	if _, err := s.command("", "publish", "news", "[1,\n\t2]"); err != nil {
		t.Fatal(err)
	}
	out, err := s.command("", "tail", "news", "--last", "2", "--count", "2")
	want := []string{`{"text":"\u009b31m \u202eé` + "\U0001F44B" + ` \u007f\udb40\udc01"}`, "[1,2]"}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) != 2 || !strings.HasSuffix(lines[0], "  news  "+want[0]) || !strings.HasSuffix(lines[1], "  news  "+want[1]) {
		t.Errorf("tail: %v\n%q", err, out)
	}
}

// TestAdminTail: tail shows kept messages, then live ones, and ends with its reader.
func TestAdminTail(t *testing.T) {
	s := administered(t, "history 10 1h")
	publish := func(n int) {
		if status, answer := s.askAdmin("POST", "publish", object{"channel": "news", "data": n}); status != http.StatusOK {
			t.Fatal(answer)
		}
	}
	publish(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/pushit/tail?channel=news&channel=other/*&last=5", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	publish(2)
	lines := json.NewDecoder(resp.Body)
	for _, want := range []float64{1, 2} {
		var m object
		if err := lines.Decode(&m); err != nil || m["channel"] != "news" || m["data"] != want || m["position"] == nil {
			t.Errorf("got %v, %v, want %v", m, err, want)
		}
	}
	cancel()
	for end := time.Now().Add(fallbackPatience); hubAgents("default") > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the reader is gone, and its agent is not")
		}
	}
}

// TestAdminDisconnectsWhileOthersPoll: ten operators list agents again and again while a
// user's sessions end and messages are delivered. Operators delay nobody.
func TestAdminDisconnectsWhileOthersPoll(t *testing.T) {
	s := administered(t, "")
	var sessions []*agent
	for range 5 {
		a, _ := s.open("/push/websocket", nil, "eve")
		sessions = append(sessions, a.subscribe("news"))
	}
	other, _ := s.open("/push/websocket", nil, "bob")
	other.subscribe("news")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, path := range []string{"agents", "channels", "hubs", "history?channel=news"} {
					r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/pushit/"+path, nil) // a constant address
					if resp, err := http.DefaultClient.Do(r); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				}
			}
		})
	}
	for n := range 50 {
		other.publish("news", float64(n))
		other.wantMessage("news", float64(n))
	}
	status, answer := s.askAdmin("POST", "disconnect", object{"user": "eve", "retry": "30s", "reason": "bye"})
	if status != http.StatusOK || answer["agents"] != 5.0 {
		t.Errorf("disconnect: %d %v", status, answer)
	}
	other.publish("news", "after")
	other.wantMessage("news", "after")
	for _, a := range sessions {
		for f := a.receive(); ; f = a.receive() {
			if f["data"] == "after" {
				t.Error("a session got a message that was published after its end")
			}
			if f["channel"] == "/meta/close" {
				if retry, _ := f["retry"].(float64); f["error"] != "bye" || retry < 30_000 {
					t.Errorf("got %v", f)
				}
				break
			}
		}
	}
	cancel()
	wg.Wait()
}
