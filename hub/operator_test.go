// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
	"github.com/push-it/pushit/hub/hubtest"
)

// staff are gates that make an agent a user, with attributes, and count what is asked.
func staff(asked *atomic.Int32, allowed func() bool) *gates {
	decide := func(q *hub.Question) hub.Verdict {
		asked.Add(1)
		if !allowed() {
			return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "no longer"}}
		}
		id := q.Agent.AgentID()
		return hub.Verdict{Identity: &hub.Identity{
			User:       "user-" + id[:1],
			Claims:     map[string]any{"claim": "s3cret claim"},
			Attributes: map[string]any{"role": id[:1], "level": 7.0, "token": "s3cret attribute"},
		}}
	}
	return &gates{ask: map[hub.GateName]func(context.Context, *hub.Question) hub.Verdict{
		hub.GateConnect:   func(_ context.Context, q *hub.Question) hub.Verdict { return decide(q) },
		hub.GateSubscribe: func(_ context.Context, q *hub.Question) hub.Verdict { return decide(q) },
	}}
}

// operated opens the sessions of the tests: two of a, one of b, and one that is not connected.
func (n clusterNode) operated(name string) map[string]*hubtest.Peer {
	n.Helper()
	peers := make(map[string]*hubtest.Peer)
	for id, o := range map[string]hub.Opening{
		"a1":   {Transport: "websocket", RemoteIP: netip.MustParseAddr("192.0.2.1"), Namespace: "acme", Header: "Cookie:s3cret=1\n"},
		"a2":   {Transport: "xhr", RemoteIP: netip.MustParseAddr("192.0.2.200")},
		"b1":   {Transport: "websocket", RemoteIP: netip.MustParseAddr("::ffff:198.51.100.1")},
		"open": {Transport: "websocket", RemoteIP: netip.MustParseAddr("2001:db8::1")},
	} {
		p := hubtest.Open(n, n.hub, n.policy, o, hubtest.NewConn())
		peers[id] = p
		if id == "open" {
			continue
		}
		p.Send(connect(id+name), subscribe("news"), subscribe("rooms/*"))
		synctest.Wait()
		if got := p.Conn.Lines(); len(got) != 4 {
			n.Fatalf("%s got %q", id, got)
		}
	}
	synctest.Wait()
	peers["open"].Conn.Lines()
	return peers
}

func inOffice(t *testing.T, nodes int, f func(t *testing.T, all []clusterNode, asked *atomic.Int32, refuse func())) {
	t.Helper()
	var asked atomic.Int32
	var refused atomic.Bool
	policy := hub.Policy{
		Gates:     staff(&asked, func() bool { return !refused.Load() }),
		Histories: kept{Count: 10, TTL: time.Hour},
		Heartbeat: time.Hour, Handshake: time.Hour,
	}
	inCluster(t, nodes, policy, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
		f(t, all, &asked, func() { refused.Store(true) })
	})
}

func idsOf(page hub.AgentPage) (ids []string) {
	for _, a := range page.Agents {
		ids = append(ids, a.AgentID)
	}
	slices.Sort(ids)
	return ids
}

