// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// A shop whose pages are told when an order is shipped. It listens at two addresses: one for
// visitors, which Caddy passes on, and one for the questions of pushit.
package main

import (
	"cmp"
	"log"
	"net"
	"os"

	"github.com/push-it/pushit/examples/go/push"
	"github.com/push-it/pushit/examples/go/shop"
)

func main() {
	pages, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		log.Fatal(err)
	}
	questions, err := net.Listen("tcp", "127.0.0.1:8001")
	if err != nil {
		log.Fatal(err)
	}
	url := cmp.Or(os.Getenv("PUSHIT_URL"), "http://localhost:8080/push")
	log.Fatal(shop.New(push.New(url, os.Getenv("PUBLISHER_SECRET"))).Serve(pages, questions))
}
