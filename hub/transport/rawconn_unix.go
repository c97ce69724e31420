// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package transport

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// A transfer is one read from a socket, or one write, with its own system call. Reading needs
// no buffer while it waits for bytes, and writing does not block. A transfer has func values of
// its own, because making one for each call would allocate.
type transfer struct {
	readNow, writeNow func(fd uintptr)      // do not wait
	awaitRead         func(fd uintptr) bool // for RawConn.Read

	p   []byte      // to write
	got *readBuffer // what was read
	n   int
	err error
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.readNow, t.writeNow = func(fd uintptr) { t.readOnce(fd) }, t.writeOnce
	t.awaitRead = t.readOnce
	return t
}}

// done returns t to the pool, and its results.
func (t *transfer) done(failed error) (b *readBuffer, n int, err error) {
	b, n, err = t.got, t.n, t.err
	t.p, t.got, t.n, t.err = nil, nil, 0, nil
	transfers.Put(t)
	if failed != nil {
		return nil, 0, failed
	}
	return b, n, err
}

// socketOf returns nil if nc is not a bare socket.
func socketOf(nc net.Conn) (rc syscall.RawConn) {
	var err error
	switch c := nc.(type) {
	case *net.TCPConn:
		rc, err = c.SyscallConn()
	case *net.UnixConn:
		rc, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return rc
}

// isReadable reports whether a read from the socket would not block. Like readOnce, it must
// try each time, so it looks at the next byte.
func isReadable(fd uintptr) bool {
	var next [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK)
		if !errors.Is(err, syscall.EINTR) {
			return !errors.Is(err, syscall.EAGAIN)
		}
	}
}

// peek reports whether bytes wait in a socket, and whether instead it has come to its end.
func peek(rc syscall.RawConn) (waits, ended bool) {
	err := rc.Control(func(fd uintptr) {
		var next [1]byte
		n, err := ignoringEINTR(func(fd int, p []byte) (int, error) {
			n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK)
			return n, err
		}, fd, next[:])
		waits, ended = n > 0, n <= 0 && !errors.Is(err, syscall.EAGAIN)
	})
	return waits, ended || err != nil
}

// readOnce reports whether there was anything to read. It must try each time: the runtime's
// poller reports only changes, so a goroutine that waits without an EAGAIN before waits for
// ever.
func (t *transfer) readOnce(fd uintptr) bool {
	b := readBuffers.Get().(*readBuffer)
	n, err := ignoringEINTR(readNow, fd, b[:])
	switch {
	case errors.Is(err, syscall.EAGAIN):
		readBuffers.Put(b)
		return false
	case err == nil && n == 0:
		err = io.EOF
	}
	if err != nil {
		readBuffers.Put(b)
		b, n = nil, 0
	}
	t.got, t.n, t.err = b, n, err
	return true
}

func (t *transfer) writeOnce(fd uintptr) {
	n, err := ignoringEINTR(writeNow, fd, t.p)
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	t.n, t.err = max(n, 0), err
}

func ignoringEINTR(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
