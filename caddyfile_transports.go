// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub/transport"
)

const (
	// maxSessionCookies bounds the work for each request.
	maxSessionCookies = 16
	// maxCookieName exceeds the length of usual names.
	maxCookieName = 128
)

// transportSubdirectives returns the subdirectives of pushit that are about transports.
func transportSubdirectives() []subdirective {
	return []subdirective{
		{name: "transports", parse: func(p *parser) error {
			return p.list(&p.handler.Transports, "websocket xhr", "a transport", checkTransport)
		}},
		{name: "session_cookies", parse: func(p *parser) error {
			if err := p.list(&p.handler.SessionCookies, "sessionid", "a cookie's name", checkCookieName); err != nil {
				return err
			}
			if err := checkSessionCookies(p.handler.SessionCookies); err != nil {
				return p.Errf("%v", err)
			}
			return nil
		}},
		{name: "compression", parse: func(p *parser) error { return flag("compression", &p.handler.Compression).parse(p) }},
	}
}

// list reads the arguments of a subdirective. Errors call each argument what.
func (p *parser) list(to *[]string, example, what string, check func(string) error) error {
	word := p.Val()
	if p.CountRemainingArgs() == 0 {
		return p.missing(word, example)
	}
	for p.NextArg() {
		value := p.Val()
		if value == "" {
			return p.empty(what)
		}
		if err := check(value); err != nil {
			return p.WrapErr(err)
		}
		if slices.Contains(*to, value) {
			return p.Errf("%s: %s is given twice", word, value)
		}
		*to = append(*to, value)
	}
	return p.noBlock(word)
}

// checkTransports requires that each name is a transport, and is given once.
func checkTransports(names []string) error {
	for i, name := range names {
		if err := checkTransport(name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("transports: %s is given twice", name)
		}
	}
	return nil
}

func checkTransport(name string) error {
	if slices.Contains(transport.AllTransports, name) {
		return nil
	}
	return fmt.Errorf("transports: there is no transport %q; %s", name, guards.Instead(name, transport.AllTransports))
}

func checkSessionCookies(names []string) error {
	if len(names) > maxSessionCookies {
		return fmt.Errorf("session_cookies: %d cookies are named; at most %d are allowed", len(names), maxSessionCookies)
	}
	for _, name := range names {
		if err := checkCookieName(name); err != nil {
			return err
		}
	}
	return nil
}

// checkCookieName requires a token of RFC 9110, as RFC 6265, section 4.1.1, says.
func checkCookieName(name string) error {
	if name == "" {
		return errors.New("session_cookies: a cookie's name is empty")
	}
	if len(name) > maxCookieName {
		return fmt.Errorf("session_cookies: a cookie's name has at most %d bytes", maxCookieName)
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("!#$%&'*+-.^_`|~", c):
		case strings.ContainsRune("{}", c):
			return fmt.Errorf("session_cookies: placeholders are not expanded in the name %q; write an environment variable as {$NAME}", name)
		default:
			return fmt.Errorf("session_cookies: %q is not the name of a cookie: %q cannot be in one", name, c)
		}
	}
	return nil
}
