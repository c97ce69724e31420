// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"testing"
	"time"
)

func TestAllowance(t *testing.T) {
	var a allowance
	now := time.Unix(1000, 0)
	take := func(want int, when string) {
		t.Helper()
		got := 0
		for a.take(now) {
			got++
		}
		if got != want {
			t.Errorf("%s: %d taken, want %d", when, got, want)
		}
	}
	take(idleBurst, "at first")
	take(0, "at once again")
	now = now.Add(time.Second)
	take(idlePerSecond, "a second later")
	now = now.Add(time.Hour)
	take(idleBurst, "an hour later")
	for range 10_000 { // slower than it fills
		now = now.Add(time.Second / (idlePerSecond - 1))
		if !a.take(now) {
			t.Fatal("refused to one who is slow enough")
		}
	}
}
