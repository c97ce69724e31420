// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
)

// A machine is an endpoint whose hub is a node of a cluster.
type machine struct {
	*brokertest.Node
	e    *Endpoint
	s    *httptest.Server
	gate *gate
}

// machines are behind a proxy that passes each request to any of them.
type machines struct {
	t   *testing.T
	all []*machine
	// choose returns the machine for a request; nil goes round.
	choose func(r *http.Request) int
	next   atomic.Int32
	log    logBuffer
}

// newMachines starts n machines. change may change each endpoint.
func newMachines(t *testing.T, n int, p hub.Policy, change func(*Endpoint)) *machines {
	t.Helper()
	m := &machines{t: t}
	c := brokertest.NewCluster()
	log := slog.New(slog.NewTextHandler(&m.log, nil))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the machines have logged:\n", m.log.String())
		}
	})
	for i := range n {
		node := c.Node(string(rune('a' + i)))
		h, err := hub.New("test", node)
		if err != nil {
			t.Fatal(err)
		}
		policy := p
		policy.Mount, policy.Log = "test", log
		if policy.Handshake == 0 {
			policy.Handshake = time.Hour
		}
		e := &Endpoint{
			Hub: h, Policy: h.Use(&policy), Sessions: NewSessions(), Transports: AllTransports, times: calmTimes(),
			Caller: func(r *http.Request) Caller {
				return Caller{Scheme: "http", Host: r.Host, User: r.Header.Get("Test-User")}
			},
			Opening: func(r *http.Request) (hub.Opening, *hub.Refusal) {
				return hub.Opening{
					Scheme: "http", Host: r.Host, User: r.Header.Get("Test-User"), RemoteIP: netip.MustParseAddrPort(r.RemoteAddr).Addr(),
					Header: hub.HeaderBlock(func(yield func(name, value string) bool) {
						for _, name := range []string{"Cookie", "Authorization", "Origin"} {
							for _, value := range r.Header[name] {
								if !yield(name, value) {
									return
								}
							}
						}
					}),
				}, nil
			},
		}
		if change != nil {
			change(e)
		}
		e.Sessions.Join(h)
		s := httptest.NewUnstartedServer(handler(e))
		g := &gate{Listener: s.Listener}
		s.Listener, s.Config.ConnContext = g, ConnContext
		s.Start()
		m.all = append(m.all, &machine{node, e, s, g})
		t.Cleanup(func() {
			h.Drain(time.Second)
			h.Close()
			s.CloseClientConnections()
			s.Close()
		})
	}
	return m
}

// A logBuffer has what was logged so far. Sessions that end may still log while a test reads it.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// RoundTrip implements http.RoundTripper.
func (m *machines) RoundTrip(r *http.Request) (*http.Response, error) {
	i := int(m.next.Add(1)) % len(m.all)
	if m.choose != nil {
		i = m.choose(r)
	}
	return m.all[i].roundTrip(r)
}

func (a *machine) roundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	at, err := url.Parse(a.s.URL)
	if err != nil {
		return nil, err
	}
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	r.URL.Host = at.Host
	return http.DefaultTransport.RoundTrip(r)
}

// client returns the client of a session, whose requests go where choose says.
func (m *machines) client(t *testing.T) *sockJSClient {
	c := newSockJSClient(t, m.all[0].s)
	c.HTTP = &http.Client{Transport: m}
	c.URL = strings.Replace(c.URL, m.all[0].s.URL, "http://site.example", 1)
	return c
}

// at returns another client of the session of c, whose requests go to one machine.
func (m *machines) at(i int, c *sockJSClient) *sockJSClient {
	other := newSockJSClient(c.t, m.all[0].s)
	other.HTTP, other.URL, other.Header = &http.Client{Transport: only{m.all[i]}}, c.URL, c.Header.Clone()
	return other
}

type only struct{ *machine }

func (o only) RoundTrip(r *http.Request) (*http.Response, error) { return o.roundTrip(r) }

