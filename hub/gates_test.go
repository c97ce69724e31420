// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// gates are Gates made of functions.
type gates struct {
	ask     map[hub.GateName]func(ctx context.Context, q *hub.Question) hub.Verdict
	deliver func(a *hub.Agent, m *hub.Message) *hub.Message
	pattern func(pattern string) (hub.Gate, *hub.Refusal)
	only    string // the prefix of its channels; "" means all
}

type gateFunc func(ctx context.Context, q *hub.Question) hub.Verdict

func (f gateFunc) Timeout() time.Duration { return time.Second }

func (f gateFunc) Decide(ctx context.Context, q *hub.Question) hub.Verdict { return f(ctx, q) }

func (g *gates) Gate(name hub.GateName, channel string) hub.Gate {
	if f := g.ask[name]; f != nil && strings.HasPrefix(channel, g.only) {
		return gateFunc(f)
	}
	return nil
}

func (g *gates) Pattern(pattern string) (hub.Gate, *hub.Refusal) {
	if g.pattern != nil {
		return g.pattern(pattern)
	}
	return g.Gate(hub.GateSubscribe, pattern), nil
}

func (g *gates) DeliverGate(channel string) hub.DeliverGate {
	if g.deliver == nil || !strings.HasPrefix(channel, g.only) {
		return nil
	}
	return deliverFunc(g.deliver)
}

type deliverFunc func(a *hub.Agent, m *hub.Message) *hub.Message

func (f deliverFunc) Deliver(a *hub.Agent, m *hub.Message) *hub.Message { return f(a, m) }

type asked = map[hub.GateName]func(ctx context.Context, q *hub.Question) hub.Verdict

func denied(reason string) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: reason}}
}

// answers is a gate whose answers the test gives, by channel.
type answers struct {
	mu      sync.Mutex
	waiting map[string]chan hub.Verdict
	asked   []string
	running int
	most    int
}

func newAnswers() *answers { return &answers{waiting: make(map[string]chan hub.Verdict)} }

func (w *answers) decide(ctx context.Context, q *hub.Question) hub.Verdict {
	key := string(q.Gate) + " " + q.Channel
	if q.Message != nil {
		key += " " + q.Message.UUID
	}
	w.mu.Lock()
	c := w.waiting[key]
	if c == nil {
		c = make(chan hub.Verdict, 1)
		w.waiting[key] = c
	}
	w.asked = append(w.asked, key)
	w.running++
	w.most = max(w.most, w.running)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		return denied("late")
	}
}

func (w *answers) answer(key string, v hub.Verdict) {
	w.mu.Lock()
	c := w.waiting[key]
	if c == nil {
		c = make(chan hub.Verdict, 1)
		w.waiting[key] = c
	}
	w.mu.Unlock()
	c <- v
}

func TestFramesBeforeConnect(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.open()
		p.Send(publish("a", "u", "1"), subscribe("a"), unsubscribe("a"), "rubbish")
		synctest.Wait()
		lines := p.Conn.Lines()
		if len(lines) != 4 {
			b.Fatalf("got %q, want four answers", lines)
		}
		for i, want := range []string{
			`{"channel":"/meta/error","uuid":"u","error":"send /meta/connect first","code":"invalid"}`,
			`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"a"},"successful":false,"error":"send /meta/connect first","code":"invalid"}`,
			`{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"a"},"successful":false,"error":"send /meta/connect first","code":"invalid"}`,
		} {
			if lines[i] != want {
				b.Errorf("got %s, want %s", lines[i], want)
			}
		}
		if !strings.HasPrefix(lines[3], `{"channel":"/meta/error","uuid":"???",`) || !strings.HasSuffix(lines[3], `"code":"invalid"}`) {
			b.Errorf("rubbish was answered %s", lines[3])
		}
		p.Send(connect("a")) // the session still works
		b.want(p, connected("a"))
	})
}

func TestFramesDuringConnect(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: w.decide}}}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"), subscribe("x"), publish("x", "1", "1"))
		b.want(p) // all operations wait
		w.answer("connect ", hub.Allow)
		b.want(p, connected("a"), subscribed("x"), message("x", "1", "1"), published("1"))
		p.Send(publish("x", "2", "2"))
		b.want(p, message("x", "2", "2"), published("2"))
	})
}

