// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// resting are the readers of this process that rest: no goroutine waits for their sockets.
// The sockets are in an epoll set of this package. One goroutine waits for all of them, and
// starts a goroutine for each reader that has something to read. A socket that is more than a
// descriptor is also in the set of Go's poller.
//
// A reader that is woken for nothing just waits in its goroutine for the next bytes. So an
// event may be late, and about a descriptor that another socket has got meanwhile.
var resting restingReaders

type restingReaders struct {
	mu       sync.Mutex // guards the following; wsConn.mu may be taken under it
	sessions int        // between enter and leave
	set      *epollSet  // nil while there is no session, or if the system has none to give
}

// A restingPlace is what restingReaders.mu guards of a wsConn.
type restingPlace struct {
	fd    int32 // of its socket; valid while it rests
	known bool  // the socket is in the epoll set
}

// An epollSet is an epoll set, and who rests.
type epollSet struct {
	fd   int
	file *os.File // the same, in Go's poller

	// Owned by run.
	events [128]syscall.EpollEvent
	n      int // how many of them were returned

	// Guarded by restingReaders.mu.
	byFD    []*wsConn        // by the descriptor of the socket; nil for one that does not rest
	next    *wsConn          // the argument of add
	failed  error            // the result of add
	addFunc func(fd uintptr) // add as a func value: making one for each call would allocate
}

func newEpollSet() (*epollSet, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// Only a file that does not block is waited for by Go's poller, without a thread.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), syscall.Close(fd))
	}
	s := &epollSet{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	s.addFunc = s.add
	return s, nil
}

// enter must precede the first call of rest of a session with a socket.
func (rs *restingReaders) enter() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.sessions++; rs.set != nil {
		return
	}
	s, err := newEpollSet()
	if err != nil {
		return // each session has a goroutine that waits, until another one comes
	}
	rs.set = s
	go rs.run(s)
}

// leave is the opposite of enter. After the last session nothing is left.
func (rs *restingReaders) leave() {
	rs.mu.Lock()
	var last *epollSet
	if rs.sessions--; rs.sessions == 0 {
		last, rs.set = rs.set, nil
	}
	rs.mu.Unlock()
	if last != nil {
		_ = last.file.Close() // ends run
	}
}

// run wakes readers that have something to read, until the set is closed.
func (rs *restingReaders) run(s *epollSet) {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return // the set is closed
	}
	var ready []*wsConn
	for conn.Read(s.look) == nil {
		rs.mu.Lock()
		for i := range s.events[:s.n] {
			if c := s.takeLocked(s.events[i].Fd); c != nil {
				ready = append(ready, c)
			}
		}
		rs.mu.Unlock()
		for i, c := range ready {
			ready[i] = nil
			go c.resume()
		}
		ready = ready[:0]
	}
}

// look reports whether there are events, and gets them.
func (s *epollSet) look(fd uintptr) bool {
	n, err := syscall.EpollWait(int(fd), s.events[:], 0)
	s.n = max(n, 0)
	return err == nil && n > 0
}

// takeLocked returns the conn that rests with this descriptor, which does not rest any more,
// or nil.
func (s *epollSet) takeLocked(fd int32) *wsConn {
	if int(fd) >= len(s.byFD) {
		return nil
	}
	c := s.byFD[fd]
	s.byFD[fd] = nil
	return c
}

// add, with restingReaders.mu held, makes s.next rest until its socket, which is fd, has something to read, or has failed.
func (s *epollSet) add(fd uintptr) {
	if more := int(fd) + 1 - len(s.byFD); more > 0 {
		s.byFD = append(s.byFD, make([]*wsConn, more)...)
	}
	if former := s.takeLocked(int32(fd)); former != nil {
		go former.resume() // its socket was closed, and wake will come too late to find it
	}
	c := s.next
	op := syscall.EPOLL_CTL_MOD
	if !c.place.known {
		op = syscall.EPOLL_CTL_ADD
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
	if s.failed = syscall.EpollCtl(s.fd, op, int(fd), &event); s.failed == nil {
		c.place = restingPlace{fd: event.Fd, known: true}
		s.byFD[fd] = c
	}
}

// rest lets the reader rest: resume is called in a new goroutine when there is something to
// read, and by wake. If it returns false, the reader must go on itself. Only the reader calls
// it, as its last act.
func (c *wsConn) rest() bool {
	if !c.hasSocket() {
		return false
	}
	resting.mu.Lock()
	defer resting.mu.Unlock()
	s := resting.set
	if s == nil || c.isClosing() { // Close has set a read deadline, or will wake it
		return false
	}
	s.next = c
	defer func() { s.next = nil }()
	if c.bare && c.socket.shed(s) {
		return true
	}
	err := c.control(s.addFunc) // fails if the socket is closed
	return err == nil && s.failed == nil
}

// shed makes the socket that set.next has only a descriptor, which rests in the set, unless
// somebody is about to wait for it. It reports whether it has. The caller holds
// restingReaders.mu.
//
// Go cannot take a descriptor away from a net.Conn. So the socket gets another one, and the
// net.Conn is closed, together with its own. An epoll set goes on to watch a descriptor that is
// closed while the socket has another one, so the old one is taken out.
func (s *bareSocket) shed(set *epollSet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || s.using > 0 || s.closed {
		return false
	}
	var fd uintptr
	done := false
	err := s.file.raw.Control(func(old uintptr) {
		var errno syscall.Errno
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 3) // not one of the standard files
		if errno != 0 {                                                                    // perhaps no descriptor is free
			return
		}
		before := set.next.place
		set.next.place = restingPlace{}
		if set.add(fd); set.failed != nil { // perhaps the set is full
			set.next.place = before
			_ = syscall.Close(int(fd))
			return
		}
		if done = true; before.known {
			_ = syscall.EpollCtl(set.fd, syscall.EPOLL_CTL_DEL, int(old), nil) // it is there
		}
	})
	if err != nil || !done {
		return false
	}
	_ = s.file.Close() // nothing waits for it, so this does not block
	s.file, s.fd = nil, int32(fd)
	return true
}

// wake makes a reader that rests go on, so that it notices a read deadline, or that the conn
// is closed. It must be called after the change: then the reader does not rest again.
func (c *wsConn) wake() {
	resting.mu.Lock()
	rests := resting.holdsLocked(c)
	if rests {
		resting.set.byFD[c.place.fd] = nil
	}
	resting.mu.Unlock()
	if rests {
		go c.resume()
	}
}

func (rs *restingReaders) holdsLocked(c *wsConn) bool {
	return rs.set != nil && int(c.place.fd) < len(rs.set.byFD) && rs.set.byFD[c.place.fd] == c
}
