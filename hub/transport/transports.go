// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
	"slices"
	"strings"
)

// The last segments of paths that no framing has.
const (
	webSocket = "websocket"
	xhrSend   = "xhr_send"
	jsonpSend = "jsonp_send"
)

// AllTransports are the names of all transports, in the order in which a client
// does best to try them.
var AllTransports = []string{webSocket, "xhr_streaming", "xhr", "eventsource", "htmlfile", "jsonp"}

// DefaultTransports are those that are served where nothing else is said.
// htmlfile and jsonp, for browsers of before 2012, have scripts of the client's
// choice come from the site.
var DefaultTransports = Transports{webSocket, "xhr_streaming", "xhr", "eventsource"}

// Transports are the transports that an endpoint serves: some of AllTransports.
type Transports []string

func (e *Endpoint) transports() Transports {
	if e.Transports == nil {
		return DefaultTransports
	}
	return e.Transports
}

// serves reports whether requests to that transport, or to send for one that is
// served, are answered. What has none is.
func (t Transports) serves(name string) bool {
	switch name {
	case "":
		return true
	case xhrSend:
		return slices.ContainsFunc(t, func(name string) bool { return name != webSocket && name != "jsonp" })
	case jsonpSend:
		return slices.Contains(t, "jsonp")
	}
	return slices.Contains(t, name)
}

// list returns them in the order of AllTransports.
func (t Transports) list() []string {
	list := make([]string, 0, len(t))
	for _, name := range AllTransports {
		if slices.Contains(t, name) {
			list = append(list, name)
		}
	}
	return list
}

// instead says what there is in place of a transport that is not served.
func (t Transports) instead() *httpError {
	list := t.list()
	last := len(list) - 1
	names := list[last]
	if last > 0 {
		names = strings.Join(list[:last], ", ") + " or " + names
	}
	return &httpError{http.StatusNotFound, "This transport is not served: use " + names + "."}
}
