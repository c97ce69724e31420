// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// fakeGates are Gates whose gates have fingerprints.
type fakeGates struct {
	gates   map[hub.GateName]*fakeGate
	pattern func(pattern string) (hub.Gate, *hub.Refusal)
}

func (l *fakeGates) Gate(name hub.GateName, _ string) hub.Gate {
	if r := l.gates[name]; r != nil {
		return r
	}
	return nil
}

func (l *fakeGates) Pattern(pattern string) (hub.Gate, *hub.Refusal) {
	if l.pattern != nil {
		return l.pattern(pattern)
	}
	return l.Gate(hub.GateSubscribe, pattern), nil
}

func (*fakeGates) DeliverGate(string) hub.DeliverGate { return nil }

// A fakeGate counts its questions.
type fakeGate struct {
	text   string // its fingerprint
	local  bool
	fixed  bool
	decide func(ctx context.Context, q *hub.Question) hub.Verdict
	asked  atomic.Int64
}

func (r *fakeGate) Timeout() time.Duration       { return time.Second }
func (r *fakeGate) Local() bool                  { return r.local }
func (r *fakeGate) Fixed() bool                  { return r.fixed }
func (r *fakeGate) Fingerprint() hub.Fingerprint { return hub.Fingerprint(r.text) }

func (r *fakeGate) Decide(ctx context.Context, q *hub.Question) hub.Verdict {
	r.asked.Add(1)
	if r.decide == nil {
		return hub.Allow
	}
	return r.decide(ctx, q)
}

// want compares how often the fakeGate was asked.
func (r *fakeGate) want(b *bubble, times int64) {
	b.Helper()
	synctest.Wait()
	if got := r.asked.Load(); got != times {
		b.Errorf("%s was asked %d times, want %d", r.text, got, times)
	}
}

func local(text string, v hub.Verdict) *fakeGate {
	return &fakeGate{text: text, local: true, decide: func(context.Context, *hub.Question) hub.Verdict { return v }}
}

func remote(text string, decide func(ctx context.Context, q *hub.Question) hub.Verdict) *fakeGate {
	return &fakeGate{text: text, decide: decide}
}

// hangs is a backend that never answers.
func hangs(ctx context.Context, _ *hub.Question) hub.Verdict {
	<-ctx.Done()
	return denied("late")
}

func away(context.Context, *hub.Question) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable, Reason: "away", Retry: time.Second}}
}

func gatesOf(gates map[hub.GateName]*fakeGate) *fakeGates { return &fakeGates{gates: gates} }

type byName = map[hub.GateName]*fakeGate

// reload replaces the policy by p.
func (b *bubble) reload(p hub.Policy) *hub.Reload {
	b.Helper()
	p.Mount = b.policy.Mount
	old := b.policy
	b.policy = b.hub.Use(&p)
	return b.hub.Drop(old)
}

// wantEffects waits until a reload is complete, and compares its effects.
func (b *bubble) wantEffects(r *hub.Reload, want hub.Effects) {
	b.Helper()
	<-r.Done()
	if got := r.Effects(); got != want {
		b.Errorf("the reload has done %+v, want %+v", got, want)
	}
}

// wantCut checks that a reload closes p, and that p is told to come back.
func (b *bubble) wantCut(p *hubtest.Peer, reason string) {
	b.Helper()
	got := lines(p)
	var notice struct {
		Channel, Error string
		Code           hub.CloseCode
		Retry          any
	}
	if len(got) != 1 {
		b.Fatalf("the agent got %q, want a notice alone", got)
	}
	if err := json.Unmarshal([]byte(got[0]), &notice); err != nil {
		b.Fatal(err)
	}
	retry, _ := notice.Retry.(float64)
	if notice.Channel != "/meta/close" || notice.Code != hub.CloseCut || notice.Error != reason || retry < 1000 {
		b.Errorf("the agent got %s, want it cut for %q, with a retry", got[0], reason)
	}
	b.wantClose(p, hub.CloseCut)
}

// wantEnded checks that p is told that a subscription has ended, and gets nothing else.
func (b *bubble) wantEnded(p *hubtest.Peer, channel string, code hub.Code) {
	b.Helper()
	if got := lines(p); len(got) != 1 || !ended(got[0], channel, string(code)) {
		b.Errorf("the agent got %q, want the end of %s alone, with the code %s", got, channel, code)
	}
}

func TestReloadAsksUnchangedGatesNothing(t *testing.T) {
	for _, isLocal := range []bool{true, false} {
		t.Run(fmt.Sprintf("local=%v", isLocal), func(t *testing.T) {
			gates := func() byName {
				return byName{
					hub.GateConnect:   {text: "connect", local: isLocal},
					hub.GateSubscribe: {text: "subscribe", local: isLocal},
				}
			}
			inBubble(t, hub.Policy{Gates: gatesOf(gates())}, func(b *bubble) {
				p := b.join("news", "stories/*")
				for range 3 {
					next := gates()
					r := b.reload(hub.Policy{Gates: gatesOf(next), Limits: hub.Limits{FramesPerSecond: 99}})
					b.wantEffects(r, hub.Effects{Agents: 1})
					b.stay(2*time.Minute, p)
					next[hub.GateConnect].want(b, 0)
					next[hub.GateSubscribe].want(b, 0)
				}
				publisher := b.join()
				publisher.Send(publish("news", "1", "1"), publish("stories/1", "2", "2"))
				if got := lines(p); !slices.Equal(got, []string{message("news", "1", "1"), message("stories/1", "2", "2")}) {
					b.Errorf("got %q", got)
				}
			})
		})
	}
}