// A Selector selects agents on all machines, and says what is wrong with it.
func TestOperatorSelects(t *testing.T) {
	inOffice(t, 2, func(t *testing.T, all []clusterNode, _ *atomic.Int32, _ func()) {
		all[0].operated("x")
		peers := all[1].operated("y")
		o := all[0].hub.Operator()
		one := peers["a1"].Agent.UUID()
		for _, c := range []struct {
			s    hub.Selector
			want string
		}{
			{hub.Selector{}, "  a1x a1y a2x a2y b1x b1y"},
			{hub.Selector{All: true}, "  a1x a1y a2x a2y b1x b1y"},
			{hub.Selector{Agent: one}, "a1y"},
			{hub.Selector{AgentID: "a1x"}, "a1x"},
			{hub.Selector{User: "user-a"}, "a1x a1y a2x a2y"},
			{hub.Selector{User: "user"}, ""},
			{hub.Selector{Namespace: "acme"}, "a1x a1y"},
			{hub.Selector{Address: "192.0.2.1"}, "a1x a1y"},
			{hub.Selector{Address: "192.0.2.0/24"}, "a1x a1y a2x a2y"},
			{hub.Selector{Address: "192.0.2.77/24"}, "a1x a1y a2x a2y"},
			{hub.Selector{Address: "198.51.100.1"}, "b1x b1y"},
			{hub.Selector{Address: "2001:db8::/32"}, " "},
			{hub.Selector{Transport: "xhr"}, "a2x a2y"},
			{hub.Selector{Channel: "news"}, "a1x a1y a2x a2y b1x b1y"},
			{hub.Selector{Channel: "rooms/*", Transport: "xhr"}, "a2x a2y"},
			{hub.Selector{Channel: "rooms/1"}, ""},
			{hub.Selector{Channel: "news", Namespace: "acme"}, "a1x a1y"},
			{hub.Selector{Attributes: map[string]string{"role": "b"}}, "b1x b1y"},
			{hub.Selector{Attributes: map[string]string{"role": "b", "level": "7"}}, "b1x b1y"},
			{hub.Selector{Attributes: map[string]string{"role": "b", "level": "8"}}, ""},
			{hub.Selector{Attributes: map[string]string{"none": ""}}, ""},
		} {
			page, err := o.Agents(t.Context(), hub.AgentQuery{Selector: c.s})
			if got := strings.Join(idsOf(page), " "); err != nil || got != c.want || page.Next != "" || page.Silent != nil {
				t.Errorf("%+v selects %q, %v, %v; want %q", c.s, got, err, page.Silent, c.want)
			}
			if text, _ := json.Marshal(page); strings.Contains(string(text), "s3cret") {
				t.Errorf("the answer has a credential: %s", text)
			}
		}
		for _, s := range []hub.Selector{
			{User: "a", All: true},
			{Address: "somewhere"},
			{Address: "192.0.2.1/33"},
			{Channel: "a b"},
			{Channel: "a/*/b"},
			{User: strings.Repeat("x", 2000)},
			{Attributes: map[string]string{"": "x"}},
		} {
			if _, err := o.Agents(t.Context(), hub.AgentQuery{Selector: s}); !errors.Is(err, hub.ErrSelector) {
				t.Errorf("%+.100v: %v", s, err)
			}
			if _, err := o.Disconnect(t.Context(), s, hub.Farewell{}); !errors.Is(err, hub.ErrSelector) {
				t.Errorf("disconnecting %+.100v: %v", s, err)
			}
		}
		for _, limit := range []int{-1, 1001} {
			if _, err := o.Agents(t.Context(), hub.AgentQuery{Limit: limit}); !errors.Is(err, hub.ErrSelector) {
				t.Errorf("the limit %d: %v", limit, err)
			}
		}
		page, err := o.Agents(t.Context(), hub.AgentQuery{Selector: hub.Selector{Agent: one}})
		if err != nil || len(page.Agents) != 1 {
			t.Fatalf("%+v, %v", page, err)
		}
		got := page.Agents[0]
		got.Since = time.Time{}
		want := hub.AgentInfo{
			Node: "b", Agent: one, AgentID: "a1y", User: "user-a", Namespace: "acme", Endpoint: "test /push", Transport: "websocket",
			Address: "192.0.2.1", Connected: true, Subscriptions: 2, Channels: []string{"news", "rooms/*"},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the agent is\n%+v, want\n%+v", got, want)
		}
	})
}

