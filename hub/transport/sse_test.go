// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/wireclient"
)

// streamGates are the gates of a test. Each is nil to allow.
type streamGates struct {
	connect, subscribe, history func(ctx context.Context, channel string) hub.Verdict

	local bool // the gate history answers at once
}

type streamGate func(ctx context.Context, channel string) hub.Verdict

func (streamGate) Timeout() time.Duration { return patience }

func (g streamGate) Decide(ctx context.Context, q *hub.Question) hub.Verdict {
	return g(ctx, q.Channel)
}

type localStreamGate struct{ streamGate }

func (localStreamGate) Local() bool { return true }

func (g *streamGates) Gate(name hub.GateName, _ string) hub.Gate {
	switch {
	case name == hub.GateAPI:
		return streamGate(func(context.Context, string) hub.Verdict { return hub.Allow })
	case name == hub.GateConnect && g.connect != nil:
		return streamGate(g.connect)
	case name == hub.GateSubscribe && g.subscribe != nil:
		return streamGate(g.subscribe)
	case name == hub.GateHistory && g.history != nil && g.local:
		return localStreamGate{streamGate(g.history)}
	case name == hub.GateHistory && g.history != nil:
		return streamGate(g.history)
	}
	return nil
}

func (g *streamGates) Pattern(pattern string) (hub.Gate, *hub.Refusal) {
	return g.Gate(hub.GateSubscribe, pattern), nil
}

func (g *streamGates) DeliverGate(string) hub.DeliverGate { return nil }

// kept keeps messages of the channels below kept/.
type kept struct{ count int }

func (k kept) History(channel string) hub.HistoryRule {
	if strings.HasPrefix(channel, "kept/") {
		return hub.HistoryRule{Count: k.count, TTL: time.Hour}
	}
	return hub.HistoryRule{}
}

// A streamClient listens at /push/sse. It fails its test if it does not get what it expects.
type streamClient struct {
	*wireclient.EventReader
	t      *testing.T
	resp   *http.Response
	cancel context.CancelFunc
}

// listen asks for a stream. header has pairs.
func listen(t *testing.T, s *httptest.Server, query string, header ...string) *streamClient {
	t.Helper()
	c := askStream(t, s, query, header...)
	if c.resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(c.resp.Body)
		t.Fatalf("%s: status %d, %s", query, c.resp.StatusCode, text)
	}
	return c
}

func askStream(t *testing.T, s *httptest.Server, query string, header ...string) *streamClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/push/sse?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	c := &streamClient{EventReader: wireclient.NewEventReader(resp.Body, r.Header.Get("Last-Event-ID")), t: t, resp: resp, cancel: cancel}
	t.Cleanup(c.leave)
	return c
}

func (c *streamClient) leave() {
	c.cancel()
	_ = c.resp.Body.Close() // nothing is read any more
}

// next returns the next event, with a deadline.
func (c *streamClient) next() wireclient.Event {
	c.t.Helper()
	defer time.AfterFunc(patience, c.cancel).Stop()
	e, err := c.Next()
	if err != nil {
		c.t.Fatalf("no event: %v", err)
	}
	return e
}

func (c *streamClient) want(name, data string) wireclient.Event {
	c.t.Helper()
	e := c.next()
	if e.Name != name || e.Data != data {
		c.t.Fatalf("event %+v; want %s %q", e, name, data)
	}
	return e
}

func (c *streamClient) wantEnd() {
	c.t.Helper()
	defer time.AfterFunc(patience, c.cancel).Stop()
	if e, err := c.Next(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("event %+v, %v; want the end", e, err)
	}
}

// say publishes as a program does.
func say(t *testing.T, s *httptest.Server, channel, data string) {
	t.Helper()
	resp, err := s.Client().Post(s.URL+"/push/publish", "application/json", strings.NewReader(fmt.Sprintf(`{"channel":%q,"data":%s}`, channel, data)))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Errorf("publishing: status %d, %s", resp.StatusCode, text)
	}
}

func newStreamServer(t *testing.T, p *hub.Policy, change func(*Endpoint)) (*httptest.Server, *Endpoint) {
	t.Helper()
	if p.Gates == nil {
		p.Gates = &streamGates{}
	}
	if p.Histories == nil {
		p.Histories = kept{1000}
	}
	return newFallbackServer(t, p, change)
}

