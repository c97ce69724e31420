// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package hubtest helps to test a hub without a network. It has Conns that record what is
// written, stall, or take a few bytes at a time, and peers that send frames over them. It
// works inside and outside of testing/synctest bubbles.
package hubtest

import (
	"bytes"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// Form is the encoding of this package's Conns: each frame is a line.
var Form = hub.NewForm(func(dst, object []byte) []byte {
	return append(append(dst, object...), '\n')
}, []byte("o\n"), []byte("h\n"))

// A Conn is a hub.Conn that records what is written to it.
type Conn struct {
	// Blocks makes it a Conn that cannot write without blocking, like one with TLS.
	Blocks bool
	// Roomy makes a Conn that Blocks tell when it has room.
	Roomy bool
	// Take returns how many of the n bytes of a TryWrite the Conn takes. nil takes all.
	Take func(n int) int
	// Speed is how many bytes a second the peer reads; 0 is all at once. Buffer is how many
	// the Conn takes before the peer has read them.
	Speed, Buffer int

	closed chan struct{} // closed by Close

	mu       sync.Mutex // guards the following
	changed  chan struct{}
	stuck    bool
	failure  error
	blocked  bool // a Write has waited
	unread   int  // bytes that the Conn took and the peer had not read at the time of readAt
	readAt   time.Time
	deadline time.Time
	written  bytes.Buffer
	writes   int
	code     hub.CloseCode
	reason   string
	closes   int
	cut      bool
}

// NewConn returns a Conn that takes all bytes at once.
func NewConn() *Conn {
	return &Conn{closed: make(chan struct{}), changed: make(chan struct{})}
}

// Form implements hub.Conn.
func (c *Conn) Form() *hub.Form { return Form }

// Stall makes the Conn take no more bytes if stuck is set, or take them again.
func (c *Conn) Stall(stuck bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stuck = stuck
	c.signalLocked()
}

// Fail makes all writes fail, also one under way.
func (c *Conn) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
	c.signalLocked()
}

func (c *Conn) signalLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// TryWrite implements hub.Conn.
func (c *Conn) TryWrite(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Blocks {
		return 0, hub.ErrWouldBlock
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.failure != nil {
		return 0, c.failure
	}
	if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	n := len(p)
	if c.stuck {
		n = 0
	} else if c.Take != nil {
		n = min(n, c.Take(n))
	}
	n = min(n, c.roomLocked())
	c.tookLocked(p[:n])
	if n < len(p) {
		return n, hub.ErrWouldBlock
	}
	return n, nil
}

// Write implements hub.Conn.
func (c *Conn) Write(p []byte) (wrote int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
			return wrote, os.ErrDeadlineExceeded
		}
		if c.failure != nil {
			return wrote, c.failure
		}
		if !c.stuck {
			n := min(len(p), c.roomLocked())
			c.tookLocked(p[:n])
			wrote += n
			if p = p[n:]; len(p) == 0 {
				return wrote, nil
			}
		}
		if !c.blocked {
			c.blocked = true
			c.signalLocked()
		}
		c.waitLocked()
	}
}

// HasRoom implements hub.Roomer, if Roomy is set.
func (c *Conn) HasRoom(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Roomy && !c.stuck && c.roomLocked() >= n
}

// roomLocked returns how many bytes the Conn takes now.
func (c *Conn) roomLocked() int {
	if c.Speed == 0 {
		return math.MaxInt
	}
	now := time.Now()
	c.unread = max(0, c.unread-int(now.Sub(c.readAt).Seconds()*float64(c.Speed)))
	c.readAt = now
	return max(0, c.Buffer-c.unread)
}

func (c *Conn) tookLocked(p []byte) {
	if len(p) > 0 {
		c.unread += len(p)
		c.written.Write(p)
		c.writes++
		c.signalLocked()
	}
}

// AwaitWrite waits until something is written that Lines has not returned yet, or until
// the timeout.
func (c *Conn) AwaitWrite(timeout time.Duration) {
	c.await(timeout, func() bool { return c.written.Len() > 0 })
}

