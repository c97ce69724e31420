// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"

	"github.com/push-it/pushit/hub"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

const (
	// maxHeader is the longest header of a frame: 2 bytes, 8 for the length, 4 for the mask.
	maxHeader = 14
	// maxControl is the longest payload of a control frame (RFC 6455, section 5.5).
	maxControl = 125
)

// A violation says which rule the peer broke. It closes the session.
type violation struct {
	code   hub.CloseCode // in /meta/close
	rfc    hub.CloseCode // in the close frame, if RFC 6455, section 7.4.1, has a code for it
	reason string        // one sentence for the peer
}

func (v *violation) Error() string { return v.reason }

// The codes of RFC 6455, section 7.4.1.
const (
	rfcProtocol hub.CloseCode = 1002
	rfcBinary   hub.CloseCode = 1003
	rfcNotUTF8  hub.CloseCode = 1007
	rfcTooLarge hub.CloseCode = 1009
	noCode      hub.CloseCode = 0 // the close frame has the same code as /meta/close
)

// invalid returns a violation of pushit's own protocol.
func invalid(reason string) error { return &violation{hub.CloseInvalid, noCode, reason} }

// broken returns a violation of RFC 6455.
func broken(rfc hub.CloseCode, reason string) error {
	return &violation{hub.CloseInvalid, rfc, reason}
}

// The violations in a frame's header. After them, it is unknown where the next frame begins.
var (
	errReserved   = broken(rfcProtocol, "a frame has a reserved bit set that no extension explains")
	errOpcode     = broken(rfcProtocol, "a frame has an opcode that RFC 6455 does not define")
	errUnmasked   = broken(rfcProtocol, "a frame from a client must be masked")
	errBigControl = broken(rfcProtocol, "a control frame must be whole and have at most 125 bytes")
	errLength     = broken(rfcProtocol, "the length of a frame must be written in the shortest form")
)

// A header is the header of a frame.
type header struct {
	op   byte
	fin  bool
	rsv1 bool // the message is compressed, if that was agreed on
	size uint64
	mask [4]byte
}

// parseHeader reads the header of a frame from a client. n is its length, or 0 if p has only
// a part of it. parseHeader reports an error as soon as the bytes show it.
func parseHeader(p []byte) (h header, n int, err error) {
	if len(p) < 2 {
		return h, 0, nil
	}
	h.op, h.fin, h.rsv1 = p[0]&0xF, p[0]&0x80 != 0, p[0]&compressed != 0
	length := p[1] & 0x7F
	switch {
	case p[0]&0x30 != 0, h.rsv1 && h.op != opText && h.op != opBinary:
		return h, 0, errReserved
	case h.op > opPong || h.op > opBinary && h.op < opClose:
		return h, 0, errOpcode
	case p[1]&0x80 == 0:
		return h, 0, errUnmasked
	case h.op >= opClose && (!h.fin || length > maxControl):
		return h, 0, errBigControl
	}
	n = 2
	switch length {
	case 126:
		if len(p) < n+2 {
			return h, 0, nil
		}
		h.size = uint64(binary.BigEndian.Uint16(p[n:]))
		if h.size < 126 {
			return h, 0, errLength
		}
		n += 2
	case 127:
		if len(p) < n+8 {
			return h, 0, nil
		}
		h.size = binary.BigEndian.Uint64(p[n:])
		if h.size>>16 == 0 || h.size>>63 != 0 {
			return h, 0, errLength
		}
		n += 8
	default:
		h.size = uint64(length)
	}
	if len(p) < n+4 {
		return h, 0, nil
	}
	copy(h.mask[:], p[n:])
	return h, n + 4, nil
}

// unmask applies mask to p, which begins at the offset in the payload.
func unmask(p []byte, mask [4]byte, offset uint64) {
	var m [8]byte
	for i := range m {
		m[i] = mask[(offset+uint64(i))&3]
	}
	word := binary.NativeEndian.Uint64(m[:])
	for len(p) >= 8 {
		binary.NativeEndian.PutUint64(p, binary.NativeEndian.Uint64(p)^word)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= m[i]
	}
}

// appendHeader appends the header of an unmasked frame with a payload of n bytes.
func appendHeader(dst []byte, op byte, n int) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

// appendClose appends a close frame, without a code if it is 0. It truncates the reason to
// what fits in a control frame.
func appendClose(dst []byte, code hub.CloseCode, reason string) []byte {
	if code == 0 {
		return appendHeader(dst, opClose, 0)
	}
	reason = truncate(reason, maxControl-2)
	dst = appendHeader(dst, opClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// validCloseCode reports whether a peer may send code (RFC 6455, section 7.4, and its IANA
// registry).
func validCloseCode(code hub.CloseCode) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code == 1004, code == 1005, code == 1006:
		return false
	default:
		return code >= 1000 && code <= 1014
	}
}
