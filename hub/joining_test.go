// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
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

// A speaker is an agent whose frames the test receives itself.
type speaker struct {
	*hub.Agent
	conn *hubtest.Conn
}

func newSpeaker(t *testing.T, h *hub.Hub, p *hub.Policy, id string, channels ...string) speaker {
	t.Helper()
	a, err := h.Open(p, hub.Opening{})
	if err != nil {
		t.Fatal(err)
	}
	s := speaker{a, hubtest.NewConn()}
	a.Start(s.conn)
	s.say(connect(id))
	for _, channel := range channels {
		s.say(subscribe(channel))
	}
	synctest.Wait()
	s.conn.Lines()
	return s
}

func (s speaker) say(frames ...string) {
	for _, f := range frames {
		s.Receive([]byte(f))
	}
}

// together receives frames that have arrived together.
func (s speaker) together(frames ...string) {
	s.BeginBatch()
	defer s.EndBatch()
	s.say(frames...)
}

// Publishes that arrive together are answered, refused and delivered as if each had come alone:
// compare random batches of frames with the same frames one by one.
func TestJoinedPublishesAreLikeSingleOnes(t *testing.T) {
	for seed := range uint64(100) {
		var want [3][]string
		for _, joined := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				got := publishAtRandom(t, seed, joined)
				for i, who := range []string{"answers", "the publisher", "the subscriber"} {
					if joined && !slices.Equal(got[i], want[i]) {
						t.Fatalf("seed %d, %s: joined, there came\n%s\none by one\n%s", seed, who, strings.Join(got[i], "\n"), strings.Join(want[i], "\n"))
					}
				}
				want = got
			})
		}
	}
}

// publishAtRandom returns the answers that the publisher gets, the messages that it gets, and
// what a subscriber gets.
func publishAtRandom(t *testing.T, seed uint64, joined bool) (got [3][]string) {
	random := rand.New(rand.NewPCG(seed, 3))
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := h.Use(&hub.Policy{Mount: "test", Limits: hub.Limits{MessageSize: 200, QueueMessages: 400, PublishesPerSecond: 40}, Gates: gatesOf(byName{
		hub.GatePublish: {text: "not denied", local: true, decide: func(_ context.Context, q *hub.Question) hub.Verdict {
			if q.Channel == "denied" {
				return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "no"}}
			}
			return hub.Allow
		}},
	})})
	from := newSpeaker(t, h, p, "from")
	defer from.Left("the end")
	to := newSpeaker(t, h, p, "to", "a", "b/*")
	defer to.Left("the end")
	var frames []string
	for i := range 20 + random.IntN(300) {
		uuid, channel := fmt.Sprint(random.IntN(20+i)), []string{"a", "a", "a", "a", "b/c", "nobody", "denied"}[random.IntN(7)]
		switch random.IntN(12) {
		case 0:
			frames = append(frames, []string{`{}`, subscribe("a"), `{"channel":"/meta/unsubscribe","uuid":"u","data":{"channel":"a"}}`, `{"channel":"/meta/ping","uuid":"p"}`}[random.IntN(4)])
		case 1:
			frames = append(frames, publish(channel, uuid, `"`+strings.Repeat("x", 200)+`"`))
		default:
			frames = append(frames, publish(channel, uuid, fmt.Sprint(random.IntN(3))))
		}
	}
	for len(frames) > 0 {
		n := 1 + random.IntN(len(frames))
		if joined {
			from.together(frames[:n]...)
		} else {
			from.say(frames[:n]...)
		}
		frames = frames[n:]
		synctest.Wait()
	}
	for _, line := range from.conn.Lines() {
		kind := 0
		if !strings.Contains(line, `"/meta/`) {
			kind = 1
		}
		got[kind] = append(got[kind], line)
	}
	got[2] = to.conn.Lines()
	return got
}

// Publishes that arrive together reach a subscriber in one write, but no more of them at once
// than a quarter of a queue takes.
func TestJoinedPublishesShareAWrite(t *testing.T) {
	for _, c := range []struct{ queue, messages, writes int }{{1024, 20, 1}, {1024, 100, 2}, {16, 20, 5}} {
		synctest.Test(t, func(t *testing.T) {
			h, err := hub.New("test", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			p := h.Use(&hub.Policy{Mount: "test", Limits: hub.Limits{QueueMessages: c.queue}})
			from := newSpeaker(t, h, p, "from")
			defer from.Left("the end")
			to := newSpeaker(t, h, p, "to", "news")
			defer to.Left("the end")
			before := to.conn.Writes()
			from.BeginBatch()
			var want []string
			for i := range c.messages {
				from.say(publish("news", fmt.Sprint(i), "1"))
				want = append(want, message("news", fmt.Sprint(i), "1"))
				synctest.Wait() // the flusher writes what there is
			}
			from.EndBatch()
			synctest.Wait()
			if n := to.conn.Writes() - before; n != c.writes {
				t.Errorf("%d messages, queues of %d: %d writes, want %d", c.messages, c.queue, n, c.writes)
			}
			if got := to.conn.Lines(); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			if got := len(from.conn.Lines()); got != c.messages {
				t.Errorf("%d answers", got)
			}
		})
	}
}

// What an agent has published does not wait until the agent reads its answers.
func TestJoinedPublishesDoNotWaitForTheirPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		p := h.Use(&hub.Policy{Mount: "test", Heartbeat: time.Hour, Limits: hub.Limits{QueueMessages: 8}})
		from := newSpeaker(t, h, p, "from", "mine")
		to := newSpeaker(t, h, p, "to", "news")
		defer to.Left("the end")
		from.conn.Stall(true)
		from.BeginBatch()
		from.say(publish("news", "1", "1"))
		for i := range 6 {
			if _, err := h.Publish(t.Context(), hub.NewMessage("mine", fmt.Sprint(i), nil)); err != nil {
				t.Fatal(err)
			}
		}
		received := make(chan struct{})
		go func() {
			from.say(publish("news", "2", "2"))
			close(received)
		}()
		synctest.Wait()
		select {
		case <-received:
			t.Error("the publisher's queue is not crowded")
		default:
		}
		if got, want := to.conn.Lines(), []string{message("news", "1", "1")}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		from.conn.Stall(false)
		<-received
		from.EndBatch()
		synctest.Wait()
		if got, want := to.conn.Lines(), []string{message("news", "2", "2")}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		from.Left("the end")
	})
}
