// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/igm/sockjs-go/v3/sockjs"

	"github.com/push-it/pushit/hub"
)

const (
	// stickyCookie is the cookie that load balancers use to keep a client at one server.
	// SockJS servers set it on request.
	stickyCookie = "JSESSIONID"
	// maxCallback is the longest name of a callback, in bytes.
	maxCallback = 64
	// corsAge is how long a browser may remember the answer to a preflight. SockJS servers
	// use the same time. Each request is checked nevertheless.
	corsAge = 365 * 24 * time.Hour
)

// The answers to requests that serveFallback refuses. SockJS prescribes the wording of
// some.
var (
	errUnknown    = &httpError{http.StatusNotFound, "There is no such session."}
	errCallback   = &httpError{http.StatusBadRequest, `"callback" parameter required: c names a function, in at most 64 of A-Z, a-z, 0-9, _ and the dot.`}
	errPayload    = &httpError{http.StatusBadRequest, "Payload expected: an array of strings in JSON."}
	errBroken     = &httpError{http.StatusBadRequest, "Broken JSON encoding: an array of strings is expected, in UTF-8."}
	errStringsMax = &httpError{http.StatusRequestEntityTooLarge, "A body holds at most 1024 strings."}
	errEncoded    = &httpError{http.StatusUnsupportedMediaType, "Compressed bodies are not supported: send the body without Content-Encoding."}
	errForm       = &httpError{http.StatusBadRequest, "Send the array of strings in the form field d."}
	errBodyTime   = &httpError{http.StatusRequestTimeout, "The body took too long to arrive."}
	errBody       = &httpError{http.StatusBadRequest, "The body did not arrive whole."}
	errSenders    = &httpError{http.StatusTooManyRequests, "Too many requests send to this session at once: send one after the other."}
	errIdleSender = &httpError{http.StatusTooManyRequests, "Too many empty bodies: wait before you send the next."}
	errNumber     = &httpError{http.StatusBadRequest, "n must be a number from 1 on: it counts a session's requests to send, or those to receive."}
	errSendEarly  = &httpError{http.StatusTooEarly, "Requests in TLS early data are refused, because they could be replays: try again."}
)

// serveFallback answers a request to one of SockJS's fallback transports.
func (e *Endpoint) serveFallback(w http.ResponseWriter, r *http.Request, t target, c Caller, cross string) {
	e.setCookie(w, r)
	allowOrigin(w.Header(), cross)
	method := http.MethodPost
	kind := framings[t.transport]
	if kind != nil {
		method = kind.method
	}
	switch r.Method {
	case http.MethodOptions:
		servePreflight(w, cross, method, "Content-Type")
		return
	case method:
	default:
		w.Header().Set("Allow", "OPTIONS, "+method)
		fail(w, errMethod)
		return
	}
	if isEarly(r) {
		LeaveBody(w, r)
		fail(w, errSendEarly)
		return
	}
	key := sessionKey{e.Policy.Mount, t.session}
	by := &claimant{r: r, caller: c, cross: cross}
	if kind == nil {
		e.serveSend(w, r, key, by, t.transport == "jsonp_send")
		return
	}
	e.serveReceive(w, r, kind, key, by)
}

// allowOrigin lets a page of another site read the answer, if cross is its listed origin.
func allowOrigin(h http.Header, cross string) {
	h.Add("Vary", "Origin")
	if cross != "" {
		h.Set("Access-Control-Allow-Origin", cross)
		h.Set("Access-Control-Allow-Credentials", "true")
	}
}

// servePreflight answers OPTIONS. fields are the header fields that pages may set.
func servePreflight(w http.ResponseWriter, cross, methods, fields string) {
	h := w.Header()
	h.Set("Allow", "OPTIONS, "+methods)
	age := strconv.Itoa(int(corsAge / time.Second))
	h.Set("Cache-Control", "public, max-age="+age)
	h.Set("Expires", time.Now().Add(corsAge).UTC().Format(http.TimeFormat))
	if cross != "" {
		h.Set("Access-Control-Allow-Methods", "OPTIONS, "+methods)
		h.Set("Access-Control-Allow-Headers", fields)
		h.Set("Access-Control-Max-Age", age)
	}
	w.WriteHeader(http.StatusNoContent)
}

// setCookie sets the cookie for load balancers, if the configuration wants it.
func (e *Endpoint) setCookie(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(e.SessionCookies, stickyCookie) {
		return
	}
	sockjs.DefaultJSessionID(w, r)
}

