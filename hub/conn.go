// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"errors"
	"time"
)

// ErrWouldBlock is what Conn.TryWrite returns when not all bytes were taken.
var ErrWouldBlock = errors.New("write would block")

// An EndedError is what Conn.Write returns when the transport has ended the session for a
// reason of its own, which it is about to give to Agent.Left.
type EndedError struct {
	Reason string // for the log
}

func (e *EndedError) Error() string { return "the session has ended: " + e.Reason }

// A Conn carries an agent's frames to its peer. A transport implements it; the
// hub writes to it from one goroutine at a time.
type Conn interface {
	// Form is the encoding that this Conn wants. It changes at most once, before
	// the Conn receives its first frame.
	Form() *Form

	// TryWrite writes as much as it can without blocking. It returns ErrWouldBlock
	// with n < len(p) if the peer takes no more now. Any other error means that the
	// Conn has failed. A Conn that cannot write without blocking always returns 0 and
	// ErrWouldBlock, even for an empty p; the hub uses this to recognize it. TryWrite
	// does not keep p.
	TryWrite(p []byte) (n int, err error)

	// Write blocks until p is written, the write deadline has passed, or the
	// Conn has failed. It does not keep p.
	Write(p []byte) (n int, err error)

	// SetWriteDeadline limits Write, including a Write under way. The hub calls it
	// from any goroutine.
	SetWriteDeadline(t time.Time) error

	// Close ends the Conn in order. It sends code and reason if the transport can,
	// unless a write has failed. It also makes the goroutine that reads end within a
	// bounded time; that goroutine then calls Agent.Left. The hub calls Close once and
	// never during a write. If the Conn cannot TryWrite, the hub calls Close only from
	// a goroutine that may block. Reason is at most 120 bytes of UTF-8.
	Close(code CloseCode, reason string)
}

// A Roomer is a Conn that cannot TryWrite, but can tell that a small Write would not block.
// Then the hub calls Write as it calls TryWrite, without a goroutine for it.
type Roomer interface {
	// HasRoom reports whether a Write of n bytes would not block now. It does not block
	// itself. It may return false if it does not know.
	HasRoom(n int) bool
}

// A Waiter is a Conn that sometimes has no reader, such as a session between two
// requests. Meanwhile frames wait in the hub's queue, where they can still be dropped.
// If the reader has left since Await, Write takes nothing and returns ErrWouldBlock.
type Waiter interface {
	// Await blocks until there is a reader, the write deadline has passed, or the Conn
	// has ended.
	Await()
}

// A Form is an encoding of frames for one kind of Conn. A message is encoded once for
// each Form, not once for each agent. Transports make their Forms when their packages
// are initialized.
type Form struct {
	// Opening is sent when a session opens, nil for nothing.
	Opening []byte
	// Heartbeat is sent at each heartbeat.
	Heartbeat []byte

	wrap    func(dst, object []byte) []byte
	message func(dst []byte, m *Message) []byte // nil: wrap encodes messages too
}

// NewForm makes a Form. wrap appends the encoding of one JSON object to dst. The hub
// joins the encodings of several objects in one write, so they must stay valid when
// joined, and it calls wrap concurrently.
func NewForm(wrap func(dst, object []byte) []byte, opening, heartbeat []byte) *Form {
	return &Form{Opening: opening, Heartbeat: heartbeat, wrap: wrap}
}

// NewMessageForm makes a Form that encodes messages with message, and all other frames with
// notice, under the same rules as NewForm. notice may append nothing.
func NewMessageForm(message func(dst []byte, m *Message) []byte, notice func(dst, object []byte) []byte, heartbeat []byte) *Form {
	return &Form{Heartbeat: heartbeat, wrap: notice, message: message}
}