// A session is one session at any machine, over each transport: nothing is lost, doubled or
// reordered, whatever its size.
func TestSessionsAtAnyMachine(t *testing.T) {
	t.Parallel()
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachines(t, 3, hub.Policy{Limits: hub.Limits{MessageSize: 2 << 20, QueueBytes: 16 << 20}}, nil)
			c := m.client(t)
			c.connect(name)
			agents := 0
			for _, a := range m.all {
				agents += a.e.Hub.Agents()
			}
			if agents != 1 {
				t.Errorf("one session has %d agents", agents)
			}
			var want []string
			for n := range 30 {
				data := fmt.Sprint(n)
				if n == 15 { // larger than a message of the Bus, with characters that grow
					data = strings.Repeat(fmt.Sprint("<", n), 150_000)
				}
				text, err := json.Marshal(data)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, string(text))
				if n%2 == 0 {
					c.publish(data)
					continue
				}
				body := jsonArray(publication(t, data))
				if status, answer, h := c.ask(http.MethodPost, "/jsonp_send", body); status != http.StatusOK || answer != "ok" || h.Get("Cache-Control") != noCache {
					t.Fatalf("jsonp_send: status %d, %q", status, answer)
				}
			}
			got := c.messages(name, len(want))
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("message %d is %s, want %s", i, shorten([]byte(got[i])), shorten([]byte(want[i])))
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d messages came, want %d", len(got), len(want))
			}
			relays := 0
			for _, a := range m.all {
				relays += len(a.e.Sessions.homes.known)
			}
			if relays != 2 {
				t.Errorf("%d machines know where the session is, want 2", relays)
			}
		})
	}
}

// Responses look the same, whatever machine they come from.
func TestRelayedResponses(t *testing.T) {
	t.Parallel()
	for _, name := range fallbackNames {
		m := newMachines(t, 2, hub.Policy{}, nil)
		c := m.client(t)
		m.choose = func(*http.Request) int { return 0 }
		c.connect(name)
		c.finishOrAbort(name)
		other := m.at(1, c)
		c.publish("x")
		other.receiveOver(name)
		resp := other.response()
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != framings[name].contentType || resp.Header.Get("Cache-Control") != noCache {
			t.Errorf("%s: status %d, %v", name, resp.StatusCode, resp.Header)
		}
		text := other.all()
		prelude := string(appendPrelude(framings[name], "call"))
		if !strings.HasPrefix(text, prelude) || !strings.Contains(text, "a[") {
			t.Errorf("%s: got %q", name, text)
		}
	}
}

func appendPrelude(f *framing, callback string) []byte {
	if f.prelude == nil {
		return nil
	}
	return f.prelude(nil, callback)
}

// finishOrAbort ends the response of a session that goes on: a stream by its next heartbeat.
func (c *sockJSClient) finishOrAbort(name string) {
	c.t.Helper()
	for c.Receiving() {
		if framings[name].poll {
			c.finish()
			return
		}
		for range 5 {
			c.publish(strings.Repeat("x", responseLimit/4))
		}
		c.finish()
	}
}

// Requests go to machines at random, while all clients publish. Messages come in order, once,
// to everybody, and no request is refused. PUSHIT_POLLS sets how many requests to receive
// there are at least: 20,000 takes a few minutes.
func TestRandomPolls(t *testing.T) {
	t.Parallel()
	const clients = 6
	target := int64(600)
	if text := os.Getenv("PUSHIT_POLLS"); text != "" {
		var err error
		if target, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("PUSHIT_POLLS: %v", err)
		}
	}
	m := newMachines(t, 3, hub.Policy{Limits: hub.Limits{PublishesPerSecond: 1000, FramesPerSecond: 1000}}, nil)
	var polls, sends atomic.Int64
	m.choose = func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "_send") {
			sends.Add(1)
		} else {
			polls.Add(1)
		}
		return rand.IntN(3)
	}
	var joined, all sync.WaitGroup
	joined.Add(clients)
	for n := range clients {
		all.Go(func() {
			c := m.client(t)
			name := []string{"xhr", "jsonp", "eventsource"}[n%3]
			c.connect(name)
			joined.Done()
			joined.Wait() // so each gets all messages
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for i, last := 0, false; !last; i++ {
					last = polls.Load() >= target
					c.publish(fmt.Sprintf("%d/%d/%t", n, i, last))
				}
			}()
			next := make([]int, clients)
			for ended := 0; ended < clients; {
				for _, d := range c.messages(name, 1) {
					var from, i int
					var last bool
					if _, err := fmt.Sscanf(d, `"%d/%d/%t"`, &from, &i, &last); err != nil {
						t.Errorf("got %s", d)
						return
					}
					if i != next[from] {
						t.Errorf("client %d got %d/%d, want %d", n, from, i, next[from])
					}
					next[from] = i + 1
					if last {
						ended++
					}
				}
			}
			<-sent
		})
	}
	all.Wait()
	t.Logf("%d requests to receive and %d to send at 3 machines", polls.Load(), sends.Load())
}

