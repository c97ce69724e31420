// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it; it protects nothing
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/push-it/pushit/hub"
)

// websocketGUID is appended to the key before it is hashed (RFC 6455, section 1.3).
const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// maxSnapshot is the most bytes of an opening request, which an agent keeps until its
// session ends. Browsers send 1 to 10 KB, most of it cookies.
const maxSnapshot = 32 << 10

// An httpError is the answer to a refused request: a status and one sentence.
type httpError struct {
	status int
	reason string
}

// The reasons not to upgrade. SockJS prescribes the wording of the first two.
var (
	errNoUpgrade    = &httpError{http.StatusBadRequest, `Can "Upgrade" only to "WebSocket".`}
	errNoConnection = &httpError{http.StatusBadRequest, `"Connection" must be "Upgrade".`}
	errHTTPVersion  = &httpError{http.StatusBadRequest, "Open a WebSocket with GET over HTTP/1.1."}
	errWithBody     = &httpError{http.StatusBadRequest, "A request for a WebSocket must not have a body."}
	errVersion      = &httpError{http.StatusUpgradeRequired, `"Sec-WebSocket-Version" must be 13.`}
	errKey          = &httpError{http.StatusBadRequest, `"Sec-WebSocket-Key" must be one value of 16 bytes in base64.`}
	errExtended     = &httpError{http.StatusNotImplemented, "WebSocket over HTTP/2 or HTTP/3 is not served: open it over HTTP/1.1."}
	errEarly        = &httpError{http.StatusTooEarly, "No session is opened in TLS early data, because it could be a replay: try again."}
	errHeader       = &httpError{http.StatusRequestHeaderFieldsTooLarge, "The address and header fields of a session's opening request may have at most 32 KiB."}
	errNotHijacked  = &httpError{http.StatusInternalServerError, "The server cannot hand over this connection."}
)

// checkUpgrade returns the key of a request for a WebSocket, or why the request is none (RFC
// 6455, section 4.2.1). Clients may offer extensions and subprotocols; the answer accepts
// at most one extension, see agreeOnDeflate.
func checkUpgrade(r *http.Request) (key string, refusal *httpError) {
	keys := r.Header["Sec-Websocket-Key"]
	switch {
	case r.ProtoMajor > 1: // HTTP/2 and HTTP/3 have no Upgrade
		return "", errHTTPVersion
	case !hasToken(r.Header["Upgrade"], "websocket"):
		return "", errNoUpgrade
	case !hasToken(r.Header["Connection"], "upgrade"):
		return "", errNoConnection
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "", errHTTPVersion
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// wsReader would read its bytes as frames, or net/http would read them after the
		// handover.
		return "", errWithBody
	case !isVersion13(r.Header["Sec-Websocket-Version"]):
		return "", errVersion
	case len(keys) != 1 || !validKey(keys[0]):
		return "", errKey
	}
	return keys[0], nil
}

// isExtendedConnect reports whether the request is for a WebSocket over HTTP/2 (RFC 8441) or
// HTTP/3 (RFC 9220). No other CONNECT has a path, and gets here.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect
}

// isEarly reports whether the request came in TLS early data (0-RTT), here or at a proxy in
// front (RFC 8470). Such a request may be a replay.
func isEarly(r *http.Request) bool {
	return hasToken(r.Header["Early-Data"], "1") || r.TLS != nil && !r.TLS.HandshakeComplete
}

func isVersion13(values []string) bool {
	return len(values) == 1 && strings.TrimSpace(values[0]) == "13"
}

func validKey(key string) bool {
	var raw [18]byte // 24 characters decode to at most 18 bytes
	if len(key) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(raw[:], []byte(key))
	return err == nil && n == 16
}

// hasToken reports whether comma-separated header values contain the token want, in upper or
// lower case.
func hasToken(values []string, want string) bool {
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), want) {
				return true
			}
		}
	}
	return false
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // RFC 6455 asks for it
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serveWebSocket opens a session over a WebSocket, or answers why it does not.
func (e *Endpoint) serveWebSocket(w http.ResponseWriter, r *http.Request, sockJS bool) {
	switch {
	case isExtendedConnect(r):
		fail(w, errExtended)
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		fail(w, errMethod)
		return
	}
	key, refusal := checkUpgrade(r)
	if refusal == errVersion {
		w.Header()["Sec-WebSocket-Version"] = []string{"13"}
		w.Header().Set("Upgrade", "websocket")
		// The peer may already have sent frames, which net/http would read as a request.
		w.Header()["Connection"] = []string{"close", "Upgrade"}
	}
	if refusal == nil && isEarly(r) {
		refusal = errEarly
	}
	hijacker := innermostHijacker(w)
	if refusal == nil && hijacker == nil {
		refusal = errNotHijacked
	}
	if refusal != nil {
		fail(w, refusal)
		return
	}
	a := e.openAgent(w, r, webSocket)
	if a == nil {
		return
	}
	extension := ""
	if e.Compression {
		extension = agreeOnDeflate(r.Header["Sec-Websocket-Extensions"])
	}
	nc, early, err := upgrade(w, hijacker, key, extension)
	if err != nil {
		a.Left("the connection could not be handed over: " + err.Error())
		return
	}
	reader := newWSReader(nc, a, sockJS, e.patience())
	if extension != "" {
		reader.deflate()
	}
	go reader.run(early)
}

// openAgent opens a session over a transport, when it is its turn. If the request may not open
// one, openAgent answers it and returns nil.
func (e *Endpoint) openAgent(w http.ResponseWriter, r *http.Request, transport string) *hub.Agent {
	if transport != webSocket { // its first request is that of its connection, see Turn
		newcomers.take(false)
	}
	if r.Context().Err() != nil { // the client did not wait
		return nil
	}
	o, refusal := e.Opening(r)
	switch {
	case len(o.Header)+len(o.URI) > maxSnapshot:
		fail(w, errHeader)
		return nil
	case refusal != nil:
		refuseOpening(w, refusal)
		return nil
	}
	o.Transport = transport
	a, err := e.Hub.Open(e.Policy, o)
	if err != nil {
		refuseOpening(w, err)
		return nil
	}
	return a
}

// innermostHijacker returns the http.Hijacker nearest to the connection, or nil. An outer one
// may return a net.Conn of its own, which would keep that writer and all it refers to until
// the session ends.
func innermostHijacker(w http.ResponseWriter) (found http.Hijacker) {
	for {
		if h, ok := w.(http.Hijacker); ok {
			found = h
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return found
		}
		w = u.Unwrap()
	}
}

// upgrade answers 101 and takes over the connection. extension is what was agreed on, and early
// is what the peer has sent already. The answer goes through w and all writers around it:
// header directives apply, and the access log sees the status.
func upgrade(w http.ResponseWriter, hijacker http.Hijacker, key, extension string) (nc net.Conn, early []byte, err error) {
	h := w.Header()
	// This is how RFC 6455 spells the name, and some clients compare it byte by byte.
	h["Sec-WebSocket-Accept"] = []string{acceptKey(key)}
	if extension != "" {
		h["Sec-WebSocket-Extensions"] = []string{extension}
	}
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	w.WriteHeader(http.StatusSwitchingProtocols) // net/http sends it when the connection is hijacked
	nc, rw, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if early, err = buffered(rw.Reader); err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	return nc, early, nil
}

// buffered returns a copy of the bytes in r's buffer, so that r can be freed.
func buffered(r *bufio.Reader) ([]byte, error) {
	p, err := r.Peek(r.Buffered())
	return bytes.Clone(p), err
}
