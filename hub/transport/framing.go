// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// The frames of SockJS are the same over all its transports: o opens a session, h is a
// heartbeat, a["…","…"] carries messages, c[code,"reason"] ends the session. Each
// transport over HTTP wraps them in its own way, which this file has. What it writes is,
// byte for byte, what github.com/igm/sockjs-go writes; framing_test.go compares them.
//
// The names in parentheses are those of tests in SockJS's protocol, version 0.3.3.

// recordEnd follows each record that the hub writes to a fallback. It cannot be part of
// a record: JSON strings escape it.
const recordEnd = '\n'

// heartbeatFrame is the SockJS frame of a heartbeat, and its record.
const heartbeatFrame = "h"

// fallbackForm encodes an object as the JSON string that it is in a SockJS frame. Any
// number of them make one frame.
var fallbackForm = hub.NewForm(
	func(dst, object []byte) []byte {
		return append(jsontext.AppendQuotedHTML(append(dst, '"'), object), '"', recordEnd)
	},
	nil, []byte{heartbeatFrame[0], recordEnd})

// messagesFrame makes one SockJS frame of the messages among the records that the hub has
// joined. The frame is nil if all records are heartbeats.
func messagesFrame(p []byte) (frame []byte, heartbeat bool) {
	frame = append(make([]byte, 0, len(p)+len(`a[]`)), `a[`...)
	for record := range bytes.SplitSeq(bytes.TrimSuffix(p, []byte{recordEnd}), []byte{recordEnd}) {
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

// closeFrame makes the SockJS frame that ends a session.
func closeFrame(code hub.CloseCode, reason string) string {
	return fmt.Sprintf(`c[%d,"%s"]`, code, jsontext.AppendQuotedHTML(nil, reason))
}

// A framing is how one of SockJS's transports carries frames in responses.
type framing struct {
	transport   string
	method      string // of the requests
	contentType string
	poll        bool // a response carries one frame
	callback    bool // the client names a JavaScript function in the query

	// prelude appends what precedes the first frame; nil for nothing.
	prelude func(dst []byte, callback string) []byte
	// wrap appends a frame as it is on the wire.
	wrap func(dst, frame []byte, callback string) []byte
}

const javaScript = "application/javascript; charset=UTF-8"

// framings are all of them, by the last segment of a request's path.
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

// preludeXHR appends a line of 2 KiB: some browsers keep the first bytes of a response to
// themselves (XhrStreaming.test_transport).
func preludeXHR(dst []byte, _ string) []byte {
	return append(append(dst, strings.Repeat("h", 2<<10)...), '\n')
}

// preludeEventSource appends an empty line, for Opera (EventSource.test_transport).
func preludeEventSource(dst []byte, _ string) []byte { return append(dst, "\r\n"...) }

// wrapEventSource makes each frame an event (EventSource.test_transport). SockJS's clients
// decode percent signs in it.
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

// The page that an iframe loads, before and after the name of the callback
// (HtmlFile.test_transport). Spaces make it longer than 1 KiB: Internet Explorer runs no
// script before that.
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
	htmlFileSize = 1036 // with spaces, without the callback
)

// preludeHTMLFile appends the page, which has no end: frames go on with it.
func preludeHTMLFile(dst []byte, callback string) []byte {
	dst = append(append(append(dst, htmlFileStart...), callback...), htmlFileEnd...)
	dst = append(dst, strings.Repeat(" ", htmlFileSize-len(htmlFileStart)-len(htmlFileEnd))...)
	return append(dst, "\r\n\r\n"...)
}

// wrapHTMLFile makes each frame a script that calls the page's p with it
// (HtmlFile.test_transport). Nothing in the frame may end the script.
func wrapHTMLFile(dst, frame []byte, _ string) []byte {
	dst = append(dst, "<script>\np(\""...)
	dst = jsontext.AppendQuotedHTML(dst, frame)
	return append(dst, "\");\n</script>\r\n"...)
}

// wrapJSONP makes the one frame a script that calls the callback with it
// (JsonPolling.test_transport). The comment in front is not SockJS's: without it the
// client chooses the first bytes, and could make them those of a file of another type.
func wrapJSONP(dst, frame []byte, callback string) []byte {
	dst = append(append(append(dst, "/**/"...), callback...), "(\""...)
	dst = jsontext.AppendQuotedHTML(dst, frame)
	return append(dst, "\");\r\n"...)
}
