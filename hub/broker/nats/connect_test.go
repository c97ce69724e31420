// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/natsserver"
)

const secret = "a-secret-that-nobody-may-see"

func TestOptionsThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "needs a name"},
		{Options{Hub: "h", URLs: []string{"http://x"}}, "write it as nats://host:port"},
		{Options{Hub: "h", URLs: []string{"nats://"}}, "write it as nats://host:port"},
		{Options{Hub: "h", URLs: []string{"nats://x:1/path"}}, "write it as nats://host:port"},
		{Options{Hub: "h", URLs: []string{"nats://me:" + secret + "@x:1"}}, "write user <name> <password>"},
		{Options{Hub: "h", URLs: []string{"nats://%zz" + secret}}, "cannot be read"},
		{Options{Hub: "h", Prefix: "a b"}, "the prefix"},
		{Options{Hub: "h", Prefix: "a..b"}, "the prefix"},
		{Options{Hub: "h", Prefix: ">"}, "the prefix"},
		{Options{Hub: "h", Domain: "a.b"}, "the domain"},
		{Options{Hub: "h", Node: "a b"}, "the name of the node"},
		{Options{Hub: "h", Replicas: 2}, "1, 3 or 5"},
		{Options{Hub: "h", MaxBytes: 10}, "at least 1MiB"},
		{Options{Hub: "h", Auth: Auth{Token: secret, User: "u"}}, "keep one of token and user"},
	} {
		_, err := New(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: %v, want %q", c.o, err, c.want)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	o := Options{Hub: "h", URLs: []string{"x:1"}, Auth: Auth{Token: secret, Password: secret}}
	for _, text := range []string{fmt.Sprint(o), fmt.Sprintf("%v %+v %#v", o, &o, o), fmt.Sprintf("%v %+v %#v", o.Auth, &o.Auth, o.Auth)} {
		if strings.Contains(text, secret) {
			t.Errorf("it prints %s", text)
		}
	}
}

// What NATS refuses is an error that says what to change.
func TestRefusals(t *testing.T) {
	t.Parallel()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := kp.PublicKey()
	seed, _ := kp.Seed()
	seedFile, notSeed := filepath.Join(t.TempDir(), "seed"), filepath.Join(t.TempDir(), "other")
	for path, text := range map[string]string{seedFile: string(seed), notSeed: secret} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closed := natsserver.New(t, `authorization: { users: [
		{ user: me, password: "`+secret+`" },
		{ user: narrow, password: "`+secret+`", permissions: { publish: "pushit.>", subscribe: ["pushit.>", "_INBOX.>"] } },
		{ nkey: `+public+` }
	] }`)
	open := natsserver.New(t, "max_payload: 100000")
	for _, c := range []struct {
		what string
		at   *natsserver.Server
		o    Options
		want string
	}{
		{"no user", closed, Options{}, "does not let this node in"},
		{"a wrong password", closed, Options{Auth: Auth{User: "me", Password: secret + "!"}}, "does not let this node in"},
		{"a user with too few rights", closed, Options{Auth: Auth{User: "narrow", Password: secret}}, "needs the right"},
		{"a file that is no seed", closed, Options{Auth: Auth{NKey: notSeed}}, "has no seed"},
		{"credentials that are not there", closed, Options{Auth: Auth{Credentials: "/nowhere/creds"}}, "/nowhere/creds"},
		{"TLS where there is none", closed, Options{Auth: Auth{User: "me", Password: secret, TLS: &tls.Config{}}}, "remove tls"},
		{"replicas at a single server", open, Options{Replicas: 3}, "write replicas 1"},
		{"more than NATS can store", open, Options{MaxBytes: 1 << 42}, "smaller max_bytes"},
		{"longer messages than NATS takes", open, Options{MessageSize: 64 << 10}, "write max_payload: 139264"},
	} {
		o := c.o
		o.Hub, o.URLs, o.Log = "h", []string{c.at.URL()}, logger(t)
		err := refusal(t, o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	for _, o := range []Options{
		{Auth: Auth{User: "me", Password: secret}},
		{Auth: Auth{NKey: seedFile}},
	} {
		o.Hub, o.URLs, o.Log = "h", []string{closed.URL()}, logger(t)
		started(t, o).say(t, message("a", "1"))
	}
	long := started(t, Options{Hub: "long", URLs: []string{open.URL()}, Log: logger(t)})
	m := message("a", "1")
	m = m.By(strings.Repeat("x", 100_000))
	if _, err := long.Publish(t.Context(), m); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("a message that is too long: %v", err)
	}
}

// The rights that docs/cluster.md lists are enough.
func TestRights(t *testing.T) {
	t.Parallel()
	rights := make(map[string]string)
	for _, row := range doctable.Rows(t, "../../../docs/cluster.md", "## Who may connect") {
		rights[row[0]] = `"` + strings.Join(doctable.Codes(row[1]), `", "`) + `"`
	}
	s := natsserver.New(t, fmt.Sprintf(`authorization: { users: [
		{ user: me, password: "%s", permissions: { publish: [%s], subscribe: [%s] } },
	] }`, secret, rights["publish"], rights["subscribe"]))
	o := Options{Hub: "h", Node: "a", URLs: []string{s.URL()}, Auth: Auth{User: "me", Password: secret}, Log: logger(t)}
	a := started(t, o)
	o.Node = "b"
	b := started(t, o)
	b.say(t, message("a", "1"))
	await(t, "the message", func() bool { return a.has("1") })
	b.Bus().Handle("echo", func(_ context.Context, _ hub.NodeID, b []byte) []byte { return b })
	await(t, "an answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := a.Bus().Request(ctx, b.Bus().Self(), "echo", []byte("x"))
		return err == nil && string(got) == "x"
	})
	if err := a.fillAgain(); err != nil {
		t.Errorf("reading from the stream: %v", err)
	}
}

// fillAgain reads an entry that is here already.
func (r *replica) fillAgain() error {
	e, err := r.get(map[string]any{"seq": 1})
	if err != nil || e.seq != 1 {
		return fmt.Errorf("%v: %w", e, err)
	}
	answer, err := r.conn().Request(r.names.api+"DIRECT.GET."+r.names.stream, []byte(`{"seq":1}`), patience)
	if err == nil && answer.Header.Get("Status") != "" {
		err = errors.New(answer.Header.Get("Description"))
	}
	return err
}

// What something else has made is left alone.
func TestForeignStream(t *testing.T) {
	t.Parallel()
	s := natsserver.New(t, "")
	r := started(t, Options{Hub: "h", URLs: []string{s.URL()}, Log: logger(t)})
	var out streamInfo
	for name, c := range map[string]struct {
		config map[string]any
		want   string
	}{
		"pushit-queue": {map[string]any{"name": "pushit-queue", "subjects": []string{"pushit.queue.p.>"}, "retention": "workqueue"}, "is not one of pushit"},
		"mine":         {map[string]any{"name": "mine", "subjects": []string{"pushit.taken.>"}}, "already takes the subject"},
	} {
		if err := r.call(patience, "STREAM.CREATE."+name, c.config, &out); err != nil {
			t.Fatal(err)
		}
		hubName := map[string]string{"pushit-queue": "queue", "mine": "taken"}[name]
		err := refusal(t, Options{Hub: hubName, URLs: []string{s.URL()}, Log: logger(t)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Credentials can change while messages come and go: none is missing, or comes twice.
func TestReconnect(t *testing.T) {
	t.Parallel()
	s := natsserver.New(t, `authorization: { users: [ { user: one, password: "`+secret+`" }, { user: two, password: "`+secret+`" } ] }`)
	options := func(user, node string) Options {
		return Options{Hub: "h", Node: node, URLs: []string{s.URL()}, Auth: Auth{User: user, Password: secret}, Log: logger(t)}
	}
	a, b := started(t, options("one", "a")), started(t, options("one", "b"))
	over := make(chan struct{})
	count := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-over:
				return
			default:
			}
			a.say(t, message("a", fmt.Sprint(count)))
			count++
		}
	}()
	for i := range 4 {
		for _, r := range []*replica{a, b} {
			if err := unlessAway(func() error { return r.Reconnect(options([]string{"two", "one"}[i%2], r.options.Node)) }); err != nil {
				t.Fatal(err)
			}
			if user := r.conn().Opts.User; user != []string{"two", "one"}[i%2] {
				t.Errorf("it is %s now", user)
			}
		}
	}
	close(over)
	<-done
	for _, r := range []*replica{a, b} {
		await(t, "the last", func() bool { return r.has(fmt.Sprint(count - 1)) })
		r.mu.Lock()
		if len(r.entries) != count || len(r.byUUID) != count || len(r.epochs) != 1 {
			t.Errorf("it has %d entries, %d different, of %d", len(r.entries), len(r.byUUID), count)
		}
		r.mu.Unlock()
	}
	wrong := options("one", "a")
	wrong.Password = "wrong"
	if err := unlessAway(func() error { return a.Reconnect(wrong) }); err == nil || !strings.Contains(err.Error(), "does not let this node in") {
		t.Errorf("with a wrong password: %v", err)
	}
	a.say(t, message("a", "still connected"))
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Prefix = "other" }, "the prefix"},
		{func(o *Options) { o.Domain = "other" }, "the JetStream domain"},
		{func(o *Options) { o.Node = "other" }, "this node is called"},
		{func(o *Options) { o.URLs = []string{"other:4222"} }, "none of these servers"},
	} {
		o := options("one", "a")
		c.change(&o)
		if err := a.Reconnect(o); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "restart the server") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
