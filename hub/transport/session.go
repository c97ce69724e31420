// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/push-it/pushit/hub"
)

// maxDropped is how much is read and dropped after the last word, so that what
// the peer has sent meanwhile does not make its system throw the last word away.
const maxDropped = 16 << 20

// An agent is what a session needs of a *hub.Agent.
type agent interface {
	Start(c hub.Conn)
	Receive(frame []byte)
	ReceiveTooLarge(begin []byte)
	Touch()
	Send(p []byte)
	Close(code hub.CloseCode, reason string, retry time.Duration)
	Left(reason string)
	Policy() *hub.Policy
}

var _ agent = (*hub.Agent)(nil)

// A session reads a WebSocket: one goroutine at a time. It holds nothing of the
// request.
type session struct {
	// Immutable.
	conn   *wsConn
	agent  agent
	sockJS bool   // messages are SockJS arrays of strings
	goOn   func() // read, kept because making it for each message would allocate

	// Owned by run.
	frames    frameReader
	allowance allowance
	timed     bool // a read deadline is set
	begun     bool // a message has come: legacy is settled
	legacy    bool // messages are objects, as Push-It's client of 2011 sends them
	deep      bool // a message was handled: the goroutine's stack has grown
	dropped   int  // bytes read after the last word
}

func newSession(nc net.Conn, a agent, sockJS bool, t *times) *session {
	form := bareForm
	if sockJS {
		form = sockJSForm
	}
	s := &session{conn: newConn(nc, form, t), agent: a, sockJS: sockJS}
	s.frames.sink, s.goOn = s, s.read
	return s
}

var (
	errOverrun   = errors.New("it went on sending after the last word")
	errNoGoodbye = errors.New("the last word could not be sent in time")
)

// A failed is the end of a session by a violation of RFC 6455, after the close frame.
type failed struct{ *violation }

// A peerClosed is the end of a session by the peer's close frame.
type peerClosed struct{ code hub.CloseCode }

func (e *peerClosed) Error() string {
	if e.code == 0 {
		return "the peer closed"
	}
	return fmt.Sprintf("the peer closed: %d", int(e.code))
}

// run is the session, from its first byte to Agent.Left. early is what came
// right behind the handshake.
func (s *session) run(early []byte) {
	s.agent.Start(s.conn)
	if err := s.take(early); err != nil {
		s.end(err)
		return
	}
	s.read()
}

// end is the end of the session; err says how the reading ended.
func (s *session) end(err error) {
	s.frames.drop()
	if v, ok := errors.AsType[*failed](err); ok {
		s.agent.Left(v.Error())
		s.conn.part()
		return
	}
	if bye, ok := errors.AsType[*peerClosed](err); ok {
		// The hub may be in the midst of a frame. After Left it is not.
		s.agent.Left(bye.Error())
		s.conn.answer(bye.code)
		s.conn.part()
		return
	}
	_ = s.conn.nc.Close() // nothing is left to be lost
	s.agent.Left(because(err))
}

// because puts in words why a conn has ended, without addresses.
func because(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, io.EOF):
		return "the connection ended without a close frame"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "the peer did not answer the close frame in time"
	case errors.As(err, &op):
		return "the connection failed: " + op.Err.Error()
	default:
		return "the connection failed: " + err.Error()
	}
}

// read handles what comes until the conn ends. An agent spends nearly all its
// life waiting here. Handling a message takes more than the 2 KiB of stack that a
// goroutine begins with, and the runtime never takes back the 4 KiB it grows to:
// so a new goroutine goes on waiting then, at half the memory.
func (s *session) read() {
	for !s.deep {
		p, err := s.conn.fill(s.timed)
		if err = s.filled(p, err); err != nil {
			s.end(err)
			return
		}
	}
	s.deep = false
	go s.goOn()
}

// filled handles what fill returned.
func (s *session) filled(p []byte, err error) error {
	switch {
	case err == nil:
		s.agent.Touch()
		err = s.take(p)
		s.conn.done()
	case errors.Is(err, os.ErrDeadlineExceeded) && !s.frames.dropping && !s.conn.isClosing():
		err = s.refuse(&violation{hub.CloseTimeout, noCode, "a message took too long to arrive whole"})
	}
	return err
}

// take handles bytes that have come.
func (s *session) take(p []byte) error {
	if !s.frames.dropping && s.conn.isClosing() {
		s.frames.drop()
	}
	if s.frames.dropping {
		if s.dropped += len(p); s.dropped > maxDropped {
			return errOverrun
		}
	}
	for len(p) > 0 {
		rest, err := s.frames.feed(p)
		if v, ok := errors.AsType[*violation](err); ok {
			err = s.refuse(v)
		}
		if err != nil {
			return err
		}
		p = rest
	}
	s.setDeadline()
	return nil
}

// setDeadline gives a message its time from its first byte on. While nothing has
// begun there is no deadline: the hub finds out that a peer is dead.
func (s *session) setDeadline() {
	switch open, fresh := s.frames.progress(); {
	case s.frames.dropping: // Close has set it
	case open && (fresh || !s.timed):
		s.timed = true
		s.conn.readBy(time.Now().Add(s.conn.times.message))
	case !open && s.timed:
		s.timed = false
		s.conn.readBy(time.Time{})
	}
}

// refuse closes the session for a violation. What comes after is dropped. The peer's
// close frame is waited for only where RFC 6455, section 7.1.7, lets us: who has broken
// the RFC is not listened to any more.
func (s *session) refuse(v *violation) error {
	s.frames.drop()
	if !s.conn.isClosing() {
		s.conn.closeWith(v.code, v.rfc)
		s.agent.Close(v.code, v.reason, 0)
	}
	if !s.conn.awaitClose() {
		return errNoGoodbye
	}
	if v.rfc != noCode && len(s.conn.halfClosers()) > 0 {
		return &failed{v}
	}
	return nil
}

// limit implements sink. It is the same for all transports.
func (s *session) limit() int { return bodyLimit(s.agent.Policy().Limits) }

// tooLarge implements sink.
func (s *session) tooLarge(p []byte) error {
	s.deep = true
	if s.sockJS && !s.legacy {
		p = firstString(p)
	}
	s.agent.ReceiveTooLarge(p)
	return nil
}

// message implements sink.
func (s *session) message(p []byte) error {
	s.deep = true
	if !s.sockJS {
		s.agent.Receive(p)
		return nil
	}
	if len(p) == 0 { // SockJS has clients ignore it, and so do we
		return s.idle()
	}
	if !s.begun {
		s.begun = true
		if s.legacy = isLegacy(p); s.legacy {
			s.conn.speakLegacy()
		}
	}
	if s.legacy {
		s.agent.Receive(p)
		return nil
	}
	var few [8]span // most messages hold one string
	spans, err := decodeSockJS(p, few[:0])
	if err != nil {
		return err
	}
	if len(spans) == 0 {
		return s.idle()
	}
	for _, at := range spans {
		s.agent.Receive(p[at.from:at.to:at.to])
	}
	return nil
}

// ping implements sink.
func (s *session) ping(op byte, p []byte) error {
	if err := s.idle(); err != nil {
		return err
	}
	if op == opPing {
		pong := make([]byte, 0, 2+len(p))
		s.agent.Send(append(appendHeader(pong, opPong, len(p)), p...))
	}
	return nil
}

// closed implements sink.
func (s *session) closed(code hub.CloseCode) error { return &peerClosed{code} }

// idle implements sink.
func (s *session) idle() error {
	if s.allowance.take(time.Now()) {
		return nil
	}
	return &violation{hub.CloseLimit, noCode, "too many pings, pongs or empty frames"}
}
