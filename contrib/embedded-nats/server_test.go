// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package embeddednats

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/brokers"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

const secret = "a secret of the machines, which is long enough"

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// parse reads a block in a Caddyfile, and resolves it.
func parse(block string) (*Server, error) {
	s := new(Server)
	if err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser("embedded {\n" + block + "\n}")); err != nil {
		return nil, err
	}
	s.log = slog.New(slog.DiscardHandler)
	if err := s.resolve(); err != nil {
		return nil, err
	}
	return s, s.Place("web1")
}

// Mistakes have an error that says what to write, and secrets are in none.
func TestMistakes(t *testing.T) {
	const one = "machine web1 10.0.0.1:6222\n"
	const three = one + "machine web2 10.0.0.2:6222\nmachine web3 10.0.0.3:6222\n"
	for _, c := range []struct{ block, want string }{
		{"", "there are no machines"},
		{"machine web1", "machine needs a value, such as machine web1 10.0.0.1:6222"},
		{"machines web1", `did you mean "machine"?`},
		{one + "machine web2 10.0.0.2:6222", "there must be 1, 3 or 5"},
		{three, "the machines need a secret"},
		{three + "secret short", "at least 32"},
		{three + "secret " + strings.Repeat("changeme", 4) + "1", "8 different characters"},
		{three + "secret {env.PUSHIT_TEST_NOT_SET}", "PUSHIT_TEST_NOT_SET"},
		{three + "secret", "secret needs a value, such as secret {env.PUSHIT_CLUSTER_SECRET}"},
		{three + "secret \"" + secret + "\"\nsecret x", "given twice"},
		{one + "machine web1 10.0.0.2:6222\nmachine web3 10.0.0.3:6222", "give each its own"},
		{"machine ../web1 10.0.0.1:6222", "a name has letters"},
		{"machine web1 10.0.0.1", "not an address with a port"},
		{"machine web1 :6222", "not an address with a port"},
		{"machine web2 10.0.0.1:6222", `this node is called "web1", and the machines are web2`},
		{one + "listen 6222", "listen: "},
		{one + "sync often", "sync always, or sync 10s"},
		{one + "sync 2h", "at most 1h"},
		{one + "store \"\"", "environment variable"},
	} {
		_, err := parse(c.block)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", c.block, err, c.want)
		}
	}
	s, err := parse(three + "secret \"" + secret + "\"\nlisten 0.0.0.0:6222\nsync always\nstore /x")
	if err != nil {
		t.Fatal(err)
	}
	if u := s.use; u.name != "web1" || u.listen != "0.0.0.0:6222" || !u.always || u.store != "/x" {
		t.Errorf("settings are %s %s %t %s", u.name, u.listen, u.always, u.store)
	}
	if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, secret) {
		t.Errorf("it prints %s", text)
	}
	if s, err = parse(one); err != nil || s.use.listen != "" || s.use.store != filepath.Join(caddy.AppDataDir(), "pushit", "nats", "web1") {
		t.Errorf("one machine listens at %q, and stores in %q: %v", s.use.listen, s.use.store, err)
	}
}

// Somebody who connects without the secret, again and again, does not fill the disk with lines.
func TestFloodOfConnections(t *testing.T) {
	var log bytes.Buffer
	r := new(running)
	r.log.Store(slog.New(slog.NewTextHandler(&log, nil)))
	l := logger{r}
	for i := range 10_000 {
		l.Errorf("10.0.0.9:%d - rid:%d - TLS handshake timeout", i, i)
		l.Errorf("10.0.0.9:%d - cid:%d - authentication error", i, i)
		l.Noticef("10.0.0.9:%d - cid:%d - a notice that nobody reads", i, i)
	}
	l.Warnf("something else")
	lines := strings.Count(log.String(), "\n")
	if lines < 2 || lines > 200 || !strings.Contains(log.String(), "something else") || strings.Contains(log.String(), "notice") {
		t.Errorf("the log has %d lines, and ends in\n%s", lines, log.String()[max(0, log.Len()-500):])
	}
}

// The table of docs/cluster.md has each option, and each field of the JSON.
func TestOptionsAreDocumented(t *testing.T) {
	var there, documented, fields, documentedFields []string
	for _, o := range new(Server).words() {
		there = append(there, o.Name)
	}
	for f := range reflect.TypeFor[Server]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			fields = append(fields, name)
		}
	}
	for _, row := range doctable.Rows(t, "../../docs/cluster.md", "### Settings of embedded") {
		word, _, _ := strings.Cut(doctable.Codes(row[0])[0], " ")
		documented = append(documented, word)
		documentedFields = append(documentedFields, doctable.Codes(row[1])[0])
	}
	for _, list := range [][]string{there, documented, fields, documentedFields} {
		slices.Sort(list)
	}
	if !slices.Equal(there, documented) || !slices.Equal(fields, documentedFields) {
		t.Errorf("documented are\n\t%q %q\nand there are\n\t%q %q", documented, documentedFields, there, fields)
	}
}

