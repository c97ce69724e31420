// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "sync"

const (
	// joinSize is how much is joined in one write: beyond it, another system
	// call costs little beside the copying.
	joinSize = 64 << 10
	// blockingJoinSize is joinSize for a Conn that may block: what it was given cannot
	// be taken back when a reload ends the right to it. TLS makes records of this size,
	// so larger writes would save nothing.
	blockingJoinSize = 16 << 10
)

// A joinBuffer is what one write carries.
type joinBuffer struct {
	bytes []byte
	ends  []int // where in bytes each of its items ends
}

// Join buffers are pooled by size: each write under way has one, and a write that
// blocks holds about as much as it writes.
var (
	joinSizes = [...]int{1 << 10, 4 << 10, blockingJoinSize, joinSize}
	joinPools [len(joinSizes)]sync.Pool
)

// getJoin returns an empty buffer for about that many bytes.
func getJoin(size int) *joinBuffer {
	class := 0
	for class < len(joinSizes)-1 && joinSizes[class] < size {
		class++
	}
	if b, ok := joinPools[class].Get().(*joinBuffer); ok {
		return b
	}
	return &joinBuffer{bytes: make([]byte, 0, joinSizes[class])}
}

func putJoin(b *joinBuffer) {
	if cap(b.bytes) > 2*joinSize { // one large message made it so
		return
	}
	class := len(joinSizes) - 1
	for class > 0 && joinSizes[class] > cap(b.bytes) {
		class--
	}
	b.bytes, b.ends = b.bytes[:0], b.ends[:0]
	joinPools[class].Put(b)
}

// wrote notes that n bytes were taken. It returns how many items are done with, and
// keeps what is missing of the item that was taken in part, which is one of them.
func (b *joinBuffer) wrote(n int) (items int) {
	for items < len(b.ends) && b.ends[items] <= n {
		items++
	}
	rest := b.bytes[:0]
	if n > 0 && items < len(b.ends) && (items == 0 || b.ends[items-1] < n) {
		rest = b.bytes[:copy(b.bytes, b.bytes[n:b.ends[items]])]
		items++
	}
	b.bytes, b.ends = rest, b.ends[:0]
	return items
}
