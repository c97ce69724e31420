// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/wireclient"
)

// wantSentAway checks that the session ends because the server stops, with a time to come
// back in the window for so many agents. It answers the close frame.
func (a *agent) wantSentAway(agents int) (retry time.Duration) {
	a.t.Helper()
	f := a.receive()
	from, to := hub.ComeBackWindow(agents)
	ms, _ := f["retry"].(float64)
	retry = time.Duration(ms) * time.Millisecond
	if f["channel"] != "/meta/close" || f["code"] != float64(hub.CloseUnavailable) || retry < from || retry > to {
		a.t.Errorf("got %v, want /meta/close with %d and retry from %v to %v", f, hub.CloseUnavailable, from, to)
	}
	op, payload := a.read()
	if op != wireclient.OpClose {
		a.t.Fatalf("got opcode %d and %q, want a close frame", op, payload)
	}
	a.write(wireclient.OpClose, payload[:2])
	return retry
}

// stopping stops Caddy in the background. It returns a channel that is closed at the end.
func (s *server) stopping() (stopped <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := caddy.Stop(); err != nil {
			s.t.Error(err)
		}
	}()
	return done
}

func TestStopTellsEachAgentWhenToComeBack(t *testing.T) {
	const agents = 20
	s := serve(t, "http://localhost {\n\tpushit /a {\n\t\tname a\n\t\tdrain 1m\n\t}\n\tpushit /b {\n\t\tname b\n\t\tdrain 1m\n\t}\n}\n").site("localhost")
	all := make([]*agent, agents)
	for i := range all {
		all[i] = s.connect([]string{"/a", "/b"}[i%2]+"/websocket", nil).subscribe("chat")
	}
	all[0].publish("chat", "the last word")
	stopped := s.stopping()
	slots := make(map[time.Duration]int)
	for i, a := range all {
		if i%2 == 0 {
			a.wantMessage("chat", "the last word") // before the notice
		}
		from, to := hub.ComeBackWindow(agents / 2)
		retry := a.wantSentAway(agents/2) - time.Millisecond // it was rounded up
		slots[(retry-from)*10/(to-from)]++
	}
	if len(slots) != 10 {
		t.Errorf("10 agents of each of two hubs come back in %d of 10 equal parts of the window: %v", len(slots), slots)
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("Caddy has not stopped")
	}
	for _, name := range []string{"a", "b"} {
		if n := hubpool.References(name); n != 0 {
			t.Errorf("%d references to the hub %s are left", n, name)
		}
	}
	if log := s.log(); !strings.Contains(log, "all sessions were closed") || strings.Contains(log, `"cut":1`) {
		t.Errorf("the log does not say that all went: %s", log)
	}
}

// TestStopEndsInTime has an agent that does not answer.
func TestStopEndsInTime(t *testing.T) {
	const grace = 2 * time.Second
	s := serve(t, fmt.Sprintf("{\n\tgrace_period %s\n}\nhttp://localhost {\n\tpushit\n}\n", grace)).site("localhost")
	s.connect("/push/websocket", nil)
	begun := time.Now()
	s.stop()
	// TestDrainEndsInTime has the exact time.
	if took := time.Since(begun); took > patience {
		t.Errorf("stopping took %v, with a grace period of %v", took, grace)
	}
	if log := s.log(); !strings.Contains(log, `"drain":1.5`) {
		t.Errorf("the log does not tell of a drain of three quarters of the grace period: %s", log)
	}
}

// TestShutdownDelayComesFirst: during shutdown_delay Caddy serves as usual. Agents stay,
// and others connect.
func TestShutdownDelayComesFirst(t *testing.T) {
	s := serve(t, strings.Replace(eventsSite("late", "pushit"), "{\n", "{\n\tshutdown_delay 5s\n", 1)).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("chat")
	s.elsewhere = s.addr(s.name) // unknown after Caddy has stopped
	stopped := s.stopping()
	for deadline := time.Now().Add(patience); !strings.Contains(s.log(), "shutdown scheduled") && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	b := s.connect("/push/websocket", nil)
	b.publish("chat", "still here")
	a.wantMessage("chat", "still here")
	a.wantSentAway(2)
	b.wantSentAway(2)
	<-stopped
	gone := 0
	for len(heard) > 0 {
		if strings.Contains(<-heard, "agent_disconnected") {
			gone++
		}
	}
	if gone != 2 {
		t.Errorf("%d agents of 2 were heard to go", gone)
	}
}

