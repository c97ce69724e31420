// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// delivered is Deliveries of channels by their first segment.
type delivered map[string]hub.Delivery

func (d delivered) Delivery(channel string) hub.Delivery {
	first, _, _ := strings.Cut(channel, "/")
	return d[first]
}

// dataOf returns the data of the messages that came.
func (b *bubble) dataOf(p *hubtest.Peer) string {
	b.Helper()
	var all []string
	for _, f := range b.frames(p) {
		if !strings.HasPrefix(f.Channel, "/meta/") {
			all = append(all, string(f.Data))
		}
	}
	return strings.Join(all, " ")
}

func publishWith(ch, uuid, data, more string) string {
	return `{"channel":"` + ch + `","uuid":"` + uuid + `","data":` + data + `,` + more + `}`
}

// A publisher does not get its own message if it or the configuration says so. Everybody
// else does: other agents with the same agentId too, and through patterns.
func TestNoEcho(t *testing.T) {
	inBubble(t, hub.Policy{Deliveries: delivered{"quiet": {NoEcho: true}}}, func(b *bubble) {
		sender, other, watcher := b.join("news", "quiet/1", "*"), b.join("news", "quiet/1"), b.join("*")
		want := func(own string) {
			b.Helper()
			if got := b.dataOf(sender); got != own {
				b.Errorf("the sender got %q, want %q", got, own)
			}
			for _, p := range []*hubtest.Peer{other, watcher} {
				if got := b.dataOf(p); got != "1 2" {
					b.Errorf("another got %q", got)
				}
			}
		}
		sender.Send(publishWith("news", "m1", "1", `"echo":false`), publish("news", "m2", "2"))
		want("2")
		sender.Send(publishWith("news", "m3", "1", `"echo":true`), publishWith("quiet/1", "m4", "2", `"echo":true`))
		want("1")
		sender.Send(publish("quiet/1", "m5", "1"), publishWith("quiet/1", "m6", "2", `"echo":false`))
		want("")
		other.Send(publish("quiet/1", "m7", "3"))
		if got := b.dataOf(sender); got != "3" {
			b.Errorf("of another agent came %q", got)
		}
	})
}

// A program keeps a message from the agents with an agentId.
func TestProgramsExcept(t *testing.T) {
	inBubble(t, hub.Policy{Gates: apiGate(allowAPI)}, func(b *bubble) {
		cause, other := b.open(), b.join("news")
		cause.Send(connect("cause"), subscribe("news"))
		b.frames(cause)
		program, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		if r != nil {
			b.Fatal(r)
		}
		p, r := hub.DecodePublication([]byte(`{"channel":"news","data":1,"except":"cause"}`))
		if r != nil {
			b.Fatal(r)
		}
		if receipt, r := program.Publish(b.Context(), p); r != nil || receipt.Subscriptions != 1 {
			b.Errorf("%+v, %v", receipt, r)
		}
		if a, c := b.dataOf(cause), b.dataOf(other); a != "" || c != "1" {
			b.Errorf("the page that caused it got %q, another %q", a, c)
		}
	})
}

// What is published with history false comes live, in order, and is not kept.
func TestPublishesThatAreNotKept(t *testing.T) {
	inBubble(t, hub.Policy{Gates: apiGate(allowAPI), Histories: kept{Count: 9, TTL: time.Hour}}, func(b *bubble) {
		reader, sender := b.join(), b.join()
		reader.Send(subscribe("news"))
		b.frames(reader)
		sender.Send(publish("news", "m1", "1"), publishWith("news", "m2", "2", `"history":false`), publish("news", "m3", "3"))
		answers := b.frames(sender)
		if len(answers) != 3 || answers[0].Position == "" || answers[1].Position != "" || answers[2].Position == "" {
			b.Errorf("%+v", answers)
		}
		program, _ := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		p, _ := hub.DecodePublication([]byte(`{"channel":"news","data":4,"history":false}`))
		if receipt, r := program.Publish(b.Context(), p); r != nil || receipt.Position != "" || receipt.Subscriptions != 1 {
			b.Errorf("%+v, %v", receipt, r)
		}
		live := b.frames(reader)
		if len(live) != 4 || live[0].Position == "" || live[1].Position != "" || string(live[1].Data) != "2" || live[3].Position != "" {
			b.Errorf("%+v", live)
		}
		late := b.join()
		late.Send(subscribeSince("news", `"since":9`))
		if got := b.dataOf(late); got != "1 3" {
			b.Errorf("recovered %s", got)
		}
	})
}

