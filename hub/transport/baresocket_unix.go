// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A bareSocket is a socket without TLS. While nobody has to wait for it, it can do without the
// net.Conn that it came as: then it is a descriptor and nothing more, and saves the memory of
// the net.Conn, of its addresses, and of what the runtime keeps to wait for it. If somebody has
// to wait later, for example to write more than the socket takes at once, an os.File takes the
// place of the net.Conn.
//
// Nobody else may close the net.Conn.
type bareSocket struct {
	mu      sync.Mutex    // guards the following; no other lock of this package is taken under it
	fd      int32         // the descriptor, while file is nil
	using   int16         // how many calls use file, and may be waiting
	closed  bool          // Close was called
	file    *socketFile   // nil while the socket is only a descriptor
	readBy  time.Duration // the deadlines, since epoch; 0 is none
	writeBy time.Duration
}

// A socketFile is a socket that Go's poller waits for: a net.Conn or an *os.File.
type socketFile struct {
	byteStream
	raw syscall.RawConn // the same
}

// own makes s the owner of nc, whose socket raw is.
func (s *bareSocket) own(nc net.Conn, raw syscall.RawConn) { s.file = &socketFile{nc, raw} }

// control calls f with the descriptor, which is open until f returns.
func (s *bareSocket) control(f func(fd uintptr)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.file != nil:
		return s.file.raw.Control(f)
	default:
		f(uintptr(s.fd))
		return nil
	}
}

// use returns a file to wait with. After it, the caller calls unuse.
func (s *bareSocket) use() (*socketFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.file == nil {
		file := os.NewFile(uintptr(s.fd), "socket")
		raw, err := file.SyscallConn()
		if err != nil {
			return nil, err
		}
		s.file = &socketFile{file, raw}
		if err := s.setDeadlinesLocked(); err != nil {
			return nil, err
		}
	}
	s.using++
	return s.file, nil
}

func (s *bareSocket) unuse() {
	s.mu.Lock()
	s.using--
	s.mu.Unlock()
}

// setDeadlinesLocked gives a new file the deadlines that were set before.
func (s *bareSocket) setDeadlinesLocked() error {
	if s.readBy != 0 {
		if err := s.file.SetReadDeadline(epoch.Add(s.readBy)); err != nil {
			return err
		}
	}
	if s.writeBy != 0 {
		return s.file.SetWriteDeadline(epoch.Add(s.writeBy))
	}
	return nil
}

// read waits for bytes and returns them in a buffer from the pool, which the caller puts back.
// The read deadline applies.
func (s *bareSocket) read() (b *readBuffer, n int, err error) {
	f, err := s.use()
	if err != nil {
		return nil, 0, err
	}
	defer s.unuse()
	t := transfers.Get().(*transfer)
	b, n, err = t.done(f.raw.Read(t.awaitRead))
	return b, n, alike(err)
}

// tryRead is read that does not wait, and ignores the deadline. If nothing has arrived, b is nil.
func (s *bareSocket) tryRead() (b *readBuffer, n int, err error) {
	t := transfers.Get().(*transfer)
	return t.done(s.control(t.readNow))
}

// tryWrite writes as much as the socket takes at once. It ignores the write deadline.
func (s *bareSocket) tryWrite(p []byte) (n int, err error) {
	t := transfers.Get().(*transfer)
	t.p = p
	_, n, err = t.done(s.control(t.writeNow))
	return n, err
}

// Write waits until all is written, or the write deadline has passed.
func (s *bareSocket) Write(p []byte) (n int, err error) {
	f, err := s.use()
	if err != nil {
		return 0, err
	}
	defer s.unuse()
	n, err = f.Write(p)
	return n, alike(err)
}

// alike returns the same error for a closed os.File as for a closed net.Conn.
func alike(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// SetReadDeadline sets the deadline of read, also of one that waits.
func (s *bareSocket) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.readBy, t, (*socketFile).SetReadDeadline)
}

// SetWriteDeadline sets the deadline of Write, also of one that waits.
func (s *bareSocket) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeBy, t, (*socketFile).SetWriteDeadline)
}

// setDeadline keeps a deadline in by, and sets it if there is a file.
func (s *bareSocket) setDeadline(by *time.Duration, t time.Time, set func(*socketFile, time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *by = 0; !t.IsZero() {
		*by = t.Sub(epoch)
	}
	switch {
	case s.closed:
		return net.ErrClosed
	case s.file != nil:
		return set(s.file, t)
	default:
		return nil
	}
}

// CloseWrite ends the direction to the peer.
func (s *bareSocket) CloseWrite() (err error) {
	failed := s.control(func(fd uintptr) { err = os.NewSyscallError("shutdown", syscall.Shutdown(int(fd), syscall.SHUT_WR)) })
	if failed != nil {
		return failed
	}
	return err
}

// Close closes the socket, and ends calls that wait.
func (s *bareSocket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	if f := s.file; f != nil {
		s.mu.Unlock() // calls that wait need it to end
		return f.Close()
	}
	defer s.mu.Unlock()
	return os.NewSyscallError("close", syscall.Close(int(s.fd)))
}
