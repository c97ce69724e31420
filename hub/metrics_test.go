// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestStatsCountWhatThereIs(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		one, two := b.join("news", "stories/*"), b.join("news")
		b.open()
		s := b.hub.Stats()
		want(t, "agents", s.Agents["test"], 3)
		want(t, "subscriptions", s.Subscriptions, 3)
		want(t, "channels", s.Channels, 1)
		want(t, "patterns", s.Patterns, 1)
		one.Send(unsubscribe("news"))
		two.Leave()
		time.Sleep(5 * time.Minute) // the time of the first heartbeat is random
		synctest.Wait()
		s = b.hub.Stats()
		want(t, "agents", s.Agents["test"], 0) // one timed out, and one never connected
		want(t, "subscriptions", s.Subscriptions, 0)
		want(t, "channels", s.Channels, 0)
		want(t, "patterns", s.Patterns, 0)
		want(t, "ended by themselves", s.Ended[hub.CloseNormal], 1)
		want(t, "timed out", s.Ended[hub.CloseTimeout], 2)
		lasted := s.Sessions["test"]
		want(t, "sessions", lasted.Count, 3)
		want(t, "sessions of a second at most", lasted.Below[time.Second], 1)
		want(t, "sessions of ten minutes at most", lasted.Below[10*time.Minute], 3)
		if lasted.Sum < 10*time.Second || lasted.Sum > 5*time.Minute {
			t.Errorf("sessions lasted %v in all", lasted.Sum)
		}
	})
}

// Each message is counted once for each agent whose queue it was in: as delivered or as
// dropped.
func TestStatsAccountForEachMessage(t *testing.T) {
	g := &gates{only: "guarded", deliver: func(_ *hub.Agent, m *hub.Message) *hub.Message {
		if string(m.Data) == "0" {
			return nil
		}
		return m
	}}
	inBubble(t, hub.Policy{Gates: g, Limits: hub.Limits{QueueMessages: 4}}, func(b *bubble) {
		quick, stuck, leaves := b.join("news", "guarded/a"), b.join("news"), b.join("news")
		publisher := b.join()
		stuck.Conn.Stall(true)
		leaves.Conn.Stall(true)
		for _, n := range []string{"0", "1", "2"} {
			publisher.Send(publish("news", "n"+n, n), publish("guarded/a", "g"+n, n))
			synctest.Wait()
		}
		publisher.Send(publish("news", "n2", "2")) // a repetition
		leaves.Leave()
		for _, n := range []string{"3", "4", "5"} {
			publisher.Send(publish("news", "n"+n, n))
			synctest.Wait()
		}
		time.Sleep(time.Minute) // the stuck agent is given up
		synctest.Wait()
		s := b.hub.Stats()
		want(t, "published", s.Published, 3+3+3)
		// quick gets six messages of news, and two of the three guarded ones.
		want(t, "delivered", s.Delivered, 6+2)
		want(t, "held back by the gate", s.Dropped[hub.DropGate], 1)
		want(t, "repeated", s.Dropped[hub.DropRepeated], 1)
		// stuck has a queue of four: one message is being written, and three wait. The
		// fifth exceeds the limit, and all five are lost.
		want(t, "too slow", s.Dropped[hub.DropSlow], 5)
		want(t, "gone", s.Dropped[hub.DropGone], 3)
		want(t, "overflows", s.Overflow[hub.QueueAgent], 1)
		want(t, "ended as too slow", s.Ended[hub.CloseSlow], 1)
		want(t, "fan-outs", s.FanOut.Count, 9)
		if len(quick.Conn.Lines()) < 8 {
			t.Error("the quick one did not get its messages")
		}
	})
}