// A page ends where it says, and the pages together have every agent and channel once,
// whatever machine they are on.
func TestOperatorPages(t *testing.T) {
	inCluster(t, 3, hub.Policy{Heartbeat: time.Hour, Histories: kept{Count: 10, TTL: time.Hour}}, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
		const each = 8
		var agents, channels []string
		for i, n := range all {
			for j := range each * (i + 1) {
				p := n.joinAs(fmt.Sprintf("n%d-%d", i, j), fmt.Sprintf("rooms/%d", j), "lobby")
				agents = append(agents, p.Agent.UUID())
			}
		}
		for j := range each * len(all) {
			channels = append(channels, fmt.Sprintf("rooms/%d", j))
		}
		channels = append(channels, "lobby")
		slices.Sort(agents)
		slices.Sort(channels)
		for _, limit := range []int{1, 7, 100, 1000} {
			for _, n := range all {
				var got []string
				q := hub.AgentQuery{Limit: limit}
				for {
					page, err := n.hub.Operator().Agents(t.Context(), q)
					if err != nil || len(page.Agents) > limit || page.Next != "" && len(page.Agents) == 0 {
						t.Fatalf("limit %d: %d agents, %v", limit, len(page.Agents), err)
					}
					for _, a := range page.Agents {
						got = append(got, a.Agent)
					}
					if q.After = page.Next; q.After == "" {
						break
					}
				}
				if !slices.Equal(got, agents) {
					t.Errorf("limit %d: the pages have %d agents, want %d", limit, len(got), len(agents))
				}
				if limit == 1 {
					break // the others would say the same
				}
			}
			var got []string
			q := hub.ChannelQuery{Limit: limit}
			for {
				page, err := all[0].hub.Operator().Channels(t.Context(), q)
				if err != nil || len(page.Channels) > limit {
					t.Fatalf("limit %d: %d channels, %v", limit, len(page.Channels), err)
				}
				for _, c := range page.Channels {
					want := 0
					for i := range all {
						var j int
						if n, _ := fmt.Sscanf(c.Channel, "rooms/%d", &j); n == 0 || j < each*(i+1) {
							want++
						}
					}
					if c.Channel == "lobby" {
						want = len(agents)
					}
					if c.Subscribers != want {
						t.Errorf("%s has %d subscribers, want %d", c.Channel, c.Subscribers, want)
					}
					got = append(got, c.Channel)
				}
				if q.After = page.Next; q.After == "" {
					break
				}
			}
			if !slices.Equal(got, channels) {
				t.Errorf("limit %d: the pages have the channels %v, want %v", limit, got, channels)
			}
		}
		page, err := all[0].hub.Operator().Channels(t.Context(), hub.ChannelQuery{Prefix: "rooms/1"})
		if err != nil || len(page.Channels) != 11 {
			t.Errorf("the rooms with a 1 are %+v, %v", page, err)
		}
		if _, err := all[1].hub.Publish(t.Context(), hub.NewMessage("quiet", "u", nil).Keep(hub.HistoryRule{Count: 5, TTL: time.Hour})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		page, err = all[0].hub.Operator().Channels(t.Context(), hub.ChannelQuery{Channel: "quiet"})
		if err != nil || len(page.Channels) != 1 || page.Channels[0].Messages != 1 || page.Channels[0].Position == "" || page.Channels[0].Subscribers != 0 {
			t.Errorf("a channel without subscribers is %+v, %v", page, err)
		}
		nodes, silent, err := all[2].hub.Operator().Nodes(t.Context())
		if err != nil || len(silent) > 0 || len(nodes) != 3 {
			t.Fatalf("%+v, %v, %v", nodes, silent, err)
		}
		for i, n := range nodes {
			if n.Node != string(rune('a'+i)) || n.Agents["test"] != each*(i+1) || n.Channels != each*(i+1)+1 || n.Position == "" || n.HistoryMessages != 1 {
				t.Errorf("node %d is %+v", i, n)
			}
		}
	})
}

