// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
	"github.com/push-it/pushit/internal/routing"
	"github.com/push-it/pushit/internal/telemetry"
)

// caller identifies the client of a request.
func caller(r *http.Request) transport.Caller {
	scheme, host := site(r)
	return transport.Caller{Scheme: scheme, Host: host, User: user(r), Certificate: certificate(r)}
}

// certificate returns a hash of the client's certificate, or "".
func certificate(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:])
}

// opening returns what a session keeps of the request that opens it. If it returns a
// Refusal, the request opens no session.
func (h *Handler) opening(r *http.Request) (hub.Opening, *hub.Refusal) {
	scheme, host := site(r)
	namespace, refusal := h.namespace(r)
	var values string
	if h.env != nil {
		var err error
		if values, err = guards.Snapshot(r, h.env.Snapshot); err != nil && refusal == nil {
			refusal = errSnapshot
		}
	}
	header, traced := endToEnd(r.Header), telemetry.Tracer(r)
	if traced != nil {
		header = only(header, func(name string) bool { return !telemetry.IsTraceField(name) })
	}
	return hub.Opening{
		RemoteIP:    clientIP(r),
		Scheme:      scheme,
		Host:        host,
		URI:         h.uri(r),
		RemoteAddr:  strings.Clone(r.RemoteAddr),
		Namespace:   namespace,
		User:        user(r),
		Certificate: certificate(r),
		Tracer:      traced,
		Values:      values,
		Header:      hub.HeaderBlock(header),
	}, refusal
}

// errSnapshot refuses a session that would have to keep too much.
var errSnapshot = &hub.Refusal{Code: hub.CodeInvalid, Reason: "the request is too large to open a session with"}

// errNamespace refuses a session without a valid namespace.
var errNamespace = &hub.Refusal{Code: hub.CodeInvalid, Reason: "the tenant cannot be determined from this address"}

// namespace returns the namespace of the session that r opens.
func (h *Handler) namespace(r *http.Request) (string, *hub.Refusal) {
	if h.Namespace == "" {
		return "", nil
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return "", errNamespace
	}
	value, _ := repl.GetString(strings.Trim(h.Namespace, "{}"))
	if strings.Contains(value, "/") || hub.CheckName(value, hub.MaxNameLength) != nil {
		return "", errNamespace
	}
	return strings.Clone(value), nil
}

// clientIP returns the address that Caddy determined, also behind trusted proxies. The
// address is invalid if there is none, as on a unix socket.
func clientIP(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// user returns the user that an earlier handler, such as basic_auth, authenticated.
func user(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.auth.user.id")
	return id
}

// site returns the scheme and host that the client asked for. It trusts the header fields
// of trusted proxies, as Caddy's reverse_proxy does.
func site(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return scheme, host
	}
	switch strings.ToLower(forwarded(r, "X-Forwarded-Proto")) {
	case "https", "wss":
		scheme = "https"
	case "http", "ws":
		scheme = "http"
	}
	if v := forwarded(r, "X-Forwarded-Host"); v != "" {
		host = v
	}
	return scheme, host
}

// forwarded returns the value that the nearest proxy sent in a field. Of a list it
// returns the first element, which the client sent to the first proxy.
func forwarded(r *http.Request, name string) string {
	values := r.Header.Values(name)
	if len(values) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(values[len(values)-1], ",")
	return strings.TrimSpace(first)
}

// uri returns the path of the endpoint as the client wrote it, with the query. The path
// includes a prefix that an earlier handler has stripped.
func (h *Handler) uri(r *http.Request) string {
	asked := r.URL
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		asked = original.URL
	}
	path := h.Path
	if rest, ok := routing.Below(h.Path, r.URL.Path); ok {
		if endpoint, ok := strings.CutSuffix(asked.Path, rest); ok {
			path = endpoint
		}
	}
	if path == "" {
		path = "/"
	}
	uri := url.URL{Path: path, RawQuery: asked.RawQuery}
	return strings.Clone(uri.RequestURI()) // the string may share memory with the request
}

// notKept lists header fields about the connection or the body (RFC 9110, section 7.6.1).
// They do not identify the client.
var notKept = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect",
}

// notKeptPrefixes are prefixes of further such fields. The server itself sets Pushit-*; a
// client must not.
var notKeptPrefixes = []string{"Sec-Websocket-", "Content-", "Pushit-", ":"}

// endToEnd yields the header fields that identify the client, by name, so that equal
// headers give equal snapshots. It keeps fields that Connection names. Otherwise a client
// could remove fields that earlier handlers have set.
func endToEnd(header http.Header) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		names := make([]string, 0, len(header)) // with room for all: sessions begin here
		for name := range header {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if slices.Contains(notKept, name) || hasAnyPrefix(name, notKeptPrefixes) {
				continue
			}
			for _, value := range header[name] {
				if !yield(name, value) {
					return
				}
			}
		}
	}
}

// only yields the fields whose names satisfy ok.
func only(fields func(yield func(name, value string) bool), ok func(name string) bool) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for name, value := range fields {
			if ok(name) && !yield(name, value) {
				return
			}
		}
	}
}

func hasAnyPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(s, prefix) })
}