// After a reload, messages reach only agents that the new rules allow, even if no worker
// has migrated them yet.
func TestReloadHoldsAtOnce(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: local("old", hub.Allow)})}, func(b *bubble) {
		peers := make([]*hubtest.Peer, 50)
		for i := range peers {
			peers[i] = b.join("news", "other", "news/*")
		}
		no := &fakeGate{text: "new", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if strings.HasPrefix(q.Channel, "news") {
				return denied("not news")
			}
			return hub.Allow
		}}
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: no})})
		for i, ch := range []string{"news", "other", "news/1"} {
			if _, err := b.hub.Publish(b.Context(), hub.NewMessage(ch, fmt.Sprint(i), []byte("0"))); err != nil {
				b.Fatal(err)
			}
		}
		b.wantEffects(r, hub.Effects{Agents: 50, Asked: 150, Ended: 100})
		for _, p := range peers {
			got := lines(p)
			if n := slices.Index(got, message("other", "1", "0")); len(got) != 3 || n < 0 {
				b.Fatalf("got %q", got)
			}
			for _, line := range got {
				if strings.HasPrefix(line, `{"channel":"news`) {
					b.Fatalf("got %q", got)
				}
			}
		}
	})
}

// An agent that reads late does not get messages that the new policy denies it.
func TestReloadHoldsForWhatWaits(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("news", "other")
		p.Conn.Stall(true)
		say := func(ch, uuid string) {
			if _, err := b.hub.Publish(b.Context(), hub.NewMessage(ch, uuid, []byte("0"))); err != nil {
				b.Fatal(err)
			}
		}
		say("news", "written") // it is being written during the reload
		synctest.Wait()
		say("news", "waits")
		say("other", "waits too")
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: {text: "new", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if q.Channel == "news" {
				return denied("not news")
			}
			return hub.Allow
		}}})})
		say("news", "after")
		b.wantEffects(r, hub.Effects{Agents: 1, Asked: 2, Ended: 1})
		p.Conn.Stall(false)
		got := lines(p)
		if len(got) != 3 || got[0] != message("news", "written", "0") || got[1] != message("other", "waits too", "0") || !ended(got[2], "news", "denied") {
			b.Errorf("got %q", got)
		}
	})
}

func TestReloadCutsWhoMayNotConnect(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		one, two := b.join("news"), b.join("news")
		who := one.Agent
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: {text: "new", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if q.Agent == who {
				return denied("members only")
			}
			return hub.Allow
		}}})})
		// An agent that the new rules deny publishes and receives nothing.
		who.Receive([]byte(publish("news", "1", "1")))
		if _, err := b.hub.Publish(b.Context(), hub.NewMessage("news", "2", []byte("2"))); err != nil {
			b.Fatal(err)
		}
		b.wantCut(one, "members only")
		b.want(two, message("news", "2", "2"))
		b.wantEffects(r, hub.Effects{Agents: 2, Asked: 2, Cut: 1})
	})
}

func TestReloadAsksRemoteGatesAgain(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, publisher := b.join("yes", "no"), b.join()
		w := newAnswers()
		gate := remote("new", w.decide)
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: gate})})
		publisher.Send(publish("no", "1", "1"))
		b.want(p, message("no", "1", "1")) // the old answer is still valid
		time.Sleep(200 * time.Millisecond)
		publisher.Send(publish("no", "2", "2"))
		b.want(p, message("no", "2", "2"))
		w.answer("subscribe yes", hub.Allow)
		w.answer("subscribe no", denied("no"))
		b.wantEnded(p, "no", hub.CodeDenied)
		b.wantEffects(r, hub.Effects{Agents: 2, Asked: 2, Ended: 1})
		b.want(publisher, published("1"), published("2"))
		publisher.Send(publish("no", "3", "3"), publish("yes", "4", "4"))
		b.want(p, message("yes", "4", "4"))
		b.stay(5*time.Minute, p, publisher)
		gate.want(b, 2)
		publisher.Send(publish("yes", "5", "5"))
		if got := lines(p); !slices.Equal(got, []string{message("yes", "5", "5")}) {
			b.Errorf("got %q", got)
		}
	})
}

// No agent notices a backend that is away for less than the grace period.
func TestReloadWhileABackendIsAway(t *testing.T) {
	var there atomic.Bool
	decide := func(ctx context.Context, q *hub.Question) hub.Verdict {
		if there.Load() {
			return hub.Allow
		}
		return away(ctx, q)
	}
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, publisher := b.join("news"), b.join()
		connects, subscribes := remote("connect", decide), remote("subscribe", decide)
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: connects, hub.GateSubscribe: subscribes})})
		b.stay(40*time.Second, p, publisher)
		there.Store(true)
		<-r.Done()
		if e := r.Effects(); e.Ended+e.Cut+e.Late > 0 || e.Asked < 4 {
			b.Errorf("the reload has done %+v, want no session cut", e)
		}
		b.stay(5*time.Minute, p, publisher)
		publisher.Send(publish("news", "1", "1"))
		if got := lines(p); !slices.Equal(got, []string{message("news", "1", "1")}) {
			b.Errorf("got %q", got)
		}
	})
}

// If a gate has not answered after the grace period, the agent is refused, but not for
// good.
func TestReloadGraceEnds(t *testing.T) {
	for name, decide := range map[string]func(context.Context, *hub.Question) hub.Verdict{"away": away, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, hub.Policy{Heartbeat: time.Hour}, func(b *bubble) {
				const grace = 20 * time.Second
				p, publisher := b.join("news", "other"), b.join()
				r := b.reload(hub.Policy{Heartbeat: time.Hour, Grace: grace, Gates: gatesOf(byName{hub.GateSubscribe: remote("new", decide)})})
				time.Sleep(grace - grace/10 - time.Second)
				publisher.Send(publish("news", "1", "1"))
				b.want(p, message("news", "1", "1"))
				time.Sleep(grace/10 + time.Second + 200*time.Millisecond)
				got := lines(p)
				slices.SortFunc(got, func(x, y string) int { return strings.Compare(x[80:], y[80:]) })
				if len(got) != 2 || !ended(got[0], "news", "unavailable") || !ended(got[1], "other", "unavailable") || !strings.Contains(got[0], `"retry":`) {
					b.Errorf("got %q", got)
				}
				<-r.Done()
				if e := r.Effects(); e.Ended != 2 || e.Late != 2 || e.Cut != 0 {
					b.Errorf("the reload has done %+v", e)
				}
				publisher.Send(publish("news", "2", "2"))
				b.want(p)
			})
		})
	}
	t.Run("connect", func(t *testing.T) {
		inBubble(t, hub.Policy{Heartbeat: time.Hour}, func(b *bubble) {
			p := b.join("news")
			r := b.reload(hub.Policy{Heartbeat: time.Hour, Grace: 10 * time.Second, Gates: gatesOf(byName{hub.GateConnect: remote("new", hangs)})})
			time.Sleep(8 * time.Second)
			b.want(p)
			time.Sleep(2*time.Second + 200*time.Millisecond)
			b.wantCut(p, "the server could not find out whether this is still allowed")
			<-r.Done()
			if e := r.Effects(); e.Cut != 1 || e.Late != 1 {
				b.Errorf("the reload has done %+v", e)
			}
		})
	})
}

