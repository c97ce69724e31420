// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"
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

// A backend is a gate that takes a second. It decides about connects and subscriptions.
type backend struct{ Gates }

func (b backend) Gate(name GateName, _ string) Gate {
	if name == GateConnect || name == GateSubscribe {
		return b
	}
	return nil
}
func (backend) DeliverGate(string) DeliverGate { return nil }
func (backend) Timeout() time.Duration         { return time.Minute }
func (backend) Decide(context.Context, *Question) Verdict {
	time.Sleep(time.Second)
	return Allow
}

// A silent Conn takes everything.
type silent struct{}

func (silent) Form() *Form                      { return feedForm }
func (silent) TryWrite(p []byte) (int, error)   { return len(p), nil }
func (silent) Write(p []byte) (int, error)      { return len(p), nil }
func (silent) SetWriteDeadline(time.Time) error { return nil }
func (silent) Close(CloseCode, string)          {}

// An agent that waits for no gate holds no context for questions.
func TestIdleAgentsHaveNoOps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		a, err := h.Open(h.Use(&Policy{Mount: "test", Gates: backend{}}), Opening{})
		if err != nil {
			t.Fatal(err)
		}
		a.Start(silent{})
		defer a.Left("the end")
		for _, frame := range []string{
			`{"channel":"/meta/connect","uuid":"1","agentId":"ann"}`,
			`{"channel":"/meta/subscribe","uuid":"2","data":{"channel":"news"}}`,
			`{"channel":"/meta/connect","uuid":"3","agentId":"ann"}`, // has the gate subscribe asked again
		} {
			a.Receive([]byte(frame))
			synctest.Wait()
			a.mu.Lock()
			if a.ops == nil {
				t.Errorf("%s: nothing waits for the gate", frame)
			}
			a.mu.Unlock()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			a.mu.Lock()
			if a.ops != nil || a.state != stateConnected {
				t.Errorf("%s: the gate has answered, but %+v is held in state %d", frame, a.ops, a.state)
			}
			a.mu.Unlock()
		}
		if a.mu.Lock(); len(a.leases.subs) != 1 {
			t.Errorf("%d subscriptions, want 1", len(a.leases.subs))
		}
		a.mu.Unlock()
	})
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
