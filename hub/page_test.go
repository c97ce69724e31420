// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// askHistory is a /meta/history; more is what its data has besides the channel.
func askHistory(channel, more string) string {
	return `{"channel":"/meta/history","uuid":"h","data":{"channel":"` + channel + `"` + more + `}}`
}

// A historyAnswer is the answer to a /meta/history.
type historyAnswer struct {
	Channel, UUID, Error, Code, Reason string
	Position, Before                   string
	Successful                         bool
	Messages                           []positioned
}

// history sends a /meta/history, and returns the one frame that comes.
func (b *bubble) history(p *hubtest.Peer, channel, more string) (answer historyAnswer) {
	b.Helper()
	p.Send(askHistory(channel, more))
	synctest.Wait()
	lines := p.Conn.Lines()
	if len(lines) != 1 {
		b.Fatalf("%d frames: %q", len(lines), lines)
	}
	if err := json.Unmarshal([]byte(lines[0]), &answer); err != nil {
		b.Fatal(err)
	}
	return answer
}

func (a historyAnswer) data() (list []string) {
	for _, m := range a.Messages {
		list = append(list, string(m.Data))
	}
	return list
}

func TestHistoryComesInPages(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 5, TTL: time.Minute}}, func(b *bubble) {
		a := b.join()
		for n := range 7 {
			a.Send(publish("news", fmt.Sprint("m", n), fmt.Sprint(n)))
			a.Send(publish("other", fmt.Sprint("o", n), fmt.Sprint(-n)))
		}
		b.frames(a)
		check := func(more string, want ...string) historyAnswer {
			b.Helper()
			got := b.history(a, "news", more)
			if !got.Successful || got.UUID != "h" || got.Position == "" || got.Reason != "" || !slices.Equal(got.data(), want) {
				b.Fatalf("%s: %+v", more, got)
			}
			return got
		}
		if got := check("", "2", "3", "4", "5", "6"); got.Before != "" {
			b.Errorf("there is nothing before: %+v", got)
		}
		newest := check(`,"last":2`, "5", "6")
		older := check(`,"last":2,"before":"`+newest.Before+`"`, "3", "4")
		if last := check(`,"last":2,"before":"`+older.Before+`"`, "2"); last.Before != "" {
			b.Errorf("there is nothing before: %+v", last)
		}
		if got := check(`,"before":"`+newest.Messages[0].Position+`"`, "2", "3", "4"); got.Messages[0].UUID != "m2" || got.Messages[0].Channel != "news" {
			b.Errorf("%+v", got.Messages[0])
		}

		// A subscription goes on where the page ends, whatever is published between the two.
		a.Send(publish("news", "m7", "7"))
		b.frames(a)
		a.Send(subscribeSince("news", `"position":"`+newest.Position+`"`))
		if got := b.frames(a); len(got) != 2 || got[1].UUID != "m7" || !*got[0].Recovered {
			b.Errorf("%+v", got)
		}
		time.Sleep(2 * time.Minute)
		a = b.join()
		if got := check(""); len(got.Messages) != 0 {
			b.Errorf("too old: %+v", got)
		}
		if got := b.history(a, "news", `,"before":"another.1"`); !got.Successful || got.Reason != "epoch" || got.Messages == nil || len(got.Messages) > 0 {
			b.Errorf("a position of another log: %+v", got)
		}
	})
}

func TestHistoryIsRefusedOrEmpty(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		a := b.join()
		for _, more := range []string{`,"last":0`, `,"last":1001`, `,"last":"5"`, `,"last":1.5`, `,"before":""`, `,"before":7`, `,"before":null`} {
			if got := b.history(a, "news", more); got.Successful || got.Code != "invalid" || got.Channel != "/meta/history" {
				b.Errorf("%s: %+v", more, got)
			}
		}
		for _, name := range []string{"", "a//b", "/meta/x"} {
			if got := b.history(a, name, ""); got.Successful || got.Code != "invalid" {
				b.Errorf("%s: %+v", name, got)
			}
		}
		for _, name := range []string{"news", "*"} {
			if got := b.history(a, name, ""); !got.Successful || got.Reason != "none" || len(got.Messages) > 0 {
				b.Errorf("without a history: %+v", got)
			}
		}
	})
}

// oddWithheld delivers no odd numbers, and the even ones with a word.
type oddWithheld struct{ hub.Gates }

func (oddWithheld) Gate(name hub.GateName, channel string) hub.Gate {
	if channel == "secret" && name != hub.GatePublish {
		return denyAll{}
	}
	return nil
}

func (oddWithheld) Pattern(string) (hub.Gate, *hub.Refusal) { return denyAll{}, nil }

func (oddWithheld) DeliverGate(channel string) hub.DeliverGate {
	if channel == "plain" {
		return nil
	}
	return oddWithheld{}
}

func (oddWithheld) Deliver(_ *hub.Agent, m *hub.Message) *hub.Message {
	if (m.Data[len(m.Data)-1]-'0')%2 == 1 {
		return nil
	}
	return hub.NewMessage(m.Channel, m.UUID, fmt.Appendf(nil, `"even %s"`, m.Data))
}

// denyAll refuses.
type denyAll struct{}

