// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"net/netip"
	"strings"
)

// An Opening is a flat snapshot of the request that opens a session. An agent keeps it, as an
// Opened, and not the request, which would hold 10 to 20 KB in memory.
type Opening struct {
	// Transport is the name of the session's transport, such as "websocket".
	Transport string
	// RemoteIP is the client's address after trusted proxies. It is invalid if there is
	// none (unix sockets).
	RemoteIP netip.Addr
	// Scheme and Host are those of the site, after trusted proxies. Host includes the port
	// if the request named one.
	Scheme, Host string
	// URI is the requested path of the endpoint and the query, without the part of the
	// path that SockJS adds.
	URI string
	// RemoteAddr is the address and port of the connection's peer, which may be a proxy.
	RemoteAddr string
	// Namespace separates the channels of this session from those of other namespaces.
	// It is one segment of a channel's name, or empty.
	Namespace string
	// User is the user that Caddy authenticated, or empty.
	User string
	// Certificate is a hash of the client's certificate, or empty.
	Certificate string
	// Tracer makes the spans of the session below the span of the request. It is nil if
	// the request is not traced.
	Tracer Tracer
	// Values are the other values of the request that the policy uses, in an encoding
	// that only the policy knows.
	Values string
	// Header holds the request's header fields, as HeaderBlock returned them.
	Header string
}

// HeaderBlock joins header fields, as name, value pairs, in one string, so that a request
// needs one allocation. It leaves out values that contain CR, LF or NUL.
func HeaderBlock(fields func(yield func(name, value string) bool)) string {
	join := getJoin(0)
	defer putJoin(join)
	for name, value := range fields {
		if strings.ContainsAny(value, "\r\n\x00") || strings.ContainsAny(name, ":\r\n\x00") {
			continue
		}
		join.bytes = append(append(join.bytes, name...), ':')
		join.bytes = append(append(join.bytes, value...), '\n')
	}
	return string(join.bytes)
}

// Fields yields the name and value of each header field of the snapshot.
func (o *Opening) Fields(yield func(name, value string) bool) {
	for line := range strings.Lines(o.Header) {
		if name, value := cutField(line); !yield(name, value) {
			return
		}
	}
}

// cutField returns the name and value in a line of a header block.
func cutField(line string) (name, value string) {
	name, value, _ = strings.Cut(strings.TrimSuffix(line, "\n"), ":")
	return name, value
}
