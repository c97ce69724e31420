// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/sampler"
)

const (
	// maxServerID and maxSessionID bound the two names in a SockJS URL, in
	// bytes: sockjs-client makes them 3 and 8 long.
	maxServerID  = 64
	maxSessionID = 128
)

// noCache is the Cache-Control of what holds for one client and one moment. It is what
// SockJS's protocol has (verify_not_cached), and no-transform.
const noCache = "no-store, no-cache, no-transform, must-revalidate, max-age=0"

// An Endpoint answers what lies below a path. Its fields are not changed once it
// serves.
type Endpoint struct {
	Hub *hub.Hub
	// Policy is what Hub.Use returned.
	Policy *hub.Policy
	// Sessions are the fallback sessions of the hub.
	Sessions *Sessions
	// Origins may use the endpoint besides its own site; nil is none.
	Origins *Origins
	// Transports are those that are served; nil is DefaultTransports.
	Transports Transports
	// SessionCookies are the cookies that tell logins apart: a fallback session is
	// for requests with the values it was opened with. JSESSIONID in it is another
	// thing: it is set, for load balancers that go by it.
	SessionCookies []string
	// ResponseTime is how long a response may last, where the server cuts longer
	// ones; 0 is no limit.
	ResponseTime time.Duration
	// Caller tells who makes a request.
	Caller func(*http.Request) Caller
	// Opening makes the snapshot of a request that opens a session. A Refusal says
	// why none is opened for it.
	Opening func(*http.Request) (hub.Opening, *hub.Refusal)

	times      *times          // nil: defaultTimes
	foreign    sampler.Sampler // of what is logged of pages of other sites
	renewed    sampler.Sampler // of what is logged of cookies that have changed
	publishers atomic.Int32    // publish requests that are being dealt with
	retired    atomic.Bool     // by Retire: requests that come all the same have short responses
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
	if !t.takesBody(r) {
		r = LeaveBody(w, r)
	}
	c := e.Caller(r)
	cross, allowed := e.Origins.check(r.Header, c.Scheme, c.Host)
	if kind := framings[t.transport]; allowed && kind != nil && kind.callback {
		allowed = e.Origins.refers(r.Header, c.Scheme, c.Host)
	}
	if !allowed {
		e.refuseOrigin(r, c)
		LeaveBody(w, r)
		fail(w, errOrigin)
		return true
	}
	wrong := t.check()
	if wrong == nil && !e.transports().serves(t.transport) {
		wrong = e.transports().instead()
	}
	switch {
	case wrong != nil:
		LeaveBody(w, r)
		fail(w, wrong)
	case t.kind == greeting:
		serveGreeting(w, r)
	case t.kind == info:
		e.serveInfo(w, r, cross)
	case t.kind == publishing:
		e.servePublish(w, r)
	case t.kind == bareWebSocket:
		e.serveWebSocket(w, r, false)
	case t.transport == webSocket:
		e.serveWebSocket(w, r, true)
	default:
		e.serveFallback(w, r, t, c, cross)
	}
	return true
}

// refuseOrigin counts and logs that a request of another site's page is refused. The
// page's site and this one are in the line, and what to do about it.
func (e *Endpoint) refuseOrigin(r *http.Request, c Caller) {
	e.Hub.CountRefused(hub.CodeDenied)
	left, ok := e.foreign.Take(time.Now())
	if !ok {
		return
	}
	origin := r.Header.Get("Origin")
	e.Policy.Log.Info("a page of another origin was refused",
		"origin", truncate(origin, maxOrigin), "sec_fetch_site", truncate(r.Header.Get("Sec-Fetch-Site"), maxOrigin),
		"site", truncate(c.Scheme+"://"+c.Host, maxOrigin), "likely_cause", likelyCause(origin, c.Scheme, c.Host), "left_out", left)
}

// Retire ends, in order, the responses of fallback sessions that came over
// HTTP/3: the server may cut them when it goes over to another configuration.
// Their clients make another request, and have missed nothing.
func (e *Endpoint) Retire() {
	e.retired.Store(true)
	for _, s := range e.Sessions.all() {
		s.mu.Lock()
		r := s.response
		s.mu.Unlock()
		if r != nil && s.key.mount == e.Policy.Mount && r.protocol == 3 {
			s.endResponse(r)
		}
	}
}

func (e *Endpoint) patience() *times {
	if e.times == nil {
		return defaultTimes
	}
	return e.times
}

