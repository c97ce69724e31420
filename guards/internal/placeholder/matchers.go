// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"

	"github.com/push-it/pushit/hub"
)

// A session does not store everything that its request had. A matcher of what is missing
// would match never, or always. This file finds such matchers when the configuration is
// read, so that no policy relies on them. Matchers of other packages are not checked.

// CheckMatchers returns what the matchers read that some sessions lack. The error is
// about what all sessions lack.
func CheckMatchers(sets []caddy.ModuleMap) (r Reads, err error) {
	err = checkSets(sets, &r)
	return r, err
}

func checkSets(sets []caddy.ModuleMap, r *Reads) error {
	for _, set := range sets {
		if len(set) == 0 {
			return errors.New("an empty matcher matches everything; if you want that, leave it out")
		}
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if err := checkMatcher(name, set[name], r); err != nil {
				return fmt.Errorf("matcher %s: %w", name, err)
			}
		}
	}
	return nil
}

// checkMatcher checks one matcher, given as JSON.
func checkMatcher(name string, raw json.RawMessage, r *Reads) error {
	info, err := caddy.GetModule("http.matchers." + name)
	if err != nil {
		return err
	}
	switch module := info.New(); module.(type) {
	case *caddyhttp.MatchNot:
		return decoded(raw, func(not *caddyhttp.MatchNot) error { return checkSets(not.MatcherSetsRaw, r) })
	case *caddyhttp.MatchRemoteIP:
		r.remoteAddr = true
		return decoded(raw, func(m *caddyhttp.MatchRemoteIP) error { return notEmpty(len(m.Ranges), "addresses") })
	case *caddyhttp.MatchClientIP:
		r.clientIP = true
		return decoded(raw, func(m *caddyhttp.MatchClientIP) error { return notEmpty(len(m.Ranges), "addresses") })
	case *caddyhttp.MatchHost:
		return decoded(raw, func(m *caddyhttp.MatchHost) error { return checkTexts(*m, "hosts", r) })
	case *caddyhttp.MatchPath:
		return decoded(raw, func(m *caddyhttp.MatchPath) error { return checkTexts(*m, "paths", r) })
	case *caddyhttp.MatchQuery:
		return decoded(raw, func(m *caddyhttp.MatchQuery) error { return checkLists(*m, r) })
	case *caddyhttp.MatchHeader:
		return decoded(raw, func(m *caddyhttp.MatchHeader) error { return checkHeader(*m, r) })
	case *caddyhttp.MatchHeaderRE:
		return decoded(raw, func(m *caddyhttp.MatchHeaderRE) error {
			for field := range *m {
				if err := checkField(field); err != nil {
					return err
				}
			}
			return notEmpty(len(*m), "fields")
		})
	case *caddyhttp.VarsMatcher:
		return decoded(raw, func(m *caddyhttp.VarsMatcher) error { return checkVars(*m, r) })
	case *caddyhttp.MatchVarsRE:
		return decoded(raw, func(m *caddyhttp.MatchVarsRE) error {
			for name := range *m {
				if err := checkVariable(name, r); err != nil {
					return err
				}
				if err := checkText(name, r); err != nil {
					return err
				}
			}
			return notEmpty(len(*m), "variables")
		})
	case *fileserver.MatchFile:
		return decoded(raw, func(m *fileserver.MatchFile) error { return checkFile(m, r) })
	case *caddyhttp.MatchMethod:
		return errors.New("sessions do not store the method of the request that opened them")
	case *caddyhttp.MatchProtocol:
		return decoded(raw, func(m *caddyhttp.MatchProtocol) error { return checkProtocol(string(*m)) })
	case *caddyhttp.MatchTLS:
		return decoded(raw, func(m *caddyhttp.MatchTLS) error {
			if m.HandshakeComplete != nil && !*m.HandshakeComplete {
				return errEarlyData
			}
			return nil
		})
	case *caddyhttp.MatchExpression:
		expr, err := exprOf(raw)
		if err != nil {
			return err
		}
		return checkExpressionMatcher(expr, r)
	}
	return nil
}

// exprOf returns the expression of a matcher given as JSON: a string, or an object.
// Caddy's own decoder panics if a field of the object is missing.
func exprOf(raw json.RawMessage) (expr string, err error) {
	if err := json.Unmarshal(raw, &expr); err == nil {
		return expr, nil
	}
	var m struct{ Expr, Name *string }
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	if m.Expr == nil || m.Name == nil {
		return "", errors.New(`write it as a string, or as an object with "expr" and "name"`)
	}
	return *m.Expr, nil
}

