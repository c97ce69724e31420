// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// A target is a server and how to reach it.
type target struct {
	addr string      // host:port
	tls  *tls.Config // nil for none
}

func (t target) origin() string {
	if t.tls != nil {
		return "https://" + t.addr
	}
	return "http://" + t.addr
}

// socketOptions are settings that a test may change.
type socketOptions struct {
	readBuffer    int      // of the program, default 1 KiB
	receiveBuffer int      // of the kernel, default the kernel's
	cookie        string   // sent before the ordinary ones
	arrival       *arrival // not nil: has the kernel's time of what was read last
}

// dialTimeout bounds the opening of a connection, from the first packet to the
// answer to the first frame.
const dialTimeout = 20 * time.Second

// upgradeTo is what Chromium 156 sends to open a WebSocket, with the cookies of an
// ordinary site.
func upgradeTo(t target, path string, o socketOptions) *wireclient.Upgrade {
	cookies := "session=2f1c7b0e9d4a4c55b7f0e6a1d8c3b294; theme=dark; consent=v2.necessary.statistics; _visit=1795436112.4.1795439671"
	if o.cookie != "" {
		cookies = o.cookie + "; " + cookies
	}
	return &wireclient.Upgrade{Host: t.addr, Path: path, ReadBuffer: o.readBuffer, Header: http.Header{
		"Pragma":                   {"no-cache"},
		"Cache-Control":            {"no-cache"},
		"User-Agent":               {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"},
		"Origin":                   {t.origin()},
		"Accept-Encoding":          {"gzip, deflate, br, zstd"},
		"Accept-Language":          {"en-US,en;q=0.9,de;q=0.8"},
		"Cookie":                   {cookies},
		"Sec-WebSocket-Extensions": {"permessage-deflate; client_max_window_bits"},
	}}
}

// dial opens a WebSocket as Chromium does. The deadline of the opening is still set when it
// returns: see opened.
func dial(ctx context.Context, t target, path string, o socketOptions) (*wireclient.WebSocket, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if o.receiveBuffer > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error { return setReceiveBuffer(c, o.receiveBuffer) }
	}
	conn, err := d.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	read := conn
	if o.arrival != nil {
		if read, err = stampArrivals(conn, o.arrival); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	ws, err := upgrade(ctx, read, t, path, o)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("opening %s%s: %w", t.origin(), path, err)
	}
	return ws, nil
}

func upgrade(ctx context.Context, conn net.Conn, t target, path string, o socketOptions) (*wireclient.WebSocket, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	if t.tls != nil {
		secure := tls.Client(conn, t.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", wireclient.ErrUnanswered, err)
		}
		conn = secure
	}
	ws, _, err := wireclient.Open(conn, upgradeTo(t, path, o)) //nolint:bodyclose // what it was read from is closed
	return ws, err
}

// opened removes the deadline of the opening.
func opened(ws *wireclient.WebSocket) error { return ws.Conn.SetDeadline(time.Time{}) }
