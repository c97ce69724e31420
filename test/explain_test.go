// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/hubpool"
)

// explain runs pushit explain with these arguments. It returns the output and the exit
// status.
func explain(args ...string) (out string, status int, err error) {
	var text strings.Builder
	cmd := new(cobra.Command)
	caddycmd.Commands()["pushit"].CobraFunc(cmd)
	cmd.SetArgs(append([]string{"explain"}, args...))
	cmd.SetOut(&text)
	cmd.SetErr(io.Discard)
	switch err = cmd.Execute(); {
	case err == nil:
		return text.String(), 0, nil
	case err.Error() == "refused":
		return text.String(), 1, nil
	case strings.HasSuffix(fmt.Sprintf("%T", err), ".exitError"): // Caddy's own type, with the exit status
		return text.String(), 2, err
	default:
		return text.String(), -1, err
	}
}

// explainFile writes a configuration for pushit explain.
func explainFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const explained = `http://a.localhost {
	pushit {
		namespace {labels.1}
		connect {
			deny @robots "no robots"
			route {
				basic_auth {
					alice ` + aliceHash + `
				}
			}
			recheck 5m
		}
		subscribe any {
			granted
			cel ` + "`channel == \"public\"`" + ` "not for you"
		}
		publish user
		channel users/* stories/* {
			subscribe cel ` + "`parts[1] == agent.user`" + `
			publish {
				user
				to archive
				transform ` + "`{\"from\": agent.user, \"text\": message.data}`" + `
			}
			deliver {
				cel ` + "`message.user != \"eve\"`" + `
				transform ` + "`[message.data, agent.claims.?role.orValue(\"reader\")]`" + `
			}
			patterns
		}
		@robots header User-Agent *bot*
	}
}

http://b.localhost {
	pushit {
		name other
		default deny
		subscribe allow
		debug user alice
	}
}
`

func TestExplain(t *testing.T) {
	file := explainFile(t, "Caddyfile", explained)
	auth := "Authorization: " + basicAuth("alice", "secret of alice").Get("Authorization")
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   []string // in the output, in this order
	}{
		{
			"own channel",
			[]string{"--gate", "subscribe", "--channel", "users/bob", "--user", "bob"},
			0,
			[]string{"pushit at " + file + ":2, name default, path /push", "namespace  a\n", "gate       subscribe users/bob", file + ":19, in channel users/* stories/* (" + file + ":18)", "cel (" + file + ":19): pass", "verdict    allowed\n"},
		},
		{"channel of another", []string{"--gate", "subscribe", "--channel", "users/bob", "--user", "eve"}, 1, []string{"): deny", "verdict    refused, denied: "}},
		{"of nobody", []string{"--gate", "subscribe", "--channel", "users/bob"}, 1, []string{"): deny", "refused, denied"}},
		{"handler's gate", []string{"--gate", "subscribe", "--channel", "public"}, 0, []string{file + ":13\n", "any (" + file + ":13): pass", "allowed"}},
		{"reason", []string{"--gate", "subscribe", "--channel", "x"}, 1, []string{`): deny, "not for you"`, "refused, denied: not for you"}},
		{"grant", []string{"--gate", "subscribe", "--channel", "x", "--grant", "x"}, 0, []string{"): pass", "allowed"}},
		{"pattern", []string{"--gate", "subscribe", "--channel", "users/bob/*", "--user", "bob"}, 0, []string{file + ":19, in channel", "): pass", "allowed"}},
		{"status page", []string{"--gate", "debug", "--name", "other", "--user", "alice"}, 0, []string{"gate       debug\n", "user (" + file + ":40): pass", "verdict    allowed\n"}},
		{"status page for another", []string{"--gate", "debug", "--name", "other", "--user", "bob"}, 1, []string{"): deny", "verdict    refused, denied"}},
		{"status page without its gate", []string{"--gate", "debug", "--name", "default", "--user", "alice"}, 1, []string{"gate       debug\n", "written    nowhere\n", "HTTP 404: write debug with a guard"}},
		{"pattern where there is none", []string{"--gate", "subscribe", "--channel", "*", "--user", "bob"}, 1, []string{"refused, denied: you cannot subscribe to patterns here"}},
		{
			"publish",
			[]string{"--gate", "publish", "--channel", "stories/1", "--user", "bob", "--data", `"hello"`},
			0,
			[]string{"): pass", "allowed", `to         ["archive"]`, `data       {"from":"bob","text":"hello"}`},
		},
		{"deliver", []string{"--gate", "deliver", "--channel", "stories/1", "--data", "1", "--from", "bob", "--claims", `{"role":"editor"}`}, 0, []string{"): pass", "allowed", `data       [1,"editor"]`}},
		{"deliver drops", []string{"--gate", "deliver", "--channel", "stories/1", "--data", "1", "--from", "eve"}, 1, []string{"): deny", "refused"}},
		{"connect", []string{"--gate", "connect", "-H", auth}, 0, []string{"gate       connect\n", file + ":4\n", "deny (" + file + ":5): abstain", "route (" + file + ":6): pass", "allowed", `user       "alice"`, "recheck    5m0s"}},
		{"connect of nobody", []string{"--gate", "connect"}, 1, []string{"): abstain", "): deny", "refused, denied"}},
		{"connect of a robot", []string{"--gate", "connect", "-H", "User-Agent: a bot", "-H", auth}, 1, []string{`): deny, "no robots"`, "refused, denied: no robots"}},
		{"connect first", []string{"--gate", "subscribe", "--channel", "users/alice", "--connect", "-H", auth}, 0, []string{"gate       connect", "): pass", "allowed", "gate       subscribe users/alice", "): pass", "allowed"}},
		{"connect first and in vain", []string{"--gate", "subscribe", "--channel", "public", "--credentials", "{}"}, 1, []string{"gate       connect", "refused"}},
		{"no gate", []string{"--gate", "unsubscribe", "--channel", "x"}, 0, []string{"written    nowhere\n", "allowed: there is no gate"}},
		{"another site", []string{"--gate", "publish", "--channel", "x", "--site", "b.localhost"}, 1, []string{"name other", "nowhere, so default deny applies", "refused, denied"}},
		{"another name", []string{"--gate", "subscribe", "--channel", "x", "--name", "other"}, 0, []string{"name other", "allowed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"--config", file}, tc.args...)
			if !strings.Contains(strings.Join(args, " "), "--site") && !strings.Contains(strings.Join(args, " "), "--name") {
				args = append(args, "--site", "a.localhost")
			}
			out, status, err := explain(args...)
			if err != nil || status != tc.status {
				t.Errorf("status %d, want %d; error %v", status, tc.status, err)
			}
			rest := out
			for _, want := range tc.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("no %q where it is wanted in:\n%s", want, out)
				}
				rest = after
			}
		})
	}
	for _, name := range []string{"default", "other"} {
		if n := hubpool.References(name); n != 0 {
			t.Errorf("%d references to the hub %s are left", n, name)
		}
	}
}

