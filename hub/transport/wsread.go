// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/push-it/pushit/hub"
)

// A sink takes what a frameReader has read. Its errors end the reading of the
// frame in hand; a *violation ends the reading of messages.
type sink interface {
	// limit is the most bytes of the message that begins.
	limit() int
	// message takes a whole text message. It may change p and does not keep it.
	message(p []byte) error
	// tooLarge takes the beginning of a message over the limit, whose rest was thrown
	// away. It may change p and does not keep it.
	tooLarge(p []byte) error
	// ping takes a ping or pong. It does not keep p.
	ping(op byte, p []byte) error
	// closed takes the peer's close frame; code 0 is one without a code.
	closed(code hub.CloseCode) error
	// idle is told of a frame that carries nothing.
	idle() error
}

// The violations of what frames say, which leave it clear where the next frame
// begins.
var (
	errBinary    = broken(rfcBinary, "binary messages are not served: send text")
	errNoMessage = broken(rfcProtocol, "a continuation frame came without a message to continue")
	errInMessage = broken(rfcProtocol, "a new message began before the last one had ended")
	errNotUTF8   = broken(rfcNotUTF8, "text must be valid UTF-8")
	errClose     = broken(rfcProtocol, "a close frame must have no payload, or a valid code and a reason in UTF-8")
)

// firstMessage is how much a message that does not arrive in one piece gets
// room for at first; it grows with what arrives, never with what is announced.
const firstMessage = 1 << 10

// A frameReader takes the bytes of a connection as they come, in pieces of any
// size, and hands messages and control frames to its sink. Between calls it
// keeps only what has not arrived whole.
type frameReader struct {
	sink sink

	head [maxHeader]byte // the beginning of a header
	have int             // how much of it there is

	inFrame bool   // the fields below are of a frame whose payload is coming
	frame   header // its header
	at      uint64 // bytes of its payload that have come

	inMessage bool    // a message has fragments to come
	max       int     // of the message
	total     uint64  // bytes of the message that have been announced
	partial   *[]byte // of the message, nil without one
	checked   int     // bytes of it that are whole characters; negative: it is no UTF-8
	control   []byte  // of the control frame
	ended     bool    // a frame or message ended since progress was asked for

	dropping bool // messages are dropped; a close frame is still seen
	lost     bool // the border of frames is lost: everything is dropped
}

var messages = sync.Pool{New: func() any { b := make([]byte, 0, firstMessage); return &b }}

// maxSkipped is the most bytes of a message that is thrown away, so that one that is
// too large costs nothing but itself. A larger one ends the session.
const maxSkipped = 8 << 20

// maxPooled is the largest buffer that is kept for another message.
const maxPooled = 64 << 10

// feed reads p, which it changes. After an error, rest is what was not read
// yet; after a violation the frameReader drops what comes. A broken header is told even
// then: no close frame can be found behind it.
func (f *frameReader) feed(p []byte) (rest []byte, err error) {
	for len(p) > 0 && !f.lost {
		if !f.inFrame {
			if p, err = f.begin(p); err != nil {
				return p, f.failed(err)
			}
			if !f.inFrame { // no payload, or a header that is not whole
				continue
			}
		}
		n := int(min(f.frame.size-f.at, uint64(len(p))))
		err = f.payload(p[:n:n])
		if p = p[n:]; err != nil {
			return p, f.failed(err)
		}
	}
	return nil, nil
}

// failed makes the frameReader drop what comes after a violation.
func (f *frameReader) failed(err error) error {
	if _, ok := errors.AsType[*violation](err); ok {
		f.drop()
	}
	return err
}

// drop makes the frameReader drop what comes, but for a close frame.
func (f *frameReader) drop() {
	f.dropping = true
	f.release()
}

// release gives the message's buffer back.
func (f *frameReader) release() {
	if f.partial == nil {
		return
	}
	if cap(*f.partial) <= maxPooled {
		*f.partial = (*f.partial)[:0]
		messages.Put(f.partial)
	}
	f.partial = nil
}

// progress reports whether something has begun and not ended, and whether it
// began after something else had ended since the last call: then it has time of
// its own.
func (f *frameReader) progress() (open, fresh bool) {
	open = f.inFrame || f.inMessage || f.have > 0
	fresh, f.ended = f.ended, false
	return open, fresh
}

