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

// maxDropped is how many bytes are read and dropped after the close frame. If they stayed
// unread, the system would send a reset, and the peer could lose the close frame.
const maxDropped = 16 << 20

// talkative is after how many messages between two pings or pongs a peer is expected to send
// more.
const talkative = 4

// firstTurns is how often a new session waits for its turn when something has arrived: to
// connect, and to subscribe.
const firstTurns = 2

// An agent is what a wsReader needs of a *hub.Agent.
type agent interface {
	Start(c hub.Conn)
	Receive(frame []byte)
	ReceiveTooLarge(begin []byte)
	BeginBatch()
	EndBatch()
	Touch()
	Send(p []byte)
	Close(code hub.CloseCode, reason string, retry time.Duration)
	Left(reason string)
	Policy() *hub.Policy
}

var _ agent = (*hub.Agent)(nil)

// A wsReader reads a WebSocket: one goroutine at a time, or none while it rests. It holds
// nothing of the request.
type wsReader struct {
	// Immutable.
	conn     wsConn
	agent    agent
	sockJS   bool // messages are SockJS arrays of strings
	deflated bool // messages may be compressed; immutable after deflate

	// Owned by the goroutine that is in run or read.
	timed     bool         // a read deadline is set
	begun     bool         // a message has come, and legacy is known
	legacy    bool         // messages are objects, because the client is of 2011
	spoken    int8         // messages since the last ping or pong, up to talkative
	turns     int8         // how often it still has to wait, see firstTurns
	frames    *frameReader // nil while nothing is incomplete
	allowance allowance
	dropped   int           // bytes read after the close frame
	inflates  time.Duration // when the next compressed message may be read, since epoch; 0: at once
}

func newWSReader(nc net.Conn, a agent, sockJS bool, t *times) *wsReader {
	form := bareForm
	if sockJS {
		form = sockJSForm
	}
	r := &wsReader{agent: a, sockJS: sockJS}
	r.conn.init(nc, form, t)
	if r.conn.hasSocket() {
		r.turns = firstTurns
	}
	r.conn.resume = r.read // a func value, because making one for each message would allocate
	return r
}

// deflate makes the reader take compressed messages, and has the hub send them. Call it before
// run.
func (r *wsReader) deflate() {
	r.deflated = true
	r.conn.speak(r.conn.Form(), true)
}

var (
	errOverrun   = errors.New("the peer kept sending after the close frame")
	errNoGoodbye = errors.New("the close frame could not be sent in time")
)

// A failed ends the reading because the peer violated RFC 6455, and has got a close frame.
type failed struct{ *violation }

// A peerClosed ends the reading because the peer sent a close frame.
type peerClosed struct{ code hub.CloseCode }

func (e *peerClosed) Error() string {
	if e.code == 0 {
		return "the peer closed"
	}
	return fmt.Sprintf("the peer closed: %d", int(e.code))
}

// run starts the agent and reads until the conn ends. early is what the peer sent right after
// the handshake.
func (r *wsReader) run(early []byte) {
	if r.conn.hasSocket() {
		resting.enter()
	}
	growStack()
	r.agent.Start(&r.conn)
	if err := r.take(early); err != nil {
		r.end(err)
		return
	}
	r.read()
}

// end ends the session. err says how the reading ended.
func (r *wsReader) end(err error) {
	if r.conn.hasSocket() {
		defer resting.leave()
	}
	r.stopMessages()
	if v, ok := errors.AsType[*failed](err); ok {
		r.agent.Left(v.Error())
		r.conn.part()
		return
	}
	if bye, ok := errors.AsType[*peerClosed](err); ok {
		// The hub may be writing a frame. After Left it is not.
		r.conn.peerClosed.Store(true)
		r.agent.Left(bye.Error())
		r.conn.answer(bye.code)
		r.conn.part()
		return
	}
	_ = r.conn.nc.Close() // nothing can be lost any more
	r.agent.Left(because(err))
}

// because says why a conn has ended, without addresses.
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