func TestExplainOfJSON(t *testing.T) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(explained), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := explainFile(t, "caddy.json", string(adapted))
	out, status, err := explain("-c", file, "--site", "a.localhost", "--gate", "subscribe", "--channel", "users/bob", "--user", "bob")
	if err != nil || status != 0 || !strings.Contains(out, "channels[0].gates.subscribe, in channel users/* stories/* (channels[0])") {
		t.Errorf("status %d, error %v, output:\n%s", status, err, out)
	}
}

// TestExplainAsksTheBackend: a guard that asks a backend asks it.
func TestExplainAsksTheBackend(t *testing.T) {
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "session=1" {
			http.Error(w, "log in first", http.StatusForbidden)
		}
	})
	file := explainFile(t, "Caddyfile", "http://localhost {\n\tpushit {\n\t\tconnect forward_auth "+address+" {\n\t\t\turi /\n\t\t}\n\t\tdefault deny\n\t}\n}\n")
	if out, status, err := explain("-c", file, "--gate", "connect", "-H", "Cookie: session=1"); status != 0 || err != nil {
		t.Errorf("with the cookie: status %d, %v:\n%s", status, err, out)
	}
	if out, status, err := explain("-c", file, "--gate", "connect"); status != 1 || err != nil || !strings.Contains(out, "): deny") {
		t.Errorf("without: status %d, %v:\n%s", status, err, out)
	}
}

func TestExplainSaysWhatItCannotAsk(t *testing.T) {
	file := explainFile(t, "Caddyfile", explained)
	empty := explainFile(t, "Caddyfile", "http://localhost {\n\trespond no\n}\n")
	wrong := explainFile(t, "Caddyfile", "http://localhost {\n\tpushit {\n\t\tsubscribe alow\n\t}\n}\n")
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"no gate", "write --gate", []string{"-c", file}},
		{"unknown gate", `did you mean "subscribe"?`, []string{"-c", file, "--gate", "subscribes"}},
		{"no channel", "write --channel", []string{"-c", file, "--gate", "publish"}},
		{"channel of connect", "leave out --channel", []string{"-c", file, "--gate", "connect", "--channel", "x"}},
		{"bad channel", "empty segment", []string{"-c", file, "--gate", "publish", "--channel", "a//b"}},
		{"pattern to publish on", "cannot contain *", []string{"-c", file, "--gate", "publish", "--channel", "a/*"}},
		{"data", "with its quotes", []string{"-c", file, "--gate", "publish", "--channel", "a", "--data", "hello"}},
		{"credentials", "with its quotes", []string{"-c", file, "--gate", "connect", "--credentials", "secret"}},
		{"claims", "not a JSON object", []string{"-c", file, "--gate", "connect", "--claims", "[]"}},
		{"address", "is not an address", []string{"-c", file, "--gate", "connect", "--ip", "x"}},
		{"header", "Name: value", []string{"-c", file, "--gate", "connect", "-H", "x"}},
		{"host", "write the host with --site", []string{"-c", file, "--gate", "connect", "-H", "Host: x"}},
		{"site", "is not a site", []string{"-c", file, "--gate", "connect", "--site", "ftp://x"}},
		{"which", "there are several endpoints", []string{"-c", file, "--gate", "connect"}},
		{"none fits", "no endpoint matches", []string{"-c", file, "--gate", "connect", "--site", "c.localhost"}},
		{"no endpoint", "there is no pushit", []string{"-c", empty, "--gate", "connect"}},
		{"wrong", "did you mean", []string{"-c", wrong, "--gate", "connect"}},
		{"no file", "no such file", []string{"-c", file + "x", "--gate", "connect"}},
		{"no adapter", "there is no config adapter", []string{"-c", file, "-a", "x", "--gate", "connect"}},
		{"flag", "unknown flag", []string{"-c", file, "--gate", "connect", "--usr", "bob"}},
		{"argument", "unknown command", []string{"-c", file, "--gate", "connect", "x"}},
	} {
		out, status, err := explain(tc.args...)
		if status != 2 || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: status %d, error %v, want %q in it; output %s", tc.name, status, err, tc.want, out)
		}
	}
}

