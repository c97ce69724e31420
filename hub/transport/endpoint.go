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
	// maxServerID and maxSessionID are the most bytes of the two names in a SockJS URL.
	// sockjs-client makes names of 3 and 8 bytes.
	maxServerID  = 64
	maxSessionID = 128
)

// noCache is the Cache-Control of responses that nobody may store. SockJS's protocol wants
// it (verify_not_cached). It also has no-transform, without which a proxy, or Caddy's
// encode, may hold back parts of a stream.
const noCache = "no-store, no-cache, no-transform, must-revalidate, max-age=0"

// An Endpoint answers the requests below a path. Its fields must not change once it
// serves.
type Endpoint struct {
	Hub *hub.Hub
	// Policy is what Hub.Use returned.
	Policy *hub.Policy
	// Sessions are the fallback sessions of the hub.
	Sessions *Sessions
	// Origins lists the other origins whose pages may use the endpoint; nil for none.
	Origins *Origins
	// Transports are the transports that the endpoint serves; nil for DefaultTransports.
	Transports Transports
	// SessionCookies are the cookies that tell logins apart: a request may use a fallback
	// session only if it has the values that the session was opened with. JSESSIONID is
	// different: the endpoint sets it, for load balancers.
	SessionCookies []string
	// Compression says that messages on WebSockets are compressed, if clients offer it.
	Compression bool
	// ResponseTime is how long a response may last if the server cuts longer ones; 0 for
	// no limit.
	ResponseTime time.Duration
	// KeepsHTTP3 says that the server cuts no response over HTTP/3 after it has loaded
	// another configuration.
	KeepsHTTP3 bool
	// Caller says who makes a request.
	Caller func(*http.Request) Caller
	// Opening makes the snapshot of a request that opens a session, or says why the
	// request may not open one.
	Opening func(*http.Request) (hub.Opening, *hub.Refusal)
	// Status answers a GET or HEAD of a file of the status page, which the gate debug has
	// allowed. name is its path below that of the page, with a slash; empty for the page
	// itself. nil is no status page.
	Status func(w http.ResponseWriter, r *http.Request, name string, o *hub.Opening)

	times      *times          // nil for defaultTimes
	foreign    sampler.Sampler // of log lines about pages of other sites
	renewed    sampler.Sampler // of log lines about cookies that changed
	publishers atomic.Int32    // publish requests under way
	retired    atomic.Bool     // Retire was called: later responses over HTTP/3 end at once
}

// Serve answers the request if its path is one of pushit's, and reports whether it did.
// rest is the URL's path below the endpoint's, decoded: empty, or beginning with a slash.
// After a successful upgrade, a goroutine owns the connection, and nothing keeps w or r.
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
	if t.kind == statusPage {
		allowed = allowed && cross == "" || (t.file == "" || t.file == "/") && isNavigation(r)
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
	case t.kind == statusPage:
		e.serveStatus(w, r, t.file)
	case t.kind == streaming:
		e.serveStream(w, r, cross)
	case t.kind == bareWebSocket:
		e.serveWebSocket(w, r, false)
	case t.transport == webSocket:
		e.serveWebSocket(w, r, true)
	default:
		e.serveFallback(w, r, t, c, cross)
	}
	return true
}

// refuseOrigin counts and logs a request that is refused because another site's page made
// it. The line names both sites and says what to do.
func (e *Endpoint) refuseOrigin(r *http.Request, c Caller) {
	e.Hub.CountRefused(&hub.Refusal{Code: hub.CodeDenied, Reason: "a page of another origin; the log names it"})
	left, ok := e.foreign.Take(time.Now())
	if !ok {
		return
	}
	origin := r.Header.Get("Origin")
	e.Policy.Log.Info("a page of another origin was refused",
		"origin", truncate(origin, maxOrigin), "sec_fetch_site", truncate(r.Header.Get("Sec-Fetch-Site"), maxOrigin),
		"site", truncate(c.Scheme+"://"+c.Host, maxOrigin), "likely_cause", likelyCause(origin, c.Scheme, c.Host), "left_out", left)
}

