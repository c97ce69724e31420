// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
)

// transports returns the FastCGI transports in the handlers of a route.
func transports(h caddyhttp.MiddlewareHandler) (found []*fastcgi.Transport) {
	switch h := h.(type) {
	case *caddyhttp.Subroute:
		for _, route := range h.Routes {
			for _, in := range route.Handlers {
				found = append(found, transports(in)...)
			}
		}
	case *reverseproxy.Handler:
		if t, ok := h.Transport.(*fastcgi.Transport); ok {
			found = append(found, t)
		}
	}
	return found
}

// A FastCGI server that hangs does not hold a place forever, wherever a guard asks it.
func TestFastCGIIsBoundedInRoutes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"route {\nphp_fastcgi unix//run/php.sock\n}":                                                 30 * time.Second,
		"route {\nreverse_proxy unix//run/app.sock {\ntransport fastcgi\n}\n}":                       30 * time.Second,
		"route {\nreverse_proxy unix//run/app.sock {\ntransport fastcgi {\nread_timeout 3s\n}\n}\n}": 3 * time.Second,
	} {
		found := transports(remoteGuardOf(t, "%s", text).(*Route).handler)
		if len(found) == 0 {
			t.Errorf("%s: no FastCGI transport", text)
		}
		for _, f := range found {
			if got := time.Duration(f.ReadTimeout); got != want || f.WriteTimeout == 0 {
				t.Errorf("%s: waits %v to read, %v to write; want %v", text, got, time.Duration(f.WriteTimeout), want)
			}
		}
	}
}