// raw reads n bytes as they are on the wire.
func (c *streamClient) raw(n int) string {
	c.t.Helper()
	defer time.AfterFunc(patience, c.cancel).Stop()
	p := make([]byte, n)
	if _, err := io.ReadFull(c.resp.Body, p); err != nil {
		c.t.Fatal(err)
	}
	return string(p)
}

// TestStreamFormats reads the bytes of each format.
func TestStreamFormats(t *testing.T) {
	s, _ := newStreamServer(t, &hub.Policy{}, nil)
	const text = `"two\r\nlines\rand\n\na \ud800 <p>:x</p>"`
	for _, tc := range []struct{ query, data, want string }{
		{"channel=a", `"plain"`, "data: plain\n\n"},
		{"channel=a", `""`, "data: \n\n"},
		{"channel=a", `" x"`, "data:  x\n\n"},
		{"channel=a", text, "data: two\ndata: lines\ndata: and\ndata: \ndata: a \ufffd <p>:x</p>\n\n"},
		{"channel=a", `{"a": [1, "x\n"]}`, `data: {"a":[1,"x\n"]}` + "\n\n"},
		{"channel=a&format=text", `5`, "data: 5\n\n"},
		{"channel=a&format=json", `"x"`, "data: \"x\"\n\n"},
		{"channel=a&format=json", text, "data: " + text + "\n\n"},
		{"channel=a&event=channel", `"x"`, "event: a\ndata: x\n\n"},
		{"channel=a&format=json&event=channel", `"x"`, "event: a\ndata: \"x\"\n\n"},
	} {
		c := listen(t, s, tc.query)
		c.raw(len("retry: 1000\n\n"))
		say(t, s, "a", tc.data)
		if got := c.raw(len(tc.want)); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.query, tc.data, got, tc.want)
		}
		c.leave()
	}
	c := listen(t, s, "channel=kept/a&format=frame&event=channel")
	begun := c.LastID
	say(t, s, "kept/a", `"x"`)
	e := c.next()
	var frame struct{ Channel, UUID, Data, Position string }
	if err := json.Unmarshal([]byte(e.Data), &frame); err != nil || frame.Channel != "kept/a" || frame.Data != "x" || frame.Position != e.ID || frame.UUID == "" || e.Name != "kept/a" {
		t.Errorf("%+v after %q, %v", e, begun, err)
	}
}

// TestStreamOpens checks the header and the beginning, and what metrics count.
func TestStreamOpens(t *testing.T) {
	s, e := newStreamServer(t, &hub.Policy{}, nil)
	c := listen(t, s, "channel=a&channel=kept/a", "Origin", "https://friend.example")
	for field, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": noCache, "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff",
		"Access-Control-Allow-Origin": "https://friend.example", "Access-Control-Allow-Credentials": "true", "Vary": "Origin",
	} {
		if got := c.resp.Header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if n := e.Hub.Stats().Agents["sse"]; n != 1 {
		t.Errorf("%d agents", n)
	}
	say(t, s, "a", "1")
	if got := c.want("message", "1"); got.ID == "" {
		t.Error("the stream has a channel with a history, and begins without an id")
	}
	if c.Retry < streamRetry || c.Retry >= streamRetry+streamRetrySpread {
		t.Errorf("retry %v", c.Retry)
	}
}

// members lists the members of all channels, whose info is "<channel>".
type members struct{}

func (members) Presence(string) *hub.PresenceRule {
	return &hub.PresenceRule{Members: 100, Info: func(q *hub.Question) ([]byte, error) { return json.Marshal(q.Channel) }}
}

