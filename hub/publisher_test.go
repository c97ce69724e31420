// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "testing"

// Repeats are recognized by who publishes, so the name must follow the identity.
func TestPublisherFollowsTheIdentity(t *testing.T) {
	a := &Agent{presented: presented{agentID: "ann"}}
	want := func(who string) {
		t.Helper()
		for range 2 { // the second call takes what is kept
			if got := publisherOf(a); got != who {
				t.Fatalf("%q, want %q", got, who)
			}
		}
	}
	a.identify(nil)
	want("agent\x00ann")
	a.identify(&Identity{User: "ann"})
	want("user\x00ann")
	a.identify(&Identity{User: "bob"})
	want("user\x00bob")
	a.identify(nil)
	a.agentID = "bob"
	want("agent\x00bob")
	if n := testing.AllocsPerRun(100, func() { publisherOf(a) }); n != 0 {
		t.Errorf("%v allocations, want none for a publisher that is known", n)
	}
}
