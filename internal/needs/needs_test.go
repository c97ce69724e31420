// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package needs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// An ending notes how a test that needs something ends.
type ending struct {
	testing.TB
	how string
}

func (e *ending) Helper() {}

func (e *ending) Skipf(string, ...any) {
	e.how = "skipped"
	runtime.Goexit()
}

func (e *ending) Fatalf(string, ...any) {
	e.how = "failed"
	runtime.Goexit()
}

func endingOf(f func(t testing.TB)) string {
	e := &ending{how: "passed"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(e)
	}()
	<-done
	return e.how
}

func TestMissingProgramsFailInCI(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"server8.1", "server8.3"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	there := filepath.Join(dir, "server8.3")
	t.Setenv("PATH", dir)
	for _, c := range []struct {
		ci    string
		names []string
		want  string
	}{
		{"", []string{"server8.3"}, "passed"},
		{"true", []string{"server8.3"}, "passed"},
		{"true", []string{"nothing", "server8.3"}, "passed"},
		{"true", []string{filepath.Join(dir, "server*")}, "passed"},
		{"", []string{"nothing", "server*"}, "skipped"},
		{"true", []string{"nothing", "server*"}, "failed"},
		{"1", []string{filepath.Join(dir, "nothing*")}, "failed"},
	} {
		t.Setenv("CI", c.ci)
		got := endingOf(func(t testing.TB) {
			if path := Program(t, c.names...); path != there {
				panic("found " + path)
			}
		})
		if got != c.want {
			t.Errorf("%q with CI=%q: %s, want %s", c.names, c.ci, got, c.want)
		}
	}
}

// TestNothingElseIsSkipped looks for tests that skip by themselves. What depends on
// how the test was built, on the system, on the user's rights, or on GODEBUG, may.
func TestNothingElseIsSkipped(t *testing.T) {
	skips := regexp.MustCompile(`\bt\.Skip(f|Now)?\(.*`)
	mayBe := regexp.MustCompile(`^t\.Skip\("(the race detector .*|.* only Linux .*|only on Unix .*|GODEBUG .*|this user may not mount .*)"\)$`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "needs_test.go" {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, skip := range skips.FindAllString(string(text), -1) {
			if !mayBe.MatchString(skip) {
				t.Errorf("%s: %s: a missing program is for needs.Program; else the test has to fail", path, skip)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// CI judges a change by the exit status of .ci/run, and an empty script exits with 0.
func TestCIRunsTheTests(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	script := "#!/bin/sh\necho \"$CI make $*\" >" + said + "\nexit 7\n"
	if err := os.WriteFile(filepath.Join(dir, "make"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("CI", "")
	err := exec.Command(filepath.Join("..", "..", ".ci", "run")).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf(".ci/run ended with %v; want make's exit status 7", err)
	}
	b, err := os.ReadFile(said)
	if err != nil {
		t.Fatalf(".ci/run did not call make: %v", err)
	}
	if got := strings.TrimSpace(string(b)); got != "true make test" {
		t.Errorf(".ci/run called %q; want CI=true and make test", got)
	}
}
