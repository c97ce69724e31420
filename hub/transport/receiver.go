// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/igm/sockjs-go/v3/sockjs"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

// A receiving is a transport over which frames are received.
type receiving struct {
	name     string
	method   string
	poll     bool // a response holds one frame
	prelude  bool // something is written before the first frame
	callback bool // the client names a function in the query
	quoted   bool // a frame is written as a string of JavaScript
	prefix   string
}

// receivings are those of SockJS, by the last segment of their path.
var receivings = map[string]*receiving{
	"xhr":           {name: "xhr", method: http.MethodPost, poll: true},
	"xhr_streaming": {name: "xhr_streaming", method: http.MethodPost, prelude: true},
	"eventsource":   {name: "eventsource", method: http.MethodGet, prelude: true},
	"htmlfile":      {name: "htmlfile", method: http.MethodGet, prelude: true, callback: true, quoted: true},
	// The comment keeps the response from being taken for a file of another kind
	// that begins with what the client has chosen.
	"jsonp": {name: "jsonp", method: http.MethodGet, poll: true, callback: true, quoted: true, prefix: "/**/"},
}

// newLibrary returns the sockjs-go handler that all receivers use. It gets one
// request for each of its sessions, so that nothing of one can wait for another.
func newLibrary() *sockjs.Handler {
	return sockjs.NewHandler("", sockjs.Options{
		ResponseLimit:   responseLimit,    // what counts is receiver.finish
		DisconnectDelay: time.Minute,      // from the request's arrival to its being attached
		HeartbeatDelay:  0,                // the hub's are sent
		CheckOrigin:     foreignToLibrary, // it writes no CORS fields
		Websocket:       false,
	}, func(s sockjs.Session) {
		if r, ok := s.Request().Context().Value(receiverKey{}).(*receiver); ok {
			r.attached(s)
		}
	})
}

func foreignToLibrary(*http.Request) bool { return false }

type receiverKey struct{}

// libraryIDs makes the names of sockjs-go's sessions.
var libraryIDs atomic.Uint64

// A receiver is a response that carries frames, and the http.ResponseWriter that
// sockjs-go writes them to. One goroutine at a time writes: turn and sockjs-go's lock of
// the response see to it, and that the response does not end meanwhile.
type receiver struct {
	http.ResponseWriter // as it came: what is around the connection sees it all
	kind                *receiving
	rc                  *http.ResponseController
	inner               *http.ResponseController // of the innermost writer, whose deadline may be set while it writes
	cancel              context.CancelFunc       // ends the response
	since               time.Time
	protocol            int // of HTTP: 1, 2, 3
	times               *times
	endNext             atomic.Bool // end it with the next frame

	// Set before sockjs-go sees the response.
	session *fallback // nil: it says bye only
	fresh   bool      // the session begins with it
	bye     string

	// Owned by who writes.
	stage   stage
	instead string // what is written in place of the frame that comes
	size    int    // bytes written
	dirty   bool   // bytes were written and not flushed
	amended bool   // the header is as it is to be

	lib atomic.Pointer[sockjs.Session] // set by attached

	turn sync.Mutex // of who says a frame: nobody says another behind the last; taken before mu

	mu      sync.Mutex // guards the following; nothing that waits for the peer is called under it
	by      time.Time  // deadline of the next write, and of one under way; zero is none
	writing bool
	isOver  bool // ServeHTTP is about to return: nothing of the response may be touched
	isSpent bool // no frame may follow
	usable  bool
	err     error
}

// A stage is what sockjs-go writes next.
type stage uint8

const (
	stagePrelude stage = iota
	stageGreeting
	stageFrames
)

func newReceiver(w http.ResponseWriter, kind *receiving, protocol int, t *times) *receiver {
	r := &receiver{
		ResponseWriter: w,
		kind:           kind,
		rc:             http.NewResponseController(w),
		inner:          http.NewResponseController(innermost(w)),
		since:          time.Now(),
		protocol:       protocol,
		times:          t,
	}
	if !kind.prelude {
		r.stage = stageGreeting
	}
	return r
}

// innermost returns the writer nearest to the connection.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// serve has sockjs-go write the response, until it is over. It reports whether it
// ended in order: complete, with all that was written for it.
func (r *receiver) serve(client context.Context, lib *sockjs.Handler, callback string) (inOrder bool) {
	ctx, cancel := context.WithCancel(context.WithValue(client, receiverKey{}, r))
	defer cancel()
	r.cancel = cancel
	// sockjs-go keeps the request: nothing of the client's is in it.
	path := "/0/" + strconv.FormatUint(libraryIDs.Add(1), 36) + "/" + r.kind.name
	request := (&http.Request{
		Method: r.kind.method,
		URL:    &url.URL{Path: path, RawQuery: url.Values{"c": {callback}}.Encode()},
		Header: http.Header{},
		Body:   http.NoBody,
	}).WithContext(ctx)
	lib.ServeHTTP(r, request)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isOver = true
	return r.isSpent && r.err == nil
}

// attached is called by sockjs-go once it takes frames for the response.
func (r *receiver) attached(s sockjs.Session) {
	r.lib.Store(&s)
	if r.session != nil {
		r.session.ready(r)
		return
	}
	_ = r.farewell(r.bye) // who does not take it is gone
}

// makeReady makes the receiver one that frames may be sent to.
func (r *receiver) makeReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usable = true
}

// isReady reports whether a frame may be sent.
func (r *receiver) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usable && !r.isSpent && !r.isOver && r.err == nil
}

// isComplete reports whether the response has all that it will have.
func (r *receiver) isComplete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isSpent
}

// age is how long the response has been under way.
func (r *receiver) age() time.Duration { return time.Since(r.since) }

