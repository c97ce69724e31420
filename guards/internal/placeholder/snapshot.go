// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/suggest"
	"github.com/push-it/pushit/hub"
)

// A session outlives the request that opens it. If guards name a value of that request
// that sessions do not store anyway, it is looked up when the session opens. Examples are
// the certificate of the client, variables that handlers before pushit have set, and
// placeholders of other modules.

// The prefixes of placeholders.
const (
	VarsPrefix = "http.vars."
	tlsPrefix  = "http.request.tls."
	certPrefix = tlsPrefix + "client."
)

// maxSnapshot is the largest number of bytes of these values in a session.
const maxSnapshot = 64 << 10

// What is known about a placeholder.
const (
	NeverLookedUp = 0
	HasValue      = '='
	HasNone       = '-' // for example, without a client certificate
	IsUnknown     = '?' // the placeholder was unknown
	IsUnsafe      = '!' // the value has a line break or a NUL in it
)

// Snapshot looks up the placeholders for the request that opens a session. The result is
// for [hub.Opening.Values].
func Snapshot(r *http.Request, names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return "", errors.New("the request did not come through Caddy")
	}
	certified := r.TLS != nil && len(r.TLS.PeerCertificates) > 0
	var b strings.Builder
	for _, name := range names {
		found, known := repl.Get(name)
		value := caddy.ToString(found)
		kind := byte(HasValue)
		switch {
		case strings.HasPrefix(name, certPrefix) && !certified, known && found == nil:
			kind, value = HasNone, ""
		case !known && mayBeAbsent(name):
			kind, value = HasNone, ""
		case !known:
			kind, value = IsUnknown, ""
		case HasControl(value):
			kind, value = IsUnsafe, ""
		}
		b.WriteString(name)
		b.WriteByte('\t')
		b.WriteByte(kind)
		b.WriteString(value)
		b.WriteByte('\n')
	}
	if b.Len() > maxSnapshot {
		return "", fmt.Errorf("the values of the placeholders in gates have %d bytes; at most %d are allowed", b.Len(), maxSnapshot)
	}
	return b.String(), nil
}

// mayBeAbsent reports whether a placeholder that is unknown for one request may be known
// for others. Then it has no value here.
func mayBeAbsent(name string) bool {
	return hasPrefix(name, "http.auth.user.", "http.regexp.", "http.matchers.", "http.url_pattern.", "http.request.")
}

// LookUp returns what a session knows about a placeholder.
func LookUp(o *hub.Opened, name string) (value string, kind byte) {
	for line := range strings.Lines(o.Values()) {
		if rest, ok := strings.CutPrefix(line, name+"\t"); ok {
			return strings.TrimSuffix(rest[1:], "\n"), rest[0]
		}
	}
	return "", NeverLookedUp
}

// Lacks returns an error if the value of a placeholder is not reliable.
func Lacks(o *hub.Opened, name string) error {
	switch _, kind := LookUp(o, name); kind {
	case HasValue, HasNone:
		return nil
	case IsUnsafe:
		return ControlError(name)
	default:
		return LackingError(name)
	}
}

// WasLookedUp reports whether all names were looked up when the session was opened. They
// may have had no value.
func WasLookedUp(o *hub.Opened, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		_, kind := LookUp(o, name)
		return kind == NeverLookedUp
	})
}

// SetVars sets the variables of r to the values that the session stores.
func SetVars(o *hub.Opened, r *http.Request) {
	for line := range strings.Lines(o.Values()) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if variable, ok := strings.CutPrefix(name, VarsPrefix); ok && rest[0] == HasValue {
			caddyhttp.SetVar(r.Context(), variable, rest[1:])
		}
	}
}

// MustLookUp reports whether the value of a placeholder must be looked up when a session
// opens. The error says that it is unknown even then, or that Caddy has no such
// placeholder.
func MustLookUp(name string) (bool, error) {
	if strings.HasPrefix(name, Prefix) || IsInSnapshot(name) || !IsVariable(name) {
		return false, nil
	}
	variable, isVar := strings.CutPrefix(name, VarsPrefix)
	switch {
	case isVar:
		// Caddy sets these itself for each request.
		return !slices.Contains([]string{caddyhttp.ClientIPVarKey, caddyhttp.TrustedProxyVarKey, "start_time"}, variable), nil
	case strings.HasPrefix(name, "http.request.remote"), strings.HasPrefix(name, "http.request.duration"):
		return false, nil
	case name == certPrefix+"certificate_pem":
		return false, fmt.Errorf("{%s} has line breaks, which a request cannot have; write {%scertificate_der_base64}", name, certPrefix)
	case strings.HasPrefix(name, "http.request."):
		if isRequestPlaceholder(name) {
			return true, nil
		}
		if near := suggest.Nearest(name, requestPlaceholders); near != "" {
			return false, fmt.Errorf("there is no placeholder {%s}; did you mean {%s}?", name, near)
		}
		return false, fmt.Errorf("there is no placeholder {%s}", name)
	case mayBeAbsent(name):
		return true, nil
	case hasPrefix(name, "time.", "http.response.", "http.intercept.", "http.shutting_down", "http.time_until_shutdown"):
		return false, nil
	case !foreignPlaceholder.MatchString(name):
		return false, nil
	}
	// Caddyfile shorthands do not work in JSON, and words close to them are typing
	// errors.
	word, rest, dotted := strings.Cut(name, ".")
	if near := suggest.Nearest(word, shorthands); dotted && (near != "" || slices.Contains(shorthands, word)) {
		if near == "" {
			near = word
		}
		return false, fmt.Errorf("there is no placeholder {%s}; did you mean {http.request.%s.%s}?", name, near, rest)
	}
	return true, nil
}

