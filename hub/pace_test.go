// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// paceLimits let tests publish as fast as they like.
var paceLimits = hub.Limits{PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited, APIPublishesPerSecond: hub.Unlimited, AgentsPerIP: hub.Unlimited, UnconnectedPerIP: hub.Unlimited}

// readers are the ways in which a Conn can be written.
var readers = map[string]func(speed int) *hubtest.Conn{
	"plain": func(speed int) *hubtest.Conn {
		c := hubtest.NewConn()
		c.Speed, c.Buffer = speed, 64<<10
		return c
	},
	"blocking": func(speed int) *hubtest.Conn {
		c := hubtest.NewConn()
		c.Blocks, c.Speed, c.Buffer = true, speed, 64<<10
		return c
	},
}

// forEachReader runs a test with each way in which a Conn can be written.
func forEachReader(t *testing.T, f func(b *bubble, newConn func(speed int) *hubtest.Conn)) {
	for name, newConn := range readers {
		t.Run(name, func(t *testing.T) {
			inBubble(t, hub.Policy{Heartbeat: time.Hour, Limits: paceLimits, Gates: apiGate(allowAPI)}, func(b *bubble) { f(b, newConn) })
		})
	}
}

// payload is the data of a message of about n bytes.
func payload(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }

// wantAll waits until the peers have got n messages each: each message once, those of each publisher in
// its order.
func (b *bubble) wantAll(peers []*hubtest.Peer, n int) {
	b.Helper()
	for i, p := range peers {
		got, next := 0, make(map[string]int)
		for deadline := time.Now().Add(time.Minute); got < n && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			for _, line := range p.Conn.Lines() {
				_, uuid, isMessage := strings.Cut(line, `"uuid":"`)
				if !isMessage {
					if line != "h" {
						b.Fatalf("agent %d got %.200s", i, line)
					}
					continue
				}
				uuid, _, _ = strings.Cut(uuid, `"`)
				publisher, number, _ := strings.Cut(uuid, "-")
				if want := fmt.Sprint(next[publisher]); number != want {
					b.Fatalf("agent %d got %s, want number %s; after %d messages: %.200s", i, uuid, want, got, line)
				}
				next[publisher]++
				got++
			}
		}
		if code, reason, _ := p.Conn.Closed(); got != n || code != 0 {
			b.Fatalf("agent %d got %d messages of %d, and was closed with %d %s", i, got, n, code, reason)
		}
	}
}

