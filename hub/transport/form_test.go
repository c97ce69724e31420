// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/push-it/pushit/hub"
)

// unwrap returns the payload of p, which must be one whole text frame.
func unwrap(t *testing.T, p []byte) string {
	t.Helper()
	h, n, err := parseHeader(append([]byte{p[0], p[1] | 0x80}, append(p[2:len(p):len(p)], 0, 0, 0, 0)...))
	if err != nil || n == 0 || h.op != opText || !h.fin || uint64(len(p)-(n-4)) != h.size {
		t.Fatalf("%q is not one whole text frame: %+v, %v", p, h, err)
	}
	return string(p[n-4:])
}

func TestForms(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"bare opening", bareForm.Opening, ""},
		{"bare heartbeat", bareForm.Heartbeat, "\x89\x00"},
		{"SockJS opening", sockJSForm.Opening, "\x81\x01o"},
		{"SockJS heartbeat", sockJSForm.Heartbeat, "\x81\x01h\x89\x00"},
		{"bare object", appendBare(nil, []byte(`{"a":1}`)), "\x81\x07{\"a\":1}"},
		{"SockJS object", appendSockJS([]byte("before"), []byte(`{"a":1}`)), "before\x81\x0ea[\"{\\\"a\\\":1}\"]"},
		{"SockJS close", appendSockJSClose(nil, hub.CloseSlow, `too "slow"`), "\x81\x16c[4430,\"too \\\"slow\\\"\"]"},
	} {
		if string(tc.got) != tc.want {
			t.Errorf("%s = %q, want %q", tc.name, tc.got, tc.want)
		}
	}
}

// roundTrip checks that both forms keep an object as it is.
func roundTrip(t *testing.T, object string) {
	t.Helper()
	if got := unwrap(t, appendBare(nil, []byte(object))); got != object {
		t.Errorf("bare: %q, want %q", got, object)
	}
	framed := unwrap(t, appendSockJS(nil, []byte(object)))
	var got []string
	if err := json.Unmarshal([]byte(strings.TrimPrefix(framed, "a")), &got); err != nil || framed[0] != 'a' || len(got) != 1 || got[0] != object {
		t.Errorf("SockJS: %q holds %q, %v; want %q", framed, got, err, object)
	}
	if ours, err := decoded(framed[1:]); err != nil || len(ours) != 1 || ours[0] != object {
		t.Errorf("SockJS, our own decoding: %q, %v; want %q", ours, err, object)
	}
}

func TestFormsRoundTrip(t *testing.T) {
	for n := range 140 {
		roundTrip(t, strings.Repeat("x", n))
		roundTrip(t, strings.Repeat(`"`, n))
	}
	for _, n := range []int{65520, 65530, 65531, 65535, 65536, 70000} {
		roundTrip(t, strings.Repeat("x", n))
	}
	for r := range rune(0x3000) {
		roundTrip(t, `{"data":"`+string(r)+`"}`)
	}
}

func FuzzForms(f *testing.F) {
	f.Add(`{"channel":"a","data":"\"\\ é 😀 \u2028"}`)
	f.Add("\u2028\u2029\x00\"")
	f.Fuzz(func(t *testing.T, object string) {
		if utf8.ValidString(object) {
			roundTrip(t, object)
		}
	})
}

func TestTruncate(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abc", 2, "ab"}, {"aé", 2, "a"}, {"é", 1, ""}, {"😀", 3, ""}} {
		if got := truncate(tc.in, tc.n); got != tc.want {
			t.Errorf("truncate(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

func BenchmarkAppendSockJS(b *testing.B) {
	object := []byte(`{"channel":"stories/5","uuid":"0190b5a8-7e2f-7d1c-9d3c-5f1f2f3f4f5f","data":{"text":"` + strings.Repeat("hello world ", 10) + `"}}`)
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	for b.Loop() {
		dst = appendSockJS(dst[:0], object)
	}
}
