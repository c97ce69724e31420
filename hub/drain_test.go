// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

func TestDrainSendsEverybodyAwaySpread(t *testing.T) {
	const agents, slots = 200, 10
	inBubble(t, hub.Policy{Limits: hub.Limits{UnconnectedPerIP: hub.Unlimited}}, func(b *bubble) {
		peers := make([]*hubtest.Peer, agents)
		for i := range peers {
			peers[i] = b.join("news")
		}
		d := b.hub.Drain(5 * time.Second)
		want(t, "agents", d.Agents, agents)
		want(t, "cut", d.Cut, 0)
		if d.Took > time.Second {
			t.Errorf("all are there to answer, and it took %v", d.Took)
		}
		from, to := hub.ComeBackWindow(agents)
		var in [slots]int
		for _, p := range peers {
			in[min(int((b.wantSentAway(p, agents)-from)*slots/(to-from)), slots-1)]++
		}
		for i, n := range in {
			if n < agents*5/100 || n > agents*15/100 {
				t.Errorf("slot %d of %d of the window has %d of %d agents: %v", i+1, slots, n, agents, in)
			}
		}
	})
}

func TestComeBackWindowGrowsWithTheCrowd(t *testing.T) {
	for agents, want := range map[int]time.Duration{0: time.Second, 6: time.Second, 500: time.Second, 2000: 4 * time.Second, 10_000: 20 * time.Second, 1_000_000: time.Minute} {
		from, to := hub.ComeBackWindow(agents)
		if from != time.Second || to-from != want {
			t.Errorf("%d agents come back from %v to %v, want for %v from 1s on", agents, from, to, want)
		}
	}
}

// Drain writes the queues, then the notice, and accepts no further messages.
func TestDrainFlushes(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		slow, publisher := b.join("news"), b.join()
		slow.Conn.Stall(true)
		for _, n := range []string{"1", "2", "3"} {
			publisher.Send(publish("news", n, n))
		}
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			slow.Conn.Stall(false)
		}()
		go func() {
			time.Sleep(500 * time.Millisecond)
			_, err := b.hub.Open(b.policy, hub.Opening{})
			r, ok := errors.AsType[*hub.Refusal](err)
			if !ok || r.Code != hub.CodeUnavailable || r.Retry <= 0 || r.Reason == "" {
				t.Errorf("a session while the hub drains: %v, want it refused, with advice", err)
			}
		}()
		d := b.hub.Drain(5 * time.Second)
		want(t, "cut", d.Cut, 0)
		if d.Took < time.Second || d.Took > 2*time.Second {
			t.Errorf("it took %v, with one that reads after a second", d.Took)
		}
		lines := slow.Conn.Lines()
		if len(lines) != 4 || !slices.Equal(lines[:3], []string{message("news", "1", "1"), message("news", "2", "2"), message("news", "3", "3")}) {
			t.Errorf("got %q, want three messages and the notice", lines)
		}
	})
}

// Agents that do not read, and agents that do not leave, do not make Drain exceed its
// time.
func TestDrainEndsInTime(t *testing.T) {
	for _, within := range []time.Duration{time.Second, 5 * time.Second} {
		inBubble(t, hub.Policy{}, func(b *bubble) {
			stuck, deaf, well := b.join("news"), &stayer{Conn: hubtest.NewConn()}, b.join("news")
			stuck.Conn.Stall(true)
			b.join().Send(publish("news", "1", "1"))
			a, err := b.hub.Open(b.policy, hub.Opening{})
			if err != nil {
				t.Fatal(err)
			}
			a.Start(deaf)
			synctest.Wait()
			begun := time.Now()
			d := b.hub.Drain(within)
			if took := time.Since(begun); took > within+100*time.Millisecond {
				t.Errorf("it took %v of %v", took, within)
			}
			want(t, "agents", d.Agents, 4)
			want(t, "cut", d.Cut, 1)
			if !deaf.WasCut() || well.Conn.WasCut() {
				t.Error("the wrong ones were cut")
			}
			a.Left("cut")
		})
	}
}

// A stayer does not end when the hub closes it.
type stayer struct{ *hubtest.Conn }

func (s *stayer) Close(hub.CloseCode, string) {}

func TestDrainWaitsForDisconnectGates(t *testing.T) {
	told := 0
	g := &gates{ask: asked{hub.GateDisconnect: func(context.Context, *hub.Question) hub.Verdict {
		time.Sleep(300 * time.Millisecond)
		told++
		return hub.Allow
	}}}
	inBubble(t, hub.Policy{Gates: g}, func(b *bubble) {
		b.join()
		b.hub.Drain(5 * time.Second)
		want(t, "told", told, 1)
	})
}

// An agent that is already closing keeps its deadline, unless the drain ends earlier.
func TestDrainOfThoseWhoAreBeingClosed(t *testing.T) {
	for within, most := range map[time.Duration]time.Duration{time.Second: time.Second, 20 * time.Second: 3 * time.Second} {
		inBubble(t, hub.Policy{}, func(b *bubble) {
			stuck := b.join("news")
			stuck.Conn.Stall(true)
			b.join().Send(publish("news", "1", "1"))
			synctest.Wait()
			stuck.Agent.Close(hub.CloseCut, "cut", time.Second)
			d := b.hub.Drain(within)
			want(t, "cut", d.Cut, 0)
			if d.Took >= most {
				t.Errorf("of %v it took %v", within, d.Took)
			}
		})
	}
}

func TestDrainWithoutAgents(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		if d := b.hub.Drain(5 * time.Second); d.Agents != 0 || d.Took > time.Second {
			t.Errorf("%+v", d)
		}
	})
}
