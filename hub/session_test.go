// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A fixtureSession is a fixture of testdata/frames.json with the direction session.
// PROTOCOL.md describes them under "Fixtures".
type fixtureSession struct {
	Rule, Name, Direction string
	Gates                 *fixtureGates
	Steps                 []fixtureStep
}

// A fixtureStep is one step of it.
type fixtureStep struct {
	Send, Receive string
	Publish       *struct {
		Channel, UUID string
		Data          json.RawMessage
	}
	Gates         *fixtureGates
	Wait          int // ms
	Lost, Nothing bool
}

// fixtureGates answer as a fixture says. Without an answer in the fixture there is no
// gate. They implement hub.Gates.
type fixtureGates struct {
	Connect            *fixtureGate
	Subscribe, Publish map[string]*fixtureGate
}

func (g *fixtureGates) Gate(name hub.GateName, channel string) hub.Gate {
	if g == nil {
		return nil
	}
	found := map[hub.GateName]*fixtureGate{
		hub.GateConnect: g.Connect, hub.GateSubscribe: g.Subscribe[channel], hub.GatePublish: g.Publish[channel],
	}[name]
	if found == nil {
		return nil // a nil pointer in an interface is not nil
	}
	return found
}

func (g *fixtureGates) Pattern(pattern string) (hub.Gate, *hub.Refusal) {
	return g.Gate(hub.GateSubscribe, pattern), nil
}

func (*fixtureGates) DeliverGate(string) hub.DeliverGate { return nil }

// A fixtureGate gives its answers one after the other, and then repeats the last one.
type fixtureGate struct {
	mu      sync.Mutex // guards the following
	answers []fixtureAnswer
}

// A fixtureAnswer allows if it has no code. Times are in ms.
type fixtureAnswer struct {
	UUID           string // of the message that it answers
	Code           hub.Code
	Reason         string
	Retry          int
	Takes, Expires int
	Subscribe      []string
}

func (g *fixtureGate) UnmarshalJSON(text []byte) error { return json.Unmarshal(text, &g.answers) }

func (g *fixtureGate) Timeout() time.Duration { return 10 * time.Second }

func (g *fixtureGate) Decide(ctx context.Context, q *hub.Question) hub.Verdict {
	a := g.next(q)
	select {
	case <-time.After(ms(a.Takes)):
	case <-ctx.Done():
	}
	v := hub.Verdict{Subscribe: a.Subscribe}
	if a.Expires > 0 {
		v.Expires = time.Now().Add(ms(a.Expires))
	}
	if a.Code != "" {
		v.Refusal = &hub.Refusal{Code: a.Code, Reason: a.Reason, Retry: ms(a.Retry)}
	}
	return v
}

// next returns the answer for the message, or the next answer.
func (g *fixtureGate) next(q *hub.Question) fixtureAnswer {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.answers {
		if q.Message != nil && a.UUID == q.Message.UUID {
			return a
		}
	}
	a := g.answers[0]
	if len(g.answers) > 1 {
		g.answers = g.answers[1:]
	}
	return a
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// TestSessionsOfTheFixtures plays each session with a hub, whose frames must be those of
// the fixture, word by word.
func TestSessionsOfTheFixtures(t *testing.T) {
	text, err := os.ReadFile("testdata/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []fixtureSession
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	rules := make(map[string]int)
	for _, f := range all {
		if f.Direction != "session" {
			continue
		}
		rules[f.Rule]++
		t.Run(f.Rule+" "+f.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f.hold(t) })
		})
	}
	for _, rule := range []string{"R30", "R31", "R32", "R33", "R42", "R43", "R44"} {
		if rules[rule] == 0 {
			t.Errorf("no session is about %s", rule)
		}
	}
}

func (f *fixtureSession) hold(t *testing.T) {
	h, err := hub.New("fixtures", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	s := &heldSession{T: t, hub: h, policy: h.Use(&hub.Policy{Mount: "fixtures", Gates: f.Gates})}
	s.open()
	defer func() { s.peer.Leave() }()
	for i, step := range f.Steps {
		if !s.step(&step) {
			t.Fatalf("at step %d: %q came", i+1, s.got)
		}
	}
	if s.listen(time.Second); len(s.got) > 0 {
		t.Errorf("and then came %q", s.got)
	}
}

// A heldSession plays a fixture in a synctest bubble.
type heldSession struct {
	*testing.T
	hub    *hub.Hub
	policy *hub.Policy
	peer   *hubtest.Peer
	got    []string // received by the peer, and not compared yet
}

func (s *heldSession) open() {
	s.peer = hubtest.Open(s, s.hub, s.policy, hub.Opening{Transport: "test"}, hubtest.NewConn())
}

// listen lets time pass with a live peer.
func (s *heldSession) listen(d time.Duration) {
	const tick = 10 * time.Millisecond
	for end := time.Now().Add(d); ; time.Sleep(tick) {
		synctest.Wait()
		s.peer.Agent.Touch()
		for _, line := range s.peer.Conn.Lines() {
			if line != "o" && line != "h" {
				s.got = append(s.got, line)
			}
		}
		if !time.Now().Before(end) {
			return
		}
	}
}

// step reports whether the step went as the fixture says.
func (s *heldSession) step(step *fixtureStep) bool {
	switch {
	case step.Send != "":
		s.peer.Send(step.Send)
	case step.Receive != "":
		for range 500 {
			if s.listen(0); len(s.got) > 0 {
				break
			}
			s.listen(10 * time.Millisecond)
		}
		if len(s.got) == 0 || !isFrame(s.got[0], step.Receive) {
			return false
		}
		s.got = s.got[1:]
	case step.Publish != nil:
		synctest.Wait()
		var data bytes.Buffer
		m := step.Publish
		if err := json.Compact(&data, m.Data); err != nil {
			s.Error(err)
		}
		if _, err := s.hub.Publish(s.Context(), hub.NewMessage(m.Channel, m.UUID, data.Bytes())); err != nil {
			s.Error(err)
		}
	case step.Gates != nil:
		synctest.Wait()
		before := s.policy
		s.policy = s.hub.Use(&hub.Policy{Mount: before.Mount, Gates: step.Gates})
		s.hub.Drop(before)
	case step.Wait > 0:
		s.listen(ms(step.Wait))
	case step.Lost:
		s.peer.Leave()
		s.got = nil
		s.open()
	case step.Nothing:
		s.listen(time.Second)
		return len(s.got) == 0
	default:
		s.Error("the step is nothing that there is")
	}
	return true
}

// isFrame compares a frame with one in which "*" is a uuid of the server's own.
func isFrame(got, want string) bool {
	before, after, own := strings.Cut(want, `"uuid":"*"`)
	if !own {
		return got == want
	}
	uuid := regexp.MustCompile(`^` + regexp.QuoteMeta(before) + `"uuid":"[A-Za-z0-9_-]{1,64}"` + regexp.QuoteMeta(after) + `$`)
	return uuid.MatchString(got)
}
