// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"unicode/utf8"

	"github.com/push-it/pushit/hub"
)

// The forms in which agents on a WebSocket get their frames. A SockJS client
// knows nothing of WebSocket pings, and a proxy may drop a connection whose
// peer is silent: so its heartbeat is both, and the pong is the sign of life.
var (
	bareForm   = hub.NewForm(appendBare, nil, appendHeader(nil, opPing, 0))
	sockJSForm = hub.NewForm(appendSockJS,
		append(appendHeader(nil, opText, 1), 'o'),
		appendHeader(append(appendHeader(nil, opText, 1), 'h'), opPing, 0))
)

// appendBare appends a text frame that is the object.
func appendBare(dst, object []byte) []byte {
	return append(appendHeader(dst, opText, len(object)), object...)
}

// appendSockJS appends a text frame that is a["<object>"].
func appendSockJS(dst, object []byte) []byte {
	dst = appendHeader(dst, opText, len(`a[""]`)+quotedLen(object))
	dst = append(dst, `a["`...)
	dst = appendQuoted(dst, object)
	return append(dst, `"]`...)
}

// appendSockJSClose appends a text frame that is c[<code>,"<reason>"].
func appendSockJSClose(dst []byte, code hub.CloseCode, reason string) []byte {
	text := appendClosing(nil, code, reason)
	return append(appendHeader(dst, opText, len(text)), text...)
}

// appendClosing appends c[<code>,"<reason>"].
func appendClosing(dst []byte, code hub.CloseCode, reason string) []byte {
	dst = appendQuoted(fmt.Appendf(dst, `c[%d,"`, code), []byte(reason))
	return append(dst, `"]`...)
}

const hexDigits = "0123456789abcdef"

// escapes has, for each byte, what stands behind the backslash in a JSON string:
// 0 for a byte that stands for itself, 'u' for \u00XX. 0xE2 may begin U+2028 or
// U+2029, which JavaScript before 2019 did not take in a string.
var escapes = func() (t [256]byte) {
	for c := range 0x20 {
		t[c] = 'u'
	}
	t['\b'], t['\f'], t['\n'], t['\r'], t['\t'] = 'b', 'f', 'n', 'r', 't'
	t['"'], t['\\'] = '"', '\\'
	t[0xE2] = 0xE2
	return t
}()

// quotedLen is how many bytes appendQuoted appends for s.
func quotedLen(s []byte) int {
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

// appendQuoted appends s, valid UTF-8, as the inside of a JSON string.
func appendQuoted(dst, s []byte) []byte {
	done := 0
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
func isLineSeparator(s []byte) bool {
	return len(s) >= 3 && s[1] == 0x80 && s[2]&^1 == 0xA8
}

// truncate cuts s to n bytes at most, between two characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
