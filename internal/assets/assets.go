// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package assets serves files that are compiled in.
package assets

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"time"
)

// types are the Content-Types, by the end of a file's name. The tables of systems differ.
var types = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".map":  "application/json; charset=utf-8",
	".mjs":  "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".ts":   "application/typescript; charset=utf-8",
}

// A File is served as it was compiled in.
type File struct {
	// Version changes with the content. It is the ETag without the quotes.
	Version string

	name    string
	content []byte
}

// Load returns the files in a folder of an embed.FS, by their names. It panics if it cannot
// read them.
func Load(compiled fs.ReadDirFS, dir string) map[string]*File {
	entries, err := compiled.ReadDir(dir)
	if err != nil {
		panic(err)
	}
	all := make(map[string]*File, len(entries))
	for _, entry := range entries {
		content, err := fs.ReadFile(compiled, path.Join(dir, entry.Name()))
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		all[entry.Name()] = &File{Version: hex.EncodeToString(sum[:8]), name: entry.Name(), content: content}
	}
	return all
}

// Serve answers a GET or HEAD. cacheControl is the header field of this name.
func (f *File) Serve(w http.ResponseWriter, r *http.Request, cacheControl string) {
	h := w.Header()
	h.Set("Cache-Control", cacheControl)
	h.Set("Content-Type", types[path.Ext(f.name)])
	h.Set("ETag", `"`+f.Version+`"`)
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(f.content))
}
