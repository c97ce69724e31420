// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package statuspage serves the status page of an endpoint: its files, and the state of the
// hub that it shows. Whoever calls it has asked the gate debug before.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

//go:embed site
var site embed.FS

// A file of the page.
type file struct {
	name, contentType, version string
	content                    []byte
}

// files are the files of the page, by their paths below it. They do not change after the
// package is initialized.
var files = load()

func load() map[string]file {
	types := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
		".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}
	entries, err := site.ReadDir("site")
	if err != nil {
		panic(err) // the files are compiled in
	}
	all := make(map[string]file, len(entries))
	for _, entry := range entries {
		content, err := site.ReadFile("site/" + entry.Name())
		if err != nil {
			panic(err) // likewise
		}
		sum := sha256.Sum256(content)
		where := "/" + entry.Name()
		if where == "/index.html" {
			where = "" // the page itself
		}
		all[where] = file{
			name: entry.Name(), contentType: types[path.Ext(entry.Name())],
			version: hex.EncodeToString(sum[:8]), content: content,
		}
	}
	return all
}

// policy is the Content-Security-Policy of the page: its own files and the endpoint, and
// nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// A Page is the status page of an endpoint.
type Page struct {
	hub     *hub.Hub
	reading atomic.Int32 // requests for the state

	mu    sync.Mutex // guards known; a leaf
	known map[query]*reading
}

// New returns the page of an endpoint of h.
func New(h *hub.Hub) *Page { return &Page{hub: h, known: make(map[query]*reading)} }

// Serve answers a GET or HEAD of a file of the page. name is its path below that of the page,
// with a slash; empty for the page itself. o is that of the request.
func (p *Page) Serve(w http.ResponseWriter, r *http.Request, name string, o *hub.Opening) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy)
	f, ok := files[name]
	switch {
	case ok:
		// Whoever asks again passes the gate again, also if nothing has changed.
		h.Set("Cache-Control", "private, no-cache")
		h.Set("Content-Type", f.contentType)
		h.Set("ETag", `"`+f.version+`"`)
		http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(f.content))
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
