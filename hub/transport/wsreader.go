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

// An agent is what a wsReader needs of a *hub.Agent.
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

// A wsReader reads a WebSocket: one goroutine at a time. It holds nothing of the
// request.
type wsReader struct {
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

func newWSReader(nc net.Conn, a agent, sockJS bool, t *times) *wsReader {
	form := bareForm
	if sockJS {
		form = sockJSForm
	}
	r := &wsReader{conn: newConn(nc, form, t), agent: a, sockJS: sockJS}
	r.frames.sink, r.goOn = r, r.read
	return r
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

// run reads from the first byte to the last, and ends with Agent.Left. early is what came
// right behind the handshake.
func (r *wsReader) run(early []byte) {
	r.agent.Start(r.conn)
	if err := r.take(early); err != nil {
		r.end(err)
		return
	}
	r.read()
}

// end is the end of the session; err says how the reading ended.
func (r *wsReader) end(err error) {
	r.frames.drop()
	if v, ok := errors.AsType[*failed](err); ok {
		r.agent.Left(v.Error())
		r.conn.part()
		return
	}
	if bye, ok := errors.AsType[*peerClosed](err); ok {
		// The hub may be in the midst of a frame. After Left it is not.
		r.agent.Left(bye.Error())
		r.conn.answer(bye.code)
		r.conn.part()
		return
	}
	_ = r.conn.nc.Close() // nothing is left to be lost
	r.agent.Left(because(err))
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
func (r *wsReader) read() {
	for !r.deep {
		p, err := r.conn.fill(r.timed)
		if err = r.filled(p, err); err != nil {
			r.end(err)
			return
		}
	}
	r.deep = false
	go r.goOn()
}

// filled handles what fill returned.
func (r *wsReader) filled(p []byte, err error) error {
	switch {
	case err == nil:
		r.agent.Touch()
		err = r.take(p)
		r.conn.done()
	case errors.Is(err, os.ErrDeadlineExceeded) && !r.frames.dropping && !r.conn.isClosing():
		err = r.refuse(&violation{hub.CloseTimeout, noCode, "a message took too long to arrive whole"})
	}
	return err
}

// take handles bytes that have come.
func (r *wsReader) take(p []byte) error {
	if !r.frames.dropping && r.conn.isClosing() {
		r.frames.drop()
	}
	if r.frames.dropping {
		if r.dropped += len(p); r.dropped > maxDropped {
			return errOverrun
		}
	}
	for len(p) > 0 {
		rest, err := r.frames.feed(p)
		if v, ok := errors.AsType[*violation](err); ok {
			err = r.refuse(v)
		}
		if err != nil {
			return err
		}
		p = rest
	}
	r.setDeadline()
	return nil
}

// setDeadline gives a message its time from its first byte on. While nothing has
// begun there is no deadline: the hub finds out that a peer is dead.
func (r *wsReader) setDeadline() {
	switch open, fresh := r.frames.progress(); {
	case r.frames.dropping: // Close has set it
	case open && (fresh || !r.timed):
		r.timed = true
		r.conn.readBy(time.Now().Add(r.conn.times.message))
	case !open && r.timed:
		r.timed = false
		r.conn.readBy(time.Time{})
	}
}

// refuse closes the session for a violation. What comes after is dropped. The peer's
// close frame is waited for only where RFC 6455, section 7.1.7, lets us: who has broken
// the RFC is not listened to any more.
func (r *wsReader) refuse(v *violation) error {
	r.frames.drop()
	if !r.conn.isClosing() {
		r.conn.closeWith(v.code, v.rfc)
		r.agent.Close(v.code, v.reason, 0)
	}
	if !r.conn.awaitClose() {
		return errNoGoodbye
	}
	if v.rfc != noCode && len(r.conn.halfClosers()) > 0 {
		return &failed{v}
	}
	return nil
}

// limit implements sink. It is the same for all transports.
func (r *wsReader) limit() int { return bodyLimit(r.agent.Policy().Limits) }

// tooLarge implements sink.
func (r *wsReader) tooLarge(p []byte) error {
	r.deep = true
	if r.sockJS && !r.legacy {
		p = firstString(p)
	}
	r.agent.ReceiveTooLarge(p)
	return nil
}

// message implements sink.
func (r *wsReader) message(p []byte) error {
	r.deep = true
	if !r.sockJS {
		r.agent.Receive(p)
		return nil
	}
	if len(p) == 0 { // SockJS has clients ignore it, and so do we
		return r.idle()
	}
	if !r.begun {
		r.begun = true
		if r.legacy = isLegacy(p); r.legacy {
			r.conn.speakLegacy()
		}
	}
	if r.legacy {
		r.agent.Receive(p)
		return nil
	}
	var few [8]span // most messages hold one string
	spans, err := decodeSockJS(p, few[:0])
	if err != nil {
		return err
	}
	if len(spans) == 0 {
		return r.idle()
	}
	for _, at := range spans {
		r.agent.Receive(p[at.from:at.to:at.to])
	}
	return nil
}

// ping implements sink.
func (r *wsReader) ping(op byte, p []byte) error {
	if err := r.idle(); err != nil {
		return err
	}
	if op == opPing {
		pong := make([]byte, 0, 2+len(p))
		r.agent.Send(append(appendHeader(pong, opPong, len(p)), p...))
	}
	return nil
}

// closed implements sink.
func (r *wsReader) closed(code hub.CloseCode) error { return &peerClosed{code} }

// idle implements sink.
func (r *wsReader) idle() error {
	if r.allowance.take(time.Now()) {
		return nil
	}
	return &violation{hub.CloseLimit, noCode, "too many pings, pongs or empty frames"}
}
