// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
	"weak"
)

// chromium returns the Opening of a Chromium whose user is logged in. Each n has a cookie and
// an address of its own.
func chromium(n int) Opening {
	ip := netip.AddrFrom4([4]byte{203, byte(n >> 16), byte(n >> 8), byte(n)})
	return Opening{
		Transport: "websocket", RemoteIP: ip, Scheme: "https", Host: "app.example.com", URI: "/push",
		RemoteAddr: netip.AddrPortFrom(ip, uint16(40000+n%20000)).String(),
		Header: block(
			"Accept-Encoding", "gzip, deflate, br, zstd",
			"Accept-Language", "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7",
			"Cache-Control", "no-cache",
			"Cookie", fmt.Sprintf("sessionid=3f9a2c71d0b84e65a1c7f2e9%08d; csrftoken=Yb7kQ2xLwT9vNs4RpZc1Hd8MfGj6EoUa; theme=dark", n),
			"Origin", "https://app.example.com",
			"Pragma", "no-cache",
			"User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
		),
	}
}

// block returns the header block of fields, given as names and values.
func block(namesAndValues ...string) string {
	return HeaderBlock(func(yield func(name, value string) bool) {
		for pair := range slices.Chunk(namesAndValues, 2) {
			if !yield(pair[0], pair[1]) {
				return
			}
		}
	})
}

// checkOpened fails unless an agent would see of o what the transport gave.
func checkOpened(t *testing.T, o *Opening) {
	t.Helper()
	d := newOpened(o)
	for name, values := range map[string][2]string{
		"Transport":   {d.Transport(), o.Transport},
		"Namespace":   {d.Namespace(), o.Namespace},
		"Scheme":      {d.Scheme(), o.Scheme},
		"Host":        {d.Host(), o.Host},
		"URI":         {d.URI(), o.URI},
		"RemoteAddr":  {d.RemoteAddr(), o.RemoteAddr},
		"User":        {d.User(), o.User},
		"Certificate": {d.Certificate(), o.Certificate},
		"Values":      {d.Values(), o.Values},
	} {
		if values[0] != values[1] {
			t.Errorf("%s is %q, want %q", name, values[0], values[1])
		}
	}
	if d.RemoteIP() != o.RemoteIP {
		t.Errorf("RemoteIP is %v, want %v", d.RemoteIP(), o.RemoteIP)
	}
	if got, want := d.address(), addressKey(o.RemoteIP); got != want {
		t.Errorf("the session counts under %v, want %v", got, want)
	}
	if d.tracer() != o.Tracer {
		t.Errorf("the tracer is %v, want %v", d.tracer(), o.Tracer)
	}
	if got, want := fieldsOf(d.Fields), fieldsOf(o.Fields); !slices.Equal(got, want) {
		t.Errorf("the fields are %q, want %q", got, want)
	}
	for range d.Fields {
		break // must not go on
	}
}

func fieldsOf(fields func(yield func(name, value string) bool)) (all [][2]string) {
	for name, value := range fields {
		all = append(all, [2]string{name, value})
	}
	return all
}

// A namedTracer is a Tracer that cannot be compared with ==.
type namedTracer []string

func (namedTracer) Start(ctx context.Context, _ SpanName, _ string) (context.Context, Span) {
	return ctx, nil
}

