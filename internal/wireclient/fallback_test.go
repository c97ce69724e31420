// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package wireclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// dressed returns a frame as a transport sends it.
func dressed(t *testing.T, transport, frame string) string {
	t.Helper()
	quoted, err := json.Marshal(frame)
	if err != nil {
		t.Fatal(err)
	}
	switch transport {
	case "eventsource":
		return "data: " + strings.ReplaceAll(frame, "%", "%25") + "\r\n\r\n"
	case "htmlfile":
		return "<script>\np(" + string(quoted) + ");\n</script>\r\n"
	case "jsonp":
		return "/**/call(" + string(quoted) + ");\r\n"
	}
	return frame + "\n"
}

// responding serves these responses, one for each request to receive. It answers requests
// to send as the transport does.
func responding(t *testing.T, transport string, responses ...string) (f *Fallback, received func() []string) {
	t.Helper()
	var mu sync.Mutex
	var objects []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/jsonp_send"), strings.HasSuffix(path, "/xhr_send"):
			var some []string
			if err := json.NewDecoder(r.Body).Decode(&some); err != nil || r.Method != http.MethodPost {
				t.Errorf("%s %s: %v", r.Method, path, err)
			}
			objects = append(objects, some...)
			if (transport == "jsonp") != strings.HasSuffix(path, "/jsonp_send") {
				t.Errorf("%s sends to %s", transport, path)
			}
			if transport == "jsonp" {
				_, _ = io.WriteString(w, "ok")
				return
			}
			w.WriteHeader(http.StatusNoContent)
		case !strings.HasSuffix(path, "/"+transport) || r.Method != Methods[transport]:
			t.Errorf("%s %s", r.Method, path)
		case (transport == "jsonp" || transport == "htmlfile") != (r.URL.Query().Get("c") == callback):
			t.Errorf("%s has the query %q", transport, r.URL.RawQuery)
		case len(responses) == 0:
			http.Error(w, "no more", http.StatusNotFound)
		default:
			_, _ = io.WriteString(w, responses[0])
			responses = responses[1:]
		}
	}))
	t.Cleanup(s.Close)
	f = &Fallback{HTTP: s.Client(), URL: NewSession(s.URL + "/push"), Transport: transport, Patience: patience}
	t.Cleanup(f.GiveUp)
	return f, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(objects)
	}
}

// Each transport carries a session: it opens, sends objects in both directions, ignores
// heartbeats, and is closed by the server.
func TestFallbackSpeaksEachTransport(t *testing.T) {
	preludes := map[string]string{
		"xhr_streaming": strings.Repeat("h", 2048) + "\n", "eventsource": "\r\n",
		"htmlfile": "<!DOCTYPE html>\n<html>" + strings.Repeat(" ", 1000) + "\n",
	}
	for transport := range Methods {
		t.Run(transport, func(t *testing.T) {
			frames := []string{"o", `a["{\"n\":1}","100% of \u003ctwo\u003e"]`, "h", `a["three"]`, `c[4503,"come back"]`}
			var responses []string
			if _, streams := preludes[transport]; streams {
				text := preludes[transport]
				for i, frame := range frames {
					if text += dressed(t, transport, frame); i == 1 { // the rest comes in another response
						responses = append(responses, text)
						text = preludes[transport]
					}
				}
				responses = append(responses, text)
			} else {
				for _, frame := range frames {
					responses = append(responses, dressed(t, transport, frame))
				}
			}
			f, received := responding(t, transport, responses...)
			seen := 0
			f.OnResponse = func(*http.Response) error {
				seen++
				return nil
			}
			if frame, err := f.Frame(t.Context()); frame != "o" || err != nil {
				t.Fatalf("the session begins with %q, %v", frame, err)
			}
			if err := f.Send(t.Context(), "one", `{"two":"<&>"}`); err != nil {
				t.Fatal(err)
			}
			if got := received(); !slices.Equal(got, []string{"one", `{"two":"<&>"}`}) {
				t.Errorf("the server was sent %q", got)
			}
			var all []string
			for {
				objects, err := f.Receive(t.Context())
				if closed, ok := errors.AsType[*CloseError](err); ok {
					if closed.Code != 4503 || closed.Reason != "come back" {
						t.Errorf("closed with %d %q", closed.Code, closed.Reason)
					}
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, objects...)
			}
			if want := []string{`{"n":1}`, "100% of <two>", "three"}; !slices.Equal(all, want) {
				t.Errorf("received %q, want %q", all, want)
			}
			if seen != len(responses) || f.Ended != len(responses)-1 {
				t.Errorf("%d responses were seen and %d have ended, of %d", seen, f.Ended, len(responses))
			}
		})
	}
}

