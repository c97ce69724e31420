// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// kept are Histories with the same rule for each channel.
type kept hub.HistoryRule

func (k kept) History(string) hub.HistoryRule { return hub.HistoryRule(k) }

// subscribeSince subscribes from a position on.
func subscribeSince(channel, more string) string {
	return `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"` + channel + `",` + more + `}}`
}

// A positioned is a frame with the members that these tests need.
type positioned struct {
	Channel, Position, Reason, Error, Code string
	UUID                                   string
	Recovered                              *bool
	Data                                   json.RawMessage
}

func (b *bubble) frames(p *hubtest.Peer) (list []positioned) {
	b.Helper()
	synctest.Wait()
	for _, line := range p.Conn.Lines() {
		var f positioned
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			b.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

func TestSubscribersGetWhatTheyMissed(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 5, TTL: time.Hour}}, func(b *bubble) {
		publisher := b.join()
		say := func(channel string, n int) {
			publisher.Send(publish(channel, fmt.Sprint("m", n), fmt.Sprint(n)))
			if got := b.frames(publisher); len(got) != 1 || got[0].Channel != "/meta/successful" {
				b.Fatalf("%+v", got)
			}
		}
		a := b.join()
		a.Send(subscribe("news"))
		first := b.frames(a)
		if len(first) != 1 || first[0].Position == "" || first[0].Recovered != nil {
			b.Fatalf("%+v", first)
		}
		say("news", 1)
		live := b.frames(a)
		if len(live) != 1 || live[0].Position == "" || string(live[0].Data) != "1" {
			b.Fatalf("%+v", live)
		}
		a.Leave()
		for n := 2; n < 5; n++ {
			say("news", n)
		}
		check := func(what, more string, recovered bool, reason string, data ...string) {
			b.Helper()
			p := b.join()
			p.Send(subscribeSince("news", more))
			got := b.frames(p)
			if len(got) != 1+len(data) || got[0].Recovered == nil || *got[0].Recovered != recovered || got[0].Reason != reason {
				b.Fatalf("%s: %+v", what, got)
			}
			for i, want := range data {
				if string(got[i+1].Data) != want {
					b.Errorf("%s: message %d is %s, want %s", what, i, got[i+1].Data, want)
				}
			}
			// A subscribe from the position in an answer gets the same messages again. So
			// none is lost if a connection breaks between the answer and the messages.
			again := b.join()
			again.Send(subscribeSince("news", `"position":"`+got[0].Position+`"`))
			if more := b.frames(again); len(more) != len(got) {
				b.Errorf("%s: from its answer on came %d messages, want %d", what, len(more)-1, len(data))
			}
			p.Leave()
			again.Leave()
		}
		check("from the last message on", `"position":"`+live[0].Position+`"`, true, "", "2", "3", "4")
		check("from the answer on", `"position":"`+first[0].Position+`"`, true, "", "1", "2", "3", "4")
		check("the last two", `"since":2`, true, "", "3", "4")
		check("since a time", `"since":"1990-01-01T00:00:00Z"`, true, "", "1", "2", "3", "4")
		check("another server", `"position":"0123.7"`, false, "epoch")
		for n := 5; n < 8; n++ {
			say("news", n)
		}
		check("too far back", `"position":"`+live[0].Position+`"`, false, "count", "3", "4", "5", "6", "7")
		for _, more := range []string{`"position":5`, `"position":""`, `"since":0`, `"since":-1`, `"since":1.5`, `"since":"yesterday"`, `"since":1,"position":"x"`, `"since":[]`} {
			p := b.join()
			p.Send(subscribeSince("news", more))
			if got := b.frames(p); len(got) != 1 || !strings.Contains(got[0].Error, "data") {
				b.Errorf("%s: %+v", more, got)
			}
			p.Leave()
		}
	})
}

