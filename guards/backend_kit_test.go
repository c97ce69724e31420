// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // modules in the guards of the tests

	"github.com/push-it/pushit/hub"
)

// remoteDirective is a directive that contains one guard, so that Caddy parses the guard
// with everything that directives have.
const remoteDirective = "remote_guard_of_a_test"

var (
	remoteParsedMu sync.Mutex
	remoteParsed   json.RawMessage
)

func init() {
	httpcaddyfile.RegisterHandlerDirective(remoteDirective, func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		for nesting := h.Nesting(); h.NextBlock(nesting); {
			raw, err := ParseGuard(h.WithDispenser(h.NewFromNextSegment()))
			if err != nil {
				return nil, err
			}
			remoteParsed = raw
		}
		return caddyhttp.VarsMiddleware{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder(remoteDirective, httpcaddyfile.Before, "respond")
}

// parseRemote parses a guard in a Caddyfile. The guard's first line is line 4.
func parseRemote(text string) (json.RawMessage, error) {
	remoteParsedMu.Lock()
	defer remoteParsedMu.Unlock()
	remoteParsed = nil
	config := "http://example.com {\n\t@example host example.com\n\t" + remoteDirective + " {\n" + text + "\n\t}\n}\n"
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return remoteParsed, err
}

// provisioning returns a context in which modules can be loaded.
func provisioning(t testing.TB) caddy.Context {
	t.Helper()
	parent, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	t.Cleanup(cancel)
	return ctx
}

// loadRemote provisions a guard.
func loadRemote(t testing.TB, raw json.RawMessage) (Guard, error) {
	t.Helper()
	ctx := provisioning(t)
	var config map[string]json.RawMessage
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	var name string
	if err := json.Unmarshal(config["guard"], &name); err != nil {
		t.Fatal(err)
	}
	delete(config, "guard")
	rest, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	module, err := ctx.LoadModuleByID(Namespace+"."+name, rest)
	if err != nil {
		return nil, err
	}
	return module.(Guard), nil
}

// remoteGuardOf parses and provisions a guard.
func remoteGuardOf(t testing.TB, format string, args ...any) Guard {
	t.Helper()
	raw, err := parseRemote(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	g, err := loadRemote(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// remoteHub returns a hub and one of its policies.
func remoteHub(t testing.TB) (*hub.Hub, *hub.Policy) {
	t.Helper()
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, h.Use(&hub.Policy{Mount: "test"})
}

// remoteAgent returns an agent. change changes what it has opened its session with.
func remoteAgent(t testing.TB, h *hub.Hub, p *hub.Policy, change func(*hub.Opening)) *hub.Agent {
	t.Helper()
	o := hub.Opening{
		RemoteIP: netip.MustParseAddr("192.0.2.7"), RemoteAddr: "192.0.2.7:4711", Scheme: "http", Host: "example.com", URI: "/push",
	}
	if change != nil {
		change(&o)
	}
	a, err := h.Open(p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Left("the test is over") })
	return a
}

// snapshotOf returns the header of a session, from name, value pairs.
func snapshotOf(pairs ...string) string {
	return hub.HeaderBlock(func(yield func(name, value string) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	})
}

// An asker is an agent that asks a guard questions.
type asker struct {
	t     testing.TB
	agent *hub.Agent
	env   *Env
}

// newAsker returns an asker. change changes what it has opened its session with.
func newAsker(t testing.TB, change func(*hub.Opening)) *asker {
	t.Helper()
	h, p := remoteHub(t)
	return &asker{t: t, agent: remoteAgent(t, h, p, change), env: &Env{Generation: 1, Log: slog.New(slog.DiscardHandler)}}
}

// learning adds the header fields that the guard learns to the policy.
func (a *asker) learning(g Guard) *asker {
	if l, ok := g.(HeaderLearner); ok {
		a.env.Learned = l.LearnsHeaders()
	}
	return a
}

// question returns a question about a channel. At publish it has a message.
func (a *asker) question(gate hub.GateName, channel string) *Question {
	left := time.Minute
	if gate == hub.GateConnect {
		channel = ""
	}
	q := &Question{Question: &hub.Question{Gate: gate, Agent: a.agent, Channel: channel, Identity: new(hub.Identity)}, Env: a.env, Left: &left}
	if gate == hub.GatePublish {
		q.Message = hub.NewMessage(channel, "m1", []byte(`{"text":"hello"}`))
	}
	return q
}

// ask asks a guard about a subscription.
func (a *asker) ask(g Guard, channel string) Answer {
	return g.Decide(a.t.Context(), a.question(hub.GateSubscribe, channel))
}

// wantKind checks an answer's kind.
func wantKind(t testing.TB, what string, a Answer, kind Kind) {
	t.Helper()
	if a.Kind != kind {
		t.Errorf("%s: %s (%v), want %s", what, a.Kind, a.Err, kind)
	}
}

// A server is a backend that records its requests.
type server struct {
	*httptest.Server

	mu    sync.Mutex // guards the following
	asked []*http.Request
	body  []string
}

// newServer starts a backend that answers with f.
func newServer(t testing.TB, f http.HandlerFunc) *server {
	t.Helper()
	u := new(server)
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the guard has given up the question, so nobody hears the answer
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		u.mu.Lock()
		u.asked = append(u.asked, r.Clone(context.Background()))
		u.body = append(u.body, string(body))
		u.mu.Unlock()
		f(w, r)
	}))
	t.Cleanup(u.Close)
	return u
}

// addr returns the address that it listens on.
func (u *server) addr() string { return u.Listener.Addr().String() }

// times returns the number of requests.
func (u *server) times() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// last returns the last request.
func (u *server) last(t testing.TB) (*http.Request, string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.asked) == 0 {
		t.Fatal("the upstream was not asked")
	}
	return u.asked[len(u.asked)-1], u.body[len(u.body)-1]
}

// rawServer accepts connections, reads a request from each, and passes the connection to
// f.
func rawServer(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) //nolint:errcheck // the test is over
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // f may have
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					f(c)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func statusOnly(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// says reports whether err contains text.
func says(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

func base64URL(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