func TestOpenedHasWhatTheOpeningHad(t *testing.T) {
	ip := netip.MustParseAddr
	for name, o := range map[string]Opening{
		"nothing":              {},
		"Chromium":             chromium(1),
		"a proxy":              {RemoteIP: ip("203.0.113.7"), RemoteAddr: "10.0.0.1:4711"},
		"IPv6":                 {RemoteIP: ip("2001:db8::1"), RemoteAddr: "[2001:db8::1]:4711"},
		"IPv6 behind a proxy":  {RemoteIP: ip("2001:db8::1"), RemoteAddr: "10.0.0.1:4711"},
		"IPv6 with a zone":     {RemoteIP: ip("fe80::1%eth0"), RemoteAddr: "[fe80::1%eth0]:4711"},
		"another zone":         {RemoteIP: ip("fe80::1%eth1"), RemoteAddr: "[fe80::1%eth0]:4711"},
		"IPv4 as IPv6":         {RemoteIP: ip("::ffff:192.0.2.1"), RemoteAddr: "192.0.2.1:4711"},
		"IPv4 of a v6 socket":  {RemoteIP: ip("192.0.2.1"), RemoteAddr: "[::ffff:192.0.2.1]:4711"},
		"no IP":                {RemoteAddr: "192.0.2.1:4711"},
		"a unix socket":        {RemoteAddr: "@"},
		"no RemoteAddr":        {RemoteIP: ip("192.0.2.1")},
		"an unspecified IP":    {RemoteIP: ip("::")},
		"a query":              {URI: "/push?token=secret"},
		"an empty query":       {URI: "/push?"},
		"repeated fields":      {Header: block("Cookie", "a", "Accept", "b", "Cookie", "c", "Accept", "d", "Cookie", "a")},
		"empty values":         {Header: block("Cookie", "", "Accept", "", "", "")},
		"other case":           {Header: block("cookie", "a", "user-agent", "b", "User-agent", "c")},
		"only its own":         {Header: block("Cookie", "a")},
		"only common fields":   {Header: block("Accept", "a")},
		"lines without colons": {Header: "\nAccept\n\nCookie\nAccept:b\nCookie:c"},
		"no last line break":   {Header: "Cookie:c\nAccept:b"},
		"all the rest": {
			Namespace: "acme", User: "bob", Certificate: strings.Repeat("c", 64), Tracer: new(nullTracer),
			Values: "http.vars.a\t=b\n",
		},
	} {
		t.Run(name, func(t *testing.T) { checkOpened(t, &o) })
	}
	if o := (Opening{Tracer: namedTracer{"a"}}); newOpened(&o).rare == nil {
		t.Error("the tracer is lost")
	}
}

// A nullTracer is a Tracer that makes no spans.
type nullTracer struct{ namedTracer }

func FuzzOpened(f *testing.F) {
	f.Add("websocket", "acme", "https", "example.com", "/push?a", "192.0.2.1:1", "bob", "v\t=1\n", "Cookie:a\nAccept:b\n", []byte{192, 0, 2, 1}, "")
	f.Add("", "", "", "", "", "[fe80::1%eth0]:1", "", "", "\nCookie\n\nAccept:b", netip.MustParseAddr("fe80::1").AsSlice(), "eth0")
	f.Fuzz(func(t *testing.T, transport, namespace, scheme, host, uri, remoteAddr, user, values, header string, ip []byte, zone string) {
		addr, _ := netip.AddrFromSlice(ip)
		addr = addr.WithZone(zone)
		o := Opening{
			Transport: transport, Namespace: namespace, Scheme: scheme, Host: host, URI: uri, RemoteIP: addr,
			RemoteAddr: remoteAddr, User: user, Values: values, Header: header,
		}
		checkOpened(t, &o)
		// Questions to backends are told apart by the HeaderKey.
		d := newOpened(&o)
		for _, other := range []string{header + "\n", strings.Replace(header, "\n", "", 1), strings.ToUpper(header), values} {
			e := newOpened(&Opening{Header: other})
			common, own := d.HeaderKey()
			otherCommon, otherOwn := e.HeaderKey()
			if equal := common == otherCommon && own == otherOwn; equal != (header == other) {
				t.Errorf("the keys of %q and %q are equal: %t", header, other, equal)
			}
		}
	})
}

// 100,000 agents may be idle, so each byte counts.
func TestOpenedIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Opened{}); size > 40 {
		t.Errorf("an Opened has %d bytes", size)
	}
	one, two := chromium(1), chromium(2)
	a, b := newOpened(&one), newOpened(&two)
	if a.site != b.site || a.common != b.common {
		t.Error("two Chromiums share less than they could")
	}
	if a.rare != nil {
		t.Error("a usual session has rare values")
	}
	if own := len(a.own); own > 160 {
		t.Errorf("the own part has %d bytes, %d of them in the cookies", own, strings.Index(one.Header, "\nOrigin")-strings.Index(one.Header, "Cookie"))
	}
}