// post sends a body over a machine, and returns the status and how long it took.
func (c *sockJSClient) post(query, body string) (status int, answer string, took time.Duration) {
	c.t.Helper()
	begun := time.Now()
	status, answer, _ = c.ask(http.MethodPost, query, body)
	return status, answer, time.Since(begun)
}

// A session whose machine is gone is gone: 404 at once. While a machine hangs, or is cut off,
// the answer is 503 after a second, and 404 when its heartbeats are missed. A request to
// receive without a number, or with the first, then begins a new session.
func TestHomesThatFail(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(a *machine, fails bool){
		"killed":  func(a *machine, _ bool) { a.Kill() },
		"hung":    func(a *machine, fails bool) { a.Hang(fails) },
		"cut off": func(a *machine, fails bool) { a.CutBus(fails) },
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " known ", known), func(t *testing.T) {
				t.Parallel()
				m := newMachines(t, 2, hub.Policy{}, nil)
				m.choose = func(*http.Request) int { return 0 }
				c := m.client(t)
				c.connect("xhr")
				c.finish()
				other := m.at(1, c)
				if known {
					other.publish("x")
				}
				failed := time.Now()
				fail(m.all[0], true)
				m.all[1].e.times.relay = relayPatience // no request is under way
				body := jsonArray(publication(t, "y"))
				for n, query := range []string{"/xhr_send", "/xhr?n=7"} {
					status, answer, took := other.post(query, body)
					if status == http.StatusNotFound && name != "killed" && (n > 0 || time.Since(failed) > hub.BusTimeout/2) {
						break // the others know by now that it is down
					}
					if name == "killed" {
						if status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
							t.Errorf("%s to a machine that is gone: %d %q after %v", query, status, answer, took)
						}
						continue
					}
					if status != http.StatusServiceUnavailable || answer != errHome.reason+"\n" || took < relayPatience/2 {
						t.Errorf("%s to a machine that is silent: %d %q after %v", query, status, answer, took)
					}
				}
				for _, query := range []string{"/xhr_send", "/xhr?n=7"} {
					for late := time.Now().Add(patience); ; {
						status, answer, _ := other.post(query, body)
						if status == http.StatusNotFound {
							break
						}
						if status != http.StatusServiceUnavailable || time.Now().After(late) {
							t.Fatalf("%s: %d %q", query, status, answer)
						}
					}
				}
				other.receiveOver("xhr")
				if f := other.frame(); f != "o" {
					t.Errorf("a new session begins with %q", f)
				}
				other.send(metaConnect)
				if n := m.all[1].e.Hub.Agents(); n != 1 {
					t.Errorf("the other machine has %d sessions", n)
				}
				if name == "killed" {
					return
				}
				// The session that was given up ends when its home is back, and not when it expires.
				fail(m.all[0], false)
				waitFor(t, "the home to end a session that was given up", func() bool { return m.all[0].e.Hub.Agents() == 0 })
			})
		}
	}
}

// A client that is told that there is no such session gives it up, though a machine has it that
// is cut off, or that the others do not know yet. That machine hears of it when it is there.
func TestSessionsOfMachinesThatAreDown(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known=%t", known), func(t *testing.T) { testSessionsOfMachinesThatAreDown(t, known) })
	}
}

func testSessionsOfMachinesThatAreDown(t *testing.T, known bool) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	m.all[0].CutBus(true)
	m.all[1].e.times.relay = relayPatience // no request is under way
	other := m.at(1, c)
	waitFor(t, "the machine to be down", func() bool {
		status, _, _ := other.post("/xhr_send", jsonArray(publication(t, "y")))
		return status == http.StatusNotFound
	})
	if ab := &m.all[1].e.Sessions.abandonments; !known {
		ab.mu.Lock()
		clear(ab.nodes)
		ab.mu.Unlock()
	}
	if status, answer, _ := other.post("/xhr?n=7", ""); status != http.StatusNotFound {
		t.Errorf("a request to receive: %d %q", status, answer)
	}
	m.all[0].CutBus(false)
	waitFor(t, "the agent to be gone", func() bool { return m.all[0].e.Hub.Agents() == 0 })
}

