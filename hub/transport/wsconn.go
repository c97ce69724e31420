// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// readSize is how many bytes are read at once: enough for a burst of some publishes, which
	// the hub joins if they come together.
	readSize = 8 << 10
	// smallSize is the size of the buffer that some conns need while they wait: enough for
	// an ordinary frame.
	smallSize = 512
)

type readBuffer [readSize]byte

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// times are how long the transports wait. Tests change them.
type times struct {
	disconnect time.Duration // for the next request to receive of a fallback session
	doubt      time.Duration // the same, right after the machine was away
	abandoned  time.Duration // for the end of a response, if the client makes another request to receive
	write      time.Duration // for one write to a fallback's response
	message    time.Duration // from the first byte of a message to its last
	goodbye    time.Duration // for a close frame whose writing may block
	closing    time.Duration // from our close frame to the peer's, or the end of the conn
	notice     time.Duration // from Agent.Close to Conn.Close
	relay      time.Duration // for the answer of another machine
}

// defaultTimes are the times outside of tests. In 30 s, a message of 64 KiB arrives over 20
// kbit/s. The hub calls Conn.Close within 2 s, and gives up a write after 10 s.
var defaultTimes = &times{disconnect: disconnectDelay, doubt: doubtDelay, abandoned: 500 * time.Millisecond, write: 10 * time.Second, message: 30 * time.Second, goodbye: time.Second, closing: 2 * time.Second, notice: 5 * time.Second, relay: relayPatience}

// An idle connection keeps times as durations since epoch. A time.Time takes three times the
// memory.
var epoch = time.Now()

// A wsConn is a WebSocket. The hub writes to it, and a wsReader reads from it.
type wsConn struct {
	// Immutable after init.
	nc     byteStream
	below  syscall.RawConn // the socket below TLS; nil if there is none
	times  *times
	resume func() // goes on with reading; set by newWSReader

	socket bareSocket // nc, if bare
	form   atomic.Pointer[hub.Form]

	// Owned by the reader.
	small  *[smallSize]byte // nil until fill needs it
	pooled *readBuffer      // the buffer that fill has returned, if it is from the pool

	place restingPlace

	// Set by the writer. Close reads them, and after Agent.Left the reader does.
	torn   atomic.Bool // a frame is written in part
	failed atomic.Bool // a write has failed

	peerClosed atomic.Bool // the peer sent a close frame, and still reads

	bare bool // nc is a socket: it is read and written by its own system calls; immutable after init

	// Owned by the reader.
	empty bool // all that has arrived at nc is read, so fill can wait on the socket below

	closing bool          // Close was called, and sets the read deadline from now on; guarded by mu
	said    bool          // a close frame was sent; guarded by mu
	mu      sync.Mutex    // guards closing, said and the following
	rfc     *rfcCode      // what closeWith was called with; nil for most conns
	closed  chan struct{} // closed when Close has returned; nil if nothing waits
}

// An rfcCode says that if Close is called with code, the close frame has another one.
type rfcCode struct{ code, inFrame hub.CloseCode }

var (
	_ hub.Conn   = (*wsConn)(nil)
	_ hub.Cutter = (*wsConn)(nil)
	_ hub.Roomer = (*wsConn)(nil)
)