// If an answer has an end, it ends then, although a reload has replaced the gate.
func TestReloadGraceIsNoProlongation(t *testing.T) {
	first := &fakeGate{text: "old", decide: func(context.Context, *hub.Question) hub.Verdict {
		return hub.Verdict{Expires: time.Now().Add(5 * time.Second)}
	}}
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: first})}, func(b *bubble) {
		p := b.join("news")
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("new", hangs)})})
		b.stay(6*time.Second, p)
		b.wantEnded(p, "news", hub.CodeUnavailable)
	})
}

// Later reloads do not extend the grace period of the first one. A lease continues if a
// reload restores its gate.
func TestReloadAfterReload(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("one", nil)})}, func(b *bubble) {
		p := b.join("news")
		first := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("two", hangs)})})
		b.stay(30*time.Second, p)
		second := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("three", hangs)})})
		<-first.Done() // the agent belongs to the second reload now
		b.stay(23*time.Second, p)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q before the grace of the first reload was over", got)
		}
		b.stay(8*time.Second, p)
		b.wantEnded(p, "news", hub.CodeUnavailable)
		<-second.Done()

		p.Send(subscribe("other")) // no answer: it is refused in the end
		b.stay(2*time.Second, p)
		lines(p)
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("four", nil)})})
		p.Send(subscribe("news"))
		b.want(p, subscribed("news"))
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("five", hangs)})})
		b.stay(10*time.Second, p)
		back := remote("four", nil)
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: back})})
		<-r.Done()
		b.stay(3*time.Minute, p)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q, want nothing", got)
		}
	})
}

func TestReloadsAtOnce(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		var peers []*hubtest.Peer
		for range 20 {
			peers = append(peers, b.join("news"))
		}
		first := b.policy
		second := b.hub.Use(&hub.Policy{Mount: first.Mount, Gates: gatesOf(byName{hub.GateSubscribe: remote("two", hangs)})})
		third := b.hub.Use(&hub.Policy{Mount: first.Mount, Gates: gatesOf(byName{hub.GateSubscribe: local("three", denied("closed"))})})
		var wg sync.WaitGroup
		var reloads [2]*hub.Reload
		for i, p := range []*hub.Policy{first, second} {
			wg.Go(func() { reloads[i] = b.hub.Drop(p) })
		}
		wg.Wait()
		for _, r := range reloads {
			<-r.Done()
		}
		for _, p := range peers {
			if p.Agent.Policy() != third {
				b.Error("an agent is not under the newest policy")
			}
			b.wantEnded(p, "news", hub.CodeDenied)
		}
		if n := reloads[0].Effects().Ended + reloads[1].Effects().Ended; n != len(peers) {
			b.Errorf("%d subscriptions were ended, want %d", n, len(peers))
		}
	})
}

// A configuration that fails to load ends no lease, and asks no gate.
func TestFailedReloadAsksNoGate(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("news")
		never := local("never", denied("no"))
		failed := b.hub.Use(&hub.Policy{Mount: b.policy.Mount, Gates: gatesOf(byName{hub.GateConnect: never, hub.GateSubscribe: never})})
		b.wantEffects(b.hub.Drop(failed), hub.Effects{})
		b.stay(2*time.Minute, p)
		never.want(b, 0)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q", got)
		}
		// Its server may have accepted sessions before another part failed.
		failed = b.hub.Use(&hub.Policy{Mount: b.policy.Mount, Gates: gatesOf(byName{hub.GateConnect: local("yes", hub.Allow)})})
		early := hubtest.Open(b, b.hub, failed, hub.Opening{}, hubtest.NewConn())
		early.Send(connect("early"), subscribe("news"))
		lines(early)
		b.wantEffects(b.hub.Drop(failed), hub.Effects{Agents: 1})
		if early.Agent.Policy() != b.policy {
			b.Error("the agent is not under the policy that is left")
		}
	})
}

// If a reload comes during a question, the answer counts if the new gate is the same.
// Otherwise the new gate is asked.
func TestReloadDuringQuestions(t *testing.T) {
	w := newAnswers()
	gates := func() byName {
		return byName{
			hub.GateConnect:   remote("connect", w.decide),
			hub.GateSubscribe: remote("subscribe", w.decide),
			hub.GatePublish:   remote("publish", w.decide),
		}
	}
	inBubble(t, hub.Policy{Gates: gatesOf(gates())}, func(b *bubble) {
		w.answer("connect ", hub.Allow)
		p := b.join()
		fresh := b.open()
		fresh.Send(connect("f"), publish("x", "0", "0"))
		p.Send(subscribe("a"), subscribe("b"), publish("x", "1", "1"))
		synctest.Wait()
		next := gates()
		next[hub.GatePublish] = remote("publish no more", func(context.Context, *hub.Question) hub.Verdict { return denied("new rules") })
		b.reload(hub.Policy{Gates: gatesOf(next)})
		w.answer("connect ", hub.Allow)
		w.answer("subscribe a", hub.Allow)
		w.answer("subscribe b", hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable, Reason: "its backend is gone"}})
		w.answer("publish x 1", hub.Allow)
		b.want(fresh, connected("f"), `{"channel":"/meta/error","uuid":"0","error":"new rules","code":"denied"}`)
		synctest.Wait()
		next[hub.GateConnect].want(b, 0)
		next[hub.GateSubscribe].want(b, 1) // about b: the old gate may have failed because its configuration has ended
		w.answer("subscribe b", hub.Allow)
		got := lines(p)
		for _, want := range []string{subscribed("a"), subscribed("b"), `{"channel":"/meta/error","uuid":"1","error":"new rules","code":"denied"}`} {
			if !slices.Contains(got, want) {
				b.Errorf("got %q, and not %s", got, want)
			}
		}
	})
}

