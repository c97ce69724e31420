// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// rule always gives the same verdict. The test can change it.
type rule struct {
	mu      sync.Mutex // guards verdict: questions arrive while the test changes it
	verdict func(q *hub.Question) hub.Verdict
}

// newRule returns a rule with a refusal; nil allows.
func newRule(answer func(q *hub.Question) hub.Verdict) *rule { return &rule{verdict: answer} }

func (r *rule) set(answer func(q *hub.Question) hub.Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verdict = answer
}

func (r *rule) decide(_ context.Context, q *hub.Question) hub.Verdict {
	r.mu.Lock()
	answer := r.verdict
	r.mu.Unlock()
	if answer == nil {
		return hub.Allow
	}
	return answer(q)
}

func verdict(v hub.Verdict) func(*hub.Question) hub.Verdict {
	return func(*hub.Question) hub.Verdict { return v }
}

// ended returns the frame by which the server ends a subscription.
func ended(line, channel, code string) bool {
	return strings.HasPrefix(line, `{"channel":"/meta/unsubscribe","uuid":"`) &&
		strings.Contains(line, `"data":{"channel":"`+channel+`"},"successful":true,"error":"`) &&
		strings.Contains(line, `"code":"`+code+`"`)
}

// stay keeps agents alive for some time.
func (b *bubble) stay(d time.Duration, peers ...*hubtest.Peer) {
	for range int(d / time.Second) {
		time.Sleep(time.Second)
		for _, p := range peers {
			p.Agent.Touch()
		}
	}
	synctest.Wait()
}

// lines returns the frames that p got, without heartbeats.
func lines(p *hubtest.Peer) (got []string) {
	synctest.Wait()
	for _, line := range p.Conn.Lines() {
		if line != "h" {
			got = append(got, line)
		}
	}
	return got
}

func TestIdentity(t *testing.T) {
	who := &hub.Identity{User: "bob", Claims: map[string]any{"role": "editor"}, Grants: []string{"a/*"}}
	var seen []*hub.Identity
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: newRule(verdict(hub.Verdict{Identity: who})).decide,
		hub.GateSubscribe: newRule(func(q *hub.Question) hub.Verdict {
			seen = append(seen, q.Identity)
			if string(q.Credentials) != `"s3cret"` {
				t.Errorf("asked with credentials %s", q.Credentials)
			}
			return hub.Allow
		}).decide,
	}}}, func(b *bubble) {
		p := b.join("x")
		if len(seen) != 1 || seen[0] != who || p.Agent.User() != "bob" || p.Agent.Identity() != who {
			b.Errorf("the subscribe gate saw %v, the agent is %q", seen, p.Agent.User())
		}
	})
}

// A user that the server has authenticated stays the user, whatever a token says.
func TestServersUserCounts(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: newRule(verdict(hub.Verdict{Identity: &hub.Identity{User: "mallory"}})).decide,
	}}}, func(b *bubble) {
		p := hubtest.Open(b, b.hub, b.policy, hub.Opening{User: "bob"}, hubtest.NewConn())
		p.Send(connect("a"))
		synctest.Wait()
		if got := p.Agent.User(); got != "bob" {
			b.Errorf("the user is %q, want bob", got)
		}
	})
}

func TestSubscriptionsByTheConnectGate(t *testing.T) {
	connects := newRule(verdict(hub.Verdict{Subscribe: []string{"users/bob", "news/*", "not a channel"}}))
	subscribes := newRule(verdict(denied("no")))
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide, hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
		p, other := b.open(), b.open()
		p.Send(connect("a"))
		got := lines(p)
		if len(got) != 3 || got[0] != connected("a") {
			b.Fatalf("got %q", got)
		}
		for i, ch := range []string{"users/bob", "news/*"} {
			if line := got[i+1]; !strings.HasPrefix(line, `{"channel":"/meta/subscribe","uuid":"`) ||
				!strings.HasSuffix(line, `"data":{"channel":"`+ch+`"},"successful":true,"error":""}`) {
				b.Errorf("subscription %d was told as %s", i, line)
			}
		}
		other.Send(connect("b"), publish("users/bob", "1", "1"), publish("news/x", "2", "2"))
		b.want(p, message("users/bob", "1", "1"), message("news/x", "2", "2"))

		// If a refresh returns fewer subscriptions, the subscribe gate is asked about the
		// others.
		connects.set(verdict(hub.Verdict{Subscribe: []string{"users/bob"}}))
		p.Send(connect("a"))
		got = lines(p)
		if len(got) != 3 || got[0] != connected("a") || !ended(got[2], "news/*", "denied") {
			b.Errorf("after the refresh got %q", got)
		}
		other.Send(publish("users/bob", "3", "3"), publish("news/x", "4", "4"))
		b.want(p, message("users/bob", "3", "3"))
	})
}

