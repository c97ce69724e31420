// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package jsontext

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeEscape reads the escape at the beginning of b. n is its length, or 0 if b begins
// with no valid escape. Half a surrogate pair becomes U+FFFD, as in most readers; whole is
// then false.
func decodeEscape(b []byte) (r rune, n int, whole bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2, true
	case 'b':
		return '\b', 2, true
	case 'f':
		return '\f', 2, true
	case 'n':
		return '\n', 2, true
	case 'r':
		return '\r', 2, true
	case 't':
		return '\t', 2, true
	case 'u':
	default:
		return 0, 0, false
	}
	if r = hex4(b); r < 0 {
		return 0, 0, false
	}
	if !utf16.IsSurrogate(r) {
		return r, 6, true
	}
	if r = utf16.DecodeRune(r, hex4(b[6:])); r != utf8.RuneError {
		return r, 12, true
	}
	return utf8.RuneError, 6, false
}

// hex4 returns the value of the \u escape at the beginning of b, or -1 if there is none.
func hex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// Unescape appends the text of a JSON string to dst. inside is the string without its
// quotes; a Scanner must have read it. Half a surrogate pair becomes U+FFFD; whole is then
// false.
func Unescape(dst, inside []byte) (out []byte, whole bool) {
	whole = true
	for {
		i := bytes.IndexByte(inside, '\\')
		if i < 0 {
			return append(dst, inside...), whole
		}
		r, n, ok := decodeEscape(inside[i:])
		dst = utf8.AppendRune(append(dst, inside[:i]...), r)
		inside = inside[i+n:]
		whole = whole && ok
	}
}

// UnescapeInPlace reads the JSON string that begins at p[i]; p must be valid UTF-8. It
// overwrites the string with its text, which is never longer, and returns the bounds of
// the text and the index after the string. ok is false if there is no valid JSON string,
// or if it has half a surrogate pair.
func UnescapeInPlace(p []byte, i int) (from, to, next int, ok bool) {
	if i >= len(p) || p[i] != '"' {
		return 0, 0, i, false
	}
	i++
	from, to = i, i
	for i < len(p) {
		c := p[i]
		switch {
		case c == '"':
			return from, to, i + 1, true
		case c < 0x20:
			return 0, 0, i, false
		case c == '\\':
			r, n, whole := decodeEscape(p[i:])
			if n == 0 || !whole {
				return 0, 0, i, false
			}
			to += utf8.EncodeRune(p[to:i+n], r)
			i += n
		default:
			p[to] = c
			to++
			i++
		}
	}
	return 0, 0, i, false
}

// SkipSpace returns the index of the first byte of p[i:] that is not JSON white space.
func SkipSpace(p []byte, i int) int {
	for i < len(p) && (p[i] == ' ' || p[i] == '\t' || p[i] == '\n' || p[i] == '\r') {
		i++
	}
	return i
}

// Compact appends value, a valid JSON value, to dst without white space outside of
// strings.
func Compact(dst, value []byte) []byte {
	inString := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case !inString && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			continue
		case c == '"':
			inString = !inString
		case c == '\\':
			dst = append(dst, c)
			i++
		}
		dst = append(dst, value[i])
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// escapes has the character after the backslash for each byte that needs an escape: 'u'
// stands for \u00XX. It has 0 for other bytes. 0xE2 may begin U+2028 or U+2029, which
// JavaScript before 2019 did not allow in a string.
var escapes = func() (t escapeTable) {
	for c := range 0x20 {
		t[c] = 'u'
	}
	t['\b'], t['\f'], t['\n'], t['\r'], t['\t'] = 'b', 'f', 'n', 'r', 't'
	t['"'], t['\\'] = '"', '\\'
	t[0xE2] = 0xE2
	return t
}()

// htmlEscapes also has the characters that mean something in HTML.
var htmlEscapes = func() escapeTable {
	t := escapes
	t['<'], t['>'], t['&'] = 'u', 'u', 'u'
	return t
}()

type escapeTable [256]byte

// QuotedLen returns how many bytes AppendQuoted appends for s.
func QuotedLen(s []byte) int {
	n := len(s)
	for i, c := range s {
		switch escapes[c] {
		case 0:
		case 'u':
			n += len(`\u00XX`) - 1
		case 0xE2:
			if isLineSeparator(s[i:]) {
				n += len(`\u2028`) - 3
			}
		default:
			n++
		}
	}
	return n
}

// AppendQuoted appends s to dst as the inside of a JSON string. s must be valid UTF-8.
func AppendQuoted[text string | []byte](dst []byte, s text) []byte {
	return appendQuoted(dst, s, &escapes)
}

// AppendQuotedHTML is AppendQuoted for JSON that becomes part of a page, or that a
// browser may take for one: it escapes <, > and & too, as encoding/json does.
func AppendQuotedHTML[text string | []byte](dst []byte, s text) []byte {
	return appendQuoted(dst, s, &htmlEscapes)
}

func appendQuoted[text string | []byte](dst []byte, s text, escapes *escapeTable) []byte {
	done := 0 // how many bytes of s are in dst
	for i := 0; i < len(s); i++ {
		switch e := escapes[s[i]]; e {
		case 0:
			continue
		case 'u':
			dst = append(append(dst, s[done:i]...), '\\', 'u', '0', '0', hexDigits[s[i]>>4], hexDigits[s[i]&0xF])
		case 0xE2:
			if !isLineSeparator(s[i:]) {
				continue
			}
			dst = append(append(dst, s[done:i]...), '\\', 'u', '2', '0', '2', hexDigits[s[i+2]&0xF])
			i += 2
		default:
			dst = append(append(dst, s[done:i]...), '\\', e)
		}
		done = i + 1
	}
	return append(dst, s[done:]...)
}

// isLineSeparator reports whether s begins with U+2028 or U+2029.
func isLineSeparator[text string | []byte](s text) bool {
	return len(s) >= 3 && s[1] == 0x80 && s[2]&^1 == 0xA8
}

// AppendString appends text to dst as a JSON string. Invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, text string) []byte {
	return append(AppendQuoted(append(dst, '"'), strings.ToValidUTF8(text, "\uFFFD")), '"')
}

// excerptLen is the maximum number of bytes of a key that Excerpt quotes.
const excerptLen = 32

// Excerpt quotes a key for an error text. The result is short, printable and has no line
// breaks.
func Excerpt(key []byte) string {
	more := ""
	if len(key) > excerptLen {
		for n := excerptLen; ; n-- {
			if utf8.RuneStart(key[n]) {
				key, more = key[:n], "…"
				break
			}
		}
	}
	return "key " + strconv.Quote(string(key)) + more
}