// A channel that has had no presence gets it by a reload, while the subscribe gate decides.
// The presence gate was not asked, and must be.
func TestReloadToPresenceDuringAQuestion(t *testing.T) {
	w := newAnswers()
	gates := func() byName {
		return byName{
			hub.GateSubscribe: remote("subscribe", w.decide),
			hub.GatePresence:  local("presence", denied("the list is secret")),
		}
	}
	inBubble(t, hub.Policy{Gates: gatesOf(gates())}, func(b *bubble) {
		p := b.join()
		p.Send(watchesRoom)
		synctest.Wait()
		b.reload(hub.Policy{Gates: gatesOf(gates()), Presences: &presences{only: "room", rule: hub.PresenceRule{Members: 10}}})
		w.answer("subscribe room", hub.Allow)
		synctest.Wait()
		w.answer("subscribe room", hub.Allow) // the gates are asked again
		b.want(p, begunInRoom+`{"error":"the list is secret","code":"denied"}}`)
	})
}

// If the connect gate returns another identity, the other gates are asked about it.
func TestReloadOfTheConnectGate(t *testing.T) {
	bob := hub.Verdict{Identity: &hub.Identity{User: "bob", Claims: map[string]any{"role": "editor"}}}
	for name, test := range map[string]struct {
		before, after hub.Verdict
		remote        bool
		asked         int64  // questions to the subscribe gate, which has not changed
		cut           string // the reason, if the agent is cut
	}{
		"the same":            {before: bob, after: hub.Verdict{Identity: &hub.Identity{User: "bob", Claims: map[string]any{"role": "editor"}}}},
		"the same, remote":    {before: bob, after: bob, remote: true},
		"another role":        {before: bob, after: hub.Verdict{Identity: &hub.Identity{User: "bob"}}, asked: 1},
		"another, remote":     {before: bob, after: hub.Verdict{Identity: &hub.Identity{User: "bob"}}, asked: 1, remote: true},
		"somebody at last":    {after: bob, asked: 1},
		"no user any more":    {before: bob, asked: 1},
		"another user":        {before: bob, after: hub.Verdict{Identity: &hub.Identity{User: "eve"}}, cut: "this session belongs to another user"},
		"refused, remote":     {before: bob, after: denied("members only"), remote: true, cut: "members only"},
		"cannot be found out": {before: bob, after: hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable, Reason: "away"}}, cut: "away"},
	} {
		t.Run(name, func(t *testing.T) {
			subscribes := func() *fakeGate { return remote("subscribe", nil) }
			inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("old", test.before), hub.GateSubscribe: subscribes()})}, func(b *bubble) {
				p := b.join("news")
				connects, again := local("new", test.after), subscribes()
				connects.local = !test.remote
				r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: connects, hub.GateSubscribe: again})})
				<-r.Done()
				connects.want(b, 1)
				again.want(b, test.asked)
				if test.cut != "" {
					b.wantCut(p, test.cut)
					return
				}
				b.want(p)
				if got := p.Agent.Identity(); test.after.Identity != nil && got.User != test.after.Identity.User {
					b.Errorf("the agent is %+v", got)
				}
				b.stay(3*time.Minute, p)
				if got := lines(p); len(got) != 0 {
					b.Errorf("got %q", got)
				}
			})
		})
	}
}

// If a backend must say who the user is, gates that use the user wait for it.
func TestReloadOfLocalGatesBehindARemoteOne(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("mine", "closed/*")
		w := newAnswers()
		l := gatesOf(byName{
			hub.GateConnect: remote("login", w.decide),
			hub.GateSubscribe: {text: "user", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
				if q.Identity.User == "bob" {
					return hub.Allow
				}
				return denied("you are not logged in")
			}},
		})
		l.pattern = func(string) (hub.Gate, *hub.Refusal) { return nil, denied("no patterns").Refusal }
		b.reload(hub.Policy{Gates: l})
		b.wantEnded(p, "closed/*", hub.CodeDenied) // for any user
		b.stay(20*time.Second, p)                  // the backend does not answer
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q before anybody has said who it is", got)
		}
		w.answer("connect ", hub.Verdict{Identity: &hub.Identity{User: "bob"}})
		b.stay(2*time.Minute, p)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q", got)
		}
	})
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("mine")
		b.reload(hub.Policy{Gates: gatesOf(byName{
			hub.GateConnect:   remote("login", nil),
			hub.GateSubscribe: {text: "user", local: true, decide: verdictOf(denied("you are not logged in"))},
		})})
		b.stay(time.Second, p)
		b.wantEnded(p, "mine", hub.CodeDenied)
	})
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("mine")
		b.reload(hub.Policy{Gates: gatesOf(byName{
			hub.GateConnect:   remote("login", hangs),
			hub.GateSubscribe: {text: "deny", local: true, fixed: true, decide: verdictOf(denied("closed"))},
		})})
		b.wantEnded(p, "mine", hub.CodeDenied)
	})
}

func verdictOf(v hub.Verdict) func(context.Context, *hub.Question) hub.Verdict {
	return func(context.Context, *hub.Question) hub.Verdict { return v }
}

