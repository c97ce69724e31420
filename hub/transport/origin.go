// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/push-it/pushit/hub"
)

// nullOrigin is the Origin that browsers send for pages without one: sandboxed frames and
// local files.
const nullOrigin = "null"

// maxOrigin is the longest origin, in bytes: a scheme, a host name of 253 bytes and a port
// fit well.
const maxOrigin = 512

// Origins are the other origins whose pages may use an endpoint. Pages of its own site
// always may. A nil *Origins has none.
type Origins struct {
	listed map[string]struct{} // keys of parseOrigin, or nullOrigin
}

// ParseOrigins reads a list of origins such as "https://example.com" or
// "https://example.com:8443". "null" stands for pages without an origin. Its errors say
// what to write instead.
func ParseOrigins(list []string) (*Origins, error) {
	o := &Origins{listed: make(map[string]struct{}, len(list))}
	for _, s := range list {
		key, ok := parseOrigin(s)
		switch {
		case s == nullOrigin:
			key = nullOrigin
		case !ok:
			return nil, originError(s)
		}
		o.listed[key] = struct{}{}
	}
	return o, nil
}

func originError(s string) error {
	const form = "origins take scheme://host[:port] without a path"
	if strings.Contains(s, "*") {
		return fmt.Errorf("origin %q: origins are listed one by one, because their pages act with the visitor's cookies; write https://example.com", s)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		if host, _, _ := strings.Cut(s, "/"); host != "" {
			if key, ok := parseOrigin("https://" + host); ok {
				return fmt.Errorf("origin %q: %s; write %s", s, form, key)
			}
		}
		return fmt.Errorf("origin %q: %s; write https://example.com", s, form)
	}
	for i := range len(rest) {
		if rest[i] >= 0x80 {
			return fmt.Errorf("origin %q: browsers send such a host in its ASCII form; write that, it begins with xn--", s)
		}
	}
	host, _, _ := strings.Cut(rest, "/")
	host = host[strings.LastIndexByte(host, '@')+1:]
	if key, ok := parseOrigin(scheme + "://" + host); ok {
		return fmt.Errorf("origin %q: %s; write %s", s, form, key)
	}
	return fmt.Errorf("origin %q: %s; write https://example.com", s, form)
}

// has reports whether the origin with that key of parseOrigin is listed.
func (o *Origins) has(key string) bool {
	if o == nil {
		return false
	}
	_, ok := o.listed[key]
	return ok
}

// check reports whether a request to the site scheme://host is allowed: if a page of that
// site made it, or a page of a listed origin, or no page. cross is the origin that CORS has
// to allow: a listed one of another site, or empty. Browsers set Origin and Sec-Fetch-Site
// themselves; pages cannot change them.
func (o *Origins) check(h http.Header, scheme, host string) (cross string, allowed bool) {
	origin, ok := h["Origin"]
	if !ok {
		site := h["Sec-Fetch-Site"]
		return "", len(site) == 0 || len(site) == 1 && (site[0] == "none" || site[0] == "same-origin")
	}
	if len(origin) != 1 {
		return "", false
	}
	key, ok := parseOrigin(origin[0])
	if origin[0] == nullOrigin {
		key = nullOrigin
	} else if !ok {
		return "", false
	}
	if own, ok := parseOrigin(scheme + "://" + host); ok && own == key {
		return "", true
	}
	if o.has(key) {
		return origin[0], true
	}
	// Some libraries send an origin with the scheme ws or wss. Browsers never do, so no page
	// of another site can.
	if http, isWebSocket := strings.CutPrefix(key, "ws"); isWebSocket {
		if own, ok := parseOrigin(scheme + "://" + host); ok {
			if key, ok = parseOrigin("http" + http); ok && own == key {
				return "", true
			}
		}
	}
	return "", false
}

// likelyCause says, for the log, why a page may have been refused.
func likelyCause(origin, scheme, host string) string {
	key, ok := parseOrigin(origin)
	own, okOwn := parseOrigin(scheme + "://" + host)
	switch {
	case origin == "":
		return "the browser says that another site's page made the request: list its origin in origins if its pages may use this endpoint"
	case !ok || !okOwn:
		return "the Origin does not belong to a web page"
	case key[strings.Index(key, "://"):] == own[strings.Index(own, "://"):]:
		return "only the scheme differs: a proxy in front ends TLS, and its X-Forwarded-Proto is ignored because it is not in trusted_proxies"
	default:
		return "list it in origins if its pages may use this endpoint; if it is this site's own, a proxy in front changes Host or is not in trusted_proxies"
	}
}

// Admit reports whether a session may stay, judging by the request that opened it.
func (o *Origins) Admit(opening *hub.Opened) bool {
	h := make(http.Header, 2)
	for name, value := range opening.Fields {
		if name == "Origin" || name == "Sec-Fetch-Site" {
			h[name] = append(h[name], value)
		}
	}
	_, allowed := o.check(h, opening.Scheme(), opening.Host())
	return allowed
}

// refers checks the Referer of requests for scripts and frames. A page of another site can
// make and run them, and browsers send no Origin with them, and over plain HTTP no
// Sec-Fetch-Site either, except to localhost. A page can suppress its Referer, so a request
// without one is refused.
func (o *Origins) refers(h http.Header, scheme, host string) bool {
	if len(h["Origin"]) > 0 || len(h["Sec-Fetch-Site"]) > 0 {
		return true // check has judged them
	}
	referer, err := url.Parse(h.Get("Referer"))
	if err != nil {
		return false
	}
	key, ok := parseOrigin(referer.Scheme + "://" + referer.Host)
	if !ok {
		return false
	}
	own, ok := parseOrigin(scheme + "://" + host)
	return ok && own == key || o.has(key)
}

// parseOrigin returns a key that is the same for equal origins: in lower case, without the
// scheme's default port, and with IPv6 addresses in their shortest form. It accepts only
// scheme://host[:port]. It refuses a host that ends in a dot, which browsers treat as
// another site.
func parseOrigin(s string) (key string, ok bool) {
	if len(s) > maxOrigin {
		return "", false
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return "", false
	}
	scheme = strings.ToLower(scheme)
	if !validScheme(scheme) {
		return "", false
	}
	host, port, ok := splitPort(rest)
	if !ok {
		return "", false
	}
	if host, ok = parseHost(host); !ok {
		return "", false
	}
	if port == "" || port == defaultPorts[scheme] {
		return scheme + "://" + host, true
	}
	return scheme + "://" + host + ":" + port, true
}

var defaultPorts = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}

// validScheme reports whether s is a scheme of RFC 3986, section 3.1, in lower case.
func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// splitPort splits a host and a port. The port must be written as browsers write it, and
// is empty if there is none.
func splitPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, "", true
	}
	host, port = s[:i], s[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", "", false
	}
	return host, port, true
}

func parseHost(s string) (host string, ok bool) {
	if in, found := strings.CutPrefix(s, "["); found {
		in, found = strings.CutSuffix(in, "]")
		ip, err := netip.ParseAddr(in)
		if !found || err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", false
		}
		return "[" + ip.String() + "]", true
	}
	if s == "" || strings.HasSuffix(s, ".") {
		return "", false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", false
		}
	}
	return strings.ToLower(s), true
}