// AwaitBlocked waits until a Write waits for the peer, for at most the given time.
func (c *Conn) AwaitBlocked(timeout time.Duration) {
	c.await(timeout, func() bool { return c.blocked })
}

// await waits until done, which is called with the lock held, or until the timeout.
func (c *Conn) await(timeout time.Duration, done func() bool) {
	late := time.After(timeout)
	for {
		c.mu.Lock()
		ok, changed := done(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-late:
			return
		}
	}
}

// waitLocked waits until something has changed or the deadline has passed.
func (c *Conn) waitLocked() {
	changed := c.changed
	patience := time.Hour
	if !c.deadline.IsZero() {
		patience = time.Until(c.deadline)
	}
	if c.Speed > 0 && !c.stuck { // until the peer has read an eighth of the buffer
		patience = min(patience, time.Duration(c.Buffer)*time.Second/8/time.Duration(c.Speed)+1)
	}
	timer := time.NewTimer(patience)
	c.mu.Unlock()
	select {
	case <-changed:
	case <-timer.C:
	}
	timer.Stop()
	c.mu.Lock()
}

// SetWriteDeadline implements hub.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.signalLocked()
	return nil
}

// Close implements hub.Conn.
func (c *Conn) Close(code hub.CloseCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code, c.reason = code, reason
	c.closes++
	if c.closes == 1 {
		close(c.closed)
	}
}

// Cut implements hub.Cutter.
func (c *Conn) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut = true; c.closes == 0 {
		close(c.closed)
	}
	c.closes++
}

// WasCut reports whether Cut was called.
func (c *Conn) WasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// Closed returns the code and reason of Close, and how often it was called.
func (c *Conn) Closed() (code hub.CloseCode, reason string, times int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code, c.reason, c.closes
}

// Writes returns how many writes took at least one byte.
func (c *Conn) Writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// Lines returns the complete frames that were written since the last call.
func (c *Conn) Lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	whole := bytes.LastIndexByte(c.written.Bytes(), '\n')
	if whole < 0 {
		return nil
	}
	lines := strings.Split(string(c.written.Next(whole)), "\n")
	c.written.Next(1)
	return lines
}

// A Peer is the client side of a session.
type Peer struct {
	Agent *hub.Agent
	Conn  *Conn

	in   chan string   // frames to receive; closed by Leave
	gone chan struct{} // closed when Agent.Left has returned
	once sync.Once
}

// Open opens a session over c. Like a transport, it receives frames in one goroutine.
func Open(t testing.TB, h *hub.Hub, p *hub.Policy, o hub.Opening, c *Conn) *Peer {
	t.Helper()
	a, err := h.Open(p, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return Carry(a, c)
}

// Carry starts an agent that was opened before, over c.
func Carry(a *hub.Agent, c *Conn) *Peer {
	peer := &Peer{Agent: a, Conn: c, in: make(chan string), gone: make(chan struct{})}
	a.Start(c)
	go peer.read()
	return peer
}

func (p *Peer) read() {
	defer close(p.gone)
	defer p.Agent.Left("the peer left")
	for {
		select {
		case frame, ok := <-p.in:
			if !ok {
				return
			}
			p.Agent.Receive([]byte(frame))
		case <-p.Conn.closed:
			return
		}
	}
}

// Send sends frames. It returns when the agent's goroutine has taken the last one, or the
// session has ended.
func (p *Peer) Send(frames ...string) {
	for _, f := range frames {
		select {
		case p.in <- f:
		case <-p.gone:
			return
		}
	}
}

// Leave closes the connection from the client's side and waits until Agent.Left has
// returned.
func (p *Peer) Leave() {
	p.once.Do(func() { close(p.in) })
	<-p.gone
}

// Gone returns a channel that is closed when Agent.Left has returned.
func (p *Peer) Gone() <-chan struct{} { return p.gone }

var (
	_ hub.Conn   = (*Conn)(nil)
	_ hub.Cutter = (*Conn)(nil)
	_ hub.Roomer = (*Conn)(nil)
)
