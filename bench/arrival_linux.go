// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A stampedConn notes when the kernel received what Read returns, see SO_TIMESTAMPNS in
// socket(7).
type stampedConn struct {
	net.Conn
	raw     syscall.RawConn
	arrival *arrival
	control [64]byte // owned by Read
}

// stampArrivals returns conn, which notes in a when the kernel received what it reads.
func stampArrivals(conn net.Conn, a *arrival) (net.Conn, error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1))
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("having arrivals stamped: %w", err)
	}
	return &stampedConn{Conn: conn, raw: raw, arrival: a}, nil
}

func (c *stampedConn) Read(p []byte) (n int, err error) {
	var control int
	var failed error
	err = c.raw.Read(func(fd uintptr) (done bool) {
		for {
			n, control, _, _, failed = syscall.Recvmsg(int(fd), p, c.control[:], 0)
			if failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, os.NewSyscallError("recvmsg", failed)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	if t, ok := stampIn(c.control[:control]); ok {
		c.arrival.note(t)
	}
	return n, nil
}

// stampIn returns the time in a control message of the kernel.
func stampIn(control []byte) (t time.Time, ok bool) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return t, false
	}
	for _, m := range messages {
		if m.Header.Level != syscall.SOL_SOCKET || m.Header.Type != syscall.SCM_TIMESTAMPNS {
			continue
		}
		switch order := binary.NativeEndian; len(m.Data) { // a timespec
		case 16:
			return time.Unix(int64(order.Uint64(m.Data)), int64(order.Uint64(m.Data[8:]))), true
		case 8:
			return time.Unix(int64(order.Uint32(m.Data)), int64(order.Uint32(m.Data[4:]))), true
		}
	}
	return t, false
}
