// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
	"slices"
	"strings"
)

// The last segments of paths to transports that framings does not have.
const (
	webSocket   = "websocket"
	xhrSend     = "xhr_send"
	jsonpSend   = "jsonp_send"
	eventStream = "sse"
)

// AllTransports are the names of all transports. A client should try those that carry frames
// in both directions in this order. The last one, sse, only carries messages to agents.
var AllTransports = []string{webSocket, "xhr_streaming", "xhr", "eventsource", "htmlfile", "jsonp", eventStream}

// DefaultTransports are the transports that an Endpoint serves by default. htmlfile and
// jsonp are not among them: they are for browsers from before 2012, and let a client choose
// which function a script from this site calls.
var DefaultTransports = Transports{webSocket, "xhr_streaming", "xhr", "eventsource", eventStream}

// Transports are the names of transports that an Endpoint serves, from AllTransports.
type Transports []string

func (e *Endpoint) transports() Transports {
	if e.Transports == nil {
		return DefaultTransports
	}
	return e.Transports
}

// serves reports whether the endpoint answers requests to a path with that last segment.
// xhr_send and jsonp_send are answered if a transport that uses them is served. A path
// without a transport has the empty name, and is always answered.
func (t Transports) serves(name string) bool {
	switch name {
	case "":
		return true
	case xhrSend:
		return slices.ContainsFunc(t, func(name string) bool { return name != webSocket && name != "jsonp" && name != eventStream })
	case jsonpSend:
		return slices.Contains(t, "jsonp")
	}
	return slices.Contains(t, name)
}

// list returns those that carry frames in both directions, in the order of AllTransports.
func (t Transports) list() []string {
	list := make([]string, 0, len(t))
	for _, name := range AllTransports {
		if name != eventStream && slices.Contains(t, name) {
			list = append(list, name)
		}
	}
	return list
}

// instead says which transports to use in place of one that is not served.
func (t Transports) instead() *httpError {
	list := t.list()
	if len(list) == 0 {
		list = []string{eventStream}
	}
	last := len(list) - 1
	names := list[last]
	if last > 0 {
		names = strings.Join(list[:last], ", ") + " or " + names
	}
	return &httpError{http.StatusNotFound, "This transport is not served: use " + names + "."}
}
