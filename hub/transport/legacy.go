// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// The client of Push-It of 2011 came with SockJS 0.0.4, which sent and got JSON
// values where today's SockJS has strings with JSON in them, and Push-It's server
// wrapped messages once more:
//
//	in   {"channel":"/meta/connect",…}
//	out  a[{"channel":"/meta/connect",…}]
//	out  a[{"channel":"news","data":{"channel":"news","uuid":…,"data":…}}]
//
// The client speaks first, so its first message tells which of the two it is.

// legacyForm is the encoding for such a client.
var legacyForm = hub.NewForm(appendLegacy, sockJSForm.Opening, sockJSForm.Heartbeat)

// isLegacy reports whether a first message is that of such a client.
func isLegacy(p []byte) bool {
	i := jsontext.SkipSpace(p, 0)
	return i < len(p) && p[i] == '{'
}

// What the hub's objects begin with: frames of its own, and messages.
var (
	metaStart    = []byte(`{"channel":"/meta/`)
	channelStart = []byte(`{"channel":"`)
)

// leadingString returns the JSON string that p begins with, in its quotes.
func leadingString(p []byte) []byte {
	for i := 1; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '"':
			return p[:i+1]
		}
	}
	return p
}

// appendLegacy appends a text frame that is a[<object>], with messages wrapped
// once more.
func appendLegacy(dst, object []byte) []byte {
	if bytes.HasPrefix(object, metaStart) {
		dst = appendHeader(dst, opText, len("a[]")+len(object))
		return append(append(append(dst, "a["...), object...), ']')
	}
	name := leadingString(object[len(channelStart)-1:])
	const before, between, behind = `a[{"channel":`, `,"data":`, `}]`
	dst = appendHeader(dst, opText, len(before)+len(name)+len(between)+len(object)+len(behind))
	dst = append(append(dst, before...), name...)
	dst = append(append(dst, between...), object...)
	return append(dst, behind...)
}
