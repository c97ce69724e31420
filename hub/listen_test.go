// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math"
	"testing"
)

// TestBacklogLeavesRoom: what is taken of a backlog is in order, leaves room for live
// messages, and is taken again in the same order if it was put back.
func TestBacklogLeavesRoom(t *testing.T) {
	const all, size = 256, 30
	q := queue{limits: &Limits{QueueMessages: 64, QueueBytes: 100 * size}}
	for n := range uint64(all) { // the newest first, and some of them as if they came live
		it := item{bytes: make([]byte, size), msg: &Message{seq: all - n}}
		if n%32 == 0 {
			q.add(it)
		} else {
			q.backlog = append(q.backlog, it)
		}
	}
	q.order()
	if q.count != 0 || q.bytes != 0 {
		t.Fatalf("a backlog of %d messages counts as %d with %d bytes", len(q.backlog), q.count, q.bytes)
	}
	next := uint64(1)
	for again := false; !q.isEmpty(); again = !again {
		items := *q.take(math.MaxInt)
		if len(items) > 16 || !q.fits(size) {
			t.Fatalf("%d messages are taken at once; room for another: %t", len(items), q.fits(size))
		}
		if again {
			q.putBack(items)
			continue
		}
		for _, it := range items {
			if it.msg.seq != next {
				t.Fatalf("number %d, want %d", it.msg.seq, next)
			}
			next++
		}
		q.release(len(items), len(items)*size)
	}
	if next != all+1 || q.count != 0 || q.bytes != 0 {
		t.Errorf("%d messages came, %d with %d bytes are left", next-1, q.count, q.bytes)
	}
}
