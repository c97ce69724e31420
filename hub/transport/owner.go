// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"

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

// openerOf is ownerOf for the request that opened a session.
func (e *Endpoint) openerOf(o *hub.Opening) owner {
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
	return e.ownerOf(r, Caller{Scheme: o.Scheme, Host: o.Host, User: o.User, Certificate: o.Certificate}, cross)
}

// ownerOf tells whose a request is. cross is its origin if that is another
// site's. Of what is secret only a hash is kept.
func (e *Endpoint) ownerOf(r *http.Request, c Caller, cross string) (o owner) {
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
	part(c.Scheme)
	part(c.Host)
	part(cross)
	part(c.User)
	part(c.Certificate)
	list(r.Header["Authorization"])
	for _, name := range e.SessionCookies {
		if name == stickyCookie {
			continue // set here, between the first request and the second
		}
		var values []string
		for _, cookie := range r.CookiesNamed(name) {
			values = append(values, cookie.Value)
		}
		list(values)
	}
	h.Sum(o[:0])
	return o
}
