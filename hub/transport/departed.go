// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"net"
	"net/http"
	"syscall"
	"time"
)

// A response is complete when the operating system has taken its last byte. By then the client
// may have left, and net/http need not know it yet: it reads the end of the connection in a
// goroutine of its own. This is so above all in a server that has hung. It finds requests
// whose clients gave up long ago, and frames that wait for them. If such a frame counted as
// delivered, the session would go on until it expires, and its agent would be listed as
// present. So a response looks at the socket itself.

// netHTTPReads is how long net/http may take to read what the socket has.
const netHTTPReads = 100 * time.Millisecond

// connKey is the key of the connection in the context of its requests.
type connKey struct{}

// ConnContext is for the field ConnContext of an [http.Server]. With it, an Endpoint notices
// sooner that clients have left.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) == c {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}

// socketFor returns the socket that a request has come over, nil if it is not known.
func socketFor(r *http.Request) syscall.RawConn {
	outermost, _ := r.Context().Value(connKey{}).(net.Conn)
	var innermost net.Conn
	for nc := range wrapped(outermost) {
		innermost = nc
	}
	return socketOf(innermost)
}

// hasLeft reports whether the client that r was written for has left, as far as the socket
// knows. client is the context of the request.
func (r *response) hasLeft(client context.Context) bool {
	if r.socket == nil {
		return client.Err() != nil
	}
	for late := time.Now().Add(netHTTPReads); ; time.Sleep(time.Millisecond) {
		switch waits, ended := peek(r.socket); {
		case ended:
			return true
		case !waits || client.Err() != nil || time.Now().After(late):
			return client.Err() != nil
		}
		// TLS, or a request over HTTP/2, may say that the client leaves: net/http reads it now.
	}
}
