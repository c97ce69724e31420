// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"encoding/binary"
	"errors"
	"math"
)

// recordVersion is the first byte of a record. A record with another one is refused: a newer
// pushit may have written it.
const recordVersion = 1

// What a record may have, as bits.
const (
	recordHasSender = 1 << iota
	recordHasExcept
	recordConflates
)

// ErrRecord says that something is not a record.
var ErrRecord = errors.New("this is not the record of a message")

// AppendRecord appends m as a log keeps it: everything but its number and time.
func (m *Message) AppendRecord(dst []byte) []byte {
	dst = append(dst, recordVersion)
	for _, text := range []string{m.key, m.UUID, m.who} {
		dst = appendText(dst, text)
	}
	dst = binary.AppendUvarint(dst, uint64(m.keep.count))
	dst = binary.AppendUvarint(dst, uint64(m.keep.milliseconds))
	var has byte
	if m.From != nil {
		has |= recordHasSender
	}
	if m.except != nil {
		has |= recordHasExcept
	}
	if m.conflate {
		has |= recordConflates
	}
	dst = append(dst, has)
	if m.From != nil {
		dst = appendText(appendText(dst, m.From.User), m.From.UUID)
	}
	if m.except != nil {
		dst = appendText(append(dst, m.except.agent[:]...), m.except.agentID)
	}
	return append(dst, m.Data...)
}

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// ParseRecord returns the message that AppendRecord has appended. It keeps no reference to b.
// It does not check whether names and data are valid: a log has a checksum for that.
func ParseRecord(b []byte) (*Message, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return nil, ErrRecord
	}
	r := recordReader{rest: b[1:]}
	key, id, who := r.text(), r.text(), r.text()
	count, milliseconds := r.number(), r.number()
	has := r.number()
	var from *Sender
	if has&recordHasSender != 0 {
		from = &Sender{User: r.text(), UUID: r.text()}
	}
	var except *exclusion
	if has&recordHasExcept != 0 {
		except = new(exclusion)
		r.bytes(except.agent[:])
		except.agentID = r.text()
	}
	r.failed = r.failed || has > recordHasSender|recordHasExcept|recordConflates
	namespace, channel, found := cutKey(key)
	if r.failed || len(r.rest) == 0 || channel == "" || found && namespace == "" || count > math.MaxInt32 || milliseconds > math.MaxUint32 {
		return nil, ErrRecord
	}
	m := NewMessage(channel, id, r.rest).in(namespace).By(who)
	m.keep = packedRule{uint32(count), uint32(milliseconds)}
	m.From, m.except = from, except
	m.conflate = has&recordConflates != 0
	return m, nil
}

// A recordReader reads the parts of a record. If a part is missing, it sets failed, and the
// parts have no meaning.
type recordReader struct {
	rest   []byte
	failed bool
}

func (r *recordReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *recordReader) bytes(to []byte) {
	if r.failed || len(to) > len(r.rest) {
		r.failed = true
		return
	}
	r.rest = r.rest[copy(to, r.rest):]
}

func (r *recordReader) text() string {
	n := r.number()
	if r.failed || n > uint64(len(r.rest)) {
		r.failed = true
		return ""
	}
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}
