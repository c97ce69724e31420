// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"unicode/utf8"

	"github.com/push-it/pushit/internal/jsontext"
)

const (
	// maxStrings is the most strings that a SockJS message may have.
	maxStrings = 1024
	// sockJSOverhead is how many bytes a SockJS message may have beyond twice the size of
	// the largest frame. JSON in a JSON string needs about that much.
	sockJSOverhead = 1 << 10
)

// maxBeginning is how much of a message over the limit is read, in bytes.
const maxBeginning = 4 << 10

// firstString returns the beginning of the first string in a SockJS message that was cut off.
// It is enough to tell which frame was too large. firstString decodes in place.
func firstString(p []byte) []byte {
	p = p[:min(len(p), maxBeginning)]
	i := jsontext.SkipSpace(p, 0)
	if i < len(p) && p[i] == '[' {
		i = jsontext.SkipSpace(p, i+1)
	}
	end := i + 1
	for end < len(p) && p[end] != '"' {
		n := 1
		switch c := p[end]; {
		case c == '\\' && bytes.HasPrefix(p[end:], []byte(`\u`)):
			n = len(`\ud83d\ude00`) // both halves of a surrogate pair
			if len(p)-end >= n && !bytes.HasPrefix(bytes.ToLower(p[end:]), []byte(`\ud`)) {
				n = len(`\u00e9`)
			}
		case c == '\\':
			n = len(`\n`)
		case c >= utf8.RuneSelf:
			_, n = utf8.DecodeRune(p[end:])
			if n == 1 { // cut off, or no UTF-8
				n = len(p)
			}
		}
		if end+n > len(p) {
			break
		}
		end += n
	}
	whole := append(p[:min(end, len(p)):min(end, len(p))], '"')
	from, to, _, ok := jsontext.UnescapeInPlace(whole, i)
	if !ok {
		return nil
	}
	return whole[from:to]
}

// The violations of a SockJS message's form.
var (
	errNotSockJS = invalid("a SockJS message is an array of strings, or one string")
	errStrings   = invalid("a SockJS message holds at most 1024 strings")
)

// A span is where a string is in a message.
type span struct{ from, to uint32 }

// decodeSockJS decodes a SockJS message, which is an array of strings or one string. It
// decodes the strings in place, which never makes them longer, and appends to spans where
// they are in p. p must be valid UTF-8. decodeSockJS is as strict as RFC 8259, and also
// refuses lone surrogates, which are no text.
func decodeSockJS(p []byte, spans []span) ([]span, error) {
	i := jsontext.SkipSpace(p, 0)
	if i < len(p) && p[i] == '"' {
		from, to, i, ok := jsontext.UnescapeInPlace(p, i)
		if !ok || jsontext.SkipSpace(p, i) != len(p) {
			return nil, errNotSockJS
		}
		return append(spans, span{uint32(from), uint32(to)}), nil
	}
	if i == len(p) || p[i] != '[' {
		return nil, errNotSockJS
	}
	if i = jsontext.SkipSpace(p, i+1); i < len(p) && p[i] == ']' {
		if jsontext.SkipSpace(p, i+1) != len(p) {
			return nil, errNotSockJS
		}
		return spans, nil
	}
	for {
		from, to, next, ok := jsontext.UnescapeInPlace(p, i)
		if i = jsontext.SkipSpace(p, next); !ok || i == len(p) {
			return nil, errNotSockJS
		}
		if len(spans) == maxStrings {
			return nil, errStrings
		}
		spans = append(spans, span{uint32(from), uint32(to)})
		switch p[i] {
		case ',':
			i = jsontext.SkipSpace(p, i+1)
		case ']':
			if jsontext.SkipSpace(p, i+1) != len(p) {
				return nil, errNotSockJS
			}
			return spans, nil
		default:
			return nil, errNotSockJS
		}
	}
}