// TestStreamTellsWhoIsThere: the query names the channels whose members a stream shows. The
// events are the same in each format.
func TestStreamTellsWhoIsThere(t *testing.T) {
	s, e := newStreamServer(t, &hub.Policy{Presences: members{}}, func(e *Endpoint) {
		e.Opening = func(r *http.Request) (hub.Opening, *hub.Refusal) {
			return hub.Opening{User: r.Header.Get("X-User")}, nil
		}
	})
	for n, format := range []string{"", "&format=json&event=channel", "&format=frame"} {
		of := strings.NewReplacer("ROOM", fmt.Sprint("room", n), "HALL", fmt.Sprint("hall", n)).Replace
		ann := listen(t, s, of("channel=HALL&presence=ROOM")+format, "X-User", "ann")
		ann.want(eventPresence, of(`{"channel":"ROOM","number":1,"count":1,"first":true,"members":[{"user":"ann","tabs":1,"info":"ROOM"}]}`))
		bob := listen(t, s, of("channel=ROOM&channel=HALL&presence=HALL&presence=HALL"), "X-User", "bob")
		bob.want(eventPresence, of(`{"channel":"HALL","number":1,"count":2,"first":true,"members":[{"user":"ann","tabs":1,"info":"HALL"},{"user":"bob","tabs":1,"info":"HALL"}]}`))
		ann.want(eventPresence, of(`{"channel":"ROOM","number":2,"count":2,"joined":[{"user":"bob","tabs":1,"info":"ROOM"}]}`))
		bob.leave()
		ann.want(eventPresence, of(`{"channel":"ROOM","number":3,"count":1,"left":[{"user":"bob"}]}`))
		ann.leave()
	}
	waitFor(t, "all to be gone", func() bool { stats := e.Hub.Stats(); return stats.Members == 0 && stats.Watchers == 0 })
}

// TestStreamThatMayNotSeeTheMembers: a refusal is an event, and messages come all the same.
func TestStreamThatMayNotSeeTheMembers(t *testing.T) {
	s, _ := newStreamServer(t, &hub.Policy{}, nil)
	c := listen(t, s, "presence=a")
	c.want(eventPresence, `{"channel":"a","successful":false,"error":"this channel tells nobody who is in it","code":"denied"}`)
	say(t, s, "a", "1")
	c.want("message", "1")
}

// TestStreamHeartbeats: a client that sends nothing stays, and gets a comment at each interval.
func TestStreamHeartbeats(t *testing.T) {
	s, _ := newStreamServer(t, &hub.Policy{Heartbeat: 200 * time.Millisecond}, nil)
	c := listen(t, s, "channel=a")
	c.raw(len("retry: 1000\n\n"))
	for range 8 {
		if got := c.raw(3); got != ":\n\n" {
			t.Fatalf("%q", got)
		}
	}
}

