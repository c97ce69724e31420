// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

func TestSubjects(t *testing.T) {
	n := newNames("pushit", "my.hub", "", "i1")
	for key, want := range map[string]string{
		"news":           "pushit.my%2Ehub.p.0.news",
		"rooms/7/typing": "pushit.my%2Ehub.p.0.rooms.7.typing",
		"acme\x00news":   "pushit.my%2Ehub.p.nacme.news",
		"a.b/100%/ü/x>":  "pushit.my%2Ehub.p.0.a%2Eb.100%25.%C3%BC.x%3E",
		"":               "pushit.my%2Ehub.p.0.%--",
	} {
		if got := n.publish(key); got != want {
			t.Errorf("%q becomes %s, want %s", key, got, want)
		}
	}
	if got := newNames("a.b", "c.d", "eu", "i1"); got.stream != "a%2Eb-c%2Ed" || got.api != "$JS.eu.API." {
		t.Errorf("the stream is %s, the API %s", got.stream, got.api)
	}
	long := n.publish(strings.Repeat("ü", hub.MaxNameLength/2) + "\x00" + strings.Repeat("ü", hub.MaxNameLength/2))
	if len(long) > 4000 {
		t.Errorf("a subject has %d bytes, more than a line of NATS", len(long))
	}
}

// Different keys have different subjects, all are valid, and what is below a pattern is what
// the pattern matches.
func FuzzSubjects(f *testing.F) {
	f.Add("news", "news/7", "", "")
	f.Add("a.b", "a%2Eb", "n", "n")
	f.Add("a/b", "a.b", "x", "")
	f.Add("", "%--", "", "n")
	f.Add("a", "b\x00a", "b", "")
	n := newNames("pushit", "default", "", "i1")
	f.Fuzz(func(t *testing.T, one, other, namespace, another string) {
		if strings.Contains(one+other+namespace+another, "\x00") {
			return // no name has one
		}
		key := func(namespace, name string) string {
			if namespace == "" {
				return name
			}
			return namespace + "\x00" + name
		}
		a, b := key(namespace, one), key(another, other)
		first, second := n.publish(a), n.publish(b)
		if (a == b) != (first == second) {
			t.Errorf("%q becomes %s, %q becomes %s", a, first, b, second)
		}
		for part := range strings.SplitSeq(first, ".") {
			if part == "" || strings.ContainsAny(part, " \t\r\n\f*>\x7f") || strings.ContainsFunc(part, func(r rune) bool { return r >= 0x7f }) {
				t.Errorf("%q becomes %q, which is no subject", a, first)
			}
		}
		matches := namespace == another && strings.HasPrefix(other, one+"/")
		if below := strings.HasPrefix(second, first+"."); below != matches {
			t.Errorf("%s is below %s: %t; %q matches %q: %t", second, first, below, one+"/*", other, matches)
		}
	})
}

func FuzzUnframe(f *testing.F) {
	u := &bus{self: hub.NodeID{Name: "a", Incarnation: "b"}}
	f.Add(u.framed([]byte("x")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		from, rest, ok := unframe(b)
		if !ok {
			return
		}
		again, same, ok := unframe((&bus{self: from}).framed(rest))
		if !ok || again != from || string(same) != string(rest) {
			t.Errorf("%v %q became %v %q", from, rest, again, same)
		}
	})
}