// Subscriptions that the connect gate made last as long as it returns them.
func TestReloadOfSubscriptionsByTheConnectGate(t *testing.T) {
	first := local("one", hub.Verdict{Subscribe: []string{"inbox", "team"}})
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateConnect: first, hub.GateSubscribe: local("old", hub.Allow)})}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"))
		lines(p)
		no := local("new", denied("no"))
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("one", hub.Allow), hub.GateSubscribe: no})})
		b.want(p)
		no.want(b, 0)
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("two", hub.Verdict{Subscribe: []string{"inbox"}}), hub.GateSubscribe: local("new", denied("no"))})})
		got := lines(p)
		if len(got) != 2 || !strings.Contains(got[0], `"/meta/subscribe"`) || !strings.Contains(got[0], "inbox") || !ended(got[1], "team", "denied") {
			b.Errorf("got %q", got)
		}
	})
}

func TestReloadOfPatterns(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(nil)}, func(b *bubble) {
		p, publisher := b.join("stories/*", "stories/1"), b.join()
		l := gatesOf(nil)
		l.pattern = func(string) (hub.Gate, *hub.Refusal) { return nil, denied("no patterns here").Refusal }
		r := b.reload(hub.Policy{Gates: l})
		b.wantEffects(r, hub.Effects{Agents: 2, Ended: 1})
		b.wantEnded(p, "stories/*", hub.CodeDenied)
		publisher.Send(publish("stories/1", "1", "1"), publish("stories/2", "2", "2"))
		b.want(p, message("stories/1", "1", "1"))
	})
}

// A lower limit applies to later operations. It does not end existing subscriptions.
func TestReloadLowersLimits(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, publisher := b.join("a", "b", "c"), b.join()
		p.Conn.Stall(true)
		for i := range 100 {
			if _, err := b.hub.Publish(b.Context(), hub.NewMessage("a", strconv.Itoa(i), []byte("0"))); err != nil {
				b.Fatal(err)
			}
		}
		synctest.Wait()
		b.reload(hub.Policy{Limits: hub.Limits{ChannelsPerAgent: 2, Agents: 1, AgentsPerIP: 1, Channels: 1, NameLength: 1, QueueMessages: 16, QueueBytes: 1 << 10, MessageSize: 256}})
		if _, err := b.hub.Publish(b.Context(), hub.NewMessage("a", "100", []byte("0"))); err != nil {
			b.Fatal(err)
		}
		synctest.Wait()
		p.Conn.Stall(false)
		got := lines(p)
		if len(got) != 101 || got[100] != message("a", "100", "0") {
			b.Fatalf("%d messages came, want 101: the last is %s", len(got), got[len(got)-1])
		}
		p.Send(subscribe("d"))
		b.want(p, `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"d"},"successful":false,"error":"the server has reached its limit of 1 channels","code":"limit"}`)
		publisher.Send(publish("b", "1", "1"), publish("c", "2", "2"))
		b.want(p, message("b", "1", "1"), message("c", "2", "2"))
		if _, err := b.hub.Open(b.policy, hub.Opening{}); err == nil {
			b.Error("a session was opened over the limit")
		}
		// The agent is below the new limit now, so the limit applies.
		p.Conn.Stall(true)
		for i := range 20 {
			if _, err := b.hub.Publish(b.Context(), hub.NewMessage("a", "x"+strconv.Itoa(i), []byte("0"))); err != nil {
				b.Fatal(err)
			}
			synctest.Wait()
		}
		b.stay(3*time.Second, publisher)
		b.wantClose(p, hub.CloseSlow)
	})
}

func TestReloadOfTheHeartbeat(t *testing.T) {
	inBubble(t, hub.Policy{Heartbeat: 5 * time.Minute}, func(b *bubble) {
		quiet, dead := b.join(), b.join()
		time.Sleep(4 * time.Minute) // since the last frame of the agents
		for _, p := range []*hubtest.Peer{quiet, dead} {
			p.Conn.Lines()
		}
		b.reload(hub.Policy{Heartbeat: 10 * time.Second})
		beats := 0
		for range 60 {
			time.Sleep(time.Second)
			quiet.Agent.Touch()
			synctest.Wait()
			for _, line := range quiet.Conn.Lines() {
				if line != "h" {
					b.Fatalf("got %s", line)
				}
				beats++
			}
		}
		if beats < 5 || beats > 7 {
			b.Errorf("%d heartbeats in a minute, want one every 10 s", beats)
		}
		b.wantClose(dead, hub.CloseTimeout)
	})
}

func TestReloadOfTheHandshake(t *testing.T) {
	inBubble(t, hub.Policy{Handshake: 5 * time.Minute}, func(b *bubble) {
		p := b.open()
		b.reload(hub.Policy{Handshake: 2 * time.Second})
		time.Sleep(1900 * time.Millisecond)
		b.want(p)
		time.Sleep(200 * time.Millisecond)
		b.wantClose(p, hub.CloseTimeout)
	})
}

// A door is a hub.Admission that admits sessions with its key as host.
type door struct {
	key   string
	asked atomic.Int64
}

func (d *door) Stays(a *hub.Agent, before hub.Admission) *hub.Refusal {
	d.asked.Add(1)
	if old, ok := before.(*door); ok && old.key == d.key || a.Opening().Host() == d.key {
		return nil
	}
	return &hub.Refusal{Code: hub.CodeDenied, Reason: "another host"}
}

func TestReloadOfTheAdmission(t *testing.T) {
	inBubble(t, hub.Policy{Admission: &door{key: "a"}}, func(b *bubble) {
		one := hubtest.Open(b, b.hub, b.policy, hub.Opening{Host: "one"}, hubtest.NewConn())
		two := hubtest.Open(b, b.hub, b.policy, hub.Opening{Host: "two"}, hubtest.NewConn())
		one.Send(connect("a"), subscribe("x"))
		lines(one)
		lines(two)
		same := &door{key: "a"}
		b.wantEffects(b.reload(hub.Policy{Admission: same}), hub.Effects{Agents: 2})
		next := &door{key: "one"}
		b.wantEffects(b.reload(hub.Policy{Admission: next}), hub.Effects{Agents: 2, Cut: 1})
		if n := next.asked.Load(); n != 2 {
			b.Errorf("asked %d times, want twice", n)
		}
		b.want(one)
		b.wantCut(two, "another host")
	})
}

