// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/push-it/pushit/hub"
)

// keepTen keeps the newest ten messages of each channel, for an hour.
type keepTen struct{}

func (keepTen) History(string) hub.HistoryRule { return hub.HistoryRule{Count: 10, TTL: time.Hour} }

// A program without Caddy makes a hub, with the Broker that joins it with hubs on other
// machines. nil is for one machine. A hub/transport.Endpoint serves the policy to browsers.
func ExampleNew() {
	h, err := hub.New("news", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	h.Use(&hub.Policy{Mount: "/push", Histories: keepTen{}})

	ctx := context.Background()
	for n := range 3 {
		if _, refusal := hub.NewInside(h, "").Publish(ctx, hub.Publication{Channels: []string{"stories/1"}, Data: fmt.Append(nil, n)}); refusal != nil {
			log.Fatal(refusal)
		}
	}
	page, refusal := hub.NewInside(h, "").History("stories/1", "", 2)
	if refusal != nil {
		log.Fatal(refusal)
	}
	for _, m := range page.Messages {
		fmt.Println(m.Channel, string(m.Data))
	}
	// Output:
	// stories/1 1
	// stories/1 2
}

// A feed begins with what is kept, and goes on with what comes.
func ExampleInside_Listen() {
	h, err := hub.New("news", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	h.Use(&hub.Policy{Mount: "/push", Histories: keepTen{}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	news := hub.NewInside(h, "")
	publish := func(text string) {
		if _, refusal := news.Publish(ctx, hub.Publication{Channels: []string{"news"}, Data: []byte(text)}); refusal != nil {
			log.Fatal(refusal)
		}
	}

	publish(`"before"`)
	feed, err := news.Listen(ctx, hub.Listening{Channels: []string{"news"}, Last: 10})
	if err != nil {
		log.Fatal(err)
	}
	publish(`"after"`)
	for m := range feed.All() {
		fmt.Println(string(m.Data))
		if string(m.Data) == `"after"` {
			feed.Close()
		}
	}
	fmt.Println(feed.Err())
	// Output:
	// "before"
	// "after"
	// <nil>
}