// begin reads a frame's header. It returns with inFrame false and no rest when
// p ends before the header does.
func (f *frameReader) begin(p []byte) (rest []byte, err error) {
	head := p
	if f.have > 0 {
		n := copy(f.head[f.have:], p)
		head = f.head[:f.have+n]
	}
	h, n, err := parseHeader(head)
	if err != nil {
		f.lost, f.have = true, 0
		return nil, err
	}
	if n == 0 {
		f.have = copy(f.head[:], head)
		return nil, nil
	}
	rest = p[n-f.have:]
	f.have, f.frame, f.at, f.inFrame = 0, h, 0, true
	if err := f.admit(); err != nil {
		return rest, err
	}
	if h.size == 0 {
		return rest, f.payload(nil)
	}
	return rest, nil
}

// admit decides whether the frame that begins may come now, and be so long.
func (f *frameReader) admit() error {
	if f.dropping || f.frame.op >= opClose {
		return nil
	}
	switch {
	case f.frame.op == opBinary:
		return errBinary
	case f.frame.op == opContinuation && !f.inMessage:
		return errNoMessage
	case f.frame.op == opText && f.inMessage:
		return errInMessage
	}
	if f.frame.op == opText {
		f.max, f.total, f.checked = f.sink.limit(), 0, 0
	}
	if most := uint64(max(f.max, maxSkipped)); f.frame.size > most || f.total+f.frame.size > most {
		return &violation{hub.CloseTooLarge, rfcTooLarge, fmt.Sprintf("a message may have at most %d bytes here", f.max)}
	}
	f.total += f.frame.size
	return nil
}

// payload takes a part of the frame's payload: all of it, in the ordinary case.
func (f *frameReader) payload(p []byte) error {
	if !f.dropping || f.frame.op == opClose {
		unmask(p, f.frame.mask, f.at)
	}
	whole := uint64(len(p)) == f.frame.size
	f.at += uint64(len(p))
	last := f.at == f.frame.size
	f.inFrame = !last
	switch {
	case f.frame.op >= opClose:
		if !whole {
			f.control = append(f.control, p...)
			p = f.control
		}
		if !last {
			return nil
		}
		f.control = nil
		// Inside a message it ends nothing: the message has the time it has.
		f.ended = f.ended || !f.inMessage
		return f.endControl(p)
	case f.dropping:
		return nil
	case whole && f.frame.fin && !f.inMessage:
		kept := p[:min(len(p), f.max)] // as keep does
		f.checked = wholeCharacters(kept)
		return f.endMessage(kept)
	}
	if f.keep(p); f.checked < 0 {
		return errNotUTF8
	}
	if !last {
		return nil
	}
	if f.inMessage = !f.frame.fin; f.inMessage {
		if f.frame.size == 0 {
			return f.sink.idle()
		}
		return nil
	}
	defer f.release()
	return f.endMessage(*f.partial)
}

// keep appends p to the message, growing its buffer up to the message's limit. What is
// over that is thrown away. checked is negative if it cannot become UTF-8 any more.
func (f *frameReader) keep(p []byte) {
	if f.partial == nil {
		f.partial = messages.Get().(*[]byte)
	}
	b := *f.partial
	p = p[:min(len(p), f.max-len(b))]
	if need := len(b) + len(p); need > cap(b) {
		grown := make([]byte, len(b), max(need, min(2*cap(b), f.max)))
		copy(grown, b)
		b = grown
	}
	*f.partial = append(b, p...)
	if whole := wholeCharacters((*f.partial)[f.checked:]); whole >= 0 {
		f.checked += whole
	} else {
		f.checked = -1
	}
}

// wholeCharacters returns how many bytes of p are whole characters of UTF-8, if the rest
// is the beginning of one; else -1.
func wholeCharacters(p []byte) int {
	whole := len(p)
	for i := len(p) - 1; i >= max(0, len(p)-utf8.UTFMax+1); i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				whole = i
			}
			break
		}
	}
	if !utf8.Valid(p[:whole]) {
		return -1
	}
	return whole
}

// endMessage hands over what was kept of a message, once its text was looked at.
func (f *frameReader) endMessage(p []byte) error {
	f.ended = true
	switch large := f.total > uint64(f.max); {
	case f.checked < 0 || f.checked < len(p) && !large: // half of a character at the end
		return errNotUTF8
	case large:
		return f.sink.tooLarge(p)
	}
	return f.sink.message(p)
}

func (f *frameReader) endControl(p []byte) error {
	if f.frame.op != opClose {
		if f.dropping {
			return nil
		}
		return f.sink.ping(f.frame.op, p)
	}
	var code hub.CloseCode
	if len(p) >= 2 {
		code = hub.CloseCode(binary.BigEndian.Uint16(p))
	}
	if len(p) > 0 && (len(p) == 1 || !validCloseCode(code) || !utf8.Valid(p[2:])) {
		if f.dropping {
			return f.sink.closed(0)
		}
		return errClose
	}
	return f.sink.closed(code)
}
