// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "sync"

const (
	// joinSize is the most that one write joins. Beyond it, another system call costs
	// little compared with the copying.
	joinSize = 64 << 10
	// blockingJoinSize is joinSize for a Conn that may block. It is smaller because bytes
	// that a Conn has taken cannot be withdrawn when a reload revokes a subscription. TLS
	// makes records of this size, so larger writes would save nothing.
	blockingJoinSize = 16 << 10
)

// A joinBuffer holds the bytes of one write.
type joinBuffer struct {
	bytes []byte
	ends  []int // the end of each item in bytes
}

// Join buffers are pooled by size, so that a write that blocks holds a buffer only about
// as large as what it writes.
var (
	joinSizes = [...]int{1 << 10, 4 << 10, blockingJoinSize, joinSize}
	joinPools [len(joinSizes)]sync.Pool
)

// getJoin returns an empty buffer for about size bytes.
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
	if cap(b.bytes) > 2*joinSize { // leave what one large message needed to the garbage collector
		return
	}
	class := len(joinSizes) - 1
	for class > 0 && joinSizes[class] > cap(b.bytes) {
		class--
	}
	b.bytes, b.ends = b.bytes[:0], b.ends[:0]
	joinPools[class].Put(b)
}

// wrote notes that the Conn took n bytes. It returns how many items it took, whole or in
// part, and keeps the missing rest of the item that it took in part.
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
