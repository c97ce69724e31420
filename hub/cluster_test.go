// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"slices"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
)

// The hub tells of its Bus, also when a reload replaces it.
func TestOnBus(t *testing.T) {
	cluster := brokertest.NewCluster()
	h, err := hub.New("swapped", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var told []hub.Bus
	h.OnBus(func(b hub.Bus) { told = append(told, b) })
	a, b := cluster.Node("a"), cluster.Node("b")
	for _, next := range []hub.Broker{hub.NewMemoryBroker(), a, b, hub.NewMemoryBroker(), hub.NewMemoryBroker()} {
		if err := h.Swap(next); err != nil {
			t.Fatal(err)
		}
		if h.Bus() != next.Bus() {
			t.Errorf("the hub has the Bus %v, want %v", h.Bus(), next.Bus())
		}
	}
	if want := []hub.Bus{a, b, nil}; !slices.Equal(told, want) {
		t.Errorf("it told of %v, want %v", told, want)
	}
	again, err := hub.New("new", cluster.Node("c"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	told = nil
	again.OnBus(func(b hub.Bus) { told = append(told, b) })
	if len(told) != 1 || told[0] == nil || told[0] != again.Bus() {
		t.Errorf("a new hub told of %v", told)
	}
}
