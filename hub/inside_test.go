// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// keepsAll keeps messages of every channel that does not begin with "lost".
type keepsAll struct{}

func (keepsAll) History(channel string) hub.HistoryRule {
	if strings.HasPrefix(channel, "lost") {
		return hub.HistoryRule{}
	}
	return hub.HistoryRule{Count: 5, TTL: time.Hour}
}

// denyEverything denies every operation of agents.
var denyEverything = func() hub.Gates {
	no := func(context.Context, *hub.Question) hub.Verdict { return denied("no") }
	return &gates{
		ask:     asked{hub.GateConnect: no, hub.GateSubscribe: no, hub.GatePublish: no, hub.GateAPI: no},
		deliver: func(*hub.Agent, *hub.Message) *hub.Message { return nil },
	}
}()

// listenInside reads a feed in a goroutine of its own. The result yields what has come so
// far since its last call.
func (b *bubble) listenInside(ctx context.Context, l hub.Listening) (*hub.Feed, func() []string) {
	b.Helper()
	f, err := hub.NewInside(b.hub, "").Listen(ctx, l)
	if err != nil {
		b.Fatal(err)
	}
	got := make(chan string, 1000)
	go func() {
		for m := range f.All() {
			got <- m.Channel + " " + m.UUID + " " + string(m.Data)
		}
		got <- fmt.Sprint("end: ", f.Err())
	}()
	return f, func() (all []string) {
		synctest.Wait()
		for {
			select {
			case m := <-got:
				all = append(all, m)
			default:
				return all
			}
		}
	}
}

// A program inside publishes to agents and to other programs, and listens to channels and
// patterns, whatever the gates say. It begins with what is kept.
func TestInsideNoGateIsAsked(t *testing.T) {
	inBubble(t, hub.Policy{Gates: denyEverything, Histories: keepsAll{}}, func(b *bubble) {
		in := hub.NewInside(b.hub, "")
		if _, r := in.Publish(b.Context(), hub.Publication{Channels: []string{"news"}, UUID: "u0", Data: []byte("0")}); r != nil {
			b.Fatal(r)
		}
		f, came := b.listenInside(b.Context(), hub.Listening{Channels: []string{"news", "lost/*"}, Last: 10})
		receipt, r := in.Publish(b.Context(), hub.Publication{Channels: []string{"news", "lost/1"}, UUID: "u1", Data: []byte(`{"n": 1}`)})
		if r != nil || receipt.Subscriptions != 2 {
			b.Errorf("%+v, %v", receipt, r)
		}
		again, r := in.Publish(b.Context(), hub.Publication{Channels: []string{"news", "lost/1"}, UUID: "u1", Data: []byte(`{"n": 1}`)})
		if r != nil || !again.Repeated {
			b.Errorf("%+v, %v", again, r)
		}
		if got, want := came(), []string{"news u0 0", `news u1 {"n": 1}`, `lost/1 u1 {"n": 1}`}; !slices.Equal(got, want) {
			b.Errorf("the feed got %q, want %q", got, want)
		}
		if f.Begun.Channels != 2 || f.Begun.Position == "" || b.hub.Agents() != 1 {
			b.Errorf("begun with %+v, %d agents", f.Begun, b.hub.Agents())
		}
		time.Sleep(time.Hour) // it sends no sign of life, and needs none
		f.Close()
		if got := came(); !slices.Equal(got, []string{"end: <nil>"}) {
			b.Errorf("after the end: %q", got)
		}
		if n := b.hub.Agents(); n != 0 {
			b.Errorf("%d agents are left", n)
		}
	})
}

// A namespace is another world.
func TestInsideANamespace(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		_, came := b.listenInside(b.Context(), hub.Listening{Channels: []string{"news"}})
		if _, r := hub.NewInside(b.hub, "acme").Publish(b.Context(), hub.Publication{Channels: []string{"news"}}); r != nil {
			b.Fatal(r)
		}
		if got := came(); got != nil {
			b.Errorf("another namespace got %q", got)
		}
	})
}