// A session may be opened after the reload by a request from before it. The new rules
// apply to it as to older ones.
func TestReloadWhileASessionOpens(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		old := b.policy
		b.reload(hub.Policy{Admission: &door{key: "one"}})
		p := hubtest.Open(b, b.hub, old, hub.Opening{Host: "two"}, hubtest.NewConn())
		p.Send(connect("a"))
		synctest.Wait()
		if code, _, times := p.Conn.Closed(); times != 1 || code != hub.CloseCut {
			b.Errorf("closed %d times with %d, want it cut", times, code)
		}
		if got := lines(p); slices.Contains(got, connected("a")) {
			b.Errorf("got %q", got)
		}
	})
}

// If there are many agents, they are asked about a few at a time, and all of them are.
func TestReloadOfManyAgents(t *testing.T) {
	const n = 3000
	inBubble(t, hub.Policy{Heartbeat: time.Hour}, func(b *bubble) {
		peers := make([]*hubtest.Peer, n)
		for i := range peers {
			c := hubtest.NewConn()
			peers[i] = hubtest.Open(b, b.hub, b.policy, hub.Opening{}, c)
			peers[i].Send(connect("a"+strconv.Itoa(i)), subscribe("news"), subscribe("more"))
		}
		synctest.Wait()
		before := runtime.NumGoroutine()
		var running, most, goroutines atomic.Int64
		gate := remote("new", func(context.Context, *hub.Question) hub.Verdict {
			now := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			if now%16 == 0 {
				goroutines.Store(max(goroutines.Load(), int64(runtime.NumGoroutine())))
			}
			time.Sleep(200 * time.Millisecond)
			return hub.Allow
		})
		r := b.reload(hub.Policy{Heartbeat: time.Hour, Gates: gatesOf(byName{hub.GateSubscribe: gate})})
		began := time.Now()
		b.wantEffects(r, hub.Effects{Agents: n, Asked: 2 * n})
		if took := time.Since(began); took > 30*time.Second {
			b.Errorf("it took %v", took)
		}
		if most.Load() > 128 {
			b.Errorf("%d questions at once, want at most 128", most.Load())
		}
		if more := goroutines.Load() - int64(before); more > 700 {
			b.Errorf("%d goroutines more than before", more)
		}
		for _, p := range peers {
			for _, line := range p.Conn.Lines() {
				if strings.Contains(line, "/meta/unsubscribe") || strings.Contains(line, "/meta/close") {
					b.Fatalf("got %s", line)
				}
			}
		}
	})
}

// During many reloads no agent misses a message, or gets one twice.
func TestReloadsLoseNothing(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: local("0", hub.Allow)})}, func(b *bubble) {
		peers := make([]*hubtest.Peer, 40)
		for i := range peers {
			peers[i] = b.join([]string{"news", "*"}[i%2])
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		sent := 0
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if _, err := b.hub.Publish(b.Context(), hub.NewMessage("news", strconv.Itoa(sent), []byte("0"))); err != nil {
					b.Error(err)
				}
				sent++
			}
		})
		for i := range 50 {
			gate := &fakeGate{text: strconv.Itoa(i % 7), local: i%2 == 0}
			b.reload(hub.Policy{
				Heartbeat: time.Duration(20+i%3) * time.Second, Limits: hub.Limits{QueueMessages: 100 + i},
				Gates: gatesOf(byName{hub.GateSubscribe: gate}),
			})
			time.Sleep(7 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		synctest.Wait()
		for _, p := range peers {
			got := lines(p)
			if len(got) != sent {
				b.Fatalf("%d messages came of %d", len(got), sent)
			}
			for i, line := range got {
				if line != message("news", strconv.Itoa(i), "0") {
					b.Fatalf("message %d is %s", i, line)
				}
			}
		}
	})
}

// An agent with the maximum number of open questions is still reauthorized after a
// reload.
func TestReloadAsksWhoHasNoPlaceLeft(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GatePublish: {text: "slow", decide: hangs}})}, func(b *bubble) {
		p := b.join("news")
		for i := range 8 {
			p.Send(publish("x"+strconv.Itoa(i), strconv.Itoa(i), "0"))
		}
		synctest.Wait()
		began := time.Now()
		r := b.reload(hub.Policy{Gates: gatesOf(byName{
			hub.GatePublish:   {text: "slow", decide: hangs},
			hub.GateSubscribe: remote("new", verdictOf(denied("no"))),
		})})
		<-r.Done()
		if took := time.Since(began); took > 500*time.Millisecond {
			b.Errorf("it took %v", took)
		}
		b.wantEnded(p, "news", hub.CodeDenied)
		b.stay(2*time.Second, p)
	})
}

// A refresh during a reload is answered by the new rules, with its own credentials.
func TestReloadDuringARefresh(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateConnect: remote("old", w.decide)})}, func(b *bubble) {
		w.answer("connect ", hub.Allow)
		p := b.join("news")
		p.Send(`{"channel":"/meta/connect","uuid":"r","agentId":"agent1","data":{"credentials":"fresh"}}`)
		synctest.Wait()
		var seen []string
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: remote("new", func(_ context.Context, q *hub.Question) hub.Verdict {
			seen = append(seen, string(q.Credentials))
			return hub.Verdict{Identity: &hub.Identity{Claims: map[string]any{"n": "1"}}}
		})})})
		time.Sleep(time.Second / 2)
		w.answer("connect ", denied("old rules"))
		<-r.Done()
		b.want(p, `{"channel":"/meta/connect","uuid":"r","agentId":"agent1","successful":true,"error":""}`)
		if want := []string{`"fresh"`}; !slices.Equal(seen, want) {
			b.Errorf("asked with %q, want %q", seen, want)
		}
	})
}

