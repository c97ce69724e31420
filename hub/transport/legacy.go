// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// The Push-It client of 2011 came with SockJS 0.0.4. That version sent and received JSON
// values; today's SockJS uses strings that contain JSON. Push-It's server also wrapped each
// message in another one:
//
//	in   {"channel":"/meta/connect",…}
//	out  a[{"channel":"/meta/connect",…}]
//	out  a[{"channel":"news","data":{"channel":"news","uuid":…,"data":…}}]
//
// The client speaks first, so its first message shows which kind of client it is.

// legacyForm encodes frames for a client of 2011.
var legacyForm = hub.NewForm(appendLegacy, sockJSForm.Opening, sockJSForm.Heartbeat)

// isLegacy reports whether p is the first message of a client of 2011.
func isLegacy(p []byte) bool {
	i := jsontext.SkipSpace(p, 0)
	return i < len(p) && p[i] == '{'
}

// The hub's own frames begin with metaStart, messages with channelStart.
var (
	metaStart    = []byte(`{"channel":"/meta/`)
	channelStart = []byte(`{"channel":"`)
)

// leadingString returns the JSON string at the beginning of p, with its quotes.
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

// appendLegacy appends a text frame with a[<object>]. It wraps messages in another message.
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
