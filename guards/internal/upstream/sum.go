// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"hash"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// A Sum is a hash of what a guard is made of. The zero Sum stands for unknown.
type Sum [sha256.Size]byte

// SumOf returns the sum of a guard's configuration, of the named routes that it invokes,
// and of the environment variables and files that these name. It is zero if the guard may
// decide by more than that.
func SumOf(ctx caddy.Context, id string, raw json.RawMessage) (s Sum) {
	r := ReachOf(ctx, id, raw)
	if !r.Known {
		return s
	}
	h := sha256.New()
	for _, text := range r.Texts {
		if !addText(h, text) {
			return s
		}
	}
	return Sum(h.Sum(nil))
}

// addText adds a configuration, and the variables and files that it names. It returns
// false if the configuration may depend on more.
func addText(h hash.Hash, raw json.RawMessage) (known bool) {
	v, text, err := canonical(raw)
	if err != nil {
		return false // loading it fails, so it does not matter
	}
	Add(h, text)
	names, err := placeholder.InJSON(raw)
	if err != nil {
		return false
	}
	repl := caddy.NewReplacer()
	for _, name := range names {
		if strings.HasPrefix(name, "env.") || strings.HasPrefix(name, "file.") {
			value, _ := repl.GetString(name)
			Add(h, []byte(name+"="+value))
		}
	}
	for _, path := range filesIn(v) {
		Add(h, sumOfFile(path))
	}
	known = true
	placeholder.EachObject(v, func(fields map[string]any) {
		// This names a certificate of Caddy's tls app, which renews it.
		known = known && fields["client_certificate_automate"] == nil
	})
	return known
}

// SumOfText returns the sum of a guard's configuration alone.
func SumOfText(raw json.RawMessage) (s Sum) {
	if _, text, err := canonical(raw); err == nil {
		s = sha256.Sum256(text)
	}
	return s
}

// canonical returns JSON with sorted keys and without white space.
func canonical(raw json.RawMessage) (v any, text []byte, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, nil, err
	}
	text, err = json.Marshal(v)
	return v, text, err
}

// fileFields are settings of Caddy's modules with files that identify us to a backend, or
// a backend to us.
var fileFields = []string{
	"client_certificate_file", "client_certificate_key_file", "pem_files", "root_ca_pem_files",
}

// filesIn returns the files in such settings of a configuration.
func filesIn(v any) (paths []string) {
	placeholder.EachObject(v, func(fields map[string]any) {
		for _, name := range fileFields {
			placeholder.EachString(fields[name], func(path string) { paths = append(paths, path) })
		}
	})
	slices.Sort(paths)
	return slices.Compact(paths)
}

// Add adds text to a hash so that two lists of texts have equal hashes only if they are
// equal.
func Add(h hash.Hash, text []byte) {
	_, _ = io.WriteString(h, strconv.Itoa(len(text))+":") // a hash never fails
	_, _ = h.Write(text)
}

// sumOfFile returns a hash of a file. If it cannot be read, sumOfFile returns the error,
// because the file may be there the next time.
func sumOfFile(path string) []byte {
	f, err := os.Open(path) //nolint:gosec // G304: the operator names it
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close() //nolint:errcheck // it was only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return []byte(err.Error())
	}
	return h.Sum(nil)
}
