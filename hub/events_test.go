// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A listener is a hub.Events that records events.
type listener struct {
	not   hub.EventName // an event that it does not want
	stall chan struct{} // if not nil, Handle waits for it

	mu    sync.Mutex // guards the following
	heard []hub.Event
	lost  int
}

func (l *listener) Wants(name hub.EventName) bool { return name != l.not }

func (l *listener) Handle(e hub.Event, lost int) {
	if l.stall != nil {
		<-l.stall
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, e)
	l.lost += lost
}

func (l *listener) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var got []string
	for _, e := range l.heard {
		text := fmt.Sprintf("%s %s%s%s", e.Name, e.AgentID, e.Namespace, e.Channel)
		if e.Pattern {
			text += " pattern"
		}
		got = append(got, text)
	}
	l.heard = nil
	if !slices.Equal(got, want) {
		t.Errorf("heard\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestEvents(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		l := new(listener)
		b.hub.HandleEvents(l)
		one := b.join("news")
		l.want(t, "agent_connected agent1", "channel_occupied news")
		two := b.join("news", "stories/*", "*")
		l.want(t, "agent_connected agent2", "channel_occupied stories/* pattern", "channel_occupied * pattern")
		one.Send(unsubscribe("news"))
		l.want(t)
		two.Send(unsubscribe("news"), subscribe("news"))
		l.want(t, "channel_vacated news", "channel_occupied news")
		two.Leave()
		l.want(t, "channel_vacated stories/* pattern", "channel_vacated * pattern", "channel_vacated news", "agent_disconnected agent2")
		fresh := b.open()
		fresh.Leave() // it has never connected
		l.want(t)
		tenant := hubtest.Open(t, b.hub, b.policy, hub.Opening{Namespace: "acme"}, hubtest.NewConn())
		tenant.Send(connect("t"), subscribe("news"))
		l.want(t, "agent_connected tacme", "channel_occupied acmenews")
	})
}

// A subscription that fails does not occupy a channel.
func TestEventsOfSubscriptionsThatFail(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{ChannelsPerAgent: 1}}, func(b *bubble) {
		l := &listener{not: hub.AgentConnected}
		b.hub.HandleEvents(l)
		p := b.join("one")
		p.Send(subscribe("two"))
		l.want(t, "channel_occupied one")
	})
}

func TestEventsTellOfAgents(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		l := new(listener)
		b.hub.HandleEvents(l)
		o := hub.Opening{Transport: "test", User: "ann", RemoteIP: netip.MustParseAddr("192.0.2.1")}
		p := hubtest.Open(t, b.hub, b.policy, o, hubtest.NewConn())
		p.Send(connect("tab-1"))
		time.Sleep(3 * time.Second)
		p.Agent.Close(hub.CloseCut, "no more", hub.NoRetry)
		<-p.Gone()
		synctest.Wait()
		if len(l.heard) != 2 {
			t.Fatalf("heard %+v", l.heard)
		}
		e := l.heard[1]
		want(t, "agent", e.Agent, p.Agent.UUID())
		want(t, "user", e.User, "ann")
		want(t, "address", e.RemoteIP, "192.0.2.1")
		want(t, "transport", e.Transport, "test")
		want(t, "code", e.Code, hub.CloseCut)
		want(t, "reason", e.Reason, "no more")
		want(t, "lasted", e.Lasted, 3*time.Second)
		if e.At.IsZero() {
			t.Error("it has no time")
		}
	})
}

// A slow handler of events delays no agent, and lost events are counted.
func TestEventsOverflow(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{FramesPerSecond: hub.Unlimited}}, func(b *bubble) {
		l := &listener{stall: make(chan struct{})}
		b.hub.HandleEvents(l)
		p := b.join()
		for range 5000 {
			p.Send(subscribe("news"), unsubscribe("news"))
		}
		synctest.Wait()
		lost := b.hub.Stats().Overflow[hub.QueueEvents]
		if lost == 0 {
			t.Fatal("nothing was lost")
		}
		close(l.stall)
		synctest.Wait()
		want(t, "heard and lost", len(l.heard)+int(lost), 1+10_000)
		want(t, "lost, as told", l.lost, int(lost))
	})
}

// A hub closes even if its events handler hangs.
func TestEventsThatHangDoNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		l := &listener{stall: make(chan struct{})}
		h.HandleEvents(l)
		p := hubtest.Open(t, h, h.Use(&hub.Policy{}), hub.Opening{}, hubtest.NewConn())
		p.Send(connect("a"))
		synctest.Wait()
		begun := time.Now()
		h.Close()
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("closing took %v", took)
		}
		<-p.Gone()
		close(l.stall)
		synctest.Wait()
	})
}

func TestEndsAreLoggedSampled(t *testing.T) {
	var log bytes.Buffer // written by one goroutine at a time: agents leave one after the other
	policy := hub.Policy{Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	inBubble(t, policy, func(b *bubble) {
		p := b.join("news")
		time.Sleep(2 * time.Second)
		p.Leave()
		line := log.String()
		for _, part := range []string{
			`"msg":"agent gone"`, `"level":"INFO"`, p.Agent.UUID(), `"agent_id":"agent1"`, `"user":""`, `"transport":"test"`,
			`"duration":2000000000`, `"bytes_received":`, `"bytes_sent":`, `"reason":"the peer left"`, `"code":0`,
		} {
			if !strings.Contains(line, part) {
				t.Errorf("%s is not in the line: %s", part, line)
			}
		}
		if strings.Contains(line, "s3cret") {
			t.Errorf("credentials are in the line: %s", line)
		}
		time.Sleep(time.Second)
		log.Reset()
		for range 50 {
			b.open().Leave()
		}
		if n := strings.Count(log.String(), "agent gone"); n != 10 {
			t.Errorf("%d lines about 50 agents that went in one second, want 10", n)
		}
		time.Sleep(time.Second)
		log.Reset()
		b.open().Leave()
		if !strings.Contains(log.String(), `"left_out":40`) {
			t.Errorf("the next line does not say what was left out: %s", log.String())
		}
	})
}