// A sink has the messages of a hub at one machine.
type sink struct {
	mu   sync.Mutex // guards the following
	got  []string
	last bool // it is behind
}

func (s *sink) Entry(_ uint64, _ time.Time, m *hub.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, m.UUID)
}
func (*sink) Reset(hub.Epoch, uint64, uint64) {}
func (*sink) Floor(string, uint64, string)    {}
func (*sink) Lost(uint64, uint64)             {}
func (s *sink) Behind(behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = behind
}

func (s *sink) has(want ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Equal(s.got, want) && !s.last
}

// A node is a machine as it runs.
type node struct {
	t      *testing.T
	name   string
	config []byte
	sink   *sink
	broker hub.Broker
	unload func()
}

// load loads the configuration of a machine.
func load(t *testing.T, config []byte) (m brokers.Module, unload func(), err error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	loaded, err := ctx.LoadModuleByID("http.pushit.brokers.nats", config)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return loaded.(brokers.Module), cancel, nil
}

var keep = hub.HistoryRule{Count: 10, TTL: time.Hour}

func settingsOfHub() brokers.Settings {
	return brokers.Settings{Hub: "h", Keep: keep, MessageSize: 16 << 20, Log: slog.New(slog.DiscardHandler)}
}

// start starts the machine.
func (n *node) start() {
	n.t.Helper()
	m, unload, err := load(n.t, n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	n.unload, n.sink = unload, new(sink)
	if n.broker, err = m.Open(settingsOfHub()); err != nil {
		n.t.Fatal(err)
	}
	if err := n.broker.Start(n.t.Context(), n.sink); err != nil {
		n.t.Fatal(err)
	}
}

// stop ends the machine. The configuration is gone before its broker is.
func (n *node) stop() {
	if n.unload == nil {
		return
	}
	n.unload()
	if err := n.broker.Close(); err != nil {
		n.t.Error(err)
	}
	n.unload = nil
}

// publish publishes a message, and tries again while there is no leader.
func (n *node) publish(uuid string) {
	n.t.Helper()
	await(n.t, "a publish at "+n.name, func() bool {
		_, err := n.broker.Publish(n.t.Context(), hub.NewMessage("a", uuid, []byte("1")).Keep(keep))
		return err == nil
	})
}

// configOf returns the configuration of a machine.
func configOf(t *testing.T, name, store, with string, addresses ...string) []byte {
	t.Helper()
	text := "nats {\n node " + name + "\n embedded {\n store " + store + "\n secret \"" + with + "\"\n"
	for i, a := range addresses {
		text += fmt.Sprintf("machine web%d %s\n", i+1, a)
	}
	n := new(brokers.NATS)
	if err := n.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text + "}\n}")); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// loopback is an address of this machine that no other test uses, where a network of them
// loops back.
func loopback() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
}

// Three machines keep what is published, and go on when one of them stops. A machine that
// comes back has everything. Machines with another secret stay outside.
func TestThreeMachines(t *testing.T) {
	host := loopback()
	var addresses []string
	for range 3 {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, l.Addr().String())
		defer func() { _ = l.Close() }() // if the test ends before
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	nodes := make([]*node, 3)
	var starting sync.WaitGroup
	for i := range nodes {
		name := fmt.Sprintf("web%d", i+1)
		nodes[i] = &node{t: t, name: name, config: configOf(t, name, filepath.Join(t.TempDir(), "nats"), secret, addresses...)}
		t.Cleanup(nodes[i].stop)
		starting.Go(nodes[i].start)
	}
	starting.Wait()
	nodes[0].publish("u1")
	nodes[1].publish("u2")
	all := func(nodes []*node, want ...string) {
		t.Helper()
		for _, n := range nodes {
			await(t, "the messages at "+n.name, func() bool { return n.sink.has(want...) })
		}
	}
	all(nodes, "u1", "u2")

	t.Run("others", func(t *testing.T) { stayOutside(t, nodes[0], addresses) })

	nodes[2].stop()
	nodes[0].publish("u3")
	nodes[1].publish("u4")
	all(nodes[:2], "u1", "u2", "u3", "u4")
	nodes[2].start()
	all(nodes, "u1", "u2", "u3", "u4")
	nodes[2].publish("u5")
	all(nodes, "u1", "u2", "u3", "u4", "u5")
}