// TestStreamRefusals: before a stream begins, a refusal is a status and a sentence.
func TestStreamRefusals(t *testing.T) {
	no := func(code hub.Code, reason string, retry time.Duration) streamGate {
		return func(context.Context, string) hub.Verdict {
			return hub.Verdict{Refusal: &hub.Refusal{Code: code, Reason: reason, Retry: retry}}
		}
	}
	onlyB := func(_ context.Context, channel string) hub.Verdict {
		if channel == "b" {
			return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "this is not allowed"}}
		}
		return hub.Allow
	}
	bearer := []string{"Authorization", "Bearer x"}
	for _, tc := range []struct {
		name, query string
		gates       streamGates
		header      []string
		status      int
		sentence    string
		retryAfter  string
	}{
		{"no channel", "", streamGates{}, nil, 400, "Name at least one channel", ""},
		{"misspelt", "chanel=a", streamGates{}, nil, 400, "Name at least one channel", ""},
		{"empty", "channel=", streamGates{}, nil, 400, "missing its value", ""},
		{"no name", "channel=a//b", streamGates{}, nil, 400, "A channel's name cannot have an empty segment", ""},
		{"no pattern", "channel=a*", streamGates{}, nil, 400, "* ", ""},
		{"no query", "channel=a%zz", streamGates{}, nil, 400, "cannot be read", ""},
		{"since nothing", "channel=a&since=0", streamGates{}, nil, 400, "value of since", ""},
		{"since then", "channel=a&since=yesterday", streamGates{}, nil, 400, "value of since", ""},
		{"twice", "channel=a&since=1&since=2", streamGates{}, nil, 400, "each once", ""},
		{"both", "channel=a&since=1&last_event_id=x", streamGates{}, nil, 400, "not both", ""},
		{"long id", "channel=a", streamGates{}, []string{"Last-Event-ID", strings.Repeat("x", 129)}, 400, "at most 128", ""},
		{"format", "channel=a&format=xml", streamGates{}, nil, 400, "text, json or frame", ""},
		{"event", "channel=a&event=x", streamGates{}, nil, 400, "event must be channel", ""},
		{"no members", "channel=a&presence=", streamGates{}, nil, 400, "missing its value", ""},
		{"members of a pattern", "channel=a&presence=a/*", streamGates{}, nil, 400, "A pattern has no members", ""},
		{"members of no name", "presence=a//b", streamGates{}, nil, 400, "A channel's name cannot have an empty segment", ""},
		{"too many to show", "channel=a&presence=b&presence=c&presence=d", streamGates{}, nil, 429, "More than 3 channels for one agent", ""},
		{"too many", "channel=a&channel=b&channel=c&channel=d", streamGates{}, nil, 429, "More than 3 channels for one agent", ""},
		{"connect without credentials", "channel=a", streamGates{connect: no(hub.CodeDenied, "log in first", 0)}, nil, 401, "Log in first.", ""},
		{"connect", "channel=a", streamGates{connect: no(hub.CodeDenied, "the token is of somebody else", 0)}, bearer, 403, "The token is of somebody else.", ""},
		{"expired", "channel=a", streamGates{connect: no(hub.CodeExpired, "the token has expired", 0)}, bearer, 403, "The token has expired.", ""},
		{"no backend", "channel=a", streamGates{connect: no(hub.CodeUnavailable, "it cannot be decided now", 1500*time.Millisecond)}, nil, 503, "It cannot be decided now.", "2"},
		{"one channel", "channel=a&channel=b", streamGates{subscribe: onlyB}, nil, 403, `The channel "b": this is not allowed.`, ""},
		{"no backend for it", "channel=a", streamGates{subscribe: no(hub.CodeUnavailable, "it cannot be decided now", time.Second)}, nil, 503, `The channel "a": it cannot be decided now.`, "1"},
		{"early data", "channel=a", streamGates{}, []string{"Early-Data", "1"}, 425, "early data", ""},
		{"another site", "channel=a", streamGates{}, []string{"Origin", "https://evil.example"}, 403, "origin", ""},
		{"another site's tag", "channel=a", streamGates{}, []string{"Sec-Fetch-Site", "cross-site"}, 403, "origin", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, e := newStreamServer(t, &hub.Policy{Gates: &tc.gates, Limits: hub.Limits{ChannelsPerAgent: 3}}, nil)
			c := askStream(t, s, tc.query, tc.header...)
			text, err := io.ReadAll(c.resp.Body)
			if err != nil || c.resp.StatusCode != tc.status || !strings.Contains(string(text), tc.sentence) || !strings.HasSuffix(string(text), ".\n") {
				t.Errorf("status %d, %q, %v", c.resp.StatusCode, text, err)
			}
			if got := c.resp.Header.Get("Retry-After"); got != tc.retryAfter {
				t.Errorf("Retry-After %q", got)
			}
			if got := c.resp.Header.Get("WWW-Authenticate"); (got != "") != (tc.status == 401) {
				t.Errorf("WWW-Authenticate %q", got)
			}
			waitFor(t, "the agent to be gone", func() bool { return e.Hub.Agents() == 0 && e.Hub.Channels() == 0 })
		})
	}
}

// waitFor waits until done returns true.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// TestStreamMethods: only GET opens a stream, and OPTIONS allows what polyfills send.
func TestStreamMethods(t *testing.T) {
	s, _ := newStreamServer(t, &hub.Policy{}, nil)
	for method, want := range map[string]int{"HEAD": 405, "POST": 405, "DELETE": 405, "OPTIONS": 204} {
		r, _ := http.NewRequestWithContext(t.Context(), method, s.URL+"/push/sse?channel=a", nil)
		r.Header.Set("Origin", "https://friend.example")
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want || resp.Header.Get("Allow") != "OPTIONS, GET" {
			t.Errorf("%s: status %d, Allow %q", method, resp.StatusCode, resp.Header.Get("Allow"))
		}
		if got := resp.Header.Get("Access-Control-Allow-Headers"); method == "OPTIONS" && !strings.Contains(got, "Last-Event-ID") {
			t.Errorf("Access-Control-Allow-Headers %q", got)
		}
	}
	s, _ = newStreamServer(t, &hub.Policy{}, func(e *Endpoint) { e.Transports = Transports{"websocket"} })
	if c := askStream(t, s, "channel=a"); c.resp.StatusCode != 404 {
		t.Errorf("a transport that is off: status %d", c.resp.StatusCode)
	}
}

