// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/doctable"
)

// TestXcaddyBuildsAGuard runs the command of contrib/guard: xcaddy builds a Caddy with
// pushit and a guard from another module. The guard works in a configuration, and its
// mistakes are found. The build has the race detector, because the other tests have built
// most of it already.
func TestXcaddyBuildsAGuard(t *testing.T) {
	top, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile("xcaddy/cmd/(xcaddy@v[0-9.]+)`").FindStringSubmatch(doctable.Read(t, "xcaddy.md"))[1]
	command := ""
	for line := range strings.Lines(doctable.Read(t, "contrib/guard/README.md")) {
		if strings.HasPrefix(line, "xcaddy build") {
			command = strings.TrimSpace(line)
		}
	}
	if err := checkXcaddy(t, command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	caddy := filepath.Join(t.TempDir(), "caddy")
	args := words(strings.ReplaceAll(command, `"$PWD`, `"`+top))
	for i, arg := range args {
		args[i] = strings.NewReplacer(`"`, "", "$PWD", top).Replace(arg)
	}
	args = append([]string{"run", "github.com/caddyserver/xcaddy/cmd/" + version}, append(args[1:], "--output", caddy)...)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", args...)
	build.Env = append(os.Environ(), "XCADDY_RACE_DETECTOR=1", "XCADDY_GO_BUILD_FLAGS=-ldflags=-w")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}

	validate := func(config string) (string, error) {
		file := filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte("http://localhost {\n"+config+"\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), caddy, "validate", "--config", file).CombinedOutput()
		return string(out), err
	}
	blocks := markdownFence.FindAllStringSubmatch(doctable.Read(t, "contrib/guard/README.md"), -1)
	if out, err := validate(blocks[0][2]); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := validate(strings.Replace(blocks[0][2], "opening_hours 9 17", "opening_hours 17 9", 1)); err == nil || !strings.Contains(out, "write the first and the last hour") {
		t.Errorf("hours that there are not: %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-C", "contrib/guard", "-race", "-ldflags=-w", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
