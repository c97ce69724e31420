// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxStrings is the most strings in one message of a SockJS client.
	maxStrings = 1024
	// sockJSOverhead is what a message of a SockJS client may have beyond twice
	// its largest string: JSON in a JSON string is at most about so much longer.
	sockJSOverhead = 1 << 10
)

// The violations of a SockJS message.
var (
	errNotSockJS = invalid("a SockJS message is an array of strings, or one string")
	errStrings   = invalid("a SockJS message holds at most 1024 strings")
)

// A span is where in a message a string stands.
type span struct{ from, to uint32 }

// decodeSockJS reads a message of a SockJS client, an array of strings or a
// single string, and appends to spans where each string now stands in p: they
// are decoded in place, which never makes them longer. p is valid UTF-8. It is
// as strict as RFC 8259, and takes no lone surrogate: such a string is no text.
func decodeSockJS(p []byte, spans []span) ([]span, error) {
	i := skipSpace(p, 0)
	if i < len(p) && p[i] == '"' {
		s, i, ok := decodeString(p, i)
		if !ok || skipSpace(p, i) != len(p) {
			return nil, errNotSockJS
		}
		return append(spans, s), nil
	}
	if i == len(p) || p[i] != '[' {
		return nil, errNotSockJS
	}
	if i = skipSpace(p, i+1); i < len(p) && p[i] == ']' {
		if skipSpace(p, i+1) != len(p) {
			return nil, errNotSockJS
		}
		return spans, nil
	}
	for {
		s, next, ok := decodeString(p, i)
		if i = skipSpace(p, next); !ok || i == len(p) {
			return nil, errNotSockJS
		}
		if len(spans) == maxStrings {
			return nil, errStrings
		}
		spans = append(spans, s)
		switch p[i] {
		case ',':
			i = skipSpace(p, i+1)
		case ']':
			if skipSpace(p, i+1) != len(p) {
				return nil, errNotSockJS
			}
			return spans, nil
		default:
			return nil, errNotSockJS
		}
	}
}

// decodeString decodes in place the string that begins at p[i]. next is what
// follows it.
func decodeString(p []byte, i int) (s span, next int, ok bool) {
	if i >= len(p) || p[i] != '"' {
		return span{}, i, false
	}
	i++
	from, to := i, i
	for i < len(p) {
		c := p[i]
		switch {
		case c == '"':
			return span{uint32(from), uint32(to)}, i + 1, true
		case c < 0x20:
			return span{}, i, false
		case c == '\\':
			r, n := decodeEscape(p[i:])
			if n == 0 {
				return span{}, i, false
			}
			// An escape is longer than what it stands for.
			to += utf8.EncodeRune(p[to:i+n], r)
			i += n
		default:
			p[to] = c
			to++
			i++
		}
	}
	return span{}, i, false
}

// decodeEscape reads the escape that p begins with. n is its length, 0 if it is
// not one.
func decodeEscape(p []byte) (r rune, n int) {
	if len(p) < 2 {
		return 0, 0
	}
	switch p[1] {
	case '"', '\\', '/':
		return rune(p[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return 0, 0
	}
	r, ok := decodeHex(p)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := decodeHex(p[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// decodeHex reads \uXXXX.
func decodeHex(p []byte) (r rune, ok bool) {
	if len(p) < 6 || p[0] != '\\' || p[1] != 'u' {
		return 0, false
	}
	for _, c := range p[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skipSpace returns the index of the first byte from i on that is not JSON's
// white space.
func skipSpace(p []byte, i int) int {
	for i < len(p) && (p[i] == ' ' || p[i] == '\t' || p[i] == '\n' || p[i] == '\r') {
		i++
	}
	return i
}