// serveReceive answers a request to receive. The first one opens the session.
func (e *Endpoint) serveReceive(w http.ResponseWriter, r *http.Request, kind *framing, key sessionKey, by *claimant) {
	callback := r.URL.Query().Get("c")
	if kind.callback && !isCallback(callback) {
		fail(w, errCallback)
		return
	}
	number, wrong := requestNumber(r)
	if wrong != nil {
		fail(w, wrong)
		return
	}
	if e.Sessions.find(key) == nil {
		if e.Hub.Bus() != nil && e.receiveElsewhere(w, r, kind, callback, key, by, number) {
			return
		}
		if number > 1 {
			fail(w, errUnknown) // a later request must not open a new session
			return
		}
	}
	s := e.session(w, r, kind, key, by)
	if s == nil {
		return
	}
	s.agent.Touch()
	if s.isRepeated(number) {
		// The frames in the response that the client did not get are lost.
		s.end(closeFrame(closeInterrupted, interrupted), "the client repeated a request to receive")
	}
	response := newResponse(w, kind, callback, r.ProtoMajor, s.times)
	response.socket = socketFor(r)
	if response.bye = s.attach(response); response.bye != "" {
		response.serve(r.Context())
		return
	}
	if e.retired.Load() && response.protocol == 3 {
		s.endResponse(response) // Retire may have missed it
	}
	if e.ResponseTime > 0 {
		timer := time.AfterFunc(e.ResponseTime, func() { s.endResponse(response) })
		defer timer.Stop()
	}
	if response.fresh && !kind.poll {
		defer s.endGreeting(response).Stop()
	}
	inOrder := response.serve(r.Context())
	s.detach(inOrder, response.reason())
}

// session returns the session with that key, and opens it if it does not exist. If the
// request may do neither, session answers it and returns nil.
func (e *Endpoint) session(w http.ResponseWriter, r *http.Request, kind *framing, key sessionKey, by *claimant) *session {
	s := e.Sessions.find(key)
	if s == nil {
		a := e.openAgent(w, r, kind.transport)
		if a == nil {
			return nil
		}
		opened := e.Sessions.newSession(key, by.owner(e.SessionCookies), e.SessionCookies, a, e.patience())
		a.Start(opened) // before other requests can find it and send
		if s = e.Sessions.add(opened); s == nil {
			return opened
		}
		a.Left("another request opened the session first")
	}
	if !s.isOf(e, by) {
		e.refuseClaim(s, by)
		fail(w, errUnknown)
		return nil
	}
	return s
}

func isCallback(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.':
		default:
			return false
		}
	}
	return name != "" && len(name) <= maxCallback
}

// serveSend answers a request that sends frames. 204, or 200 over jsonp, says that the agent
// got all of them.
func (e *Endpoint) serveSend(w http.ResponseWriter, r *http.Request, key sessionKey, by *claimant, jsonp bool) {
	s := e.Sessions.find(key)
	if s == nil && e.Hub.Bus() != nil && e.sendElsewhere(w, r, key, by, jsonp) {
		return
	}
	isOf := s != nil && s.isOf(e, by)
	if s != nil && !isOf {
		e.refuseClaim(s, by)
	}
	if !isOf || s.isOver() {
		LeaveBody(w, r)
		fail(w, errUnknown)
		return
	}
	if !s.enterSender() {
		LeaveBody(w, r)
		fail(w, errSenders)
		return
	}
	defer s.senders.Add(-1)
	body, wrong := s.awaitBody(w, r, jsonp)
	if wrong == nil {
		wrong = s.receive(r, body)
	} else {
		LeaveBody(w, r)
	}
	if wrong != nil {
		fail(w, wrong)
		return
	}
	tookBody(w, jsonp)
}

// enterSender notes a request to send, unless there are too many.
func (s *session) enterSender() bool {
	if s.senders.Add(1) > maxSenders {
		s.senders.Add(-1)
		return false
	}
	s.agent.Touch()
	s.heard.Store(true)
	return true
}

// takeBody takes the body of a request to send that another machine got.
func (s *session) takeBody(ctx context.Context, number int64, body []byte) *httpError {
	if s.isOver() {
		return errUnknown
	}
	if !s.enterSender() {
		return errSenders
	}
	defer s.senders.Add(-1)
	return s.take(ctx, number, body)
}