// What is shared outlives each of the agents that share it, and is compared with what others
// send. So credentials must not be in it, and neither may fields that nobody knows.
func TestCredentialsAreNotShared(t *testing.T) {
	names := []string{
		"Authorization", "Cookie", "Cookie2", "Proxy-Authorization", "X-Api-Key", "X-Auth-Token", "X-Csrf-Token", "X-Unknown",
		"Sec-Websocket-Key", "Sec-Websocket-Protocol", "X-Forwarded-For", "X-Real-Ip", "Forwarded", "Remote-User", "Referer",
		"X-Request-Id", "Traceparent", "Cf-Access-Jwt-Assertion", "X-Forwarded-Client-Cert", "cookie", "authorization",
	}
	fields := []string{"Accept", "*/*"}
	for _, name := range names {
		fields = append(fields, name, "secret")
	}
	o := Opening{
		Transport: "websocket", Host: "example.com", URI: "/push?token=secret", RemoteAddr: "secret:1", User: "secret",
		Certificate: "secret", Values: "http.vars.a\t=secret\n", Header: block(fields...),
	}
	d := newOpened(&o)
	if shared := fmt.Sprintf("%q %q", d.site.Value(), d.common.Value()); strings.Contains(shared, "secret") {
		t.Errorf("agents share a secret: %s", shared)
	}
	checkOpened(t, &o)
}

// isForgotten reports whether the garbage collector frees what p points to.
func isForgotten(p weak.Pointer[byte]) bool {
	for range 20 { // the hub's pools forget what is in them after two collections
		if runtime.GC(); p.Value() == nil {
			return true
		}
	}
	return false
}

// bytesOf returns weak pointers to the header lines that an agent shares, and to its own part.
func bytesOf(a *Agent) (common, own weak.Pointer[byte]) {
	return weak.Make(unsafe.StringData(a.opening.common.Value())), weak.Make(unsafe.StringData(a.opening.own))
}

func TestNothingIsLeftOfAgents(t *testing.T) {
	h, err := New("left", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := h.Use(&Policy{})
	open := func(agent string) *Agent {
		o := chromium(1)
		o.Header = strings.Replace(o.Header, "Mozilla", agent, 1)
		a, err := h.Open(p, o)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	one, two, other := open("TestOne"), open("TestOne"), open("TestOther")
	common, own := bytesOf(one)
	commonOfTwo, _ := bytesOf(two)
	commonOfOther, _ := bytesOf(other)
	if common != commonOfTwo || common == commonOfOther {
		t.Fatal("the test itself is wrong: one and two must share their header lines, other must not")
	}
	one.Left("the test says so")
	one = nil
	other.Left("the test says so")
	other = nil
	if !isForgotten(own) {
		t.Error("the own part of an agent is left")
	}
	if !isForgotten(commonOfOther) {
		t.Error("header lines that no agent uses are left")
	}
	if common.Value() == nil {
		t.Error("header lines that an agent uses are gone")
	}
	checkHeader(t, two)
	two.Left("the test says so")
	two = nil
	if !isForgotten(common) {
		t.Error("after the last agent, what they shared is left")
	}
	if len(h.quota.by) != 0 {
		t.Error("the quota counts an address without sessions")
	}
}

func checkHeader(t *testing.T, a *Agent) {
	t.Helper()
	for name, value := range a.Opening().Fields {
		if name == "User-Agent" && strings.HasPrefix(value, "TestOne/5.0") {
			return
		}
	}
	t.Error("the agent that stays has lost a field")
}

// BenchmarkOpen measures what it takes to open a session and to end it.
func BenchmarkOpen(b *testing.B) {
	h, err := New("open", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	p := h.Use(&Policy{})
	openings := make([]Opening, 1000)
	for n := range openings {
		openings[n] = chromium(n)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		a, err := h.Open(p, openings[n%len(openings)])
		if err != nil {
			b.Fatal(err)
		}
		a.Left("done")
	}
}
