// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Caller is what the server knows about the client that makes a request.
type Caller struct {
	// Scheme and Host are those of the site, as trusted proxies report them. Host has the
	// port if the request named one. Origins are compared with them.
	Scheme, Host string
	// User is the user that the server authenticated, or empty.
	User string
	// Certificate is a hash of the client's certificate, empty without one.
	Certificate string
}

// An owner identifies the client that a fallback session belongs to. Other clients that
// use the session's name are told that it does not exist. Names are part of URLs, and URLs
// get into logs, so a name alone must not be enough.
type owner [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (o owner) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, o[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *owner) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err == nil && len(b) != len(o) {
		err = errors.New("an owner has another length")
	}
	copy(o[:], b)
	return err
}

// A claimant is the client that makes a request with the name of a fallback session.
type claimant struct {
	r      *http.Request // only its header is used
	caller Caller
	cross  string // the request's origin, if it is another site's
}

// opener returns the client that opened a session.
func opener(o *hub.Opened) claimant {
	r := &http.Request{Header: make(http.Header)}
	for name, value := range o.Fields {
		switch name {
		case "Authorization", "Cookie", "Origin":
			r.Header.Add(name, value)
		}
	}
	cross := r.Header.Get("Origin")
	own, isOrigin := parseOrigin(o.Scheme() + "://" + o.Host())
	if key, ok := parseOrigin(cross); ok && isOrigin && key == own {
		cross = ""
	}
	return claimant{r: r, caller: Caller{Scheme: o.Scheme(), Host: o.Host(), User: o.User(), Certificate: o.Certificate()}, cross: cross}
}

// owner identifies c with the help of these cookies. It keeps a hash, not the secrets
// themselves.
func (c *claimant) owner(cookies []string) owner {
	b := make([]byte, 0, 512)
	part := func(s string) { b = append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...) }
	list := func(values []string) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(values)))
		for _, v := range values {
			part(v)
		}
	}
	part(c.caller.Scheme)
	part(c.caller.Host)
	part(c.cross)
	part(c.caller.User)
	part(c.caller.Certificate)
	list(c.r.Header["Authorization"])
	for _, name := range cookies {
		if name == stickyCookie {
			continue // the endpoint sets it in the answer to the first request
		}
		list(c.cookie(name))
	}
	return sha256.Sum256(b)
}

// cookie returns the values of all cookies of that name.
func (c *claimant) cookie(name string) (values []string) {
	for _, cookie := range c.r.CookiesNamed(name) {
		values = append(values, cookie.Value)
	}
	return values
}

// refuseClaim logs a request that may not use the session it names, if only the session
// cookies differ. Most likely the application has renewed one of them.
func (e *Endpoint) refuseClaim(s *session, by *claimant) {
	if len(e.SessionCookies) == 0 {
		return
	}
	c := by.claim(e.SessionCookies)
	if differ := s.differing(&c); len(differ) > 0 {
		e.logDiffering(differ)
	}
}

// logDiffering logs that these session cookies kept a request out. The log gets their names,
// never their values.
func (e *Endpoint) logDiffering(cookies []string) {
	left, ok := e.renewed.Take(time.Now())
	if !ok {
		return
	}
	e.Policy.Log.Info("a request was refused, because session cookies differ from those that opened the session",
		"cookies", cookies,
		"likely_cause", "the application renews the cookie: in session_cookies, name only cookies whose value stays the same for the whole login",
		"left_out", left)
}
