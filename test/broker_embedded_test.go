// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os/exec"
	"strings"
	"testing"
)

// A NATS server within Caddy outlives reloads, and ends with the last configuration that has
// it. Its messages are there when it is back.
func TestEmbeddedNATS(t *testing.T) {
	store := t.TempDir()
	config := joined("broker nats {\n node web1\n embedded {\n machine web1 127.0.0.1:1\n store " + store + "\n}\n}")
	s := serve(t, config)
	here := s.site("site.test")
	a, _ := here.open("/push/websocket", nil, nil)
	a.subscribe("news")
	here.tell("1")
	position := a.receive()["position"]
	if err := s.load(config + "\n#"); err != nil {
		t.Fatal(err)
	}
	here.tell("2")
	a.wantMessage("news", 2.0)
	for _, c := range []struct{ config, want string }{
		{strings.Replace(config, "store", "sync always\nstore", 1), "cannot change in a reload: restart Caddy"},
		{strings.Replace(config, "node web1", "node web2", 1), "and the machines are web1"},
		{strings.Replace(config, "embedded", "token x\n embedded", 1), "token is about NATS servers elsewhere"},
		{strings.Replace(config, "embedded {", "embedded web1 {", 1), "takes no value on its line"},
	} {
		if err := s.load(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
	here.tell("3")
	a.wantMessage("news", 3.0)

	if err := s.load(joined("")); err != nil { // the server ends
		t.Fatal(err)
	}
	if err := s.load(config); err != nil {
		t.Fatal(err)
	}
	here = s.site("site.test")
	late, _ := here.open("/push/websocket", nil, nil)
	if answer := late.subscribeFrom("news", object{"position": position}); answer["recovered"] != true {
		t.Fatalf("after a restart: %v", answer)
	}
	late.wantMessage("news", 2.0)
	late.wantMessage("news", 3.0)
}

// TestEmbeddedNATSOfThreeMachines runs the tests of the module itself, in which three machines
// run in one process.
func TestEmbeddedNATSOfThreeMachines(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-C", "contrib/embedded-nats", "-race", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
