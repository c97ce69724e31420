// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
	"github.com/push-it/pushit/hub/hubtest"
)

// refusing are gates that know users by their agentId, and refuse what has a name that says so.
func refusing() *gates {
	return &gates{ask: map[hub.GateName]func(context.Context, *hub.Question) hub.Verdict{
		hub.GateConnect: func(_ context.Context, q *hub.Question) hub.Verdict {
			if strings.Contains(string(q.Credentials), "wrong") {
				return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "you are not logged in"}, Guard: "jwt"}
			}
			return hub.Verdict{Identity: &hub.Identity{User: "user of " + q.Agent.AgentID()}}
		},
		hub.GateSubscribe: func(_ context.Context, q *hub.Question) hub.Verdict {
			if strings.HasPrefix(q.Channel, "staff") {
				return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "only for the staff"}, Guard: "user"}
			}
			return hub.Allow
		},
	}}
}

// told returns the refusals of a hub in a short form, the newest first.
func told(t *testing.T, h *hub.Hub, namespace string) (lines []string) {
	t.Helper()
	list, silent, err := h.Operator().Refusals(t.Context(), namespace)
	if err != nil || silent != nil {
		t.Fatalf("%v, %v", silent, err)
	}
	for _, r := range list {
		if text, _ := json.Marshal(r); strings.Contains(string(text), "s3cret") || strings.Contains(string(text), "192.0.2") {
			t.Errorf("a refusal has a credential or an address: %s", text)
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %q %s %q x%d", r.Operation, r.Code, r.Guard, r.Reason, r.Channel, r.User, r.Count))
	}
	return lines
}

// Refusals of gates, limits and the protocol are listed with their reasons, on all machines.
func TestRefusalsAreListed(t *testing.T) {
	policy := hub.Policy{Gates: refusing(), Limits: hub.Limits{ChannelsPerAgent: 1, PublishesPerSecond: 1, AgentsPerIP: 3}, Heartbeat: time.Hour, Handshake: time.Hour}
	inCluster(t, 2, policy, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
		open := func(n clusterNode, namespace string) *hubtest.Peer {
			return hubtest.Open(t, n.hub, n.policy, hub.Opening{
				Transport: "test", RemoteIP: netip.MustParseAddr("192.0.2.7"), Namespace: namespace, Header: "Cookie:s3cret=1\n",
			}, hubtest.NewConn())
		}
		first := open(all[0], "acme")
		first.Send(`{"channel":"/meta/connect","uuid":"c","agentId":"a","data":{"credentials":"s3cret wrong"}}`)
		synctest.Wait()
		time.Sleep(2 * time.Second) // the order is that of the times
		p := open(all[1], "")
		p.Send(connect("b"), subscribe("staff/1"))
		synctest.Wait()
		p.Send(subscribe("staff/1"))
		synctest.Wait()
		time.Sleep(2 * time.Second)
		p.Send(subscribe("news"))
		synctest.Wait()
		p.Send(subscribe("more"))
		synctest.Wait()
		time.Sleep(2 * time.Second)
		p.Send(`{"channel":"/meta/what","uuid":"w","data":1}`)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		p.Send(`{`)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for i := range 7 {
			p.Send(fmt.Sprintf(`{"channel":"news","uuid":"u%d","data":%d}`, i, i))
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for range 3 {
			_, _ = all[1].hub.Open(all[1].policy, hub.Opening{RemoteIP: netip.MustParseAddr("192.0.2.7"), User: "carol"})
		}
		got := told(t, all[0].hub, "")
		want := []string{
			`session limit  "more than 3 sessions from one address"  "carol" x1`,
			`publish limit  "more than 1 publishes a second" news "user of b" x2`,
			`frame invalid  "JSON error"  "user of b" x1`,
			`publish invalid  "it is reserved" /meta/what "user of b" x1`,
			`subscribe limit  "more than 1 channels for one agent" more "user of b" x1`,
			`subscribe denied user "only for the staff" staff/1 "user of b" x2`,
			`connect denied jwt "you are not logged in"  "" x1`,
		}
		// Their exact texts are the business of other tests.
		same := func(got, want string) bool {
			a, b := strings.Split(got, `"`), strings.Split(want, `"`)
			return a[0] == b[0] && a[2] == b[2] && slices.Equal(a[3:], b[3:]) && a[1] != ""
		}
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("refused are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		if got := told(t, all[1].hub, "acme"); len(got) != 1 || !strings.HasPrefix(got[0], "connect denied") {
			t.Errorf("refused in the namespace are %q", got)
		}
		nodes, _, err := all[0].hub.Operator().Nodes(t.Context())
		if err != nil || nodes[0].Refusals != 1 || nodes[1].Refusals < 8 {
			t.Errorf("the nodes count %+v, %v", nodes, err)
		}
	})
}

// A flood of refusals is counted, and hides no others. It costs no memory.
func TestRefusalsInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		h.CountRefused(&hub.Refusal{Code: hub.CodeUnavailable, Reason: "the only one"})
		long := strings.Repeat("é", 10_000)
		for second := range 60 {
			for i := range 1000 {
				h.CountRefused(&hub.Refusal{Code: hub.CodeDenied, Reason: fmt.Sprintf("%d %d %s", second, i, long)})
			}
			time.Sleep(time.Second)
		}
		h.CountRefused(&hub.Refusal{Code: hub.CodeDenied, Reason: "the last"})
		list, _, err := h.Operator().Refusals(t.Context(), "")
		if err != nil || len(list) != 100 {
			t.Fatalf("%d are listed, %v", len(list), err)
		}
		if list[99].Reason != "the only one" || list[0].Reason != "the last" || list[0].Others != 995 {
			t.Errorf("the oldest is %+v, the newest %+v", list[99], list[0])
		}
		if text, _ := json.Marshal(list); len(text) > 60_000 {
			t.Errorf("the list has %d bytes", len(text))
		}
		nodes, _, _ := h.Operator().Nodes(t.Context())
		if nodes[0].Refusals != 60_002 {
			t.Errorf("%d are counted", nodes[0].Refusals)
		}
		again := &hub.Refusal{Code: hub.CodeDenied, Reason: strings.Repeat("x", 300)}
		if got := testing.AllocsPerRun(1000, func() { h.CountRefused(again) }); got > 0.1 {
			t.Errorf("a refusal in a flood takes %v allocations", got)
		}
	})
}

