// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package packed_test

import (
	"testing"

	"github.com/push-it/pushit/hub/internal/packed"
)

// FuzzCutText compares CutText with Reader, which reads the same from bytes.
func FuzzCutText(f *testing.F) {
	for _, s := range []string{"", "\x00", "\x03abcd", "\x04abc", "\x80", "\x80\x00a", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7fa"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, rest := packed.CutText(string(packed.AppendText(nil, s)) + "rest")
		if text != s || rest != "rest" {
			t.Errorf("%q is read as %q, before %q", s, text, rest)
		}
		r := packed.Reader{Rest: []byte(s)}
		want := r.Text(1 << 62)
		if text, rest = packed.CutText(s); text != want || rest != string(r.Rest) {
			t.Errorf("of %q, CutText reads %q before %q, and Reader %q before %q", s, text, rest, want, r.Rest)
		}
	})
}
