// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUnescapeIsThatOfEncodingJSON(t *testing.T) {
	for _, inside := range []string{
		``, `plain`, `\"\\\/\b\f\n\r\t`, `\u0041\u00e9\u20AC\uD83D\uDE00`, `a\ud800b`, `\ud800`, `\ud800\ud800\udc00`, `\udc00\ud800`, `\ud83dx\ude00`, `\u0000`, `é€😀`,
	} {
		var want string
		if err := json.Unmarshal([]byte(`"`+inside+`"`), &want); err != nil {
			t.Fatal(err)
		}
		got, whole := Unescape([]byte("before "), []byte(inside))
		if string(got) != "before "+want {
			t.Errorf("%s: %q, want %q", inside, got, "before "+want)
		}
		if lone := strings.Contains(want, "\uFFFD"); whole == lone {
			t.Errorf("%s: whole = %v", inside, whole)
		}
	}
}

func TestAppendStringComesBack(t *testing.T) {
	for _, text := range []string{
		"", "stories/5", `a"b\c/d`, "\x00\x01\b\f\n\r\t\x1f\x7f", "é€😀\u2028\u2029", "\xff", "a\xc3", "\xed\xa0\x80x", "\uFFFD", `<img onerror="x">&`,
	} {
		got := AppendString([]byte("x"), text)
		var back string
		if err := json.Unmarshal(got[1:], &back); err != nil {
			t.Errorf("%q: %q: %v", text, got, err)
		}
		if want := strings.ToValidUTF8(text, "\uFFFD"); back != want && utf8.ValidString(text) {
			t.Errorf("%q: %q", text, back)
		}
		if Check(got[1:]) != nil {
			t.Errorf("%q: %q is refused", text, got)
		}
	}
}

func TestQuotedCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"plain / é 😀 \x7f":       "plain / é 😀 \x7f",
		`"\`:                     `\"\\`,
		"\b\f\n\r\t":             `\b\f\n\r\t`,
		"\x00\x1f":               `\u0000\u001f`,
		"a\u2028b\u2029c":        `a\u2028b\u2029c`,
		"\u2027\u202a€":          "\u2027\u202a€",
		"<script>&'`</script>":   "<script>&'`</script>",
		"\u2028":                 `\u2028`,
		"\"at both ends\"":       `\"at both ends\"`,
		strings.Repeat(`"`, 200): strings.Repeat(`\"`, 200),
	} {
		got := string(AppendQuoted(nil, []byte(in)))
		if got != want || QuotedLen([]byte(in)) != len(want) {
			t.Errorf("%q = %q of %d bytes, want %q of %d", in, got, QuotedLen([]byte(in)), want, len(want))
		}
	}
}

// TestAppendQuotedHTML wants what encoding/json writes, of each character.
func TestAppendQuotedHTML(t *testing.T) {
	for r := range rune(0x11000) {
		if !utf8.ValidRune(r) {
			continue
		}
		in := "a" + string(r) + "b"
		want, err := json.Marshal(in)
		if got := `"` + string(AppendQuotedHTML(nil, in)) + `"`; err != nil || got != string(want) {
			t.Fatalf("%q becomes %s, want %s (%v)", in, got, want, err)
		}
	}
}
