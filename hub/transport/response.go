// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A response is one that carries frames to a client of a fallback.
//
// Two goroutines share it. The request's is in serve from the first byte to the last; the
// hub's puts frames in between. Whoever writes holds turn.
type response struct {
	// Immutable.
	w        http.ResponseWriter // as it came: what is around the connection sees all that is written
	rc       *http.ResponseController
	inner    *http.ResponseController // of the innermost writer: it takes a deadline while it writes
	framing  *framing
	callback string
	since    time.Time
	protocol int // of HTTP: 1, 2, 3
	times    *times

	// Set by session.attach, before serve.
	session *session // nil: only bye is said
	fresh   bool     // the session begins with this response
	bye     string

	endNext atomic.Bool // the next frame is the last

	turn sync.Mutex // held while a frame is written; taken before mu
	size int        // bytes of frames written; guarded by turn

	mu      sync.Mutex    // guards the following; nothing that waits for the client is called under it
	by      time.Time     // deadline of the next write, and of the one under way; zero for none
	writing bool          // a write is under way
	usable  bool          // frames may be put
	isSpent bool          // the last frame was written, or is being written
	isOver  bool          // serve has returned: nothing of w may be touched
	err     error         // of the write that failed
	ended   chan struct{} // closed when there is nothing more to write
	isEnded bool
}

func newResponse(w http.ResponseWriter, f *framing, callback string, protocol int, t *times) *response {
	return &response{
		w:        w,
		rc:       http.NewResponseController(w),
		inner:    http.NewResponseController(innermost(w)),
		framing:  f,
		callback: callback,
		since:    time.Now(),
		protocol: protocol,
		times:    t,
		ended:    make(chan struct{}),
	}
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

// serve is the response, from its header to its end. client is done when the client has
// given the request up. serve reports whether the response has ended in order: complete,
// and with all that was put.
func (r *response) serve(client context.Context) (inOrder bool) {
	r.open()
	if r.session != nil {
		r.session.ready(r)
	} else {
		_ = r.farewell(r.bye) // a client that does not take it is gone
	}
	select {
	case <-r.ended:
	case <-client.Done():
	}
	r.turn.Lock() // a write may be under way
	defer r.turn.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isOver = true
	return r.isSpent && r.err == nil
}

// open writes what precedes the first message. Prelude and o frame leave apart: a client
// may read the prelude as a whole (XhrStreaming.test_transport).
func (r *response) open() {
	h := r.w.Header()
	h.Set("Content-Type", r.framing.contentType)
	// Without no-transform a proxy, and Caddy's encode, may hold back what is to be read
	// at once.
	h.Set("Cache-Control", noCache)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // for nginx
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.framing.prelude != nil {
		if r.write(r.framing.prelude(nil, r.callback), false) != nil {
			return // reason tells it
		}
	}
	if r.fresh {
		_ = r.write(r.framing.wrap(nil, []byte("o"), r.callback), r.framing.poll) // likewise
	}
}

// errSpent says that the response had its last frame already: this one was not written.
var errSpent = errors.New("the response is complete")

// put writes a SockJS frame. It returns errSpent if the response has had its last frame.
func (r *response) put(frame []byte) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.putNext(frame, false)
}

// farewell writes a SockJS frame that is the last.
func (r *response) farewell(frame string) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.putNext([]byte(frame), true)
}

// putNext is put, and farewell, for a caller that holds turn.
func (r *response) putNext(frame []byte, last bool) error {
	r.mu.Lock()
	spent, err := r.isSpent || r.isOver, r.err
	r.mu.Unlock()
	switch {
	case err != nil:
		return err
	case spent:
		return errSpent
	}
	p := r.framing.wrap(make([]byte, 0, len(frame)+wrapRoom), frame, r.callback)
	r.size += len(p)
	return r.write(p, last || r.framing.poll || r.size >= responseLimit || r.endNext.Load())
}

// wrapRoom has room for what most framings add to a frame.
const wrapRoom = 64

// write writes p and sends it. The response is complete with the last p. The caller holds
// turn.
func (r *response) write(p []byte, last bool) error {
	r.begin(last)
	_, err := r.w.Write(p) //nolint:gosec // G705: frames are JSON; callbacks are checked before
	if err == nil {
		err = r.rc.Flush()
	}
	r.done(err)
	return err
}

// begin sets the deadline of a write.
func (r *response) begin(last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := time.Now().Add(r.times.write)
	if !r.by.IsZero() && r.by.Before(by) {
		by = r.by
	}
	r.writing, r.isSpent = true, r.isSpent || last
	_ = r.rc.SetWriteDeadline(by) // as in limit
}

// done removes the deadline, unless the response is about to end: it bounds what net/http
// writes then.
func (r *response) done(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writing = false
	if r.err == nil {
		r.err = err
	}
	if r.isSpent || r.err != nil {
		r.endLocked()
		return
	}
	_ = r.rc.SetWriteDeadline(time.Time{}) // as in limit
}

// limit sets the write deadline, also of the write under way; zero is none.
func (r *response) limit(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = t
	if r.writing && !t.IsZero() {
		// The writers in between do not expect a deadline while they write.
		_ = r.inner.SetWriteDeadline(t) // a writer without deadlines takes as long as it takes
	}
}

// cut ends the response at once, even in the middle of a write. It reports false, and does
// nothing, before frames may be put.
func (r *response) cut() bool {
	r.mu.Lock()
	usable := r.usable
	r.mu.Unlock()
	if !usable {
		return false
	}
	r.limit(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked()
	return true
}

// endLocked makes serve return. The caller holds mu.
func (r *response) endLocked() {
	if !r.isEnded {
		r.isEnded = true
		close(r.ended)
	}
}

// makeReady lets frames be put.
func (r *response) makeReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usable = true
}

// isReady reports whether a frame may be put.
func (r *response) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usable && !r.isSpent && !r.isOver && r.err == nil
}

// isComplete reports whether the response has had its last frame.
func (r *response) isComplete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isSpent
}

// age is how long the response has been under way.
func (r *response) age() time.Duration { return time.Since(r.since) }

// reason says, for the log, why the response did not end in order.
func (r *response) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return "write failed: " + r.err.Error()
	}
	return "the request was given up"
}