// A flood in one namespace hides nothing of another one.
func TestRefusalsInAFloodOfAnotherTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		p := h.Use(&hub.Policy{Limits: hub.Limits{AgentsPerIP: 1}, Heartbeat: time.Hour, Handshake: time.Hour})
		opening := hub.Opening{Transport: "test", RemoteIP: netip.MustParseAddr("192.0.2.7")}
		defer hubtest.Open(t, h, p, opening, hubtest.NewConn()).Leave()
		refuse := func(namespace, user string) {
			t.Helper()
			o := opening
			o.Namespace, o.User = namespace, user
			if _, err := h.Open(p, o); err == nil {
				t.Fatal("a session was opened")
			}
		}
		for second := range 40 {
			for i := range 20 {
				refuse("evil", fmt.Sprintf("%d/%d", second, i))
				h.CountRefused(&hub.Refusal{Code: hub.CodeDenied, Reason: fmt.Sprintf("%d/%d", second, i)})
			}
			if second < 10 {
				refuse("acme", fmt.Sprintf("user %d", second))
			}
			time.Sleep(time.Second)
		}
		if lines := told(t, h, "acme"); len(lines) != 10 {
			t.Errorf("acme sees\n\t%s", strings.Join(lines, "\n\t"))
		}
		if lines := told(t, h, ""); len(lines) != 100 {
			t.Errorf("%d are listed", len(lines))
		}
	})
}