func TestRefreshAsksForSubscriptionsAgain(t *testing.T) {
	subscribes := new(rule)
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: new(rule).decide, hub.GateSubscribe: subscribes.decide,
	}}}, func(b *bubble) {
		p, publisher := b.join("a", "b", "c"), b.join()
		subscribes.set(func(q *hub.Question) hub.Verdict {
			if q.Channel == "b" {
				return denied("not any more")
			}
			return hub.Allow
		})
		p.Send(connect("agent1"))
		got := lines(p)
		if len(got) != 2 || got[0] != connected("agent1") || !ended(got[1], "b", "denied") {
			b.Errorf("got %q", got)
		}
		publisher.Send(publish("a", "1", "1"), publish("b", "2", "2"), publish("c", "3", "3"))
		b.want(p, message("a", "1", "1"), message("c", "3", "3"))
	})
}

func TestRefreshByAnotherUser(t *testing.T) {
	for name, who := range map[string]struct{ before, after string }{
		"another":          {"bob", "eve"},
		"no user any more": {"bob", ""},
		"somebody now":     {"", "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			connects := newRule(verdict(hub.Verdict{Identity: &hub.Identity{User: who.before}}))
			inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide}}}, func(b *bubble) {
				p := b.join()
				connects.set(verdict(hub.Verdict{Identity: &hub.Identity{User: who.after}}))
				p.Send(connect("agent1"))
				b.want(p, `{"channel":"/meta/connect","uuid":"c","agentId":"agent1","successful":false,"error":"this session belongs to another user","code":"denied"}`,
					`{"channel":"/meta/close","code":4403,"error":"this session belongs to another user","retry":1000}`)
				b.wantClose(p, hub.CloseCut)
			})
		})
	}
}

func TestOneRefreshAtATime(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: w.decide}}}, func(b *bubble) {
		w.answer("connect ", hub.Allow)
		p := b.join()
		p.Send(connect("agent1"), strings.Replace(connect("agent1"), `"c"`, `"second"`, 1))
		b.want(p, `{"channel":"/meta/connect","uuid":"second","agentId":"agent1","successful":false,"error":"this session is being refreshed, or was refreshed just now","code":"limit","retry":1000}`)
		w.answer("connect ", hub.Allow)
		b.want(p, connected("agent1"))
	})
}

func TestConnectionExpires(t *testing.T) {
	connects := new(rule)
	connects.set(func(*hub.Question) hub.Verdict { return hub.Verdict{Expires: time.Now().Add(100 * time.Second)} })
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide}}}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"))
		b.want(p, `{"channel":"/meta/connect","uuid":"c","agentId":"a","expires":100000,"successful":true,"error":""}`)
		until := time.Now().Add(100 * time.Second)
		asked := 0
		connects.set(func(*hub.Question) hub.Verdict { asked++; return hub.Verdict{Expires: until} })
		b.stay(99*time.Second, p)
		if asked != 1 {
			b.Errorf("asked again %d times before the end, want once", asked)
		}
		if got := lines(p); len(got) != 0 {
			b.Errorf("the silent question was told: %q", got)
		}
		b.stay(2*time.Second, p)
		if got := lines(p); len(got) != 1 || got[0] != `{"channel":"/meta/close","code":4403,"error":"your permission to be connected has expired","retry":1000}` {
			b.Errorf("got %q", got)
		}
		b.wantClose(p, hub.CloseCut)
	})
}

func TestConnectionIsProlonged(t *testing.T) {
	connects := new(rule)
	connects.set(func(*hub.Question) hub.Verdict { return hub.Verdict{Expires: time.Now().Add(100 * time.Second)} })
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide}}}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"))
		b.stay(500*time.Second, p)
		if !p.Agent.IsConnected() {
			b.Error("the connection ended though its gate went on allowing it")
		}
	})
}

// Old leases are valid until the answer or their end, whichever comes first.
func TestExpiresDuringSlowRefresh(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: w.decide}}}, func(b *bubble) {
		w.answer("connect ", hub.Verdict{Expires: time.Now().Add(1500 * time.Millisecond)})
		p := b.open()
		p.Send(connect("a"))
		lines(p)
		time.Sleep(1300 * time.Millisecond)
		p.Send(connect("a")) // never answered
		synctest.Wait()
		if !p.Agent.IsConnected() {
			b.Fatal("closed before the end")
		}
		time.Sleep(500 * time.Millisecond)
		b.wantClose(p, hub.CloseCut)
	})
}

