// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
	"github.com/push-it/pushit/hub/hubtest"
)

// A clusterNode is a hub in a synctest bubble that shares its log with others.
type clusterNode struct {
	*bubble
	*brokertest.Node
}

// inCluster calls f in a synctest bubble with a hub on each of n nodes of a cluster.
func inCluster(t *testing.T, n int, policy hub.Policy, f func(t *testing.T, c *brokertest.Cluster, nodes []clusterNode)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := brokertest.NewCluster()
		var nodes []clusterNode
		for i := range n {
			nodes = append(nodes, startNode(t, c, string(rune('a'+i)), policy))
		}
		f(t, c, nodes)
	})
}

// startNode starts a hub. It is closed when the test ends.
func startNode(t *testing.T, c *brokertest.Cluster, name string, policy hub.Policy) clusterNode {
	t.Helper()
	n := c.Node(name)
	h, err := hub.New("test", n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		synctest.Wait()
	})
	policy.Mount = "test /push"
	return clusterNode{&bubble{T: t, hub: h, policy: h.Use(&policy)}, n}
}

// joinAs opens a session with an agentId.
func (n clusterNode) joinAs(id string, channels ...string) *hubtest.Peer {
	n.Helper()
	p := n.open()
	p.Send(connect(id))
	n.want(p, connected(id))
	for _, ch := range channels {
		p.Send(subscribe(ch))
		if got := n.frames(p); len(got) != 1 || got[0].Error != "" {
			n.Fatalf("subscribing %s to %s: %+v", id, ch, got)
		}
	}
	return p
}

// data returns the data of the messages among frames.
func data(frames []positioned) (list []string) {
	for _, f := range frames {
		if f.Data != nil && f.Channel[0] != '/' {
			list = append(list, string(f.Data))
		}
	}
	return list
}

// All agents at all nodes get the messages of a channel in the same order, and those of one
// publisher in its order, whether the channel has a history or not (R31).
func TestAllNodesHaveOneOrder(t *testing.T) {
	const each = 40
	for name, policy := range map[string]hub.Policy{"history": {Histories: kept{Count: 1000, TTL: time.Hour}}, "none": {}} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 3, policy, func(t *testing.T, _ *brokertest.Cluster, nodes []clusterNode) {
				var subscribers, publishers []*hubtest.Peer
				for i, n := range nodes {
					subscribers = append(subscribers, n.joinAs(fmt.Sprint("subscriber", i), "news"), n.joinAs(fmt.Sprint("all", i), "*"))
					publishers = append(publishers, n.joinAs(fmt.Sprint("publisher", i)))
				}
				var all sync.WaitGroup
				for i, p := range publishers {
					all.Go(func() {
						for n := range each {
							p.Send(publish("news", fmt.Sprintf("u%d-%d", i, n), fmt.Sprint(1000*i+n)))
						}
					})
				}
				all.Wait()
				want := data(nodes[0].frames(subscribers[0]))
				if len(want) != each*len(nodes) {
					t.Fatalf("%d of %d messages came", len(want), each*len(nodes))
				}
				for i := range publishers {
					var own []string
					for n := range each {
						own = append(own, fmt.Sprint(1000*i+n))
					}
					if got := slices.DeleteFunc(slices.Clone(want), func(d string) bool { return !slices.Contains(own, d) }); !slices.Equal(got, own) {
						t.Errorf("publisher %d sent %v, and %v came", i, own, got)
					}
				}
				for i, p := range subscribers[1:] {
					if got := data(nodes[0].frames(p)); !slices.Equal(got, want) {
						t.Errorf("subscriber %d got %v, another one %v", i+1, got, want)
					}
				}
			})
		})
	}
}

