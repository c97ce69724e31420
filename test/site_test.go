// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// A warning is a log line of pushit.
type warning struct {
	Logger, Msg string
	ToDo        string `json:"to_do"`
}

// validate validates a configuration. It returns pushit's warnings and the error.
func validate(t *testing.T, adapted []byte) (warnings []warning, failed error) {
	t.Helper()
	var c caddy.Config
	if err := json.Unmarshal(adapted, &c); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "log")
	writer, err := json.Marshal(object{"output": "file", "filename": file, "roll": false})
	if err != nil {
		t.Fatal(err)
	}
	storage, err := json.Marshal(object{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c.Admin, c.StorageRaw = &caddy.AdminConfig{Disabled: true}, storage
	c.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "WARN", WriterRaw: writer}}}}
	// As `caddy validate` does: no machine of the examples is asked for anything.
	args := os.Args
	os.Args = []string{args[0], "validate"}
	defer func() { os.Args = args }()
	failed = caddy.Validate(&c)
	log, err := os.ReadFile(file)
	if err != nil && (failed == nil || !os.IsNotExist(err)) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		var w warning
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			t.Fatal(err)
		}
		if w.Logger == "http.handlers.pushit" {
			warnings = append(warnings, w)
		}
	}
	return warnings, failed
}

// warnings validates a Caddyfile, and returns the first words of pushit's warnings.
func warnings(t *testing.T, config string) (begin []string) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	logged, err := validate(t, adapted)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range logged {
		about, _, _ := strings.Cut(w.Msg, " ")
		begin = append(begin, about)
	}
	slices.Sort(begin)
	return begin
}

func TestWarnings(t *testing.T) {
	const (
		open  = "\n\tpushit\n"
		gated = "\n\tpushit {\n\t\tconnect user\n\t\tdefault deny\n\t}\n"
		local = "\n\tpushit {\n\t\tconnect allow\n\t\tdefault deny\n\t}\n"
	)
	programs := func(login string) string {
		return "http://localhost {\n\t@some header X *\n\t@people not path /push/publish\n\t" + login + "\n\tpushit {\n\t\tdefault allow\n\t\tapi bearer \"" + apiSecret + "\"\n\t}\n}"
	}
	const accounts = " {\n\t\talice " + aliceHash + "\n\t}"
	for _, tc := range []struct {
		name, config string
		want         []string // the first words of the warnings
	}{
		{"open", "example.com {" + open + "}", []string{"there"}},
		{"open on purpose", "example.com {\n\tpushit {\n\t\tdefault allow\n\t}\n}", nil},
		{"gated, HTTPS", "example.com {" + gated + "}", nil},
		{"gated, HTTP", "http://example.com {" + gated + "}", []string{"credentials"}},
		{"both", "http://example.com, https://example.com {" + gated + "}", []string{"credentials"}},
		{"addresses alone, HTTP", "http://example.com {" + local + "}", nil},
		{"gated, HTTP on this machine", "http://localhost:8080, http://127.0.0.1, http://chat.localhost {" + gated + "}", nil},
		{"gated, HTTP bound to this machine", "http://example.com {\n\tbind 127.0.0.1 ::1" + gated + "}", nil},
		{"gated, unix socket", "http://example.com {\n\tbind unix//run/pushit.sock" + gated + "}", nil},
		{"any host, HTTP", ":8080 {" + gated + "}", []string{"credentials", "this"}},
		{"any host, HTTP, open", "http:// {" + open + "}", []string{"there", "this"}},
		{"any host, bound to this machine", "http:// {\n\tbind 127.0.0.1" + gated + "}", []string{"this"}},
		{"any host, TLS", "https:// {\n\ttls internal" + gated + "}", nil},
		{"host by a matcher", ":8080 {\n\t@it host localhost\n\thandle @it {" + gated + "}\n}", nil},
		{"path by a matcher", ":8080 {\n\thandle /push/* {" + gated + "}\n}", []string{"credentials", "this"}},
		{"after other routes", "http://a.localhost {\n\trespond a\n}\nhttp://b.localhost {\n\thandle /x/* {\n\t\trespond x\n\t}\n\thandle {" + gated + "}\n}\nhttp://c.localhost {\n\trespond c\n}", nil},
		{"wildcard", "http://*.example.com {" + local + "}", nil},
		{"named route", "&(live) {\n\tpushit {\n\t\tname live\n\t\tdefault allow\n\t}\n}\n:8080 {\n\tinvoke live\n}", nil},
		{"a password before programs", programs("basic_auth" + accounts), []string{"basic_auth"}},
		{"a password before all of pushit", programs("basic_auth /push/*" + accounts), []string{"basic_auth"}},
		{"a password, but not before programs", programs("basic_auth @people" + accounts), nil},
		{"a password before the status page", programs("basic_auth /push/debug*" + accounts), nil},
		{"a password for some requests", programs("basic_auth @some" + accounts), nil},
		{"a password after handle_path", "http://localhost {\n\tbasic_auth" + accounts + "\n\thandle_path /live/* {\n\t\tpushit {\n\t\t\tpath /\n\t\t\tdefault allow\n\t\t\tapi bearer \"" + apiSecret + "\"\n\t\t}\n\t}\n}", []string{"basic_auth"}},
		{"twice in one configuration", "http://localhost:8080, https://localhost:8443 {\n\ttls internal" + open + "}", []string{"there"}},
	} {
		if got := warnings(t, tc.config); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
