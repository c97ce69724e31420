// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/wireclient"
)

const deliveryConfig = `
	http://site.test {
		pushit /push {
			default allow
			history 9 1h
			channel quiet/* {
				echo off
			}
			channel rooms/* {
				existing
				history 5 1s
			}
			channel prices/* {
				conflate
			}
			limits {
				queue_messages 16
			}
			api bearer "` + apiSecret + `"
		}
	}`

// A message does not come back to the page that caused it, if the configuration, the page
// or its backend says so.
func TestPublishersGetNoEcho(t *testing.T) {
	s := serve(t, deliveryConfig).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.subscribe("quiet/1").subscribe("news")
	b, _ := s.open("/push/websocket", nil, nil)
	b.subscribe("quiet/1").subscribe("news")

	a.wantAllowed(a.ask("quiet/1", 1))
	b.wantMessage("quiet/1", 1.0)
	a.write(wireclient.OpText, []byte(`{"channel":"news","uuid":"m1","data":2,"echo":false,"history":false}`))
	if m := a.receive(); m["channel"] != "/meta/successful" || m["position"] != nil {
		t.Errorf("%v", m)
	}
	b.wantMessage("news", 2.0)
	cause, _ := s.upgrade("/push/websocket", nil)
	cause.write(wireclient.OpText, []byte(`{"channel":"/meta/connect","uuid":"c1","agentId":"cause"}`))
	cause.receive()
	cause.write(wireclient.OpText, []byte(`{"channel":"/meta/subscribe","uuid":"s1","data":{"channel":"news"}}`))
	cause.receive()
	if status, _, body := s.post("/push/publish", "application/json", `{"channel":"news","data":3,"except":"cause"}`, asBackend()); status != http.StatusOK {
		t.Errorf("status %d, %s", status, body)
	}
	b.wantMessage("news", 3.0)
	a.wantMessage("news", 3.0)
	b.wantAllowed(b.ask("quiet/1", 4))
	a.wantMessage("quiet/1", 4.0)
	b.wantAllowed(b.ask("news", 5))
	cause.wantMessage("news", 5.0)
}

// A channel without subscribers refuses messages of pages and of programs.
func TestExistingChannelsOnly(t *testing.T) {
	s := serve(t, deliveryConfig).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.wantRefused(a.ask("rooms/1", 1), hub.CodeMissing)
	status, _, body := s.post("/push/publish", "application/json", `{"channel":"rooms/1","data":1}`, asBackend())
	if status != http.StatusNotFound || !strings.Contains(body, `"code":"missing"`) {
		t.Errorf("status %d, %s", status, body)
	}
	b, _ := s.open("/push/websocket", nil, nil)
	b.subscribe("rooms/1")
	a.wantAllowed(a.ask("rooms/1", 2))
	b.wantMessage("rooms/1", 2.0)
}

// A page does not poll while more messages are published than its queue holds. It is not
// closed, and gets the newest message of a conflated channel.
func TestConflatedChannelsOfPages(t *testing.T) {
	s := serve(t, deliveryConfig).site("site.test")
	reader, _ := s.open("/push/websocket", nil, nil)
	reader.subscribe("prices/1")
	join := func() *fallbackClient { return s.fallback(s.client("h1"), "/push", "xhr").connect("prices/1", "news") }
	c := join().betweenPolls(join, func() {
		reader.publish("news", "first")
		for n := range 40 {
			reader.wantAllowed(reader.ask("prices/1", n))
		}
	})
	c.wantMessage("news", "first")
	last := -1.0
	for count := 1; last < 39; count++ {
		f := c.receive()
		price, _ := f["data"].(float64)
		if f["channel"] != "prices/1" || price <= last || count > 16 {
			t.Fatalf("%v came as number %d, after %v", f, count, last)
		}
		last = price
	}
}