// foreignPlaceholder matches the placeholders of map and of other modules. Other text in
// braces is not a placeholder.
var foreignPlaceholder = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.:/-]*$`)

var shorthands = []string{"cookie", "header"}

// requestPlaceholders are placeholders of a request that sessions do not store anyway.
// Some have further names behind a dot.
var requestPlaceholders = []string{
	"http.request.local", "http.request.local.host", "http.request.local.port", "http.request.proto", "http.request.proto_name", "http.request.uuid",
	tlsPrefix + "version", tlsPrefix + "cipher_suite", tlsPrefix + "resumed", tlsPrefix + "proto", tlsPrefix + "proto_mutual", tlsPrefix + "server_name", tlsPrefix + "ech",
	certPrefix + "fingerprint", certPrefix + "public_key", certPrefix + "public_key_sha256", certPrefix + "issuer", certPrefix + "serial", certPrefix + "subject",
	certPrefix + "certificate_der_base64",
	certPrefix + "san.dns_names", certPrefix + "san.emails", certPrefix + "san.ips", certPrefix + "san.uris",
}

// isRequestPlaceholder asks Caddy whether a placeholder of requests exists.
func isRequestPlaceholder(name string) bool {
	for _, list := range requestPlaceholders {
		if name == list || strings.HasPrefix(name, list+".") && strings.Contains(list, ".san.") {
			return true
		}
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/", http.NoBody)
	if err != nil {
		return false
	}
	repl := caddy.NewReplacer()
	caddyhttp.PrepareRequest(r, repl, nil, new(caddyhttp.Server))
	_, known := repl.Get(name)
	return known
}

// ToLookUp returns the placeholders in the configurations that must be looked up when a
// session opens, without those that the configurations set themselves. others says that
// they have modules of other packages, which may set any placeholder that is not Caddy's.
func ToLookUp(texts []json.RawMessage, others bool) (names []string, err error) {
	set := make(map[string]bool)
	var setPrefixes []string
	for _, text := range texts {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, err
		}
		EachObject(v, func(handler map[string]any) {
			if handler["handler"] == "map" {
				EachString(handler["destinations"], func(s string) { set[strings.Trim(s, "{}")] = true })
			}
		})
		for prefix, words := range settersOf {
			if slices.ContainsFunc(words, func(word string) bool { return bytes.Contains(text, []byte(word)) }) {
				setPrefixes = append(setPrefixes, prefix)
			}
		}
		named, err := InJSON(text)
		if err != nil {
			return nil, err
		}
		names = append(names, named...)
	}
	return Filter(names, func(name string) bool {
		return !set[name] && !hasPrefix(name, setPrefixes...) && (!others || strings.HasPrefix(name, "http."))
	})
}

// settersOf has, for the prefix of a placeholder, the words of a configuration that set
// such placeholders.
var settersOf = map[string][]string{
	"http.auth.user.":   {`"authentication"`},
	"http.regexp.":      {`_regexp"`, `"expression"`},
	"http.matchers.":    {`"file"`},
	"http.url_pattern.": {`"url_pattern"`},
}

// Filter returns the names for which MustLookUp and of hold, without repetitions.
func Filter(names []string, of func(name string) bool) (need []string, err error) {
	for _, name := range names {
		if !of(name) {
			continue
		}
		yes, err := MustLookUp(name)
		if err != nil {
			return nil, err
		}
		if yes {
			need = append(need, name)
		}
	}
	slices.Sort(need)
	return slices.Compact(need), nil
}

// SetsVar reports whether a handler in the configurations sets the variable.
func SetsVar(texts []json.RawMessage, variable string) (sets bool) {
	for _, text := range texts {
		var v any
		if json.Unmarshal(text, &v) != nil {
			continue
		}
		EachObject(v, func(handler map[string]any) {
			if handler["handler"] == "vars" && handler[variable] != nil {
				sets = true
			}
		})
	}
	return sets
}
