// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// await waits until done returns true.
func await(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	for late := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			tb.Fatalf("waited %v for %s", patience, what)
		}
	}
}
