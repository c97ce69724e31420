// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/natsserver"
)

const natsSecret = "a-secret-of-nats-that-no-log-has"

// joined is an endpoint whose hub is connected through NATS.
func joined(broker string) string {
	return `
	http://site.test {
		metrics /metrics
		pushit /push {
			name shared
			default allow
			history 100 1h
			api bearer "` + apiSecret + `"
			` + broker + `
		}
	}`
}

// otherMachine runs a Caddy in another process, and returns its site. kill ends it at once.
func (s *server) otherMachine(config string) (other site, kill func()) {
	t := s.t
	t.Helper()
	binary, address := caddyBinary(t), freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	_, rest, _ := strings.Cut(config, "http://")
	host, _, ok := strings.Cut(rest, " {")
	if !ok {
		t.Fatalf("no site in %s", config)
	}
	config = "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n" + strings.Replace(config, "http://"+host+" {", "http://"+host+":"+port+" {\n\tbind 127.0.0.1", 1)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, address, binary, "run", "--config", file)
	other = s.site(host)
	other.elsewhere, other.host = address, host+":"+port
	return other, func() { _ = p.cmd.Process.Kill() }
}

// tell publishes as a program. It repeats what is unavailable: a busy machine may need longer
// than the four seconds that a publish has. It returns how often it tried.
func (s site) tell(data string) (tries int) {
	s.t.Helper()
	id := uuids.Add(1)
	for late := time.Now().Add(patience); ; {
		tries++
		status, _, body := s.post("/push/publish", "application/json", fmt.Sprintf(`{"channel":"news","data":%s,"uuid":"t%d"}`, data, id), asBackend())
		switch {
		case status == 503 && time.Now().Before(late):
			time.Sleep(50 * time.Millisecond)
			continue
		case status == 200 && tries > 1 && strings.Contains(body, `"repeated":true`):
		case status != 200 || !strings.Contains(body, `"subscriptions":`) || strings.Contains(body, `"subscriptions":0`):
			s.t.Fatalf("status %d, %s, want some subscriptions of this machine", status, body)
		}
		return tries
	}
}

// insist is publish, and repeats what is unavailable, as tell does.
func (a *agent) insist(channel string, data any) (tries int) {
	a.t.Helper()
	uuid := a.send(channel, data)
	var before []object
	for late := time.Now().Add(patience); ; {
		f := a.receive()
		switch {
		case f["uuid"] == uuid && f["code"] == "unavailable" && time.Now().Before(late):
			time.Sleep(50 * time.Millisecond)
			a.sendAs(uuid, channel, data)
			tries++
		case f["uuid"] == uuid && f["channel"] == "/meta/successful":
			a.kept = before
			return tries + 1
		case f["data"] == nil:
			a.t.Fatalf("publishing on %s was answered with %v", channel, f)
		default:
			before = append(before, f)
		}
	}
}

// Two machines are one hub: messages, their order, history and positions.
func TestTwoMachinesOverNATS(t *testing.T) {
	nats := natsserver.New(t, "")
	config := func(node string) string {
		return joined("broker nats " + nats.URL() + " {\n node " + node + "\n}")
	}
	s := serve(t, config("one"))
	here := s.site("site.test")
	there, kill := s.otherMachine(config("two"))

	a, _ := here.open("/push/websocket", nil, nil)
	b, _ := there.open("/push/websocket", nil, nil)
	a.subscribe("news")
	b.subscribe("news")
	var position any
	tries := 0 // at this machine
	for n, from := range []func(){
		func() { tries += here.tell("0") },
		func() { there.tell("1") },
		func() { tries += a.insist("news", 2) },
		func() { b.insist("news", 3) },
	} {
		from()
		for _, agent := range []*agent{a, b} {
			m := agent.receive()
			if m["data"] != float64(n) {
				t.Fatalf("message %d is %v", n, m)
			}
			if n == 0 {
				position = m["position"]
			}
		}
	}
	// An agent continues at the other machine, from its position.
	kill()
	b2, _ := here.open("/push/websocket", nil, nil)
	if answer := b2.subscribeFrom("news", object{"position": position}); answer["recovered"] != true {
		t.Fatalf("at the other machine: %v", answer)
	}
	for n := 1; n <= 3; n++ {
		b2.wantMessage("news", float64(n))
	}
	got := here.awaitMetrics(scrape{
		of("broker_connected", "hub=shared"):              1,
		of("broker_behind", "hub=shared"):                 0,
		of("broker_messages_applied_total", "hub=shared"): 4,
		of("broker_messages_lost_total", "hub=shared"):    0,
	})
	if n := got[of("broker_nodes", "hub=shared")]; n != 1 && n != 2 {
		t.Errorf("there are %v nodes", n)
	}
	if n := got[of("broker_publish_duration_seconds_count", "hub=shared")]; n < 2 || n > float64(tries) {
		t.Errorf("%v publishes were measured, want 2 to %d", n, tries)
	}
	lintedMetrics(t)
	// The history outlives all machines, because NATS has it.
	s.stop()
	if err := s.load(config("one")); err != nil {
		t.Fatal(err)
	}
	late, _ := s.site("site.test").open("/push/websocket", nil, nil)
	if answer := late.subscribeFrom("news", object{"position": position}); answer["recovered"] != true {
		t.Fatalf("after a restart: %v", answer)
	}
	for n := 1; n <= 3; n++ {
		late.wantMessage("news", float64(n))
	}
}

// refusal returns why a configuration is refused. Without an answer of NATS it is loaded, and
// does not work: then refusal loads the one from before, and tries again.
func (s *server) refusal(before, config string) (err error) {
	s.t.Helper()
	for late := time.Now().Add(patience); err == nil && time.Now().Before(late); {
		if err = s.load(config); err == nil {
			s.reload(before)
		}
	}
	return err
}

