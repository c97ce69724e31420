// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// deflated returns what a client makes of a message. level is one of compress/flate.
func deflated(t testing.TB, message string, level int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(message))
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), flushed)
}

// packed marks a frame as compressed.
func packed(f []byte) []byte { return withRSV(4, f) }

// inflated returns the payload of a whole text frame, and whether it was compressed.
func inflated(t *testing.T, p []byte) (payload string, was bool) {
	t.Helper()
	p = bytes.Clone(p)
	was = p[0]&compressed != 0
	p[0] &^= compressed
	payload = unwrap(t, p)
	if !was {
		return payload, false
	}
	b, more, err := inflate(nil, []byte(payload), 1<<20, false)
	if err != nil || more {
		t.Fatalf("%q: %v, more: %t", payload, err, more)
	}
	return string(b), true
}

func TestDeflatedForms(t *testing.T) {
	for _, wrap := range []func(dst, object []byte) []byte{appendBare, appendSockJS, appendLegacy} {
		for _, n := range []int{0, 100, 300, 1000, 70_000} {
			object := fmt.Sprintf(`{"channel":"news","data":"%s"}`, strings.Repeat("é\\u0000 ", n/8))
			plain := wrap(nil, []byte(object))
			got := deflating(wrap)([]byte("before"), []byte(object))
			frame, found := bytes.CutPrefix(got, []byte("before"))
			if !found {
				t.Fatalf("what was there is gone: %.20q", got)
			}
			payload, was := inflated(t, frame)
			if want := unwrap(t, plain); payload != want {
				t.Errorf("%d: %.100q, want %.100q", n, payload, want)
			}
			if was != (len(plain) >= deflateFrom) || was && len(frame) > len(plain)/2 {
				t.Errorf("%d: compressed: %t, from %d to %d bytes", n, was, len(plain), len(frame))
			}
		}
	}
	noise := make([]byte, 1000)
	_, _ = rand.Read(noise)
	if got := deflating(appendBare)(nil, noise); !bytes.Equal(got, appendBare(nil, noise)) {
		t.Error("what does not become smaller is compressed")
	}
}

func TestInflate(t *testing.T) {
	long := strings.Repeat("0123456789", 100)
	var last bytes.Buffer // the last block says that it is the last one: RFC 7692, section 7.2.3.4
	w, _ := flate.NewWriter(&last, 6)
	_, _ = w.Write([]byte("hello"))
	_ = w.Close()
	for _, c := range []struct {
		name string
		in   string
		max  int
		want string
		more bool
		bad  bool
	}{
		{"RFC 7692, section 7.2.3.1", "\xf2\x48\xcd\xc9\xc9\x07\x00", 100, "Hello", false, false},
		{"RFC 7692, section 7.2.3.3, not compressed", "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", 100, "Hello", false, false},
		{"RFC 7692, section 7.2.3.4, a last block", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", 100, "Hello", false, false},
		{"RFC 7692, section 7.2.3.5, two blocks", "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", 100, "Hello", false, false},
		{"RFC 7692, section 7.2.3.6, nothing", "\x00", 100, "", false, false},
		{"a last block of compress/flate", last.String(), 100, "hello", false, false},
		{"as long as it may be", deflated(t, long, 1), 1000, long, false, false},
		{"too long", deflated(t, long, 1), 999, long[:999], true, false},
		{"far too long", deflated(t, strings.Repeat("x", 1<<20), 9), 10, "xxxxxxxxxx", true, false},
		{"a part", deflated(t, long, 9)[:10], 1000, "", false, true},
		{"no compressed message", "\xff\xff\xff", 100, "", false, true},
	} {
		got, more, err := inflate([]byte("before"), []byte(c.in), c.max, false)
		if (err != nil) != c.bad || more != c.more || err == nil && string(got) != "before"+c.want {
			t.Errorf("%s: %.100q, %t, %v", c.name, got, more, err)
		}
	}
}

func TestReadCompressedMessages(t *testing.T) {
	const limit = 1000
	long, hello := strings.Repeat("x", limit), deflated(t, "hello", 6)
	bad := func(err error) []string { return []string{"error " + err.Error()} }
	for _, c := range []struct {
		name string
		in   []byte
		want []string
	}{
		{"a message", packed(text(hello)), []string{"message hello"}},
		{"beside others", join(text("a"), packed(text(hello)), text("b"), packed(text(hello))), []string{"message a", "message hello", "message b", "message hello"}},
		{"fragments", join(packed(frame(opText, false, hello[:2])), frame(opPing, true, ""), frame(opContinuation, true, hello[2:]), text("a")), []string{"ping 9 ", "message hello", "message a"}},
		{"an empty one", packed(text("\x00")), []string{"message "}},
		{"without any byte", packed(text("")), bad(errDeflated)},
		{"the largest", packed(text(deflated(t, long, 6))), []string{"message " + long}},
		{"one byte too many", join(packed(text(deflated(t, long+"y", 6))), text("after")), []string{"too large " + long, "message after"}},
		{"far too many", join(packed(text(deflated(t, strings.Repeat("x", 4<<20), 9))), text("after")), []string{"too large " + long, "message after"}},
		{"too many before they are read", join(packed(text(deflated(t, long+long, flate.NoCompression))), text("after")), []string{"too large " + long[:limit-5], "message after"}},
		{"invalid UTF-8", packed(text(deflated(t, "\xff", 6))), bad(errNotUTF8)},
		{"half a character", packed(text(deflated(t, "\xc3", 6))), bad(errNotUTF8)},
		{"a character on the limit", packed(text(deflated(t, long[1:]+"é", 6))), []string{"too large " + long[1:] + "\xc3"}},
		{"not compressed", packed(text("hello")), bad(errDeflated)},
		{"a part", join(packed(text(deflated(t, long, 6)[:3])), text("dropped")), bad(errDeflated)},
		{"a bit in a continuation", join(packed(frame(opText, false, hello)), packed(frame(opContinuation, true, ""))), bad(errReserved)},
		{"a bit in a ping", packed(frame(opPing, true, "")), bad(errReserved)},
		{"another bit", withRSV(2, text("")), bad(errReserved)},
		{"binary", packed(frame(opBinary, true, hello)), bad(errBinary)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, sizes := range [][]byte{nil, {0}} {
				f := &frameReader{deflated: true}
				if got := readAllBy(t, f, c.in, limit, sizes...); !slices.Equal(got, c.want) {
					t.Errorf("in pieces of %v: %.200q, want %.200q", sizes, got, c.want)
				}
			}
		})
	}
}