// TestStreamBegins: a stream begins with kept messages, or after the last one that the client
// had, and says what is missing.
func TestStreamBegins(t *testing.T) {
	s, _ := newStreamServer(t, &hub.Policy{Histories: kept{5}}, nil)
	began := time.Now()
	for n := range 8 {
		say(t, s, "kept/a", fmt.Sprint(n))
		say(t, s, "kept/b", fmt.Sprint(100+n))
	}
	c := listen(t, s, "channel=kept/a&channel=kept/b&since=2")
	var ids []string
	for _, want := range []string{"6", "106", "7", "107"} {
		ids = append(ids, c.want("message", want).ID)
	}
	c.leave()
	for name, header := range map[string]bool{"Last-Event-ID": true, "last_event_id": false, "lastEventID": false} {
		query, pair := "channel=kept/a&channel=kept/*&channel=kept/b", []string{name, ids[1]}
		if header { // it counts alone: a browser repeats the query of the first request
			query += "&since=5&last_event_id=x"
		} else {
			query, pair = query+"&"+name+"="+url.QueryEscape(ids[1]), nil
		}
		c = listen(t, s, query, pair...)
		c.want("message", "7")
		c.want("message", "107")
		c.leave()
	}
	c = listen(t, s, "channel=kept/a&channel=a&since="+url.QueryEscape(began.Format(time.RFC3339)))
	gaps := []string{c.next().Data, c.next().Data}
	slices.Sort(gaps)
	if want := []string{`{"channel":"a","reason":"none"}`, `{"channel":"kept/a","reason":"count"}`}; !slices.Equal(gaps, want) {
		t.Errorf("gaps %q, want %q", gaps, want)
	}
	c.want("message", "3")
	c.leave()
	c = listen(t, s, "channel=kept/a", "Last-Event-ID", "urn:uuid:of-another-server")
	c.want(eventGap, `{"channel":"kept/a","reason":"epoch"}`)
	say(t, s, "kept/a", `"live"`)
	c.want("message", "live")
}

// TestStreamBeginsByConnectGate: without a channel in the query, a stream has those of the
// connect gate, and resumes them.
func TestStreamBeginsByConnectGate(t *testing.T) {
	gates := &streamGates{connect: func(context.Context, string) hub.Verdict { return hub.Verdict{Subscribe: []string{"kept/mine"}} }}
	s, _ := newStreamServer(t, &hub.Policy{Gates: gates}, nil)
	c := listen(t, s, "")
	say(t, s, "kept/mine", "1")
	id := c.want("message", "1").ID
	c.leave()
	say(t, s, "kept/mine", "2")
	c = listen(t, s, "", "Last-Event-ID", id)
	c.want("message", "2")
}

// TestStreamWithoutThePast: a stream whose gate history refuses has a gap and live messages,
// also on the channels of the connect gate. For these, a gate that asks a backend refuses.
func TestStreamWithoutThePast(t *testing.T) {
	for _, local := range []bool{true, false} {
		gates := &streamGates{
			local: local,
			connect: func(context.Context, string) hub.Verdict {
				return hub.Verdict{Subscribe: []string{"kept/mine", "kept/open"}}
			},
			history: func(_ context.Context, channel string) hub.Verdict {
				if strings.HasSuffix(channel, "open") {
					return hub.Allow
				}
				return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "not for you"}}
			},
		}
		s, _ := newStreamServer(t, &hub.Policy{Gates: gates, Histories: kept{5}}, nil)
		for _, channel := range []string{"kept/mine", "kept/a", "kept/open", "kept/2/open"} {
			say(t, s, channel, `"`+channel+`"`)
		}
		c := listen(t, s, "channel=kept/a&channel=kept/2/open&since=5")
		gaps := []string{"kept/a", "kept/mine"}
		if !local {
			gaps = append(gaps, "kept/open")
		}
		var got []string
		for range gaps {
			e := c.next()
			if e.Name != eventGap || !strings.Contains(e.Data, `"reason":"denied"`) {
				t.Fatalf("local %t: %+v", local, e)
			}
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(e.Data, `{"channel":"`), `","reason":"denied"}`))
		}
		if slices.Sort(got); !slices.Equal(got, gaps) {
			t.Errorf("local %t: gaps %q, want %q", local, got, gaps)
		}
		if local {
			c.want("message", "kept/open")
		}
		c.want("message", "kept/2/open")
		say(t, s, "kept/a", `"live"`)
		c.want("message", "live")
		c.leave()
	}
}

