// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

func init() { caddy.RegisterModule(new(eventNotes)) }

// eventNotes is a handler of events that notes what it gets, under the name in its
// configuration. If hold is not nil, it waits for it.
type eventNotes struct {
	Name string `json:"name"`
}

var (
	heard = make(chan string, 10_000)

	holdMu sync.Mutex
	hold   chan struct{}
)

func (*eventNotes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.pushit_notes", New: func() caddy.Module { return new(eventNotes) }}
}

// UnmarshalCaddyfile reads pushit_notes <name>.
func (n *eventNotes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if !d.Next() || !d.Args(&n.Name) {
		return d.ArgErr()
	}
	return nil
}

func (n *eventNotes) Handle(_ context.Context, e caddy.Event) error {
	holdMu.Lock()
	wait := hold
	holdMu.Unlock()
	if wait != nil {
		<-wait
	}
	text := n.Name + " " + e.Name()
	for _, key := range []string{"hub", "namespace", "channel", "pattern", "agent_id", "user", "transport", "remote_ip", "code"} {
		if v, ok := e.Data[key]; ok {
			text += fmt.Sprintf(" %s=%v", key, v)
		}
	}
	heard <- text
	return nil
}

var _ caddyevents.Handler = (*eventNotes)(nil)

// eventsSite is a Caddyfile with a handler of that name for all events.
func eventsSite(name, directives string) string {
	var on strings.Builder
	for _, event := range []string{"agent_connected", "agent_disconnected", "channel_occupied", "channel_vacated"} {
		fmt.Fprintf(&on, "\t\ton pushit_%s pushit_notes %s\n", event, name)
	}
	return "{\n\tevents {\n" + on.String() + "\t}\n}\n" + reloadSite(directives)
}

func wantHeard(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-heard:
			if got != w {
				t.Errorf("heard %q, want %q", got, w)
			}
		case <-time.After(patience):
			t.Fatalf("heard nothing, want %q", w)
		}
	}
}

func wantNothingHeard(t *testing.T) {
	t.Helper()
	select {
	case got := <-heard:
		t.Errorf("heard %q as well", got)
	default:
	}
}

func TestEventsReachTheirHandlers(t *testing.T) {
	s := serve(t, eventsSite("one", "pushit {\n\t\tnamespace {labels.0}\n\t}")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("news").subscribe("stories/*")
	wantHeard(t,
		"one pushit_agent_connected hub=default namespace=localhost agent_id=tester user= transport=websocket remote_ip=127.0.0.1",
		"one pushit_channel_occupied hub=default namespace=localhost channel=news pattern=false",
		"one pushit_channel_occupied hub=default namespace=localhost channel=stories/* pattern=true",
	)
	a.request("/meta/unsubscribe", object{"channel": "news"})
	wantHeard(t, "one pushit_channel_vacated hub=default namespace=localhost channel=news pattern=false")
	_ = a.conn.Close()
	wantHeard(t,
		"one pushit_channel_vacated hub=default namespace=localhost channel=stories/* pattern=true",
		"one pushit_agent_disconnected hub=default namespace=localhost agent_id=tester user= transport=websocket remote_ip=127.0.0.1 code=0",
	)
	wantNothingHeard(t)
}

// TestEventsGoToTheConfigurationThatIsLive reloads, also with a configuration that fails,
// and stops.
func TestEventsGoToTheConfigurationThatIsLive(t *testing.T) {
	s := serve(t, eventsSite("one", "pushit")).site("localhost")
	a := s.connect("/push/websocket", nil)
	wantHeard(t, "one pushit_agent_connected hub=default agent_id=tester user= transport=websocket remote_ip=127.0.0.1")
	occupy := func(who, channel string) {
		t.Helper()
		a.subscribe(channel)
		wantHeard(t, fmt.Sprintf("%s pushit_channel_occupied hub=default channel=%s pattern=false", who, channel))
	}
	occupy("one", "a")
	if err := s.load(eventsSite("two", "pushit {\n\t\theartbeat 20s\n\t}")); err != nil {
		t.Fatal(err)
	}
	occupy("two", "b")
	if err := s.load(eventsSite("three", "fails\n\troute {\n\t\tpushit {\n\t\t\theartbeat 21s\n\t\t}\n\t}")); err == nil {
		t.Fatal("it loaded")
	}
	occupy("two", "c")
	// A configuration without a handler, and back.
	if err := s.load(reloadSite("pushit")); err != nil {
		t.Fatal(err)
	}
	a.subscribe("d")
	if err := s.load(eventsSite("four", "pushit")); err != nil {
		t.Fatal(err)
	}
	occupy("four", "e")
	stopped := s.stopping()
	a.wantSentAway(1)
	for _, ch := range []string{"a", "b", "c", "d", "e"} {
		wantHeard(t, fmt.Sprintf("four pushit_channel_vacated hub=default channel=%s pattern=false", ch))
	}
	wantHeard(t, "four pushit_agent_disconnected hub=default agent_id=tester user= transport=websocket remote_ip=127.0.0.1 code=4503")
	<-stopped
	wantNothingHeard(t)
	if strings.Contains(s.log(), "context canceled") {
		t.Errorf("an event met a configuration that was gone: %s", s.log())
	}
}

// TestEventHandlerThatHangsHoldsUpNobody: agents connect, publish and leave while a
// handler hangs.
func TestEventHandlerThatHangsHoldsUpNobody(t *testing.T) {
	wait := make(chan struct{})
	setHold := func(c chan struct{}) {
		holdMu.Lock()
		defer holdMu.Unlock()
		hold = c
	}
	setHold(wait)
	s := serve(t, eventsSite("slow", "pushit")).site("localhost")
	const agents = 4
	for range agents {
		a := s.connect("/push/websocket", nil).subscribe("chat")
		a.publish("chat", "hello")
		a.wantMessage("chat", "hello")
		_ = a.conn.Close()
	}
	wantNothingHeard(t)
	setHold(nil)
	close(wait)
	for gone := 0; gone < agents; {
		select {
		case got := <-heard:
			if strings.Contains(got, "agent_disconnected") {
				gone++
			}
		case <-time.After(patience):
			t.Fatal("not all was heard in the end")
		}
	}
}
