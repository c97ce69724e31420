// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// yielding lets other goroutines run before the gate answers, some times that depend on
// the channel, so that answers come in any order.
func yielding(v func(q *hub.Question) hub.Verdict) func(context.Context, *hub.Question) hub.Verdict {
	return func(ctx context.Context, q *hub.Question) hub.Verdict {
		for range len(q.Channel) % 4 {
			if ctx.Err() != nil {
				return denied("late")
			}
			runtime.Gosched()
		}
		return v(q)
	}
}

// Gates change their answers, agents refresh, connect and leave, and the policy is
// replaced, all at the same time. No refused publish reaches an agent, no message of a
// channel follows the end of its subscription, and nothing follows the close notice.
func TestRacesOfGatesPublishesAndEnds(t *testing.T) {
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var turn atomic.Int64
	policy := func() *hub.Policy {
		return &hub.Policy{
			Mount: "test",
			Limits: hub.Limits{
				QueueMessages: 1 << 20, QueueBytes: 1 << 30,
				FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited,
			},
			Gates: &gates{ask: asked{
				hub.GateConnect: yielding(func(*hub.Question) hub.Verdict {
					if turn.Add(1)%50 == 0 {
						return denied("not now")
					}
					return hub.Verdict{Expires: time.Now().Add(time.Hour)}
				}),
				hub.GateSubscribe: yielding(func(*hub.Question) hub.Verdict {
					if turn.Add(1)%3 == 0 {
						return denied("not now")
					}
					return hub.Allow
				}),
				hub.GateUnsubscribe: yielding(func(*hub.Question) hub.Verdict { return hub.Allow }),
				hub.GatePublish: yielding(func(q *hub.Question) hub.Verdict {
					if strings.Contains(string(q.Message.Data), "bad") {
						return denied("no")
					}
					return hub.Allow
				}),
			}},
		}
	}
	live := h.Use(policy())
	var mu sync.Mutex // guards live

	var wg sync.WaitGroup
	var received atomic.Int64
	for n := range 6 {
		wg.Go(func() {
			for round := range 30 {
				mu.Lock()
				p := live
				mu.Unlock()
				a, err := h.Open(p, hub.Opening{})
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				peer := hubtest.Carry(a, hubtest.NewConn())
				id := fmt.Sprintf("a%d", n)
				peer.Send(connect(id))
				for i := range 40 {
					ch := []string{"x/1", "x/2", "x/*"}[i%3]
					data := []string{`"good"`, `"bad"`}[i%2]
					peer.Send(subscribe(ch), publish("x/1", fmt.Sprintf("%d-%d-%d", n, round, i), data))
					switch i % 10 {
					case 3:
						peer.Send(unsubscribe(ch))
					case 7:
						peer.Send(connect(id))
					case 9:
						if round%3 == 0 {
							a.Close(hub.CloseCut, "cut", 0)
						}
					}
				}
				peer.Leave()
				received.Add(checkTranscript(t, peer.Conn.Lines()))
			}
		})
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			next := h.Use(policy())
			mu.Lock()
			old := live
			live = next
			mu.Unlock()
			h.Drop(old)
		}
	}()
	wg.Wait()
	close(stop)
	<-done
	if received.Load() == 0 {
		t.Error("no agent got a message, so the test proves nothing")
	}
	t.Logf("%d messages received", received.Load())
	if n := h.Agents(); n != 0 {
		t.Errorf("%d agents left", n)
	}
	if n := h.Channels(); n != 0 {
		t.Errorf("%d channels left", n)
	}
}

// checkTranscript checks the frames that one agent got.
func checkTranscript(t *testing.T, lines []string) (messages int64) {
	t.Helper()
	on := map[string]bool{}
	seen := map[string]bool{}
	closed := false
	for _, line := range lines {
		if closed {
			t.Errorf("after the close notice came %s", line)
		}
		switch {
		case strings.Contains(line, "/meta/close"):
			closed = true
		case strings.Contains(line, `"/meta/subscribe"`) && strings.Contains(line, `"successful":true`):
			on[channelOf(line)] = true
		case strings.Contains(line, `"/meta/unsubscribe"`) && strings.Contains(line, `"successful":true`):
			delete(on, channelOf(line))
		case strings.HasPrefix(line, `{"channel":"x/`):
			messages++
			ch := strings.SplitN(line, `"`, 5)[3]
			if !on[ch] && !on["x/*"] {
				t.Errorf("not subscribed, but got %s", line)
			}
			if strings.Contains(line, "bad") {
				t.Errorf("was refused, but got %s", line)
			}
			if seen[line] {
				t.Errorf("got twice: %s", line)
			}
			seen[line] = true
		}
	}
	return messages
}

// channelOf returns the channel in an answer about a subscription.
func channelOf(line string) string {
	_, rest, _ := strings.Cut(line, `"data":{"channel":"`)
	ch, _, _ := strings.Cut(rest, `"`)
	return ch
}