// TestStreamResumes cuts streams at any moment while many publish, and gates take their time.
// What has a history comes exactly once, in order.
func TestStreamResumes(t *testing.T) {
	const publishers, each = 4, 250
	gates := &streamGates{subscribe: func(context.Context, string) hub.Verdict {
		for range rand.IntN(2000) {
			runtime.Gosched()
		}
		return hub.Allow
	}}
	s, _ := newStreamServer(t, &hub.Policy{Gates: gates, Limits: hub.Limits{APIPublishesPerSecond: hub.Unlimited, QueueMessages: 64}, Histories: kept{publishers * each}}, nil)
	queries := []string{
		"channel=kept/0&channel=kept/1&channel=kept/2&channel=kept/3&channel=live",
		"channel=kept/*",
		"channel=kept/3&channel=kept/*&channel=live&channel=kept/0",
	}
	first := make([]*streamClient, len(queries))
	for i, query := range queries {
		first[i] = listen(t, s, query+"&format=frame")
	}
	var all sync.WaitGroup
	for p := range publishers {
		all.Go(func() {
			for n := range each {
				say(t, s, fmt.Sprintf("kept/%d", p), fmt.Sprint(n))
				if n%10 == 0 {
					say(t, s, "live", fmt.Sprint(n))
				}
			}
		})
	}
	for i, query := range queries {
		all.Go(func() {
			c := first[i]
			var next [publishers]int
			cuts := 0
			for got := 0; got < publishers*each; {
				// At least one event: who has read nothing has no id to come back with.
				for n := 1 + rand.IntN(120); n > 0 && got < publishers*each; n-- {
					e := c.next()
					var frame struct {
						Channel string
						Data    int
						Code    hub.CloseCode
					}
					err := json.Unmarshal([]byte(e.Data), &frame)
					if e.Name == eventClose && frame.Code == hub.CloseSlow {
						break // the queue is short; who reads too slowly on a busy machine comes back as after a cut
					}
					if err != nil || e.Name == eventClose || e.Name == eventGap && frame.Channel != "live" {
						t.Errorf("%s: %+v", query, e)
						return
					}
					var p int
					if _, err := fmt.Sscanf(frame.Channel, "kept/%d", &p); err != nil {
						continue
					}
					if frame.Data != next[p] {
						t.Errorf("%s: %s has %d, want %d, after %d cuts", query, frame.Channel, frame.Data, next[p], cuts)
						return
					}
					next[p]++
					got++
				}
				c.leave()
				cuts++
				c = listen(t, s, query+"&format=frame", "Last-Event-ID", c.LastID)
			}
			if cuts < 5 {
				t.Errorf("only %d cuts", cuts)
			}
		})
	}
	all.Wait()
}

// TestStreamIsPaced: what a stream begins with may be more than its queue holds.
func TestStreamIsPaced(t *testing.T) {
	const queue = 64
	s, _ := newStreamServer(t, &hub.Policy{Limits: hub.Limits{QueueMessages: queue}}, nil)
	for n := range 5 * queue {
		say(t, s, "kept/a", fmt.Sprint(n))
	}
	c := listen(t, s, fmt.Sprintf("channel=kept/a&since=%d", 4*queue))
	for n := queue; n < 5*queue; n++ {
		c.want("message", fmt.Sprint(n))
	}
	say(t, s, "kept/a", `"live"`)
	c.want("message", "live")
	c.leave()
	c = listen(t, s, fmt.Sprintf("channel=kept/a&since=%d", 5*queue+1))
	for n := range 5 * queue {
		c.want("message", fmt.Sprint(n))
	}
	c.want("message", "live")
}

