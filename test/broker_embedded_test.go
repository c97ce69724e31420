// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A NATS server within Caddy outlives reloads, and ends with the last configuration that has
// it. Its messages are there when it is back.
func TestEmbeddedNATS(t *testing.T) {
	store := t.TempDir()
	config := joined("broker nats {\n node web1\n embedded {\n machine web1 127.0.0.1:1\n store " + store + "\n}\n}")
	s := &server{t: t, admin: freeAddress(t)}
	s.start(config)
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
	if out, err := s.command("", "hubs"); err != nil || !strings.Contains(out, "nats, machines: 1") {
		t.Errorf("hubs: %v\n%s", err, out)
	}
	if status, answer := s.askAdmin(http.MethodGet, "hubs", nil); status != http.StatusOK || !strings.Contains(fmt.Sprint(answer), "broker:map[connected:true engine:nats") {
		t.Errorf("hubs: %d %v", status, answer)
	}
}

// explain says what joins the machines, and starts nothing.
func TestExplainOfABroker(t *testing.T) {
	args := os.Args
	os.Args = []string{args[0], "pushit"}
	defer func() { os.Args = args }()
	t.Setenv("PUSHIT_TEST_TOKEN", natsSecret)
	for broker, want := range map[string]string{
		"broker nats 127.0.0.1:1 {\n token {env.PUSHIT_TEST_TOKEN}\n}":                                   "broker     nats, at 127.0.0.1:1\n",
		"broker nats {\n node web1\n embedded {\n machine web1 127.0.0.1:1\n store /nowhere/store\n}\n}": "broker     nats, in this process: machine web1 of web1\n",
	} {
		file := explainFile(t, "Caddyfile", joined(broker))
		out, status, err := explain("--gate", "publish", "--config", file, "--site", "site.test", "--channel", "news", "--data", "1")
		if err != nil || status != 0 || !strings.Contains(out, want) || strings.Contains(out, natsSecret) {
			t.Errorf("%s: %d %v\n%s", broker, status, err, out)
		}
	}
}

// TestEmbeddedNATSOfThreeMachines runs the tests of the module itself, in which three machines
// run in one process.
func TestEmbeddedNATSOfThreeMachines(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-C", "contrib/embedded-nats", "-race", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
