// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
)

// reloadSite is a Caddyfile with a site, which TestReload edits.
func reloadSite(directives string) string {
	return "http://localhost {\n\tlog\n\t" + directives + "\n}\n"
}

func TestReloadKeepsAgentsConnected(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	old := s.connect("/push/websocket", nil).subscribe("chat")
	for i, edited := range []string{
		"pushit {\n\t\theartbeat 20s\n\t}",
		"pushit /push/*\n\theader X-Frame-Options DENY",
		"encode\n\tpushit {\n\t\tlimits {\n\t\t\tagents unlimited\n\t\t}\n\t}",
	} {
		if err := s.load(reloadSite(edited)); err != nil {
			t.Fatal(err)
		}
		fresh := s.connect("/push/websocket", nil).subscribe("chat")
		if n := hubpool.References("default"); n != 1 {
			t.Errorf("reload %d: %d references to the hub, want 1", i, n)
		}
		fresh.publish("chat", "from the new one")
		old.wantMessage("chat", "from the new one")
		fresh.wantMessage("chat", "from the new one")
		old.publish("chat", "from the old one")
		fresh.wantMessage("chat", "from the old one")
		old.wantMessage("chat", "from the old one")
		old.subscribe("news")
		fresh.publish("news", "more")
		old.wantMessage("news", "more")
		old.request("/meta/unsubscribe", object{"channel": "news"})
	}
}

func TestReloadGivesAgentsTheNewPolicy(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	old := s.connect("/push/websocket", nil).subscribe("one")
	if err := s.load(reloadSite("pushit {\n\t\tlimits {\n\t\t\tchannels_per_agent 1\n\t\t}\n\t}")); err != nil {
		t.Fatal(err)
	}
	old.send("/meta/subscribe", object{"channel": "two"})
	if f := old.receive(); f["successful"] != false || f["code"] != string(hub.CodeLimit) {
		t.Errorf("a second channel: %v, want it refused by the new limit", f)
	}
}

func TestFailedReloadChangesNothing(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	old := s.connect("/push/websocket", nil).subscribe("chat")
	before := s.addr("srv0")
	for name, edited := range map[string]string{
		"a Caddyfile that does not adapt":   "pushit {\n\t\theartbeat 1ms\n\t}",
		"a handler after pushit that fails": "route {\n\t\tpushit {\n\t\t\thandshake 5s\n\t\t}\n\t\tfails\n\t}",
		"pushit removed, and a failure":     "fails",
		"moved, and a failure":              "route {\n\t\tpushit /live\n\t\tfails\n\t}",
	} {
		if err := s.load(reloadSite(edited)); err == nil {
			t.Fatalf("%s: loaded", name)
		}
		if after := s.addr("srv0"); after != before {
			t.Errorf("%s: the server has moved from %s to %s", name, before, after)
		}
		if n := hubpool.References("default"); n != 1 {
			t.Errorf("%s: %d references to the hub, want 1", name, n)
		}
		fresh := s.connect("/push/websocket", nil)
		fresh.publish("chat", name)
		old.wantMessage("chat", name)
	}
	if err := s.load(reloadSite("pushit {\n\t\theartbeat 20s\n\t}")); err != nil {
		t.Fatal(err)
	}
	s.wantEffects("heartbeat")
	for line := range strings.Lines(s.log()) {
		if strings.Contains(line, "agents moved to a new configuration") && strings.Contains(line, `"level":"info"`) && !strings.Contains(line, `"changed":["heartbeat"]`) {
			t.Errorf("the log says of one that has failed: %s", line)
		}
	}
}

func TestReloadThatRemovesTheEndpointClosesIt(t *testing.T) {
	for name, edited := range map[string]string{
		"no pushit":    "respond gone",
		"another path": "pushit /live",
		"another name": "pushit {\n\t\tname other\n\t}",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, reloadSite("pushit")).site("localhost")
			old := s.connect("/push/websocket", nil)
			if err := s.load(reloadSite(edited)); err != nil {
				t.Fatal(err)
			}
			old.wantClose(int(hub.CloseEndpoint))
		})
	}
}

// TestReloadClosesOnlyAgentsOfTheRemovedEndpoint has two endpoints on one hub. A reload
// removes one.
func TestReloadClosesOnlyAgentsOfTheRemovedEndpoint(t *testing.T) {
	const both = "pushit /a {\n\t\tname chat\n\t}\n\tpushit /b {\n\t\tname chat\n\t}"
	s := serve(t, reloadSite(both)).site("localhost")
	a := s.connect("/a/websocket", nil).subscribe("chat")
	b := s.connect("/b/websocket", nil)
	if err := s.load(reloadSite("pushit /a {\n\t\tname chat\n\t}")); err != nil {
		t.Fatal(err)
	}
	b.wantClose(int(hub.CloseEndpoint))
	s.connect("/a/websocket", nil).publish("chat", "still here")
	a.wantMessage("chat", "still here")
}

func TestStopClosesAgents(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	a := s.connect("/push/websocket", nil)
	s.stop()
	if f := a.receive(); f["channel"] != "/meta/close" {
		t.Errorf("got %v, want /meta/close", f)
	}
	if n := hubpool.References("default"); n != 0 {
		t.Errorf("%d references to the hub are left", n)
	}
}
