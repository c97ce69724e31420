// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"os"
	"syscall"
)

// An idleWait waits until no goroutine is ready to run. Go's scheduler asks its poller which
// files are ready when it has nothing else to run, and every 10 ms. A counter of the kernel
// (eventfd(2)) is such a file. A goroutine increases it and waits for it: the poller then tells
// of it, after the sockets that were ready before. The zero value is ready.
type idleWait struct {
	file    *os.File // the counter; nil until it is needed, and then open for ever
	conn    syscall.RawConn
	counted bool
}

// wait does not wait if the system has no counter to give.
func (w *idleWait) wait() {
	if w.file == nil && w.open() != nil {
		return
	}
	w.counted = false
	_ = w.conn.Read(w.poll) // it fails only if the file is closed
}

// poll increases the counter when RawConn.Read calls it first: an earlier event could be lost.
// The poller reports each increase, so nobody has to read the counter.
func (w *idleWait) poll(fd uintptr) (done bool) {
	if w.counted {
		return true
	}
	w.counted = true
	_, err := ignoringEINTR(syscall.Write, fd, binary.NativeEndian.AppendUint64(nil, 1))
	return err != nil
}

func (w *idleWait) open() error {
	fd, _, failed := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if failed != 0 {
		return os.NewSyscallError("eventfd2", failed)
	}
	file := os.NewFile(fd, "turns")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return err
	}
	w.file, w.conn = file, conn
	return nil
}