// An agent whose machine dies goes on at another one, with the positions that it has: it
// misses nothing, and gets nothing twice (R58).
func TestAgentsRecoverAtAnotherNode(t *testing.T) {
	policy := hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}}
	inCluster(t, 3, policy, func(t *testing.T, c *brokertest.Cluster, nodes []clusterNode) {
		a, b, late := nodes[0], nodes[1], nodes[2]
		publisher := b.joinAs("publisher")
		said := 0
		say := func(n int) {
			t.Helper()
			for range n {
				said++
				publisher.Send(publish("news", fmt.Sprint("u", said), fmt.Sprint(said)))
				if got := b.frames(publisher); len(got) != 1 || got[0].Channel != "/meta/successful" || got[0].Position == "" {
					t.Fatalf("publishing: %+v", got)
				}
			}
		}
		reader := a.joinAs("reader", "news")
		say(3)
		got := a.frames(reader)
		position := got[2].Position
		// resume checks what an agent that comes from that position gets at a node.
		resume := func(at clusterNode, recovered bool, reason string, want ...string) *hubtest.Peer {
			t.Helper()
			p := at.joinAs("reader")
			p.Send(subscribeSince("news", `"position":"`+position+`"`))
			got := at.frames(p)
			if len(got) == 0 || got[0].Recovered == nil || *got[0].Recovered != recovered || got[0].Reason != reason || !slices.Equal(data(got), want) {
				t.Errorf("it got %+v, want recovered %t %q and %v", got, recovered, reason, want)
			}
			return p
		}
		late.HoldLog(true) // it has the first three
		say(2)
		a.Kill()
		reader.Leave()
		resume(b, true, "", "4", "5").Leave()
		again := startNode(t, c, "a", policy)
		resume(again, true, "", "4", "5").Leave()

		// late does not know 4 and 5 yet. An agent that has them gets neither twice.
		resume(late, true, "").Leave()
		newest := c.Last()
		ahead := late.joinAs("ahead")
		ahead.Send(subscribeSince("news", fmt.Sprintf(`"position":"%s.%d"`, epochOf(position), newest)))
		if got := late.frames(ahead); len(got) != 1 || got[0].Recovered == nil || !*got[0].Recovered {
			t.Errorf("an agent that is ahead of its machine: %+v", got)
		}
		behind := resume(late, true, "")
		say(1)
		late.HoldLog(false)
		if got := data(late.frames(ahead)); !slices.Equal(got, []string{"6"}) {
			t.Errorf("an agent that was ahead got %v", got)
		}
		if got := data(late.frames(behind)); !slices.Equal(got, []string{"4", "5", "6"}) {
			t.Errorf("an agent that waited for its machine got %v", got)
		}

		// What a machine has lost it does not pretend to have. Its agents come back.
		late.HoldLog(true)
		say(2)
		c.Evict(c.Last() - 1)
		idle := late.joinAs("idle")
		late.HoldLog(false)
		for _, p := range []*hubtest.Peer{ahead, behind} {
			wasSentBack(t, p)
		}
		if got := late.frames(idle); len(got) > 0 {
			t.Errorf("an agent without subscriptions got %+v", got)
		}
		resume(late, false, "age", "4", "5", "6", "8")
		atB := resume(b, true, "", "4", "5", "6", "7", "8")
		c.Replace()
		wasSentBack(t, atB)
		resume(late, false, "epoch")
		resume(b, false, "epoch")
	})
}

// wasSentBack checks that the agent was closed, because it has missed messages, and told when
// to come back. It got nothing else.
func wasSentBack(t *testing.T, p *hubtest.Peer) {
	t.Helper()
	synctest.Wait()
	got := p.Conn.Lines()
	if code, _, _ := p.Conn.Closed(); code != hub.CloseUnavailable || len(got) != 1 || !strings.Contains(got[0], `"retry":`) {
		t.Errorf("an agent that has missed a message got %q and %d", got, code)
	}
}

func epochOf(position string) hub.Epoch {
	p, _ := hub.ParsePosition(position)
	return p.Epoch
}