// TestStreamLosesAChannel: a stream has all of its channels, or it ends.
func TestStreamLosesAChannel(t *testing.T) {
	var before atomicVerdict
	gates := &streamGates{subscribe: func(_ context.Context, channel string) hub.Verdict { return before.of(channel) }}
	s, _ := newStreamServer(t, &hub.Policy{Gates: gates}, nil)
	c := listen(t, s, "channel=a&channel=b")
	before.deny("b")
	c.want(eventClose, `{"code":4403,"error":"this is not allowed any more","retry":2500,"channel":"b"}`)
	if c.wantEnd(); c.Retry != 2500*time.Millisecond {
		t.Errorf("retry %v", c.Retry)
	}
	if c = askStream(t, s, "channel=a&channel=b"); c.resp.StatusCode != 403 {
		t.Errorf("status %d", c.resp.StatusCode)
	}
}

// An atomicVerdict is asked again every ten milliseconds.
type atomicVerdict struct {
	mu     sync.Mutex
	denied string
}

func (v *atomicVerdict) deny(channel string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.denied = channel
}

func (v *atomicVerdict) of(channel string) hub.Verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	if channel == v.denied {
		return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "this is not allowed any more", Retry: 2500 * time.Millisecond}}
	}
	return hub.Verdict{Recheck: 10 * time.Millisecond}
}

// TestStreamEnds: a stream that the server ends says so, unless the client goes on at once.
func TestStreamEnds(t *testing.T) {
	s, e := newStreamServer(t, &hub.Policy{}, nil)
	c := listen(t, s, "channel=a")
	say(t, s, "a", "1")
	go e.Hub.Drain(patience)
	c.want("message", "1")
	last := c.next()
	var end streamEnd
	if err := json.Unmarshal([]byte(last.Data), &end); err != nil || last.Name != eventClose || end.Code != hub.CloseUnavailable || c.Retry.Milliseconds() < 1000 || fmt.Sprint(c.Retry.Milliseconds()) != string(end.Retry) {
		t.Errorf("%+v, retry %v, %v", last, c.Retry, err)
	}
	c.wantEnd()
	if c = askStream(t, s, "channel=a"); c.resp.StatusCode != 503 || c.resp.Header.Get("Retry-After") != "5" {
		t.Errorf("status %d, Retry-After %q", c.resp.StatusCode, c.resp.Header.Get("Retry-After"))
	}

	s, e = newStreamServer(t, &hub.Policy{}, func(e *Endpoint) { e.ResponseTime = 300 * time.Millisecond })
	c = listen(t, s, "channel=a")
	if c.wantEnd(); c.Retry != turnRetry {
		t.Errorf("retry %v", c.Retry)
	}
	waitFor(t, "the agent to be gone", func() bool { return e.Hub.Agents() == 0 })
}

// TestStreamThatIsNotRead: a client that does not read is closed as slow, and delays nobody.
func TestStreamThatIsNotRead(t *testing.T) {
	// A queue has room for more than one message: what the reader has read may still be counted.
	s, e := newStreamServer(t, &hub.Policy{Limits: hub.Limits{QueueBytes: 256 << 10, MessageSize: 64 << 10, APIPublishesPerSecond: hub.Unlimited}}, func(e *Endpoint) { e.times.write = 200 * time.Millisecond })
	_ = listen(t, s, "channel=a")
	s = newBystanders(t, e)
	reader := listen(t, s, "channel=a")
	large := `"` + strings.Repeat("x", 60_000) + `"`
	for n := 0; e.Hub.Stats().Ended[hub.CloseSlow] == 0; n++ {
		if n == 10_000 {
			t.Fatal("10,000 messages of 60 KB wait for a client that does not read")
		}
		say(t, s, "a", large)
		reader.next()
	}
	waitFor(t, "the agent to be gone", func() bool { return e.Hub.Stats().Agents["sse"] == 1 })
	if e.Hub.Stats().Dropped[hub.DropSlow] == 0 {
		t.Error("no message counts as dropped")
	}
}