func TestConnectRecheck(t *testing.T) {
	connects := newRule(verdict(hub.Verdict{Recheck: 10 * time.Second, Identity: &hub.Identity{User: "bob"}}))
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide}}}, func(b *bubble) {
		p := b.join("x")
		b.stay(35*time.Second, p)
		if !p.Agent.IsConnected() {
			b.Fatal("closed though allowed")
		}
		connects.set(verdict(denied("banned")))
		b.stay(12*time.Second, p)
		if got := lines(p); len(got) != 1 || got[0] != `{"channel":"/meta/close","code":4403,"error":"banned","retry":1000}` {
			b.Errorf("got %q", got)
		}
		b.wantClose(p, hub.CloseCut)
	})
}

func TestSubscribeRecheck(t *testing.T) {
	subscribes := newRule(verdict(hub.Verdict{Recheck: 5 * time.Second}))
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
		p, publisher := b.join("a"), b.join()
		b.stay(17*time.Second, p, publisher)
		if got := lines(p); len(got) != 0 {
			b.Errorf("told of nothing: %q", got)
		}
		subscribes.set(verdict(denied("not any more")))
		b.stay(6*time.Second, p, publisher)
		if got := lines(p); len(got) != 1 || !ended(got[0], "a", "denied") {
			b.Errorf("got %q", got)
		}
		publisher.Send(publish("a", "1", "1"))
		b.want(p)
		subscribes.set(nil) // it allows again
		p.Send(subscribe("a"))
		b.want(p, subscribed("a"))
	})
}

func TestSubscriptionExpires(t *testing.T) {
	subscribes := newRule(func(*hub.Question) hub.Verdict { return hub.Verdict{Expires: time.Now().Add(20 * time.Second)} })
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
		p := b.join("a", "b")
		b.stay(60*time.Second, p) // extended
		if got := lines(p); len(got) != 0 {
			b.Errorf("told of nothing: %q", got)
		}
		end := time.Now().Add(20 * time.Second)
		subscribes.verdict = func(q *hub.Question) hub.Verdict {
			if q.Channel == "a" {
				return hub.Verdict{Expires: end}
			}
			return hub.Verdict{}
		}
		b.stay(45*time.Second, p)
		if got := lines(p); len(got) != 1 || !ended(got[0], "a", "expired") {
			b.Errorf("got %q", got)
		}
	})
}

func TestNamespaces(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		in := func(ns string, channels ...string) *hubtest.Peer {
			p := hubtest.Open(b, b.hub, b.policy, hub.Opening{Namespace: ns}, hubtest.NewConn())
			p.Send(connect("same"))
			for _, ch := range channels {
				p.Send(subscribe(ch))
			}
			lines(p)
			return p
		}
		red, blue, none := in("red", "news", "*"), in("blue", "news", "*", "red/*"), in("", "news", "*", "red/news")
		for ns, p := range map[string]*hubtest.Peer{"red": red, "blue": blue, "": none} {
			in(ns).Send(publish("news", "u", `"`+ns+`"`))
			b.want(p, message("news", "u", `"`+ns+`"`))
		}
		red.Send(unsubscribe("*"))
		b.want(red, unsubscribed("*"))
		in("red").Send(publish("sport", "v", "1"))
		for _, p := range []*hubtest.Peer{red, blue, none} {
			b.want(p)
		}
	})
}

func TestPublishVerbs(t *testing.T) {
	publishes := new(rule)
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: publishes.decide}}}, func(b *bubble) {
		s, p := b.join("a", "b", "c/*"), b.join()
		publishes.set(verdict(hub.Verdict{Publish: &hub.Publishing{Channels: []string{"b", "c/d", "a"}, Data: []byte(`"stamped"`)}}))
		p.Send(publish("a", "1", "1"))
		b.want(s, message("b", "1", `"stamped"`), message("c/d", "1", `"stamped"`), message("a", "1", `"stamped"`))
		b.want(p, published("1"))
		p.Send(publish("a", "1", "1")) // a repetition, whatever happens to it
		b.want(s)
		b.want(p, published("1"))

		publishes.set(verdict(hub.Verdict{Publish: &hub.Publishing{Discard: true}}))
		p.Send(publish("a", "2", "2"))
		b.want(s)
		b.want(p, published("2"))

		publishes.set(verdict(hub.Verdict{Publish: &hub.Publishing{}}))
		p.Send(publish("a", "3", "3"))
		b.want(s, message("a", "3", "3"))
	})
}

