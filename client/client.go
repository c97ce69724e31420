// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package client serves the JavaScript client. The sources are in src/; their build is in
// dist/, which this package contains.
package client

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist/pushit.mjs dist/pushit.mjs.map dist/pushit.js dist/pushit.js.map dist/pushit.d.ts
var dist embed.FS

// A file of the client, as it is served.
type file struct {
	name, contentType, version string
	content                    []byte
}

// files are the files of dist, by their paths below an endpoint. They do not change after
// the package is initialized.
var files = load()

func load() map[string]file {
	entries, err := dist.ReadDir("dist")
	if err != nil {
		panic(err) // the files are compiled in
	}
	all := make(map[string]file, len(entries))
	for _, entry := range entries {
		content, err := dist.ReadFile("dist/" + entry.Name())
		if err != nil {
			panic(err) // likewise
		}
		sum := sha256.Sum256(content)
		all["/"+entry.Name()] = file{
			name:        entry.Name(),
			contentType: contentType(entry.Name()),
			version:     hex.EncodeToString(sum[:8]),
			content:     content,
		}
	}
	return all
}

func contentType(name string) string {
	switch path.Ext(name) {
	case ".map":
		return "application/json; charset=utf-8"
	case ".ts":
		return "application/typescript; charset=utf-8"
	}
	return "text/javascript; charset=utf-8"
}

// Version returns the version of the content of a file such as "pushit.mjs". It is the
// file's ETag without the quotes. A request with it in ?v= gets a response that browsers
// may cache for good. Version returns "" if there is no such file.
func Version(name string) string { return files["/"+name].version }

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
	f, ok := files[rest]
	if !ok {
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
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", `"`+f.version+`"`)
	h.Set("Cache-Control", ask)
	if asked := r.URL.Query().Get("v"); asked != "" && strings.Trim(asked, `"`) == f.version {
		h.Set("Cache-Control", keep)
	}
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(f.content))
	return true
}