// TestStopDoesNotWaitForClientsThatPollNoMore has a session whose client does not poll any
// more, and one whose client has cancelled its stream.
func TestStopDoesNotWaitForClientsThatPollNoMore(t *testing.T) {
	s := serve(t, "http://localhost {\n\tpushit {\n\t\tdrain 1m\n\t}\n}\n").site("localhost")
	for _, session := range []string{"s3ss10n1/xhr", "s3ss10n2/xhr_streaming"} {
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr(s.name)+"/push/000/"+session, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = s.host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() && lines.Text() != "o" { // a prelude may come first
		}
		if lines.Text() != "o" {
			t.Fatalf("%s: status %d, %v", session, resp.StatusCode, lines.Err())
		}
		giveUp()
		_ = resp.Body.Close()
	}
	begun := time.Now()
	s.stop()
	if took := time.Since(begun); took > patience {
		t.Errorf("stopping took %v", took)
	}
	if log := s.log(); !strings.Contains(log, `"cut":0`) {
		t.Errorf("the log does not say that all were gone within the drain: %s", log)
	}
	for line := range strings.Lines(s.log()) {
		if strings.Contains(line, "http.handlers.pushit") && strings.Contains(line, "s3ss10n") {
			t.Errorf("what SockJS calls a session is in the log: %s", line)
		}
	}
}

// TestNoSessionOpensWhileTheServerStops has a backend that delays the stop, and a connection
// from before the stop.
func TestNoSessionOpensWhileTheServerStops(t *testing.T) {
	asked, hold := make(chan struct{}, 1), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	address := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-hold
		w.WriteHeader(http.StatusNoContent)
	})
	s := serve(t, withRules("default allow\ndrain 1m\ndisconnect ask "+address+" {\nuri /\n}")).site("localhost")
	a := s.connect("/push/websocket", nil)
	conn, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stopped := s.stopping()
	a.wantSentAway(1)
	<-asked
	resp := upgradeOn(t, conn)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q, want 503 and a time", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	release()
	<-stopped
}

// upgradeOn requests a WebSocket over a connection, and returns the answer.
func upgradeOn(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, resp, err := wireclient.Open(conn, &wireclient.Upgrade{Host: "localhost", Path: "/push/websocket"})
	if resp == nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}

// TestReloadClosesNoSession: Caddy emits "stopping" and shuts down servers during a
// reload, too.
func TestReloadClosesNoSession(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("chat")
	for range 3 {
		if err := s.load(reloadSite("pushit {\n\t\tdrain 2s\n\t}")); err != nil {
			t.Fatal(err)
		}
		a.publish("chat", "still here")
		a.wantMessage("chat", "still here")
	}
	s.connect("/push/websocket", nil)
}

// A hook of an old configuration may run after a new one has started.
func TestLateHookOfAnOldConfigurationClosesNoSession(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("chat")
	hubpool.DrainAll(make(chan struct{}))
	a.publish("chat", "still here")
	a.wantMessage("chat", "still here")
	s.connect("/push/websocket", nil)
	hubpool.DrainAll(caddy.ActiveContext().Done())
	if f := a.receive(); f["channel"] != "/meta/close" || f["code"] != 4503.0 {
		t.Errorf("got %v, want it sent away by the hook of its own configuration", f)
	}
}

func TestDrainHasToFitIntoTheGracePeriod(t *testing.T) {
	s := &server{t: t, logFile: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() { _ = caddy.Stop() })
	config := func(grace, drain time.Duration) error {
		c := servers(endpoint(object{"name": "a", "drain": int64(drain)}))
		at(c, "apps", "http")["grace_period"] = int64(grace)
		return s.loadJSON(c)
	}
	if err := config(5*time.Second, 5*time.Second); err == nil || !strings.Contains(err.Error(), "grace_period") || !strings.Contains(err.Error(), "write drain 3s") {
		t.Errorf("a drain as long as the grace period: %v", err)
	}
	for _, ok := range [][2]time.Duration{{5 * time.Second, 4 * time.Second}, {0, time.Minute}, {time.Second, 0}} {
		if err := config(ok[0], ok[1]); err != nil {
			t.Errorf("grace period %v, drain %v: %v", ok[0], ok[1], err)
		}
	}
	if err := config(0, time.Hour); err == nil || !strings.Contains(err.Error(), "drain must be between 1s and 1m") {
		t.Errorf("a drain of an hour: %v", err)
	}
}

// TestEndOfASessionIsLogged checks the log line, and that it shows nothing secret.
func TestEndOfASessionIsLogged(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	a, _ := s.upgrade("/push/websocket?secret=q", http.Header{"Cookie": {"session=c00kie"}})
	a.request("/meta/connect", object{"credentials": "s3cret"})
	_ = a.conn.Close()
	var line string
	for deadline := time.Now().Add(patience); line == "" && time.Now().Before(deadline); runtime.Gosched() {
		for l := range strings.Lines(s.log()) {
			if strings.Contains(l, `"msg":"agent gone"`) {
				line = l
			}
		}
	}
	for _, part := range []string{
		`"level":"info"`, `"logger":"http.handlers.pushit"`, `"agent":"`, `"agent_id":"tester"`, `"transport":"websocket"`,
		`"remote_ip":"127.0.0.1"`, `"duration":`, `"bytes_received":`, `"bytes_sent":`, `"reason":"`, `"hub":"default"`,
	} {
		if !strings.Contains(line, part) {
			t.Errorf("%s is not in the line: %s", part, line)
		}
	}
	for _, secret := range []string{"s3cret", "c00kie", "secret=q"} {
		if strings.Contains(line, secret) {
			t.Errorf("%s is in the line: %s", secret, line)
		}
	}
}