// Retire completes the responses of fallback sessions over HTTP/3, because the server may
// cut them when it loads another configuration. Their clients make another request, and
// miss nothing. A client of an event stream misses what no history keeps, so Retire ends
// event streams only if the server cuts them.
func (e *Endpoint) Retire() {
	e.retired.Store(true)
	for _, s := range e.Sessions.streamsOf(e.Policy.Mount) {
		s.end()
	}
	e.Sessions.hurry(func(rl *relay, protocol int) bool { return rl.request.Mount == e.Policy.Mount && protocol == 3 })
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

// A kind is what a path below the endpoint's leads to.
type kind int

const (
	notOurs kind = iota
	greeting
	info
	bareWebSocket
	publishing // by programs
	streaming  // of Server-Sent Events
	sockJS     // /<server>/<session>/<transport>
	iframe
	statusPage // and its files
)

// A target is what a request asks for.
type target struct {
	kind                       kind
	server, session, transport string
	file                       string // of the status page: its path below that of the page
}

// statusPath is the path of the status page below the endpoint's.
const statusPath = "/debug"

func routeOf(rest string) target {
	switch rest {
	case "", "/":
		return target{kind: greeting}
	case "/info":
		return target{kind: info}
	case "/websocket":
		return target{kind: bareWebSocket, transport: webSocket}
	case "/sse":
		return target{kind: streaming, transport: eventStream}
	case "/publish":
		return target{kind: publishing}
	case statusPath:
		return target{kind: statusPage}
	}
	parts := strings.Split(rest, "/")
	if len(parts) == 5 && parts[0] == "" && parts[1] == "" && parts[4] == webSocket {
		parts = parts[1:] // Push-It's client of 2011 writes two slashes after the endpoint's path
	}
	switch {
	case len(parts) == 2 && strings.HasPrefix(parts[1], "iframe") && strings.HasSuffix(parts[1], ".html"):
		return target{kind: iframe}
	case len(parts) == 4 && parts[0] == "" && isTransport(parts[3]):
		return target{kind: sockJS, server: parts[1], session: parts[2], transport: parts[3]}
	case strings.HasPrefix(rest, statusPath+"/"):
		return target{kind: statusPage, file: strings.TrimPrefix(rest, statusPath)}
	}
	return target{}
}

// isTransport reports whether SockJS has a transport of that name.
func isTransport(name string) bool {
	return name == webSocket || framings[name] != nil || name == xhrSend || name == jsonpSend
}

// takesBody reports whether a request for the target may have a body that is read.
func (t target) takesBody(r *http.Request) bool {
	return (t.kind == publishing || t.transport == xhrSend || t.transport == jsonpSend) && r.Method == http.MethodPost
}

// maxLeftBody is how much of an unwanted body LeaveBody drops, if it has arrived already,
// so that its connection can be used again.
const maxLeftBody = 64 << 10

// LeaveBody keeps net/http from waiting for the rest of an unwanted body. net/http would
// read it before it answers, and again before the connection's next request. If the body
// has not arrived whole, LeaveBody gives up the connection instead. Use the request that it
// returns: net/http cancels the original's context when reading fails.
//
// After the end of a body, net/http waits for the next request, to notice a client that
// leaves. A read deadline that ends this wait cancels the context of the connection, and so
// of its later requests. So nothing may set a deadline then: code that has read a body to
// its end replaces it by http.NoBody.
func LeaveBody(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 || r.ProtoMajor != 1 {
		return r // over HTTP/2 and HTTP/3, net/http does not wait for bodies
	}
	whole := r
	r = r.WithContext(context.WithoutCancel(r.Context()))
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Unix(1, 0)) == nil && r.Header.Get("Expect") == "" {
		if _, err := io.CopyN(io.Discard, r.Body, maxLeftBody); errors.Is(err, io.EOF) {
			_ = rc.SetReadDeadline(time.Time{}) // it could be set before
			whole.Body = http.NoBody
			return whole
		}
	}
	closeAfter(w, r)
	return r
}