// The answer to a publish has the position of the message, and so has the answer to a
// repetition. It has no positions of other channels that a gate sends the message to.
func TestAnswersToPublishesHavePositions(t *testing.T) {
	rules := &gates{ask: asked{hub.GateAPI: allowAPI, hub.GatePublish: func(_ context.Context, q *hub.Question) hub.Verdict {
		switch q.Channel {
		case "copied":
			return hub.Verdict{Publish: &hub.Publishing{Channels: []string{"news", "copied", "other"}}}
		case "moved":
			return hub.Verdict{Publish: &hub.Publishing{Channels: []string{"news"}}}
		}
		return hub.Allow
	}}}
	inBubble(t, hub.Policy{Gates: rules, Histories: notOf("live")}, func(b *bubble) {
		reader, publisher := b.join(), b.join()
		reader.Send(subscribe("*"))
		b.frames(reader)
		positions := func(channel, uuid string) (answered string, sent map[string]string) {
			b.Helper()
			publisher.Send(publish(channel, uuid, "1"))
			answers := b.frames(publisher)
			if len(answers) != 1 || answers[0].Channel != "/meta/successful" {
				b.Fatalf("%+v", answers)
			}
			sent = make(map[string]string)
			for _, m := range b.frames(reader) {
				sent[m.Channel] = m.Position
			}
			return answers[0].Position, sent
		}
		first, sent := positions("news", "u1")
		if first == "" || first != sent["news"] {
			b.Errorf("%q, want %q", first, sent["news"])
		}
		if again, sent := positions("news", "u1"); again != first || len(sent) != 0 {
			b.Errorf("a repeat: %q, want %q", again, first)
		}
		if none, sent := positions("live", "u2"); none != "" || len(sent) != 1 {
			b.Errorf("a channel without a history: %q", none)
		}
		if own, sent := positions("copied", "u3"); own == "" || own != sent["copied"] || len(sent) != 3 {
			b.Errorf("%q, want that of the channel in the frame: %v", own, sent)
		}
		if none, sent := positions("moved", "u4"); none != "" || len(sent) != 1 {
			b.Errorf("sent to another channel only: %q", none)
		}

		program, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		if r != nil {
			b.Fatal(r)
		}
		byProgram := func(text string) hub.Receipt {
			b.Helper()
			p, r := hub.DecodePublication([]byte(text))
			if r != nil {
				b.Fatal(r)
			}
			receipt, r := program.Publish(b.Context(), p)
			if r != nil {
				b.Fatal(r)
			}
			return receipt
		}
		one := byProgram(`{"channel":"news","uuid":"p1","data":1}`)
		if m := b.frames(reader); one.Position == "" || one.Positions != nil || one.Position != m[0].Position {
			b.Errorf("%+v", one)
		}
		if again := byProgram(`{"channel":"news","uuid":"p1","data":1}`); !again.Repeated || again.Position != one.Position {
			b.Errorf("%+v, want the position of %+v", again, one)
		}
		// One of them is a repetition, one is new, and one has no history.
		several := byProgram(`{"channels":["live","news","stories"],"uuid":"p1","data":1}`)
		if p := several.Positions; several.Position != "" || len(p) != 2 || p["news"] != one.Position || p["stories"] <= p["news"] {
			b.Errorf("%+v", several)
		}
		if none := byProgram(`{"channel":"live","data":1}`); none.Position != "" || none.Positions != nil {
			b.Errorf("%+v", none)
		}
	})
}

// notOf are Histories that keep the messages of all channels but one.
type notOf string

func (n notOf) History(channel string) hub.HistoryRule {
	if channel == string(n) {
		return hub.HistoryRule{}
	}
	return hub.HistoryRule{Count: 9, TTL: time.Hour}
}

// A message that two subscriptions of an agent recover comes once.
func TestRecoveredMessagesComeOnce(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 50, TTL: time.Hour}}, func(b *bubble) {
		publisher := b.join()
		for n := range 6 {
			publisher.Send(publish([]string{"a/1", "a/2"}[n%2], fmt.Sprint(n), fmt.Sprint(n)))
		}
		p := b.join()
		p.Send(subscribeSince("a/1", `"since":2`)) // 2 and 4
		p.Send(subscribeSince("a/*", `"since":4`)) // 2 to 5, of which 3 and 5 are new
		p.Send(subscribeSince("a/2", `"since":9`)) // 1, 3, 5, of which 1 is new
		synctest.Wait()
		publisher.Send(publish("a/1", "live", `"live"`))
		var data []string
		for _, f := range b.frames(p) {
			if !strings.HasPrefix(f.Channel, "/meta/") {
				data = append(data, string(f.Data))
			}
		}
		if got := strings.Join(data, " "); got != `2 4 3 5 1 "live"` {
			b.Errorf("received %s", got)
		}
	})
}

