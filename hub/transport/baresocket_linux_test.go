// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/push-it/pushit/hub"
)

// isOnlyDescriptor reports whether the socket is only a descriptor.
func (s *bareSocket) isOnlyDescriptor() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file == nil && !s.closed
}

// shed calls bareSocket.shed with an epoll set that nobody waits for.
func shed(t *testing.T, c *wsConn) bool {
	t.Helper()
	set, err := newEpollSet()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = set.file.Close() }()
	set.next, c.place = c, restingPlace{}
	return c.socket.shed(set)
}

// shedSocket returns a conn whose socket is only a descriptor, and its peer.
func shedSocket(t *testing.T, network string, waits *times) (*wsConn, net.Conn) {
	t.Helper()
	ours, theirs := socketPair(t, network)
	_ = theirs.SetDeadline(time.Now().Add(patience))
	c := newConn(ours, bareForm, waits)
	if !shed(t, c) || !c.socket.isOnlyDescriptor() {
		t.Fatal("the socket has kept its net.Conn")
	}
	t.Cleanup(func() { _ = c.nc.Close() })
	return c, theirs
}

func eachNetwork(t *testing.T, f func(t *testing.T, network string)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) { f(t, network) })
	}
}

// TestIdleConnsAreSmall: there may be 100,000 of them, and Go's heap takes twice what is in use.
func TestIdleConnsAreSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(wsReader{}); size > 224 {
		t.Errorf("a wsReader, with its wsConn, takes %d bytes, more than the 224 of its size class", size)
	}
	r, a, p := rest(t, restingPairs["tcp"], patient)
	if !r.conn.socket.isOnlyDescriptor() {
		t.Error("the socket of a reader that rests has a file")
	}
	_ = p.nc.Close()
	<-a.left
}

// TestShedSocketsAreConns: a socket that is only a descriptor writes without waiting, waits to
// write more, and goes on being read.
func TestShedSocketsAreConns(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, network string) {
		c, theirs := shedSocket(t, network, patient)
		frame := appendBare(nil, bytes.Repeat([]byte("x"), 70000))
		taken := fillUp(t, c, frame)
		if !c.socket.isOnlyDescriptor() {
			t.Error("TryWrite needs a file")
		}
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(frame)
			done <- err
		}()
		if _, err := io.CopyN(io.Discard, theirs, int64(taken+len(frame))); err != nil {
			t.Fatalf("of %d bytes: %v", taken+len(frame), err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		for range 2 { // with a file, and without
			got, err := c.fill(true, false)
			if string(got) != "hello" || err != nil {
				t.Fatalf("read %q, %v", got, err)
			}
			c.done()
			shed(t, c)
			if _, err := theirs.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestDeadlinesOfShedSockets: those that were set before there is a file apply to it.
func TestDeadlinesOfShedSockets(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, network string) {
		c, theirs := shedSocket(t, network, patient)
		fillUp(t, c, appendBare(nil, bytes.Repeat([]byte("x"), 70000)))
		for _, passed := range []time.Time{longAgo, time.Now().Add(time.Millisecond)} {
			if err := errors.Join(c.nc.SetWriteDeadline(passed), c.nc.SetReadDeadline(passed)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
			if _, _, err := c.socket.read(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v", err)
			}
			if !shed(t, c) {
				t.Error("the socket has kept its file")
			}
		}
		if err := errors.Join(c.nc.SetReadDeadline(time.Time{}), c.nc.SetWriteDeadline(time.Now().Add(patience))); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("with time left, Write: %v", err)
		}
		read := make(chan error, 1)
		go func() {
			_, _, err := c.socket.read()
			read <- err
		}()
		waitFor(t, "read", func() bool { return !c.socket.isOnlyDescriptor() })
		if err := c.nc.SetReadDeadline(longAgo); err != nil {
			t.Fatal(err)
		}
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline while read waits: %v", err)
		}
	})
}

// TestSocketsInUseKeepTheirFiles: whoever waits must go on waiting.
func TestSocketsInUseKeepTheirFiles(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, network string) {
		c, theirs := shedSocket(t, network, patient)
		taken := fillUp(t, c, appendBare(nil, bytes.Repeat([]byte("x"), 70000)))
		written := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte("more"))
			written <- err
		}()
		waitFor(t, "Write", func() bool { return !c.socket.isOnlyDescriptor() })
		if shed(t, c) {
			t.Fatal("the file was closed under a Write that waits")
		}
		if _, err := io.CopyN(io.Discard, theirs, int64(taken)); err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil {
			t.Errorf("Write: %v", err)
		}
		if !shed(t, c) {
			t.Error("after the Write, the file stays")
		}
	})
}

