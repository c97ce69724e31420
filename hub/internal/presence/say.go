// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package presence

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"
)

// A Statement is what a node says about a member of a channel: how many tabs it has at that
// node, and what is shown of it. It replaces all that the node has said about the member.
type Statement struct {
	ID
	Tabs int
	Info string // JSON, or empty
	At   int64  // when the info was stated, on the clock of the node
	Cut  bool   // without tabs: the member does not linger
}

// A Group has statements about one channel.
type Group struct {
	Key        string // of the channel, in its namespace
	Rule       Rule   // of the node, for those that have none of their own
	Statements []Statement
}

// The limits of what another node says. Longer things come from no node.
const (
	maxKey     = 4 << 10
	maxName    = 64 << 10
	maxInfo    = 1 << 10
	maxTabs    = 1 << 30
	chunkBytes = 256 << 10
)

// The marks of a statement. endOfGroup stands in the place of one.
const (
	markAnonymous = 1 << iota
	markCut

	endOfGroup = 0xff
)

// A Writer encodes groups, in chunks of limited size.
type Writer struct {
	chunks [][]byte
	now    []byte
	key    string
	rule   Rule
}

// Begin begins a group.
func (w *Writer) Begin(key string, r Rule) {
	w.key, w.rule = key, r
	b := appendText(w.now, key)
	b = binary.AppendUvarint(b, uint64(r.Linger.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(r.Members))
	count := byte(0)
	if r.Count {
		count = 1
	}
	w.now = append(b, count)
}

// Say adds a statement to the group.
func (w *Writer) Say(s *Statement) {
	if len(w.key) > maxKey || len(s.Name) > maxName || len(s.Info) > maxInfo {
		return // nobody has made this
	}
	if len(w.now) >= chunkBytes {
		w.End()
		w.cut()
		w.Begin(w.key, w.rule)
	}
	marks := byte(0)
	if s.Anonymous {
		marks |= markAnonymous
	}
	if s.Cut {
		marks |= markCut
	}
	b := appendText(append(w.now, marks), s.Name)
	b = binary.AppendUvarint(b, uint64(s.Tabs))
	b = binary.AppendVarint(b, s.At)
	w.now = appendText(b, s.Info)
}

// End ends the group.
func (w *Writer) End() { w.now = append(w.now, endOfGroup) }

func (w *Writer) cut() {
	w.chunks = append(w.chunks, w.now)
	w.now = nil
}

// Chunks returns what was written. There is at least one chunk.
func (w *Writer) Chunks() [][]byte {
	if len(w.now) > 0 || len(w.chunks) == 0 {
		w.cut()
	}
	return w.chunks
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

var errSaid = errors.New("this is no list of statements")

// A reader takes values from what a Writer has made. Its first fault ends it.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) fail() {
	r.rest, r.failed = nil, true
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number(most uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > most {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) signed() int64 {
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text(most uint64) string {
	n := r.number(most)
	if n > uint64(len(r.rest)) {
		r.fail()
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// ParseGroups decodes a chunk of a Writer. It returns all of it or an error.
func ParseGroups(chunk []byte) (all []Group, err error) {
	r := &reader{rest: chunk}
	for len(r.rest) > 0 {
		g := Group{Key: r.text(maxKey)}
		g.Rule.Linger = time.Duration(r.number(uint64(time.Hour.Milliseconds()))) * time.Millisecond
		g.Rule.Members = int(r.number(maxTabs))
		g.Rule.Count = r.number(1) == 1
		for {
			marks := r.byte()
			if r.failed || marks == endOfGroup {
				break
			}
			s := Statement{ID: ID{r.text(maxName), marks&markAnonymous != 0}, Tabs: int(r.number(maxTabs)), At: r.signed(), Info: r.text(maxInfo), Cut: marks&markCut != 0}
			if marks&^(markAnonymous|markCut) != 0 || s.Name == "" || s.Anonymous && len(s.Name) != 16 || s.Info != "" && !json.Valid([]byte(s.Info)) {
				r.fail()
			}
			g.Statements = append(g.Statements, s)
		}
		if r.failed || g.Key == "" {
			return nil, errSaid
		}
		all = append(all, g)
	}
	return all, nil
}