// TestExplainAsTheDocumentsShow runs each explain command of a document on a Caddyfile of
// that document. The output must be the one shown, or, if none is shown, the exit status
// must be as shown by a ! in front.
func TestExplainAsTheDocumentsShow(t *testing.T) {
	t.Setenv("JWT_SECRET", "a secret of some length, for these tests alone")
	t.Setenv("PUBLISHER_SECRET", "a secret of some length, likewise")
	for path, has := range map[string]string{
		"docs/gates.md":           "channel users/*/inbox {",
		"docs/getting-started.md": "\ttemplates\n",
	} {
		t.Run(path, func(t *testing.T) { explainAsShown(t, doctable.Read(t, path), has) })
	}
}

// explainAsShown runs the explain commands of a document on its Caddyfile with this text.
func explainAsShown(t *testing.T, document, has string) {
	t.Helper()
	for _, block := range caddyfileBlocks(document) {
		if strings.Contains(block, has) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile("Caddyfile", []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	commands := 0
	for _, m := range markdownFence.FindAllStringSubmatch(document, -1) {
		if m[1] != "sh" {
			continue
		}
		lines, prompt := strings.CutPrefix(m[2], "$ ")
		printed := ""
		if prompt {
			lines, printed, _ = strings.Cut(lines, "\n")
		}
		for line := range strings.Lines(lines) {
			line, refused := strings.CutPrefix(strings.TrimSpace(line), "! ")
			_, args, ok := strings.Cut(line, "caddy pushit explain ")
			if !ok {
				continue
			}
			commands++
			refused = refused || strings.Contains(printed, "refused, ")
			out, status, err := explain(words(args)...)
			if err != nil || (status == 1) != refused || prompt && out != printed {
				t.Errorf("%s: status %d, error %v, output:\n%swant:\n%s", line, status, err, out, printed)
			}
		}
	}
	if commands < 4 {
		t.Errorf("only %d commands were found", commands)
	}
}

// TestRecipeOfTheToken runs recipe 11 of docs/gates.md: a token lists the channels.
// Package guards tests recipes 1 to 10, client/test/documents.test.mjs tests recipe 12.
func TestRecipeOfTheToken(t *testing.T) {
	gates := doctable.Read(t, "docs/gates.md")
	_, recipes, _ := strings.Cut(gates, "\n## Recipes\n")
	for n := 1; n <= 12; n++ {
		if !strings.Contains(recipes, fmt.Sprintf("\n### %d. ", n)) {
			t.Errorf("there is no recipe %d", n)
		}
	}
	var site string
	for _, block := range caddyfileBlocks(gates) {
		if strings.Contains(block, "grant_claim channels\n") {
			site = block
		}
	}
	if site == "" {
		t.Fatal("recipe 11 has no Caddyfile with grant_claim channels")
	}
	const secret = "a secret of some length, for these tests alone"
	t.Setenv("JWT_SECRET", secret)
	t.Chdir(t.TempDir())
	if err := os.WriteFile("Caddyfile", []byte(site), 0o600); err != nil {
		t.Fatal(err)
	}
	good := token(t, secret, object{"sub": "bob", "exp": 4102444800, "channels": []string{"news", "stories/*"}})
	for _, tc := range []struct {
		gate, channel, credentials string
		want                       int
	}{
		{"subscribe", "news", good, 0},
		{"subscribe", "stories/5", good, 0},
		{"subscribe", "orders", good, 1},
		{"subscribe", "news", good[:len(good)-2] + "AA", 1},
		{"publish", "news", good, 1},
	} {
		out, status, err := explain("--gate", tc.gate, "--channel", tc.channel, "--credentials", `"`+tc.credentials+`"`)
		if status != tc.want || err != nil {
			t.Errorf("%s %s: status %d, want %d, error %v, output:\n%s", tc.gate, tc.channel, status, tc.want, err, out)
		}
	}
}
