// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package wireclient

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Methods are the SockJS transports that receive frames, except WebSocket, and the HTTP
// methods of their requests.
var Methods = map[string]string{
	"xhr": http.MethodPost, "xhr_streaming": http.MethodPost,
	"eventsource": http.MethodGet, "htmlfile": http.MethodGet, "jsonp": http.MethodGet,
}

const (
	// callback is the function that responses of htmlfile and jsonp call.
	callback = "call"
	// mostTries is how often a request is made if no server reads it.
	mostTries = 5
	// retryPause is the pause before such a request is made again.
	retryPause = 10 * time.Millisecond
	// lineBuffer is small, because each idle stream has one.
	lineBuffer = 256
)

// A Fallback is a session over a fallback transport. One request at a time receives
// frames, and others send. One goroutine receives; any may call Do and Send. A copy is
// another client of the same session.
type Fallback struct {
	HTTP      *http.Client
	URL       string // the session's URL, without a slash at the end
	Transport string // the transport that receives: a key of Methods
	Header    http.Header
	Host      string // "" means the host in URL
	Query     string // of requests to receive, without "?"; it may name another callback
	Page      string // path of the page that makes the requests, for Referer; may be ""

	// Patience bounds each wait for a response and for a frame. 0 means no bound.
	Patience time.Duration

	// OnRequest, if not nil, is called once for each request, also if the request is
	// repeated.
	OnRequest func()
	// OnUnread is called for each failed request that no server has read. reused is true
	// if its connection had been used before. The request is then repeated, at most five
	// times. Without OnUnread, such a request is an error.
	OnUnread func(reused bool)

	// OnResponse, if not nil, checks each response to a request to receive. Its error
	// fails the reading.
	OnResponse func(*http.Response) error

	// Ended counts the complete responses to requests to receive.
	Ended int

	stream *Stream // the request to receive; nil if there is none
	opened bool    // the session has begun
}

// NewSession returns the URL of a new session at an endpoint.
func NewSession(endpoint string) string { return endpoint + "/000/" + uuid.NewString() }

// Do makes a request to the session. path begins with a slash.
func (f *Fallback) Do(ctx context.Context, method, path, body string) (*http.Response, error) {
	if f.OnRequest != nil {
		f.OnRequest()
	}
	for try := 1; ; try++ {
		resp, reused, err := f.doOnce(ctx, method, path, body)
		if err == nil || f.OnUnread == nil || ctx.Err() != nil || !IsUnread(err) {
			return resp, err
		}
		f.OnUnread(reused)
		if try == mostTries {
			return nil, err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// doOnce makes a request, and reports whether its connection had been used before. It
// counts requests that net/http repeats.
func (f *Fallback) doOnce(ctx context.Context, method, path, body string) (_ *http.Response, reused bool, err error) {
	var mu sync.Mutex // guards attempts and reused: net/http may dial in another goroutine
	attempts := 0
	if f.OnUnread != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			mu.Lock()
			defer mu.Unlock()
			if attempts++; attempts > 1 {
				f.OnUnread(reused)
			}
			reused = info.Reused
		}})
	}
	r, err := http.NewRequestWithContext(ctx, method, f.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	maps.Copy(r.Header, f.Header)
	if _, ok := r.Header["Referer"]; !ok && f.Page != "" {
		r.Header.Set("Referer", r.URL.Scheme+"://"+cmp.Or(f.Host, r.URL.Host)+f.Page)
	}
	r.Host = f.Host
	resp, err := f.HTTP.Do(r)
	mu.Lock()
	defer mu.Unlock()
	return resp, reused, err
}

// IsUnread reports whether the error of a request means that no server has read it. A
// server that closes the connection without an answer may have read it. If so, the caller
// sees it by counting messages.
func IsUnread(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return true
	}
	for _, text := range []string{ // errors without a name, and those of quic-go, which not all that use this package need
		"server closed idle connection", "client connection lost", "GOAWAY",
		"connection in graceful shutdown", "H3_REQUEST_REJECTED", "H3_NO_ERROR", "CONNECTION_REFUSED", "handshake did not complete in time",
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Send sends objects to the server.
func (f *Fallback) Send(ctx context.Context, objects ...string) error {
	body, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	path, status := "/xhr_send", http.StatusNoContent
	if f.Transport == "jsonp" {
		path, status = "/jsonp_send", http.StatusOK
	}
	resp, err := f.Do(ctx, http.MethodPost, path, string(body))
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // it was read
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("sending: %s: %s", resp.Status, text)
	}
	return err
}

