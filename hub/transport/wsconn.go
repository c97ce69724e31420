// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// readSize is how much is read at once.
	readSize = 4 << 10
	// smallSize is the buffer that waits with a conn that cannot be waited for
	// without one: room for an ordinary frame.
	smallSize = 512
)

type readBuffer [readSize]byte

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// times are the patience of the transports; tests have less of it.
type times struct {
	disconnect time.Duration // of a fallback session without a request that receives
	abandoned  time.Duration // with a second such request, for the first to turn out to be given up
	write      time.Duration // one write to a fallback's response
	message    time.Duration // from the first byte of a message to its last
	goodbye    time.Duration // writing a close frame where that can block
	closing    time.Duration // from the close frame to the peer's, or its end
	notice     time.Duration // from Agent.Close to Conn.Close
}

// defaultTimes: 30 s carry a message of 64 KiB over 20 kbit/s; the hub takes 2 s
// at most until it calls Conn.Close, and gives up a write after 10 s.
var defaultTimes = &times{disconnect: disconnectDelay, abandoned: 500 * time.Millisecond, write: 10 * time.Second, message: 30 * time.Second, goodbye: time.Second, closing: 2 * time.Second, notice: 5 * time.Second}

// A wsConn is a WebSocket as the hub writes to it and a wsReader reads from it.
type wsConn struct {
	// Immutable after newConn.
	nc    net.Conn
	raw   *rawConn // nil where reading and writing go through nc
	times *times

	form atomic.Pointer[hub.Form] // changes once, by speakLegacy

	// Owned by who reads.
	small  []byte      // where raw is nil
	pooled *readBuffer // what fill has returned, if it is of the pool

	// Written by who writes; read by Close and, after Agent.Left, by who reads.
	torn   atomic.Bool // a frame was begun and not ended
	failed atomic.Bool // a write has failed

	mu      sync.Mutex       // guards the following
	closing bool             // Close was called: the read deadline is its
	rfc     [2]hub.CloseCode // if Close is called with the first, the close frame has the second
	said    bool             // a close frame was sent
	closed  chan struct{}
}

var (
	_ hub.Conn   = (*wsConn)(nil)
	_ hub.Cutter = (*wsConn)(nil)
)

func newConn(nc net.Conn, form *hub.Form, t *times) *wsConn {
	c := &wsConn{nc: nc, raw: newRawConn(nc), times: t}
	c.form.Store(form)
	if c.raw == nil {
		c.small = make([]byte, smallSize)
	}
	return c
}

// Form implements hub.Conn.
func (c *wsConn) Form() *hub.Form { return c.form.Load() }

// speakLegacy makes what is written from now on what a client of 2011 reads. Only
// the goroutine that reads calls it, before it hands the first frame to the hub.
func (c *wsConn) speakLegacy() { c.form.Store(legacyForm) }

// TryWrite implements hub.Conn.
func (c *wsConn) TryWrite(p []byte) (n int, err error) {
	if c.raw == nil {
		return 0, hub.ErrWouldBlock
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err = c.raw.write(p)
	if c.wrote(n, len(p), err); err == nil && n < len(p) {
		err = hub.ErrWouldBlock
	}
	return n, err
}

// Write implements hub.Conn.
func (c *wsConn) Write(p []byte) (n int, err error) {
	n, err = c.nc.Write(p)
	c.wrote(n, len(p), err)
	return n, err
}

// wrote notes how a write of whole frames, or of the rest of one, has ended.
func (c *wsConn) wrote(n, of int, err error) {
	if torn := n < of; n > 0 && torn != c.torn.Load() {
		c.torn.Store(torn)
	}
	if err != nil {
		c.failed.Store(true)
	}
}

// SetWriteDeadline implements hub.Conn.
func (c *wsConn) SetWriteDeadline(t time.Time) error { return c.nc.SetWriteDeadline(t) }

// closeWith makes the close frame of a Close with code have another one.
func (c *wsConn) closeWith(code, inFrame hub.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rfc = [2]hub.CloseCode{code, inFrame}
}

// Close implements hub.Conn.
func (c *wsConn) Close(code hub.CloseCode, reason string) {
	c.mu.Lock()
	c.closing = true // from here on the reader leaves the read deadline alone
	inFrame := code
	if c.rfc[0] == code && c.rfc[1] != noCode {
		inFrame = c.rfc[1]
	}
	c.mu.Unlock()
	var bye []byte
	if c.Form() != bareForm {
		bye = appendSockJSClose(nil, code, reason)
	}
	said := c.goodbye(appendClose(bye, inFrame, reason))
	if said {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.times.closing)) // a conn that fails here fails its next read too
	} else {
		c.abort()
	}
	c.mu.Lock()
	c.said = said
	if c.closed == nil {
		c.closed = make(chan struct{})
	}
	close(c.closed)
	c.mu.Unlock()
}