func checkHeader(header caddyhttp.MatchHeader, r *Reads) error {
	if err := notEmpty(len(header), "fields"); err != nil {
		return err
	}
	for field := range header {
		if err := checkField(field); err != nil {
			return err
		}
	}
	return checkLists(header, r)
}

func checkVars(vars caddyhttp.VarsMatcher, r *Reads) error {
	for name := range vars {
		if err := checkVariable(name, r); err != nil {
			return err
		}
	}
	if err := notEmpty(len(vars), "variables"); err != nil {
		return err
	}
	return checkLists(vars, r)
}

// decoded decodes raw and calls check with the result.
func decoded[M any](raw json.RawMessage, check func(*M) error) error {
	m := new(M)
	if err := json.Unmarshal(raw, m); err != nil {
		return err
	}
	return check(m)
}

// notEmpty refuses matchers that have nothing to match. Some of them would match nothing,
// some everything.
func notEmpty(n int, what string) error {
	if n == 0 {
		return fmt.Errorf("it has no %s; is an environment variable not set?", what)
	}
	return nil
}

func checkTexts(texts []string, what string, r *Reads) error {
	for _, text := range texts {
		if err := checkText(text, r); err != nil {
			return err
		}
	}
	return notEmpty(len(texts), what)
}

func checkLists(lists map[string][]string, r *Reads) error {
	for name, texts := range lists {
		if err := checkText(name, r); err != nil {
			return err
		}
		for _, text := range texts {
			if err := checkText(text, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkText checks the placeholders of a text.
func checkText(text string, r *Reads) error {
	for _, name := range In(text) {
		if err := CheckInMatcher(name, r); err != nil {
			return err
		}
	}
	return nil
}

// remembered are the prefixes of Caddy's placeholders whose values do not come from the
// request, or that sessions store.
var remembered = []string{
	"env.", "file.", "system.", "time.",
	"http.request.host", "http.request.port", "http.request.scheme", "http.request.uri", "http.request.orig_uri",
	"http.request.cookie.", "http.regexp.", "http.url_pattern.", "http.matchers.",
}

// CheckInMatcher refuses a placeholder that has no value in a session, or always the
// same.
func CheckInMatcher(name string, r *Reads) error {
	switch field, isField := strings.CutPrefix(name, "http.request.header."); {
	case isField && strings.EqualFold(field, "Host"):
		return fmt.Errorf("{%s} is empty; write {http.request.hostport}", name)
	case isField:
		return checkField(field)
	case strings.HasPrefix(name, "http.request.remote"):
		r.remoteAddr = true
		return nil
	case name == "http.vars."+caddyhttp.ClientIPVarKey:
		r.clientIP = true
		return nil
	case strings.HasPrefix(name, Prefix):
		return CheckName(name)
	case name == "http.auth.user.id", hasPrefix(name, remembered...):
		return nil
	}
	switch need, err := MustLookUp(name); {
	case err != nil:
		return err
	case need:
		r.LookedUp = append(r.LookedUp, name)
		return nil
	}
	return fmt.Errorf("sessions do not store the value of {%s}", name)
}

// checkField refuses header fields that sessions do not store.
func checkField(field string) error {
	if IsDropped(field) && !strings.EqualFold(field, "Host") {
		return fmt.Errorf("sessions do not store the header field %s, because it belongs to the connection or to one exchange", field)
	}
	return nil
}

// checkVariable checks a variable, which handlers before pushit set. Its name may be a
// placeholder.
func checkVariable(name string, r *Reads) error {
	if strings.HasPrefix(name, "{") {
		return nil
	}
	need, err := MustLookUp(VarsPrefix + name)
	if need {
		r.LookedUp = append(r.LookedUp, VarsPrefix+name)
	}
	return err
}

var errEarlyData = errors.New("early_data never matches: no session is opened with early data")

func checkFile(m *fileserver.MatchFile, r *Reads) error {
	if m.Root == "" {
		return errors.New("sessions do not store what the directive root sets; write it here: file { root /srv }")
	}
	return checkTexts(slices.Concat([]string{m.Root, m.FileSystem}, m.TryFiles), "files", r)
}

func checkProtocol(protocol string) error {
	if protocol == "http" || protocol == "https" {
		return nil
	}
	return fmt.Errorf("%s never matches: sessions store only http or https", protocol)
}

// What to look for in CEL expressions of Caddy's. A parser could not find more than names
// either, because values may be computed.
var (
	exprString      = regexp.MustCompile(`'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"`)
	exprPlaceholder = regexp.MustCompile(`\{([a-zA-Z][\w.-]+)\}`) // as Caddy finds them
	exprCall        = regexp.MustCompile(`\b(\w+)\s*\(`)
	exprProtocol    = regexp.MustCompile(`\bprotocol\s*\(\s*['"]([^'"]*)['"]`)
)

// callsIn returns the names of the functions that an expression calls.
func callsIn(expr string) (names []string) {
	for _, call := range exprCall.FindAllStringSubmatch(exprString.ReplaceAllString(expr, "''"), -1) {
		names = append(names, call[1])
	}
	return names
}

// CallsFile reports whether an expression of Caddy's, given as JSON, looks at files.
func CallsFile(raw json.RawMessage) bool {
	expr, err := exprOf(raw)
	return err != nil || slices.Contains(callsIn(expr), "file")
}

// checkExpressionMatcher checks an expression of Caddy's, which has a function for each
// matcher.
func checkExpressionMatcher(expr string, r *Reads) error {
	for _, m := range exprPlaceholder.FindAllStringSubmatch(expr, -1) {
		if err := CheckInMatcher(m[1], r); err != nil {
			return err
		}
	}
	texts := exprString.FindAllString(expr, -1)
	for _, name := range callsIn(expr) {
		var err error
		switch name {
		case "remote_ip":
			r.remoteAddr = true
		case "client_ip":
			r.clientIP = true
		case "method":
			err = checkMatcher(name, nil, r)
		case "vars", "vars_regexp":
			err = fmt.Errorf("%s(): write the placeholder itself, for example {http.request.host} == 'example.com'", name)
		case "protocol":
			for _, m := range exprProtocol.FindAllStringSubmatch(expr, -1) {
				err = errors.Join(err, checkProtocol(m[1]))
			}
		case "tls":
			if strings.Contains(expr, "early_data") {
				err = errEarlyData
			}
		case "header", "header_regexp":
			for _, text := range texts {
				err = errors.Join(err, checkField(strings.Trim(text, `'"`)))
			}
		case "file":
			if !slices.ContainsFunc(texts, func(t string) bool { return strings.Trim(t, `'"`) == "root" }) {
				err = errors.New("file(): write the root, for example file({'root': '/srv', 'try_files': ['/open']})")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Reads says what matchers read that some sessions lack. A matcher takes a missing
// address for one that does not match, so a rule that denies would let the agent pass.
type Reads struct {
	remoteAddr bool // the address of the connection
	clientIP   bool // the address of the client, as Caddy resolved it
	// LookedUp are placeholders that are looked up when a session opens.
	LookedUp []string
}

// Missing returns an error if a session lacks something of r.
func (r Reads) Missing(o *hub.Opened) error {
	for _, name := range r.LookedUp {
		if err := Lacks(o, name); err != nil {
			return err
		}
	}
	if r.clientIP && !o.RemoteIP().IsValid() {
		return errors.New("the client's address is unknown: the request came through a unix socket, and trusted_proxies is not set")
	}
	if r.remoteAddr {
		address := RemoteAddr(o)
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return errors.New("the connection has no address: it is a unix socket; match client_ip instead")
		}
	}
	return nil
}

// RemoteAddr returns the address of the other end of the connection that the session was
// opened with. If a proxy is in between, that is the proxy's.
func RemoteAddr(o *hub.Opened) string {
	address := o.RemoteAddr()
	if address == "" {
		if ip := o.RemoteIP(); ip.IsValid() {
			return net.JoinHostPort(ip.String(), "0")
		}
	}
	return address
}

// dropped are header fields that sessions do not store. They belong to the connection or
// to the exchange (RFC 9110), or they name another method or target than the request has,
// which some backends believe.
var dropped = []string{
	"Accept-Encoding", "Alt-Svc", "Connection", "Early-Data", "Expect", "Http2-Settings", "Incremental", "Keep-Alive",
	"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range",
	"X-Http-Method", "X-Http-Method-Override", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
}

// IsDropped reports whether sessions do not store a header field.
func IsDropped(name string) bool {
	name = http.CanonicalHeaderKey(name)
	return strings.HasPrefix(name, "Sec-Websocket-") || strings.HasPrefix(name, "Content-") || strings.HasPrefix(name, ":") ||
		slices.Contains(dropped, name)
}
