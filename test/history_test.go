// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
)

const historyConfig = `
	http://site.test {
		pushit /push {
			default allow
			history 3 1h
			channel scores/* {
				history 1 1m
				subscribe allow
				patterns
			}
			api bearer "` + apiSecret + `"
		}
	}`

// subscribeFrom subscribes from a position on, and returns the answer.
func (a *agent) subscribeFrom(channel string, from object) object {
	a.t.Helper()
	data := object{"channel": channel}
	maps.Copy(data, from)
	answer := a.ask("/meta/subscribe", data)
	a.wantAllowed(answer)
	return answer
}

// An agent that was away gets what it missed, also after a reload. If messages are
// missing, the answer says so. Each channel block has its own history.
func TestAgentsGetWhatTheyMissed(t *testing.T) {
	server := serve(t, historyConfig)
	s := server.site("site.test")
	say := func(channel string, data any) {
		t.Helper()
		if status, _, body := s.post("/push/publish", "application/json", fmt.Sprintf(`{"channel":%q,"data":%v}`, channel, data), asBackend()); status != 200 {
			t.Fatalf("status %d, %s", status, body)
		}
	}
	reader, _ := s.open("/push/websocket", nil, nil)
	reader.subscribe("news")
	say("news", 1)
	last := reader.receive()["position"]
	if last == nil {
		t.Fatal("a message of a channel with a history has no position")
	}
	// Publishers learn the position, too, with and without a session.
	var answers []struct {
		Position  any
		Positions object
	}
	_, _, body := s.post("/push/publish", "application/json", `[{"channel":"other","data":1}, {"channels":["other","other/2"],"data":1}]`, asBackend())
	if err := json.Unmarshal([]byte(body), &answers); err != nil || len(answers) != 2 || answers[0].Position == nil || len(answers[1].Positions) != 2 {
		t.Errorf("%s", body)
	}
	if answer := reader.ask("other", 1); answer["channel"] != "/meta/successful" || answer["position"] == nil {
		t.Errorf("%v", answer)
	}
	for n := 2; n < 5; n++ {
		say("news", n)
		say("scores/1", n)
	}
	if err := server.load(historyConfig + "\n# again\n"); err != nil {
		t.Fatal(err)
	}
	again, _ := s.open("/push/websocket", nil, nil)
	if answer := again.subscribeFrom("news", object{"position": last}); answer["recovered"] != true || answer["position"] == nil {
		t.Errorf("answer %v", answer)
	}
	for n := 2; n < 5; n++ {
		again.wantMessage("news", float64(n))
	}
	if answer := again.subscribeFrom("scores/*", object{"since": 10}); answer["recovered"] != true {
		t.Errorf("answer %v", answer)
	}
	again.wantMessage("scores/1", 4.0)
	say("news", 5)
	again.wantMessage("news", 5.0)

	late, _ := s.open("/push/websocket", nil, nil)
	if answer := late.subscribeFrom("news", object{"position": last}); answer["recovered"] != false || answer["reason"] != "count" {
		t.Errorf("answer %v", answer)
	}
	for n := 3; n < 6; n++ {
		late.wantMessage("news", float64(n))
	}
}

// An agent gets kept messages without a subscription, if it might subscribe.
func TestAgentsAskForHistory(t *testing.T) {
	server := serve(t, `
	http://site.test {
		pushit /push {
			default allow
			history 3 1h
			channel secret {
				subscribe deny "members only"
			}
			channel typing/* {
				history off
			}
		}
	}`)
	s := server.site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	for n := range 5 {
		for _, channel := range []string{"news", "secret", "typing/news"} {
			a.ask(channel, n)
		}
	}
	answer := a.ask("/meta/history", object{"channel": "news", "last": 2})
	a.wantAllowed(answer)
	messages, _ := answer["messages"].([]any)
	if len(messages) != 2 || messages[0].(object)["data"] != 3.0 || answer["before"] == nil {
		t.Errorf("%v", answer)
	}
	older := a.ask("/meta/history", object{"channel": "news", "before": answer["before"]})
	if messages, _ := older["messages"].([]any); len(messages) != 1 || messages[0].(object)["data"] != 2.0 || older["before"] != nil {
		t.Errorf("%v", older)
	}
	if answer := a.ask("/meta/history", object{"channel": "secret"}); answer["successful"] != false || answer["code"] != "denied" || answer["error"] != "members only" {
		t.Errorf("%v", answer)
	}
	if answer := a.ask("/meta/history", object{"channel": "typing/news"}); answer["successful"] != true || answer["reason"] != "none" {
		t.Errorf("%v", answer)
	}
}

// An agent that may not have kept messages can still subscribe, and the answer says why
// there are none. A reload replaces the gate.
func TestGateHistory(t *testing.T) {
	config := func(guard string) string {
		return "http://site.test {\n pushit /push {\n default allow\n history 3 1h\n history " + guard + "\n }\n}"
	}
	server := serve(t, config("deny"))
	s := server.site("site.test")
	publisher, _ := s.open("/push/websocket", nil, nil)
	publisher.ask("news", 1)
	reader, _ := s.open("/push/websocket", nil, nil)
	if answer := reader.subscribeFrom("news", object{"since": 1}); answer["recovered"] != false || answer["reason"] != "denied" {
		t.Errorf("answer %v", answer)
	}
	publisher.ask("news", 2)
	reader.wantMessage("news", float64(2))
	if answer := reader.ask("/meta/history", object{"channel": "news"}); answer["code"] != "denied" {
		t.Errorf("answer %v", answer)
	}
	if err := server.load(config("allow")); err != nil {
		t.Fatal(err)
	}
	if answer := reader.ask("/meta/history", object{"channel": "news"}); answer["successful"] != true || len(answer["messages"].([]any)) != 2 {
		t.Errorf("answer %v", answer)
	}
}
