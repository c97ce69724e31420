// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "bytes"

const (
	// maxHeld and maxHeldBytes bound the frames that wait for the answer to
	// /meta/connect; then reading stops.
	maxHeld      = 32
	maxHeldBytes = 256 << 10
	// refreshesPerSecond bounds refreshes of the connect, with a burst of five: each
	// asks the gates of all subscriptions again.
	refreshesPerSecond = 1
)

// An inbox is what an agent's frames are counted and held in.
type inbox struct {
	agent *Agent // whose it is; immutable

	// Owned by who handles frames: the goroutine that calls Receive, and while
	// frames are held, the one that decides the connect.
	frames, publishes, refreshes bucket
	bytes                        int64

	held *heldFrames // nil unless the answer to /meta/connect is awaited; guarded by Agent.mu
}

// heldFrames are frames that wait, in order.
type heldFrames struct {
	frames [][]byte
	bytes  int
}

// add keeps a copy of frame, unless too much is held.
func (h *heldFrames) add(frame []byte) bool {
	if len(h.frames) >= maxHeld || h.bytes+len(frame) > maxHeldBytes {
		return false
	}
	h.frames = append(h.frames, bytes.Clone(frame))
	h.bytes += len(frame)
	return true
}

// take takes the first frame; nil if there is none.
func (h *heldFrames) take() []byte {
	if len(h.frames) == 0 {
		return nil
	}
	frame := h.frames[0]
	h.frames[0] = nil
	h.frames = h.frames[1:]
	h.bytes -= len(frame)
	return frame
}

// hold keeps the frame for later if the answer to /meta/connect is awaited, and
// blocks while too much is held. It reports whether the frame is dealt with.
func (box *inbox) hold(frame []byte) bool {
	a := box.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.in.held != nil && a.state < stateClosing {
		if a.in.held.add(frame) {
			return true
		}
		a.cond.Wait()
	}
	return a.state >= stateClosing
}

// releaseHeld handles the frames that were held, in order, until none is left.
func (box *inbox) releaseHeld() {
	a := box.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.in.held != nil && a.state == stateConnected {
		frame := a.in.held.take()
		if frame == nil {
			break
		}
		a.cond.Broadcast()
		a.mu.Unlock()
		a.in.handle(frame)
		a.mu.Lock()
	}
	a.in.held = nil
	a.cond.Broadcast()
}
