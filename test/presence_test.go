// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// presenceConfig is a site whose rooms tell who is in them. extra goes into the block.
func presenceConfig(extra string) string {
	return `
	http://site.test {
		basic_auth {
			ann ` + aliceHash + `
			bob ` + aliceHash + `
			eve ` + aliceHash + `
		}
		pushit /push {
			default allow
			channel rooms/* {
				presence {
					linger 1s
					` + extra + `
				}
			}
		}
	}`
}

// subscribeToSee subscribes, asks for the members, and returns them, or the refusal.
func (a *agent) subscribeToSee(channel string) object {
	a.t.Helper()
	answer := a.ask("/meta/subscribe", object{"channel": channel, "presence": true})
	a.wantAllowed(answer)
	members, _ := answer["presence"].(object)
	return members
}

// usersOf returns the users in a list of members, with their infos.
func usersOf(list any) string {
	var all []string
	members, _ := list.([]any)
	for _, m := range members {
		member := m.(object)
		all = append(all, fmt.Sprint(member["user"], " ", member["info"]))
	}
	return strings.Join(all, ", ")
}

// Pages see who is in a channel, with the info that the configuration makes. A guard may
// hide the list from some of them. A reload replaces the info and the guard.
func TestPagesSeeWhoIsThere(t *testing.T) {
	server := serve(t, presenceConfig("info `{\"shout\": agent.user.upperAscii(), \"room\": parts[1]}`\n\t\t\t\tcel `agent.user != \"eve\"`"))
	s := server.site("site.test")
	enter := func(user string) *agent {
		a, _ := s.open("/push/websocket", basicAuth(user, "secret of alice"), nil)
		return a
	}
	ann, eve := enter("ann"), enter("eve")
	if got := ann.subscribeToSee("rooms/1"); usersOf(got["members"]) != "ann map[room:1 shout:ANN]" {
		t.Errorf("ann sees %v", got)
	}
	if got := ann.subscribeToSee("hall"); got["code"] != "denied" {
		t.Errorf("in a channel without presence: %v", got)
	}
	if got := eve.subscribeToSee("rooms/1"); got["code"] != "denied" {
		t.Errorf("eve sees %v", got)
	}
	if batch := ann.receive(); batch["channel"] != "/meta/presence" || usersOf(batch["joined"]) != "eve map[room:1 shout:EVE]" {
		t.Errorf("ann is told %v", batch)
	}
	if err := server.load(presenceConfig("info `agent.user`\n\t\t\t\tcel `agent.user != \"ann\"`")); err != nil {
		t.Fatal(err)
	}
	if notice := ann.receive(); notice["channel"] != "/meta/presence" || notice["code"] != "denied" {
		t.Errorf("ann is told %v", notice)
	}
	answer := eve.ask("/meta/presence", object{"channel": "rooms/1"})
	if got, _ := answer["presence"].(object); usersOf(got["members"]) != "ann ann, eve eve" {
		t.Errorf("eve sees %v", answer)
	}
	_ = ann.conn.Close()
	if batch := eve.receive(); usersOf(batch["left"]) != "ann <nil>" || batch["count"] != float64(1) {
		t.Errorf("eve is told %v", batch)
	}
}

// A stream of Server-Sent Events shows who is in a channel, if it names the channel in
// presence. It is a member itself.
func TestStreamsSeeWhoIsThere(t *testing.T) {
	began := time.Now()
	server := serve(t, presenceConfig("info `{\"shout\": agent.user.upperAscii()}`\n\t\t\t\tcel `agent.user != \"eve\"`"))
	s := server.site("site.test")
	stream := func(user string) *eventStream {
		return events(t, s.client("h1"), s.origin()+"/push/sse?presence=rooms/1", "", basicAuth(user, "secret of alice"))
	}
	ann := stream("ann")
	begun, settles, _ := strings.Cut(ann.next().Data, `,"settles":`)
	if want := `{"channel":"rooms/1","number":1,"count":1,"first":true,"members":[{"user":"ann","tabs":1,"info":{"shout":"ANN"}}]`; strings.TrimSuffix(begun, "}") != want || settles == "" && time.Since(began) < time.Second { // which is linger
		t.Errorf("ann sees %s, settles %s", begun, settles)
	}
	bob, _ := s.open("/push/websocket", basicAuth("bob", "secret of alice"), nil)
	if got := bob.subscribeToSee("rooms/1"); !strings.Contains(usersOf(got["members"]), "ann map[shout:ANN]") {
		t.Errorf("bob sees %v", got)
	}
	ann.want("/meta/presence", `{"channel":"rooms/1","number":2,"count":2,"joined":[{"user":"bob","tabs":1,"info":{"shout":"BOB"}}]}`)
	stream("eve").want("/meta/presence", `{"channel":"rooms/1","successful":false,"error":"this is not allowed","code":"denied"}`)
	ann.leave()
	for bob.receive()["left"] == nil { // eve joins before
	}
}