// goodbye writes the last frames, if the peer can make sense of them, without
// blocking for long. It reports whether it did.
func (c *wsConn) goodbye(p []byte) bool {
	if c.torn.Load() || c.failed.Load() {
		return false
	}
	if c.raw != nil {
		n, err := c.TryWrite(p)
		return err == nil && n == len(p)
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.times.goodbye)); err != nil {
		return false
	}
	_, err := c.Write(p)
	return err == nil
}

// abort ends the conn at once. Under TLS its own Close would wait to say goodbye
// to a peer that takes nothing.
func (c *wsConn) abort() {
	if t, ok := c.nc.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.nc.Close()
}

// Cut implements hub.Cutter.
func (c *wsConn) Cut() { c.abort() }

// isClosing reports whether Close was called.
func (c *wsConn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// awaitClose waits until Close has returned, and reports whether it did in time.
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

// answer sends the answer to the peer's close frame, unless one was sent. Only
// the goroutine that reads calls it, when the hub writes no more.
func (c *wsConn) answer(code hub.CloseCode) {
	c.mu.Lock()
	said := c.said
	c.mu.Unlock()
	if !said {
		c.goodbye(appendClose(nil, code, ""))
	}
}

// part ends the conn behind the close frame, for a peer whose own is not awaited: it
// reads the end at once. What it sends meanwhile is read and dropped, for a while: a
// system resets a conn that is closed with something unread, and then the peer's may
// throw the close frame away.
func (c *wsConn) part() {
	ended := false
	for _, half := range c.halfClosers() {
		ended = half.CloseWrite() == nil
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.times.closing)) // a conn that fails here fails its next read too
	for dropped := 0; ended && dropped < maxDropped; {
		p, err := c.fill(true)
		if err != nil {
			break
		}
		dropped += len(p)
		c.done()
	}
	_ = c.nc.Close() // nothing is left to be lost
}

type halfCloser interface{ CloseWrite() error }

// halfClosers are what tells the peer, in this order, that nothing more comes, while it
// can still be read from: none if the conn is of a kind that cannot.
func (c *wsConn) halfClosers() (all []halfCloser) {
	for nc := c.nc; ; {
		if half, ok := nc.(halfCloser); ok {
			all = append(all, half)
		}
		switch outer := nc.(type) {
		case interface{ NetConn() net.Conn }: // *tls.Conn
			nc = outer.NetConn()
		case interface{ Raw() net.Conn }: // of a PROXY protocol listener
			nc = outer.Raw()
		default:
			return all
		}
	}
}

// readBy sets the read deadline, none for the zero time, unless Close has set
// its own.
func (c *wsConn) readBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.nc.SetReadDeadline(t) // a conn that fails here fails its next read too
	}
}

// fill waits for bytes and returns them. They are the caller's until it calls
// done. When more of something is coming, more is read at once.
func (c *wsConn) fill(more bool) (p []byte, err error) {
	if c.raw != nil {
		b, n, err := c.raw.read()
		if err != nil {
			return nil, err
		}
		c.pooled = b
		return b[:n], nil
	}
	p = c.small
	if more {
		c.pooled = readBuffers.Get().(*readBuffer)
		p = c.pooled[:]
	}
	for range 100 {
		n, err := c.nc.Read(p)
		if n > 0 {
			return p[:n], nil // an error comes again
		}
		if err != nil {
			c.done()
			return nil, err
		}
	}
	c.done()
	return nil, io.ErrNoProgress
}

// done takes the bytes of fill back.
func (c *wsConn) done() {
	if c.pooled != nil {
		readBuffers.Put(c.pooled)
		c.pooled = nil
	}
}
