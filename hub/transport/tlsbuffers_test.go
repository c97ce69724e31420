// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"crypto/tls"
	"testing"
	"unsafe"
)

// bufferedBy returns the size of the buffers that dropBuffers frees.
func bufferedBy(c *tls.Conn) (size int) {
	for _, offset := range tlsBuffers {
		size += (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), offset)).Cap()
	}
	return size
}

// An embedded has a field that is promoted.
type embedded struct{ inner bytes.Buffer }

// TestFieldsThatAreNotWhatTheyWere: if one is missing or has another type, none is touched.
// TestRecordsThatArriveTogether shows that dropBuffers loses nothing that has arrived in part.
func TestFieldsThatAreNotWhatTheyWere(t *testing.T) {
	type other struct {
		buffer bytes.Buffer
		number int
		embedded
	}
	if got := fieldsOf[other, bytes.Buffer]("buffer"); len(got) != 1 {
		t.Errorf("the offsets of a field are %v", got)
	}
	for _, names := range [][]string{{"buffer", "gone"}, {"buffer", "number"}, {"inner"}} {
		if got := fieldsOf[other, bytes.Buffer](names...); got != nil {
			t.Errorf("the offsets of %q are %v, want none", names, got)
		}
	}
}
