// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A deafHandler ignores the context of its requests, as Caddy's FastCGI transport does.
type deafHandler struct {
	arrived chan struct{} // gets a value for each request
	release chan struct{} // closed to answer all
}

func (h *deafHandler) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	h.arrived <- struct{}{}
	<-h.release
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deafGuard returns an ask guard that asks a deafHandler.
func deafGuard(t *testing.T, o BackendOptions) (*Ask, *deafHandler) {
	t.Helper()
	h := &deafHandler{arrived: make(chan struct{}, 1000), release: make(chan struct{})}
	b, err := newBackend(o, &upstream.Reach{Texts: []json.RawMessage{json.RawMessage(`{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	return &Ask{handlerGuard: handlerGuard{handler: h, backend: b}}, h
}

// askingHub connects agents to a hub whose subscribe gate is g.
func askingHub(t *testing.T, env *Env, g Guard, timeout time.Duration, agents int) (connected []*hub.Agent, conns []*hubtest.Conn) {
	t.Helper()
	gate := gateOf(g)
	gate.Timeout = timeout
	p, err := Compile(PolicyConfig{Gates: map[hub.GateName]*GateConfig{hub.GateSubscribe: gate}, Default: DefaultAllow}, env)
	if err != nil {
		t.Fatal(err)
	}
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	policy := h.Use(&hub.Policy{Mount: "test", Gates: p})
	for range agents {
		a, err := h.Open(policy, hub.Opening{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Left("the test is over") })
		c := hubtest.NewConn()
		a.Start(c)
		a.Receive([]byte(`{"channel":"/meta/connect","uuid":"c","agentId":"a"}`))
		connected, conns = append(connected, a), append(conns, c)
	}
	return connected, conns
}

// A question to a backend that does not answer costs one goroutine.
func TestAQuestionTakesOneGoroutine(t *testing.T) {
	const questions = 50
	g, h := deafGuard(t, BackendOptions{})
	agents, _ := askingHub(t, testEnv(), g, time.Minute, questions)
	before := runtime.NumGoroutine()
	for i, a := range agents {
		a.Receive(fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"c%d"}}`, i))
	}
	for range questions {
		<-h.arrived
	}
	// Other goroutines come and go, so look at the least.
	least := 1 << 20
	for deadline := time.Now().Add(10 * time.Second); least > questions && time.Now().Before(deadline); runtime.Gosched() {
		least = min(least, runtime.NumGoroutine()-before)
	}
	t.Logf("%d questions in flight take %d goroutines", questions, least)
	if least > questions+questions/10 {
		t.Errorf("%d questions in flight take %d goroutines", questions, least)
	}
	close(h.release)
}

// subscribeTo subscribes to a channel and returns the answer.
func subscribeTo(t *testing.T, a *hub.Agent, c *hubtest.Conn, channel string) string {
	t.Helper()
	c.Lines()
	a.Receive(fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":"s-%s","data":{"channel":%q}}`, channel, channel))
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); c.AwaitWrite(100 * time.Millisecond) {
		for _, line := range c.Lines() {
			if strings.Contains(line, "s-"+channel) {
				return line
			}
		}
	}
	t.Fatalf("there is no answer about %s", channel)
	return ""
}

// A backend that ignores its context delays no answer, and the operator is told once.
func TestALateAnswerIsGivenInTime(t *testing.T) {
	g, h := deafGuard(t, BackendOptions{})
	var log syncBuffer
	env := testEnv()
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	agents, conns := askingHub(t, env, g, 20*time.Millisecond, 1)
	if line := subscribeTo(t, agents[0], conns[0], "late"); !strings.Contains(line, reasonUnavailable) {
		t.Errorf("the agent is told %s", line)
	}
	close(h.release)
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		// Once the first question is over, the next one gets an answer.
		if line := subscribeTo(t, agents[0], conns[0], "next"); strings.Contains(line, `"successful":true`) || strings.Contains(line, "/meta/successful") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the agent is told %s", line)
		}
	}
	if n := strings.Count(log.String(), "channel=late"); n != 1 || !strings.Contains(log.String(), "no answer in time") {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

// In any, a late answer is not the last word.
func TestAnyGoesOnAfterALateAnswer(t *testing.T) {
	g, h := deafGuard(t, BackendOptions{})
	defer close(h.release)
	agents, conns := askingHub(t, testEnv(), &Any{guards: named(g, always{Kind: Pass})}, 20*time.Millisecond, 1)
	if line := subscribeTo(t, agents[0], conns[0], "news"); strings.Contains(line, reasonUnavailable) {
		t.Errorf("the agent is told %s", line)
	}
}

// A syncBuffer is a buffer that several goroutines use.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
