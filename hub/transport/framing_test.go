// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/igm/sockjs-go/v3/sockjs"
)

// joinedRecords is what the hub writes for messages.
func joinedRecords(messages ...string) (p []byte) {
	for _, m := range messages {
		p = append(p, m...)
	}
	return p
}

// record is the record of a message.
func record(message string) string {
	return `"` + quotedHTML(message) + `"` + string(rune(recordEnd))
}

// TestFramingsAreThoseOfSockJS has the bytes that SockJS's protocol 0.3.3 wants, each with
// the name of the test that wants it.
func TestFramingsAreThoseOfSockJS(t *testing.T) {
	const open, x, goAway = "o", `a["x"]`, `c[3000,"Go away!"]`
	for _, tc := range []struct{ test, transport, frame, want string }{
		{"XhrPolling.test_transport", "xhr", open, "o\n"},
		{"XhrPolling.test_transport", "xhr", x, "a[\"x\"]\n"},
		{"XhrStreaming.test_transport", "xhr_streaming", open, "o\n"},
		{"XhrStreaming.test_transport", "xhr_streaming", x, "a[\"x\"]\n"},
		{"HandlingClose.test_close_frame", "xhr_streaming", goAway, "c[3000,\"Go away!\"]\n"},
		{"EventSource.test_transport", "eventsource", open, "data: o\r\n\r\n"},
		{"EventSource.test_transport", "eventsource", x, "data: a[\"x\"]\r\n\r\n"},
		{"EventSource.test_transport", "eventsource", `a["  \u0000\n\r "]`, `data: a["  \u0000\n\r "]` + "\r\n\r\n"},
		{"HtmlFile.test_transport", "htmlfile", open, "<script>\np(\"o\");\n</script>\r\n"},
		{"HtmlFile.test_transport", "htmlfile", x, "<script>\np(\"a[\\\"x\\\"]\");\n</script>\r\n"},
		{"JsonPolling.test_transport", "jsonp", open, "/**/call(\"o\");\r\n"},
		{"JsonPolling.test_content_types", "jsonp", `a["abc","%61bc"]`, "/**/call(\"a[\\\"abc\\\",\\\"%61bc\\\"]\");\r\n"},
		{"JsonPolling.test_close", "jsonp", goAway, "/**/call(\"c[3000,\\\"Go away!\\\"]\");\r\n"},
	} {
		if got := string(framings[tc.transport].wrap(nil, []byte(tc.frame), "call")); got != tc.want {
			t.Errorf("%s: %q becomes %q, want %q", tc.test, tc.frame, got, tc.want)
		}
	}
	for transport, want := range map[string]string{"xhr_streaming": strings.Repeat("h", 2048) + "\n", "eventsource": "\r\n"} {
		if got := string(framings[transport].prelude(nil, "call")); got != want {
			t.Errorf("the prelude of %s is %q, want %q", transport, got, want)
		}
	}
	page := string(framings["htmlfile"].prelude(nil, "call"))
	if !strings.Contains(page, "var c = parent.call;\n") || len(page) <= 1024 {
		t.Errorf("the page of htmlfile has %d bytes, want more than 1024: %q", len(page), page)
	}
}

// TestMessagesFrame joins messages, and leaves heartbeats out.
func TestMessagesFrame(t *testing.T) {
	const beat = heartbeatFrame + string(rune(recordEnd))
	for _, tc := range []struct {
		in        []byte
		want      string
		heartbeat bool
	}{
		{joinedRecords(record(`{"a":1}`)), `a["{\"a\":1}"]`, false},
		{joinedRecords(record(`{"a":1}`), record(`{"b":"x\ny"}`)), `a["{\"a\":1}","{\"b\":\"x\\ny\"}"]`, false},
		{joinedRecords(record(`{}`), beat, record(`{"h":1}`), beat), `a["{}","{\"h\":1}"]`, true},
		{joinedRecords(beat, record(`{}`)), `a["{}"]`, true},
		{joinedRecords(beat, beat), "", true},
		{joinedRecords(beat), "", true},
	} {
		frame, heartbeat := messagesFrame(nil, tc.in)
		if string(frame) != tc.want || heartbeat != tc.heartbeat || tc.want == "" && frame != nil {
			t.Errorf("%q becomes %q, %v; want %q, %v", tc.in, frame, heartbeat, tc.want, tc.heartbeat)
		}
	}
}

// A reference is one session of sockjs-go's server.
type reference struct {
	handler  http.Handler
	sessions chan sockjs.Session // buffered(1)
	path     string
	method   string
}

func newReference(f *framing) *reference {
	r := &reference{sessions: make(chan sockjs.Session, 1), path: "/000/session/" + f.transport + "?c=call", method: f.method}
	options := sockjs.DefaultOptions
	options.HeartbeatDelay = time.Hour // none comes
	r.handler = sockjs.NewHandler("", options, func(s sockjs.Session) { r.sessions <- s })
	return r
}

