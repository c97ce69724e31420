// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A response carries frames to a client of a fallback.
//
// Two goroutines share it. The request's goroutine is in serve from the first byte to the
// last, and the hub's goroutine puts frames in between. Each holds turn while it writes. It
// has more than 25 fields because both of them need all that the other one sets.
type response struct {
	// Immutable.
	w        http.ResponseWriter
	rc       *http.ResponseController // of w
	inner    *http.ResponseController // of the innermost writer, which accepts a deadline during a write
	framing  *framing
	callback string
	since    time.Time
	protocol int // of HTTP: 1, 2, 3
	times    *times

	// Set by session.attach, before serve.
	carrier carrier         // told when the response takes frames; nil: the response carries only bye
	fresh   bool            // the response carries the o frame
	first   []byte          // what a stream begins with
	bye     string          // a close frame, or the frame of a relay
	relayed bool            // another machine writes the frame to the client
	socket  syscall.RawConn // of the client; nil if it is not known

	endNext atomic.Bool // the next frame is the last

	turn sync.Mutex // held while a frame is written; taken before mu
	size int        // bytes of frames written; guarded by turn

	mu      sync.Mutex    // guards the following; nothing that waits for the client is called under it
	by      time.Time     // deadline of writes; zero for none
	writing bool          // a write is under way
	usable  bool          // the prelude and the o frame are written
	isSpent bool          // the last frame is written, or being written
	isOver  bool          // serve has returned: w must not be used any more
	err     error         // of the write that failed
	ended   chan struct{} // closed if there is nothing more to write
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

// serve writes the response, from its header to its end. client is done if the client
// cancels the request. serve reports whether the response ended in order: complete, and with
// all frames that were put.
func (r *response) serve(client context.Context) (inOrder bool) {
	r.open()
	if r.carrier != nil {
		r.carrier.ready(r)
	} else {
		_ = r.putLast(r.bye) // a client that does not get it is gone
	}
	select {
	case <-r.ended:
	case <-client.Done():
	}
	return r.over(client) && !r.hasLeft(client)
}

// over ends the use of the writer. It reports whether the response is complete, and the client
// was there.
func (r *response) over(client context.Context) bool {
	r.turn.Lock() // waits for a write under way
	defer r.turn.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isOver = true
	// A client that left before the end may not have what was written last.
	return r.isSpent && r.err == nil && client.Err() == nil
}

// open writes the header, the prelude and the o frame. It flushes the prelude by itself,
// because SockJS's protocol wants it in a chunk of its own (XhrStreaming.test_transport).
func (r *response) open() {
	h := r.w.Header()
	h.Set("Content-Type", r.framing.contentType)
	h.Set("Cache-Control", noCache)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // for nginx
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.framing.prelude != nil {
		if r.write(r.framing.prelude(nil, r.callback), false) != nil {
			return // reason returns the error
		}
	}
	if r.first != nil {
		_ = r.write(r.first, false) // likewise
	}
	if r.fresh {
		_ = r.write(r.framing.wrap(nil, []byte("o"), r.callback), r.framing.poll) // likewise
	}
}

// A carrier is told when its response takes frames.
type carrier interface{ ready(r *response) }

// finish completes the response in order.
func (r *response) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isSpent = true
	r.endLocked()
}

// errSpent means that a frame was not written, because the response had its last frame.
var errSpent = errors.New("the response is complete")

// put writes a SockJS frame. It returns errSpent if the response had its last frame.
func (r *response) put(frame []byte) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.putNext(frame, false)
}

// putLast writes a SockJS frame and completes the response.
func (r *response) putLast(frame string) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.putNext([]byte(frame), true)
}

// putNext does the work of put and putLast. The caller holds turn.
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
	if r.framing.wrap == nil {
		return r.write(frame, last)
	}
	buffer := messages.Get().(*[]byte)
	defer putMessage(buffer)
	*buffer = r.framing.wrap(*buffer, frame, r.callback)
	r.size += len(*buffer)
	return r.write(*buffer, last || r.framing.poll || r.size >= responseLimit || r.endNext.Load())
}

// write writes p and flushes it. If it is the last, the response is complete. The caller
// holds turn.
func (r *response) write(p []byte, last bool) error {
	r.begin(last)
	_, err := r.w.Write(p) //nolint:gosec // G705: messages are quoted for HTML, and callbacks are checked names
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

// done notes how a write ended, and removes the deadline. It keeps the deadline at the end
// of the response, for the last bytes, which net/http writes.
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

// limit sets the deadline of writes, including the one under way; zero is none.
func (r *response) limit(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = t
	if r.writing && !t.IsZero() {
		// Outer writers do not expect a deadline to be set during a write.
		_ = r.inner.SetWriteDeadline(t) // without support for deadlines, the server's own limits apply
	}
}

// cut ends the response at once, even during a write. Before the response is usable, cut
// does nothing and returns false.
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

// makeReady makes the response usable.
func (r *response) makeReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usable = true
}

// isReady reports whether the response takes frames.
func (r *response) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usable && !r.isSpent && !r.isOver && r.err == nil
}

// isComplete reports whether the response had its last frame.
func (r *response) isComplete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isSpent
}

// age returns how long ago the response began.
func (r *response) age() time.Duration { return time.Since(r.since) }

// reason returns, for the log, why the response did not end in order.
func (r *response) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return "write failed: " + r.err.Error()
	}
	return "the client cancelled the request"
}
