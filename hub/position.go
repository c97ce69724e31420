// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"crypto/rand"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
)

// An Epoch names a log. A position of one log says nothing about another one. It consists
// of letters, digits and hyphens.
type Epoch string

// NewEpoch returns an Epoch that no other log has.
func NewEpoch() Epoch {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it never fails
	return Epoch(hex.EncodeToString(b[:]))
}

// A Position says how far somebody has read the log of a hub. Clients get it as an opaque
// string, and give it back to go on.
type Position struct {
	Epoch Epoch
	// Seq is the number of the last entry that was read.
	Seq uint64
	// Check is made of the time of that entry, see [CheckOf]; 0 if it is not known. It
	// tells when a log has used a number twice: after a power cut, or because somebody has
	// put an old copy in its place.
	Check uint16
}

// CheckOf returns the Check of an entry of that time. It is never 0.
func CheckOf(at time.Time) uint16 {
	return uint16(at.UnixMicro()%math.MaxUint16) + 1
}

// timeOfCheck returns the time next to at that has that check: the clock may have been set
// since the entry was published.
func timeOfCheck(at time.Time, check uint16) time.Time {
	const all = math.MaxUint16
	d := (int64(check) - int64(CheckOf(at)) + all) % all
	if d > all/2 {
		d -= all
	}
	return at.Add(time.Duration(d) * time.Microsecond)
}

// Append appends the text of p to dst: "<epoch>.<number>", and ".<check>" if that is known.
func (p Position) Append(dst []byte) []byte {
	dst = append(append(dst, p.Epoch...), '.')
	dst = strconv.AppendUint(dst, p.Seq, 10)
	if p.Check != 0 {
		dst = strconv.AppendUint(append(dst, '.'), uint64(p.Check), 16)
	}
	return dst
}

// String returns the text of p.
func (p Position) String() string { return string(p.Append(nil)) }

// ParsePosition reads the text of a Position.
func ParsePosition(text string) (p Position, ok bool) {
	epoch, rest, _ := strings.Cut(text, ".")
	number, check, checked := strings.Cut(rest, ".")
	seq, err := strconv.ParseUint(number, 10, 63)
	if epoch == "" || err != nil {
		return Position{}, false
	}
	p = Position{Epoch: Epoch(epoch), Seq: seq}
	if checked {
		c, err := strconv.ParseUint(check, 16, 16)
		if err != nil || c == 0 {
			return Position{}, false
		}
		p.Check = uint16(c)
	}
	return p, true
}

// ofKept returns the text of p, the position of m, for its publisher. It is empty if m was
// not kept.
func (p Position) ofKept(m *Message) string {
	if p.Epoch == "" || !m.Kept() {
		return ""
	}
	return p.String()
}
