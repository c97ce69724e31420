// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// mayRecover is what the gate history answers: yes to channels below open/.
func mayRecover(q *hub.Question) hub.Verdict {
	switch {
	case q.Gate != hub.GateHistory, strings.HasPrefix(q.Channel, "open/"):
		return hub.Allow
	case strings.HasPrefix(q.Channel, "down/"):
		return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable, Reason: "not now", Retry: time.Second}}
	}
	return denied("not for you")
}

// Who may not have kept messages gets live ones, and is told so. It does not matter whether
// the gate asks a backend.
func TestGateHistoryKeepsThePastFromAgents(t *testing.T) {
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprintf("local %t", local), func(t *testing.T) {
			gate := &fakeGate{text: "history", local: local, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
				if q.Pattern != hub.IsPattern(q.Channel) {
					t.Errorf("about %s: Pattern is %t", q.Channel, q.Pattern)
				}
				return mayRecover(q)
			}}
			rules := gatesOf(byName{hub.GateHistory: gate})
			inBubble(t, hub.Policy{Gates: rules, Histories: kept{Count: 5, TTL: time.Hour}}, func(b *bubble) {
				publisher := b.join()
				for i, channel := range []string{"open/a", "secret/a", "down/a"} {
					publisher.Send(publish(channel, fmt.Sprint("m", i), "1"))
				}
				b.frames(publisher)
				for n, c := range [][2]string{{"down/a", "unavailable"}, {"secret/*", "denied"}, {"secret/a", "denied"}, {"open/a", ""}, {"open/*", ""}} {
					channel, reason := c[0], c[1]
					a := b.join()
					a.Send(subscribe(channel))
					synctest.Wait()
					if got := b.frames(a); len(got) != 1 || got[0].Recovered != nil || gate.asked.Load() != 0 {
						b.Fatalf("%s: a subscribe that asks for nothing kept: %+v; the gate was asked %d times", channel, got, gate.asked.Load())
					}
					a.Send(subscribeSince(channel, `"since":5`))
					got := b.frames(a)
					if len(got) == 0 || got[0].Error != "" || got[0].Position == "" || got[0].Recovered == nil || *got[0].Recovered != (reason == "") || got[0].Reason != reason {
						b.Fatalf("%s: %+v", channel, got)
					}
					if messages := len(got) - 1; (messages > 0) != (reason == "") || gate.asked.Load() != 1 {
						b.Errorf("%s: %d messages came; the gate was asked %d times", channel, messages, gate.asked.Load())
					}
					publisher.Send(publish(strings.ReplaceAll(channel, "*", "a"), fmt.Sprint("live", n), "2"))
					if live := b.frames(a); len(live) != 1 || string(live[0].Data) != "2" {
						b.Errorf("%s: live came %+v", channel, live)
					}
					page := b.history(a, channel, "")
					if page.Successful != (reason == "") || page.Code != reason || (len(page.Messages) > 0) != (reason == "") {
						b.Errorf("%s: a page: %+v", channel, page)
					}
					a.Leave()
					gate.asked.Store(0)
				}
			})
		})
	}
}

// Where nothing is kept, the gate has nothing to decide.
func TestGateHistoryWithoutAHistory(t *testing.T) {
	gate := &fakeGate{text: "history", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict { return mayRecover(q) }}
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateHistory: gate})}, func(b *bubble) {
		a := b.join()
		a.Send(subscribeSince("secret/a", `"since":5`))
		if got := b.frames(a); len(got) != 1 || got[0].Reason != "none" {
			b.Errorf("%+v", got)
		}
		if page := b.history(a, "secret/a", ""); !page.Successful || page.Reason != "none" || gate.asked.Load() != 0 {
			b.Errorf("%+v; the gate was asked %d times", page, gate.asked.Load())
		}
	})
}

// Who may not subscribe gets no kept messages either, and the gate history is not asked.
func TestGateHistoryComesAfterSubscribe(t *testing.T) {
	gate := &fakeGate{text: "history", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict { return mayRecover(q) }}
	no := &fakeGate{text: "subscribe", local: true, decide: func(context.Context, *hub.Question) hub.Verdict { return denied("no entry") }}
	rules := gatesOf(byName{hub.GateHistory: gate, hub.GateSubscribe: no})
	inBubble(t, hub.Policy{Gates: rules, Histories: kept{Count: 5, TTL: time.Hour}}, func(b *bubble) {
		a := b.join()
		if page := b.history(a, "open/a", ""); page.Successful || page.Error != "no entry" {
			b.Errorf("%+v", page)
		}
		a.Send(subscribeSince("open/a", `"since":5`))
		if got := b.frames(a); len(got) != 1 || got[0].Error != "no entry" || got[0].Recovered != nil || gate.asked.Load() != 0 {
			b.Errorf("%+v; the gate was asked %d times", got, gate.asked.Load())
		}
	})
}

// A reload that closes the gate history while a question waits is obeyed, also if nothing
// was kept before it.
func TestReloadClosesTheGateHistory(t *testing.T) {
	for name, before := range map[string]struct {
		keeps hub.Histories
		text  string
	}{
		"another gate":            {kept{Count: 5, TTL: time.Hour}, "old"},
		"now messages are kept":   {nil, "new"},
		"the gate did not change": {kept{Count: 5, TTL: time.Hour}, "new"},
	} {
		t.Run(name, func(t *testing.T) {
			subscribeGate := func(wait chan struct{}) *fakeGate {
				return &fakeGate{text: "subscribe", decide: func(context.Context, *hub.Question) hub.Verdict {
					if wait != nil {
						<-wait
					}
					return hub.Allow
				}}
			}
			wait := make(chan struct{})
			history := func(text string) *fakeGate {
				return &fakeGate{text: text, local: true, decide: func(context.Context, *hub.Question) hub.Verdict {
					if text == "old" {
						return hub.Allow
					}
					return denied("not for you")
				}}
			}
			inBubble(t, hub.Policy{Grace: time.Minute, Histories: before.keeps}, func(b *bubble) {
				publisher := b.join()
				keeps := kept{Count: 5, TTL: time.Hour}
				wait = make(chan struct{})
				a := b.join()
				b.reload(hub.Policy{Grace: time.Minute, Histories: before.keeps, Gates: gatesOf(byName{hub.GateSubscribe: subscribeGate(wait), hub.GateHistory: history(before.text)})})
				publisher.Send(publish("news", "m", "1"))
				a.Send(subscribeSince("news", `"since":5`))
				synctest.Wait()
				b.reload(hub.Policy{Grace: time.Minute, Histories: keeps, Gates: gatesOf(byName{hub.GateSubscribe: subscribeGate(nil), hub.GateHistory: history("new")})})
				close(wait)
				got := b.frames(a)
				if len(got) != 1 || got[0].Reason != "denied" {
					b.Errorf("%+v", got)
				}
				b.frames(publisher)
			})
		})
	}
}
