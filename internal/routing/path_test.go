// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import "testing"

func TestBelow(t *testing.T) {
	for _, tc := range []struct {
		mount, path, rest string
		ok                bool
	}{
		{"/push", "/push", "", true},
		{"/push", "/push/", "/", true},
		{"/push", "/push/a/b", "/a/b", true},
		{"/push", "/push//a", "//a", true},
		{"/push", "/pushover", "over", false},
		{"/push", "/PUSH", "/PUSH", false},
		{"/push", "/", "/", false},
		{"/push", "", "", false},
		{"/", "/", "/", true},
		{"/", "", "", true},
		{"/", "/a", "/a", true},
	} {
		if rest, ok := Below(tc.mount, tc.path); rest != tc.rest || ok != tc.ok {
			t.Errorf("%q below %q: %q, %t; want %q, %t", tc.path, tc.mount, rest, ok, tc.rest, tc.ok)
		}
	}
}