// stayOutside tests that nobody joins the machine without its secret, that its settings cannot
// change, and that it keeps its store.
func stayOutside(t *testing.T, n *node, addresses []string) {
	other, err := newIdentity(strings.ToUpper(secret))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.config()
	if err != nil {
		t.Fatal(err)
	}
	for what, config := range map[string]*tls.Config{
		"another secret": {Certificates: foreign.Certificates, InsecureSkipVerify: true},
		"no certificate": {InsecureSkipVerify: true},
	} {
		refusal := func() error {
			conn, err := net.Dial("tcp", addresses[0])
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			secured := tls.Client(conn, config)
			if err := secured.Handshake(); err != nil {
				return err
			}
			_, err = secured.Read(make([]byte, 1)) // the server looks at the certificate last
			return err
		}
		// The server waits two seconds for a client, which a busy machine may need.
		await(t, "the refusal of "+what, func() bool {
			err := refusal()
			if err == nil {
				t.Fatalf("with %s it says something", what)
			}
			return strings.Contains(err.Error(), "remote error: tls")
		})
	}
	// Without TLS, a machine says nothing at all.
	if heard := say(t, addresses[0], "CONNECT {\"verbose\":true}\r\nPING\r\n"); heard != "" {
		t.Errorf("without TLS, a machine says %q", heard)
	}
	// Only this machine reaches the address for pushit, and it needs the password.
	pool.Range(func(_, value any) bool {
		address := strings.TrimPrefix(value.(*running).url, "nats://")
		if host, _, err := net.SplitHostPort(address); err != nil || host != "127.0.0.1" {
			t.Errorf("it listens at %s: %v", address, err)
		}
		for _, options := range []string{"{}", `{"user":"pushit"}`, `{"user":"pushit","pass":"` + secret + `"}`} {
			await(t, "the refusal of "+options, func() bool {
				heard := say(t, address, "CONNECT "+options+"\r\nSUB > 1\r\nPING\r\n")
				if strings.Contains(heard, "PONG") {
					t.Errorf("with %s it says %q", options, heard)
				}
				return strings.Contains(heard, "Authorization Violation")
			})
		}
		return true
	})
	for _, c := range []struct {
		name, store, with string
		addresses         []string
		want              string
	}{
		{"web1", storeOf(n), strings.ToUpper(secret), addresses, "cannot change in a reload"},
		{"web1", storeOf(n), secret, []string{addresses[0]}, "cannot change in a reload"},
		{"web2", storeOf(n), secret, addresses, "cannot change in a reload"},
		{"web2", t.TempDir(), secret, addresses, "address already in use"},
	} {
		m, unload, err := load(t, configOf(t, c.name, c.store, c.with, c.addresses...))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Check(n.broker, settingsOfHub()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.addresses, err, c.want)
		}
		unload()
	}
	m, unload, err := load(t, n.config)
	if err != nil {
		t.Fatal(err)
	}
	defer unload()
	if err := errors.Join(m.Check(n.broker, settingsOfHub()), m.Adopt(n.broker, settingsOfHub())); err != nil {
		t.Errorf("a reload with the same settings: %v", err)
	}
}

// say sends a text to an address, and returns everything that comes back.
func say(t *testing.T, address, text string) (heard string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, text) // it may have been closed already
	all, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	return string(all)
}

func storeOf(n *node) string {
	var c struct {
		Embedded Server `json:"embedded"`
	}
	if err := json.Unmarshal(n.config, &c); err != nil {
		n.t.Fatal(err)
	}
	return c.Embedded.Store
}

// A single machine needs no secret, and no address is open. Its store belongs to it.
func TestOneMachine(t *testing.T) {
	store := t.TempDir()
	config := []byte(`{"node": "web1", "embedded": {"machines": [{"name": "web1", "address": "127.0.0.1:1"}], "store": "` + store + `", "sync": "always"}}`)
	n := &node{t: t, name: "web1", config: config}
	n.start()
	n.publish("u1")
	n.stop()
	n.start()
	await(t, "what was published before", func() bool { return n.sink.has("u1") })
	n.stop()
	if left := goroutinesOfServers(); left != "" {
		t.Errorf("after the end there are\n%s", left)
	}
	for _, c := range []struct{ config, want string }{
		{strings.ReplaceAll(string(config), "web1", "web2"), "was made by the machine web1 of web1"},
		{strings.Replace(string(config), `"node"`, `"url": ["nats://x"], "node"`, 1), "unknown field"},
		{strings.Replace(string(config), `"node"`, `"urls": ["nats://x"], "node"`, 1), "url is about NATS servers elsewhere"},
		{strings.Replace(string(config), `"node": "web1"`, `"node": "other"`, 1), "and the machines are web1"},
	} {
		m, unload, err := load(t, []byte(c.config))
		if err == nil {
			_, err = m.Open(settingsOfHub())
			unload()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}

// goroutinesOfServers returns the goroutines of NATS servers that are still there a while after
// their end.
func goroutinesOfServers() (left string) {
	buffer := make([]byte, 1<<20)
	for late := time.Now().Add(30 * time.Second); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		left = ""
		for g := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
			if strings.Contains(g, "nats-server/v2/server.") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
	}
	return left
}