// The new rules decide about messages that wait for a stalled connection, also if a write
// blocks. At most the message that is being written is sent.
func TestReloadDeniesWhatWaitsForAStalledConnection(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		for gate, rules := range map[string]hub.Gates{
			"connect":   gatesOf(byName{hub.GateConnect: local("connect", denied("no"))}),
			"subscribe": gatesOf(byName{hub.GateSubscribe: local("subscribe", denied("no"))}),
			"deliver":   &gates{deliver: func(*hub.Agent, *hub.Message) *hub.Message { return nil }},
		} {
			t.Run(fmt.Sprintf("%s, blocks %t", gate, blocks), func(t *testing.T) {
				inBubble(t, hub.Policy{Gates: gatesOf(nil)}, func(b *bubble) {
					c := hubtest.NewConn()
					c.Blocks = blocks
					stalled, publisher := b.joinOn(c, "news"), b.join()
					c.Stall(true)
					publisher.Send(publish("news", "first", `"`+strings.Repeat("x", 20_000)+`"`))
					synctest.Wait() // the message is being written
					for n := range 40 {
						publisher.Send(publish("news", "late"+strconv.Itoa(n), "1"))
					}
					synctest.Wait()
					<-b.reload(hub.Policy{Gates: rules}).Done()
					c.Stall(false)
					synctest.Wait()
					for _, line := range c.Lines() {
						if strings.Contains(line, `"late`) {
							t.Errorf("%s went out though the new rules deny it", line)
						}
					}
					if gate == "connect" {
						b.wantClose(stalled, hub.CloseCut)
					}
				})
			})
		}
	}
}

// A slow local gate delays only its own agent.
func TestReloadAsksNoGateWhereOthersAreWrittenTo(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(nil)}, func(b *bubble) {
		slow := b.join("news")
		var others []*hubtest.Peer
		for range 4 * runtime.GOMAXPROCS(0) { // some of them share a flusher with the agent
			others = append(others, b.join("news"))
		}
		publisher := b.join()
		asked, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		reload := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: {text: "slow", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if q.Agent == slow.Agent {
				once.Do(func() { close(asked) })
				<-release
			}
			return hub.Allow
		}}})})
		<-asked
		publisher.Send(publish("news", "u", "1"))
		synctest.Wait()
		for _, p := range others {
			b.want(p, message("news", "u", "1"))
		}
		b.want(slow)
		close(release)
		<-reload.Done()
		synctest.Wait()
		b.want(slow, message("news", "u", "1"))
	})
}

// An agent above lower limits keeps its subscriptions, also while gates of the reload are
// still being asked.
func TestLowerLimitsCloseNoAgentDuringTheReload(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(nil), Limits: hub.Limits{QueueMessages: 8}}, func(b *bubble) {
		c := hubtest.NewConn()
		p, publisher := b.joinOn(c, "news"), b.join()
		c.Stall(true)
		for n := range 3 {
			publisher.Send(publish("news", strconv.Itoa(n), "1"))
		}
		synctest.Wait()
		meanwhile := sync.OnceFunc(func() {
			if _, err := b.hub.Publish(b.Context(), hub.NewMessage("news", "meanwhile", []byte("1"))); err != nil {
				t.Error(err)
			}
		})
		gate := &fakeGate{text: "subscribe", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if q.Agent == p.Agent {
				meanwhile()
			}
			return hub.Allow
		}}
		<-b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: gate}), Limits: hub.Limits{QueueMessages: 2}}).Done()
		publisher.Send(publish("news", "after", "1"))
		synctest.Wait()
		c.Stall(false)
		synctest.Wait()
		b.want(p, message("news", "0", "1"), message("news", "1", "1"), message("news", "2", "1"), message("news", "meanwhile", "1"), message("news", "after", "1"))
	})
}

// gatesWithDeliver are fakeGates with a deliver gate.
type gatesWithDeliver struct {
	*fakeGates
	deliver deliverFunc
}

func (l gatesWithDeliver) DeliverGate(string) hub.DeliverGate { return l.deliver }

// A flusher has taken a message and asks its deliver gate. If the right to the message
// ends meanwhile, it is not sent, neither by the flusher nor by a later writer.
func TestReloadDeniesWhatAFlusherHasTaken(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		for _, how := range []string{"in mid-reload", "by a local gate", "by a backend"} {
			t.Run(fmt.Sprintf("%s, stalls %t", how, stalls), func(t *testing.T) {
				var taken, deliver chan struct{}
				var once sync.Once
				waits := deliverFunc(func(_ *hub.Agent, m *hub.Message) *hub.Message {
					if m.UUID == "taken" {
						once.Do(func() { close(taken) })
						<-deliver
					}
					return m
				})
				inBubble(t, hub.Policy{Gates: gatesWithDeliver{gatesOf(nil), waits}, Grace: time.Minute}, func(b *bubble) {
					taken, deliver = make(chan struct{}), make(chan struct{})
					c := hubtest.NewConn()
					agent, publisher := b.joinOn(c, "news"), b.join()
					publisher.Send(publish("news", "taken", "1"))
					<-taken
					c.Stall(stalls)
					decide := make(chan struct{})
					r := remote("subscribe", func(context.Context, *hub.Question) hub.Verdict {
						<-decide
						return denied("no")
					})
					r.local = how != "by a backend"
					reload := b.reload(hub.Policy{Grace: time.Minute, Gates: gatesWithDeliver{gatesOf(byName{hub.GateSubscribe: r}), waits}})
					synctest.Wait()
					if how == "in mid-reload" {
						close(deliver) // the message returns while the gate is asked
						synctest.Wait()
						close(decide)
					} else {
						close(decide)
						<-reload.Done()
						close(deliver)
					}
					synctest.Wait()
					c.Stall(false)
					<-reload.Done()
					synctest.Wait()
					for _, line := range agent.Conn.Lines() {
						if strings.Contains(line, `"taken"`) {
							t.Errorf("%s went out though the new rules deny it", line)
						}
					}
					if n := b.hub.Stats().Dropped[hub.DropRevoked]; n != 1 {
						t.Errorf("%d messages were counted as revoked, want 1", n)
					}
				})
			})
		}
	}
}

