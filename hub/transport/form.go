// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"unicode/utf8"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// The forms of frames for agents on a WebSocket. SockJS clients expect the heartbeat h, and
// do not see pings. The ping beside it makes the client answer with a pong, which is a sign
// of life, and keeps proxies from dropping a silent connection.
var (
	bareForm   = hub.NewForm(appendBare, nil, appendHeader(nil, opPing, 0))
	sockJSForm = hub.NewForm(appendSockJS,
		append(appendHeader(nil, opText, 1), 'o'),
		appendHeader(append(appendHeader(nil, opText, 1), 'h'), opPing, 0))
)

// appendBare appends a text frame with the object.
func appendBare(dst, object []byte) []byte {
	return append(appendHeader(dst, opText, len(object)), object...)
}

// appendSockJS appends a text frame with a["<object>"].
func appendSockJS(dst, object []byte) []byte {
	dst = appendHeader(dst, opText, len(`a[""]`)+jsontext.QuotedLen(object))
	dst = append(dst, `a["`...)
	dst = jsontext.AppendQuoted(dst, object)
	return append(dst, `"]`...)
}

// appendSockJSClose appends a text frame with c[<code>,"<reason>"].
func appendSockJSClose(dst []byte, code hub.CloseCode, reason string) []byte {
	text := fmt.Appendf(nil, `c[%d,"%s"]`, code, jsontext.AppendQuoted(nil, reason))
	return append(appendHeader(dst, opText, len(text)), text...)
}

// truncate cuts s to at most n bytes, between two characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
