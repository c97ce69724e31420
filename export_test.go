// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
)

// Opening returns what a session at the endpoint of h would keep of r, or why it is
// refused.
func (h *Handler) Opening(r *http.Request) (hub.Opening, *hub.Refusal) { return h.opening(r) }

// Subdirectives returns the names of all options of the directive, sorted.
func Subdirectives() (names []string) {
	for _, s := range subdirectives() {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names
}

// Verbs returns the words in the block of a gate that are not guards, sorted.
func Verbs() []string {
	names := verbNames()
	slices.Sort(names)
	return names
}

// JSONFields returns the names of the fields of a Handler in JSON.
func JSONFields() (names []string) {
	for field := range reflect.TypeFor[Handler]().Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// DefaultOptions returns the defaults of options, as the Caddyfile writes them.
func DefaultOptions() map[string]string {
	var h Handler
	h.withDefaults()
	return map[string]string{
		"path":       h.Path,
		"name":       defaultName,
		"transports": strings.Join(transport.DefaultTransports, " "),
		"heartbeat":  shortDuration(time.Duration(h.Heartbeat)),
		"handshake":  shortDuration(time.Duration(h.Handshake)),
		"grace":      fmt.Sprintf("%ds", int(time.Duration(h.Grace).Seconds())), // the documentation writes seconds
		"drain":      shortDuration(time.Duration(h.Drain)),
	}
}

// ResponseTime returns when a response has to end on a server with that limit.
var ResponseTime = responseTime

// LimitRows returns the limits as rows of a table: name, default, allowed values.
func LimitRows() (rows []string) {
	defaults := Limits(hub.DefaultLimits)
	for i := range limitTable {
		l := &limitTable[i]
		write := strconv.Itoa
		if l.size {
			write = formatSize
		}
		row := fmt.Sprintf("`%s` | `%s` | `%s` to `%s`", l.name, write(*l.field(&defaults)), write(l.min), write(l.max))
		if l.unlimited {
			row += ", or `unlimited`"
		}
		rows = append(rows, row)
	}
	return rows
}
