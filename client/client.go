// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package client serves the JavaScript client. The sources are in src/; their build is in
// dist/, which this package contains.
package client

import (
	"embed"
	"net/http"
	"strings"

	"github.com/push-it/pushit/internal/assets"
)

//go:embed dist/pushit.mjs dist/pushit.mjs.map dist/pushit.js dist/pushit.js.map dist/pushit.d.ts
var dist embed.FS

// files are the files of dist, by name. They do not change after the package is initialized.
var files = assets.Load(dist, "dist")

// Version returns the version of the content of a file such as "pushit.mjs". It is the
// file's ETag without the quotes. A request with it in ?v= gets a response that browsers
// may cache for good. Version returns "" if there is no such file.
func Version(name string) string {
	if f := files[name]; f != nil {
		return f.Version
	}
	return ""
}

const (
	// keep is for requests for one version, which never changes.
	keep = "public, max-age=31536000, immutable"
	// ask is for requests for the current version: browsers must ask whether it has
	// changed.
	ask = "no-cache"
)

// Serve answers the request if it is for a file of the client, and reports whether it
// did. rest is the path below the endpoint. Pages of all origins may have the files,
// which are not secret.
func Serve(w http.ResponseWriter, r *http.Request, rest string) bool {
	name, below := strings.CutPrefix(rest, "/")
	f := files[name]
	if f == nil || !below {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusMethodNotAllowed)
		_, _ = w.Write([]byte("This method is not allowed here.\n")) // the client may have left
		return true
	}
	cache := ask
	if asked := r.URL.Query().Get("v"); asked != "" && strings.Trim(asked, `"`) == f.Version {
		cache = keep
	}
	f.Serve(w, r, cache)
	return true
}