func (denyAll) Timeout() time.Duration { return time.Second }
func (denyAll) Decide(context.Context, *hub.Question) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "not for you"}}
}

func TestHistoryPassesTheGates(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 10, TTL: time.Hour}, Gates: oddWithheld{}}, func(b *bubble) {
		a := b.join()
		for n := range 5 {
			for _, channel := range []string{"news", "plain", "secret"} {
				a.Send(publish(channel, fmt.Sprint(channel, n), fmt.Sprint(n)))
			}
		}
		b.frames(a)
		if got := b.history(a, "news", `,"last":4`); !slices.Equal(got.data(), []string{`"even 2"`, `"even 4"`}) || got.Before == "" {
			b.Errorf("%+v", got)
		} else if at := got.Messages[1].Position; at == "" || !slices.Equal(b.history(a, "news", `,"before":"`+at+`"`).data(), []string{`"even 0"`, `"even 2"`}) {
			b.Errorf("a message that the gate has changed has no position: %+v", got)
		} else if got := b.history(a, "news", `,"before":"`+got.Before+`"`); !slices.Equal(got.data(), []string{`"even 0"`}) {
			b.Errorf("%+v", got)
		}
		if got := b.history(a, "plain", ""); len(got.Messages) != 5 {
			b.Errorf("%+v", got)
		}
		for _, name := range []string{"secret", "*", "a/*"} {
			if got := b.history(a, name, ""); got.Successful || got.Code != "denied" || got.Error != "not for you" || got.Messages != nil {
				b.Errorf("%s: %+v", name, got)
			}
		}
	})
}

func TestHistoryFitsTheQueue(t *testing.T) {
	limits := hub.Limits{QueueBytes: 40_000, MessageSize: 30_000}
	inBubble(t, hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}, Limits: limits}, func(b *bubble) {
		a := b.join()
		for n := range 50 {
			a.Send(publish("news", fmt.Sprint("m", n), `"`+strings.Repeat("x", 1000)+`"`))
		}
		a.Send(publish("large", "l1", `"`+strings.Repeat("y", 25_000)+`"`))
		a.Send(publish("large", "l2", `"`+strings.Repeat("y", 25_000)+`"`))
		b.frames(a)
		// Page by page, all of them come, none twice.
		var uuids []string
		before := ""
		for pages := 0; ; pages++ {
			got := b.history(a, "news", before)
			for _, m := range slices.Backward(got.Messages) {
				uuids = append(uuids, m.UUID)
			}
			if len(got.Messages) == 0 || len(got.Messages) > 10 {
				b.Fatalf("page %d has %d messages", pages, len(got.Messages))
			}
			if got.Before == "" {
				break
			}
			before = `,"before":"` + got.Before + `"`
		}
		if len(uuids) != 50 || uuids[0] != "m49" || uuids[49] != "m0" {
			b.Errorf("%d: %q", len(uuids), uuids)
		}
		if got := b.history(a, "large", ""); len(got.Messages) != 1 || got.Messages[0].UUID != "l2" || got.Before == "" {
			b.Errorf("a large message comes alone: %d, %+v", len(got.Messages), got.Before)
		}
	})
}

// Pages of a channel and of a pattern are compared with a list, for random requests.
func TestPagesEqualAList(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 20, TTL: time.Hour}, Limits: hub.Limits{FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited}}, func(b *bubble) {
		random := rand.New(rand.NewPCG(1, 2))
		a := b.join()
		type said struct{ channel, uuid, position string }
		var all []said
		kept := func(pattern string) (list []said) {
			counts := make(map[string]int)
			for _, m := range slices.Backward(all) {
				if counts[m.channel]++; counts[m.channel] <= 20 && (pattern == m.channel || pattern == "*" || pattern == "a/*" && strings.HasPrefix(m.channel, "a/")) {
					list = append(list, m)
				}
			}
			slices.Reverse(list)
			return list
		}
		for n := range 2000 {
			if random.IntN(3) > 0 {
				m := said{channel: []string{"a/x", "a/y", "a/y/z", "b"}[random.IntN(4)], uuid: fmt.Sprint("m", n)}
				a.Send(publish(m.channel, m.uuid, "1"))
				got := b.frames(a)
				m.position = got[0].Position
				all = append(all, m)
				continue
			}
			name := []string{"a/x", "a/y", "b", "a/*", "*", "nothing"}[random.IntN(6)]
			want, more := kept(name), ""
			if len(want) > 0 && random.IntN(2) == 0 {
				i := random.IntN(len(want))
				more, want = `,"before":"`+want[i].position+`"`, want[:i]
			}
			last := 1 + random.IntN(30)
			rest := len(want) > last
			if rest {
				want = want[len(want)-last:]
			}
			got := b.history(a, name, fmt.Sprintf(`%s,"last":%d`, more, last))
			same := slices.EqualFunc(got.Messages, want, func(m positioned, w said) bool {
				return m.UUID == w.uuid && m.Channel == w.channel && m.Position == w.position
			})
			if !same || rest != (got.Before != "") {
				b.Fatalf("%s %s last %d: %+v, want %+v and more %v", name, more, last, got, want, rest)
			}
		}
	})
}
