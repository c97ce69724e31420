// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// EntryInSteps applies an entry as Sink.Entry does, and calls between when it is kept but
// not fanned out yet.
func EntryInSteps(h *Hub, seq uint64, at time.Time, m *Message, between func()) {
	h.history.add(seq, at, m)
	between()
	h.fanOut(m)
}