// What is compressed may take long to read. A connection has only a share of the processor's time
// for that.
func TestCompressedMessagesWait(t *testing.T) {
	bomb := []byte(deflated(t, strings.Repeat("x", 4<<20), 9))
	r := newWSReader(nil, newFakeAgent(hub.Limits{}), false, defaultTimes)
	begun := time.Since(epoch)
	if _, more, err := r.inflate(nil, bomb, 4<<20-1, false); !more || err != nil {
		t.Fatal(more, err)
	}
	if end := time.Since(epoch); r.inflates <= end || r.inflates > end+inflateWait*(end-begun) {
		t.Errorf("after %v, the next one is read in %v", end-begun, r.inflates-end)
	}
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(hub.Limits{})
		ours, theirs := net.Pipe()
		r := newWSReader(ours, a, false, defaultTimes)
		r.deflate()
		r.inflates = time.Since(epoch) + longestInflate
		go r.run(nil)
		p := newPeer(t, theirs)
		p.send(text("plain"), packed(text(deflated(t, "packed", 6))))
		synctest.Wait()
		if got := a.messages(); !slices.Equal(got, []string{"plain"}) {
			t.Errorf("at once came %q", got)
		}
		time.Sleep(longestInflate)
		synctest.Wait()
		if got := a.messages(); !slices.Equal(got, []string{"plain", "packed"}) {
			t.Errorf("then there was %q", got)
		}
		p.send(closing(1000, ""))
		<-a.left
	})
}

// FuzzReadCompressed: no message panics, or has more than the limit, and the sizes of the pieces
// make no difference.
func FuzzReadCompressed(f *testing.F) {
	f.Add([]byte(deflated(f, "hello", 6)), 2, []byte{0})
	f.Add([]byte(deflated(f, strings.Repeat("x", 10_000), 9)), 5, []byte{3, 1})
	f.Add([]byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), 0, []byte{7})
	f.Fuzz(func(t *testing.T, message []byte, at int, sizes []byte) {
		const limit = 400
		at = min(max(at, 0), len(message))
		in := join(packed(frame(opText, false, string(message[:at]))), frame(opContinuation, true, string(message[at:])), text("after"))
		whole := readAllBy(t, &frameReader{deflated: true}, in, limit)
		if pieces := readAllBy(t, &frameReader{deflated: true}, in, limit, sizes...); !slices.Equal(whole, pieces) {
			t.Errorf("in one piece: %q\nin pieces: %q", whole, pieces)
		}
		if len(whole[0]) > limit+len("too large ") {
			t.Errorf("%d bytes came", len(whole[0]))
		}
	})
}

