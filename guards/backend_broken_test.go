// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// answering returns a backend that answers with that status, media type and body.
func answering(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // the client may have left
	}
}

// Each guard that asks sees the same backend.
func TestBackends(t *testing.T) {
	megabyte := strings.Repeat("x", 1<<20)
	page := "<!doctype html><title>Shop</title>"
	with := func(name, value string, f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, value)
			f(w, r)
		}
	}
	for _, test := range []struct {
		what    string
		backend http.HandlerFunc
		// the answers of forward_auth, ask, a route with forward_auth and a route with
		// reverse_proxy
		forwardAuth, ask, route, proxy Kind
		retry                          time.Duration
	}{
		{"204", statusOnly(204), Pass, Pass, Pass, Deny, 0},
		{"200 and nothing", statusOnly(200), Pass, Unavailable, Pass, Deny, 0},
		{"200 and {}", answering(200, "application/json", "{}"), Pass, Pass, Pass, Deny, 0},
		{"200 and a page", answering(200, "text/html; charset=utf-8", page), Pass, Unavailable, Pass, Deny, 0},
		{"200 and a page that says it is JSON", answering(200, "application/json", page), Pass, Unavailable, Pass, Deny, 0},
		{"200 and JSON that says it is a page", answering(200, "text/html", "{}"), Pass, Unavailable, Pass, Deny, 0},
		{"200 and 1 MB", answering(200, "application/json", megabyte), Pass, Unavailable, Pass, Unavailable, 0},
		{"201", answering(201, "application/json", "{}"), Pass, Unavailable, Pass, Deny, 0},
		{"206", answering(206, "application/json", "{}"), Pass, Unavailable, Pass, Deny, 0},
		{"301", with("Location", "/login", statusOnly(301)), Deny, Deny, Deny, Deny, 0},
		{"302", with("Location", "https://login.example.com/", answering(302, "text/html", page)), Deny, Deny, Deny, Deny, 0},
		{"304", statusOnly(304), Deny, Deny, Deny, Deny, 0},
		{"400", statusOnly(400), Deny, Deny, Deny, Deny, 0},
		{"401", with("WWW-Authenticate", "Basic", statusOnly(401)), Deny, Deny, Deny, Deny, 0},
		{"403", statusOnly(403), Deny, Deny, Deny, Deny, 0},
		{"403 and 1 MB", answering(403, "text/plain", megabyte), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"404", statusOnly(404), Deny, Deny, Deny, Deny, 0},
		{"408", statusOnly(408), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"425", statusOnly(425), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"429", with("Retry-After", "7", statusOnly(429)), Unavailable, Unavailable, Unavailable, Unavailable, 7 * time.Second},
		{"429, for long", with("Retry-After", "86400", statusOnly(429)), Unavailable, Unavailable, Unavailable, Unavailable, upstream.MaxRetry},
		{"429, nonsense", with("Retry-After", "soon", statusOnly(429)), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"429, in the past", with("Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT", statusOnly(429)), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"499", statusOnly(499), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"403 with Retry-After", with("Retry-After", "7", statusOnly(403)), Deny, Deny, Deny, Deny, 0},
		{"500", statusOnly(500), Unavailable, Unavailable, Unavailable, Unavailable, 0},
		{"503", with("Retry-After", "3", statusOnly(503)), Unavailable, Unavailable, Unavailable, Unavailable, 3 * time.Second},
		{"999", statusOnly(999), Unavailable, Unavailable, Unavailable, Unavailable, 0},
	} {
		u := newServer(t, test.backend)
		for guard, kind := range map[string]Kind{
			"forward_auth %s {\nuri /auth\n}":             test.forwardAuth,
			"ask %s {\nuri /ask\n}":                       test.ask,
			"route {\nforward_auth %s {\nuri /auth\n}\n}": test.route,
			"route {\nreverse_proxy %s\n}":                test.proxy,
		} {
			g := remoteGuardOf(t, guard, u.addr())
			a := newAsker(t, nil).ask(g, "news")
			what := test.what + ", " + strings.Fields(guard)[0] + " " + strings.Fields(guard)[2]
			wantKind(t, what, a, kind)
			if a.Kind == Unavailable && a.Retry != test.retry {
				t.Errorf("%s: retry after %v, want %v", what, a.Retry, test.retry)
			}
			if a.Kind > Pass && a.Err == nil {
				t.Errorf("%s: the operator is not told why", what)
			}
			if a.Reason != "" {
				t.Errorf("%s: the agent is told %q", what, a.Reason)
			}
		}
	}
}

var askingGuards = []string{
	"forward_auth %s {\nuri /auth\n}",
	"ask %s {\nuri /ask\n}",
	"route {\nforward_auth %s {\nuri /auth\n}\n}",
}