// A reload may change the user at NATS, but not the NATS servers. A configuration that cannot
// work is refused before anything changes.
func TestReloadsOfTheBroker(t *testing.T) {
	nats := natsserver.New(t, `authorization: { users: [ { user: one, password: "`+natsSecret+`" }, { user: two, password: "`+natsSecret+`" } ] }`)
	other := natsserver.New(t, "")
	t.Setenv("PUSHIT_TEST_NATS", natsSecret)
	as := func(user string) string {
		return "broker nats " + nats.URL() + " {\n user " + user + " {env.PUSHIT_TEST_NATS}\n}"
	}
	s := serve(t, joined(""))
	here := s.site("site.test")
	a, _ := here.open("/push/websocket", nil, nil)
	a.subscribe("news")
	here.tell("1")
	a.wantMessage("news", 1.0)
	t.Setenv("PUSHIT_TEST_EMPTY", "")

	for _, c := range []struct{ broker, want string }{
		{"broker nats " + nats.URL(), "does not let this node in"},
		{"broker nats " + nats.URL() + " {\n user one wrong-" + natsSecret + "\n}", "does not let this node in"},
		{"broker nats " + nats.URL() + " {\n user one {env.PUSHIT_TEST_EMPTY}\n}", "the password is empty, because {env.PUSHIT_TEST_EMPTY} is"},
		{"broker nats " + nats.URL() + " {\n nkey /nowhere/seed\n}", "/nowhere/seed"},
		{"broker nats " + nats.URL() + " {\n tls {\n ca /nowhere/ca.pem\n}\n}", "/nowhere/ca.pem"},
	} {
		if err := s.refusal(joined(""), joined(c.broker)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), natsSecret) {
			t.Errorf("%s: %v, want %q", c.broker, err, c.want)
		}
	}
	here.tell("2") // it goes on as before
	a.wantMessage("news", 2.0)

	var position any
	for n, c := range []string{joined(as("one")), joined(as("two")), joined(as("two")) + "\n#", joined(as("one"))} {
		if err := s.load(c); err != nil {
			t.Fatal(err)
		}
		here.tell(fmt.Sprint(10 + n))
		m := a.receive()
		if m["data"] != float64(10+n) {
			t.Fatalf("after reload %d: %v", n, m)
		}
		if n == 0 {
			position = m["position"]
		}
	}
	late, _ := here.open("/push/websocket", nil, nil)
	if answer := late.subscribeFrom("news", object{"position": position}); answer["recovered"] != true {
		t.Errorf("over reloads: %v", answer)
	}
	for n := 1; n <= 3; n++ {
		late.wantMessage("news", float64(10+n))
	}
	for _, c := range []struct{ config, want string }{
		{joined("broker nats " + other.URL()), "none of these servers is among"},
		{joined("broker nats " + nats.URL() + " {\n user one {env.PUSHIT_TEST_NATS}\n prefix other\n}"), "cannot change in a reload"},
		{joined("broker nats " + nats.URL() + " {\n user one wrong\n}"), "does not let this node in"},
		{joined(as("one")) + "\nhttp://two.test {\n pushit /two {\n name shared\n default allow\n history 1 1h {\n file " + filepath.Join(t.TempDir(), "h.db") + "\n}\n}\n}", "has a broker"},
		{joined(as("one")) + "\nhttp://two.test {\n pushit /two {\n name shared\n default allow\n " + as("two") + "\n}\n}", "have different brokers"},
	} {
		if err := s.refusal(joined(as("one")), c.config); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), natsSecret) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
	here.tell("20")
	a.wantMessage("news", 20.0)
	if err := s.load(joined("")); err != nil { // it is the only machine again
		t.Fatal(err)
	}
	here.tell("21")
	a.wantMessage("news", 21.0)
	if strings.Contains(s.log(), natsSecret) {
		t.Error("the log has the secret")
	}
}

// Without NATS the server starts and serves, and refuses publishes as unavailable. When NATS
// can be reached, everything works.
func TestServerWithoutNATS(t *testing.T) {
	nats := natsserver.Absent(t, "")
	s := serve(t, joined("broker nats "+nats.URL()))
	here := s.site("site.test")
	a, _ := here.open("/push/websocket", nil, nil)
	a.subscribe("news")
	id := a.send("news", 1)
	if answer := a.receive(); answer["uuid"] != id || answer["code"] != "unavailable" || answer["retry"] == nil {
		t.Errorf("a publish without NATS: %v", answer)
	}
	if status, _, body := here.post("/push/publish", "application/json", `{"channel":"news","data":1}`, asBackend()); status != 503 {
		t.Errorf("a publish of a program without NATS: %d %s", status, body)
	}
	const away = "NATS cannot be reached: nothing is published until it is back. Pages stay connected, and get what was kept before"
	s.wantLog(away, func(object) bool { return true })
	if n := len(s.logged(away)); n != 1 {
		t.Errorf("the log says %d times that NATS is away", n)
	}
	nats.Start()
	// The hub cannot know what the page has missed until then, so it closes the session.
	// The page asks again.
	if f := a.receive(); f["channel"] != "/meta/close" || f["retry"] == nil {
		t.Errorf("when NATS comes: %v", f)
	}
	var err error
	for late := time.Now().Add(fallbackPatience); time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		status, _, body := here.post("/push/publish", "application/json", `{"channel":"news","data":2,"uuid":"it"}`, asBackend())
		if status == 200 {
			err = nil
			break
		}
		err = errors.New(body)
	}
	if err != nil {
		t.Fatal(err)
	}
	late, _ := here.open("/push/websocket", nil, nil)
	late.subscribeFrom("news", object{"since": 10})
	late.wantMessage("news", 2.0)
}
