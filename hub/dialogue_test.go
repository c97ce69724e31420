// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// The test plays the dialogues of PROTOCOL.md with a hub, word by word.
func TestDialoguesOfTheProtocol(t *testing.T) {
	protocol, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?s)\n([^\n]*)\n\n```dialogue\n(.*?)\n```").FindAllSubmatch(protocol, -1)
	if len(all) < 5 {
		t.Fatalf("%d dialogues were found", len(all))
	}
	for _, m := range all {
		t.Run(string(m[1]), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDialogue(t)
				defer d.end()
				for line := range strings.Lines(string(m[2])) {
					d.line(strings.TrimSuffix(line, "\n"))
				}
			})
		})
	}
}

// A dialogue is a dialogue of PROTOCOL.md that is played in a synctest bubble.
type dialogue struct {
	*testing.T
	hub    *hub.Hub
	policy *hub.Policy
	peer   *hubtest.Peer
	got    []string // received by the peer, and not compared yet
}

func newDialogue(t *testing.T) *dialogue {
	h, err := hub.New("dialogues", nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &dialogue{T: t, hub: h, policy: h.Use(&hub.Policy{Mount: "dialogues", Gates: dialogueGates{}})}
	d.open()
	return d
}

func (d *dialogue) open() {
	d.peer = hubtest.Open(d, d.hub, d.policy, hub.Opening{Transport: "test"}, hubtest.NewConn())
}

func (d *dialogue) end() {
	d.receive()
	if len(d.got) > 0 {
		d.Errorf("and then came %q", d.got)
	}
	d.peer.Leave()
	d.hub.Close()
}

func (d *dialogue) line(line string) {
	sent, fromAgent := strings.CutPrefix(line, "→ ")
	want, toAgent := strings.CutPrefix(line, "← ")
	switch {
	case fromAgent && strings.HasPrefix(sent, "["):
		d.peer.Send(d.strings(sent)...)
	case fromAgent:
		d.peer.Send(sent)
	case toAgent && want == "h":
		time.Sleep(hub.DefaultHeartbeat)
		d.want("h")
	case toAgent && strings.HasPrefix(want, "a["):
		for _, frame := range d.strings(want[1:]) {
			d.want(frame)
		}
	case toAgent:
		d.want(want)
	default: // the connection breaks
		d.peer.Leave()
		d.got = nil
		d.open()
	}
}

func (d *dialogue) strings(text string) (frames []string) {
	if err := json.Unmarshal([]byte(text), &frames); err != nil {
		d.Errorf("%s: %v", text, err)
	}
	return frames
}

// receive waits until all goroutines are idle, and takes the received frames.
func (d *dialogue) receive() {
	time.Sleep(10 * dialogueThought)
	synctest.Wait()
	d.got = append(d.got, d.peer.Conn.Lines()...)
}

func (d *dialogue) want(frame string) {
	d.receive()
	if len(d.got) > 0 && d.got[0] == "o" && frame != "o" { // the bare endpoint sends no o frame
		d.got = d.got[1:]
	}
	if len(d.got) == 0 {
		d.publish(frame)
		d.receive()
	}
	if len(d.got) == 0 || d.got[0] != frame {
		d.Fatalf("%q came, want %s", d.got, frame)
	}
	d.got = d.got[1:]
}

// publish publishes a message from another agent, if the frame is one.
func (d *dialogue) publish(frame string) {
	var m struct {
		Channel, UUID string
		Data          json.RawMessage
	}
	if json.Unmarshal([]byte(frame), &m) != nil || strings.HasPrefix(m.Channel, "/meta/") {
		return
	}
	if _, err := d.hub.Publish(context.Background(), hub.NewMessage(m.Channel, m.UUID, m.Data)); err != nil {
		d.Error(err)
	}
}

// dialogueThought is how long the connect gate of dialogues takes to answer.
const dialogueThought = time.Millisecond

// dialogueGates refuses one token at connect.
type dialogueGates struct{}

func (g dialogueGates) Gate(name hub.GateName, _ string) hub.Gate {
	if name == hub.GateConnect {
		return g
	}
	return nil
}

func (dialogueGates) Pattern(string) (hub.Gate, *hub.Refusal) { return nil, nil }

func (dialogueGates) DeliverGate(string) hub.DeliverGate { return nil }

func (dialogueGates) Timeout() time.Duration { return time.Second }

func (dialogueGates) Decide(_ context.Context, q *hub.Question) hub.Verdict {
	time.Sleep(dialogueThought)
	if strings.Contains(string(q.Credentials), `"old"`) {
		return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "the token is not valid"}}
	}
	return hub.Allow
}
