// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
)

// The Cluster passes the tests of all Brokers.
func TestCluster(t *testing.T) {
	brokertest.Run(t, clusterLog)
}

func clusterLog(*testing.T) brokertest.Log {
	c := brokertest.NewCluster()
	started := 0
	return brokertest.Log{
		Open: func(testing.TB) hub.Broker {
			started++
			return c.Node(fmt.Sprint("node", started))
		},
		Lasts:   true,
		Replace: func(testing.TB) { c.Replace() },
		Node:    func(_ testing.TB, name string) hub.Broker { return c.Node(name) },
		Kill:    func(b hub.Broker) { b.(*brokertest.Node).Kill() },
	}
}

// A sink is a hub.Sink that notes what it gets.
type sink struct {
	events []string
}

func (s *sink) note(format string, args ...any) {
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

func (s *sink) Entry(seq uint64, _ time.Time, m *hub.Message) { s.note("%d %s", seq, m.UUID) }
func (s *sink) Reset(_ hub.Epoch, first, head uint64)         { s.note("reset %d %d", first, head) }
func (s *sink) Floor(string, uint64, string)                  { s.note("floor") }
func (s *sink) Lost(from, to uint64)                          { s.note("lost %d %d", from, to) }
func (s *sink) Behind(behind bool)                            { s.note("behind %t", behind) }

func (s *sink) want(t *testing.T, events ...string) {
	t.Helper()
	synctest.Wait()
	if fmt.Sprint(s.events) != fmt.Sprint(events) {
		t.Errorf("got %q, want %q", s.events, events)
	}
	s.events = nil
}

// start starts a node of c in a bubble.
func start(t *testing.T, c *brokertest.Cluster, name string) (*brokertest.Node, *sink) {
	t.Helper()
	n, s := c.Node(name), new(sink)
	if err := n.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n, s
}

func say(t *testing.T, n *brokertest.Node, uuid string) {
	t.Helper()
	if _, err := n.Publish(t.Context(), kept(uuid)); err != nil {
		t.Error(err)
	}
}

func kept(uuid string) *hub.Message {
	return hub.NewMessage("a", uuid, nil).Keep(hub.HistoryRule{Count: 10, TTL: time.Minute})
}

// The faults of the log do what they say.
func TestLogFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := brokertest.NewCluster()
		a, atA := start(t, c, "a")
		b, atB := start(t, c, "b")
		atA.want(t, "reset 1 0")
		atB.want(t, "reset 1 0")

		b.HoldLog(true)
		for _, uuid := range []string{"u1", "u2", "u3"} {
			say(t, a, uuid)
		}
		atA.want(t, "1 u1", "2 u2", "3 u3")
		atB.want(t, "behind true")
		c.Evict(2)
		b.HoldLog(false)
		atB.want(t, "lost 1 2", "3 u3", "behind false")

		b.Hang(true)
		say(t, a, "u4")
		atA.want(t, "4 u4")
		atB.want(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Publish(ctx, kept("hangs")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a node that hangs publishes: %v", err)
		}
		b.Hang(false)
		atB.want(t, "4 u4")

		faults := map[string]brokertest.PublishFault{"u5": brokertest.PublishRefused, "u6": brokertest.PublishLost, "u7": brokertest.PublishUnanswered}
		b.FailPublishes(func(m *hub.Message) brokertest.PublishFault { return faults[m.UUID] })
		for uuid, fault := range faults {
			if _, err := b.Publish(t.Context(), kept(uuid)); err == nil || errors.Is(err, hub.ErrUnknown) == (fault == brokertest.PublishRefused) {
				t.Errorf("fault %d is %v", fault, err)
			}
		}
		atA.want(t, "5 u7")
		say(t, a, "u7")
		b.FailPublishes(nil)
		say(t, b, "u6")
		atB.want(t, "5 u7", "6 u6")

		atA.want(t, "6 u6")

		c.Replace()
		atA.want(t, "reset 1 0")
		say(t, a, "u1")
		atA.want(t, "1 u1")
		a.Kill()
		if _, err := a.Publish(t.Context(), kept("dead")); err == nil || errors.Is(err, hub.ErrUnknown) {
			t.Errorf("a node that was killed publishes: %v", err)
		}
		say(t, b, "u2")
		_, again := start(t, c, "a")
		again.want(t, "reset 1 2", "1 u1", "2 u2")
		atA.want(t)
	})
}

// The faults of the bus do what they say, and no sooner.
func TestBusFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := brokertest.NewCluster()
		a, _ := start(t, c, "a")
		b, _ := start(t, c, "b")
		var mu sync.Mutex // guards the following
		var events []string
		begun := time.Now()
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprintf(format, args...)+fmt.Sprintf(" after %v", time.Since(begun).Round(time.Second)))
		}
		for _, n := range []*brokertest.Node{a, b} {
			n.Watch(func(id hub.NodeID, up bool) {
				note("%s: %s %t", n.Self().Name, id.Name, up)
			})
			n.Handle("t", func(_ context.Context, from hub.NodeID, b []byte) []byte {
				note("%s: %s of %s", n.Self().Name, b, from.Name)
				return b
			})
		}
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(events) // what is of one moment has no order
			slices.Sort(want)
			if !slices.Equal(events, want) {
				t.Errorf("%s: got %q, want %q", what, events, want)
			}
			events, begun = nil, time.Now()
		}
		broadcast := func(n *brokertest.Node, text string) {
			t.Helper()
			if err := n.Broadcast("t", []byte(text)); err != nil {
				t.Error(err)
			}
		}
		want("the beginning", "a: b true after 0s", "b: a true after 0s")
		time.Sleep(time.Hour)
		want("an hour without a fault")

		b.LoseBroadcasts(func(_ string, b []byte) bool { return string(b) == "2" })
		b.DelayBroadcasts(2 * time.Second)
		for _, text := range []string{"1", "2", "3"} {
			broadcast(a, text)
		}
		time.Sleep(5 * time.Second)
		want("lost and late", "b: 1 of a after 2s", "b: 3 of a after 2s")
		b.DelayBroadcasts(0)

		b.CutBus(true)
		broadcast(a, "1")
		if b.Broadcast("t", nil) == nil {
			t.Error("a node that is cut off broadcasts")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Request(ctx, b.Self(), "t", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request to a node that is cut off: %v", err)
		}
		if _, err := b.Request(t.Context(), a.Self(), "t", nil); err == nil || errors.Is(err, hub.ErrNoNode) {
			t.Errorf("a request of a node that is cut off: %v", err)
		}
		time.Sleep(9*time.Second + 250*time.Millisecond) // between two heartbeats
		b.CutBus(false)
		time.Sleep(2 * time.Second)
		want("cut off", "a: b false after 3s", "a: b true after 11s")

		b.Hang(true)
		broadcast(a, "1")
		if _, err := a.Request(t.Context(), b.Self(), "t", []byte("2")); !errors.Is(err, hub.ErrNoAnswer) {
			t.Errorf("a request to a node that hangs: %v", err)
		}
		time.Sleep(10*time.Second + 250*time.Millisecond)
		b.Hang(false)
		time.Sleep(2 * time.Second)
		want("hung", "a: b false after 2s", "b: 1 of a after 13s", "b: 2 of a after 13s", "a: b true after 13s")

		b.Kill()
		broadcast(a, "1")
		if _, err := a.Request(t.Context(), b.Self(), "t", nil); !errors.Is(err, hub.ErrNoNode) {
			t.Errorf("a request to a node that was killed: %v", err)
		}
		start(t, c, "b")
		want("killed and started", "a: b false after 0s", "a: b true after 0s")
	})
}
