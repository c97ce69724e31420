// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"context"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/natsserver"
)

// knows reports whether a node has heard of another one.
func (u *bus) knows(id hub.NodeID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.peers[id] != nil
}

// A node that was killed and has started again is not announced at once, but it serves at once, so
// it is asked.
func TestAskNodesThatStartAgain(t *testing.T) {
	t.Parallel()
	o := Options{Hub: "again", URLs: []string{natsserver.New(t, "").URL()}, Log: logger(t)}
	o.Node = "a"
	a := started(t, o)
	o.Node = "b"
	first := started(t, o)
	await(t, "the first one", func() bool { return a.bus.knows(first.bus.self) })
	first.bus.calls <- func() { first.bus.ended = true } // it says nothing more
	again := started(t, o)
	again.bus.Handle("who", func(context.Context, hub.NodeID, []byte) []byte { return []byte("me") })
	await(t, "the second one", func() bool { return a.bus.knows(again.bus.self) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found := false
	if err := a.bus.Ask(ctx, "who", nil, func(hub.NodeID, []byte) bool { found = true; return false }); err != nil || !found {
		t.Errorf("found: %t, %v", found, err)
	}
}

// Nobody takes a node that has said goodbye for one that is up again.
func TestGoodbyeIsTheLast(t *testing.T) {
	t.Parallel()
	o := Options{Hub: "bye", URLs: []string{natsserver.New(t, "").URL()}, Log: logger(t)}
	a, b := started(t, o), started(t, o)
	await(t, "each other", func() bool { return a.bus.knows(b.bus.self) && b.bus.knows(a.bus.self) })
	over := make(chan struct{})
	a.bus.Handle("over", func(context.Context, hub.NodeID, []byte) []byte {
		close(over)
		return nil
	})
	b.bus.sayGoodbye()
	b.bus.calls <- b.bus.beat
	b.bus.calls <- func() {
		if err := b.bus.Broadcast("over", nil); err != nil {
			t.Error(err)
		}
	}
	<-over
	if a.bus.knows(b.bus.self) {
		t.Error("it is up")
	}
}