func TestAgreeOnDeflate(t *testing.T) {
	const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, c := range []struct{ offers, want string }{
		{"permessage-deflate; client_max_window_bits", agreed}, // Chromium
		{"permessage-deflate", agreed},                         // Firefox
		{"permessage-deflate; client_no_context_takeover; server_no_context_takeover", agreed},
		{`permessage-deflate; client_max_window_bits="10"`, agreed},
		{" permessage-deflate ;client_max_window_bits= 8 ", agreed},
		{"permessage-deflate; server_max_window_bits=15", agreed + "; server_max_window_bits=15"},
		{"permessage-deflate; server_max_window_bits=10", ""},
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", agreed},
		{"x-webkit-deflate-frame, permessage-deflate", agreed},
		{"permessage-deflate; server_max_window_bits", ""},
		{"permessage-deflate; server_no_context_takeover=1", ""},
		{"permessage-deflate; client_max_window_bits=7", ""},
		{"permessage-deflate; client_max_window_bits=16", ""},
		{"permessage-deflate; client_max_window_bits=010", ""},
		{"permessage-deflate; client_max_window_bits; client_max_window_bits", ""},
		{"permessage-deflate; another", ""},
		{"permessage-deflate;", agreed},
		{"permessage-bzip2", ""},
		{"", ""},
	} {
		if got := agreeOnDeflate([]string{"something-else", c.offers}); got != c.want {
			t.Errorf("%q: %q, want %q", c.offers, got, c.want)
		}
	}
}

// Agents that take compressed messages, and others, get the same, and messages to the server may
// be compressed only where that was agreed on.
func TestCompressedMessagesOverHTTP(t *testing.T) {
	e := newEndpoint(t, hub.Limits{})
	s := httptest.NewServer(handler(e))
	t.Cleanup(s.Close)
	dialOffering := func(path, offer string) (*http.Response, *peer) {
		return exchange(t, dial(t, s), "GET "+path+" HTTP/1.1\r\nHost: site.example\r\n"+upgradeHeaders+offer)
	}
	const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
	resp, _ := dialOffering("/push/websocket", offer)
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("without compression the server agrees on %q", got)
	}
	e.Compression = true
	resp, plain := dialOffering("/push/websocket", "")
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("the server agrees on %q, which nobody has offered", got)
	}
	const connect, subscribe = `{"channel":"/meta/connect","uuid":"1","agentId":"a"}`, `{"channel":"/meta/subscribe","uuid":"2","data":{"channel":"chat"}}`
	message := `{"channel":"chat","uuid":"3","data":"` + strings.Repeat("hello ", 100) + `"}`
	plain.send(text(connect), text(subscribe))
	_, _, _ = plain.read()
	_, _, _ = plain.read()
	for _, sockJS := range []bool{false, true} {
		path, wrap := "/push/websocket", func(object string) string { return object }
		if sockJS {
			path, wrap = "/push/0/a/websocket", func(object string) string { return `["` + quoted(object) + `"]` }
		}
		resp, p := dialOffering(path, offer)
		if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != agreeOnDeflate([]string{"permessage-deflate"}) {
			t.Errorf("the server agrees on %q", got)
		}
		if sockJS {
			p.want(opText, "o")
		}
		p.send(packed(text(deflated(t, wrap(connect), 6))), text(wrap(subscribe)))
		_, _, _ = p.read()
		_, _, _ = p.read()
		p.send(packed(text(deflated(t, wrap(strings.Replace(message, `"3"`, fmt.Sprintf(`"3%t"`, sockJS), 1)), 6))))
		raw := make([]byte, 4)
		if _, err := p.r.Read(raw[:1]); err != nil || raw[0] != 0x80|compressed|opText {
			t.Errorf("the message's frame begins with %x, %v", raw[0], err)
		}
		if _, got, err := plain.read(); err != nil || !strings.Contains(got, "hello hello") {
			t.Errorf("without compression came %q, %v", got, err)
		}
	}
	plain.send(packed(text(deflated(t, message, 6))))
	if _, got, err := plain.read(); err != nil || !strings.Contains(got, "reserved bit") {
		t.Errorf("a compressed message that nobody has agreed on: %q, %v", got, err)
	}
}

func BenchmarkDeflating(b *testing.B) {
	var object strings.Builder
	object.WriteString(`{"channel":"news","uuid":"0b5e6a9e","data":[`)
	for i := 0; object.Len() < 4096; i++ {
		fmt.Fprintf(&object, `{"id":%d,"title":"Message number %d","read":%t,"at":"2026-01-%02dT10:00:00Z"},`, i*7919, i, i%3 == 0, i%28+1)
	}
	for _, n := range []int{300, 1024, 4096} {
		p := []byte(object.String()[:n])
		for name, wrap := range map[string]func(dst, object []byte) []byte{"plain": appendBare, "deflated": deflating(appendBare)} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				var dst []byte
				for b.Loop() {
					dst = wrap(dst[:0], p)
				}
				b.ReportMetric(float64(len(dst)), "bytes")
			})
		}
	}
}
