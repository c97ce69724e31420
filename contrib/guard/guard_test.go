// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package openinghours

import (
	"testing"
	"time"

	"github.com/push-it/pushit/guards"
)

func TestDecide(t *testing.T) {
	for hour, want := range map[int]guards.Kind{8: guards.Deny, 9: guards.Pass, 16: guards.Pass, 17: guards.Deny} {
		g := &OpeningHours{Open: 9, Close: 17, now: func() time.Time { return time.Date(2026, 1, 1, hour, 30, 0, 0, time.UTC) }}
		if got := g.Decide(t.Context(), nil).Kind; got != want {
			t.Errorf("at %d: %s, want %s", hour, got, want)
		}
	}
}