// ask makes a request to receive and returns the whole response. sockjs-go takes a moment
// to notice the end of the response before, and turns requests away until then.
func (r *reference) ask(t *testing.T) *httptest.ResponseRecorder {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		w := httptest.NewRecorder()
		r.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), r.method, r.path, nil))
		if !strings.Contains(w.Body.String(), "c[2010,") {
			return w
		}
		if time.Now().After(end) {
			t.Fatal("sockjs-go does not notice that a response has ended")
		}
	}
}

// TestFramingsAreThoseOfSockJSGo has sockjs-go send the same messages over each transport:
// the bytes are equal, but for the comment in front of a script.
func TestFramingsAreThoseOfSockJSGo(t *testing.T) {
	messages := []string{
		`{"a":1}`, "", "quote \" and \\ backslash", "100% %41 %0A", "</script><!-- <b> & 'x'", "é ü 漢字 \U0001F600", "a\r\nb\x00",
		`}\u001e{`, "\x1e", "h", `"]`, `a["h"]`, strings.Repeat("long ", 5000), everyCharacter(),
	}
	const code, reason = 3000, `Go away: "50 %" </script>`
	for name, f := range framings {
		t.Run(name, func(t *testing.T) {
			dressed := func(frame string) string {
				return strings.TrimPrefix(string(f.wrap(nil, []byte(frame), "call")), "/**/")
			}
			var want []string // the responses
			var records []string
			for _, m := range messages {
				records = append(records, record(m))
			}
			bye := closeFrame(code, reason)
			if f.poll {
				frame, _ := messagesFrame(nil, joinedRecords(records...))
				want = []string{dressed("o"), dressed(string(frame)), dressed(bye)}
			} else {
				all := string(f.prelude(nil, "call")) + dressed("o")
				for _, r := range records {
					frame, _ := messagesFrame(nil, []byte(r))
					all += dressed(string(frame))
				}
				want = []string{all + dressed(bye)}
			}

			r := newReference(f)
			var got []*httptest.ResponseRecorder
			if f.poll {
				got = append(got, r.ask(t))
				s := <-r.sessions
				for _, m := range messages {
					if err := s.Send(m); err != nil {
						t.Fatal(err)
					}
				}
				got = append(got, r.ask(t))
				if err := s.Close(code, reason); err != nil {
					t.Fatal(err)
				}
				got = append(got, r.ask(t))
			} else {
				sent := make(chan error, 1)
				go func() {
					s := <-r.sessions
					for _, m := range messages {
						if err := s.Send(m); err != nil {
							sent <- err
							return
						}
					}
					sent <- s.Close(code, reason)
				}()
				got = append(got, r.ask(t))
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
			}
			for i, w := range got {
				if theirs := w.Body.String(); theirs != want[i] {
					t.Errorf("response %d: %s", i+1, firstDifference(want[i], theirs))
				}
				if theirs := strings.TrimSuffix(w.Header().Get("Content-Type"), "; charset=UTF-8"); theirs != strings.TrimSuffix(f.contentType, "; charset=UTF-8") {
					t.Errorf("Content-Type %q, sockjs-go has %q", f.contentType, theirs)
				}
			}
		})
	}
}

// everyCharacter has one of each kind of character, and all up to those that JavaScript
// and HTML treat in their own ways.
func everyCharacter() string {
	var all strings.Builder
	for r := range rune(0x2100) {
		all.WriteRune(r)
	}
	return all.String() + "\uD7FF\uE000\uFEFF\uFFFD\uFFFF\U00010000\U0010FFFF"
}

func firstDifference(ours, theirs string) string {
	i := 0
	for i < len(ours) && i < len(theirs) && ours[i] == theirs[i] {
		i++
	}
	from := max(0, i-20)
	return fmt.Sprintf("from byte %d: %.60q, sockjs-go has %.60q", from, ours[from:], theirs[from:])
}

// TestLimitsAreThoseOfSockJS: a SockJS client may rely on them.
func TestLimitsAreThoseOfSockJS(t *testing.T) {
	if want := sockjs.DefaultOptions.ResponseLimit; responseLimit != want {
		t.Errorf("a response has %d bytes, want %d", responseLimit, want)
	}
	if want := sockjs.DefaultOptions.DisconnectDelay; disconnectDelay != want {
		t.Errorf("a session lasts %v without a request, want %v", disconnectDelay, want)
	}
}

// BenchmarkFallbackDelivery measures what delivering a message to one more session costs: the
// message is quoted already.
func BenchmarkFallbackDelivery(b *testing.B) {
	records := joinedRecords(record(`{"channel":"stories/5","uuid":"0190b5a8-7e2f-7d1c-9d3c-5f1f2f3f4f5f","data":{"text":"` + strings.Repeat("hello world ", 10) + `"}}`))
	for _, kind := range []string{"xhr_streaming", "eventsource"} {
		b.Run(kind, func(b *testing.B) {
			s := NewSessions().newSession(sessionKey{}, owner{}, nil, nil, defaultTimes)
			w := &frameWriter{header: make(http.Header)}
			r := newResponse(w, framings[kind], "", 1, defaultTimes)
			s.attach(r)
			s.ready(r)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Write(records); err != nil {
					b.Fatal(err)
				}
				w.frame, r.size = w.frame[:0], 0
			}
		})
	}
}
