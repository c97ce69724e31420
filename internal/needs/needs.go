// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package needs finds the programs that tests run: backends, proxies. Where one is
// missing, its tests are skipped. With CI set, they fail: there nobody reads which
// tests were skipped.
package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Program returns the path of the first of the programs that is there. A name
// without a slash is looked up in PATH and in /usr/sbin, where Debian has servers. It
// may be a pattern, as "php-fpm*": the newest of those that match counts. Without any
// of them the test ends.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path := find(name); path != "" {
			return path
		}
	}
	missing(t, strings.Join(names, " or "))
	return ""
}

func find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if filepath.Base(name) == name {
		name = filepath.Join("/usr/sbin", name)
	}
	found, _ := filepath.Glob(name) // the patterns are those of tests
	for i := len(found) - 1; i >= 0; i-- {
		if path, err := exec.LookPath(found[i]); err == nil {
			return path
		}
	}
	return ""
}

// missing ends a test that needs what is not there.
func missing(t testing.TB, what string) {
	t.Helper()
	const form = "there is no %s; .ci/tools installs it"
	if os.Getenv("CI") != "" {
		t.Fatalf(form+" (CI is set, so the test is not skipped)", what)
	}
	t.Skipf(form, what)
}
