// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package presence

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/push-it/pushit/hub/internal/packed"
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
	b := packed.AppendText(w.now, key)
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
	b := packed.AppendText(append(w.now, marks), s.Name)
	b = binary.AppendUvarint(b, uint64(s.Tabs))
	b = binary.AppendVarint(b, s.At)
	w.now = packed.AppendText(b, s.Info)
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

var errSaid = errors.New("this is no list of statements")

// ParseGroups decodes a chunk of a Writer. It returns all of it or an error.
func ParseGroups(chunk []byte) (all []Group, err error) {
	r := &packed.Reader{Rest: chunk}
	for len(r.Rest) > 0 {
		g := Group{Key: r.Text(maxKey)}
		g.Rule.Linger = time.Duration(r.Number(uint64(time.Hour.Milliseconds()))) * time.Millisecond
		g.Rule.Members = int(r.Number(maxTabs))
		g.Rule.Count = r.Number(1) == 1
		for {
			head := r.Bytes(1)
			if r.Failed || head[0] == endOfGroup {
				break
			}
			marks := head[0]
			s := Statement{ID: ID{r.Text(maxName), marks&markAnonymous != 0}, Tabs: int(r.Number(maxTabs)), At: r.Signed(), Info: r.Text(maxInfo), Cut: marks&markCut != 0}
			if marks&^(markAnonymous|markCut) != 0 || s.Name == "" || s.Anonymous && len(s.Name) != 16 || s.Info != "" && !json.Valid([]byte(s.Info)) {
				r.Fail()
			}
			g.Statements = append(g.Statements, s)
		}
		if r.Failed || g.Key == "" {
			return nil, errSaid
		}
		all = append(all, g)
	}
	return all, nil
}