// A reload counts the messages that it drops: those of agents that it closes, and those
// of subscriptions that it revokes.
func TestStatsAccountForWhatAReloadDrops(t *testing.T) {
	inBubble(t, hub.Policy{Gates: gatesOf(nil)}, func(b *bubble) {
		cut, ended := b.join("news"), b.join("news", "other")
		publisher := b.join()
		for _, p := range []*hubtest.Peer{cut, ended} {
			p.Conn.Stall(true)
		}
		publisher.Send(publish("news", "n0", "0")) // it is being written when the rules change
		synctest.Wait()
		publisher.Send(publish("news", "n1", "1"), publish("news", "n2", "2"), publish("other", "o", "3"))
		synctest.Wait()
		reload := b.reload(hub.Policy{Gates: gatesOf(byName{
			hub.GateConnect: {text: "connect", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
				if q.Agent == cut.Agent {
					return denied("no")
				}
				return hub.Allow
			}},
			hub.GateSubscribe: {text: "subscribe", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
				if q.Channel == "news" {
					return denied("no")
				}
				return hub.Allow
			}},
		})})
		<-reload.Done()
		cut.Conn.Stall(false)
		ended.Conn.Stall(false)
		synctest.Wait()
		s := b.hub.Stats()
		want(t, "published", s.Published, 4)
		want(t, "dropped with the right to it", s.Dropped[hub.DropRevoked], 2+2)
		want(t, "delivered", s.Delivered, 1+2) // the one being written, and those of other
		for _, line := range append(cut.Conn.Lines(), ended.Conn.Lines()...) {
			if strings.Contains(line, `"n1"`) || strings.Contains(line, `"n2"`) {
				t.Errorf("%s went out though the new rules deny it", line)
			}
		}
	})
}

// A brokenBroker refuses each message.
type brokenBroker struct{ hub.Broker }

func (brokenBroker) Publish(context.Context, *hub.Message) (hub.Position, error) {
	return hub.Position{}, errors.New("away")
}

func TestStatsCountPublishesThatGoNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", brokenBroker{hub.NewMemoryBroker()})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer h.Close()
		discard := func(_ context.Context, q *hub.Question) hub.Verdict {
			return hub.Verdict{Publish: &hub.Publishing{Discard: q.Channel == "nowhere"}}
		}
		p := hubtest.Open(t, h, h.Use(&hub.Policy{Gates: &gates{ask: asked{hub.GatePublish: discard}}}), hub.Opening{}, hubtest.NewConn())
		p.Send(connect("a"), publish("nowhere", "1", "1"), publish("news", "2", "2"))
		synctest.Wait()
		s := h.Stats()
		want(t, "published", s.Published, 0)
		want(t, "discarded", s.Dropped[hub.DropDiscarded], 1)
		want(t, "failed", s.Dropped[hub.DropFailed], 1)
		p.Leave()
	})
}

func TestStatsCountBytesAndFrames(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("news")
		p.Send(publish("news", "u", `"x"`))
		b.want(p, message("news", "u", `"x"`), published("u"))
		in := len(connect("agent1")) + len(subscribe("news")) + len(publish("news", "u", `"x"`))
		out := len("o") + len(connected("agent1")) + len(subscribed("news")) + len(message("news", "u", `"x"`)) + len(published("u")) + 5
		s := b.hub.Stats()
		want(t, "frames", s.FramesReceived, 3)
		want(t, "bytes received", s.BytesReceived, uint64(in))
		want(t, "bytes sent", s.BytesSent, uint64(out))
	})
}

// Bytes that the Conn takes later are counted when it takes them.
func TestStatsCountBytesOfAConnThatBlocks(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		c := hubtest.NewConn()
		p := b.joinOn(c)
		before := b.hub.Stats().BytesSent
		c.Take = func(n int) int { return n / 2 }
		p.Send(subscribe("news"))
		synctest.Wait()
		b.want(p, subscribed("news"))
		want(t, "bytes sent", b.hub.Stats().BytesSent-before, uint64(len(subscribed("news"))+1))
	})
}