// closeAfter closes the connection after this response, because a deadline may have cancelled
// its context. HTTP/2 and HTTP/3 have a context for each request.
func closeAfter(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

var (
	errOrigin    = &httpError{http.StatusForbidden, "Pages of this origin may not use this endpoint."}
	errMethod    = &httpError{http.StatusMethodNotAllowed, "This method is not allowed here."}
	errServerID  = &httpError{http.StatusNotFound, fmt.Sprintf("A server name must have 1 to %d bytes and no dot.", maxServerID)}
	errSessionID = &httpError{http.StatusNotFound, fmt.Sprintf("A session name must have 1 to %d bytes and no dot.", maxSessionID)}
	errIframe    = &httpError{http.StatusNotFound, "The SockJS iframe is not served: any page could frame it and act with this site's origin."}
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
	_, _ = w.Write([]byte("Welcome to SockJS!\n")) // a client that is gone needs no answer
}

// serveInfo tells a SockJS client which transports it can use. cross is the origin of the
// page that asks, if it is a listed one of another site.
func (e *Endpoint) serveInfo(w http.ResponseWriter, r *http.Request, cross string) {
	e.setCookie(w, r)
	h := w.Header()
	allowOrigin(h, cross)
	switch r.Method {
	case http.MethodOptions:
		servePreflight(w, cross, "GET, HEAD", "Content-Type")
	case http.MethodGet, http.MethodHead:
		var entropy [4]byte
		_, _ = rand.Read(entropy[:]) // it never fails
		h.Set("Content-Type", "application/json; charset=UTF-8")
		h.Set("Cache-Control", noCache)
		_ = json.NewEncoder(w).Encode(infoAnswer{ // as with the greeting
			WebSocket:    e.transports().serves(webSocket),
			Origins:      []string{"*:*"}, // SockJS clients ignore it
			CookieNeeded: len(e.SessionCookies) > 0,
			Entropy:      binary.NativeEndian.Uint32(entropy[:]),
			Transports:   e.transports().list(),
		})
	default:
		h.Set("Allow", "OPTIONS, GET, HEAD")
		fail(w, errMethod)
	}
}

// An infoAnswer is the answer to /info. SockJS defines all fields but Transports.
type infoAnswer struct {
	WebSocket    bool     `json:"websocket"`
	Origins      []string `json:"origins"`
	CookieNeeded bool     `json:"cookie_needed"`
	Entropy      uint32   `json:"entropy"`
	Transports   []string `json:"transports"`
}

// fail answers with the status and the sentence of e.
func fail(w http.ResponseWriter, e *httpError) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	_, _ = w.Write([]byte(e.reason + "\n")) //nolint:gosec // G705: a sentence of our own, as plain text
}

// refuseOpening answers with the reason why the hub opens no session.
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
	fail(w, &httpError{statusOf(refusal.Code), sentence(refusal.Reason)})
}

// statusOf returns the HTTP status of a Refusal.
func statusOf(code hub.Code) int {
	switch code {
	case hub.CodeInvalid:
		return http.StatusBadRequest
	case hub.CodeDenied, hub.CodeExpired:
		return http.StatusForbidden
	case hub.CodeMissing:
		return http.StatusNotFound
	case hub.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case hub.CodeLimit:
		return http.StatusTooManyRequests
	default:
		return http.StatusServiceUnavailable
	}
}

// sentence turns a reason into a sentence.
func sentence(reason string) string {
	if reason == "" {
		return "Refused."
	}
	return strings.ToUpper(reason[:1]) + reason[1:] + "."
}