// A flusher has taken messages and could not write them. If the agent is cut meanwhile,
// they are dropped.
func TestReloadDropsWhatIsBeingWritten(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		c := &heldConn{Conn: hubtest.NewConn(), release: make(chan struct{})}
		a, err := b.hub.Open(b.policy, hub.Opening{})
		if err != nil {
			b.Fatal(err)
		}
		a.Start(c)
		defer a.Left("the test is over")
		a.Receive([]byte(connect("a")))
		a.Receive([]byte(subscribe("news")))
		synctest.Wait()
		c.Lines()
		if _, err := b.hub.Publish(b.Context(), hub.NewMessage("news", "1", []byte("1"))); err != nil {
			b.Fatal(err)
		}
		synctest.Wait() // the message is being written
		<-b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("new", denied("members only"))})}).Done()
		close(c.release)
		synctest.Wait()
		if got := c.Lines(); len(got) != 1 || !strings.Contains(got[0], `"/meta/close"`) {
			b.Errorf("got %q, want the notice alone", got)
		}
	})
}

// A heldConn reports that a write would block, but only after it is released.
type heldConn struct {
	*hubtest.Conn
	release chan struct{}
}

func (c *heldConn) TryWrite(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`{"channel":"news","uuid"`)) {
		<-c.release
		return 0, hub.ErrWouldBlock
	}
	return c.Conn.TryWrite(p)
}

// A reload restores the connect gate while the gate in between has not answered. The
// agent stays at once.
func TestReloadBackToAConnectGate(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("one", hub.Allow)})}, func(b *bubble) {
		p := b.join("news")
		b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: remote("two", hangs)})})
		b.stay(5*time.Second, p)
		began := time.Now()
		<-b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: local("one", hub.Allow)})}).Done()
		if took := time.Since(began); took > 100*time.Millisecond {
			b.Errorf("it took %v", took)
		}
		b.stay(3*time.Minute, p)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q", got)
		}
	})
}

// The grace period is not the end of an answer. If the new gate's answer ends earlier,
// the gate is asked again before that.
func TestReloadToAGateWhoseAnswersEnd(t *testing.T) {
	short := func(context.Context, *hub.Question) hub.Verdict {
		return hub.Verdict{Expires: time.Now().Add(20 * time.Second)}
	}
	for _, gate := range []hub.GateName{hub.GateConnect, hub.GateSubscribe} {
		t.Run(string(gate), func(t *testing.T) {
			inBubble(t, hub.Policy{}, func(b *bubble) {
				p := b.join("news")
				<-b.reload(hub.Policy{Gates: gatesOf(byName{gate: remote("new", short)})}).Done()
				b.stay(3*time.Minute, p)
				if got := lines(p); len(got) != 0 {
					b.Errorf("got %q", got)
				}
			})
		})
	}
}

// A reload does not ask again about a subscription that a refresh is already asking
// about.
func TestReloadDuringTheQuestionsOfARefresh(t *testing.T) {
	w := newAnswers()
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: remote("old", w.decide)})}, func(b *bubble) {
		w.answer("subscribe news", hub.Allow)
		p := b.join("news")
		p.Send(connect("agent1")) // asks about news again
		b.want(p, connected("agent1"))
		asked := newAnswers()
		gate := remote("new", asked.decide)
		r := b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateSubscribe: gate})})
		time.Sleep(500 * time.Millisecond)
		gate.want(b, 0)
		w.answer("subscribe news", hub.Allow) // from the old gate
		gate.want(b, 1)
		asked.answer("subscribe news", hub.Allow)
		<-r.Done()
		b.stay(time.Minute, p)
		gate.want(b, 1)
		if got := lines(p); len(got) != 0 {
			b.Errorf("got %q", got)
		}
	})
}

// All agents are asked about before half of the grace period is over, however many there
// are.
func TestReloadAsksAllWithinTheGrace(t *testing.T) {
	const n, grace = 2000, 2 * time.Second
	inBubble(t, hub.Policy{Heartbeat: time.Hour}, func(b *bubble) {
		for i := range n {
			p := hubtest.Open(b, b.hub, b.policy, hub.Opening{}, hubtest.NewConn())
			p.Send(connect("a"+strconv.Itoa(i)), subscribe("news"))
		}
		synctest.Wait()
		began := time.Now()
		r := b.reload(hub.Policy{Heartbeat: time.Hour, Grace: grace, Gates: gatesOf(byName{hub.GateSubscribe: remote("new", nil)})})
		b.wantEffects(r, hub.Effects{Agents: n, Asked: n})
		if took := time.Since(began); took > grace*3/4 {
			b.Errorf("it took %v", took)
		}
	})
}

// If the connect gate has made a subscription and the agent asks for it, too, it still
// belongs to the connect gate.
func TestReloadOfSubscriptionsByBoth(t *testing.T) {
	connects := func() *fakeGate { return local("connect", hub.Verdict{Subscribe: []string{"inbox"}}) }
	inBubble(t, hub.Policy{Gates: gatesOf(byName{hub.GateConnect: connects(), hub.GateSubscribe: local("old", hub.Allow)})}, func(b *bubble) {
		p := b.open()
		p.Send(connect("a"))
		lines(p)
		p.Send(subscribe("inbox"))
		b.want(p, subscribed("inbox"))
		<-b.reload(hub.Policy{Gates: gatesOf(byName{hub.GateConnect: connects(), hub.GateSubscribe: local("new", denied("no"))})}).Done()
		b.want(p)
		if _, err := b.hub.Publish(b.Context(), hub.NewMessage("inbox", "1", []byte("1"))); err != nil {
			b.Fatal(err)
		}
		b.want(p, message("inbox", "1", "1"))
	})
}
