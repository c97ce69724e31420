// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// TestCaddyfilesOfTheRepository checks each file called Caddyfile or Caddyfile.something,
// and each Markdown block marked as a Caddyfile: it must be formatted, adapt without a
// warning, and be valid.
func TestCaddyfilesOfTheRepository(t *testing.T) {
	t.Setenv("JWT_SECRET", "a secret of some length, for these tests alone")
	devices, _ := certificate(t, "an authority")
	t.Setenv("DEVICES_CA", devices)
	t.Setenv("PUBLISHER_SECRET", "a secret of some length")
	t.Setenv("DATA", t.TempDir()) // for the file of a history
	t.Setenv("NATS_PASSWORD", "a password")
	t.Setenv("NODE", "web1")
	t.Setenv("PUSHIT_CLUSTER_SECRET", "a secret of the machines, which is long enough")
	found := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "node_modules" || strings.HasPrefix(name, ".") && path != "."):
			return fs.SkipDir
		case name != "Caddyfile" && !strings.HasPrefix(name, "Caddyfile.") && filepath.Ext(name) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		if filepath.Ext(name) != ".md" {
			found++
			t.Run(path, func(t *testing.T) { checkCaddyfile(t, path, text) })
			return nil
		}
		for line, block := range caddyfileBlocks(string(text)) {
			found++
			t.Run(fmt.Sprintf("%s:%d", path, line), func(t *testing.T) { checkCaddyfile(t, path, []byte(block)) })
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("found %d Caddyfiles: %v", found, err)
	}
}

// caddyfileBlocks returns the blocks of a Markdown text that are marked as Caddyfiles, by
// their first lines.
func caddyfileBlocks(text string) map[int]string {
	blocks := make(map[int]string)
	begun, block := 0, strings.Builder{}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case begun == 0 && strings.HasPrefix(strings.ToLower(line), "```caddy"):
			begun = i + 1
		case begun != 0 && strings.HasPrefix(line, "```"):
			blocks[begun] = block.String()
			begun = 0
			block.Reset()
		case begun != 0:
			block.WriteString(line + "\n")
		}
	}
	return blocks
}

func checkCaddyfile(t *testing.T, path string, text []byte) {
	t.Helper()
	if formatted := caddyfile.Format(text); !bytes.Equal(formatted, text) {
		t.Errorf("not as caddy fmt writes it, which is:\n%s", formatted)
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	options := map[string]any{"filename": path}
	adapted, warnings, err := adapter.Adapt(text, options)
	if err != nil && strings.Contains(err.Error(), "but it is a known directive") {
		// The block may be the inside of a site.
		site := "http://localhost {\n\t" + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n\t") + "\n}\n"
		adapted, warnings, err = adapter.Adapt(caddyfile.Format([]byte(site)), options)
	}
	if err != nil || len(warnings) > 0 {
		t.Fatalf("adapting: %v, warnings %v", err, warnings)
	}
	if failed, warnings := validated(t, adapted); failed != "" || len(warnings) > 0 {
		t.Errorf("validating: %s, warnings %q", failed, warnings)
	}
}
