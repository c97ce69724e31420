// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

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
	"github.com/push-it/pushit/hub"
)

const (
	// maxAnswer is the most bytes that a handler's answer may have, and that what
	// is learned of one may have.
	maxAnswer = 64 << 10
	// maxRetry bounds how long agents are sent away, whatever a backend says.
	maxRetry = 5 * time.Minute
)

// A capture is the http.ResponseWriter of a handler whose answer is for pushit
// alone. It keeps what has been written, up to a limit.
type capture struct {
	limit int

	header http.Header
	status int // 0 until one is written
	body   bytes.Buffer
	over   bool // more than limit has been written
}

func newCapture(limit int) *capture {
	return &capture{limit: limit, header: make(http.Header)}
}

// Header is http.ResponseWriter's.
func (c *capture) Header() http.Header { return c.header }

// WriteHeader is http.ResponseWriter's. Only the first final status counts.
func (c *capture) WriteHeader(status int) {
	informational := 100 <= status && status < 200 && status != http.StatusSwitchingProtocols
	if c.status == 0 && !informational {
		c.status = status
	}
}

// errAnswerTooLong stops who writes more than is read.
var errAnswerTooLong = errors.New("the answer is too long")

// Write is http.ResponseWriter's. It fails when there is more than the limit, so
// that an endless answer ends.
func (c *capture) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.over || len(p) > c.limit-c.body.Len() {
		c.over = true
		return 0, errAnswerTooLong
	}
	return c.body.Write(p)
}

// FlushError lets handlers flush; there is nothing to do. Hijacking is not to be
// had.
func (*capture) FlushError() error { return nil }

// Flush is http.Flusher's.
func (*capture) Flush() {}

// An exchange is what became of a request that was given to a handler.
type exchange struct {
	request *http.Request
	w       *capture
	// end is the request as it reached the end of the chain, nil if it did not.
	end *http.Request
	err error
}

// exchangeWith gives r to a handler that writes to w. The handler runs in this
// goroutine; r and w are its own until it has returned.
func exchangeWith(h caddyhttp.MiddlewareHandler, w *capture, r *http.Request) *exchange {
	x := &exchange{request: r, w: w}
	x.serve(h)
	return x
}

func (x *exchange) serve(h caddyhttp.MiddlewareHandler) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			x.err = errors.New("the answer was broken off")
		default:
			x.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	x.err = h.ServeHTTP(x.w, x.request, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		x.end = r
		return nil
	}))
}

// passed reports whether the chain reached its end and nothing answered.
func (x *exchange) passed() bool {
	return x.end != nil && x.err == nil && x.w.status == 0 && !x.w.over && x.broken() == nil
}

// broken returns why there is no answer, whatever was answered.
func (x *exchange) broken() error {
	if err := x.request.Context().Err(); err != nil {
		return err
	}
	if x.w.over {
		return fmt.Errorf("the answer has more than %d KiB", x.w.limit>>10)
	}
	return unanswerable(x.request)
}

// status returns what was answered. An error of Caddy's handlers counts by its
// status, and nothing is 200, as it is of a server.
func (x *exchange) status() int {
	var handlerErr caddyhttp.HandlerError
	switch {
	case errors.As(x.err, &handlerErr) && handlerErr.StatusCode != 0:
		return handlerErr.StatusCode
	case x.err != nil:
		return http.StatusInternalServerError
	case x.w.status == 0:
		return http.StatusOK
	}
	return x.w.status
}

// failure returns why there was an error, without what identifies it in Caddy's
// own log, or what was answered.
func (x *exchange) failure() error {
	var handlerErr caddyhttp.HandlerError
	if errors.As(x.err, &handlerErr) && handlerErr.Err != nil {
		return fmt.Errorf("HTTP %d: %w", x.status(), handlerErr.Err)
	}
	if x.err != nil && handlerErr.StatusCode == 0 {
		return x.err
	}
	return fmt.Errorf("answered HTTP %d", x.status())
}

// refusal returns the answer for a request that was not let through.
func (x *exchange) refusal() Answer {
	if err := x.broken(); err != nil {
		return Answer{Kind: Unavailable, Err: err}
	}
	kind := kindOf(x.status())
	a := Answer{Kind: kind, Err: x.failure()}
	if kind == Deny && x.err == nil && x.status()/100 == 4 {
		a.Reason = reasonIn(x.w)
	}
	if kind == Unavailable {
		a.Retry = retryAfter(x.w.header.Get("Retry-After"), time.Now())
	}
	return a
}

// kindOf returns what a status other than that of approval says. A redirect leads
// to a login page, and a 2xx to something that the question was not meant for.
func kindOf(status int) Kind {
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status == 499:
		return Unavailable
	case 200 <= status && status < 500:
		return Deny
	default:
		return Unavailable
	}
}

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3), 0 if it says
// nothing.
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetry)
}

// noStore reports whether what answered, or what it asked in turn, forbids to
// keep the answer.
func (x *exchange) noStore() bool {
	return slices.ContainsFunc([]string{strings.Join(x.w.header.Values("Cache-Control"), ","), x.upstream("Cache-Control")}, func(list string) bool {
		for directive := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-store") {
				return true
			}
		}
		return false
	})
}