// A feed ends with its context, with the hub, and if nobody reads it. None is left.
func TestInsideFeedsEnd(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{QueueMessages: 10}}, func(b *bubble) {
		ctx, cancel := context.WithCancel(b.Context())
		_, came := b.listenInside(ctx, hub.Listening{Channels: []string{"news"}})
		cancel()
		if got := came(); !slices.Equal(got, []string{"end: <nil>"}) {
			b.Errorf("after its context: %q", got)
		}

		idle, err := hub.NewInside(b.hub, "").Listen(b.Context(), hub.Listening{Channels: []string{"news"}})
		if err != nil {
			b.Fatal(err)
		}
		_, came = b.listenInside(b.Context(), hub.Listening{Channels: []string{"news"}})
		for n := range 50 {
			if _, r := hub.NewInside(b.hub, "").Publish(b.Context(), hub.Publication{Channels: []string{"news"}, Data: fmt.Append(nil, n)}); r != nil {
				b.Fatal(r)
			}
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		if got := len(came()); got != 50 {
			b.Errorf("the one that reads got %d of 50", got)
		}
		n := 0
		for range idle.All() {
			n++
		}
		var r *hub.Refusal
		if !errors.As(idle.Err(), &r) || r.Code != hub.CodeLimit || n == 50 {
			b.Errorf("the one that does not read got %d, and ended with %v", n, idle.Err())
		}

		b.hub.Drain(time.Second)
		if got := came(); len(got) != 1 || !strings.Contains(got[0], "going away") {
			b.Errorf("after the hub: %q", got)
		}
		if _, err := hub.NewInside(b.hub, "").Listen(b.Context(), hub.Listening{Channels: []string{"news"}}); err == nil {
			b.Error("a hub that stops begins a feed")
		}
		if _, r := hub.NewInside(b.hub, "").Publish(b.Context(), hub.Publication{Channels: []string{"news"}}); r == nil || r.Code != hub.CodeUnavailable {
			b.Errorf("a hub that stops takes a message: %v", r)
		}
	})
}

func TestInsideRefuses(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		in := hub.NewInside(b.hub, "")
		for _, p := range []hub.Publication{
			{},
			{Channels: make([]string, 17)},
			{Channels: []string{"a//b"}},
			{Channels: []string{"a/*"}},
			{Channels: []string{"a"}, Data: []byte("{")},
			{Channels: []string{"a"}, Data: []byte("1 2")},
		} {
			if _, r := in.Publish(b.Context(), p); r == nil || r.Code != hub.CodeInvalid {
				b.Errorf("%+v: %v", p, r)
			}
		}
		if _, r := in.Publish(b.Context(), hub.Publication{Channels: []string{"a"}, Data: []byte(`"` + strings.Repeat("x", 1<<17) + `"`)}); r == nil || r.Code != hub.CodeTooLarge {
			b.Errorf("too large: %v", r)
		}
		for _, l := range []hub.Listening{{}, {Channels: []string{"a/"}}, {Channels: []string{"*/a"}}} {
			if f, err := in.Listen(b.Context(), l); err == nil {
				b.Errorf("%q: it listens: %+v", l.Channels, f)
			}
		}
		synctest.Wait()
		if n := b.hub.Agents(); n != 0 {
			b.Errorf("%d agents are left", n)
		}
	})
}

func TestHistoryFromInside(t *testing.T) {
	inBubble(t, hub.Policy{Histories: keepsAll{}}, func(b *bubble) {
		for n := range 5 {
			if _, r := hub.NewInside(b.hub, "").Publish(b.Context(), hub.Publication{Channels: []string{"news"}, UUID: fmt.Sprint("u", n), Data: fmt.Append(nil, n)}); r != nil {
				b.Fatal(r)
			}
		}
		var got []string
		for before := ""; ; {
			page, r := hub.NewInside(b.hub, "").History("news", before, 2)
			if r != nil {
				b.Fatal(r)
			}
			for _, m := range slices.Backward(page.Messages) {
				got = append(got, m.UUID+string(m.Data))
			}
			if before = page.Before; before == "" {
				break
			}
		}
		if strings.Join(got, " ") != "u44 u33 u22 u11 u00" {
			b.Errorf("%q", got)
		}
		if _, r := hub.NewInside(b.hub, "").History("news", "nonsense", 2); r == nil || r.Code != hub.CodeInvalid {
			b.Errorf("a position that there is not: %v", r)
		}
	})
}

func TestMembersFromInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, roomPolicy(hub.PresenceRule{}))
		defer r.hub.Close()
		var peers []*hubtest.Peer
		for _, user := range []string{"alice", "alice", "bob", ""} {
			peers = append(peers, r.enter(user, watchesRoom))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		members, next := hub.NewInside(r.hub, "").Members("room", 0)
		written, err := json.Marshal(members)
		want := fmt.Sprintf(`[{"user":"alice","tabs":2},{"user":"bob","tabs":1},{"agent":%q,"tabs":1}]`, peers[3].Agent.UUID())
		if err != nil || string(written) != want || next != 0 {
			t.Errorf("%s, next %d, %v; want %s", written, next, err, want)
		}
		for _, p := range peers {
			p.Leave()
		}
	})
}