// sendBurst has publishers send 500 messages of 2 KB each, as fast as they are taken, and
// returns how long it took.
func sendBurst(channel string, publishers ...*hubtest.Peer) time.Duration {
	const each = 500
	begun := time.Now()
	var all sync.WaitGroup
	for i, p := range publishers {
		all.Go(func() {
			for n := range each {
				p.Send(publish(channel, fmt.Sprintf("p%d-%d", i, n), payload(2000)))
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

// A burst that is larger than a queue closes none of the agents that read it, on any kind of Conn.
func TestBurstsWaitForReaders(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		var peers []*hubtest.Peer
		for range 20 {
			peers = append(peers, b.joinOn(newConn(4<<20), "news"))
		}
		took := sendBurst("news", b.join(), b.join(), b.join(), b.join())
		b.wantAll(peers, 2000)
		if took < 500*time.Millisecond || took > 3*time.Second {
			b.Errorf("the publishers needed %v for 4 MB, which takes a second to read", took)
		}
	})
}

// So it is if each message comes in a request of its own, all at the same time.
func TestManyProgramsWaitForReaders(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		const programs = 1000
		var peers []*hubtest.Peer
		for range 3 {
			peers = append(peers, b.joinOn(newConn(4<<20), "news"))
		}
		var all sync.WaitGroup
		for i := range programs {
			all.Go(func() {
				program, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
				if r != nil {
					b.Error(r)
					return
				}
				if _, r := program.Publish(b.Context(), hub.Publication{Channels: []string{"news"}, UUID: fmt.Sprintf("p%d-0", i), Data: []byte(payload(2000))}); r != nil {
					b.Error(r)
				}
			})
		}
		all.Wait()
		b.wantAll(peers, programs)
	})
}

// An agent that reads nothing holds a burst up once, for a second, and other publishers not at
// all. It is closed.
func TestStalledReaderHoldsUpOnlyShortly(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		stalled := b.joinOn(newConn(4<<20), "news")
		stalled.Conn.Stall(true)
		alone := sendBurst("news", b.join())
		time.Sleep(3 * time.Second)
		stalled = b.joinOn(newConn(4<<20), "news")
		stalled.Conn.Stall(true)
		if alone > 1500*time.Millisecond {
			b.Errorf("the only subscriber reads nothing: it held the publisher up for %v", alone)
		}
		var peers []*hubtest.Peer
		for range 5 {
			peers = append(peers, b.joinOn(newConn(0), "news"))
		}
		took := sendBurst("news", b.join(), b.join(), b.join(), b.join())
		b.wantAll(peers, 2000)
		if took > 1100*time.Millisecond {
			b.Errorf("one of many subscribers reads nothing: it held publishers up for %v", took)
		}
		time.Sleep(3 * time.Second)
		if code, _, _ := stalled.Conn.Closed(); code != hub.CloseSlow {
			b.Errorf("it was closed with %d", code)
		}
		stalled = b.joinOn(newConn(4<<20), "news")
		stalled.Conn.Stall(true)
		publisher := b.join()
		for n := 0; ; n++ {
			begun := time.Now()
			publisher.Send(publish("news", fmt.Sprintf("p4-%d", n), payload(8000)))
			if took := time.Since(begun); took > 0 {
				b.Fatalf("without a burst, the agent that reads nothing held publish %d up for %v", n, took)
			}
			if code, _, _ := stalled.Conn.Closed(); code != 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// Agents that read slowly, but all the time, hold publishers up for a small part of the time,
// even if there are always some. They are closed.
func TestSlowReadersHoldUpOnlyShortly(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		var peers, slow []*hubtest.Peer
		for range 5 {
			peers = append(peers, b.joinOn(newConn(0), "news"))
		}
		publisher := b.join()
		const messages, pause = 4000, 5 * time.Millisecond // 400 KB a second
		begun := time.Now()
		for n := range messages {
			if n%400 == 0 && n < messages-1500 { // they last for 6 s, so there are three at a time
				slow = append(slow, b.joinOn(newConn(200<<10), "news"))
			}
			publisher.Send(publish("news", fmt.Sprintf("p-%d", n), payload(2000)))
			time.Sleep(pause)
		}
		held := time.Since(begun) - messages*pause
		b.wantAll(peers, messages)
		if limit := 3*time.Second + messages*pause/100; held > limit {
			b.Errorf("slow readers held the publisher up for %v in %v, want %v at the most", held, time.Since(begun), limit)
		}
		for i, p := range slow {
			if code, _, _ := p.Conn.Closed(); code != hub.CloseSlow {
				b.Errorf("slow reader %d was closed with %d", i, code)
			}
		}
	})
}

// Agents of a busy channel that lag do not hold up publishers of other channels.
func TestBusyChannelDoesNotDelayOthers(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		busy, quiet := b.joinOn(newConn(1<<20), "busy"), b.joinOn(newConn(0), "quiet")
		all := make(chan time.Duration)
		publisher, publishers := b.join(), []*hubtest.Peer{b.join(), b.join(), b.join(), b.join()}
		go func() { all <- sendBurst("busy", publishers...) }()
		for n := range 100 {
			time.Sleep(10 * time.Millisecond)
			begun := time.Now()
			publisher.Send(publish("quiet", fmt.Sprintf("p-%d", n), "1"))
			synctest.Wait()
			b.want(publisher, published(fmt.Sprintf("p-%d", n)))
			if took := time.Since(begun); took > 0 {
				b.Fatalf("publishing on the quiet channel took %v", took)
			}
		}
		if took := <-all; took < 2*time.Second {
			b.Errorf("the busy channel was busy for %v only", took)
		}
		b.wantAll([]*hubtest.Peer{busy}, 2000)
		b.wantAll([]*hubtest.Peer{quiet}, 100)
	})
}

// A publisher that waits for an agent goes on at once when the agent is gone, and when its own
// request has ended.
func TestNobodyWaitsForWhatIsGone(t *testing.T) {
	forEachReader(t, func(b *bubble, newConn func(int) *hubtest.Conn) {
		for name, end := range map[string]func(p *hubtest.Peer, cancel func()){
			"the agent is gone":     func(p *hubtest.Peer, _ func()) { p.Leave() },
			"the agent is closed":   func(p *hubtest.Peer, _ func()) { p.Agent.Close(hub.CloseCut, "cut", 0) },
			"the request has ended": func(_ *hubtest.Peer, cancel func()) { cancel() },
		} {
			p := b.joinOn(newConn(0), "news")
			p.Conn.Stall(true)
			ctx, cancel := context.WithCancel(b.Context())
			time.AfterFunc(100*time.Millisecond, func() { end(p, cancel) })
			begun := time.Now()
			for ctx.Err() == nil && time.Since(begun) < 50*time.Millisecond {
				_, _ = b.hub.Publish(ctx, hub.NewMessage("news", "u", []byte(payload(2000)))) // ctx may end it
			}
			if took := time.Since(begun); took != 100*time.Millisecond {
				b.Errorf("%s after 100ms, and the publisher went on after %v", name, took)
			}
			cancel()
			p.Leave()
			synctest.Wait()
		}
	})
}