// Begin makes a request to receive, and does not wait for the response. The request ends
// with ctx.
func (f *Fallback) Begin(ctx context.Context) *Stream {
	s, open := f.newStream(ctx)
	go open()
	return s
}

// current returns the request to receive. It makes one if there is none.
func (f *Fallback) current(ctx context.Context) *Stream {
	if f.stream == nil {
		s, open := f.newStream(ctx)
		defer s.bound()()
		open()
	}
	return f.stream
}

// newStream makes f's stream. open makes its request and returns when the response has
// come; f may change meanwhile.
func (f *Fallback) newStream(ctx context.Context) (s *Stream, open func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s = &Stream{transport: f.Transport, patience: f.Patience, cancel: cancel, came: make(chan struct{})}
	f.stream = s
	query := f.Query
	if (f.Transport == "jsonp" || f.Transport == "htmlfile") && !strings.Contains("&"+query, "&c=") {
		query = strings.TrimPrefix(query+"&c="+callback, "&")
	}
	path := "/" + f.Transport
	if query != "" {
		path += "?" + query
	}
	asked := *f
	return s, func() {
		defer close(s.came)
		s.resp, s.err = asked.Do(ctx, Methods[asked.Transport], path, "") //nolint:bodyclose // Frame or Cancel closes it
	}
}

// Receiving reports whether a request to receive is under way, as far as its frames have
// been read.
func (f *Fallback) Receiving() bool { return f.stream != nil }

// Stream returns the request to receive, or nil.
func (f *Fallback) Stream() *Stream { return f.stream }

// GiveUp cancels the request to receive, if there is one, like a page that is closed.
func (f *Fallback) GiveUp() {
	if f.stream != nil {
		f.stream.Cancel()
		f.stream = nil
	}
}

// Next returns the next frame, "o", "h", "a[…]" or "c[…]", of the request to receive. It
// makes a request if there is none. At the end of the response it returns "".
func (f *Fallback) Next(ctx context.Context) (frame string, err error) {
	s := f.current(ctx)
	isNew := s.lines == nil
	resp, err := s.Response() //nolint:bodyclose // likewise
	if err == nil && isNew && f.OnResponse != nil {
		err = f.OnResponse(resp)
	}
	if err == nil {
		frame, err = s.Frame()
	}
	switch {
	case errors.Is(err, ErrEnded):
		f.GiveUp() // it has no further frames
		f.Ended++
		return "", nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", f.Transport, err)
	}
	if frame == "o" {
		if f.opened {
			return "", fmt.Errorf("%s: the session is another one: no request came in time to receive for it", f.Transport)
		}
		f.opened = true
	}
	return frame, nil
}

// Frame returns the next frame. It makes as many requests as necessary.
func (f *Fallback) Frame(ctx context.Context) (frame string, err error) {
	for frame == "" && err == nil {
		frame, err = f.Next(ctx)
	}
	return frame, err
}

// Receive returns the objects of the next frame that has objects. If the server closes
// the session, the error is a *CloseError.
func (f *Fallback) Receive(ctx context.Context) ([]string, error) {
	for {
		frame, err := f.Frame(ctx)
		if err != nil {
			return nil, err
		}
		switch frame[0] {
		case 'a':
			return Objects(frame)
		case 'c':
			return nil, closeError(frame)
		}
	}
}

// Objects returns the objects in a frame a[…].
func Objects(frame string) (objects []string, err error) {
	array, ok := strings.CutPrefix(frame, "a")
	if !ok {
		return nil, fmt.Errorf("the frame %.200q has no objects", frame)
	}
	if err := json.Unmarshal([]byte(array), &objects); err != nil {
		return nil, fmt.Errorf("%.200q: %w", frame, err)
	}
	return objects, nil
}

