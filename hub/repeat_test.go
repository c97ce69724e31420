// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"strconv"
	"testing"
	"time"
)

// The memory of publishes has limits: a time, a count for each sender, and a total.
func TestRepeatsAreForgotten(t *testing.T) {
	start := time.Now()
	note := func(r *repeats, at time.Duration, who string, n int) repeatKind {
		e, kind, _ := r.note(start.Add(at), who, "c", strconv.Itoa(n), []byte("0"))
		if kind == repeatNew {
			r.published("", e)
		}
		return kind
	}
	t.Run("after a time", func(t *testing.T) {
		r := newRepeats()
		note(r, 0, "ann", 1)
		if kind := note(r, repeatFor-1, "ann", 1); kind != repeatSame {
			t.Errorf("just before its time is over: %d", kind)
		}
		if kind := note(r, repeatFor, "ann", 1); kind != repeatNew {
			t.Errorf("when its time is over: %d", kind)
		}
	})
	t.Run("of one", func(t *testing.T) {
		r := newRepeats()
		for n := range repeatsPerOne {
			note(r, 0, "ann", n)
		}
		if kind := note(r, 0, "ann", 0); kind != repeatSame {
			t.Errorf("the first of as many as are remembered: %d", kind)
		}
		note(r, 0, "ann", repeatsPerOne)
		note(r, 0, "bob", 1)
		if kind := note(r, 0, "ann", 1); kind != repeatSame {
			t.Errorf("the second, when there was one more: %d", kind)
		}
		if kind := note(r, 0, "ann", 0); kind != repeatNew {
			t.Errorf("the first, when there was one more: %d", kind)
		}
		if len(r.byKey) != repeatsPerOne+1 || r.all.Len() != repeatsPerOne+1 {
			t.Errorf("%d are remembered", len(r.byKey))
		}
	})
	t.Run("in all", func(t *testing.T) {
		r := newRepeats()
		for n := range repeatsPerHub {
			note(r, 0, strconv.Itoa(n/100), n)
		}
		if kind := note(r, 0, "0", 0); kind != repeatSame {
			t.Errorf("the first of as many as are remembered: %d", kind)
		}
		note(r, 0, "bob", 1)
		if kind := note(r, 0, "0", 1); kind != repeatSame {
			t.Errorf("the second, when there was one more: %d", kind)
		}
		if kind := note(r, 0, "0", 0); kind != repeatNew || len(r.byKey) != repeatsPerHub {
			t.Errorf("the first, when there was one more: %d; %d are remembered", kind, len(r.byKey))
		}
	})
}
