// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package packed writes and reads the parts of binary records: numbers, and texts with their
// lengths.
package packed

import "encoding/binary"

// AppendText appends a text with its length.
func AppendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// A Reader takes the parts of a record. Its first fault ends it: then Failed is set, and the
// parts have no meaning.
type Reader struct {
	Rest   []byte
	Failed bool
}

// Fail notes a fault.
func (r *Reader) Fail() { r.Rest, r.Failed = nil, true }

// Bytes takes n bytes. The result aliases Rest.
func (r *Reader) Bytes(n uint64) []byte {
	if n > uint64(len(r.Rest)) {
		r.Fail()
		return nil
	}
	b := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return b
}

// Number takes a number up to most.
func (r *Reader) Number(most uint64) uint64 {
	n, size := binary.Uvarint(r.Rest)
	if size <= 0 || n > most {
		r.Fail()
		return 0
	}
	r.Rest = r.Rest[size:]
	return n
}

// Signed takes a number that may be negative.
func (r *Reader) Signed() int64 {
	n, size := binary.Varint(r.Rest)
	if size <= 0 {
		r.Fail()
		return 0
	}
	r.Rest = r.Rest[size:]
	return n
}

// Text takes a text with up to most bytes.
func (r *Reader) Text(most uint64) string { return string(r.Bytes(r.Number(most))) }

// CutText returns the text that s begins with, as AppendText wrote it, and what follows it.
// Of anything else, it returns nothing.
func CutText(s string) (text, rest string) {
	var n uint64
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if rest = s[i+1:]; n <= uint64(len(rest)) {
				return rest[:n], rest[n:]
			}
			break
		}
	}
	return "", ""
}