// upstream returns a header field of the last response that a reverse proxy got
// in the exchange; several of one name are joined with commas.
func (x *exchange) upstream(name string) string {
	return x.placeholder("http.reverse_proxy.header." + name)
}

func (x *exchange) placeholder(name string) string {
	repl := x.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value, _ := repl.GetString(name)
	return value
}

// outcome is a refusal as it is kept.
func (x *exchange) outcome() outcome {
	return outcome{Answer: x.refusal(), noStore: x.noStore(), size: 64}
}

// fieldsOf returns the named header fields of a request as guards learn them: one
// that has no value is not to be believed from anybody else.
func fieldsOf(header http.Header, names []string) (fields []hub.HeaderField, size int) {
	for _, name := range names {
		f := hub.HeaderField{Name: name, Value: strings.Join(header.Values(name), ", ")}
		fields = append(fields, f)
		size += len(f.Name) + len(f.Value) + 32
	}
	return fields, size
}

// checkLearned refuses what must not be taken from a backend.
func checkLearned(l *Learned, size int) error {
	if size > maxAnswer {
		return fmt.Errorf("the header fields to keep of the answer have more than %d KiB", maxAnswer>>10)
	}
	if placeholder.HasControl(l.User) {
		return errors.New("the user's name has a line break or a NUL in it")
	}
	for _, f := range l.Header {
		if placeholder.HasControl(f.Value) {
			return fmt.Errorf("the header field %s has a line break or a NUL in it", f.Name)
		}
	}
	return nil
}

// copiedBy returns the header fields, in canonical form, that a configuration sets
// on requests to what a response had: the destinations of copy_headers.
func copiedBy(raw json.RawMessage) (names []string) {
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

// A handlerGuard is what the guards have in common that ask through a handler of
// Caddy's.
type handlerGuard struct {
	handler caddyhttp.MiddlewareHandler
	remote  *remote
	copied  []string // header fields that the handler sets to what responses had
}

// provision prepares the handler in the HandlerRaw field of a guard.
func (g *handlerGuard) provision(ctx caddy.Context, guard any, field *json.RawMessage, s Sparing) (err error) {
	raw := *field
	if len(raw) == 0 {
		return errors.New("handler is missing: it is what is asked")
	}
	var named struct {
		Handler string `json:"handler"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return err
	}
	reach := reachOf(ctx, "http.handlers."+named.Handler, raw)
	for _, text := range reach.texts {
		if _, err := placeholder.CheckHandler(text); err != nil {
			return err
		}
		if err := placeholder.CheckSent(text); err != nil {
			return err
		}
		g.copied = append(g.copied, copiedBy(text)...)
	}
	slices.Sort(g.copied)
	g.copied = slices.Compact(g.copied)
	if g.remote, err = newRemote(s, reach); err != nil {
		return err
	}
	if bytes.Contains(raw, []byte(`"fastcgi"`)) {
		*field, err = changed(raw, func(handler map[string]any) { placeholder.EachObject(handler, boundFastCGI) })
		if err != nil {
			return err
		}
	}
	module, err := ctx.LoadModule(guard, "HandlerRaw")
	if err != nil {
		return fmt.Errorf("loading the handler: %w", err)
	}
	handler, ok := module.(caddyhttp.MiddlewareHandler)
	if !ok {
		return fmt.Errorf("%T is not an HTTP handler", module)
	}
	g.handler = handler
	return nil
}

// Remote implements Remote.
func (*handlerGuard) Remote() {}

// LearnsHeaders implements HeaderLearner.
func (g *handlerGuard) LearnsHeaders() []string { return g.copied }

// ReadsSnapshot implements SnapshotReader.
func (g *handlerGuard) ReadsSnapshot() []string { return g.remote.looked }

// Cleanup is caddy.CleanerUpper's.
func (g *handlerGuard) Cleanup() error {
	return g.remote.cleanup()
}

// share implements sharer.
func (g *handlerGuard) share(poolKey string, print hub.Fingerprint) error {
	if g.remote == nil { // it is only looked at
		return nil
	}
	return g.remote.share(poolKey, print)
}

// A sharer is a guard with something that outlives a configuration.
type sharer interface {
	share(poolKey string, print hub.Fingerprint) error
}

// shareAll gives the guards of a gate what those written alike have that stand in
// the same gates of the same endpoint. seen counts these.
func shareAll(c *Chain, seen map[string]int) (err error) {
	if c.env.Mount == "" {
		return nil
	}
	walk(c.guards, func(g NamedGuard) {
		s, ok := g.Guard.(sharer)
		if !ok || g.text == (sum{}) || err != nil {
			return
		}
		poolKey := fmt.Sprintf("%s\x00%s\x00%x", c.env.Mount, c.gate, g.text)
		seen[poolKey]++
		err = s.share(fmt.Sprintf("%s\x00%d", poolKey, seen[poolKey]), c.print)
	})
	return err
}

// Interface guards
var (
	_ http.ResponseWriter = (*capture)(nil)
	_ http.Flusher        = (*capture)(nil)
	_ Remote              = (*handlerGuard)(nil)
	_ HeaderLearner       = (*handlerGuard)(nil)
	_ caddy.CleanerUpper  = (*handlerGuard)(nil)
)
