// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

// A Session is what requests to a backend are made from.
type Session interface {
	Opening() *hub.Opened
	// User returns the agent's user, or "" if it is unknown.
	User() string
	// Header returns the header fields of a new request, which owns them.
	Header() http.Header
	// Server returns the server of the endpoint, nil outside of one.
	Server() *caddyhttp.Server
	// Replace returns the value of a placeholder. An error makes the request
	// unanswerable.
	Replace(r *http.Request, name string) (value any, known bool, err error)
}

// NewRequest returns a request to the endpoint as Caddy's matchers and handlers expect
// it: a GET, or, if body is not nil, a POST of that JSON. Handlers write to w.
//
// A session does not store everything that its request had. After you have used the
// request, check Unanswerable.
func NewRequest(ctx context.Context, s Session, w http.ResponseWriter, body []byte) (*http.Request, error) {
	o, user := s.Opening(), s.User()
	uri := o.URI()
	if uri == "" {
		uri = "/"
	}
	target, err := url.ParseRequestURI(uri)
	if err != nil {
		return nil, errors.New("the session was opened with an invalid URI") // do not show it: it may hold a secret
	}
	if placeholder.HasControl(user) {
		return nil, placeholder.ControlError("http.auth.user.id")
	}
	r := &http.Request{
		Method: http.MethodGet, URL: target, RequestURI: uri, Host: o.Host(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: s.Header(), Body: http.NoBody, RemoteAddr: placeholder.RemoteAddr(o),
	}
	if body != nil {
		r.Method = http.MethodPost
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header["Content-Type"] = []string{"application/json"}
		r.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
		r.Header["Accept"] = []string{"application/json, text/plain"}
	}
	if o.Scheme() == "https" {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}

	misses := new(misses)
	repl := caddy.NewReplacer()
	if user != "" {
		repl.Set("http.auth.user.id", user)
	}
	// This replacer goes before Caddy's own, so that a value that the session does not
	// store is never taken for an absent one.
	repl.Map(func(name string) (any, bool) {
		value, known, err := s.Replace(r, name)
		if err != nil {
			misses.note(err)
		}
		return value, known
	})

	server := s.Server()
	if server == nil {
		server = new(caddyhttp.Server) // Caddy's handlers need one
	}
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
	}
	r = r.WithContext(context.WithValue(ctx, missesKey{}, misses))
	r = caddyhttp.PrepareRequest(r, repl, w, server)
	if ip := o.RemoteIP(); ip.IsValid() {
		// Use the address as it was resolved then: the trusted proxies may have changed.
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, ip.String())
	}
	placeholder.SetVars(o, r)
	return r, nil
}

// misses notes the first placeholder whose value is unknown.
type misses struct {
	first atomic.Pointer[error]
}

type missesKey struct{}

func (m *misses) note(err error) { m.first.CompareAndSwap(nil, &err) }

// Unanswerable returns why the result of matchers or handlers that used r is not
// reliable, or nil if it is: the session lacks a value that they asked for, or the
// value has characters that must not get into a request.
func Unanswerable(r *http.Request) error {
	if m, ok := r.Context().Value(missesKey{}).(*misses); ok {
		if err := m.first.Load(); err != nil {
			return *err
		}
	}
	return nil
}
