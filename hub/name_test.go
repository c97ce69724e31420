// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCheckName(t *testing.T) {
	for _, tt := range []struct {
		name, channel string
		want          string // a part of the reason; empty for the name of a channel
	}{
		{"one segment", "calendar", ""},
		{"two segments", "stories/5", ""},
		{"letters of other scripts", "größe/推送/שלום", ""},
		{"emoji", "🎉/♥\uFE0F", ""},
		{"capitals are kept", "Stories/A", ""},
		{"punctuation", `a-b_c.d~e!$&'()+,;=:@"<>[]^|#?%\`, ""},
		{"percent is not decoded", "a%2Fb/%20", ""},
		{"dots in a segment", ".a/a./a..b/.../..a", ""},
		{"combining characters are not composed", "e\u0301", ""},
		{"private use", "\uE000", ""},
		{"replacement character", "\uFFFD", ""},
		{"meta below", "a/meta/b", ""},
		{"meta without the slash", "meta/a", ""},
		{"255 bytes", strings.Repeat("x", 255), ""},
		{"127 segments", strings.Repeat("a/", 127) + "a", ""},

		{"nothing", "", "cannot be empty"},
		{"256 bytes", strings.Repeat("x", 256), "at most 255 bytes; this one has 256"},
		{"bytes count, not characters", strings.Repeat("é", 128), "this one has 256"},
		{"a slash", "/", "an empty segment (found at byte 0)"},
		{"a slash before", "/a", "an empty segment (found at byte 0)"},
		{"a slash after", "a/", "an empty segment (found at byte 2)"},
		{"two slashes", "a//b", "an empty segment (found at byte 2)"},
		{"the protocol's own", "/meta/connect", "cannot begin with /meta/"},
		{"like the protocol's own", "/Meta/connect", "an empty segment"},
		{"this directory", "./a", "cannot have . as a segment (found at byte 0)"},
		{"the directory above", "a/../b", "cannot have .. as a segment (found at byte 2)"},
		{"the directory above, last", "a/..", "cannot have .. as a segment (found at byte 2)"},
		{"a star", "a/*", "cannot contain *"},
		{"a star in a segment", "a*b", "cannot contain * (found at byte 1)"},
		{"a placeholder", "a/{user}", "cannot contain { (found at byte 2)"},
		{"a closing brace", "a}", "cannot contain } (found at byte 1)"},
		{"a space", "a b", "cannot contain a space (found at byte 1: U+0020)"},
		{"a space at the end", "a ", "cannot contain a space"},
		{"NUL", "a\x00", "cannot contain a control character (found at byte 1: U+0000)"},
		{"a line break", "a\nb", "a control character"},
		{"a carriage return", "a\rb", "a control character"},
		{"a tab", "a\tb", "a control character"},
		{"DEL", "a\x7f", "a control character"},
		{"next line", "a\u0085b", "a control character (found at byte 1: U+0085)"},
		{"no-break space", "a\u00a0b", "a space"},
		{"ideographic space", "a\u3000b", "a space"},
		{"line separator", "a\u2028b", "a space"},
		{"zero width space", "a\u200bb", "an invisible format character (found at byte 1: U+200B)"},
		{"zero width joiner", "👩\u200d👧", "an invisible format character"},
		{"right-to-left override", "a\u202eb", "an invisible format character"},
		{"soft hyphen", "a\u00adb", "an invisible format character"},
		{"byte order mark", "\uFEFFa", "an invisible format character"},
		{"tag character", "a\U000E0041", "an invisible format character"},
		{"invalid UTF-8", "a\xff", "must be valid UTF-8; byte 1 is not"},
		{"overlong slash", "a\xc0\xafb", "must be valid UTF-8"},
		{"surrogate", "a\xed\xa0\x80", "must be valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRefusal(t, tt.channel, CheckName(tt.channel, MaxNameLength), tt.want) })
	}
}

func checkRefusal(t *testing.T, text string, got *Refusal, want string) {
	t.Helper()
	switch {
	case want == "" && got != nil:
		t.Errorf("%.80q: refused: %v", text, got)
	case want != "" && got == nil:
		t.Errorf("%.80q: accepted, want %q", text, want)
	case want != "" && !strings.Contains(got.Reason, want):
		t.Errorf("%.80q: %q, want … %q", text, got.Reason, want)
	}
	if got != nil {
		checkReason(t, got)
	}
}

func TestCheckNameHoldsTheLimitItIsGiven(t *testing.T) {
	checkRefusal(t, "12345", CheckName("12345", 5), "")
	checkRefusal(t, "123456", CheckName("123456", 5), "at most 5 bytes; this one has 6")
	checkRefusal(t, "123/*", CheckPattern("123/*", 5), "")
	checkRefusal(t, "1234/*", CheckPattern("1234/*", 5), "at most 5 bytes; this one has 6")
}

func TestCheckPattern(t *testing.T) {
	const place = "must be the whole last segment"
	for _, tt := range []struct{ name, pattern, want string }{
		{"a name", "stories/5", ""},
		{"everything", "*", ""},
		{"everything below", "stories/*", ""},
		{"everything far below", "a/b/c/*", ""},
		{"255 bytes", strings.Repeat("x", 253) + "/*", ""},

		{"nothing", "", "cannot be empty"},
		{"256 bytes", strings.Repeat("x", 254) + "/*", "a pattern can have at most 255 bytes; this one has 256"},
		{"a star in a segment", "n*", place},
		{"a star before", "*/a", place},
		{"a star in the middle", "a/*/b", place},
		{"two stars", "a/*/*", place},
		{"a double star", "a/**", place},
		{"only a double star", "**", place},
		{"a star and a slash", "a/*/", place},
		{"an empty segment", "a//*", "an empty segment (found at byte 2)"},
		{"a slash before", "/*", "what stands before /* in a pattern cannot be empty"},
		{"the protocol's own", "/meta/*", "an empty segment"},
		{"the protocol's own, a name", "/meta/connect", "cannot begin with /meta/"},
		{"the directory above", "../*", "cannot have .. as a segment"},
		{"a placeholder", "a/{x}/*", "cannot contain {"},
		{"a space", "a b/*", "cannot contain a space"},
		{"invalid UTF-8", "\xff/*", "must be valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRefusal(t, tt.pattern, CheckPattern(tt.pattern, MaxNameLength), tt.want) })
	}
}

func TestPrefixesOf(t *testing.T) {
	for name, want := range map[string][]string{
		"a":        {""},
		"a/b":      {"a/", ""},
		"a/b/c":    {"a/b/", "a/", ""},
		"größe/推送": {"größe/", ""},
	} {
		if got := slices.Collect(prefixesOf(name)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for range prefixesOf("a/b/c") {
		break // the iterator must allow loops that end early
	}
}

func TestPatternsMatchWhatIsBelowThem(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a", true},
		{"*", "a/b/c", true},
		{"a/*", "a/b", true},
		{"a/*", "a/b/c", true},
		{"a/b/*", "a/b/c", true},
		{"a/*", "a", false},
		{"a/*", "ab", false},
		{"a/*", "ab/c", false},
		{"a/*", "A/b", false},
		{"a/b/*", "a/c/d", false},
		{"b/*", "a/b/c", false},
	} {
		if got := slices.Contains(slices.Collect(prefixesOf(tt.name)), patternPrefix(tt.pattern)); got != tt.want {
			t.Errorf("%s matches %s: %v", tt.pattern, tt.name, got)
		}
	}
}

func TestNamesAreCheckedWithoutAllocating(t *testing.T) {
	name, pattern, n := "größe/推送/5", "größe/推送/*", 0
	if got := testing.AllocsPerRun(100, func() {
		if CheckName(name, MaxNameLength) != nil || CheckPattern(pattern, MaxNameLength) != nil {
			t.Fatal("refused")
		}
		for p := range prefixesOf(name) {
			n += len(p)
		}
		n += len(patternPrefix(pattern))
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"stories/5", "größe/推送", "a/../b", "a\u200bb", "/meta/connect", "\xff", "a//b", "*", "a{b}", strings.Repeat("x/", 130)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r := CheckName(name, MaxNameLength)
		if got, want := r == nil, isNameByTheBook(name); got != want {
			t.Fatalf("%q: a channel's name = %v (%v), by PROTOCOL.md %v", name, got, r, want)
		}
		if r != nil {
			checkReason(t, r)
			return
		}
		if p := CheckPattern(name, MaxNameLength); p != nil || IsPattern(name) {
			t.Errorf("%q: a name that cannot be subscribed to as one: %v", name, p)
		}
	})
}

// isNameByTheBook implements R10 of PROTOCOL.md, word by word.
func isNameByTheBook(name string) bool {
	if len(name) < 1 || len(name) > 255 || !utf8.ValidString(name) {
		return false
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r) || unicode.In(r, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp) || strings.ContainsRune("*{}", r)
	}) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(name, "/"), func(segment string) bool {
		return segment == "" || segment == "." || segment == ".."
	})
}

func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"*", "a"}, {"a/*", "a/b/c"}, {"a/*", "a"}, {"a/*", "ab"}, {"a/b", "a/b"}, {"n*", "news"}, {"a/*/b", "a/x/b"}, {"/*", "/a"}, {"größe/*", "größe/推送"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		r := CheckPattern(pattern, MaxNameLength)
		before, isPattern := strings.CutSuffix(pattern, "/*")
		want := len(pattern) <= 255 && (pattern == "*" || isNameByTheBook(pattern) || isPattern && isNameByTheBook(before))
		if got := r == nil; got != want {
			t.Fatalf("%q: can be subscribed to = %v (%v), by PROTOCOL.md %v", pattern, got, r, want)
		}
		if r != nil {
			checkReason(t, r)
			return
		}
		if IsPattern(pattern) != (isPattern || pattern == "*") {
			t.Fatalf("%q: IsPattern = %v", pattern, IsPattern(pattern))
		}
		if !IsPattern(pattern) || CheckName(name, MaxNameLength) != nil {
			return
		}
		got := slices.Contains(slices.Collect(prefixesOf(name)), patternPrefix(pattern))
		if want := pattern == "*" || strings.HasPrefix(name, before+"/"); got != want {
			t.Errorf("%q matches %q: %v, by PROTOCOL.md %v", pattern, name, got, want)
		}
	})
}
