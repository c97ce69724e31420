// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Caller is who makes a request, as far as it can be told from each request.
type Caller struct {
	// Scheme and Host are of the site, after trusted proxies; Host has the port
	// where the request named one. The request's Origin is compared to them.
	Scheme, Host string
	// User is who the server authenticated, empty when nobody.
	User string
	// Certificate is a hash of the certificate that the client showed, empty where it
	// showed none.
	Certificate string
}

// An owner is whose a fallback session is: requests of others with its name are
// told that there is no such session. Session names are in addresses, and so in
// logs; a name alone is to open nothing.
type owner [sha256.Size]byte

// A claimant is who makes a request with the name of a fallback session.
type claimant struct {
	r      *http.Request // only its header counts
	caller Caller
	cross  string // the request's origin if that is another site's
}

// opener returns who made the request that opened a session.
func opener(o *hub.Opening) claimant {
	r := &http.Request{Header: make(http.Header)}
	for name, value := range o.Fields {
		switch name {
		case "Authorization", "Cookie", "Origin":
			r.Header.Add(name, value)
		}
	}
	cross := r.Header.Get("Origin")
	own, isOrigin := parseOrigin(o.Scheme + "://" + o.Host)
	if key, ok := parseOrigin(cross); ok && isOrigin && key == own {
		cross = ""
	}
	return claimant{r: r, caller: Caller{Scheme: o.Scheme, Host: o.Host, User: o.User, Certificate: o.Certificate}, cross: cross}
}

// owner tells who c is, going by these cookies. Of what is secret only a hash is
// kept.
func (c *claimant) owner(cookies []string) (o owner) {
	h := sha256.New()
	part := func(s string) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		_, _ = h.Write(size[:]) // a hash takes everything
		_, _ = h.Write([]byte(s))
	}
	list := func(values []string) {
		var count [8]byte
		binary.BigEndian.PutUint64(count[:], uint64(len(values)))
		_, _ = h.Write(count[:]) // likewise
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
			continue // set here, between the first request and the second
		}
		list(c.cookie(name))
	}
	h.Sum(o[:0])
	return o
}

// cookie returns the values of the cookies of that name.
func (c *claimant) cookie(name string) (values []string) {
	for _, cookie := range c.r.CookiesNamed(name) {
		values = append(values, cookie.Value)
	}
	return values
}

// refuseClaim logs that a request does not get the session whose name it has, if it
// differs from the one that opened it in nothing but the cookies that tell logins
// apart. Then the application has most likely renewed one of them. The log has their
// names, never their values.
func (e *Endpoint) refuseClaim(s *session, by *claimant) {
	if len(e.SessionCookies) == 0 {
		return
	}
	first := opener(s.agent.Opening())
	if first.owner(nil) != by.owner(nil) {
		return
	}
	var differ []string
	for _, name := range e.SessionCookies {
		if name != stickyCookie && !slices.Equal(first.cookie(name), by.cookie(name)) {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return
	}
	left, ok := e.renewed.Take(time.Now())
	if !ok {
		return
	}
	e.Policy.Log.Info("a request was refused, because session cookies differ from those that its session was opened with",
		"cookies", differ,
		"likely_cause", "the application renews the cookie: in session_cookies, name only cookies whose value stays the same for the whole login",
		"left_out", left)
}