func TestStatsCountGates(t *testing.T) {
	w := newAnswers()
	g := &gates{ask: asked{hub.GateSubscribe: w.decide}}
	inBubble(t, hub.Policy{Gates: g}, func(b *bubble) {
		p := b.join()
		p.Send(subscribe("yes"), subscribe("no"), subscribe("late"), subscribe("full"))
		synctest.Wait()
		want(t, "in flight", b.hub.Stats().Questions[hub.GateSubscribe], 4)
		time.Sleep(100 * time.Millisecond)
		w.answer("subscribe yes", hub.Allow)
		w.answer("subscribe no", denied("no"))
		w.answer("subscribe full", hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeUnavailable}, Overflow: true})
		time.Sleep(2 * time.Second) // the third comes too late
		leaver := b.join()
		leaver.Send(subscribe("abandoned"))
		synctest.Wait()
		leaver.Leave()
		synctest.Wait()
		s := b.hub.Stats()
		want(t, "in flight", s.Questions[hub.GateSubscribe], 0)
		want(t, "overflows", s.Overflow[hub.QueueGate], 1)
		for answer, n := range map[hub.AnswerName]uint64{
			hub.Allowed: 1, hub.AnswerName(hub.CodeDenied): 1, hub.AnswerName(hub.CodeUnavailable): 2, hub.Abandoned: 1,
		} {
			want(t, string(answer), s.Gates[hub.GateSubscribe][answer].Count, n)
		}
		allowed := s.Gates[hub.GateSubscribe][hub.Allowed]
		want(t, "allowed within 25 ms", allowed.Below[25*time.Millisecond], 0)
		want(t, "allowed within 100 ms", allowed.Below[100*time.Millisecond], 1)
		want(t, "allowed, in all", allowed.Sum, 100*time.Millisecond)
	})
}

func TestStatsCountRefusedSessionsAndReloads(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{Agents: 2}}, func(b *bubble) {
		b.join()
		b.join()
		if _, err := b.hub.Open(b.policy, hub.Opening{}); err == nil {
			t.Fatal("a third session was opened")
		}
		want(t, "refused", b.hub.Stats().Refused[hub.CodeUnavailable], 1)
		next := b.hub.Use(&hub.Policy{Mount: b.policy.Mount})
		b.hub.Drop(b.policy)
		want(t, "moved", b.hub.Stats().Reload[hub.ReloadMoved], 2)
		want(t, "cut", b.hub.Stats().Reload[hub.ReloadCut], 0)
		b.hub.Drop(next)
		want(t, "cut", b.hub.Stats().Reload[hub.ReloadCut], 2)
	})
}

// A connection that fails is reported, logged and counted as gone. If it does not take
// data in time, it is counted as slow.
func TestFailedWritesAreGoneOrSlow(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		for name, c := range map[string]struct {
			err    error
			code   hub.CloseCode
			why    hub.DropReason
			reason string
		}{
			"reset":    {syscall.ECONNRESET, hub.CloseNormal, hub.DropGone, "the connection is gone"},
			"closed":   {net.ErrClosed, hub.CloseNormal, hub.DropGone, "the connection is gone"},
			"too late": {os.ErrDeadlineExceeded, hub.CloseSlow, hub.DropSlow, "the connection does not take any more data"},
		} {
			t.Run(fmt.Sprintf("%s, blocks %t", name, blocks), func(t *testing.T) {
				inBubble(t, hub.Policy{}, func(b *bubble) {
					conn := hubtest.NewConn()
					conn.Blocks = blocks
					b.joinOn(conn, "news")
					publisher := b.join()
					conn.Fail(c.err)
					publisher.Send(publish("news", "1", "1"))
					synctest.Wait()
					if code, reason, times := conn.Closed(); code != c.code || reason != c.reason || times != 1 {
						t.Errorf("closed %d times, with %d %q; want once, with %d %q", times, code, reason, c.code, c.reason)
					}
					s := b.hub.Stats()
					want(t, "dropped", s.Dropped[c.why], 1)
					want(t, "dropped in all", s.Dropped[hub.DropGone]+s.Dropped[hub.DropSlow], 1)
					want(t, "ended", s.Ended[c.code], 1)
				})
			})
		}
	}
}
