// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"maps"
	"slices"
)

// sendBack closes the agents that have subscriptions, because entries of the log did not
// come here: none of them may go on as if it had got all. When they come back, they are told
// what is missing. The caller applies the log, and its next entry waits.
func (h *Hub) sendBack() {
	h.mu.Lock()
	agents := slices.Collect(maps.Keys(h.agents))
	h.mu.Unlock()
	agents = slices.DeleteFunc(agents, func(a *Agent) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.leases.subs) == 0
	})
	for i, retry := range comeBack(len(agents)) {
		agents[i].Close(CloseUnavailable, "the server missed messages: subscribe again to be told which", retry)
	}
}
