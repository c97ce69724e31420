// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"slices"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
)

// FindHub returns the hub of that name, for other modules of the same server and for
// programs that embed Caddy. The name of an endpoint without one is "default". ok is false
// if no endpoint has that name.
//
// A hub outlives reloads, but not the last endpoint with its name. So find it whenever you
// need it, and do not keep it. A module that is provisioned together with the endpoint may
// come first: find the hub when you have something to publish, not in Provision.
func FindHub(name string) (h *hub.Hub, ok bool) {
	for other, h := range hubpool.Each {
		if other == name {
			return h, true
		}
	}
	return nil, false
}

// hubNames returns the names of all hubs, sorted.
func hubNames() (names []string) {
	for name := range hubpool.Each {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
