// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"strings"
	"testing"
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
