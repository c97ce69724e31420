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

// websocketGUID is what RFC 6455, section 1.3, has appended to the key.
const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// maxSnapshot is the most bytes of an opening request that are kept for the life
// of its session. Browsers send 1 to 10 KB, most of it cookies.
const maxSnapshot = 32 << 10

// An httpError is the answer to a request that is not served: a status and one
// sentence.
type httpError struct {
	status int
	reason string
}

// The reasons not to upgrade. The first two are worded as SockJS has them.
var (
	errNoUpgrade    = &httpError{http.StatusBadRequest, `Can "Upgrade" only to "WebSocket".`}
	errNoConnection = &httpError{http.StatusBadRequest, `"Connection" must be "Upgrade".`}
	errHTTPVersion  = &httpError{http.StatusBadRequest, "A WebSocket is opened with GET over HTTP/1.1 here."}
	errWithBody     = &httpError{http.StatusBadRequest, "A request for a WebSocket has no body."}
	errVersion      = &httpError{http.StatusUpgradeRequired, `"Sec-WebSocket-Version" must be 13.`}
	errKey          = &httpError{http.StatusBadRequest, `"Sec-WebSocket-Key" must be one value of 16 bytes in base64.`}
	errExtended     = &httpError{http.StatusNotImplemented, "WebSocket over HTTP/2 or HTTP/3 is not served: open it over HTTP/1.1."}
	errEarly        = &httpError{http.StatusTooEarly, "A session is not opened in early data, which could be a replay: try again."}
	errHeader       = &httpError{http.StatusRequestHeaderFieldsTooLarge, "The address and header fields of a session's opening request may have at most 32 KiB."}
	errNotHijacked  = &httpError{http.StatusInternalServerError, "The server cannot hand over this connection."}
)

// checkUpgrade reports why the request is not a WebSocket's, and the key if it
// is (RFC 6455, section 4.2.1). Extensions and subprotocols may be offered; none
// is agreed to.
func checkUpgrade(r *http.Request) (key string, refusal *httpError) {
	keys := r.Header["Sec-Websocket-Key"]
	switch {
	case r.ProtoMajor > 1: // where there is no Upgrade
		return "", errHTTPVersion
	case !hasToken(r.Header["Upgrade"], "websocket"):
		return "", errNoUpgrade
	case !hasToken(r.Header["Connection"], "upgrade"):
		return "", errNoConnection
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "", errHTTPVersion
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// Its bytes would be taken for frames, or read by the server after the
		// connection has been handed over.
		return "", errWithBody
	case !isVersion13(r.Header["Sec-Websocket-Version"]):
		return "", errVersion
	case len(keys) != 1 || !validKey(keys[0]):
		return "", errKey
	}
	return keys[0], nil
}

// isExtendedConnect reports whether the request is a WebSocket's over HTTP/2
// (RFC 8441) or HTTP/3 (RFC 9220): no other CONNECT has a path.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect
}

// isEarly reports whether the request came in TLS early data, here (0-RTT) or at
// a proxy before us (RFC 8470): it may be a replay.
func isEarly(r *http.Request) bool {
	return hasToken(r.Header["Early-Data"], "1") || r.TLS != nil && !r.TLS.HandshakeComplete
}

func isVersion13(values []string) bool {
	return len(values) == 1 && strings.TrimSpace(values[0]) == "13"
}

func validKey(key string) bool {
	var raw [18]byte // room for what 24 characters can hold
	if len(key) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(raw[:], []byte(key))
	return err == nil && n == 16
}

// hasToken reports whether a token is in comma-separated header values; want is
// in lower case.
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
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // as RFC 6455 asks
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serveWebSocket opens a session, if the request is for one and is not refused
// one.
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
		// What the peer has sent behind the request is no request: it is frames.
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
	nc, early, err := upgrade(w, hijacker, key)
	if err != nil {
		a.Left("the connection could not be handed over: " + err.Error())
		return
	}
	go newWSReader(nc, a, sockJS, e.patience()).run(early)
}

// openAgent begins a session over a transport. It returns nil when none is opened
// for the request, and has answered it then.
func (e *Endpoint) openAgent(w http.ResponseWriter, r *http.Request, transport string) *hub.Agent {
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

// innermostHijacker returns the http.Hijacker nearest to the connection, nil if
// there is none. An outer one may put a net.Conn of its own around it, which
// would keep it and all that hangs on it for the life of the session.
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

// upgrade answers 101 and takes the connection over, with what the peer has sent
// already. The answer goes through w and so through all that is wrapped around
// the connection: header directives apply, the access log sees the status.
func upgrade(w http.ResponseWriter, hijacker http.Hijacker, key string) (nc net.Conn, early []byte, err error) {
	h := w.Header()
	// RFC 6455 spells the name so, and some clients compare it byte by byte.
	h["Sec-WebSocket-Accept"] = []string{acceptKey(key)}
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	w.WriteHeader(http.StatusSwitchingProtocols) // net/http keeps it until the connection is hijacked, or flushed
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

// buffered returns a copy of what r holds, so that r can go.
func buffered(r *bufio.Reader) ([]byte, error) {
	p, err := r.Peek(r.Buffered())
	return bytes.Clone(p), err
}
