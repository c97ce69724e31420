// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package statuspage serves the status page of an endpoint: its files, and the state of the
// hub that it shows. Whoever calls it has asked the gate debug before.
package statuspage

import (
	"context"
	"embed"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/assets"
)

//go:embed site
var site embed.FS

// files are the files of the page, by name. They do not change after the package is
// initialized.
var files = assets.Load(site, "site")

// policy is the Content-Security-Policy of the page: its own files and the endpoint, and
// nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// A Page is the status page of an endpoint.
type Page struct {
	hub     *hub.Hub
	reading atomic.Int32 // requests for the state
	turn    *turn        // of reading it
	read    func(context.Context, *hub.Hub, *query) (*state, error)

	mu    sync.Mutex // guards known; a leaf
	known map[query]*reading
}

// New returns the page of an endpoint of h.
func New(h *hub.Hub) *Page {
	return &Page{hub: h, turn: newTurn(), read: readState, known: make(map[query]*reading)}
}

// Serve answers a GET or HEAD of a file of the page. name is its path below that of the page,
// with a slash; empty for the page itself. o is that of the request.
func (p *Page) Serve(w http.ResponseWriter, r *http.Request, name string, o *hub.Opening) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy)
	f := files[strings.TrimPrefix(name, "/")]
	if name == "" {
		f = files["index.html"]
	}
	switch {
	case f != nil && name != "/index.html": // the page has one address
		// Whoever asks again passes the gate again, also if nothing has changed.
		f.Serve(w, r, "private, no-cache")
	case name == "/state":
		p.serveState(w, r, o)
	case name == "/":
		to := "../debug" // the path in front is not known here, because a handler may have stripped a part
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		h.Set("Location", to)
		w.WriteHeader(http.StatusPermanentRedirect)
	default:
		fail(w, http.StatusNotFound, "The status page has no such file.")
	}
}

func fail(w http.ResponseWriter, status int, sentence string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(sentence + "\n")) //nolint:gosec // G705: a sentence of our own, as plain text
}
