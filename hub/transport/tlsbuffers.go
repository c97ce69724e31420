// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// tlsBuffers are the offsets of the buffers in a tls.Conn that hold what has arrived. They grow
// with the largest record, and crypto/tls keeps them as long as the connection: 3.6 KiB after
// the first message of a browser, up to 40 KiB after a large message. There is no other way to
// give them back. If crypto/tls does not have both as it has them today, nothing is touched.
var tlsBuffers = fieldsOf[tls.Conn, bytes.Buffer]("rawInput", "hand")

// fieldsOf returns the offsets of fields of an S that are an F, or nil if one is missing.
func fieldsOf[S, F any](names ...string) (offsets []uintptr) {
	for _, name := range names {
		f, ok := reflect.TypeFor[S]().FieldByName(name)
		if !ok || len(f.Index) != 1 || f.Type != reflect.TypeFor[F]() {
			return nil
		}
		offsets = append(offsets, f.Offset)
	}
	return offsets
}

// dropBuffers frees the empty ones of the buffers for what arrives. An empty bytes.Buffer does
// what a new one does. Only the reader may call it, because nothing but reading uses them.
func dropBuffers(c *tls.Conn) {
	for _, offset := range tlsBuffers {
		b := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), offset)) //nolint:gosec // G103: fieldsOf has checked that the field is one
		if b.Len() == 0 {
			*b = bytes.Buffer{}
		}
	}
}