// A session belongs to who has opened it, at every machine, whatever a request claims (R54).
func TestRelayedClaims(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, func(e *Endpoint) { e.SessionCookies = []string{"login", stickyCookie} })
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.Header = http.Header{"Test-User": {"ann"}, "Cookie": {"login=s3cret; other=1"}, "Authorization": {"Bearer s3cret"}}
	c.connect("xhr")
	c.finish()
	body := jsonArray(publication(t, "stolen"))
	for what, change := range map[string]func(*sockJSClient){
		"another user":          func(c *sockJSClient) { c.Header.Set("Test-User", "eve") },
		"nobody":                func(c *sockJSClient) { c.Header.Del("Test-User") },
		"another cookie":        func(c *sockJSClient) { c.Header.Set("Cookie", "login=guessed") },
		"no cookie":             func(c *sockJSClient) { c.Header.Del("Cookie") },
		"two cookies":           func(c *sockJSClient) { c.Header.Set("Cookie", "login=s3cret; login=x") },
		"another authorization": func(c *sockJSClient) { c.Header.Set("Authorization", "Bearer x") },
		"another host":          func(c *sockJSClient) { c.Host = "other.example" },
		"what machines say": func(c *sockJSClient) {
			c.Header = http.Header{}
			owned := m.all[0].e.Sessions.all()[0].owner
			text, _ := owned.MarshalText()
			c.Header.Set("Pushit-Owner", string(text))
			c.Header.Set("Claim", `{"owner":"`+string(text)+`"}`)
			c.URL += "/../" + string(text)
			c.URL = strings.TrimSuffix(c.URL, "/../"+string(text))
		},
	} {
		thief := m.at(1, c)
		change(thief)
		for _, query := range []string{"/xhr_send", "/jsonp_send", "/xhr", "/xhr?n=2"} {
			if status, answer, _ := thief.post(query, body); status != http.StatusNotFound || answer != errUnknown.reason+"\n" {
				t.Errorf("%s: %s: status %d, %q", what, query, status, answer)
			}
		}
	}
	friend := m.at(1, c)
	friend.Header.Set("Cookie", "other=2; login=s3cret; JSESSIONID=x")
	friend.publish("mine")
	if got := friend.messages("xhr", 1); got[0] != `"mine"` {
		t.Errorf("got %q", got)
	}
	m.all[1].e.Hub.Close() // it logs no more
	if log := m.log.String(); !strings.Contains(log, "cookies=[login]") || strings.Contains(log, "s3cret") || strings.Contains(log, "guessed") {
		t.Errorf("the log has %q", log)
	}
}

// Repeats count over machines: a body is taken once, and a frame that may be lost ends the
// session (R52, R53).
func TestRelayedRepeats(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 3, hub.Policy{}, nil)
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	for n := 1; n <= 4; n++ {
		body := jsonArray(fmt.Sprintf(`{"channel":"room","uuid":"u%d","data":%d}`, n, n))
		for range len(m.all) {
			if status, answer, _ := c.post(fmt.Sprint("/xhr_send?n=", n), body); status != http.StatusNoContent {
				t.Fatalf("send %d: status %d, %s", n, status, answer)
			}
		}
	}
	acknowledged := 0
	for acknowledged < 4 {
		for _, o := range c.receive("xhr") {
			if strings.Contains(o, "/meta/successful") {
				acknowledged++
			}
		}
	}
	c.finish()
	c.publish("after")
	for _, o := range c.receive("xhr") {
		if strings.Contains(o, `"uuid":"u`) {
			t.Errorf("a repeat was taken: %s", o)
		}
	}
	c.finish()
	home := slices.IndexFunc(m.all, func(a *machine) bool { return a.e.Hub.Agents() == 1 })
	others := []*sockJSClient{m.at((home+1)%3, c), m.at((home+2)%3, c)}
	others[0].publish("x")
	if status, answer, _ := others[0].post("/xhr?n=5", ""); status != http.StatusOK || answer[0] != 'a' {
		t.Errorf("receiving: %d %q", status, answer)
	}
	interruptedFrame := closeFrame(closeInterrupted, interrupted) + "\n"
	if status, answer, _ := others[1].post("/xhr?n=5", ""); status != http.StatusOK || answer != interruptedFrame {
		t.Errorf("a repeat at another machine: %d %q", status, answer)
	}
	for _, q := range []string{"/xhr?n=6", "/xhr_send"} {
		want, text := http.StatusOK, interruptedFrame
		if q == "/xhr_send" {
			want, text = http.StatusNotFound, errUnknown.reason+"\n"
		}
		if status, answer, _ := others[0].post(q, `["x"]`); status != want || answer != text {
			t.Errorf("%s after the end: %d %q", q, status, answer)
		}
	}
}

