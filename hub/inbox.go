// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"sync/atomic"
)

const (
	// maxHeld and maxHeldBytes limit the frames that wait for the answer to
	// /meta/connect. Beyond either the hub stops reading from the agent.
	maxHeld      = 32
	maxHeldBytes = 256 << 10
	// refreshesPerSecond limits refreshes of the connect, with a burst of five. The limit
	// is low because each refresh asks the gates of all subscriptions again.
	refreshesPerSecond = 1
	// pagesPerSecond limits the frames that ask for members, with a burst of five seconds'
	// worth. A short frame can ask for a page of 32 KiB. A subscribe that asks for members
	// counts too.
	pagesPerSecond = 10
)

// An inbox counts an agent's frames, limits their rates, and holds them while the agent
// connects. Its methods handle each frame; see receive.go.
type inbox struct {
	agent *Agent // its owner; immutable

	// Owned by the goroutine that handles frames: the one that calls Receive, or while
	// frames are held, the one that applies the verdict on the connect.
	frames, publishes, refreshes, pages bucket
	bytes                               int64

	joining *joining // nil if there is none; owned by the goroutine that calls Receive

	held *heldFrames // nil unless the agent waits for the answer to /meta/connect; guarded by Agent.mu

	listener *Listener // set by Listen, else nil; guarded by Agent.mu

	publisher atomic.Pointer[string] // what publisherOf returned last
}

// heldFrames are the frames that wait, in order.
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

// take removes and returns the first frame, or nil if there is none.
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

// hold keeps the frame for later if the agent waits for the answer to /meta/connect. It
// blocks while too much is held. It returns false if the caller must handle the frame.
func (box *inbox) hold(frame []byte) bool {
	a := box.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	for box.held != nil && a.state < stateClosing {
		if box.held.add(frame) {
			return true
		}
		a.waitLocked()
	}
	return a.state >= stateClosing
}

// releaseHeld handles the held frames in order, until none is left.
func (box *inbox) releaseHeld() {
	a := box.agent
	a.BeginBatch()
	defer a.endBatch()
	a.mu.Lock()
	defer a.mu.Unlock()
	for box.held != nil && a.state == stateConnected {
		frame := box.held.take()
		if frame == nil {
			break
		}
		a.wakeWaitersLocked()
		a.mu.Unlock()
		box.handle(frame, false)
		a.mu.Lock()
	}
	box.held = nil
	a.wakeWaitersLocked()
}
