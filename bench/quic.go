// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/push-it/pushit/internal/wireclient"
)

const (
	// quicIdle is how long an unused connection of HTTP/3 stays open: a client does not
	// close it when a reload makes the client open another one. It is longer than any pause
	// in the stream.
	quicIdle = 20 * time.Second
	// quicHello is how long the client waits for the server's first frame, its settings.
	quicHello = time.Second
)

// A quicTransport makes requests over a connection of HTTP/3, and over a new one when that
// has ended. It makes no request before the server has sent its settings: a server that
// stops accepts some connections that it then does not serve.
type quicTransport struct {
	unread *unread

	mu       sync.Mutex // guards the following; held while one dials
	client   *http3.ClientConn
	all      []*quic.Conn
	unserved int // connections that were accepted and not served
}

// RoundTrip implements http.RoundTripper.
func (q *quicTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	const tries = 5
	for try := 1; ; try++ {
		c, err := q.get(r.Context(), r.URL.Host)
		if err != nil {
			return nil, err
		}
		if try > 1 && r.GetBody != nil {
			r = r.Clone(r.Context()) // the last try may still read the body
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err := c.RoundTrip(r)
		if err == nil || try == tries || r.Context().Err() != nil || !wireclient.IsUnread(err) {
			return resp, err
		}
		q.unread.count(3, true, 1)
		q.drop(c)
	}
}

// get returns a connection that requests can be made over.
func (q *quicTransport) get(ctx context.Context, addr string) (*http3.ClientConn, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	const tries = 5
	for try := 0; q.client == nil; try++ {
		if try == tries {
			return nil, errors.New("no connection of HTTP/3 is served")
		}
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}} //nolint:gosec // G402: as in clients.of
		conn, err := quic.DialAddr(ctx, addr, config, &quic.Config{MaxIdleTimeout: quicIdle})
		if err != nil {
			return nil, err
		}
		client := new(http3.Transport).NewClientConn(conn)
		hello := time.NewTimer(quicHello)
		select {
		case <-client.ReceivedSettings():
			q.client, q.all = client, append(q.all, conn)
		case <-hello.C:
			_ = conn.CloseWithError(0, "") // the peer may be gone
			q.unserved++
		}
		hello.Stop()
	}
	return q.client, nil
}

// drop has the next request make another connection.
func (q *quicTransport) drop(c *http3.ClientConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.client == c {
		q.client = nil
	}
}

// close ends all connections.
func (q *quicTransport) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, conn := range q.all {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}
