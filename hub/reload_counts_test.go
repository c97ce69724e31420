// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"testing"

	"github.com/push-it/pushit/hub"
)

// What a reload ends counts for it, however soon the transport finds that a session is
// closed, and however soon everything else about an agent is decided.
func TestReloadsCountWhatTheyEnd(t *testing.T) {
	const agents = 200
	for gate, want := range map[hub.GateName]hub.Effects{
		hub.GateConnect:   {Agents: agents, Asked: agents, Cut: agents},
		hub.GateSubscribe: {Agents: agents, Asked: agents, Ended: agents},
	} {
		for _, far := range []bool{false, true} {
			inBubble(t, hub.Policy{}, func(b *bubble) {
				for range agents {
					b.join("news")
				}
				deny := local("new", denied("members only"))
				deny.local = !far
				b.wantEffects(b.reload(hub.Policy{Gates: gatesOf(byName{gate: deny})}), want)
			})
		}
	}
}