// tookBody answers a request to send whose body was taken.
func tookBody(w http.ResponseWriter, jsonp bool) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Cache-Control", noCache)
	if jsonp {
		_, _ = w.Write([]byte("ok")) // a client that is gone needs no answer
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// awaitBody calls body with a deadline. When the session ends, the deadline ends too: an
// incomplete body must not delay a server that stops.
func (s *session) awaitBody(w http.ResponseWriter, r *http.Request, jsonp bool) ([]byte, *httpError) {
	// Outer writers do not expect a deadline to be set during a read.
	rc := http.NewResponseController(innermost(w))
	_ = rc.SetReadDeadline(time.Now().Add(s.times.message)) // without support for deadlines, the server's own limits apply
	s.mu.Lock()
	if s.bye != "" {
		s.mu.Unlock()
		return nil, errUnknown
	}
	s.bodies[rc] = struct{}{}
	s.mu.Unlock()
	body, wrong := s.body(w, r, jsonp)
	s.mu.Lock()
	delete(s.bodies, rc)
	over := s.bye != ""
	s.mu.Unlock()
	if over {
		closeAfter(w, r) // the end of the session has set the deadline
	} else if r.Body == http.NoBody {
		_ = rc.SetReadDeadline(time.Time{}) // as above
	}
	if over && wrong != nil {
		wrong = errUnknown
	}
	return body, wrong
}

// body reads the body of a request to send.
func (s *session) body(w http.ResponseWriter, r *http.Request, jsonp bool) ([]byte, *httpError) {
	return readBody(w, r, jsonp, bodyLimit(s.agent.Policy().Limits))
}

// isEncoded reports whether the body is encoded, which nothing here undoes. The coding
// identity is none (RFC 9110, section 8.4.1).
func isEncoded(r *http.Request) bool {
	encoding := r.Header.Get("Content-Encoding")
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// readBody reads the body of a request to send, with most bytes.
func readBody(w http.ResponseWriter, r *http.Request, jsonp bool, most int) ([]byte, *httpError) {
	if isEncoded(r) {
		return nil, errEncoded
	}
	form := jsonp && isForm(r)
	if form {
		most *= 3 // a form may write each byte as %XX
	}
	tooLarge := bodyTooLarge(most)
	if r.ContentLength > int64(most) {
		return nil, tooLarge
	}
	body, wrong := readWhole(w, r, most, tooLarge)
	if wrong != nil {
		return nil, wrong
	}
	r.Body = http.NoBody
	if !form {
		return body, nil
	}
	fields, err := url.ParseQuery(string(body))
	if err != nil || len(fields["d"]) != 1 {
		return nil, errForm
	}
	return []byte(fields["d"][0]), nil
}

// readWhole reads a body with most bytes. tooLarge is the answer to a longer one.
func readWhole(w http.ResponseWriter, r *http.Request, most int, tooLarge *httpError) ([]byte, *httpError) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most)))
	switch _, large := errors.AsType[*http.MaxBytesError](err); {
	case large:
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		closeAfter(w, r)
		return nil, errBodyTime
	case err != nil:
		closeAfter(w, r)
		return nil, errBody
	}
	return body, nil
}

func bodyTooLarge(most int) *httpError {
	return &httpError{http.StatusRequestEntityTooLarge, "A body may have at most " + strconv.Itoa(most) + " bytes here."}
}

// bodyLimit returns the most bytes that a SockJS message may have.
func bodyLimit(l hub.Limits) int { return 2*l.FrameSize() + sockJSOverhead }

func isForm(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/x-www-form-urlencoded"
}

// receive hands the frames in body to the agent, when it is this request's turn.
func (s *session) receive(r *http.Request, body []byte) *httpError {
	number, wrong := requestNumber(r)
	if wrong != nil {
		return wrong
	}
	return s.take(r.Context(), number, body)
}

// take is receive for a request with a number, or 0.
func (s *session) take(ctx context.Context, number int64, body []byte) *httpError {
	switch {
	case len(body) == 0:
		return errPayload
	case !utf8.Valid(body):
		return errBroken
	}
	var few [8]span // most bodies hold one string
	spans, err := decodeSockJS(body, few[:0])
	switch {
	case errors.Is(err, errStrings):
		return errStringsMax
	case err != nil:
		return errBroken
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return errBody // the client is gone
	}
	if number > 0 && number <= s.numbered {
		return nil // an earlier request had the same frames
	}
	if s.isOver() || !s.agent.IsOpen() {
		return errUnknown
	}
	s.numbered = max(s.numbered, number)
	if len(spans) == 0 && !s.idle.take(time.Now()) {
		return errIdleSender
	}
	s.agent.BeginBatch()
	defer s.agent.EndBatch()
	for _, at := range spans {
		if s.isOver() {
			break
		}
		s.agent.Receive(body[at.from:at.to:at.to])
	}
	// The agent got the frames. It answers them in responses to requests to receive.
	return nil
}

// requestNumber returns the number of a request, or 0 if it has none. A client that numbers
// its requests repeats one whose answer it did not get.
func requestNumber(r *http.Request) (int64, *httpError) {
	text := r.URL.Query().Get("n")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, errNumber
	}
	return n, nil
}
