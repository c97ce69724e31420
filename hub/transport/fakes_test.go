// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/wireclient"
)

// frame returns a masked frame as a client sends it.
func frame(op byte, fin bool, payload string) []byte {
	return rawFrame(op, fin, len(payload), payload)
}

// rawFrame is like frame, but may announce another length than the payload has.
func rawFrame(op byte, fin bool, size int, payload string) []byte {
	b := appendHeader(nil, op, size)
	if !fin {
		b[0] &^= 0x80
	}
	b[1] |= 0x80
	mask := [4]byte{0xA1, 0x02, 0xF3, 0x54}
	b = append(b, mask[:]...)
	p := []byte(payload)
	unmask(p, mask, 0)
	return append(b, p...)
}

func text(payload string) []byte { return frame(opText, true, payload) }

func closing(code hub.CloseCode, reason string) []byte {
	return frame(opClose, true, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

func join(frames ...[]byte) []byte {
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	return all
}

// A peer is the other end of a WebSocket, for tests.
type peer struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader // of nc, before it is a WebSocket
	ws *wireclient.WebSocket
}

func newPeer(t *testing.T, nc net.Conn) *peer {
	t.Cleanup(func() { _ = nc.Close() })
	r := bufio.NewReader(nc)
	return &peer{t: t, nc: nc, r: r, ws: wireclient.NewWebSocket(bufferedConn{nc, r}, 0)}
}

// A bufferedConn is a connection that a reader has begun to read.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (p *peer) send(frames ...[]byte) {
	p.t.Helper()
	if _, err := p.nc.Write(join(frames...)); err != nil {
		p.t.Fatalf("writing: %v", err)
	}
}

// read returns the next frame.
func (p *peer) read() (op byte, payload string, err error) {
	op, bytes, err := p.ws.ReadFrame()
	return op, string(bytes), err
}

func (p *peer) want(op byte, payload string) {
	p.t.Helper()
	gotOp, got, err := p.read()
	if err != nil || gotOp != op || got != payload {
		p.t.Fatalf("frame = %x %q, %v; want %x %q", gotOp, got, err, op, payload)
	}
}

// wantClose reads a close frame and then the end of the connection.
func (p *peer) wantClose(code hub.CloseCode, reason string) {
	p.t.Helper()
	p.want(opClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

func (p *peer) wantEnd() {
	p.t.Helper()
	if op, payload, err := p.read(); err == nil {
		p.t.Fatalf("frame = %x %q; want the end", op, payload)
	}
}

// A fakeAgent replaces a *hub.Agent. It records frames, and closes its Conn from another
// goroutine, as the hub does.
type fakeAgent struct {
	policy *hub.Policy
	left   chan string // one reason, at the end; buffered, so that the session ends unread

	mu       sync.Mutex // guards the following
	conn     hub.Conn
	received []string
	touched  int
	code     hub.CloseCode
	reason   string
	writes   sync.WaitGroup
	tail     chan struct{} // closed when the last write that was asked for is done
	gone     bool
	mute     bool // Close never reaches the Conn
}

func newFakeAgent(limits hub.Limits) *fakeAgent {
	return &fakeAgent{policy: &hub.Policy{Limits: limits.WithDefaults()}, left: make(chan string, 1)}
}

func (a *fakeAgent) Policy() *hub.Policy { return a.policy }

func (a *fakeAgent) Start(c hub.Conn) {
	a.mu.Lock()
	a.conn = c
	a.mu.Unlock()
	if o := c.Form().Opening; o != nil {
		a.Send(o)
	}
}

func (a *fakeAgent) Receive(frame []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.code == 0 {
		a.received = append(a.received, string(frame))
	}
}

func (a *fakeAgent) ReceiveTooLarge(begin []byte) { a.Receive(append([]byte("too large: "), begin...)) }
func (a *fakeAgent) BeginBatch()                  {}
func (a *fakeAgent) EndBatch()                    {}

func (a *fakeAgent) Touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.touched++
}

// Send writes p after everything that was sent before.
func (a *fakeAgent) Send(p []byte) {
	a.write(func() { // as the hub does
		if n, err := a.conn.TryWrite(p); errors.Is(err, hub.ErrWouldBlock) {
			_, _ = a.conn.Write(p[n:])
		}
	})
}

func (a *fakeAgent) Close(code hub.CloseCode, reason string, _ time.Duration) {
	a.mu.Lock()
	first := a.code == 0
	if first {
		a.code, a.reason = code, reason
	}
	mute := a.mute
	a.mu.Unlock()
	if first && !mute {
		a.write(func() { a.conn.Close(code, reason) })
	}
}

func (a *fakeAgent) write(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		return
	}
	before := a.tail
	done := make(chan struct{})
	a.tail = done
	a.writes.Go(func() {
		if before != nil {
			<-before
		}
		defer close(done)
		f()
	})
}

func (a *fakeAgent) Left(reason string) {
	a.mu.Lock()
	a.gone = true
	conn := a.conn
	a.mu.Unlock()
	if conn != nil {
		_ = conn.SetWriteDeadline(time.Unix(1, 0)) // what is being written ends at once
	}
	a.writes.Wait()
	a.left <- reason
}

// closedWith returns the arguments of the first call of Close.
func (a *fakeAgent) closedWith() (hub.CloseCode, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.code, a.reason
}

func (a *fakeAgent) messages() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.received...)
}

// awaitStart waits until the agent has its Conn.
func (a *fakeAgent) awaitStart(t *testing.T) {
	t.Helper()
	a.await(t, "Start", func() bool { return a.conn != nil })
}

// awaitGone waits until Left was called.
func (a *fakeAgent) awaitGone(t *testing.T) {
	t.Helper()
	a.await(t, "Left", func() bool { return a.gone })
}

func (a *fakeAgent) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		a.mu.Lock()
		done := is()
		a.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is not called", what)
		}
	}
}