// What agents choose is shown as it is, but for what is not visible: a name cannot turn the
// text around it.
func TestRefusalsAreVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		p := h.Use(&hub.Policy{Heartbeat: time.Hour})
		peer := hubtest.Open(t, h, p, hub.Opening{Transport: "test", User: "al\u202eice\x1b[2J"}, hubtest.NewConn())
		defer peer.Leave()
		peer.Send(connect("a"), subscribe(`<b>é\u202e\n\u0085`))
		synctest.Wait()
		list, _, err := h.Operator().Refusals(t.Context(), "")
		if err != nil || len(list) != 1 || list[0].Channel != "<b>é???" || list[0].User != "al?ice?[2J" {
			t.Errorf("it shows %+v, %v", list, err)
		}
	})
}

// The top of a list has the channels with the most subscribers, and the agents with the longest
// queues, with the numbers of all machines.
func TestOperatorTop(t *testing.T) {
	for _, machines := range []int{1, 3} {
		inCluster(t, machines, hub.Policy{Heartbeat: time.Hour}, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
			for i, n := range all {
				for j := range 4 {
					channels := []string{"lobby", fmt.Sprintf("own/%d", i), "rooms/*"}
					if j == 0 || i == 0 {
						channels = append(channels, "mostly/0") // 4 here, and one at each other
					}
					n.joinAs(fmt.Sprintf("n%d-%d", i, j), channels...)
					time.Sleep(time.Second)
				}
			}
			o := all[len(all)-1].hub.Operator()
			page, err := o.Channels(t.Context(), hub.ChannelQuery{Top: true, Limit: 3})
			var got []string
			for _, c := range page.Channels {
				got = append(got, fmt.Sprint(c.Channel, " ", c.Subscribers))
			}
			want := fmt.Sprintf("[lobby %d rooms/* %d mostly/0 %d]", 4*machines, 4*machines, 3+machines)
			if machines == 1 {
				want = "[lobby 4 mostly/0 4 own/0 4]"
			}
			if err != nil || fmt.Sprint(got) != want || !page.More || page.Next != "" {
				t.Errorf("%d machines: the top is %v, %v, %v; want %s", machines, got, page.More, err, want)
			}
			page, err = o.Channels(t.Context(), hub.ChannelQuery{Top: true, Prefix: "own/"})
			if err != nil || len(page.Channels) != machines || page.More {
				t.Errorf("the top with a prefix is %+v, %v", page, err)
			}
			agents, err := o.Agents(t.Context(), hub.AgentQuery{Top: true, Limit: 2})
			newest := fmt.Sprintf("n%d-3", machines-1)
			if err != nil || len(agents.Agents) != 2 || agents.Agents[0].AgentID != newest || !agents.More || agents.Next != "" {
				t.Errorf("the newest agents are %+v, %v", agents, err)
			}
			if agents, err = o.Agents(t.Context(), hub.AgentQuery{Top: true}); err != nil || len(agents.Agents) != 4*machines || agents.More {
				t.Errorf("all agents are %d, %v, %v", len(agents.Agents), agents.More, err)
			}
			for _, err := range []error{
				second(o.Agents(t.Context(), hub.AgentQuery{Top: true, After: "0189c8f4-0000-7000-8000-000000000000"})),
				second(o.Channels(t.Context(), hub.ChannelQuery{Top: true, After: "/a"})),
			} {
				if err == nil || !strings.Contains(err.Error(), "leave after out") {
					t.Errorf("top with after: %v", err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// An agent that does not read is at the top.
func TestOperatorTopHasTheLongestQueue(t *testing.T) {
	inCluster(t, 1, hub.Policy{Heartbeat: time.Hour}, func(t *testing.T, _ *brokertest.Cluster, all []clusterNode) {
		n := all[0]
		slow := n.joinAs("slow", "news")
		time.Sleep(time.Second)
		n.joinAs("quick", "news")
		slow.Conn.Stall(true)
		for i := range 3 {
			if _, err := n.hub.Publish(t.Context(), hub.NewMessage("news", fmt.Sprint("u", i), []byte("1"))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		page, err := n.hub.Operator().Agents(t.Context(), hub.AgentQuery{Top: true})
		if err != nil || len(page.Agents) != 2 || page.Agents[0].AgentID != "slow" || page.Agents[0].QueuedBytes == 0 {
			t.Errorf("the top is %+v, %v", page, err)
		}
		slow.Conn.Stall(false)
		synctest.Wait()
	})
}