// After an error, each further call returns an error, too.
func TestFallbackHidesNothing(t *testing.T) {
	for _, test := range []struct{ name, transport, response, want string }{
		{"a second session of that name", "xhr_streaming", "o\no\n", "the session is another one"},
		{"half a line", "xhr_streaming", "o\na[\"x", "unexpected EOF"},
		{"no function call", "jsonp", "o\n", "has no frame"},
		{"not a string", "htmlfile", "p(o);\n", "invalid character"},
		{"no objects", "xhr", "a{}\n", "cannot unmarshal"},
		{"a close without a code", "xhr", "c{}\n", "cannot unmarshal"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, _ := responding(t, test.transport, test.response)
			if _, err := f.Receive(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
		})
	}
	f, _ := responding(t, "xhr")
	if _, err := f.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "404 Not Found: no more") {
		t.Errorf("a refusal: %v", err)
	}
	f.GiveUp()
	f.OnResponse = func(*http.Response) error { return errors.New("not what was asked for") }
	f.URL = "http://" + answering(t, answers{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no\n"}) + "/s"
	if _, err := f.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "not what was asked for") {
		t.Errorf("OnResponse's error: %v", err)
	}
	refused, _ := responding(t, "xhr")
	refused.URL += "/xhr" // no request to send goes there
	refused.HTTP = &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{Status: "403 Forbidden", StatusCode: http.StatusForbidden, Body: io.NopCloser(strings.NewReader("denied"))}, nil
	})}
	if err := refused.Send(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "403 Forbidden: denied") {
		t.Errorf("sending: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A silent server delays a client no longer than its patience.
func TestFallbackHasPatience(t *testing.T) {
	for name, answer := range map[string]string{"no response": "", "no frame": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer)
				_, _ = io.Copy(io.Discard, conn) // until the client leaves
				_ = conn.Close()
			}()
			// A connection that comes after the patience has ended is closed.
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			f := &Fallback{HTTP: client, URL: "http://" + l.Addr().String() + "/s", Transport: "xhr_streaming", Patience: 50 * time.Millisecond}
			if _, err := f.Frame(t.Context()); err == nil {
				t.Error("a frame came")
			}
			f.GiveUp()
			_ = l.Close() // no connection may have come
			<-done
		})
	}
}

// answers are the raw answers of a server's connections. A connection is closed after its
// last answer.
type answers []string

// answering serves raw answers, each list over its own connection. It returns its
// address.
func answering(t *testing.T, connections ...answers) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, list := range connections {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			requests := bufio.NewReader(conn)
			for i := 0; ; i++ {
				r, err := http.ReadRequest(requests)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, r.Body) // it is short
				if i == len(list) {
					break
				}
				_, _ = io.WriteString(conn, list[i])
			}
			_ = conn.Close()
		}
		_ = l.Close()
	})
	t.Cleanup(func() {
		_ = l.Close() // it may be closed already
		wg.Wait()
	})
	return l.Addr().String()
}

// counted are the requests that no server has read, and whether all attempts failed.
type counted struct {
	kept, fresh int // over connections that were kept, and over new ones
	fails       bool
}

