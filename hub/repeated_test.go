// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A slowBroker takes its time: each publish waits until the test says how it ends. It publishes
// the same message twice.
type slowBroker struct {
	hub.Broker
	asked chan string // the channel of each publish; has room
	ends  map[string]chan error
}

// newSlowHub makes a hub with a slowBroker, in the bubble of a test.
func newSlowHub(t *testing.T, channels ...string) (*hub.Hub, *slowBroker) {
	t.Helper()
	b := &slowBroker{Broker: hub.NewMemoryBroker(), asked: make(chan string, 100), ends: make(map[string]chan error)}
	for _, ch := range channels {
		b.ends[ch] = make(chan error)
	}
	h, err := hub.New("test", b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		synctest.Wait()
	})
	return h, b
}

func (s *slowBroker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	s.asked <- m.Channel
	if err := <-s.ends[m.Channel]; err != nil {
		return hub.Position{}, err
	}
	return s.Broker.Publish(ctx, m)
}

func (s *slowBroker) has(t *testing.T, n int) {
	t.Helper()
	synctest.Wait()
	if len(s.asked) != n {
		t.Errorf("%d publishes have come to the broker, want %d", len(s.asked), n)
	}
}

// A page that gets no answer publishes again in a new session, at once. Nobody may tell it that
// the message was published while the first publish can still fail (R33).
func TestRepeatsOfWhatIsBeingPublished(t *testing.T) {
	const sessions = 3
	for name, ends := range map[string][]error{
		"the first one is published": {nil},
		"the first one fails":        {hub.ErrUnknown, nil},
		"only the last one does not": {hub.ErrUnknown, errors.New("away"), nil},
		"all of them fail":           {hub.ErrUnknown, hub.ErrUnknown, hub.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, b := newSlowHub(t, "news")
				p := h.Use(&hub.Policy{Mount: "test", Histories: kept{Count: 10, TTL: time.Hour}})
				var pages []*hubtest.Peer
				for range sessions {
					page := hubtest.Open(t, h, p, hub.Opening{}, hubtest.NewConn())
					page.Send(connect("page"))
					synctest.Wait()
					page.Conn.Lines()
					page.Send(publish("news", "u", "1"))
					pages = append(pages, page)
				}
				answers := func() (all []string) {
					synctest.Wait()
					for _, page := range pages {
						all = append(all, page.Conn.Lines()...)
					}
					return all
				}
				for i, end := range ends {
					if got := answers(); i == 0 && len(got) > 0 {
						t.Fatalf("nothing has ended yet, and the answers are %q", got)
					}
					b.has(t, i+1)
					b.ends["news"] <- end
					got := answers()
					switch {
					case end != nil && (len(got) != 1 || !strings.Contains(got[0], `"code":"unavailable"`)):
						t.Errorf("after publish %d has failed, the answers are %q", i, got)
					case end == nil && (len(got) != sessions-i || !strings.Contains(got[0], `"position":"`) || len(slices.Compact(got)) != 1):
						t.Errorf("after publish %d has not failed, the answers are %q", i, got)
					}
				}
				b.has(t, len(ends))
				h.Drop(p)
			})
		})
	}
}

// A repeat does not outlive its session.
func TestRepeatsOfSessionsThatHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, b := newSlowHub(t, "news")
		p := h.Use(&hub.Policy{Mount: "test"})
		for range 2 {
			page := hubtest.Open(t, h, p, hub.Opening{}, hubtest.NewConn())
			page.Send(connect("page"), publish("news", "u", "1"))
			synctest.Wait()
			page.Agent.Close(hub.CloseNormal, "", 0)
		}
		b.ends["news"] <- hub.ErrUnknown
		b.has(t, 1)
		h.Drop(p)
	})
}

// Requests of programs that publish on the same channels, in another order, wait for each other
// only when they have published what is new.
func TestRepeatsOfProgramsAtTheSameTime(t *testing.T) {
	for name, fails := range map[string]error{ // the second channel of the first request
		"the first one is published": nil,
		"the first one fails":        hub.ErrUnknown,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, b := newSlowHub(t, "a", "b", "c")
				p := h.Use(&hub.Policy{Mount: "test", Gates: apiGate(allowAPI), Histories: kept{Count: 10, TTL: time.Hour}})
				program, r := h.Authorize(t.Context(), p, hub.Opening{})
				if r != nil {
					t.Fatal(r)
				}
				type result struct {
					hub.Receipt
					*hub.Refusal
				}
				request := func(ctx context.Context, channels ...string) chan result {
					out := make(chan result, 1)
					go func() {
						receipt, r := program.Publish(ctx, hub.Publication{Channels: channels, UUID: "u", Data: []byte("1")})
						out <- result{receipt, r}
					}()
					synctest.Wait()
					return out
				}
				first := request(t.Context(), "a", "b")
				leaving, leave := context.WithCancel(t.Context())
				gone := request(leaving, "b", "a")
				second := request(t.Context(), "b", "c", "a")
				b.has(t, 2)
				leave()
				if got := <-gone; got.Refusal == nil || got.Code != hub.CodeUnavailable {
					t.Errorf("a request that is gone is answered %+v", got)
				}
				b.ends["c"] <- nil
				b.ends["a"] <- nil
				synctest.Wait()
				b.ends["b"] <- fails
				if got := <-first; (got.Refusal != nil) != (fails != nil) || fails == nil && got.Repeated {
					t.Errorf("the first request is answered %+v", got)
				}
				if fails != nil {
					b.ends["b"] <- nil
				}
				if got := <-second; got.Refusal != nil || got.Repeated {
					t.Errorf("the second request is answered %+v", got)
				}
				if got := <-request(t.Context(), "a", "b", "c"); got.Refusal != nil || !got.Repeated {
					t.Errorf("a third request is answered %+v", got)
				}
			})
		})
	}
}
