// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"context"
	"fmt"
	"log"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp" // the HTTP server

	"github.com/push-it/pushit"
	"github.com/push-it/pushit/hub"
)

// Another module of the server, or a program that embeds Caddy, publishes to the pages of a
// site, and listens to them.
func ExampleFindHub() {
	err := caddy.Load([]byte(`{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {"http": {"servers": {"site": {
			"listen": ["127.0.0.1:0"],
			"routes": [{"handle": [{"handler": "pushit", "name": "default"}]}]
		}}}}
	}`), true)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = caddy.Stop() }() // the example ends

	h, ok := pushit.FindHub("default")
	if !ok {
		log.Fatal("there is no such hub")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	feed, err := hub.NewInside(h, "").Listen(ctx, hub.Listening{Channels: []string{"orders/*"}})
	if err != nil {
		log.Fatal(err)
	}
	receipt, refusal := hub.NewInside(h, "").Publish(ctx, hub.Publication{
		Channels: []string{"orders/7"},
		Data:     []byte(`{"state": "paid"}`),
	})
	if refusal != nil {
		log.Fatal(refusal)
	}
	fmt.Println("subscriptions:", receipt.Subscriptions)
	for m := range feed.All() {
		fmt.Println(m.Channel, string(m.Data))
		break
	}
	_, ok = pushit.FindHub("nobody's")
	fmt.Println("another one:", ok)
	// Output:
	// subscriptions: 1
	// orders/7 {"state": "paid"}
	// another one: false
}
