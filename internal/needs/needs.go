// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package needs finds the programs that tests run, such as backends and proxies. If one is
// missing, its tests are skipped. If CI is set, they fail instead, because nobody would
// notice the skipped tests.
package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Program returns the path of the first named program that is installed. It looks up a
// name without a slash in PATH and in /usr/sbin, where Debian has servers. A name may be a
// pattern, such as "php-fpm*"; then the newest match counts. If no program is installed,
// Program ends the test.
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
	found, _ := filepath.Glob(name) // it fails only for a bad pattern, which tests do not have
	for _, one := range slices.Backward(found) {
		if path, err := exec.LookPath(one); err == nil {
			return path
		}
	}
	return ""
}

// missing ends a test that needs a program that is not installed.
func missing(t testing.TB, what string) {
	t.Helper()
	const form = "there is no %s; .ci/tools installs it"
	if os.Getenv("CI") != "" {
		t.Fatalf(form+" (CI is set, so the test is not skipped)", what)
	}
	t.Skipf(form, what)
}