// attached returns the response of the only session of a machine, nil if there is none.
func (a *machine) attached() *response {
	s := a.e.Sessions.all()[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.response
}

// A client that leaves, or a machine that dies, while it waits for a frame ends the session:
// nobody can tell whether a frame was lost.
func TestRelayedRequestsThatAreGivenUp(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(m *machines, c *sockJSClient){
		"the client leaves":     func(_ *machines, c *sockJSClient) { c.abort() },
		"the machine is killed": func(m *machines, _ *sockJSClient) { m.all[1].Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachines(t, 3, hub.Policy{}, nil)
			m.choose = func(*http.Request) int { return 0 }
			c := m.client(t)
			c.connect("xhr")
			c.finish()
			other := m.at(1, c)
			other.receiveOver("xhr")
			waitFor(t, "the response to be attached", func() bool { r := m.all[0].attached(); return r != nil && r.isReady() })
			lose(m, other)
			third := m.at(2, c)
			if status, answer, _ := third.post("/xhr", ""); status != http.StatusOK || answer != closeFrame(closeInterrupted, interrupted)+"\n" {
				t.Errorf("the next request is told %d %q", status, answer)
			}
			waitFor(t, "the agent to be gone", func() bool { return m.all[0].e.Hub.Agents() == 0 })
		})
	}
}

// A machine that hangs may hear that a client has given up a request before it hears of the
// request. It takes that for the end of the session, but not if the request has come before.
func TestRequestsThatAreGivenUpBeforeTheyCome(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	c.publish("1") // so that there is a frame
	if status, _, _ := c.post("/xhr?n=5", ""); status != http.StatusOK {
		t.Fatal(status)
	}
	session := m.all[0].e.Sessions.all()[0]
	ended := func() bool {
		session.mu.Lock()
		defer session.mu.Unlock()
		return session.bye != ""
	}
	by := claimant{r: &http.Request{Header: http.Header{}}, caller: Caller{Scheme: "http", Host: "site.example"}}
	giveUp := func(number int64) {
		rl, wrong := m.all[1].e.relayTo(httptest.NewRequest(http.MethodPost, "/", nil), session.key, &by, relayReceive, number, false)
		if wrong != nil || rl == nil {
			t.Fatal(wrong)
		}
		rl.written(false, "the client cancelled the request")
	}
	for _, number := range []int64{0, 1, 5} {
		if giveUp(number); ended() {
			t.Fatalf("request %d has ended the session", number)
		}
	}
	if giveUp(6); !ended() {
		t.Error("the session goes on")
	}
}

// The home keeps a frame until it hears that the other machine has written it. It does not
// take silence for that.
func TestRelayedFramesThatAreNotWritten(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, nil)
	m.all[0].e.times.write, m.all[0].e.times.relay = 3*time.Second, time.Millisecond // how long the home waits
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	e := m.all[1].e
	by := claimant{r: &http.Request{Header: http.Header{}}, caller: Caller{Scheme: "http", Host: "site.example"}}
	key := m.all[0].e.Sessions.all()[0].key
	ask := func() (*relay, string) {
		rl, wrong := e.relayTo(httptest.NewRequest(http.MethodPost, "/", nil), key, &by, relayReceive, 0, false)
		if wrong != nil || rl == nil {
			t.Fatal(wrong)
		}
		a, frame, err := rl.await(t.Context(), nil)
		if err != nil || a.Status != 0 || a.Total != len(frame) {
			t.Fatalf("%+v, %v", a, err)
		}
		return rl, string(frame)
	}
	c.publish("1")
	rl, first := ask()
	if _, again, err := rl.await(t.Context(), nil); err != nil || string(again) != first || first[0] != 'a' {
		t.Errorf("the frame is %q, asked again %q, %v", first, again, err)
	}
	if r := m.all[0].attached(); r == nil {
		t.Error("the response is over before it was written")
	}
	rl.written(true, "")
	rl.written(false, "a repeat that contradicts")
	if r := m.all[0].attached(); r != nil {
		t.Error("the response goes on")
	}
	c.publish("2")
	if _, frame := ask(); frame[0] != 'a' {
		t.Errorf("got %q", frame)
	}
	// Nobody says that it was written.
	waitFor(t, "the agent to be gone", func() bool { return m.all[0].e.Hub.Agents() == 0 })
	if status, answer, _ := m.at(1, c).post("/xhr", ""); status != http.StatusOK || answer != closeFrame(closeInterrupted, interrupted)+"\n" {
		t.Errorf("the next request is told %d %q", status, answer)
	}
	for _, a := range m.all {
		waitFor(t, "all relays to be forgotten", func() bool {
			a.e.Sessions.relays.mu.Lock()
			defer a.e.Sessions.relays.mu.Unlock()
			return len(a.e.Sessions.relays.byID)+len(a.e.Sessions.relays.passing) == 0
		})
	}
}