// A byteStream is what a wsConn needs of a net.Conn.
type byteStream interface {
	io.WriteCloser
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// init makes c the owner of nc.
func (c *wsConn) init(nc net.Conn, form *hub.Form, t *times) {
	c.nc, c.times = nc, t
	c.form.Store(form)
	if raw := socketOf(nc); raw != nil {
		c.bare, c.nc = true, &c.socket
		c.socket.own(nc, raw)
	} else if t, ok := nc.(*tls.Conn); ok {
		c.below = socketOf(t.NetConn())
	}
}

// hasSocket reports whether the socket of the conn is known, so that its reader can rest.
func (c *wsConn) hasSocket() bool { return c.bare || c.below != nil }

// control calls f with the descriptor of the socket, which there must be.
func (c *wsConn) control(f func(fd uintptr)) error {
	if c.bare {
		return c.socket.control(f)
	}
	return c.below.Control(f)
}

// Form implements hub.Conn.
func (c *wsConn) Form() *hub.Form { return c.form.Load() }

// speak switches to another form, or to its twin with compressed messages. Only the reader calls
// it, before it hands the first frame to the hub.
func (c *wsConn) speak(form *hub.Form, deflated bool) {
	if deflated {
		form = deflatedForms[form]
	}
	c.form.Store(form)
}

// TryWrite implements hub.Conn.
func (c *wsConn) TryWrite(p []byte) (n int, err error) {
	if !c.bare {
		return 0, hub.ErrWouldBlock
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err = c.socket.tryWrite(p)
	if c.wrote(n, len(p), err); err == nil && n < len(p) {
		err = hub.ErrWouldBlock
	}
	return n, err
}

// HasRoom implements hub.Roomer. It counts what TLS adds, and what the system adds to each of
// the packets, in which it may have to put even single bytes.
func (c *wsConn) HasRoom(n int) bool {
	if c.below == nil || c.failed.Load() {
		return false
	}
	look := looks.Get().(*look)
	look.room = 0
	err := c.below.Control(look.at)
	room := look.room
	looks.Put(look)
	return err == nil && room >= 4*n+(4<<10)
}

// A look finds out how much room a socket has for what is sent. It has a func value of its
// own, because making one for each socket would allocate.
type look struct {
	at   func(fd uintptr)
	room int // bytes
}

var looks = sync.Pool{New: func() any {
	l := new(look)
	l.at = func(fd uintptr) { l.room = roomOf(int(fd)) }
	return l
}}

// Write implements hub.Conn.
func (c *wsConn) Write(p []byte) (n int, err error) {
	n, err = c.nc.Write(p)
	c.wrote(n, len(p), err)
	return n, err
}

// wrote notes the result of a write.
func (c *wsConn) wrote(n, of int, err error) {
	if torn := n < of; n > 0 && torn != c.torn.Load() {
		c.torn.Store(torn)
	}
	if err != nil {
		c.failed.Store(true)
	}
}

// SetWriteDeadline implements hub.Conn. When an agent has left, the hub ends the write under
// way at once. A peer that sent a close frame still reads, so that write gets some time, and
// the answer to the close frame can follow.
func (c *wsConn) SetWriteDeadline(t time.Time) error {
	if soon := time.Now().Add(c.times.goodbye); c.peerClosed.Load() && !t.IsZero() && t.Before(soon) {
		t = soon
	}
	return c.nc.SetWriteDeadline(t)
}

// closeWith makes Close, if it is called with code, write another code in the close frame.
func (c *wsConn) closeWith(code, inFrame hub.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rfc = &rfcCode{code, inFrame}
}

// Close implements hub.Conn.
func (c *wsConn) Close(code hub.CloseCode, reason string) {
	c.mu.Lock()
	c.closing = true // from now on, the reader does not change the read deadline
	inFrame := code
	if c.rfc != nil && c.rfc.code == code && c.rfc.inFrame != noCode {
		inFrame = c.rfc.inFrame
	}
	c.mu.Unlock()
	var bye []byte
	if c.Form().Opening != nil { // SockJS
		bye = appendSockJSClose(nil, code, reason)
	}
	said := c.goodbye(appendClose(bye, inFrame, reason))
	if !said {
		c.abort()
	}
	c.mu.Lock()
	if c.said = said; said {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.times.closing)) // if it fails, the next read fails too
	}
	if c.closed == nil {
		c.closed = make(chan struct{})
	}
	close(c.closed)
	c.mu.Unlock()
	c.wake() // for the read deadline
}

// goodbye writes the last frames without blocking for long, unless an incomplete frame
// precedes them. It reports whether it wrote them.
func (c *wsConn) goodbye(p []byte) bool {
	if c.torn.Load() || c.failed.Load() {
		return false
	}
	if c.bare {
		n, err := c.TryWrite(p)
		return err == nil && n == len(p)
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.times.goodbye)); err != nil {
		return false
	}
	_, err := c.Write(p)
	return err == nil
}

// abort closes the conn at once, so that its reader ends. With TLS it closes the connection below, because
// tls.Conn.Close would wait for a peer that reads nothing.
func (c *wsConn) abort() {
	if t, ok := c.nc.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	} else {
		_ = c.nc.Close()
	}
	c.wake()
}

// Cut implements hub.Cutter.
func (c *wsConn) Cut() { c.abort() }

// isClosing reports whether Close was called.
func (c *wsConn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// awaitClose waits until Close has returned, and reports whether it has in time.
func (c *wsConn) awaitClose() bool {
	c.mu.Lock()
	if c.closed == nil {
		c.closed = make(chan struct{})
	}
	closed := c.closed
	c.mu.Unlock()
	patience := time.NewTimer(c.times.notice)
	defer patience.Stop()
	select {
	case <-closed:
		return true
	case <-patience.C:
		return false
	}
}

// answer answers the peer's close frame, unless a close frame was sent. Only the reader calls
// it, after Agent.Left, when the hub writes no more.
func (c *wsConn) answer(code hub.CloseCode) {
	c.mu.Lock()
	said := c.said
	c.mu.Unlock()
	if !said {
		c.goodbye(appendClose(nil, code, ""))
	}
}

// part closes the conn after the close frame, without waiting for the peer's close frame.
// First it ends its own direction, so that the peer reads the end at once. Then it drops what
// the peer still sends, for a bounded time. If it closed a conn with unread bytes, the system
// would send a reset, and the peer could lose the close frame.
func (c *wsConn) part() {
	ended := false
	for _, half := range c.halfClosers() {
		if _, ok := half.(*tls.Conn); ok && c.failed.Load() {
			continue // after an incomplete record, the peer would see a bad record MAC
		}
		ended = half.CloseWrite() == nil
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.times.closing)) // if it fails, the next read fails too
	for dropped := 0; ended && dropped < maxDropped; {
		p, err := c.fill(true, false)
		if err != nil {
			break
		}
		dropped += len(p)
		c.done()
	}
	_ = c.nc.Close() // nothing can be lost any more
}

