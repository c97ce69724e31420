// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/push-it/pushit/internal/needs"
)

// TestPublishingFromEachLanguage runs the programs of docs/publishing.md against the first
// Caddyfile in it.
func TestPublishingFromEachLanguage(t *testing.T) {
	t.Setenv("PUBLISHER_SECRET", "a secret of the backend")
	var config string
	programs := make(map[string][]string)
	for _, f := range fences(t) {
		switch {
		case f.path != "docs/publishing.md":
		case f.language() == "caddyfile" && config == "":
			config = f.text
		case f.language() == "caddyfile": // TestCaddyfilesOfTheRepository looks at it
		default:
			programs[f.language()] = append(programs[f.language()], f.text)
		}
	}
	// The reader does not read while a program is built, so its heartbeat is long.
	site := serve(t, replaced(t, config, "example.com {", "http://:8080 {", "pushit /push {", "pushit /push {\n\t\theartbeat 10m")).site("localhost")
	reader, _ := site.open("/push/websocket", nil, nil)
	reader.subscribe("news")
	for language, c := range map[string]struct {
		file     string
		run      []string
		programs int
	}{
		"sh":         {"publish.sh", []string{"sh", "-eu"}, 2},
		"php":        {"publish.php", []string{"php"}, 1},
		"python":     {"publish.py", []string{"python3"}, 1},
		"javascript": {"publish.mjs", []string{"node"}, 1},
		"ruby":       {"publish.rb", []string{"ruby"}, 1},
		"go":         {"publish.go", []string{"go", "run"}, 1},
	} {
		t.Run(language, func(t *testing.T) {
			c.run[0] = needs.Program(t, c.run[0])
			if len(programs[language]) != c.programs {
				t.Fatalf("%d programs, want %d", len(programs[language]), c.programs)
			}
			for i, program := range programs[language] {
				file := filepath.Join(t.TempDir(), c.file)
				if err := os.WriteFile(file, []byte(strings.ReplaceAll(program, "https://example.com", "http://"+site.address())), 0o600); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.CommandContext(t.Context(), c.run[0], append(c.run[1:], file)...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if i > 0 { // the request with a stream
					reader.wantMessage("news", 1.0)
					reader.wantMessage("news", 2.0)
					continue
				}
				if m := reader.receive(); m["channel"] != "news" || m["data"].(object)["title"] != "It works." {
					t.Errorf("received %v", m)
				}
			}
		})
	}
}