// want tries up to five times. On a busy machine, net/http may close a connection that it should
// keep: it waits for its own goroutine for only 50 ms.
func want(t *testing.T, want counted, try func() counted) {
	t.Helper()
	var got counted
	for range 5 {
		if got = try(); got == want {
			return
		}
	}
	t.Errorf("got %+v, want %+v", got, want)
}

// A request that no server has read is repeated, and each repetition is counted, also
// those by net/http.
func TestFallbackCountsUnreadRequests(t *testing.T) {
	const ok = "HTTP/1.1 204 No Content\r\n\r\n"
	for _, test := range []struct {
		name        string
		connections []answers
		kept, fresh int
		fails       bool
	}{
		{"all read", []answers{{ok, ok}}, 0, 0, false},
		{"a kept connection is closed", []answers{{ok}, {ok}}, 1, 0, false},
		{"new connections are closed", []answers{{}, {}, {ok, ok}}, 0, 2, false},
		{"a kept one and new ones", []answers{{ok}, {}, {ok}}, 1, 1, false},
		{"nobody reads", []answers{{}, {}, {}, {}, {}}, 0, 5, true},
	} {
		send := func(t *testing.T, onUnread func(reused bool)) error {
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			f := &Fallback{HTTP: client, URL: "http://" + answering(t, test.connections...) + "/s", Transport: "xhr", OnUnread: onUnread}
			if err := f.Send(t.Context(), "one"); err != nil {
				return err
			}
			return f.Send(t.Context(), "two")
		}
		t.Run(test.name, func(t *testing.T) {
			want(t, counted{test.kept, test.fresh, test.fails}, func() (c counted) {
				c.fails = send(t, func(reused bool) {
					if reused {
						c.kept++
					} else {
						c.fresh++
					}
				}) != nil
				return c
			})
			want(t, counted{fails: test.kept+test.fresh > 0}, func() counted { return counted{fails: send(t, nil) != nil} })
		})
	}
}

func TestIsUnread(t *testing.T) {
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	for _, test := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("Post: %w", io.EOF), true},
		{refused, true},
		{errors.New("http: server closed idle connection"), true},
		{errors.New("http2: server sent GOAWAY and closed the connection"), true},
		{errors.New("H3_REQUEST_REJECTED"), true},
		{errors.New("connection in graceful shutdown"), true},
		{context.Canceled, false},
		{io.ErrUnexpectedEOF, false},
		{errors.New("an answer that makes no sense"), false},
	} {
		if got := IsUnread(test.err); got != test.want {
			t.Errorf("%v: %t", test.err, got)
		}
	}
}

// Closing a page cancels its request, and does not change the page.
func TestFallbackGivesUp(t *testing.T) {
	gone := make(chan http.Header, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "o\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- r.Header
	}))
	t.Cleanup(s.Close)
	f := &Fallback{
		HTTP: s.Client(), URL: NewSession(s.URL), Transport: "xhr_streaming", Patience: patience,
		Header: http.Header{"Cookie": {"a=b"}}, Page: "/page", Host: "example.com",
	}
	stream := f.Begin(t.Context())
	f.Header = nil
	if frame, err := f.Frame(t.Context()); frame != "o" || err != nil {
		t.Fatalf("got %q, %v", frame, err)
	}
	if f.Stream() != stream || !f.Receiving() {
		t.Error("the request that was begun is not the one that receives")
	}
	f.GiveUp()
	if f.Receiving() {
		t.Error("it still receives")
	}
	select {
	case h := <-gone:
		if h.Get("Cookie") != "a=b" || h.Get("Referer") != "http://example.com/page" {
			t.Errorf("the request had %v", h)
		}
	case <-time.After(patience):
		t.Error("the request has not ended")
	}
	if _, err := io.ReadAll(stream); err == nil {
		t.Error("the response can be read on")
	}
}
