// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// The offsets are those of machines with 64 bits.
//go:build amd64 || arm64

package hub

import (
	"testing"
	"unsafe"
)

// There is an Agent for each connection, and most connections are idle. Above 512 bytes, Go also
// puts a header before each of them, and an Agent may begin inside a cache line. So what an idle
// agent does not use is behind pointers that are nil. It also has a few subscriptions.
func TestIdleAgentsAreSmall(t *testing.T) {
	if size := unsafe.Sizeof(Agent{}); size > 512 {
		t.Errorf("an Agent has %d bytes, more than 512", size)
	}
	if size := unsafe.Sizeof(subscription{}); size > 80 {
		t.Errorf("a subscription has %d bytes, more than 80", size)
	}
}

// What a single delivery touches of an agent is in three cache lines of 64 bytes, and of a
// subscription in one, or in two of a subscription that crosses a line. With thousands of agents,
// a line costs more than what is done in it.
func TestDeliveryTouchesFewLines(t *testing.T) {
	const line = 64
	var a Agent
	out := unsafe.Offsetof(a.out)
	if out%line != 0 {
		t.Errorf("out begins at %d, inside a line", out)
	}
	queue := unsafe.Offsetof(a.out.queue)
	for name, end := range map[string]uintptr{
		"policy":         unsafe.Offsetof(a.policy) + unsafe.Sizeof(a.policy),
		"applied":        unsafe.Offsetof(a.applied) + unsafe.Sizeof(a.applied),
		"mu":             unsafe.Offsetof(a.mu) + unsafe.Sizeof(a.mu),
		"sent":           unsafe.Offsetof(a.sent) + unsafe.Sizeof(a.sent),
		"leases.catchUp": unsafe.Offsetof(a.leases) + unsafe.Offsetof(a.leases.catchUp) + 8,
		"leases.seen":    unsafe.Offsetof(a.leases) + unsafe.Offsetof(a.leases.seen) + 8,
	} {
		if end > line {
			t.Errorf("%s ends at %d, behind the first line", name, end)
		}
	}
	for name, end := range map[string]uintptr{
		"out.queue.bytes":      queue + unsafe.Offsetof(a.out.queue.bytes) + 8,
		"out.queue.items":      queue + unsafe.Offsetof(a.out.queue.items) + 8 - line,
		"out.queue.conflation": queue + unsafe.Offsetof(a.out.queue.conflation) + 8 - line,
		"out.queue.former":     queue + unsafe.Offsetof(a.out.queue.former) + 8 - line,
		"out.queue.lag":        queue + unsafe.Offsetof(a.out.queue.lag) + 8 - line,
	} {
		if end > line {
			t.Errorf("%s ends %d bytes behind its line", name, end-line)
		}
	}
	var s subscription
	if end := unsafe.Offsetof(s.fed) + 8; end > line {
		t.Errorf("subscription.fed ends at %d", end)
	}
}
