// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestAllComeBackWithTheirTickets(t *testing.T) {
	const n, runs = 100, 2
	ctx, caddy := bounded(t)
	all, err := measureReconnect(ctx, caddy, n, runs)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != runs {
		t.Fatalf("%d runs", len(all))
	}
	for _, res := range all {
		if res.back != n || res.resumed != n || res.got != n || res.all <= 0 {
			t.Errorf("%+v", res)
		}
	}
}