// A publish that is repeated at another machine is not published twice (R33).
func TestRepeatsAtAnotherNode(t *testing.T) {
	inCluster(t, 2, hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}}, func(t *testing.T, _ *brokertest.Cluster, nodes []clusterNode) {
		a, b := nodes[0], nodes[1]
		reader := b.joinAs("reader", "news")
		at := func(n clusterNode, id string) func(frame string) positioned {
			p := n.joinAs(id)
			return func(frame string) positioned {
				t.Helper()
				p.Send(frame)
				got := n.frames(p)
				if len(got) != 1 {
					t.Fatalf("the answer to %s is %+v", frame, got)
				}
				return got[0]
			}
		}
		atA, atB := at(a, "page"), at(b, "page")
		first := atA(publish("news", "u1", "1"))
		if again := atB(publish("news", "u1", "1")); again.Channel != "/meta/successful" || again.Position != first.Position || first.Position == "" {
			t.Errorf("the repeat is answered %+v, the first %+v", again, first)
		}
		if other := atB(publish("news", "u1", "2")); other.Code != string(hub.CodeInvalid) {
			t.Errorf("other data with the same uuid: %+v", other)
		}
		if other := at(b, "another-page")(publish("news", "u1", "2")); other.Channel != "/meta/successful" {
			t.Errorf("the uuid of another page: %+v", other)
		}
		// The log has taken it, but the machine did not hear that, and dies: the page repeats
		// it at the other one.
		a.FailPublishes(func(*hub.Message) brokertest.PublishFault { return brokertest.PublishUnanswered })
		if r := atA(publish("news", "u2", "3")); r.Code != string(hub.CodeUnavailable) {
			t.Errorf("nobody knows whether it was published: %+v", r)
		}
		a.FailPublishes(nil)
		if r := atA(publish("news", "u2", "3")); r.Channel != "/meta/successful" || r.Position == "" {
			t.Errorf("the repeat at the same machine: %+v", r)
		}
		if r := atB(publish("news", "u2", "3")); r.Channel != "/meta/successful" {
			t.Errorf("the repeat at the other machine: %+v", r)
		}
		if got := data(b.frames(reader)); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("the reader got %v", got)
		}
		time.Sleep(3 * time.Minute) // R33 promises 2
		if r := at(b, "page")(publish("news", "u2", "4")); r.Channel != "/meta/successful" {
			t.Errorf("a uuid of three minutes ago: %+v", r)
		}
	})
}

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

// A machine that has not applied what an agent got elsewhere waits a while for it: the agent is
// not told that messages may be missing, and gets none twice. Nobody else waits.
func TestPositionsAheadOfTheirMachine(t *testing.T) {
	policy := hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}}
	inCluster(t, 2, policy, func(t *testing.T, _ *brokertest.Cluster, nodes []clusterNode) {
		a, late := nodes[0], nodes[1]
		publisher := a.joinAs("publisher", "news")
		position := ""
		say := func(n int) {
			t.Helper()
			publisher.Send(publish("news", fmt.Sprint("u", n), fmt.Sprint(n)))
			position = a.frames(publisher)[0].Position
		}
		say(1)
		late.Hang(true) // it gets nothing, and does not know that
		say(2)
		reader, pages := late.joinAs("reader"), late.joinAs("pages")
		reader.Send(subscribeSince("news", `"position":"`+position+`"`))
		pages.Send(`{"channel":"/meta/history","data":{"channel":"news","before":"` + position + `"},"uuid":"h"}`)
		feed := make(chan *hub.Feed)
		go func() {
			f, err := hub.NewInside(late.hub, "").Listen(t.Context(), hub.Listening{Channels: []string{"news"}, Position: position})
			if err != nil {
				t.Error(err)
			}
			feed <- f
		}()
		reader.Send(subscribe("other"))
		if got := late.frames(reader); len(got) != 1 || got[0].Recovered != nil {
			t.Errorf("before the machine has come to the position: %+v", got)
		}
		if got := late.frames(pages); len(got) != 0 {
			t.Errorf("before the machine has come to the page: %+v", got)
		}
		time.Sleep(time.Second)
		late.Hang(false)
		if f := <-feed; f == nil || len(f.Begun.Gaps) > 0 {
			t.Errorf("a feed begins with %+v", f)
		} else {
			defer f.Close()
		}
		say(3)
		if got := late.frames(reader); len(got) != 2 || got[0].Recovered == nil || !*got[0].Recovered || !slices.Equal(data(got), []string{"3"}) {
			t.Errorf("when the machine has come to the position: %+v", got)
		}
		if got := late.frames(pages); len(got) != 1 || got[0].Reason != "" {
			t.Errorf("when the machine has come to the page: %+v", got)
		}

		// No machine comes to a position that the log has lost.
		begun := time.Now()
		lost := late.joinAs("lost")
		lost.Send(subscribeSince("news", `"position":"`+string(epochOf(position))+`.99"`))
		lost.Send(`{"channel":"/meta/unsubscribe","data":{"channel":"news"},"uuid":"u"}`)
		if got := late.frames(lost); len(got) != 0 {
			t.Errorf("at once: %+v", got)
		}
		time.Sleep(5 * time.Second)
		got := late.frames(lost)
		if len(got) != 2 || got[0].Recovered == nil || *got[0].Recovered || got[0].Reason != "epoch" {
			t.Errorf("after %v: %+v", time.Since(begun), got)
		}
		// Who leaves does not wait.
		gone := late.joinAs("gone")
		gone.Send(subscribeSince("news", `"position":"`+string(epochOf(position))+`.99"`))
		synctest.Wait()
		gone.Leave()
	})
}