// The deliver gate decides about recovered messages. They come in pieces that leave half of
// the queue for live ones.
func TestRecoveryIsGatedAndPaced(t *testing.T) {
	hides := &gates{deliver: func(_ *hub.Agent, m *hub.Message) *hub.Message {
		if string(m.Data) == "3" {
			return nil
		}
		return m
	}}
	inBubble(t, hub.Policy{Gates: hides, Histories: kept{Count: 1000, TTL: time.Hour}, Limits: hub.Limits{QueueMessages: 20, PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited}}, func(b *bubble) {
		publisher := b.join()
		for n := range 60 {
			publisher.Send(publish("news", fmt.Sprint("m", n), fmt.Sprint(n)))
			b.frames(publisher)
		}
		p := b.join()
		p.Send(subscribeSince("news", `"since":100`))
		got := b.frames(p)
		if len(got) != 60 || !*got[0].Recovered || string(got[4].Data) != "4" || string(got[59].Data) != "59" {
			b.Errorf("%d frames, %+v", len(got), got[0])
		}
		slow := b.join()
		slow.Conn.Stall(true)
		slow.Send(subscribeSince("news", `"since":100`), subscribe("other"))
		for n := range 5 {
			publisher.Send(publish("other", fmt.Sprint("o", n), "0"), publish("news", fmt.Sprint("l", n), fmt.Sprint(60+n)))
			b.frames(publisher)
		}
		if !slow.Agent.IsOpen() {
			b.Fatal("it was closed for what it recovers")
		}
		slow.Conn.Stall(false)
		next := 0
		for _, f := range b.frames(slow) {
			if f.Channel != "news" {
				continue
			}
			if next == 3 {
				next++
			}
			if string(f.Data) != fmt.Sprint(next) {
				b.Fatalf("%s came, want %d", f.Data, next)
			}
			next++
		}
		if next != 65 {
			b.Errorf("%d messages came, want 65", next)
		}
	})
}

// TestRecoveryLosesNothing: agents come and go while many publish. Each gets every
// message once, in order.
func TestRecoveryLosesNothing(t *testing.T) {
	const publishers, most, readers, visits = 4, 20_000, 6, 25
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	unlimited := hub.Limits{AgentsPerIP: hub.Unlimited, APIPublishesPerSecond: hub.Unlimited, QueueMessages: 2 * publishers * most, QueueBytes: 1 << 28}
	p := h.Use(&hub.Policy{Mount: "test", Gates: &gates{ask: asked{hub.GateAPI: allowAPI}}, Histories: kept{Count: most, TTL: time.Hour}, Limits: unlimited})
	var visiting atomic.Int32
	visiting.Store(readers)
	var all sync.WaitGroup
	for n := range publishers {
		all.Go(func() {
			program, r := h.Authorize(t.Context(), p, hub.Opening{})
			if r != nil {
				t.Error(r)
				return
			}
			for i := 0; i < most && visiting.Load() > 0; i++ {
				if _, r := program.Publish(context.Background(), hub.Publication{Channels: []string{fmt.Sprint("ch/", n)}, Data: []byte(fmt.Sprint(i))}); r != nil {
					t.Error(r)
					return
				}
				runtime.Gosched()
			}
		})
	}
	for n := range readers {
		all.Go(func() {
			defer visiting.Add(-1)
			r := &reader{t: t, h: h, p: p, channel: []string{"ch/*", "ch/0", "ch/1"}[n%3], next: make(map[string]int), random: rand.New(rand.NewPCG(uint64(n), 3))}
			for visit := 0; visit < visits && r.visit(); visit++ {
			}
		})
	}
	all.Wait()
}

// A reader connects again and again, and recovers what it has missed.
type reader struct {
	t        *testing.T
	h        *hub.Hub
	p        *hub.Policy
	channel  string
	next     map[string]int // by channel: the number of the next message
	position string
	random   *rand.Rand
}