// read handles what arrives until the conn ends. When all is handled, the reader rests, if it
// can: then there is no goroutine until more arrives. Else an idle WebSocket waits here. A
// goroutine begins with 2 KiB of stack. Handling what arrives needs more, and the runtime never
// shrinks a stack back to 2 KiB. So a new goroutine goes on, with half the memory. A talkative
// peer is waited for in its goroutine: the way to rest and back takes more time than that.
func (r *wsReader) read() {
	for grown := false; ; grown = true {
		p, err := r.conn.fill(r.timed, r.rests())
		if err == errEmpty { //nolint:errorlint // fill does not wrap it
			break
		}
		if !grown {
			growStack()
		}
		if r.turns > 0 {
			r.turns--
			newcomers.take(false)
		}
		if err = r.filled(p, err); err != nil {
			r.end(err)
			return
		}
		if r.conn.bare || !r.rests() {
			break
		}
	}
	if !r.rests() || !r.conn.rest() {
		go r.conn.resume()
	}
}

// growStack makes room for the handling of a message on the stack of a new goroutine, while
// hardly anything is on it. Else the stack would grow twice, from 2 to 8 KiB, during the
// handling, and the runtime would have to copy many calls, and adjust every pointer in them.
// That takes 10 us, and this 1.
//
//go:noinline
func growStack() {
	var room [6 << 10]byte
	touch(&room)
}

//go:noinline
func touch(*[6 << 10]byte) {} // so that the compiler keeps room

// rests reports whether the peer is likely to be silent for some time.
func (r *wsReader) rests() bool { return !r.timed && r.spoken < talkative }

// filled handles the result of fill.
func (r *wsReader) filled(p []byte, err error) error {
	switch {
	case err == nil:
		r.agent.Touch()
		err = r.take(p)
		r.conn.done()
	case errors.Is(err, os.ErrDeadlineExceeded) && !r.isDropping() && !r.conn.isClosing():
		err = r.refuse(&violation{hub.CloseTimeout, noCode, "a message took too long to arrive whole"})
	}
	return err
}

// take handles bytes that have arrived.
func (r *wsReader) take(p []byte) error {
	if r.frames == nil {
		r.frames = newFrameReader(r)
		r.frames.deflated = r.deflated
	}
	if !r.frames.dropping && r.conn.isClosing() {
		r.frames.drop()
	}
	if r.frames.dropping {
		if r.dropped += len(p); r.dropped > maxDropped {
			return errOverrun
		}
	}
	r.agent.BeginBatch()
	defer r.agent.EndBatch()
	for len(p) > 0 {
		rest, err := r.frames.feed(p)
		if v, ok := errors.AsType[*violation](err); ok {
			r.agent.EndBatch() // refuse waits
			err = r.refuse(v)
		}
		if err != nil {
			return err
		}
		p = rest
	}
	if r.setDeadline(); r.frames.putBack() {
		r.frames = nil
	}
	return nil
}

// isDropping reports whether messages are dropped.
func (r *wsReader) isDropping() bool { return r.frames != nil && r.frames.dropping }

// stopMessages drops the message that is incomplete, and those that follow.
func (r *wsReader) stopMessages() {
	if r.frames != nil {
		r.frames.drop()
	}
}

// setDeadline sets the time for a message, from its first byte on. Between messages there is
// no deadline: the hub's heartbeats show whether the peer is alive.
func (r *wsReader) setDeadline() {
	switch open, fresh := r.frames.progress(); {
	case r.frames.dropping: // Close sets the deadline
	case open && (fresh || !r.timed):
		r.timed = true
		r.conn.readBy(time.Now().Add(r.conn.times.message))
	case !open && r.timed:
		r.timed = false
		r.conn.readBy(time.Time{})
	}
}

// refuse closes the session because of a violation, and drops what follows. After a violation
// of RFC 6455 itself, section 7.1.7 forbids reading on, so refuse does not wait for the peer's
// close frame.
func (r *wsReader) refuse(v *violation) error {
	r.stopMessages()
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

// heard counts a message.
func (r *wsReader) heard() { r.spoken = min(r.spoken+1, talkative) }

// limit implements sink. All transports have the same limit.
func (r *wsReader) limit() int { return bodyLimit(r.agent.Policy().Limits) }

// tooLarge implements sink.
func (r *wsReader) tooLarge(p []byte) error {
	r.heard()
	if r.sockJS && !r.legacy {
		p = firstString(p)
	}
	r.agent.ReceiveTooLarge(p)
	return nil
}

// message implements sink.
func (r *wsReader) message(p []byte) error {
	r.heard()
	if !r.sockJS {
		r.agent.Receive(p)
		return nil
	}
	if len(p) == 0 { // SockJS's protocol says to ignore it
		return r.idle()
	}
	if !r.begun {
		r.begun = true
		if r.legacy = isLegacy(p); r.legacy {
			r.conn.speak(legacyForm, r.deflated)
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
	r.spoken = 0
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
