// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package test has the end-to-end tests. They use a whole Caddy with pushit, its clients,
// its configurations and its documents. It is a module of its own, so that users who
// build pushit do not need the dependencies of these tests.
package test

import (
	"log"
	"os"
	"testing"

	_ "github.com/push-it/pushit"                       // the module under test
	_ "github.com/push-it/pushit/contrib/embedded-nats" // for the examples that use it
)

// TestMain runs the tests in the root of the repository, as the documents' examples
// expect.
func TestMain(m *testing.M) {
	if _, err := os.Stat("main_test.go"); err == nil { // a process that a test has started is there already
		if err := os.Chdir(".."); err != nil {
			log.Fatal(err)
		}
	}
	os.Exit(m.Run())
}
