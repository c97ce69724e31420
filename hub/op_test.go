// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"testing"
)

func TestOpsAreReadyInTheOrderOfTheirChannel(t *testing.T) {
	first, second, other := &op{channel: "a"}, &op{channel: "a"}, &op{channel: "b"}
	w := &ops{pending: []*op{first, second, other}}
	if w.ready() != nil {
		t.Error("something is ready that was not decided")
	}
	second.decided = true
	if w.ready() != nil {
		t.Error("the second of a channel is ready before the first")
	}
	other.decided = true
	if w.ready() != other {
		t.Error("another channel waits")
	}
	first.decided = true
	for i, want := range []*op{first, second, other} {
		if o := w.ready(); o != want {
			t.Fatalf("%d: %v is ready", i, o)
		}
		w.remove(want)
	}
	if w.ready() != nil || w.isPending("a") {
		t.Error("something is left")
	}
	if (*ops)(nil).isPending("a") {
		t.Error("an agent that has asked nothing waits")
	}
}

func TestHeldFramesAreBounded(t *testing.T) {
	var h heldFrames
	frame := []byte("1")
	for n := range maxHeld {
		frame[0] = byte(n)
		if !h.add(frame) {
			t.Fatalf("frame %d is not held", n)
		}
	}
	if h.add(frame) {
		t.Error("more frames are held than may be")
	}
	for n := range maxHeld {
		if got := h.take(); !bytes.Equal(got, []byte{byte(n)}) {
			t.Fatalf("frame %d is %v", n, got)
		}
	}
	if h.take() != nil || h.bytes != 0 {
		t.Errorf("%d bytes are left", h.bytes)
	}
	if !h.add(make([]byte, maxHeldBytes)) || h.add([]byte("x")) {
		t.Error("the limit of bytes is another")
	}
}