// Disconnect ends all sessions of a user everywhere, and no others.
func TestOperatorDisconnects(t *testing.T) {
	inOffice(t, 2, func(t *testing.T, all []clusterNode, _ *atomic.Int32, _ func()) {
		peers := []map[string]*hubtest.Peer{all[0].operated("x"), all[1].operated("y")}
		o := all[1].hub.Operator()
		if _, err := o.Disconnect(t.Context(), hub.Selector{}, hub.Farewell{}); !errors.Is(err, hub.ErrSelector) {
			t.Errorf("a Selector that was forgotten: %v", err)
		}
		for _, f := range []hub.Farewell{{Reason: strings.Repeat("x", 121)}, {Reason: "\xff"}, {Retry: -1}} {
			if _, err := o.Disconnect(t.Context(), hub.Selector{All: true}, f); !errors.Is(err, hub.ErrSelector) {
				t.Errorf("%+v: %v", f, err)
			}
		}
		e, err := o.Disconnect(t.Context(), hub.Selector{User: "user-a"}, hub.Farewell{Reason: "maintenance", Retry: 5 * time.Second})
		if err != nil || e.Agents != 4 || e.Silent != nil {
			t.Errorf("it ended %+v, %v", e, err)
		}
		synctest.Wait()
		for _, at := range peers {
			for id, p := range at {
				code, reason, _ := p.Conn.Closed()
				got := p.Conn.Lines()
				switch id[0] {
				case 'a':
					if code != hub.CloseCut || reason != "maintenance" || len(got) != 1 || got[0] != `{"channel":"/meta/close","code":4403,"error":"maintenance","retry":5000}` {
						t.Errorf("%s got %q, %d %q", id, got, code, reason)
					}
				default:
					if code != 0 || len(got) > 0 {
						t.Errorf("%s got %q, %d %q", id, got, code, reason)
					}
				}
			}
		}
		if e, err := o.Disconnect(t.Context(), hub.Selector{All: true}, hub.Farewell{ForGood: true}); err != nil || e.Agents != 4 {
			t.Errorf("it ended %+v, %v", e, err)
		}
		synctest.Wait()
		for _, at := range peers {
			if got := at["b1"].Conn.Lines(); len(got) != 1 || !strings.Contains(got[0], `"retry":false`) {
				t.Errorf("b1 got %q", got)
			}
		}
		if n := all[0].hub.Agents() + all[1].hub.Agents(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// Unsubscribe ends subscriptions and tells agents why. Reauthorize asks their gates.
func TestOperatorTakesRights(t *testing.T) {
	inOffice(t, 2, func(t *testing.T, all []clusterNode, asked *atomic.Int32, refuse func()) {
		peers := []map[string]*hubtest.Peer{all[0].operated("x"), all[1].operated("y")}
		o := all[0].hub.Operator()
		if _, err := o.Unsubscribe(t.Context(), hub.Selector{All: true}, "a b", ""); !errors.Is(err, hub.ErrSelector) {
			t.Errorf("no channel: %v", err)
		}
		for channel, want := range map[string]int{"news": 4, "rooms/*": 4, "rooms/1": 0} {
			if e, err := o.Unsubscribe(t.Context(), hub.Selector{User: "user-a"}, channel, "moved"); err != nil || e.Agents != want {
				t.Errorf("%s: it ended %+v, %v; want %d", channel, e, err, want)
			}
		}
		synctest.Wait()
		if got := peers[1]["a2"].Conn.Lines(); len(got) != 2 || !strings.Contains(got[0], `"/meta/unsubscribe"`) || !strings.Contains(got[0], `"error":"moved","code":"denied"`) {
			t.Errorf("a2 got %q", got)
		}
		if got := peers[1]["b1"].Conn.Lines(); len(got) > 0 {
			t.Errorf("b1 got %q", got)
		}
		asked.Store(0)
		if e, err := o.Reauthorize(t.Context(), hub.Selector{User: "user-b"}); err != nil || e.Agents != 2 {
			t.Errorf("it asked about %+v, %v", e, err)
		}
		synctest.Wait()
		if n := asked.Load(); n != 6 { // two agents: connect and two subscriptions each
			t.Errorf("the gates were asked %d times", n)
		}
		if got := peers[1]["b1"].Conn.Lines(); len(got) > 0 {
			t.Errorf("b1 is allowed, and got %q", got)
		}
		refuse()
		if e, err := o.Reauthorize(t.Context(), hub.Selector{All: true}); err != nil || e.Agents != 6 {
			t.Errorf("it asked about %+v, %v", e, err)
		}
		synctest.Wait()
		for _, at := range peers {
			for id, p := range at {
				if code, _, _ := p.Conn.Closed(); (code == hub.CloseCut) != (id != "open") {
					t.Errorf("%s was closed with %d", id, code)
				}
			}
		}
	})
}

// Many agents are reauthorized one after the other.
func TestOperatorSpreadsQuestions(t *testing.T) {
	var asked atomic.Int32
	policy := hub.Policy{Gates: staff(&asked, func() bool { return true }), Heartbeat: time.Hour}
	inCluster(t, 1, policy, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
		const many = 300
		for i := range many {
			all[0].joinAs(fmt.Sprint("a", i))
		}
		asked.Store(0)
		if e, err := all[0].hub.Operator().Reauthorize(t.Context(), hub.Selector{All: true}); err != nil || e.Agents != many {
			t.Errorf("it asked about %+v, %v", e, err)
		}
		time.Sleep(300 * time.Millisecond)
		if n := asked.Load(); n < many/5 || n > many*4/5 {
			t.Errorf("half of the time is over, and %d of %d gates were asked", n, many)
		}
		time.Sleep(2 * time.Second)
		if n := asked.Load(); n != many {
			t.Errorf("%d of %d gates were asked", n, many)
		}
	})
}

// A machine that does not answer is named, and delays the answer for a few seconds at most.
func TestOperatorNamesSilentMachines(t *testing.T) {
	inOffice(t, 3, func(t *testing.T, all []clusterNode, _ *atomic.Int32, _ func()) {
		for i, n := range all {
			n.operated(fmt.Sprint(i))
		}
		o := all[0].hub.Operator()
		all[1].Hang(true)
		begun := time.Now()
		e, err := o.Disconnect(t.Context(), hub.Selector{User: "user-b"}, hub.Farewell{})
		if err != nil || e.Agents != 2 || !slices.Equal(e.Silent, []string{"b"}) || time.Since(begun) > 5*time.Second {
			t.Errorf("it ended %+v, %v after %v", e, err, time.Since(begun))
		}
		synctest.Wait()
		page, err := o.Agents(t.Context(), hub.AgentQuery{Selector: hub.Selector{User: "user-a"}})
		if err != nil || len(page.Agents) != 4 || page.Silent != nil { // it is known to be down by now
			t.Errorf("%d agents, %v, %v", len(page.Agents), page.Silent, err)
		}
		all[1].Hang(false)
		time.Sleep(2 * time.Second)
		all[0].CutBus(true)
		page, err = o.Agents(t.Context(), hub.AgentQuery{Selector: hub.Selector{User: "user-a"}})
		if err != nil || len(page.Agents) != 2 || len(page.Silent) == 0 {
			t.Errorf("cut off: %d agents, %v, %v", len(page.Agents), page.Silent, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := o.Agents(ctx, hub.AgentQuery{}); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody waits for the answer: %v", err)
		}
	})
}

// Operators look on while agents come, go and publish.
func TestOperatorsRace(t *testing.T) {
	c := brokertest.NewCluster()
	var hubs []*hub.Hub
	var policies []*hub.Policy
	for i := range 2 {
		h, err := hub.New("race", c.Node(fmt.Sprint("n", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		hubs = append(hubs, h)
		policies = append(policies, h.Use(&hub.Policy{Mount: "race", Histories: kept{Count: 5, TTL: time.Hour}}))
	}
	var all sync.WaitGroup
	for i, h := range hubs {
		for j := range 4 {
			all.Go(func() {
				for n := range 40 {
					p := hubtest.Open(t, h, policies[i], hub.Opening{Transport: "test"}, hubtest.NewConn())
					p.Send(connect(fmt.Sprintf("a%d-%d-%d", i, j, n)), subscribe("news"), subscribe(fmt.Sprint("c", n%7)), publish("news", fmt.Sprint(n), "1"))
					p.Leave()
				}
			})
		}
		all.Go(func() {
			o := h.Operator()
			for n := range 15 {
				_, err1 := o.Agents(t.Context(), hub.AgentQuery{Limit: 3})
				_, err2 := o.Channels(t.Context(), hub.ChannelQuery{Limit: 3})
				_, _, err3 := o.Nodes(t.Context())
				_, err4 := o.Unsubscribe(t.Context(), hub.Selector{All: true}, "news", "")
				_, err5 := o.Reauthorize(t.Context(), hub.Selector{Channel: "c1"})
				_, err6 := o.Disconnect(t.Context(), hub.Selector{Channel: fmt.Sprint("c", n%7)}, hub.Farewell{})
				if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, h := range hubs {
		if n := h.Agents(); n != 0 {
			t.Errorf("%d agents are left", n)
		}
	}
}