// Machines that stop end the responses that they relay; the sessions go on.
func TestMachinesThatStopEndRelays(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 3, hub.Policy{Heartbeat: time.Hour}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	other := m.at(1, c)
	other.receiveOver("xhr_streaming")
	waitFor(t, "the response to be attached", func() bool { r := m.all[0].attached(); return r != nil && r.isReady() })
	m.all[1].e.Hub.Drain(time.Second)
	for {
		f := other.frame()
		if f == "" {
			break
		}
		if f[0] == 'c' {
			t.Errorf("the session has ended: %s", f)
		}
	}
	third := m.at(2, c)
	third.publish("x")
	if got := third.messages("xhr", 1); got[0] != `"x"` {
		t.Errorf("got %q", got)
	}
}

// A relayed response lasts half a heartbeat, or as long as the server lets responses live.
func TestRelayedResponsesEnd(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Endpoint){
		"heartbeat":     nil,
		"response time": func(e *Endpoint) { e.ResponseTime = 100 * time.Millisecond },
	} {
		p := hub.Policy{Heartbeat: time.Hour}
		if change == nil {
			p.Heartbeat = 4 * time.Second // after half of it, a client on a busy machine has five seconds before it looks silent
		}
		m := newMachines(t, 2, p, change)
		m.choose = func(*http.Request) int { return 0 }
		c := m.client(t)
		c.connect("xhr")
		c.finish()
		other := m.at(1, c)
		for f := range 2 {
			if status, answer, _ := other.post("/xhr", ""); status != http.StatusOK || answer != "h\n" {
				t.Errorf("%s: response %d is %d %q", name, f, status, answer)
			}
		}
	}
}

// What holds at the session's machine when a frame is handed over decides: a reload there
// takes rights away, also for what waits.
func TestReloadsAtTheHomeRevoke(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	other := m.at(1, c)
	if _, err := m.all[1].e.Hub.Publish(t.Context(), hub.NewMessage("room", "secret", []byte(`"secret"`))); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the message to wait", func() bool {
		page, err := m.all[0].e.Hub.Operator().Agents(t.Context(), hub.AgentQuery{})
		return err == nil && len(page.Agents) == 1 && page.Agents[0].QueuedFrames > 0
	})
	h, old := m.all[0].e.Hub, m.all[0].e.Policy
	h.Use(&hub.Policy{Mount: "test", Gates: denyRoom{}})
	<-h.Drop(old).Done()
	got := other.receive("xhr")
	for _, o := range got {
		if strings.Contains(o, "secret") {
			t.Errorf("got %s", o)
		}
	}
	if len(got) != 1 || !strings.Contains(got[0], "/meta/unsubscribe") {
		t.Errorf("got %q", got)
	}
}

// denyRoom are Gates that deny subscribes.
type denyRoom struct{}

func (denyRoom) Gate(name hub.GateName, _ string) hub.Gate {
	if name == hub.GateSubscribe {
		return denying{}
	}
	return nil
}

func (g denyRoom) Pattern(p string) (hub.Gate, *hub.Refusal) {
	return g.Gate(hub.GateSubscribe, p), nil
}
func (denyRoom) DeliverGate(string) hub.DeliverGate { return nil }

type denying struct{}

func (denying) Timeout() time.Duration { return 0 }
func (denying) Local() bool            { return true }
func (denying) Decide(context.Context, *hub.Question) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "no longer"}}
}

