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
	// MaxAnswer is the largest number of bytes of a handler's answer, and of what a guard
	// learns from one.
	MaxAnswer = 64 << 10
	// MaxRetry limits how long agents wait before they try again, whatever a backend
	// says.
	MaxRetry = 5 * time.Minute
)

// A Capture is an http.ResponseWriter for an answer that is for pushit alone. It stores
// what is written, up to a limit.
type Capture struct {
	limit int

	header http.Header
	status int // 0 until one was written
	body   bytes.Buffer
	over   bool // more than limit was written
}

// NewCapture returns a Capture that stores at most limit bytes.
func NewCapture(limit int) *Capture {
	return &Capture{limit: limit, header: make(http.Header)}
}

// Header implements http.ResponseWriter.
func (c *Capture) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter. Only the first final status counts.
func (c *Capture) WriteHeader(status int) {
	informational := 100 <= status && status < 200 && status != http.StatusSwitchingProtocols
	if c.status == 0 && !informational {
		c.status = status
	}
}

// errAnswerTooLong stops a handler that writes more than is read.
var errAnswerTooLong = errors.New("the answer is too long")

// Write implements http.ResponseWriter. It fails above the limit, so that an endless
// answer ends.
func (c *Capture) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.over || len(p) > c.limit-c.body.Len() {
		c.over = true
		return 0, errAnswerTooLong
	}
	return c.body.Write(p)
}

// FlushError lets handlers flush. It does nothing. A Capture cannot be hijacked.
func (*Capture) FlushError() error { return nil }

// Flush implements http.Flusher.
func (*Capture) Flush() {}

// An Exchange is the result of a request that a handler was given.
type Exchange struct {
	request *http.Request
	W       *Capture
	// End is the request as it reached the end of the chain, or nil if it did not.
	End *http.Request
	Err error
}

// With gives r to a handler that writes to w. The handler runs in this goroutine, and
// owns r and w until it returns.
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

// Passed reports whether the request reached the end of the chain and nothing answered.
func (x *Exchange) Passed() bool {
	return x.End != nil && x.Err == nil && x.W.status == 0 && !x.W.over && x.Broken() == nil
}

// Broken returns why the answer does not count, or nil if it does.
func (x *Exchange) Broken() error {
	if err := x.request.Context().Err(); err != nil {
		return err
	}
	if x.W.over {
		return fmt.Errorf("the answer has more than %d KiB", x.W.limit>>10)
	}
	return Unanswerable(x.request)
}

// Status returns the status of the answer. An error of Caddy's handlers has a status,
// too. If nothing was written, the status is 200, as on a server.
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

// Failure returns the error of the handlers, without the ID that it has in Caddy's own
// log, or an error with the status of the answer.
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

// RetryAfter parses a Retry-After field (RFC 9110, section 10.2.3). It returns 0 if the
// field is empty or invalid.
func RetryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), MaxRetry)
}

// NoStore reports whether the answer, or that of a backend behind it, must not be stored.
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

// Header returns a header field of the last response that a reverse proxy got in the
// exchange. Several fields of one name are joined with commas.
func (x *Exchange) Header(name string) string {
	return x.Placeholder("http.reverse_proxy.header." + name)
}

// Placeholder returns the value of a placeholder after the exchange.
func (x *Exchange) Placeholder(name string) string {
	repl := x.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value, _ := repl.GetString(name)
	return value
}

// CopiedBy returns the header fields that a configuration copies from responses to
// requests, in canonical form: the destinations of copy_headers.
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
