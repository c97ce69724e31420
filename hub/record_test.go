// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
)

func recordSamples() []*Message {
	full := NewMessage("rooms/7", "u-1", []byte(`{"a":[1,"ü"]}`)).in("acme").By("user\x00bob").Keep(HistoryRule{100, time.Hour})
	full.From = &Sender{User: "bob", UUID: "0b5e"}
	except := NewMessage("a", "u", nil)
	except.except = &exclusion{agent: uuid.New()}
	others := NewMessage("a", "u", []byte("1"))
	others.From, others.except = &Sender{}, &exclusion{agentID: "tab-1"}
	newest := NewMessage("a", "u", []byte("2"))
	newest.conflate, newest.except = true, &exclusion{agentID: "tab-2"}
	return []*Message{full, except, others, newest, NewMessage("a", "u", nil), NewMessage("ä/ß", "u", []byte("0")).By("api\x00")}
}

func TestRecordsHoldEverything(t *testing.T) {
	for _, m := range recordSamples() {
		record := m.AppendRecord([]byte("before"))[len("before"):]
		got, err := ParseRecord(record)
		if err != nil {
			t.Fatal(err)
		}
		if got.UUID != m.UUID || got.Channel != m.Channel || got.key != m.key || got.who != m.who || got.keep != m.keep || got.conflate != m.conflate ||
			!bytes.Equal(got.Data, m.Data) || !bytes.Equal(got.object, m.object) || got.ID() != m.ID() {
			t.Errorf("%+v became %+v", m, got)
		}
		if (got.except == nil) != (m.except == nil) || got.except != nil && *got.except != *m.except {
			t.Errorf("except %+v became %+v", m.except, got.except)
		}
		if (got.From == nil) != (m.From == nil) || got.From != nil && *got.From != *m.From {
			t.Errorf("from %+v became %+v", m.From, got.From)
		}
		for n := range record {
			if _, err := ParseRecord(record[:n]); n < len(record)-len(m.Data)+1 && !errors.Is(err, ErrRecord) {
				t.Errorf("the first %d of %d bytes are taken for a record: %v", n, len(record), err)
			}
		}
	}
}

// Messages have the same ID only if publisher, channel, namespace and uuid are the same.
func TestIDs(t *testing.T) {
	seen := make(map[[16]byte]int)
	for i, m := range []*Message{
		NewMessage("a", "u", nil), NewMessage("a", "v", nil), NewMessage("b", "u", nil),
		NewMessage("a", "u", nil).in("acme"), NewMessage("a", "u", nil).By("x"), NewMessage("a", "xu", nil), NewMessage("ax", "u", nil),
	} {
		if other, ok := seen[m.ID()]; ok {
			t.Errorf("messages %d and %d have the same ID", i, other)
		}
		seen[m.ID()] = i
	}
	if NewMessage("a", "u", []byte("1")).ID() != NewMessage("a", "u", []byte("2")).ID() {
		t.Error("the ID depends on the data")
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, m := range recordSamples() {
		f.Add(m.AppendRecord(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := ParseRecord(m.AppendRecord(nil))
		if err != nil || again.key != m.key || again.UUID != m.UUID || again.who != m.who || again.keep != m.keep || !bytes.Equal(again.Data, m.Data) {
			t.Errorf("%q: %+v became %+v, %v", b, m, again, err)
		}
	})
}
