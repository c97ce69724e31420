// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/push-it/pushit/hub/internal/packed"
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
		dst = packed.AppendText(dst, text)
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
		dst = packed.AppendText(packed.AppendText(dst, m.From.User), m.From.UUID)
	}
	if m.except != nil {
		dst = packed.AppendText(append(dst, m.except.agent[:]...), m.except.agentID)
	}
	return append(dst, m.Data...)
}

// ParseRecord returns the message that AppendRecord has appended. It keeps no reference to b.
// It does not check whether names and data are valid: a log has a checksum for that.
func ParseRecord(b []byte) (*Message, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return nil, ErrRecord
	}
	r := packed.Reader{Rest: b[1:]}
	key, id, who := r.Text(math.MaxInt), r.Text(math.MaxInt), r.Text(math.MaxInt)
	count, milliseconds := r.Number(math.MaxInt32), r.Number(math.MaxUint32)
	has := r.Number(recordHasSender | recordHasExcept | recordConflates)
	var from *Sender
	if has&recordHasSender != 0 {
		from = &Sender{User: r.Text(math.MaxInt), UUID: r.Text(math.MaxInt)}
	}
	var except *exclusion
	if has&recordHasExcept != 0 {
		except = new(exclusion)
		copy(except.agent[:], r.Bytes(uint64(len(except.agent))))
		except.agentID = r.Text(math.MaxInt)
	}
	namespace, channel, found := cutKey(key)
	if r.Failed || len(r.Rest) == 0 || channel == "" || found && namespace == "" {
		return nil, ErrRecord
	}
	m := NewMessage(channel, id, r.Rest).in(namespace).By(who)
	m.keep = packedRule{uint32(count), uint32(milliseconds)}
	m.From, m.except = from, except
	m.conflate = has&recordConflates != 0
	return m, nil
}
