// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package sampler_test

import (
	"testing"
	"time"

	"github.com/push-it/pushit/internal/sampler"
)

func TestASecondHasSoManyLines(t *testing.T) {
	var s sampler.Sampler
	now := time.Unix(1000, 0)
	for i := range sampler.LinesPerSecond {
		if left, ok := s.Take(now); left != 0 || !ok {
			t.Fatalf("line %d: Take = %d, %t, want 0, true", i, left, ok)
		}
	}
	for range 3 {
		if _, ok := s.Take(now.Add(time.Second - 1)); ok {
			t.Fatal("one line more than a second has was let through")
		}
	}
	if left, ok := s.Take(now.Add(time.Second)); left != 3 || !ok {
		t.Errorf("in the next second Take = %d, %t, want 3, true", left, ok)
	}
	if left, ok := s.Take(now.Add(time.Second)); left != 0 || !ok {
		t.Errorf("the lines left out were told twice: Take = %d, %t", left, ok)
	}
}

func TestAFloodOfOneKeyHidesNoOther(t *testing.T) {
	var k sampler.Keyed
	now := time.Unix(1000, 0)
	for range 2 * sampler.LinesPerSecond {
		k.Take("loud", now)
	}
	if left, ok := k.Take("quiet", now); left != 0 || !ok {
		t.Errorf("Take = %d, %t, want 0, true", left, ok)
	}
	if left, ok := k.Take("loud", now.Add(time.Second)); left != sampler.LinesPerSecond || !ok {
		t.Errorf("Take = %d, %t, want %d, true", left, ok, sampler.LinesPerSecond)
	}
}