// visit reads some messages in a new session, and reports whether they were right.
func (r *reader) visit() bool {
	c := hubtest.NewConn()
	peer := hubtest.Open(r.t, r.h, r.p, hub.Opening{Transport: "test"}, c)
	defer peer.Leave()
	from := `"position":"` + r.position + `"`
	if r.position == "" {
		from = `"since":100000`
	}
	peer.Send(connect("reader"), subscribeSince(r.channel, from))
	deadline := time.Now().Add(30 * time.Second)
	for frames, want := 0, 1+r.random.IntN(100); frames < want; {
		if time.Now().After(deadline) {
			return true // the publishers are finished
		}
		c.AwaitWrite(time.Second)
		for _, line := range c.Lines() {
			var f positioned
			if line[0] != '{' || json.Unmarshal([]byte(line), &f) != nil || f.Position == "" {
				continue
			}
			if frames++; frames > want {
				break // what was received and not read is lost
			}
			r.position = f.Position
			if f.Channel == "/meta/subscribe" {
				if f.Recovered == nil || !*f.Recovered {
					r.t.Errorf("%s: %+v", r.channel, f)
					return false
				}
				continue
			}
			if got := string(f.Data); got != fmt.Sprint(r.next[f.Channel]) {
				r.t.Errorf("%s: %s of %s came, want %d", r.channel, got, f.Channel, r.next[f.Channel])
				return false
			}
			r.next[f.Channel]++
		}
		if len(r.next) > 0 && frames < want && !peer.Agent.IsOpen() {
			r.t.Errorf("%s: it was closed", r.channel)
			return false
		}
	}
	return true
}

// A client has a position for each subscription, and comes back with all of them. What one
// subscription has not read comes, even if another one, which began later, has begun after it.
func TestEachSubscriptionGetsWhatFollowsItsPosition(t *testing.T) {
	for name, patternFirst := range map[string]bool{"the pattern first": true, "the name first": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}}, func(b *bubble) {
				publisher := b.join()
				var positions []string
				for n, channel := range []string{"a/x", "a/y", "a/x", "a/y", "a/x"} {
					publisher.Send(publish(channel, fmt.Sprint("m", n), fmt.Sprint(n)))
					positions = append(positions, b.frames(publisher)[0].Position)
				}
				frames := []string{subscribeSince("a/*", `"position":"`+positions[0]+`"`), subscribeSince("a/x", `"position":"`+positions[2]+`"`)}
				want := []string{"m1", "m2", "m3", "m4"}
				if !patternFirst {
					slices.Reverse(frames)
					want = []string{"m4", "m1", "m2", "m3"}
				}
				a := b.join()
				a.Send(frames...)
				var got []string
				for _, f := range b.frames(a) {
					if f.Data != nil && f.Channel != "/meta/subscribe" {
						got = append(got, f.UUID)
					}
				}
				if !slices.Equal(got, want) {
					b.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}

// A subscription may begin when a message is kept already and not fanned out yet. The agent
// gets the message once, by whichever subscription.
func TestSubscribesWhileAMessageIsFannedOut(t *testing.T) {
	const name, all = "stories/5", `"since":10`
	for _, c := range []struct{ before, meanwhile []string }{
		{[]string{subscribe("stories/*")}, []string{subscribe(name)}},
		{[]string{subscribe("stories/*")}, []string{subscribeSince(name, all)}},
		{[]string{subscribe("*")}, []string{subscribe(name), subscribeSince("stories/*", all)}},
		{[]string{subscribe("*"), subscribe("stories/*")}, []string{subscribeSince(name, all)}},
		{[]string{subscribe(name)}, []string{subscribe("stories/*"), subscribeSince("*", all)}},
		{nil, []string{subscribeSince(name, all), subscribe("stories/*")}},
		{nil, []string{subscribeSince("*", all), subscribeSince("stories/*", all), subscribeSince(name, all)}},
	} {
		rule := hub.HistoryRule{Count: 5, TTL: time.Hour}
		inBubble(t, hub.Policy{Histories: kept(rule)}, func(b *bubble) {
			a := b.join()
			for _, frame := range c.before {
				a.Send(frame)
			}
			b.frames(a)
			m := hub.NewMessage(name, "m1", []byte("1")).Keep(rule)
			hub.EntryInSteps(b.hub, 1, time.Now(), m, func() {
				for _, frame := range c.meanwhile {
					a.Send(frame)
				}
				synctest.Wait()
			})
			messages := 0
			for _, f := range b.frames(a) {
				if f.Channel == name {
					messages++
				}
			}
			if messages != 1 {
				b.Errorf("%q, then %q: the message came %d times", c.before, c.meanwhile, messages)
			}
		})
	}
}
