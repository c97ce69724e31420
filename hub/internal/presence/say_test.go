// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package presence

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(groups []Group) [][]byte {
	var w Writer
	for _, g := range groups {
		w.Begin(g.Key, g.Rule)
		for i := range g.Statements {
			w.Say(&g.Statements[i])
		}
		w.End()
	}
	return w.Chunks()
}

// What one node writes is what another one reads.
func TestStatementsAreWrittenAndRead(t *testing.T) {
	want := []Group{
		{"rooms/1", Rule{Linger: 15 * time.Second, Members: 1000}, []Statement{
			{ID{"ann", false}, 2, `{"name":"Ann"}`, -5, false},
			{ID{"0123456789abcdef", true}, 0, "", 1 << 60, true},
		}},
		{"acme\x00rooms/1", Rule{Count: true}, nil},
	}
	chunks := write(want)
	if len(chunks) != 1 {
		t.Fatalf("%d chunks", len(chunks))
	}
	if got, err := ParseGroups(chunks[0]); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got := write(nil); len(got) != 1 || len(got[0]) != 0 {
		t.Errorf("nothing is %q", got)
	}
	for n := range chunks[0] { // a part is no whole
		if got, err := ParseGroups(chunks[0][:n]); err == nil && len(got) == len(want) {
			t.Errorf("%d of %d bytes are %+v", n, len(chunks[0]), got)
		}
	}
	for what, bad := range map[string]Group{
		"no name":   {"a", Rule{}, []Statement{{ID{"", false}, 1, "", 1, false}}},
		"short id":  {"a", Rule{}, []Statement{{ID{"short", true}, 1, "", 1, false}}},
		"no JSON":   {"a", Rule{}, []Statement{{ID{"ann", false}, 1, `{"a":`, 1, false}}},
		"no key":    {"", Rule{}, []Statement{{ID{"ann", false}, 1, "", 1, false}}},
		"long time": {"a", Rule{Linger: 2 * time.Hour}, nil},
	} {
		if got, err := ParseGroups(write([]Group{bad})[0]); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// A large list comes in chunks that are read one by one.
func TestStatementsComeInChunks(t *testing.T) {
	g := Group{Key: "room", Rule: Rule{Members: 7}}
	for n := range 2000 {
		g.Statements = append(g.Statements, Statement{ID{fmt.Sprint("user", n), false}, 1, `"` + strings.Repeat("x", 1000) + `"`, int64(n), false})
	}
	var got []Statement
	chunks := write([]Group{g, g})
	for _, chunk := range chunks {
		if len(chunk) > chunkBytes+2*maxInfo {
			t.Errorf("a chunk has %d bytes", len(chunk))
		}
		all, err := ParseGroups(chunk)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range all {
			if part.Key != g.Key || part.Rule != g.Rule {
				t.Errorf("a part of %+v", part.Rule)
			}
			got = append(got, part.Statements...)
		}
	}
	if len(chunks) < 8 || !reflect.DeepEqual(got, append(g.Statements, g.Statements...)) {
		t.Errorf("%d chunks with %d statements", len(chunks), len(got))
	}
}

func FuzzParseGroups(f *testing.F) {
	f.Add(write([]Group{{"rooms/1", Rule{Linger: time.Second, Members: 3}, []Statement{{ID{"ann", false}, 1, "1", 1, false}}}})[0])
	f.Add([]byte{0, 0, 0, 0, endOfGroup})
	f.Fuzz(func(t *testing.T, chunk []byte) {
		all, err := ParseGroups(chunk)
		if err != nil || len(all) == 0 {
			return
		}
		for _, g := range all {
			if len(g.Key) > maxKey {
				t.Fatal("a long key")
			}
		}
		var again []Group
		for _, part := range write(all) {
			groups, err := ParseGroups(part)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, groups...)
		}
		if len(chunk) < chunkBytes && !reflect.DeepEqual(all, again) {
			t.Fatalf("%+v became %+v", all, again)
		}
	})
}