// TestStreamLeavesNothing: a client that leaves, even while a gate is asked, is gone at once.
func TestStreamLeavesNothing(t *testing.T) {
	asked := make(chan struct{}, 1)
	gates := &streamGates{subscribe: func(ctx context.Context, channel string) hub.Verdict {
		if channel == "slow" {
			asked <- struct{}{}
			<-ctx.Done()
		}
		return hub.Allow
	}}
	s, e := newStreamServer(t, &hub.Policy{Gates: gates}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/push/sse?channel=slow&channel=a", nil)
	failed := make(chan error, 1)
	go func() {
		resp, err := s.Client().Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	<-asked
	cancel()
	if err := <-failed; err == nil {
		t.Error("the stream began without the gate's answer")
	}
	waitFor(t, "the agent to be gone", func() bool { return e.Hub.Agents() == 0 && e.Hub.Channels() == 0 })
	c := listen(t, s, "channel=a")
	c.leave()
	waitFor(t, "the agent to be gone", func() bool { return e.Hub.Agents() == 0 && e.Hub.Channels() == 0 })
}

// TestStreamGoroutines: an idle stream needs the two goroutines that net/http has.
func TestStreamGoroutines(t *testing.T) {
	s, e := newStreamServer(t, &hub.Policy{Limits: hub.Limits{AgentsPerIP: hub.Unlimited}}, nil)
	count := func() int {
		buf := make([]byte, 4<<20)
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "hub/transport.(*Endpoint).serveStream")
	}
	const streams = 20
	listen(t, s, "channel=a")
	before := runtime.NumGoroutine()
	for range streams {
		listen(t, s, "channel=a&channel=kept/a")
	}
	if n := e.Hub.Stats().Agents["sse"]; n != streams+1 {
		t.Fatalf("%d agents", n)
	}
	// The test's client has two goroutines for each connection.
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+streams*4 })
	if n := count(); n != streams+1 {
		t.Errorf("%d goroutines serve %d streams", n, streams+1)
	}
}

// FuzzStreamData: whatever a text is, the client gets it whole, with line feeds as line ends,
// and nothing in it looks like another field.
func FuzzStreamData(f *testing.F) {
	for _, text := range []string{"", "a", "a\nb", "\r\n\r", "id: 1\n\nevent: x", "\x00:", " x", "é\u2028"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quoted, _ := json.Marshal(text) // it never fails for a string
		var valid string
		if err := json.Unmarshal(quoted, &valid); err != nil {
			t.Fatal(err)
		}
		for named := range 2 {
			for format := range streamFormats {
				m := hub.NewMessage("a", "u", quoted)
				r := wireclient.NewEventReader(strings.NewReader(string(appendEvent(nil, m, format, named == 1))+"data: last\n\n"), "before")
				e, err := r.Next()
				want := map[streamFormat]string{
					formatText: strings.ReplaceAll(strings.ReplaceAll(valid, "\r\n", "\n"), "\r", "\n"),
					formatJSON: string(quoted), formatFrame: string(m.Object()),
				}[format]
				if err != nil || e.Data != want || e.ID != "before" || e.Name != []string{"message", "a"}[named] {
					t.Fatalf("%q: %+v, %v", text, e, err)
				}
				if e, err = r.Next(); err != nil || e.Data != "last" {
					t.Fatalf("%q: then %+v, %v", text, e, err)
				}
			}
		}
	})
}

// FuzzStreamRequest: every query and Last-Event-ID is a request within bounds, or refused with
// a sentence.
func FuzzStreamRequest(f *testing.F) {
	f.Add("channel=a&channel=b&since=5&format=json&event=channel", "")
	f.Add("channel=a&lastEventID=x.1", "3f9a0c5b7d21.17")
	f.Add("since=2026-01-31T12:00:00+01:00", "\x00")
	f.Fuzz(func(t *testing.T, query, id string) {
		q, wrong := parseStream(&http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"Last-Event-Id": {id}}})
		if wrong != nil {
			if wrong.status != 400 || !strings.HasSuffix(wrong.reason, ".") {
				t.Fatalf("%+v", wrong)
			}
			return
		}
		set := 0
		for _, is := range []bool{q.Position != "", q.Last > 0, !q.Since.IsZero()} {
			if is {
				set++
			}
		}
		if set > 1 || len(q.Position) > maxPosition || q.form == nil || id != "" && q.Position != id {
			t.Fatalf("%+v", q)
		}
		for i, name := range q.Channels {
			if name == "" || slices.Contains(q.Channels[:i], name) {
				t.Fatalf("channels %q", q.Channels)
			}
		}
	})
}
