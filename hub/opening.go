// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"net/netip"
	"strings"
)

// An Opening is a flat snapshot of the request that opened a session. An agent
// keeps it, never the request itself, which would pin 10 to 20 KB.
type Opening struct {
	// Transport is what carries the session: "websocket", …
	Transport string
	// RemoteIP is the client's address as the server resolved it (trusted
	// proxies). It may be invalid where there is none (unix sockets).
	RemoteIP netip.Addr
	// Scheme and Host are of the site, after trusted proxies; Host has the port
	// where the request named one.
	Scheme, Host string
	// URI is the path of the endpoint and the query as they were asked for,
	// without what SockJS adds below the path.
	URI string
	// RemoteAddr is the address and port of the connection's far end, which may be
	// a proxy's.
	RemoteAddr string
	// Namespace keeps the names of this session apart from those of others; empty
	// is none. It is one segment of a channel's name.
	Namespace string
	// User is who Caddy authenticated, empty when nobody.
	User string
	// Certificate is a hash of the client's certificate, empty where it showed none.
	Certificate string
	// Tracer makes the spans of the session, under that of the request; nil where
	// the request is not traced.
	Tracer Tracer
	// Values are those of what else the policy names of the request, in a form that is
	// the policy's own.
	Values string
	// Header is what HeaderBlock made of the request's header fields.
	Header string
}

// HeaderBlock joins header fields, as name, value pairs, in one string: one
// allocation for a whole request. Values with CR, LF or NUL are left out.
func HeaderBlock(fields func(yield func(name, value string) bool)) string {
	var b strings.Builder
	for name, value := range fields {
		if strings.ContainsAny(value, "\r\n\x00") || strings.ContainsAny(name, ":\r\n\x00") {
			continue
		}
		b.WriteString(name)
		b.WriteByte(':')
		b.WriteString(value)
		b.WriteByte('\n')
	}
	return strings.Clone(b.String())
}

// Fields yields the name and value of each header field of the snapshot.
func (o *Opening) Fields(yield func(name, value string) bool) {
	for line := range strings.Lines(o.Header) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !yield(name, value) {
			return
		}
	}
}
