// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"net/http"

	"github.com/push-it/pushit/hub"
)

// Opening is what a session at the endpoint of h would keep of r.
func (h *Handler) Opening(r *http.Request) hub.Opening { return h.opening(r) }

// HubReferences is how many handlers hold the hub of that name.
func HubReferences(name string) int {
	n, _ := hubs.References(name)
	return n
}

// HubAgents is how many sessions the hub of that name has.
func HubAgents(name string) int {
	n := 0
	hubs.Range(func(key, value any) bool {
		if key == name {
			n = value.(*sharedHub).Agents()
		}
		return true
	})
	return n
}

var (
	Below   = below
	Nearest = nearest
)
