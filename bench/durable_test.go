// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

// Acknowledged messages survive kill -9, in order and once, and positions stay valid.
func TestAcknowledgedMessagesSurviveKills(t *testing.T) {
	ctx, caddy := bounded(t)
	for sync, n := range map[string]int{"always": 2, "100ms": 1} {
		res, err := measureKills(ctx, caddy, sync, n)
		if err != nil {
			t.Fatal(err)
		}
		if res.kills != n || res.acknowledged == 0 || res.there < res.acknowledged || res.missing+res.twice+res.disorder+res.unwell > 0 {
			t.Errorf("sync %s: %+v", sync, res)
		}
	}
}

func TestDurablePublishesAreCounted(t *testing.T) {
	rate, each, err := measureDurable(t.Context(), 0, 2_000)
	if err != nil || rate <= 0 || each <= 0 {
		t.Errorf("%v a second, %v each: %v", rate, each, err)
	}
}
