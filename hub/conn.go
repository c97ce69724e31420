// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrWouldBlock is what Conn.TryWrite returns when not all bytes were taken.
var ErrWouldBlock = errors.New("write would block")

// A Conn carries an agent's frames to its peer. A transport implements it; the
// hub writes to it from one goroutine at a time.
type Conn interface {
	// Form is the encoding that this Conn wants. It changes at most once, before
	// the first frame is received over it.
	Form() *Form

	// TryWrite writes what can be written without blocking. It returns
	// ErrWouldBlock when n < len(p) because the peer does not take more now, and
	// any other error when the Conn is of no more use. A Conn that cannot write
	// without blocking returns 0, ErrWouldBlock always, for an empty p too, by
	// which it is known. It does not keep p.
	TryWrite(p []byte) (n int, err error)

	// Write blocks until p is written, the write deadline has passed, or the
	// Conn has failed. It does not keep p.
	Write(p []byte) (n int, err error)

	// SetWriteDeadline bounds Write, also one under way, from any goroutine.
	SetWriteDeadline(t time.Time) error

	// Close ends the Conn in order: it says code and reason where the transport
	// can, unless a write has failed, and sees to it that the goroutine that
	// reads ends within a bounded time, which then calls Agent.Left. The hub
	// calls it once, never while a write runs, and for a Conn that cannot
	// TryWrite never from a goroutine that others wait for. Reason is at most
	// 120 bytes of UTF-8.
	Close(code CloseCode, reason string)
}

// A Waiter is a Conn that at times has nobody to write to, like a session between two
// requests. What is queued waits in the hub meanwhile, where it can still be dropped.
// Its Write returns ErrWouldBlock, and takes nothing, if that has come to be since Await.
type Waiter interface {
	// Await blocks until Write can hand over what it is given, the write deadline has
	// passed, or the Conn has ended.
	Await()
}

// maxForms bounds the encodings a Message caches.
const maxForms = 8

var formCount atomic.Int32

// A Form is an encoding of frames for one kind of Conn: a message is encoded
// once per Form, however many agents get it. Forms are made while packages are
// initialized, by transports.
type Form struct {
	// Opening is sent when a session opens, nil for nothing.
	Opening []byte
	// Heartbeat is sent at each heartbeat.
	Heartbeat []byte

	slot int
	wrap func(dst, object []byte) []byte
}

// NewForm makes a Form. wrap appends to dst what carries one JSON object on the
// wire; what it appended for several objects must still be right when joined in
// one write. It is called concurrently. NewForm panics when there are too many
// Forms.
func NewForm(wrap func(dst, object []byte) []byte, opening, heartbeat []byte) *Form {
	slot := int(formCount.Add(1)) - 1
	if slot >= maxForms {
		panic("hub: too many forms")
	}
	return &Form{Opening: opening, Heartbeat: heartbeat, slot: slot, wrap: wrap}
}
