// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// SockJS has the same frames for all transports: o opens a session, h is a heartbeat,
// a["…","…"] carries messages, and c[code,"reason"] ends the session. Each transport over
// HTTP wraps them in its own way. This file has these framings. framing_test.go compares
// them with those of github.com/igm/sockjs-go, byte by byte.
//
// Names in parentheses, such as XhrPolling.test_transport, are tests of SockJS's protocol
// 0.3.3 (https://github.com/sockjs/sockjs-protocol), which state the rule.

// recordEnd follows each record that the hub writes to a fallback. Records cannot contain
// it, because JSON strings escape it.
const recordEnd = '\n'

var recordEnds = []byte{recordEnd}

// heartbeatFrame is the SockJS frame of a heartbeat. Its record is the same.
const heartbeatFrame = "h"

// fallbackForm encodes an object as a JSON string, as it appears in a SockJS frame. The hub
// encodes it once for all sessions.
var fallbackForm = hub.NewForm(
	func(dst, object []byte) []byte {
		return append(jsontext.AppendQuotedHTML(append(dst, '"'), object), '"', recordEnd)
	},
	nil, []byte{heartbeatFrame[0], recordEnd})

// messagesFrame appends to dst, which is empty, one SockJS frame of all messages in p, which
// are records that the hub joined. heartbeat reports whether there are heartbeats too. If
// there is nothing else, the frame is nil.
func messagesFrame(dst, p []byte) (frame []byte, heartbeat bool) {
	frame = append(slices.Grow(dst, len(p)+len(`a[]`)), `a[`...)
	for len(p) > 0 {
		record, rest, _ := bytes.Cut(p, recordEnds)
		p = rest
		if string(record) == heartbeatFrame {
			heartbeat = true
			continue
		}
		frame = append(append(frame, record...), ',')
	}
	if len(frame) == len(`a[`) {
		return nil, heartbeat
	}
	frame[len(frame)-1] = ']'
	return frame, heartbeat
}

// closeFrame returns the SockJS frame that ends a session.
func closeFrame(code hub.CloseCode, reason string) string {
	return fmt.Sprintf(`c[%d,"%s"]`, code, jsontext.AppendQuotedHTML(nil, reason))
}

// A framing is how one of SockJS's transports carries frames in responses.
type framing struct {
	transport   string
	method      string // of the requests
	contentType string
	poll        bool // a response carries one frame
	callback    bool // the query has the name of a JavaScript function

	// prelude appends the bytes before the first frame; nil if there are none.
	prelude func(dst []byte, callback string) []byte
	// wrap appends a frame as it is on the wire; nil leaves it as it is. Such a response has
	// no limit of its size.
	wrap func(dst, frame []byte, callback string) []byte
}

const javaScript = "application/javascript; charset=UTF-8"

// framings has all framings, by the last segment of a request's path.
var framings = map[string]*framing{
	"xhr":           {transport: "xhr", method: http.MethodPost, contentType: javaScript, poll: true, wrap: wrapXHR},
	"xhr_streaming": {transport: "xhr_streaming", method: http.MethodPost, contentType: javaScript, prelude: preludeXHR, wrap: wrapXHR},
	"eventsource":   {transport: "eventsource", method: http.MethodGet, contentType: "text/event-stream", prelude: preludeEventSource, wrap: wrapEventSource},
	"htmlfile":      {transport: "htmlfile", method: http.MethodGet, contentType: "text/html; charset=UTF-8", callback: true, prelude: preludeHTMLFile, wrap: wrapHTMLFile},
	"jsonp":         {transport: "jsonp", method: http.MethodGet, contentType: javaScript, poll: true, callback: true, wrap: wrapJSONP},
}

// wrapXHR makes each frame a line (XhrPolling.test_transport).
func wrapXHR(dst, frame []byte, _ string) []byte {
	return append(append(dst, frame...), '\n')
}

// preludeXHR appends a line of 2 KiB: some browsers hand over nothing before they have
// received that much (XhrStreaming.test_transport).
func preludeXHR(dst []byte, _ string) []byte {
	return append(append(dst, strings.Repeat("h", 2<<10)...), '\n')
}

// preludeEventSource appends an empty line, because of a bug in Opera
// (EventSource.test_transport).
func preludeEventSource(dst []byte, _ string) []byte { return append(dst, "\r\n"...) }

// wrapEventSource makes each frame an event (EventSource.test_transport). Line breaks would
// end the event, so they are escaped with percent signs, which SockJS's clients decode.
func wrapEventSource(dst, frame []byte, _ string) []byte {
	dst = append(dst, "data: "...)
	for len(frame) > 0 {
		i := bytes.IndexAny(frame, "%\n\r\x00")
		if i < 0 {
			dst = append(dst, frame...)
			break
		}
		const digits = "0123456789ABCDEF"
		dst = append(append(dst, frame[:i]...), '%', digits[frame[i]>>4], digits[frame[i]&0xF])
		frame = frame[i+1:]
	}
	return append(dst, "\r\n\r\n"...)
}

// The page that an iframe loads, before and after the name of the callback. Spaces make it
// longer than 1 KiB, because browsers run no script before they have received that much
// (HtmlFile.test_transport).
const (
	htmlFileStart = `<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.`
	htmlFileEnd = `;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
`
	htmlFileSize = 1036 // of the page without the callback, as sockjs-go has it
)

// preludeHTMLFile appends the page. Frames continue it, so it has no end.
func preludeHTMLFile(dst []byte, callback string) []byte {
	dst = append(append(append(dst, htmlFileStart...), callback...), htmlFileEnd...)
	dst = append(dst, strings.Repeat(" ", htmlFileSize-len(htmlFileStart)-len(htmlFileEnd))...)
	return append(dst, "\r\n\r\n"...)
}

// wrapHTMLFile makes each frame a script that passes it to the page's function p
// (HtmlFile.test_transport). HTML characters are escaped, so that no frame can end its
// script.
func wrapHTMLFile(dst, frame []byte, _ string) []byte {
	dst = append(dst, "<script>\np(\""...)
	dst = jsontext.AppendQuotedHTML(dst, frame)
	return append(dst, "\");\n</script>\r\n"...)
}

// wrapJSONP makes the frame a script that passes it to the callback
// (JsonPolling.test_transport). The comment before the callback is pushit's own. Without it,
// the client could choose the first bytes, and make them look like another type of file.
func wrapJSONP(dst, frame []byte, callback string) []byte {
	dst = append(append(append(dst, "/**/"...), callback...), "(\""...)
	dst = jsontext.AppendQuotedHTML(dst, frame)
	return append(dst, "\");\r\n"...)
}