func TestPatternSubscriptionsAreGated(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{pattern: func(p string) (hub.Gate, *hub.Refusal) {
		switch p {
		case "open/*":
			return nil, nil
		case "asked/*":
			return gateFunc(func(_ context.Context, q *hub.Question) hub.Verdict {
				if !q.Pattern {
					t.Error("the question does not say that it is about a pattern")
				}
				return hub.Allow
			}), nil
		default:
			return nil, &hub.Refusal{Code: hub.CodeDenied, Reason: "no patterns here"}
		}
	}}}, func(b *bubble) {
		p := b.join("open/*", "asked/*", "closed/1")
		p.Send(subscribe("closed/*"))
		b.want(p, `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"closed/*"},"successful":false,"error":"no patterns here","code":"denied"}`)
	})
}

func TestSenderIsKnownToDeliverGates(t *testing.T) {
	var from hub.Sender
	inBubble(t, hub.Policy{Gates: &gates{deliver: func(_ *hub.Agent, m *hub.Message) *hub.Message {
		from = *m.From
		return m
	}}}, func(b *bubble) {
		s := b.join("a")
		p := hubtest.Open(b, b.hub, b.policy, hub.Opening{User: "bob"}, hubtest.NewConn())
		p.Send(connect("p"), publish("a", "1", "1"))
		b.want(s, message("a", "1", "1"))
		if want := (hub.Sender{User: "bob", UUID: p.Agent.UUID()}); from != want {
			b.Errorf("from %v, want %v", from, want)
		}
	})
}

// Operations of an old identity are not performed for a new one. If a refresh takes
// rights away, this applies to subscriptions that are still being asked about.
func TestVerdictOfAnOldIdentity(t *testing.T) {
	w := newAnswers()
	connects := newRule(verdict(hub.Verdict{Identity: &hub.Identity{Grants: []string{"x"}}}))
	granted := func(ctx context.Context, q *hub.Question) hub.Verdict {
		if q.Gate == hub.GateSubscribe || q.Gate == hub.GatePublish {
			w.decide(ctx, q) // the answer takes some time
		}
		if len(q.Identity.Grants) == 0 {
			return denied("not granted")
		}
		return hub.Allow
	}
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: connects.decide, hub.GateSubscribe: granted, hub.GatePublish: granted,
	}}}, func(b *bubble) {
		p := b.join()
		p.Send(subscribe("x"), publish("x", "1", "1"))
		synctest.Wait()
		connects.set(nil) // it grants nothing now
		p.Send(connect("agent1"))
		b.want(p, connected("agent1"))
		w.answer("subscribe x", hub.Allow) // about the old identity
		synctest.Wait()
		w.answer("publish x 1", hub.Allow)
		synctest.Wait()
		w.answer("subscribe x", hub.Allow) // about the new identity
		synctest.Wait()
		w.answer("publish x 1", hub.Allow)
		b.want(p,
			`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"x"},"successful":false,"error":"not granted","code":"denied"}`,
			`{"channel":"/meta/error","uuid":"1","error":"not granted","code":"denied"}`)
	})
}

// An operation that the old policy allowed, and that still waits, is asked about again.
func TestVerdictOfAnOldPolicyInTheQueue(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: w.decide}}}, func(b *bubble) {
		s, p := b.join("x"), b.join()
		p.Send(publish("x", "1", "1"), publish("x", "2", "2"))
		synctest.Wait()
		w.answer("publish x 2", hub.Allow)
		synctest.Wait()
		b.hub.Use(&hub.Policy{Mount: b.policy.Mount, Gates: &gates{ask: asked{
			hub.GatePublish: newRule(verdict(denied("new rules"))).decide,
		}}})
		b.hub.Drop(b.policy)
		w.answer("publish x 1", hub.Allow)
		b.want(s)
		b.want(p, `{"channel":"/meta/error","uuid":"1","error":"new rules","code":"denied"}`,
			`{"channel":"/meta/error","uuid":"2","error":"new rules","code":"denied"}`)
	})
}

