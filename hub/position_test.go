// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math"
	"testing"
	"time"
)

func TestPositions(t *testing.T) {
	for text, want := range map[string]Position{
		"3f9a.17":      {Epoch: "3f9a", Seq: 17},
		"3f9a.17.ffff": {Epoch: "3f9a", Seq: 17, Check: 0xffff},
		"x.0.1":        {Epoch: "x", Check: 1},
	} {
		if got, ok := ParsePosition(text); !ok || got != want || got.String() != text {
			t.Errorf("%s is read as %+v, %t and written as %s", text, got, ok, got)
		}
	}
	for _, text := range []string{"", ".", "x", "x.", ".5", "x.-1", "x.+1", "x.1.", "x.1.0", "x.1.10000", "x.1.f.f", "x.9223372036854775808", "x.1 "} {
		if p, ok := ParsePosition(text); ok {
			t.Errorf("%q is read as %+v", text, p)
		}
	}
	if CheckOf(time.UnixMicro(0)) == 0 || CheckOf(time.UnixMicro(math.MaxUint16-1)) == 0 || CheckOf(time.UnixMicro(1)) == CheckOf(time.UnixMicro(2)) {
		t.Error("a check is 0, or does not depend on the time")
	}
}

func TestTimeOfCheck(t *testing.T) {
	for _, micro := range []int64{0, 1, 1234567890123456, math.MaxUint16 - 1, math.MaxUint16} {
		for _, moved := range []int64{-30_000, -1, 0, 1, 30_000} {
			at := time.UnixMicro(1e15 + micro)
			if got := timeOfCheck(at.Add(time.Duration(moved)*time.Microsecond), CheckOf(at)); got.UnixMicro() != at.UnixMicro() {
				t.Errorf("%v, %d us away, became %v", at, moved, got)
			}
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("3f9a.17.ffff")
	f.Add("x.0")
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := ParsePosition(text)
		if !ok {
			return
		}
		if again, ok := ParsePosition(p.String()); !ok || again != p {
			t.Errorf("%q: %+v became %+v", text, p, again)
		}
	})
}
