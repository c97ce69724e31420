// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// The offsets are those of machines with 64 bits.
//go:build amd64 || arm64

package hub

import (
	"testing"
	"unsafe"
)

// What a single delivery touches of an agent is in four cache lines of 64 bytes, and of a
// subscription in one. With thousands of agents, a line costs more than what is done in it.
func TestDeliveryTouchesFewLines(t *testing.T) {
	const line = 64
	var a Agent
	if size := unsafe.Sizeof(a); size > 1024 {
		t.Errorf("an Agent has %d bytes: more than 1,024 take 1,152, and may begin inside a line", size)
	}
	out := unsafe.Offsetof(a.out)
	if out%line != 0 {
		t.Errorf("out begins at %d, inside a line", out)
	}
	queue := unsafe.Offsetof(a.out.queue)
	for name, end := range map[string]uintptr{
		"policy":                unsafe.Offsetof(a.policy) + unsafe.Sizeof(a.policy),
		"applied":               unsafe.Offsetof(a.applied) + unsafe.Sizeof(a.applied),
		"mu":                    unsafe.Offsetof(a.mu) + unsafe.Sizeof(a.mu),
		"leases.catchUp.behind": unsafe.Offsetof(a.leases) + unsafe.Offsetof(a.leases.catchUp) + unsafe.Offsetof(a.leases.catchUp.behind) + 8,
	} {
		if end > line {
			t.Errorf("%s ends at %d, behind the first line", name, end)
		}
	}
	for name, end := range map[string]uintptr{
		"out.queue.bytes":            queue + unsafe.Offsetof(a.out.queue.bytes) + 8,
		"out.queue.items":            queue + unsafe.Offsetof(a.out.queue.items) + 8 - line,
		"out.queue.conflation.fresh": queue + unsafe.Offsetof(a.out.queue.conflation) + unsafe.Sizeof(a.out.queue.conflation) - line,
		"out.lag":                    unsafe.Offsetof(a.out.lag) + 8 - 2*line,
		"out.sent":                   unsafe.Offsetof(a.out.sent) + 8 - 2*line,
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