// A halfCloser can end its own direction of a connection, and still read from the other.
type halfCloser interface{ CloseWrite() error }

// halfClosers returns the halfClosers of the conn, the outermost first.
func (c *wsConn) halfClosers() (all []halfCloser) {
	if c.bare {
		return []halfCloser{&c.socket}
	}
	for nc := range wrapped(c.nc.(net.Conn)) {
		if half, ok := nc.(halfCloser); ok {
			all = append(all, half)
		}
	}
	return all
}

// wrapped yields nc, what it is a wrapper of, and so on, as far as that is known.
func wrapped(nc net.Conn) iter.Seq[net.Conn] {
	return func(yield func(net.Conn) bool) {
		for yield(nc) {
			switch outer := nc.(type) {
			case interface{ NetConn() net.Conn }: // *tls.Conn
				nc = outer.NetConn()
			case interface{ Raw() net.Conn }: // of a PROXY protocol listener
				nc = outer.Raw()
			default:
				return
			}
		}
	}
}

// readBy sets the read deadline, or removes it for the zero time. After Close it does
// nothing.
func (c *wsConn) readBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.nc.SetReadDeadline(t) // if it fails, the next read fails too
	}
}

// errEmpty is what fill returns if all that has arrived is read. The next fill waits without
// a buffer. Before that, the caller should rest, or go on in a new goroutine, because the stack
// of this one has grown.
var errEmpty = errors.New("all that has arrived is read")

// fill waits for bytes and returns them. The caller may use them until it calls done. more
// says that an incomplete message is arriving, so fill reads as much as it can. rest says that
// the peer is likely to be silent for some time, so that waiting should cost little memory.
func (c *wsConn) fill(more, rest bool) (p []byte, err error) {
	switch {
	case c.bare:
		return c.fillBare(rest)
	case c.empty: // which only drain sets
		c.empty = false
		if err := c.below.Read(isReadable); err != nil {
			return nil, err
		}
		more = true // the buffer is needed only for a moment
	case rest && c.below != nil:
		return c.drain()
	}
	return c.read(more)
}

// fillBare is fill for a bare socket. A reader that rests is mostly woken because something has
// arrived, which can be read without a file to wait with.
func (c *wsConn) fillBare(rest bool) (p []byte, err error) {
	var b *readBuffer
	var n int
	if rest {
		b, n, err = c.socket.tryRead()
	}
	if b == nil && err == nil {
		b, n, err = c.socket.read()
	}
	if err != nil {
		return nil, err
	}
	c.pooled = b
	return b[:n], nil
}

// read reads from nc, which is not bare.
func (c *wsConn) read(more bool) (p []byte, err error) {
	switch {
	case more:
		c.pooled = readBuffers.Get().(*readBuffer)
		p = c.pooled[:]
	case c.small == nil:
		c.small = new([smallSize]byte)
		fallthrough
	default:
		p = c.small[:]
	}
	for range 100 {
		n, err := c.nc.(net.Conn).Read(p)
		if n > 0 {
			return p[:n], nil // the next read returns the error again
		}
		if err != nil {
			c.done()
			return nil, err
		}
	}
	c.done()
	return nil, io.ErrNoProgress
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// drain returns bytes that the tls.Conn holds already, or errEmpty. There is no other way to
// ask it: while the read deadline has passed, a tls.Conn returns what it holds, and does not
// read from the socket. No read deadline is set when drain is called, unless Close has set it;
// then drain just reads.
func (c *wsConn) drain() (p []byte, err error) {
	c.mu.Lock()
	asks := !c.closing
	if asks {
		err = c.nc.SetReadDeadline(longAgo)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if p, err = c.read(true); !asks {
		return p, err
	}
	c.mu.Lock()
	if !c.said { // Close sets a deadline when it has said why
		_ = c.nc.SetReadDeadline(time.Time{}) // if it fails, the next read fails too
	}
	c.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.empty, c.small, err = true, nil, errEmpty
		if t, ok := c.nc.(*tls.Conn); ok {
			dropBuffers(t)
		}
	}
	return p, err
}

// done returns the buffer of fill to the pool.
func (c *wsConn) done() {
	if c.pooled != nil {
		readBuffers.Put(c.pooled)
		c.pooled = nil
	}
}
