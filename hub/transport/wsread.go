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

// A sink handles what a frameReader has read. An error stops the reading of the current
// frame. A *violation also stops the reading of messages.
type sink interface {
	// limit returns the most bytes that the next message may have.
	limit() int
	// message handles a whole text message. It may change p and must not keep it.
	message(p []byte) error
	// tooLarge handles a message over the limit. p is its beginning; the rest was dropped.
	// tooLarge may change p and must not keep it.
	tooLarge(p []byte) error
	// ping handles a ping or a pong. It must not keep p.
	ping(op byte, p []byte) error
	// closed handles the peer's close frame; code is 0 if the frame has none.
	closed(code hub.CloseCode) error
	// idle counts a frame that carries nothing.
	idle() error
	// inflate does what the function inflate does, and may wait before.
	inflate(dst, p []byte, most int, cut bool) (_ []byte, more bool, err error)
}

// The violations in what frames carry. After them, it is known where the next frame begins.
var (
	errBinary    = broken(rfcBinary, "binary messages are not supported: send text")
	errNoMessage = broken(rfcProtocol, "a continuation frame came without a message to continue")
	errInMessage = broken(rfcProtocol, "a new message began before the last one had ended")
	errNotUTF8   = broken(rfcNotUTF8, "text must be valid UTF-8")
	errDeflated  = broken(rfcNotUTF8, "a message is marked as compressed, but is not what permessage-deflate makes")
	errClose     = broken(rfcProtocol, "a close frame must have no payload, or a valid code and a reason in UTF-8")
)

// firstMessage is the first size of the buffer for a message that does not arrive at once.
// The buffer grows with the bytes that arrive, never with the length that is announced.
const firstMessage = 1 << 10

// A frameReader reads frames from the bytes of a connection, which may come in pieces of any
// size. It hands messages and control frames to its sink. Between calls it keeps only what is
// incomplete.
type frameReader struct {
	sink     sink
	deflated bool // messages may be compressed

	head [maxHeader]byte // an incomplete header
	have int             // bytes in head

	inFrame bool   // a frame's payload is arriving
	frame   header // its header
	at      uint64 // bytes of the payload that have arrived

	inMessage bool    // more fragments of a message will follow
	packed    bool    // the message is compressed
	max       int     // the most bytes that the message may have
	total     uint64  // bytes of the message that headers have announced
	partial   *[]byte // the bytes of the message so far; nil if there are none
	checked   int     // bytes of partial that are whole characters, or all if it is compressed; negative if it is no UTF-8
	control   []byte  // the payload of an incomplete control frame
	ended     bool    // a frame or message has ended since the last call of progress

	dropping bool // messages are dropped; close frames are still handled
	lost     bool // it is unknown where the next frame begins: everything is dropped
}

var frameReaders = sync.Pool{New: func() any { return new(frameReader) }}

func newFrameReader(s sink) *frameReader {
	f := frameReaders.Get().(*frameReader)
	f.sink = s
	return f
}

// putBack gives the frameReader back to those that newFrameReader returns, unless a frame or a
// message is incomplete, or it drops messages. It reports whether it has.
func (f *frameReader) putBack() bool {
	if open, _ := f.progress(); open || f.dropping {
		return false
	}
	*f = frameReader{}
	frameReaders.Put(f)
	return true
}

var messages = sync.Pool{New: func() any { b := make([]byte, 0, firstMessage); return &b }}

// putMessage returns a buffer to the pool, unless it is large.
func putMessage(b *[]byte) {
	if cap(*b) <= maxPooled {
		*b = (*b)[:0]
		messages.Put(b)
	}
}

// maxSkipped is the most bytes of a message that is dropped because it is too large. A larger
// message ends the session.
const maxSkipped = 8 << 20

// maxPooled is the largest buffer that goes back to the pool, in bytes.
const maxPooled = 64 << 10