func TestReadingStopsDuringConnect(t *testing.T) {
	for name, c := range map[string]struct{ size, held int }{
		"frames": {1, 32},
		"bytes":  {60 << 10, 4}, // in 256 KiB
	} {
		t.Run(name, func(t *testing.T) {
			w := newAnswers()
			inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: w.decide}}}, func(b *bubble) {
				p := b.open()
				p.Send(connect("a"))
				var read atomic.Int64
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for n := range 40 {
						p.Send(publish("x", fmt.Sprint(n), `"`+strings.Repeat("z", c.size)+`"`))
						read.Add(1)
					}
				}()
				synctest.Wait()
				if n := int(read.Load()); n != c.held+1 {
					b.Errorf("%d frames were read before the answer, want %d that are held, and the one that is over", n, c.held)
				}
				w.answer("connect ", hub.Allow)
				<-sent
				synctest.Wait()
				lines := p.Conn.Lines()
				if len(lines) != 41 {
					b.Fatalf("%d answers, want 41", len(lines))
				}
				for i, line := range lines[1:] {
					if line != published(fmt.Sprint(i)) {
						b.Fatalf("answer %d is %s", i, line)
					}
				}
			})
		})
	}
}

func TestRefusedConnect(t *testing.T) {
	for _, c := range []struct {
		refusal hub.Refusal
		answer  string
		notice  string
		code    hub.CloseCode
	}{
		{
			hub.Refusal{Code: hub.CodeDenied, Reason: "no"},
			`"error":"no","code":"denied"`, `"code":4401,"error":"no","retry":false`, hub.CloseDenied,
		},
		{
			hub.Refusal{Code: hub.CodeUnavailable, Reason: "away", Retry: 2 * time.Second},
			`"error":"away","code":"unavailable","retry":2000`, `"code":4503,"error":"away","retry":2000`, hub.CloseUnavailable,
		},
		{
			hub.Refusal{Code: hub.CodeLimit, Reason: "many", Retry: time.Second},
			`"error":"many","code":"limit","retry":1000`, `"code":4429,"error":"many","retry":1000`, hub.CloseLimit,
		},
	} {
		t.Run(string(c.refusal.Code), func(t *testing.T) {
			w := newAnswers()
			disconnects := 0
			inBubble(t, hub.Policy{Gates: &gates{ask: asked{
				hub.GateConnect:    w.decide,
				hub.GateDisconnect: func(context.Context, *hub.Question) hub.Verdict { disconnects++; return hub.Allow },
			}}}, func(b *bubble) {
				p := b.open()
				p.Send(connect("a"), subscribe("x"), publish("x", "1", "1"), "{}")
				synctest.Wait() // frames after the end have no answer
				w.answer("connect ", hub.Verdict{Refusal: &c.refusal})
				synctest.Wait()
				lines := p.Conn.Lines()
				if len(lines) != 5 {
					b.Fatalf("got %q, want an answer each and the notice", lines)
				}
				if want := `{"channel":"/meta/connect","uuid":"c","agentId":"a","successful":false,` + c.answer + `}`; lines[0] != want {
					b.Errorf("got %s, want %s", lines[0], want)
				}
				if !strings.HasPrefix(lines[1], `{"channel":"/meta/subscribe","uuid":"s",`) || !strings.Contains(lines[1], c.answer) {
					b.Errorf("the subscribe was answered %s", lines[1])
				}
				if want := `{"channel":"/meta/error","uuid":"1",` + c.answer + `}`; lines[2] != want {
					b.Errorf("got %s, want %s", lines[2], want)
				}
				if want := `{"channel":"/meta/close",` + c.notice + `}`; lines[4] != want {
					b.Errorf("got %s, want %s", lines[4], want)
				}
				b.wantClose(p, c.code)
				<-p.Gone()
				if disconnects != 0 {
					b.Error("disconnect was told of an agent that never connected")
				}
			})
		})
	}
}

func TestGateTimeoutAndPanic(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GatePublish: func(context.Context, *hub.Question) hub.Verdict {
			time.Sleep(90 * time.Second) // it ignores its context
			return hub.Allow
		},
		hub.GateSubscribe: func(context.Context, *hub.Question) hub.Verdict { panic("s3cret detail") },
	}}}, func(b *bubble) {
		p := b.join()
		p.Send(publish("x", "1", "1"), subscribe("y"))
		b.want(p, `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"y"},"successful":false,`+
			`"error":"the server could not find out in time whether this is allowed","code":"unavailable","retry":1000}`)
		time.Sleep(1100 * time.Millisecond)
		b.want(p, `{"channel":"/meta/error","uuid":"1","error":"the server could not find out in time whether this is allowed","code":"unavailable","retry":1000}`)
		time.Sleep(100 * time.Second) // the late answer changes nothing
	})
}