// Relays are limited, at both sides.
func TestRelayLimits(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{Limits: smallLimits}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	other := m.at(1, c)
	for name, want := range map[string]int{strings.Repeat("x", 10_000): http.StatusRequestEntityTooLarge, "": http.StatusNoContent} {
		if status, answer, _ := other.post("/xhr_send", jsonArray(publication(t, name))); status != want {
			t.Errorf("a body: %d %q", status, answer)
		}
	}
	for body, want := range map[string]int{"": 400, "[1]": 400, "[" + strings.Repeat(`"",`, maxStrings) + `""]`: 413} {
		if status, answer, _ := other.post("/xhr_send", body); status != want {
			t.Errorf("a body: %d %q, want %d", status, answer, want)
		}
	}
	if status, answer, _ := other.post("/xhr_send?n=0", "[]"); status != 400 {
		t.Errorf("a wrong number: %d %q", status, answer)
	}
	// The other machine relays too many.
	homes := m.all[1].e.Sessions.homes
	for range maxRelayed {
		homes.relayed <- struct{}{}
	}
	for _, query := range []string{"/xhr_send", "/xhr"} {
		if status, answer, h := other.ask(http.MethodPost, query, "[]"); status != 503 || answer != errRelay.reason+"\n" || h.Get("Retry-After") != "1" {
			t.Errorf("%s beyond the limit: %d %q", query, status, answer)
		}
	}
	for range maxRelayed {
		<-homes.relayed
	}
	// The home takes too many.
	rs := &m.all[0].e.Sessions.relays
	rs.mu.Lock()
	for i := range maxRelays {
		rs.byID[relayID{id: fmt.Sprint(i)}] = nil
	}
	rs.mu.Unlock()
	for _, query := range []string{"/xhr_send", "/xhr"} {
		if status, answer, _ := other.post(query, "[]"); status != 503 || answer != errRelay.reason+"\n" {
			t.Errorf("%s beyond the limit of the home: %d %q", query, status, answer)
		}
	}
	rs.mu.Lock()
	clear(rs.byID)
	rs.mu.Unlock()
	for n := range maxHomes + 10 {
		homes.note(sessionKey{"test", fmt.Sprint(n)}, hub.NodeID{})
	}
	if n := len(homes.known); n > maxHomes {
		t.Errorf("%d homes are remembered", n)
	}
}

// What comes over the Bus may be of another version, or broken.
func FuzzRelays(f *testing.F) {
	f.Add([]byte(`{"id":"1","do":"receive","mount":"test","session":"eA=="}`+"\n"), "1")
	f.Add([]byte(`{"id":"1","do":"send","mount":"test","session":"eA==","total":-1,"offset":-5}`+"\nx"), "1")
	f.Add([]byte(`{"id":"1","do":"written"}`), "")
	ss := NewSessions()
	h, err := hub.New("test", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(h.Close)
	p := h.Use(&hub.Policy{Mount: "test"})
	a, err := h.Open(p, hub.Opening{})
	if err != nil {
		f.Fatal(err)
	}
	slow := *defaultTimes
	slow.disconnect = time.Hour
	by := claimant{r: &http.Request{Header: http.Header{}}}
	s := ss.newSession(sessionKey{"test", "x"}, by.owner(nil), nil, a, &slow)
	a.Start(s)
	ss.add(s)
	f.Fuzz(func(t *testing.T, b []byte, id string) {
		var q relayRequest
		if piece, ok := parseRelay(b, &q); ok {
			q.ID, q.Wait, q.Claim = id, 0, by.claim(nil)
			if q.Do == relayReceive {
				q.Do = relaySend // it would end the session
			}
			if answer := ss.answerRelay(t.Context(), hub.NodeID{}, appendRelay(q, piece)); answer != nil {
				var a relayAnswer
				if _, ok := parseRelay(answer, &a); !ok {
					t.Errorf("the answer is %q", answer)
				}
			}
			return
		}
		if answer := ss.answerRelay(t.Context(), hub.NodeID{}, b); answer != nil {
			t.Errorf("%q is answered %q", b, answer)
		}
	})
}

// On one machine, a request of a session costs no allocation more: nothing looks elsewhere.
func TestOneMachineRelaysNothing(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	if n := testing.AllocsPerRun(1000, func() {
		if e.Hub.Bus() != nil {
			t.Error("one machine has a Bus")
		}
	}); n != 0 {
		t.Errorf("looking for other machines takes %v allocations", n)
	}
}