// feed reads p, and may change it. After an error, rest is the unread part of p. After a
// violation the frameReader drops messages. feed reports a broken header even then, because
// no close frame can be found after it.
func (f *frameReader) feed(p []byte) (rest []byte, err error) {
	for len(p) > 0 && !f.lost {
		if !f.inFrame {
			if p, err = f.begin(p); err != nil {
				return p, f.failed(err)
			}
			if !f.inFrame { // no payload, or an incomplete header
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

// failed makes the frameReader drop messages after a violation.
func (f *frameReader) failed(err error) error {
	if _, ok := errors.AsType[*violation](err); ok {
		f.drop()
	}
	return err
}

// drop makes the frameReader drop everything but close frames.
func (f *frameReader) drop() {
	f.dropping = true
	f.release()
}

// release returns the message's buffer to the pool.
func (f *frameReader) release() {
	if f.partial == nil {
		return
	}
	putMessage(f.partial)
	f.partial = nil
}

// progress reports whether a frame or message is incomplete. fresh reports whether it began
// after another one had ended since the last call: then it gets a deadline of its own.
func (f *frameReader) progress() (open, fresh bool) {
	open = f.inFrame || f.inMessage || f.have > 0
	fresh, f.ended = f.ended, false
	return open, fresh
}

// begin reads a frame's header. If p ends before the header does, inFrame stays false and
// rest is empty.
func (f *frameReader) begin(p []byte) (rest []byte, err error) {
	head := p
	if f.have > 0 {
		n := copy(f.head[f.have:], p)
		head = f.head[:f.have+n]
	}
	h, n, err := parseHeader(head)
	if err == nil && h.rsv1 && !f.deflated {
		err = errReserved
	}
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

// admit checks whether a frame of this kind and length may come now.
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
		f.max, f.total, f.checked, f.packed = f.sink.limit(), 0, 0, f.frame.rsv1
	}
	if most := uint64(max(f.max, maxSkipped)); f.frame.size > most || f.total+f.frame.size > most {
		return &violation{hub.CloseTooLarge, rfcTooLarge, fmt.Sprintf("a message may have at most %d bytes here", f.max)}
	}
	f.total += f.frame.size
	return nil
}

// payload handles a part of the frame's payload, usually all of it.
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
		// Between the fragments of a message it ends nothing: the message's deadline stays.
		f.ended = f.ended || !f.inMessage
		return f.endControl(p)
	case f.dropping:
		return nil
	case whole && f.frame.fin && !f.inMessage:
		kept := p[:min(len(p), f.max)] // like keep
		f.checked = f.whole(kept)
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

// keep appends p to the message, up to the message's limit, and drops the rest. It sets
// checked to -1 if the message cannot become valid UTF-8 any more.
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
	if whole := f.whole((*f.partial)[f.checked:]); whole >= 0 {
		f.checked += whole
	} else {
		f.checked = -1
	}
}

// whole returns how many bytes of a message, or of its beginning, are whole characters. Those of
// a compressed message are looked at later.
func (f *frameReader) whole(p []byte) int {
	if f.packed {
		return len(p)
	}
	return wholeCharacters(p)
}

// wholeCharacters returns how many bytes of p are whole characters, if the rest is the
// beginning of one. It returns -1 if p is no UTF-8.
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

// endMessage checks the text of a message and passes it to the sink. p is the stored part.
func (f *frameReader) endMessage(p []byte) error {
	f.ended = true
	large := f.total > uint64(f.max)
	if f.packed {
		b := messages.Get().(*[]byte)
		defer putMessage(b)
		more, err := false, error(nil)
		if *b, more, err = f.sink.inflate(*b, p, f.max, large); err != nil && !large {
			return errDeflated
		}
		p, large = *b, large || more
		f.checked = wholeCharacters(p)
	}
	switch {
	case f.checked < 0 || f.checked < len(p) && !large: // it may end with half a character only if it was cut
		return errNotUTF8
	case large:
		return f.sink.tooLarge(p)
	}
	return f.sink.message(p)
}

// endControl hands a control frame to the sink.
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
