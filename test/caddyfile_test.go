// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

var update = flag.Bool("update", false, "write what the adapter says now into testdata")

// goldenBorder separates the Caddyfile of a golden file from the expected result.
const goldenBorder = "----------\n"

// goldenFiles returns the files in testdata/adapt whose names match.
func goldenFiles(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob("test/testdata/adapt/" + pattern + ".caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	return files
}

// TestAdapt adapts each file in testdata/adapt. A file in valid must be formatted as by
// caddy fmt, and adapt to the JSON below the border. A file in invalid must fail with the
// error below the border, which names a line. TestTraps tests the files that begin with
// trap_.
func TestAdapt(t *testing.T) {
	t.Setenv("PUSHIT_TEST_PATH", "/live")
	t.Setenv("PUSHIT_TEST_ORIGINS", "https://a.example.com https://b.example.com")
	for _, file := range goldenFiles(t, "*/*") {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		if strings.HasPrefix(name, "trap_") {
			continue
		}
		kind := filepath.Base(filepath.Dir(file))
		t.Run(kind+"/"+name, func(t *testing.T) {
			input, want := readGolden(t, file)
			wantError := kind == "invalid"
			if formatted := caddyfile.Format(input); !wantError && !bytes.Equal(formatted, input) {
				t.Errorf("not as caddy fmt writes it, which is:\n%s", formatted)
			}
			got, failed := adapt(t, input)
			if *update {
				writeGolden(t, file, input, got)
				return
			}
			if got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			if failed != wantError {
				t.Errorf("adapting failed: %t, want %t", failed, wantError)
			}
			if failed && !strings.Contains(got, "Caddyfile:") {
				t.Error("the error does not say where the mistake is")
			}
		})
	}
}

// adapt returns the JSON of a Caddyfile, indented, or the error.
func adapt(t *testing.T, input []byte) (text string, failed bool) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, nil)
	if err != nil {
		return err.Error() + "\n", true
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return indented.String() + "\n", false
}

func readGolden(t *testing.T, file string) (input []byte, want string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, want, ok := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), goldenBorder)
	if !ok {
		t.Fatalf("%s has no border", file)
	}
	return []byte(before), want
}

func writeGolden(t *testing.T, file string, input []byte, got string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(string(input)+goldenBorder+got), 0o600); err != nil {
		t.Fatal(err)
	}
}