// If a backend does not answer when leases are reauthorized, agents keep them until they
// end.
func TestUnavailableAtReview(t *testing.T) {
	away := verdict(hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable, Reason: "away", Retry: time.Second}})
	for name, first := range map[string]func(*hub.Question) hub.Verdict{
		"expires": func(*hub.Question) hub.Verdict { return hub.Verdict{Expires: time.Now().Add(40 * time.Second)} },
		"recheck": verdict(hub.Verdict{Recheck: 10 * time.Second}),
	} {
		t.Run(name, func(t *testing.T) {
			connects, subscribes := newRule(first), newRule(first)
			inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide, hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
				p := b.open()
				p.Send(connect("a"), subscribe("x"))
				lines(p)
				connects.set(away)
				subscribes.set(away)
				b.stay(39*time.Second, p)
				p.Send(connect("a")) // a refresh gets no answer either
				if got := lines(p); len(got) != 1 || !strings.Contains(got[0], `"error":"away","code":"unavailable"`) {
					b.Errorf("got %q", got)
				}
				connects.set(nil) // the backend is back
				subscribes.set(nil)
				p.Send(connect("a"))
				b.stay(120*time.Second, p)
				if got := lines(p); len(got) != 1 || got[0] != connected("a") {
					b.Errorf("after it came back got %q", got)
				}
			})
			connects, subscribes = newRule(first), newRule(first)
			inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateConnect: connects.decide, hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
				p := b.open()
				p.Send(connect("a"), subscribe("x"))
				lines(p)
				connects.set(away)
				subscribes.set(away)
				b.stay(75*time.Second, p)
				if p.Agent.IsConnected() {
					b.Error("still connected, although its gate has not answered for more than a minute")
				}
			})
		})
	}
}

func TestRefreshesAreBounded(t *testing.T) {
	subscribes := new(rule)
	var questions atomic.Int64
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{hub.GateSubscribe: subscribes.decide}}}, func(b *bubble) {
		p := b.join("a", "b", "c", "d")
		subscribes.set(func(*hub.Question) hub.Verdict { questions.Add(1); return hub.Allow })
		for range 50 {
			p.Send(connect("agent1"))
			synctest.Wait()
		}
		refreshed, refused := 0, 0
		for _, line := range lines(p) {
			switch {
			case line == connected("agent1"):
				refreshed++
			case strings.Contains(line, `"code":"limit","retry":1000`):
				refused++
			}
		}
		if refreshed != 5 || refused != 45 || questions.Load() != 20 {
			b.Errorf("%d refreshes, %d refused, %d questions; want 5, 45 and 20", refreshed, refused, questions.Load())
		}
	})
}

func TestExpiredAtConnect(t *testing.T) {
	inBubble(t, hub.Policy{Gates: &gates{ask: asked{
		hub.GateConnect: newRule(verdict(hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeExpired, Reason: "too old"}})).decide,
	}}}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"))
		if got := lines(p); len(got) != 2 || got[1] != `{"channel":"/meta/close","code":4401,"error":"too old","retry":1000}` {
			b.Errorf("got %q", got)
		}
	})
}

// Leases that become due while others are reauthorized are not forgotten.
func TestManyReviews(t *testing.T) {
	subscribes := newRule(verdict(hub.Verdict{Recheck: 200 * time.Millisecond}))
	inBubble(t, hub.Policy{Heartbeat: time.Hour, Limits: hub.Limits{UnconnectedPerIP: hub.Unlimited}, Gates: &gates{ask: asked{
		hub.GateSubscribe: subscribes.decide,
	}}}, func(b *bubble) {
		var peers []*hubtest.Peer
		for range 300 {
			peers = append(peers, b.join("a"))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		subscribes.set(verdict(denied("over")))
		time.Sleep(time.Second)
		for i, p := range peers {
			if got := lines(p); len(got) != 1 || !ended(got[0], "a", "denied") {
				b.Fatalf("agent %d got %q", i, got)
			}
		}
	})
}

// Agents that have left do not accumulate if a disconnect gate hangs.
func TestPartingsAreBounded(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{UnconnectedPerIP: hub.Unlimited}, Gates: &gates{ask: asked{
		hub.GateDisconnect: func(ctx context.Context, _ *hub.Question) hub.Verdict { <-ctx.Done(); return hub.Allow },
	}}}, func(b *bubble) {
		before := runtime.NumGoroutine()
		for range 1500 {
			b.join().Leave()
		}
		if n := runtime.NumGoroutine() - before; n > 2*1000+10 {
			b.Errorf("%d goroutines for agents that are gone", n)
		}
		time.Sleep(2 * time.Second)
	})
}
