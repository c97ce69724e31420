// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// maxServerID and maxSessionID bound the two names in a SockJS URL, in
	// bytes: sockjs-client makes them 3 and 8 long.
	maxServerID  = 64
	maxSessionID = 128
	// preflightAge is how long a browser may remember that a listed origin may
	// read /info: no longer, because lists change.
	preflightAge = 10 * time.Minute
)

// An Endpoint answers what lies below a path. Its fields are not changed once it
// serves.
type Endpoint struct {
	Hub *hub.Hub
	// Policy is what Hub.Use returned.
	Policy *hub.Policy
	// Origins may use the endpoint besides its own site; nil is none.
	Origins *Origins
	// Opening makes the snapshot of a request. Its Scheme and Host are those of
	// the site, to which the request's Origin is compared. A Refusal says why no
	// session is opened for the request; Scheme and Host are set all the same.
	Opening func(*http.Request) (hub.Opening, *hub.Refusal)

	times *times // nil: defaultTimes
}

// Serve answers the request if what lies below the endpoint's path is pushit's,
// and reports whether it did. rest is that part of the URL's path, decoded:
// empty, or beginning with a slash. After a successful upgrade the connection is
// a goroutine's own, and nothing of w and r is kept.
func (e *Endpoint) Serve(w http.ResponseWriter, r *http.Request, rest string) bool {
	t := routeOf(rest)
	if t.kind == notOurs {
		return false
	}
	o, refusal := e.Opening(r)
	cross, allowed := e.Origins.check(r.Header, o.Scheme, o.Host)
	if !allowed {
		fail(w, errOrigin)
		return true
	}
	switch t.kind {
	case greeting:
		serveGreeting(w, r)
	case info:
		serveInfo(w, r, cross)
	case bareWebSocket:
		e.serveWebSocket(w, r, o, refusal, false)
	case sockJS:
		if wrong := t.check(); wrong != nil {
			fail(w, wrong)
			break
		}
		e.serveWebSocket(w, r, o, refusal, true)
	case iframe:
		fail(w, errIframe)
	}
	return true
}

// A kind is what a path below the endpoint's is.
type kind int

const (
	notOurs kind = iota
	greeting
	info
	bareWebSocket
	sockJS // /<server>/<session>/<transport>
	iframe
)

// A target is what a request asks for.
type target struct {
	kind                       kind
	server, session, transport string
}

func routeOf(rest string) target {
	switch rest {
	case "", "/":
		return target{kind: greeting}
	case "/info":
		return target{kind: info}
	case "/websocket":
		return target{kind: bareWebSocket}
	}
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 2 && strings.HasPrefix(parts[1], "iframe") && strings.HasSuffix(parts[1], ".html"):
		return target{kind: iframe}
	case len(parts) == 4 && parts[0] == "" && isTransport(parts[3]):
		return target{kind: sockJS, server: parts[1], session: parts[2], transport: parts[3]}
	}
	return target{}
}

// isTransport reports whether SockJS has a transport of that name.
func isTransport(name string) bool {
	switch name {
	case "websocket", "xhr", "xhr_send", "xhr_streaming", "eventsource", "htmlfile", "jsonp", "jsonp_send":
		return true
	}
	return false
}

var (
	errOrigin     = &httpError{http.StatusForbidden, "Pages of this origin may not use this endpoint."}
	errMethod     = &httpError{http.StatusMethodNotAllowed, "This method is not allowed here."}
	errServerID   = &httpError{http.StatusNotFound, fmt.Sprintf("A server name has 1 to %d bytes and no dot.", maxServerID)}
	errSessionID  = &httpError{http.StatusNotFound, fmt.Sprintf("A session name has 1 to %d bytes and no dot.", maxSessionID)}
	errNoFallback = &httpError{http.StatusNotFound, "This transport is not served: use websocket."}
	errIframe     = &httpError{http.StatusNotFound, "The SockJS iframe is not served: it would carry this site's origin for any page that frames it."}
)

// check refuses names that SockJS does not allow, and transports that there are
// not.
func (t target) check() *httpError {
	switch {
	case !validID(t.server, maxServerID):
		return errServerID
	case !validID(t.session, maxSessionID):
		return errSessionID
	case t.transport != "websocket":
		return errNoFallback
	}
	return nil
}

func validID(id string, longest int) bool {
	return id != "" && len(id) <= longest && !strings.Contains(id, ".")
}

func serveGreeting(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, errMethod)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = w.Write([]byte("Welcome to SockJS!\n")) // who does not take it does not get it
}

// serveInfo tells a SockJS client what there is. cross is the listed origin of
// another site whose page asks.
func serveInfo(w http.ResponseWriter, r *http.Request, cross string) {
	const allow = "GET, HEAD, OPTIONS"
	h := w.Header()
	h.Add("Vary", "Origin")
	if cross != "" {
		h.Set("Access-Control-Allow-Origin", cross)
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	switch r.Method {
	case http.MethodOptions:
		if cross != "" {
			h.Set("Access-Control-Allow-Methods", allow)
			h.Set("Access-Control-Max-Age", strconv.Itoa(int(preflightAge/time.Second)))
		}
		h.Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodGet, http.MethodHead:
		var entropy [4]byte
		_, _ = rand.Read(entropy[:]) // it never fails
		h.Set("Content-Type", "application/json; charset=UTF-8")
		h.Set("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0")
		_, _ = fmt.Fprintf(w, `{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":%d}`,
			binary.NativeEndian.Uint32(entropy[:])) // as with the greeting
	default:
		h.Set("Allow", allow)
		fail(w, errMethod)
	}
}

// fail answers with a status and a sentence.
func fail(w http.ResponseWriter, e *httpError) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	_, _ = w.Write([]byte(e.reason + "\n")) //nolint:gosec // G705: a sentence of our own, as plain text
}

// refuseOpening answers with why the hub takes no session.
func refuseOpening(w http.ResponseWriter, err error) {
	refusal, ok := errors.AsType[*hub.Refusal](err)
	if !ok {
		fail(w, &httpError{http.StatusServiceUnavailable, "No session can be opened now."})
		return
	}
	if refusal.Retry > 0 {
		seconds := (refusal.Retry + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	status := http.StatusServiceUnavailable
	switch refusal.Code {
	case hub.CodeLimit:
		status = http.StatusTooManyRequests
	case hub.CodeDenied, hub.CodeExpired:
		status = http.StatusForbidden
	case hub.CodeInvalid:
		status = http.StatusBadRequest
	}
	fail(w, &httpError{status, sentence(refusal.Reason)})
}

// sentence makes a sentence of a reason.
func sentence(reason string) string {
	if reason == "" {
		return "No."
	}
	return strings.ToUpper(reason[:1]) + reason[1:] + "."
}
