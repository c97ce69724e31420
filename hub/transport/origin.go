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

// nullOrigin is what browsers call the origin of a page that has none: a
// sandboxed frame, a local file.
const nullOrigin = "null"

// maxOrigin bounds what is looked at: a scheme, a host name of 253 bytes and a
// port fit well.
const maxOrigin = 512

// Origins are origins whose pages may use an endpoint besides those of its own
// site. A nil *Origins has none.
type Origins struct {
	listed map[string]struct{} // as parseOrigin returns them, or nullOrigin
}

// ParseOrigins reads a list of origins as "https://example.com" or
// "https://example.com:8443"; "null" lists the pages that have no origin. Its
// errors say what to write instead.
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

// has reports whether an origin, as parseOrigin returns it, is listed.
func (o *Origins) has(key string) bool {
	if o == nil {
		return false
	}
	_, ok := o.listed[key]
	return ok
}

// check applies the origin rule to a request to the site scheme://host: a page
// of that site may, a page of a listed origin may, a request that no other
// site's page has made may. cross is the origin if it is a listed one of another
// site, which is what CORS has to allow. Browsers write Origin and
// Sec-Fetch-Site themselves; pages cannot.
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
	// Some libraries send the scheme of the WebSocket itself. No page of another site
	// can: browsers write what they write.
	if http, isWebSocket := strings.CutPrefix(key, "ws"); isWebSocket {
		if own, ok := parseOrigin(scheme + "://" + host); ok {
			if key, ok = parseOrigin("http" + http); ok && own == key {
				return "", true
			}
		}
	}
	return "", false
}

// likelyCause says why a page may have been refused, for who reads the log.
func likelyCause(origin, scheme, host string) string {
	key, ok := parseOrigin(origin)
	own, okOwn := parseOrigin(scheme + "://" + host)
	switch {
	case origin == "":
		return "a browser says that a page of another site asks: list its origin in origins, if it may"
	case !ok || !okOwn:
		return "the Origin is not that of a web page"
	case key[strings.Index(key, "://"):] == own[strings.Index(own, "://"):]:
		return "only the scheme differs: a proxy in front ends TLS and is not in trusted_proxies, so that its X-Forwarded-Proto is not believed"
	default:
		return "list it in origins if its pages may use this endpoint; if it is this site's own, a proxy in front changes Host, or is not in trusted_proxies"
	}
}

// Admit applies the origin rule to a session that is there, by what is kept of the
// request that opened it.
func (o *Origins) Admit(opening *hub.Opening) bool {
	h := make(http.Header, 2)
	for name, value := range opening.Fields {
		if name == "Origin" || name == "Sec-Fetch-Site" {
			h[name] = append(h[name], value)
		}
	}
	_, allowed := o.check(h, opening.Scheme, opening.Host)
	return allowed
}

// refers applies the origin rule by Referer, for what a page can ask for without
// Origin and have run, scripts and frames: over plain HTTP, but for localhost,
// browsers send Sec-Fetch-Site with none of that. A page can keep its Referer from
// being sent, so there must be one.
func (o *Origins) refers(h http.Header, scheme, host string) bool {
	if len(h["Origin"]) > 0 || len(h["Sec-Fetch-Site"]) > 0 {
		return true // check has looked at them
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

// parseOrigin returns the one form of an origin that equal origins share: lower
// case, without the scheme's own port, IPv6 addresses in their shortest form.
// What is not exactly scheme://host[:port], and a host that ends in a dot, is
// none: the browser counts that dot as another site.
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

// validScheme goes by RFC 3986, section 3.1, for lower case.
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

// splitPort cuts the port off, which is a number as browsers write it. Without
// a port it is empty.
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