// A kind is what a path below the endpoint's is.
type kind int

const (
	notOurs kind = iota
	greeting
	info
	bareWebSocket
	publishing // by programs
	sockJS     // /<server>/<session>/<transport>
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
		return target{kind: bareWebSocket, transport: webSocket}
	case "/publish":
		return target{kind: publishing}
	}
	parts := strings.Split(rest, "/")
	if len(parts) == 5 && parts[0] == "" && parts[1] == "" && parts[4] == webSocket {
		parts = parts[1:] // Push-It's client of 2011 joins a path that ends in a slash with one that begins with one
	}
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
	return name == webSocket || framings[name] != nil || name == xhrSend || name == jsonpSend
}

// takesBody reports whether the body of a request for the target may be read. Whether
// it is, serveSend decides.
func (t target) takesBody(r *http.Request) bool {
	return (t.kind == publishing || t.transport == xhrSend || t.transport == jsonpSend) && r.Method == http.MethodPost
}

// maxLeftBody is how much of a body that nobody asked for is thrown away, if it is
// there already, so that its connection can be used again.
const maxLeftBody = 64 << 10

// LeaveBody keeps net/http from waiting for the rest of a body that is of no use: it
// reads that away before it answers, and again before the connection takes another
// request. A body that has not arrived whole costs the connection instead. The request
// that is returned does not end for it, as net/http has it end when reading fails.
func LeaveBody(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 || r.ProtoMajor != 1 {
		return r // HTTP/2 and 3 wait for none
	}
	whole := r
	r = r.WithContext(context.WithoutCancel(r.Context()))
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Unix(1, 0)) == nil && r.Header.Get("Expect") == "" {
		if _, err := io.CopyN(io.Discard, r.Body, maxLeftBody); errors.Is(err, io.EOF) {
			_ = rc.SetReadDeadline(time.Time{}) // as it was
			return whole
		}
	}
	w.Header().Set("Connection", "close")
	return r
}

var (
	errOrigin    = &httpError{http.StatusForbidden, "Pages of this origin may not use this endpoint."}
	errMethod    = &httpError{http.StatusMethodNotAllowed, "This method is not allowed here."}
	errServerID  = &httpError{http.StatusNotFound, fmt.Sprintf("A server name has 1 to %d bytes and no dot.", maxServerID)}
	errSessionID = &httpError{http.StatusNotFound, fmt.Sprintf("A session name has 1 to %d bytes and no dot.", maxSessionID)}
	errIframe    = &httpError{http.StatusNotFound, "The SockJS iframe is not served: it would carry this site's origin for any page that frames it."}
)

// check refuses names that SockJS does not allow, and its iframe.
func (t target) check() *httpError {
	switch {
	case t.kind == iframe:
		return errIframe
	case t.kind != sockJS:
	case !validID(t.server, maxServerID):
		return errServerID
	case !validID(t.session, maxSessionID):
		return errSessionID
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
func (e *Endpoint) serveInfo(w http.ResponseWriter, r *http.Request, cross string) {
	e.setCookie(w, r)
	h := w.Header()
	allowOrigin(h, cross)
	switch r.Method {
	case http.MethodOptions:
		servePreflight(w, cross, "GET, HEAD")
	case http.MethodGet, http.MethodHead:
		var entropy [4]byte
		_, _ = rand.Read(entropy[:]) // it never fails
		h.Set("Content-Type", "application/json; charset=UTF-8")
		h.Set("Cache-Control", noCache)
		_ = json.NewEncoder(w).Encode(infoAnswer{ // as with the greeting
			WebSocket:    e.transports().serves(webSocket),
			Origins:      []string{"*:*"}, // which SockJS clients ignore
			CookieNeeded: len(e.SessionCookies) > 0,
			Entropy:      binary.NativeEndian.Uint32(entropy[:]),
			Transports:   e.transports().list(),
		})
	default:
		h.Set("Allow", "OPTIONS, GET, HEAD")
		fail(w, errMethod)
	}
}

// An infoAnswer is what /info says. All but Transports is SockJS's.
type infoAnswer struct {
	WebSocket    bool     `json:"websocket"`
	Origins      []string `json:"origins"`
	CookieNeeded bool     `json:"cookie_needed"`
	Entropy      uint32   `json:"entropy"`
	Transports   []string `json:"transports"`
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