// Publishes to channels that nobody has are refused, if the configuration says so, and are
// not taken for repeats later.
func TestExistingChannels(t *testing.T) {
	policy := hub.Policy{
		Gates: apiGate(allowAPI), Deliveries: delivered{"rooms": {Existing: true}, "logs": {Existing: true}, "quiet": {}},
		Histories: notOf("rooms/1"),
	}
	inBubble(t, policy, func(b *bubble) {
		sender := b.join()
		publishes := func(channel, uuid, code string) {
			b.Helper()
			sender.Send(publish(channel, uuid, "1"))
			if got := b.frames(sender); len(got) != 1 || got[0].Code != code {
				b.Errorf("%s: %+v, want the code %q", channel, got, code)
			}
		}
		publishes("rooms/1", "m1", "missing")
		publishes("quiet/1", "m2", "")
		reader := b.join()
		reader.Send(subscribe("rooms/1"))
		b.frames(reader)
		publishes("rooms/1", "m1", "")
		if got := b.dataOf(reader); got != "1" {
			b.Errorf("the subscriber got %q", got)
		}
		program, _ := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		p := hub.Publication{Channels: []string{"rooms/1", "logs/1"}, UUID: "p1", Data: []byte("2")}
		if _, r := program.Publish(b.Context(), p); r == nil || r.Code != hub.CodeMissing || !strings.Contains(r.Reason, "logs/1") {
			b.Errorf("one of two: %v", r)
		}
		if got := b.dataOf(reader); got != "" {
			b.Errorf("half of a refused message came: %q", got)
		}
		watcher := b.join()
		watcher.Send(subscribe("logs/*"))
		b.frames(watcher)
		if receipt, r := program.Publish(b.Context(), p); r != nil || receipt.Repeated || receipt.Subscriptions != 2 {
			b.Errorf("%+v, %v", receipt, r)
		}
		watcher.Leave()
		publishes("logs/1", "m3", "") // its history is there
		publishes("logs/2", "m4", "missing")
		reader.Leave()
		publishes("rooms/1", "m5", "missing")
		time.Sleep(time.Hour + time.Minute)
		sender = b.join()
		publishes("logs/1", "m6", "missing")
	})
}