// closeError returns the error for a frame c[…].
func closeError(frame string) error {
	e := new(CloseError)
	if err := json.Unmarshal([]byte(frame[1:]), &[]any{&e.Code, &e.Reason}); err != nil {
		return fmt.Errorf("%.200q: %w", frame, err)
	}
	return e
}

// A Stream is one request to receive. One goroutine reads it.
type Stream struct {
	transport string
	patience  time.Duration
	cancel    context.CancelCauseFunc
	came      chan struct{} // closed when resp and err are set

	// Owned by the request until came is closed.
	resp *http.Response
	err  error

	// Owned by the goroutine that reads.
	lines *bufio.Reader // nil until Response has returned one
	ended bool          // Frame has returned ErrEnded
}

// Came is closed when the response has come or the request has failed.
func (s *Stream) Came() <-chan struct{} { return s.came }

// Response waits for the response. A status other than 200 is an error.
func (s *Stream) Response() (*http.Response, error) {
	defer s.bound()()
	<-s.came
	if s.err != nil || s.lines != nil {
		return s.resp, s.err
	}
	if s.resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(s.resp.Body, 200)) // the beginning is enough
		s.Cancel()
		return nil, fmt.Errorf("receiving: %s: %s", s.resp.Status, strings.TrimSpace(string(text)))
	}
	s.lines = bufio.NewReaderSize(s.resp.Body, lineBuffer)
	return s.resp, nil
}

// bound cancels the request if patience ends before the caller calls the returned
// function.
func (s *Stream) bound() (done func()) {
	if s.patience == 0 {
		return func() {}
	}
	timer := time.AfterFunc(s.patience, func() { s.cancel(fmt.Errorf("nothing came for %v", s.patience)) })
	return func() { timer.Stop() }
}

// Read reads the response with the text around the frames.
func (s *Stream) Read(p []byte) (int, error) {
	if _, err := s.Response(); err != nil { //nolint:bodyclose // likewise
		return 0, err
	}
	if s.ended {
		return 0, io.EOF
	}
	defer s.bound()()
	return s.lines.Read(p)
}

// ErrEnded is the error of Stream.Frame at the regular end of the response.
var ErrEnded = errors.New("the response has ended")

// Frame returns the next frame. At the end of the response the error is ErrEnded.
func (s *Stream) Frame() (string, error) {
	if _, err := s.Response(); err != nil { //nolint:bodyclose // likewise
		return "", err
	}
	defer s.bound()()
	for !s.ended {
		line, err := s.lines.ReadString('\n')
		if err == io.EOF && (line == "" || line == "</script>") {
			_ = s.resp.Body.Close() // it was read
			s.ended = true
			break
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", fmt.Errorf("after %.200q: %w", line, err)
		}
		if frame, err := Undress(s.transport, line); frame != "" || err != nil {
			return frame, err
		}
	}
	return "", ErrEnded
}

// Cancel cancels the request.
func (s *Stream) Cancel() { s.cancel(nil) }

// Undress removes the text that a transport puts around a frame. For lines without a
// frame, such as preludes, it returns "".
func Undress(transport, line string) (frame string, err error) {
	line = strings.TrimRight(line, "\r\n")
	quoted, ok := "", true
	switch transport {
	case "xhr", "xhr_streaming":
		if strings.HasPrefix(line, "hh") { // the prelude
			return "", nil
		}
		return line, nil
	case "eventsource":
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			return "", nil
		}
		return url.PathUnescape(data)
	case "htmlfile":
		if quoted, ok = strings.CutPrefix(line, "p("); !ok {
			return "", nil
		}
	default:
		quoted, ok = strings.CutPrefix(line, "/**/"+callback+"(")
	}
	if !ok {
		return "", fmt.Errorf("%.200q has no frame", line)
	}
	if err := json.Unmarshal([]byte(strings.TrimSuffix(quoted, ");")), &frame); err != nil {
		return "", fmt.Errorf("%.200q: %w", line, err)
	}
	return frame, nil
}