func TestOutcomesInFrameOrderPerChannel(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: w.decide, hub.GateSubscribe: w.decide}}}, func(b *bubble) {
		p := b.join()
		p.Send(publish("x", "1", "1"), publish("x", "2", "2"), publish("y", "3", "3"), unsubscribe("x"))
		synctest.Wait()
		w.answer("publish x 2", denied("no")) // the second answer comes first, and waits for the first
		b.want(p)
		w.answer("publish y 3", hub.Allow) // another channel does not wait
		b.want(p, published("3"))
		w.answer("publish x 1", hub.Allow)
		b.want(p, published("1"), `{"channel":"/meta/error","uuid":"2","error":"no","code":"denied"}`, unsubscribed("x"))
	})
}

// A frame that is refused without a gate is also answered in its turn.
func TestRefusalsWaitForTheirTurn(t *testing.T) {
	w := newAnswers()
	limits := hub.Limits{MessageSize: 1000, PublishesPerSecond: 1}
	inBubble(t, hub.Policy{Limits: limits, Gates: &gates{ask: asked{hub.GatePublish: w.decide, hub.GateSubscribe: w.decide}}}, func(b *bubble) {
		p := b.join()
		p.Send(publish("x", "1", "1"),
			publish("x", "2", `"`+strings.Repeat("x", 1000)+`"`), // too large
			`{"channel":"x","uuid":"3","agentId":"another","data":1}`,
			`{"channel":"/meta/subscribe","uuid":"4","agentId":"another","data":{"channel":"x"}}`,
			publish("y", "5", `"`+strings.Repeat("x", 1000)+`"`)) // another channel does not wait
		for n := range 5 {
			p.Send(publish("x", fmt.Sprint("6", n), "1")) // the last one exceeds the limit
		}
		synctest.Wait()
		uuids := func() (got []string) {
			for _, line := range p.Conn.Lines() {
				var answer struct{ UUID string }
				if err := json.Unmarshal([]byte(line), &answer); err != nil {
					b.Fatal(err)
				}
				got = append(got, answer.UUID)
			}
			return got
		}
		if got := uuids(); !slices.Equal(got, []string{"5"}) {
			b.Errorf("answered were %q, want only what is about another channel", got)
		}
		for _, n := range []string{"1", "60", "61", "62", "63"} {
			w.answer("publish x "+n, hub.Allow)
		}
		synctest.Wait()
		if got := uuids(); !slices.Equal(got, []string{"1", "2", "3", "4", "60", "61", "62", "63", "64"}) {
			b.Errorf("answered were %q, want the order of the frames", got)
		}
	})
}

func TestQuestionsAtOnce(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: w.decide}}}, func(b *bubble) {
		p := b.join()
		go func() {
			for i := range 20 {
				p.Send(publish(fmt.Sprint("c", i), "u", "0"))
			}
		}()
		for i := range 20 {
			synctest.Wait()
			w.answer(fmt.Sprintf("publish c%d u", i), hub.Allow)
		}
		synctest.Wait()
		if w.most != 8 {
			b.Errorf("%d questions ran at once, want 8", w.most)
		}
		if got := len(p.Conn.Lines()); got != 20 {
			b.Errorf("%d answers, want 20", got)
		}
	})
}

func TestLeavingCancelsQuestions(t *testing.T) {
	var cancelled, disconnects int
	var order []string
	var mu sync.Mutex
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GatePublish: func(ctx context.Context, _ *hub.Question) hub.Verdict {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			cancelled++
			return hub.Allow
		},
		hub.GateDisconnect: func(_ context.Context, q *hub.Question) hub.Verdict {
			mu.Lock()
			defer mu.Unlock()
			disconnects++
			order = append(order, q.Agent.AgentID())
			return denied("too late")
		},
	}}}, func(b *bubble) {
		s, p := b.join("x"), b.join()
		p.Send(publish("x", "1", "1"))
		synctest.Wait()
		p.Leave()
		time.Sleep(2 * time.Second)
		b.want(s)
		mu.Lock()
		defer mu.Unlock()
		if cancelled != 1 || disconnects != 1 || order[0] != "agent2" {
			b.Errorf("%d cancelled, %d disconnects of %q, want one each, of agent2", cancelled, disconnects, order)
		}
	})
}

