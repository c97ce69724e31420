// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package test has the end-to-end tests: a whole Caddy with pushit, as its clients, its
// configuration and its documents meet it. It is a module of its own, so that who builds
// pushit does not need what only these tests do.
package test

import (
	"log"
	"os"
	"testing"

	_ "github.com/push-it/pushit" // what is tested
)

// TestMain runs the tests at the top of the checkout, where the examples of the
// documents run too.
func TestMain(m *testing.M) {
	if _, err := os.Stat("main_test.go"); err == nil { // not in a process that a test has started
		if err := os.Chdir(".."); err != nil {
			log.Fatal(err)
		}
	}
	os.Exit(m.Run())
}
