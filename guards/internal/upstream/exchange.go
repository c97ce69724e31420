// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

const (
	// MaxAnswer is the most bytes that a handler's answer may have, and that what
	// is learned of one may have.
	MaxAnswer = 64 << 10
	// MaxRetry bounds how long agents are sent away, whatever a backend says.
	MaxRetry = 5 * time.Minute
)

// A Capture is the http.ResponseWriter of a handler whose answer is for pushit
// alone. It keeps what has been written, up to a limit.
type Capture struct {
	limit int

	header http.Header
	status int // 0 until one is written
	body   bytes.Buffer
	over   bool // more than limit has been written
}

func NewCapture(limit int) *Capture {
	return &Capture{limit: limit, header: make(http.Header)}
}

// Header is http.ResponseWriter's.
func (c *Capture) Header() http.Header { return c.header }

// WriteHeader is http.ResponseWriter's. Only the first final status counts.
func (c *Capture) WriteHeader(status int) {
	informational := 100 <= status && status < 200 && status != http.StatusSwitchingProtocols
	if c.status == 0 && !informational {
		c.status = status
	}
}

// errAnswerTooLong stops who writes more than is read.
var errAnswerTooLong = errors.New("the answer is too long")

// Write is http.ResponseWriter's. It fails when there is more than the limit, so
// that an endless answer ends.
func (c *Capture) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.over || len(p) > c.limit-c.body.Len() {
		c.over = true
		return 0, errAnswerTooLong
	}
	return c.body.Write(p)
}

// FlushError lets handlers flush; there is nothing to do. Hijacking is not to be
// had.
func (*Capture) FlushError() error { return nil }

// Flush is http.Flusher's.
func (*Capture) Flush() {}

// An Exchange is what became of a request that was given to a handler.
type Exchange struct {
	request *http.Request
	W       *Capture
	// End is the request as it reached the end of the chain, nil if it did not.
	End *http.Request
	Err error
}

// With gives r to a handler that writes to w. The handler runs in this
// goroutine; r and w are its own until it has returned.
func With(h caddyhttp.MiddlewareHandler, w *Capture, r *http.Request) *Exchange {
	x := &Exchange{request: r, W: w}
	x.serve(h)
	return x
}

func (x *Exchange) serve(h caddyhttp.MiddlewareHandler) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			x.Err = errors.New("the answer was cut off")
		default:
			x.Err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	x.Err = h.ServeHTTP(x.W, x.request, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		x.End = r
		return nil
	}))
}

// Passed reports whether the chain reached its end and nothing answered.
func (x *Exchange) Passed() bool {
	return x.End != nil && x.Err == nil && x.W.status == 0 && !x.W.over && x.Broken() == nil
}

// Broken returns why there is no answer, whatever was answered.
func (x *Exchange) Broken() error {
	if err := x.request.Context().Err(); err != nil {
		return err
	}
	if x.W.over {
		return fmt.Errorf("the answer has more than %d KiB", x.W.limit>>10)
	}
	return Unanswerable(x.request)
}

// Status returns what was answered. An error of Caddy's handlers counts by its
// status, and nothing is 200, as it is of a server.
func (x *Exchange) Status() int {
	var handlerErr caddyhttp.HandlerError
	switch {
	case errors.As(x.Err, &handlerErr) && handlerErr.StatusCode != 0:
		return handlerErr.StatusCode
	case x.Err != nil:
		return http.StatusInternalServerError
	case x.W.status == 0:
		return http.StatusOK
	}
	return x.W.status
}

// Failure returns why there was an error, without what identifies it in Caddy's
// own log, or what was answered.
func (x *Exchange) Failure() error {
	var handlerErr caddyhttp.HandlerError
	if errors.As(x.Err, &handlerErr) && handlerErr.Err != nil {
		return fmt.Errorf("HTTP %d: %w", x.Status(), handlerErr.Err)
	}
	if x.Err != nil && handlerErr.StatusCode == 0 {
		return x.Err
	}
	return fmt.Errorf("answered HTTP %d", x.Status())
}

// RetryAfter reads a Retry-After field (RFC 9110, section 10.2.3), 0 if it says
// nothing.
func RetryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), MaxRetry)
}

// NoStore reports whether what answered, or what it asked in turn, forbids to
// keep the answer.
func (x *Exchange) NoStore() bool {
	return slices.ContainsFunc([]string{strings.Join(x.W.header.Values("Cache-Control"), ","), x.Header("Cache-Control")}, func(list string) bool {
		for directive := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-store") {
				return true
			}
		}
		return false
	})
}

// Header returns a header field of the last response that a reverse proxy got
// in the exchange; several of one name are joined with commas.
func (x *Exchange) Header(name string) string {
	return x.Placeholder("http.reverse_proxy.header." + name)
}

func (x *Exchange) Placeholder(name string) string {
	repl := x.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value, _ := repl.GetString(name)
	return value
}

// CopiedBy returns the header fields, in canonical form, that a configuration sets
// on requests to what a response had: the destinations of copy_headers.
func CopiedBy(raw json.RawMessage) (names []string) {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	placeholder.EachObject(v, func(handler map[string]any) {
		if handler["handler"] != "headers" {
			return
		}
		request, _ := handler["request"].(map[string]any)
		for _, op := range []string{"set", "add"} {
			fields, _ := request[op].(map[string]any)
			for name, values := range fields {
				placeholder.EachString(values, func(s string) {
					if strings.Contains(s, "{http.reverse_proxy.header.") {
						names = append(names, http.CanonicalHeaderKey(name))
					}
				})
			}
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// Code returns the status that was written, 0 if none was.
func (c *Capture) Code() int { return c.status }

// Body returns what was written.
func (c *Capture) Body() []byte { return c.body.Bytes() }

// Interface guards
var (
	_ http.ResponseWriter = (*Capture)(nil)
	_ http.Flusher        = (*Capture)(nil)
)