// TestClosedSockets: Close ends what waits, and nothing touches the descriptor afterwards, which
// another socket may have got.
func TestClosedSockets(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, network string) {
		for _, withFile := range []bool{false, true} {
			c, _ := shedSocket(t, network, patient)
			written := make(chan error, 1)
			if withFile {
				fillUp(t, c, appendBare(nil, bytes.Repeat([]byte("x"), 70000)))
				go func() {
					_, err := c.Write([]byte("more"))
					written <- err
				}()
				waitFor(t, "Write", func() bool { return !c.socket.isOnlyDescriptor() })
			}
			if err := c.nc.Close(); err != nil {
				t.Fatal(err)
			}
			if withFile {
				if err := <-written; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Write = %v, want it closed", err)
				}
			}
			_, err := c.TryWrite([]byte("x"))
			_, errWrite := c.Write([]byte("x"))
			_, _, errRead := c.socket.read()
			_, _, errTry := c.socket.tryRead()
			all := []error{err, errWrite, errRead, errTry, c.nc.Close(), c.socket.CloseWrite()}
			all = append(all, c.nc.SetReadDeadline(time.Time{}), c.nc.SetWriteDeadline(time.Time{}))
			for i, err := range all {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("call %d after Close: %v", i, err)
				}
			}
			if shed(t, c) {
				t.Error("a socket that is closed has got another descriptor")
			}
		}
	})
}

// TestTalkativePeersUseOneDescriptor: waiting for one needs a file, and resting none. No
// descriptor is left behind, neither open nor in the epoll set.
func TestTalkativePeersUseOneDescriptor(t *testing.T) {
	t.Parallel()
	r, a, p := rest(t, restingPairs["tcp"], patient)
	var want []string
	for range 3 {
		for range talkative {
			want = append(want, strconv.Itoa(len(want)))
			p.send(text(want[len(want)-1]))
			a.await(t, "Receive", func() bool { return slices.Equal(a.received, want) })
		}
		waitFor(t, "a file", func() bool { return !r.conn.socket.isOnlyDescriptor() })
		p.send(frame(opPing, true, ""))
		p.want(opPong, "")
		awaitRest(t, &r.conn)
		if !r.conn.socket.isOnlyDescriptor() {
			t.Error("the socket of a reader that rests has a file")
		}
	}
	var ours string
	if err := r.conn.control(func(fd uintptr) { ours = linkOf(t, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if open := descriptorsOf(t, ours); len(open) != 1 {
		t.Errorf("the socket has the descriptors %v", open)
	}
	_ = p.nc.Close()
	<-a.left
	if open := descriptorsOf(t, ours); len(open) != 0 {
		t.Errorf("after its end, the socket has the descriptors %v", open)
	}
}

func linkOf(t *testing.T, fd int) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// descriptorsOf returns the descriptors of this process for a file.
func descriptorsOf(t *testing.T, link string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if got, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && got == link {
			all = append(all, entry.Name())
		}
	}
	return all
}

// TestShedForgetsTheOldDescriptor: an epoll set would go on to watch it, because the socket is
// still open, and wake whoever rests with that number later.
func TestShedForgetsTheOldDescriptor(t *testing.T) {
	t.Parallel()
	ours, theirs := socketPair(t, "tcp")
	c := newConn(ours, bareForm, patient)
	set, err := newEpollSet()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = set.file.Close() }()
	set.next = c
	if err := errors.Join(c.control(set.addFunc), set.failed); err != nil {
		t.Fatal(err)
	}
	if !c.socket.shed(set) {
		t.Fatal("the socket has kept its net.Conn")
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.socket.read(); err != nil { // it has come
		t.Fatal(err)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another byte", func() (ready bool) {
		_ = c.control(func(fd uintptr) { ready = isReadable(fd) })
		return ready
	})
	var events [3]syscall.EpollEvent
	n, err := syscall.EpollWait(set.fd, events[:], 0)
	if n != 1 || events[0].Fd != c.place.fd || err != nil {
		t.Errorf("the set has the events %v, %v; want one, of %d", events[:max(n, 0)], err, c.place.fd)
	}
	_ = c.nc.Close()
}

// TestPeersOfShedSocketsSeeTheClose: frames, a close frame and the end come in order.
func TestPeersOfShedSocketsSeeTheClose(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, network string) {
		_, a, p := rest(t, restingPairs[network], patient)
		a.Close(hub.CloseNormal, "bye", 0)
		p.wantClose(hub.CloseNormal, "bye")
		p.send(closing(hub.CloseNormal, ""))
		p.wantEnd()
		<-a.left
	})
}

// TestSocketsThatCannotRestStay: if the epoll set takes no more, the socket keeps its net.Conn,
// which Go's poller waits for.
func TestSocketsThatCannotRestStay(t *testing.T) {
	t.Parallel()
	ours, theirs := socketPair(t, "tcp")
	c := newConn(ours, bareForm, patient)
	file, err := os.Open(os.DevNull) // is no epoll set
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	set := &epollSet{fd: int(file.Fd()), next: c}
	if c.socket.shed(set) || c.socket.isOnlyDescriptor() || c.place.known {
		t.Fatal("the socket has only a descriptor")
	}
	var link string
	if err := c.control(func(fd uintptr) { link = linkOf(t, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if open := descriptorsOf(t, link); len(open) != 1 {
		t.Errorf("the socket has the descriptors %v", open)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if p, err := c.fill(false, true); string(p) != "x" || err != nil {
		t.Errorf("read %q, %v", p, err)
	}
	c.done()
}