// Backends whose HTTP is broken.
func TestBrokenBackends(t *testing.T) {
	saying := func(text string) string {
		return rawServer(t, func(c net.Conn) {
			io.WriteString(c, text) //nolint:errcheck // the answer shows it
		})
	}
	for what, addr := range map[string]string{
		"down": "127.0.0.1:1", // nobody listens there
		"reset": rawServer(t, func(c net.Conn) {
			c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // the test shows whether it worked
		}),
		"closed":     rawServer(t, func(net.Conn) {}),
		"no HTTP":    saying("220 mail.example.com ESMTP\r\n"),
		"half":       saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nno"),
		"half chunk": saying("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nno"),
		"half head":  saying("HTTP/1.1 200 OK\r\nContent-Type: appl"),
		"endless": rawServer(t, func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(c, strings.Repeat("no ", 1000))
			}
		}),
		"switching": saying("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
	} {
		for _, guard := range askingGuards {
			a := newAsker(t, nil).ask(remoteGuardOf(t, guard, addr), "news")
			if what == "switching" && strings.HasPrefix(guard, "route") {
				wantKind(t, what+" "+guard, a, Deny) // nothing answered, and the request did not reach the end
				continue
			}
			wantKind(t, what+" "+guard, a, Unavailable)
		}
	}
	half := saying("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}")
	a := newAsker(t, nil).ask(remoteGuardOf(t, askingGuards[1], half), "news")
	wantKind(t, "half of a yes", a, Unavailable)
}

// A backend that hangs costs at most the gate's time. It notices when no agent waits any
// longer.
func TestHangingBackend(t *testing.T) {
	arrived, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	u := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	for _, guard := range askingGuards {
		g := remoteGuardOf(t, guard, u.addr())
		q := newAsker(t, nil).question(hub.GateSubscribe, "news")
		*q.Left = 20 * time.Millisecond
		a := g.Decide(t.Context(), q)
		wantKind(t, guard, a, Unavailable)
		if !errors.Is(a.Err, upstream.ErrLate) || *q.Left > 0 {
			t.Errorf("%s: %v, %v left", guard, a.Err, *q.Left)
		}

		ctx, leave := context.WithCancel(t.Context())
		answer := make(chan Answer)
		go func() { answer <- g.Decide(ctx, newAsker(t, nil).question(hub.GateSubscribe, "news")) }()
		<-arrived
		leave()
		if a := <-answer; a.Kind != Unavailable || !errors.Is(a.Err, context.Canceled) {
			t.Errorf("%s, who left: %s %v", guard, a.Kind, a.Err)
		}
		<-gone
	}
}

// comesBack asks a backend that is there, is gone, and is back. It reports whether the
// backend got its port again.
func comesBack(t *testing.T, guard string, ask *asker) bool {
	t.Helper()
	u := newServer(t, statusOnly(204))
	addr := u.addr()
	g := remoteGuardOf(t, guard, addr)
	wantKind(t, "up, "+guard, ask.ask(g, "news"), Pass)
	u.Close()
	wantKind(t, "down, "+guard, ask.ask(g, "news"), Unavailable)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	back := &httptest.Server{Listener: l, Config: &http.Server{Handler: statusOnly(204)}}
	back.Start()
	defer back.Close()
	wantKind(t, "up again, "+guard, ask.ask(g, "news"), Pass)
	return true
}

// When the backend is back, guards get answers again.
func TestBackendThatComesBack(t *testing.T) {
	ask := newAsker(t, nil)
	for _, guard := range askingGuards {
		for !comesBack(t, guard, ask) {
			t.Log("somebody else has taken the port meanwhile: once more")
		}
	}
}

// Header fields that a client forges never reach the backend as the server's own, and are
// never learned.
func TestForgedFields(t *testing.T) {
	forged := snapshotOf("Remote-User", "admin", "Remote-Group", "admin", "X-User", "admin", "Pushit-Grant", "secret/*", "Pushit-Subscribe", "secret", "Pushit-Expires", "9", "Pushit-Whatever", "x")
	u := newServer(t, statusOnly(200)) // it does not name a user
	for _, guard := range []string{
		"forward_auth %s {\nuri /auth\ncopy_headers Remote-User Remote-Role>X-User\nuser_header X-User\ncopy_headers Remote-Group\n}",
		"route {\nforward_auth %s {\nuri /auth\ncopy_headers Remote-User Remote-Role>X-User\ncopy_headers {\nRemote-Group\n}\n}\n}",
	} {
		g := remoteGuardOf(t, guard, u.addr())
		ask := newAsker(t, func(o *hub.Opening) { o.Header = forged }).learning(g)
		a := g.Decide(t.Context(), ask.question(hub.GateConnect, ""))
		wantKind(t, guard, a, Pass)
		r, _ := u.last(t)
		for name := range r.Header {
			if strings.HasPrefix(name, "Remote-") || strings.HasPrefix(name, "Pushit-") || name == "X-User" {
				t.Errorf("%s: the backend was sent %s: %s", guard, name, r.Header[name])
			}
		}
		l := a.Learned
		for _, f := range l.Header {
			if f.Value != "" {
				t.Errorf("%s: learned %v", guard, f)
			}
		}
		if l.User != "" || l.Grants != nil || l.Subscribe != nil || !l.Expires.IsZero() {
			t.Errorf("%s: learned %+v", guard, l)
		}
	}
}