// An agent that lags gets the newest message of each channel that is conflated, and all of
// others, in order. An agent that keeps up gets all.
func TestConflatedChannels(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		t.Run(fmt.Sprintf("blocks=%v", blocks), func(t *testing.T) {
			policy := hub.Policy{
				Deliveries: delivered{"prices": {Conflate: true}},
				Histories:  kept{Count: 99, TTL: time.Hour},
			}
			inBubble(t, policy, func(b *bubble) {
				conn := hubtest.NewConn()
				conn.Blocks = blocks
				lags, quick, sender := b.joinOn(conn), b.join(), b.join()
				quick.Send(subscribe("*"))
				b.frames(quick)
				lags.Send(subscribeSince("*", `"since":9`))
				b.frames(lags)
				number := 0
				send := func(channels ...string) {
					b.Helper()
					for _, ch := range channels {
						number++
						sender.Send(publish(ch, fmt.Sprint("m", number), fmt.Sprint(number)))
					}
					synctest.Wait()
				}
				conn.Stall(true)
				send("news", "prices/1", "prices/2", "prices/1", "prices/1")
				conn.Stall(false)
				if got := b.dataOf(lags); got != "1 2 3 4 5" {
					b.Errorf("before it lags, the agent gets %q", got)
				}
				conn.Stall(true)
				send("news") // this one is being written
				send("prices/1", "prices/2", "news")
				time.Sleep(time.Second + time.Millisecond)
				send("prices/1", "news", "prices/3", "prices/1")
				conn.Stall(false)
				synctest.Wait()
				got := b.frames(lags)
				var data string
				var last hub.Position
				for _, f := range got {
					data += " " + string(f.Data)
					p, ok := hub.ParsePosition(f.Position)
					if !ok || p.Seq <= last.Seq {
						b.Errorf("the position %s follows %s", f.Position, last)
					}
					last = p
				}
				if data != " 6 8 9 11 12 13" {
					b.Errorf("the agent that lags gets%s", data)
				}
				if n := b.hub.Stats().Dropped[hub.DropConflated]; n != 2 {
					b.Errorf("%d were counted, want 2", n)
				}
				if got := b.dataOf(quick); got != "1 2 3 4 5 6 7 8 9 10 11 12 13" {
					b.Errorf("the agent that keeps up gets %q", got)
				}
				send("prices/1", "prices/1")
				if got := b.dataOf(lags); got != "14 15" {
					b.Errorf("when it does not lag any more, the agent gets %q", got)
				}
				// It comes back with the position of a message that others came before.
				lags.Leave()
				back := b.join()
				back.Send(subscribeSince("*", `"position":"`+last.String()+`"`))
				answer := b.frames(back)
				if len(answer) != 3 || !*answer[0].Recovered || string(answer[1].Data) != "14" {
					b.Errorf("%+v", answer)
				}
			})
		})
	}
}

// Conflated messages never close an agent that lags, nor does what waits with them.
func TestConflatedChannelsLeaveRoom(t *testing.T) {
	policy := hub.Policy{
		Deliveries: delivered{"prices": {Conflate: true}},
		Limits:     hub.Limits{QueueMessages: 16, PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited},
	}
	inBubble(t, policy, func(b *bubble) {
		lags, sender := b.join("prices/1", "prices/2", "news"), b.join()
		lags.Conn.Stall(true)
		sender.Send(publish("news", "first", "-1")) // this one is being written
		synctest.Wait()
		for i := range 500 {
			sender.Send(publish(fmt.Sprint("prices/", 1+i%2), fmt.Sprint("m", i), fmt.Sprint(i)))
			if i%50 == 0 {
				sender.Send(publish("news", fmt.Sprint("n", i), fmt.Sprint(i)))
			}
		}
		synctest.Wait()
		if !lags.Agent.IsConnected() {
			b.Fatal("the agent was closed")
		}
		// Other messages get the room of those that are replaced.
		for i := range 3 {
			sender.Send(publish("news", fmt.Sprint("x", i), "0"))
		}
		synctest.Wait()
		if !lags.Agent.IsConnected() {
			b.Fatal("the agent was closed for messages that have room")
		}
		time.Sleep(2 * time.Second)
		lags.Conn.Stall(false)
		got := b.dataOf(lags)
		if got != "-1 0 50 100 150 200 250 300 350 400 450 498 499 0 0 0" {
			b.Errorf("the agent gets %q", got)
		}
	})
}

// The deliver gate may withhold the newest message, so it replaces no other.
func TestConflateAndDeliverGates(t *testing.T) {
	policy := hub.Policy{
		Deliveries: delivered{"prices": {Conflate: true}},
		Gates: &gates{deliver: func(_ *hub.Agent, m *hub.Message) *hub.Message {
			if string(m.Data) == "3" {
				return nil
			}
			return m
		}},
	}
	inBubble(t, policy, func(b *bubble) {
		lags, sender := b.join("prices/1"), b.join()
		lags.Conn.Stall(true)
		for i := range 4 {
			sender.Send(publish("prices/1", fmt.Sprint("m", i), fmt.Sprint(i)))
			time.Sleep(time.Second)
		}
		lags.Conn.Stall(false)
		if got := b.dataOf(lags); got != "0 1 2" {
			b.Errorf("the agent gets %q", got)
		}
	})
}