// If a reload comes during a question, the answer of the old gate does not count.
func TestReloadDuringQuestion(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: w.decide, hub.GateConnect: w.decide}}}, func(b *bubble) {
		w.answer("connect ", hub.Allow)
		p := b.join("x")
		fresh := b.open()
		fresh.Send(connect("f"))
		p.Send(publish("x", "1", "1"), publish("x", "2", "2"))
		synctest.Wait()
		next := b.hub.Use(&hub.Policy{Mount: b.policy.Mount, Gates: &gates{ask: asked{
			hub.GateConnect: func(context.Context, *hub.Question) hub.Verdict { return denied("new rules") },
			hub.GatePublish: func(_ context.Context, q *hub.Question) hub.Verdict {
				if q.Message.UUID == "2" {
					return hub.Allow
				}
				return denied("new rules")
			},
		}}})
		b.hub.Drop(b.policy)
		w.answer("publish x 1", hub.Allow)
		w.answer("publish x 2", denied("old rules"))
		w.answer("connect ", hub.Allow)
		b.want(p, `{"channel":"/meta/error","uuid":"1","error":"new rules","code":"denied"}`, message("x", "2", "2"), published("2"))
		b.wantClose(fresh, hub.CloseDenied)
		_ = next
	})
}

func TestRefresh(t *testing.T) {
	var credentials []string
	allow := true
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: func(_ context.Context, q *hub.Question) hub.Verdict {
			credentials = append(credentials, string(q.Credentials))
			if allow {
				return hub.Allow
			}
			return denied("logged out")
		},
	}}}, func(b *bubble) {
		p := b.join("x")
		p.Send(`{"channel":"/meta/connect","uuid":"r","agentId":"agent1","data":{"credentials":"today's"}}`)
		b.want(p, `{"channel":"/meta/connect","uuid":"r","agentId":"agent1","successful":true,"error":""}`)
		if want := []string{`"s3cret"`, `"today's"`}; !slices.Equal(credentials, want) {
			b.Errorf("asked with %q, want %q", credentials, want)
		}
		p.Send(`{"channel":"/meta/connect","uuid":"r","agentId":"another"}`)
		b.want(p, `{"channel":"/meta/connect","uuid":"r","agentId":"another","successful":false,"error":"this session connected with another agentId","code":"invalid"}`)
		p.Send(publish("x", "1", "1"))
		b.want(p, message("x", "1", "1"), published("1"))
		allow = false
		p.Send(connect("agent1"))
		b.want(p, `{"channel":"/meta/connect","uuid":"c","agentId":"agent1","successful":false,"error":"logged out","code":"denied"}`,
			`{"channel":"/meta/close","code":4403,"error":"logged out","retry":1000}`)
		b.wantClose(p, hub.CloseCut)
	})
}

func TestRefreshWithoutGate(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join()
		p.Send(connect("agent1"))
		b.want(p, connected("agent1"))
	})
}

func TestAnotherAgentID(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("x")
		p.Send(`{"channel":"x","uuid":"1","agentId":"agent1","data":1}`, `{"channel":"x","uuid":"2","agentId":"other","data":2}`,
			`{"channel":"/meta/subscribe","uuid":"3","agentId":"other","data":{"channel":"y"}}`)
		b.want(p, message("x", "1", "1"), published("1"),
			`{"channel":"/meta/error","uuid":"2","error":"this session connected with another agentId","code":"invalid"}`,
			`{"channel":"/meta/subscribe","uuid":"3","agentId":"other","data":{"channel":"y"},"successful":false,"error":"this session connected with another agentId","code":"invalid"}`)
	})
}

func TestDeliverGate(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{only: "guarded", deliver: func(a *hub.Agent, m *hub.Message) *hub.Message {
		switch a.AgentID() {
		case "agent1":
			return m
		case "agent2":
			return nil
		default:
			return hub.NewMessage(m.Channel, m.UUID, []byte(`"hidden"`))
		}
	}}}, func(b *bubble) {
		all := []*hubtest.Peer{b.join("guarded/1", "open"), b.join("guarded/1", "open"), b.join("guarded/1", "open")}
		p := b.join()
		p.Send(publish("guarded/1", "1", `"secret"`), publish("open", "2", "2"))
		b.want(all[0], message("guarded/1", "1", `"secret"`), message("open", "2", "2"))
		b.want(all[1], message("open", "2", "2"))
		b.want(all[2], message("guarded/1", "1", `"hidden"`), message("open", "2", "2"))
	})
}

func TestUnsubscribeDenied(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateUnsubscribe: func(context.Context, *hub.Question) hub.Verdict { return denied("you stay") },
	}}}, func(b *bubble) {
		p := b.join("x")
		p.Send(unsubscribe("x"), publish("x", "1", "1"))
		synctest.Wait()
		b.want(p, `{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"x"},"successful":false,"error":"you stay","code":"denied"}`,
			message("x", "1", "1"), published("1"))
		p.Leave() // an agent can always be closed
	})
}