// Clients choose the JSON of credentials, and an operator may use it anywhere.
func TestSmugglingThroughCredentials(t *testing.T) {
	u := newServer(t, statusOnly(204))
	g := remoteGuardOf(t, "forward_auth %s {\nuri /auth?c={pushit.agent.credentials}\nheader_up X-Credentials {pushit.agent.credentials}\n}", u.addr())
	ask := newAsker(t, nil)
	for _, credentials := range []string{
		`"x\r\nX-Role: admin\r\n\r\nGET /admin HTTP/1.1"`, "\"\r\nX-Role: admin\"", "\x00", `{"a":"&admin=1#"}`, `"{env.HOME}{http.request.header.X}"`, strings.Repeat("x", 5000),
	} {
		q := ask.question(hub.GateSubscribe, "news")
		q.Credentials = []byte(credentials)
		wantKind(t, credentials, g.Decide(t.Context(), q), Pass)
		r, _ := u.last(t)
		want := base64URL(credentials)
		if r.Header.Get("X-Role") != "" || r.Header.Get("X-Credentials") != want || r.URL.RawQuery != "c="+want || r.URL.Path != "/auth" {
			t.Errorf("%q was sent as %s %v", credentials, r.RequestURI, r.Header)
		}
	}
	if before := u.times(); before != 6 {
		t.Errorf("the backend was asked %d times, want 6", before)
	}
}

// Answers in the cache belong to one user. Two users behind one address are told apart by
// a token in the query, a cookie or a header field.
func TestCachedAnswersAreOfOneUser(t *testing.T) {
	may := func(r *http.Request) bool {
		return r.URL.Query().Get("token") == "ann" || r.Header.Get("Authorization") == "Bearer ann" || strings.Contains(r.Header.Get("Cookie"), "user=ann") || r.Header.Get("X-User") == "ann"
	}
	u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if may(r) {
			w.Header().Set("Remote-User", "ann")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	})
	for _, guard := range []string{
		"forward_auth %s {\nuri /auth?token={query.token}\nheader_up X-User {pushit.agent.user}\ncache 1h\n}",
		"forward_auth %s {\nuri /auth\nheader_up X-User {http.auth.user.id}\ncache 1h\n}",
		"ask %s {\nuri /ask\nheader_up X-User {pushit.agent.user}\ncache 1h\n}",
		"route {\nforward_auth %s {\nuri /auth\nheader_up X-User {pushit.agent.user}\n}\ncache 1h\n}",
	} {
		g := remoteGuardOf(t, guard, u.addr())
		for name, change := range map[string]func(o *hub.Opening, user string){
			"query":  func(o *hub.Opening, user string) { o.URI = "/push?token=" + user },
			"header": func(o *hub.Opening, user string) { o.Header = snapshotOf("Authorization", "Bearer "+user) },
			"cookie": func(o *hub.Opening, user string) { o.Header = snapshotOf("Cookie", "user="+user) },
			"user":   func(o *hub.Opening, user string) { o.User = user },
		} {
			ann := newAsker(t, func(o *hub.Opening) { change(o, "ann") })
			bob := newAsker(t, func(o *hub.Opening) { change(o, "bob") })
			before := u.times()
			for range 3 {
				wantKind(t, name+" ann, "+guard, ann.ask(g, "news"), Pass)
				wantKind(t, name+" bob, "+guard, bob.ask(g, "news"), Deny)
			}
			if n := u.times() - before; n != 2 {
				t.Errorf("%s: %s: asked %d times, want 2", guard, name, n)
			}
		}
	}
}

// The backend never gets more questions at once than in_flight allows.
func TestBoundOfABackend(t *testing.T) {
	const bound, questions = 8, 200
	var mu sync.Mutex
	var running, most int
	arrived, release := make(chan struct{}, questions), make(chan struct{})
	u := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		arrived <- struct{}{}
		<-release
		mu.Lock()
		running--
		mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	g := remoteGuardOf(t, "forward_auth %s {\nuri /auth\nin_flight 8\n}", u.addr())
	ask := newAsker(t, nil)
	answers := make(chan Answer)
	for i := range questions {
		go func() { answers <- ask.ask(g, fmt.Sprint("c", i)) }()
	}
	for range bound {
		<-arrived
	}
	for range questions {
		release <- struct{}{}
		wantKind(t, "one of many", <-answers, Pass)
	}
	if most != bound || u.times() != questions {
		t.Errorf("%d at once, want %d; %d questions, want %d", most, bound, u.times(), questions)
	}
}