// reason says why the response has ended.
func (r *receiver) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return "write failed: " + r.err.Error()
	}
	return "the request was given up"
}

// errSpent says that the response has had its last frame: this one was not said.
var errSpent = errors.New("the response is complete")

// send sends objects, a recordEnd between two, as one frame.
func (r *receiver) send(objects string) error { return r.put(objects, "", false) }

// say sends a SockJS frame that is not an array of messages, for which sockjs-go
// has no call.
func (r *receiver) say(frame string) error { return r.put(beat, frame, false) }

// farewell says the last frame.
func (r *receiver) farewell(frame string) error { return r.put(beat, frame, true) }

// put sends one frame: objects, or what is to be written instead.
func (r *receiver) put(objects, instead string, last bool) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.mu.Lock()
	spent, err := r.isSpent || r.isOver, r.err
	r.mu.Unlock()
	switch {
	case err != nil:
		return err
	case spent:
		return errSpent
	}
	r.instead = instead
	if last {
		r.endNext.Store(true)
	}
	err = r.lib.Load().Send(objects)
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	err = r.err
	r.mu.Unlock()
	if err != nil {
		r.cancel()
	}
	return err
}

// limit sets the write deadline, also of a write under way; zero is none.
func (r *receiver) limit(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = t
	if r.writing && !r.isOver && !t.IsZero() {
		// The writers in between do not expect a deadline while they write.
		_ = r.inner.SetWriteDeadline(t) // a writer that has none writes as long as it takes
	}
}

// begin sets the deadline of a write.
func (r *receiver) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := time.Now().Add(r.times.write)
	if !r.by.IsZero() && r.by.Before(by) {
		by = r.by
	}
	r.writing = true
	_ = r.rc.SetWriteDeadline(by) // as in limit
}

// done takes the deadline away, unless the response is about to end: what
// net/http writes then is bounded too.
func (r *receiver) done(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writing = false
	if err != nil && r.err == nil {
		r.err = err
	}
	if !r.isSpent && r.err == nil {
		_ = r.rc.SetWriteDeadline(time.Time{}) // as in limit
	}
}

// finish marks the response as complete with what was written.
func (r *receiver) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isSpent = true
}

// WriteHeader implements http.ResponseWriter.
func (r *receiver) WriteHeader(status int) {
	r.amendHeader()
	r.ResponseWriter.WriteHeader(status)
}

// amendHeader corrects what sockjs-go has set: without no-transform a proxy, and
// Caddy's encode, may hold back what is to be read at once.
func (r *receiver) amendHeader() {
	if r.amended {
		return // it is on its way
	}
	r.amended = true
	h := r.Header()
	h.Set("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx's
	if r.kind.name == "eventsource" {
		h.Set("Content-Type", "text/event-stream")
	}
}

// Write implements http.ResponseWriter for sockjs-go, which writes a whole frame
// at a time. It says that nothing was written, by which sockjs-go never ends the
// response for its size: when it ends, and in what order with everything else,
// is for the receiver to say.
func (r *receiver) Write(p []byte) (int, error) {
	switch r.stage {
	case stagePrelude:
		r.stage = stageGreeting
	case stageGreeting:
		r.stage = stageFrames
		if !r.fresh {
			return 0, nil
		}
		p = append([]byte(r.kind.prefix), p...)
		if r.kind.poll {
			r.finish()
		}
	case stageFrames:
		p = r.frame(p)
		if r.size += len(p); r.kind.poll || r.size >= responseLimit || r.endNext.Load() {
			r.finish()
		}
	}
	r.amendHeader()
	r.begin()
	_, err := r.ResponseWriter.Write(p) //nolint:gosec // G705: frames are JSON; callbacks are checked before
	r.dirty = true
	if err != nil {
		r.done(err)
	}
	return 0, err
}

// Flush implements http.Flusher, which sockjs-go wants after each frame.
func (r *receiver) Flush() {
	if !r.dirty {
		return
	}
	r.dirty = false
	r.done(r.rc.Flush())
	r.mu.Lock()
	over := r.isSpent || r.err != nil
	r.mu.Unlock()
	if over {
		r.cancel() // sockjs-go is done with the write before it takes notice
	}
}

// frame makes of a frame of sockjs-go's, a["…"], what is to be written: the
// objects in it apart, or what say has said.
func (r *receiver) frame(p []byte) []byte {
	const (
		array, quotedArray   = `a["` + beat + `"]`, `a[\"` + beat + `\"]`
		border, quotedBorder = `}\u001e{`, `}\\u001e{`
		apart, quotedApart   = `}","{`, `}\",\"{`
	)
	instead := r.instead
	r.instead = ""
	switch {
	case instead == "" && r.kind.quoted:
		p = bytes.ReplaceAll(p, []byte(quotedBorder), []byte(quotedApart))
	case instead == "":
		p = bytes.ReplaceAll(p, []byte(border), []byte(apart))
	case r.kind.quoted:
		p = bytes.Replace(p, []byte(quotedArray), jsontext.AppendQuoted(nil, []byte(instead)), 1)
	case r.kind.name == "eventsource":
		p = bytes.Replace(p, []byte(array), []byte(eventEscapes.Replace(instead)), 1)
	default:
		p = bytes.Replace(p, []byte(array), []byte(instead), 1)
	}
	return append([]byte(r.kind.prefix), p...)
}

// eventEscapes are the characters that SockJS escapes in its event streams.
var eventEscapes = strings.NewReplacer("%", "%25", "\n", "%0A", "\r", "%0D", "\x00", "%00")

// sockJSClose returns the frame c[<code>,"<reason>"].
func sockJSClose(code hub.CloseCode, reason string) string {
	return string(appendClosing(nil, code, reason))
}
