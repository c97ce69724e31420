// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package transport

// Readers do not rest on this system: a goroutine waits for each.
var resting restingReaders

type (
	restingReaders struct{}
	restingPlace   struct{}
)

func (*restingReaders) enter() {}

func (*restingReaders) leave() {}

func (c *wsConn) rest() bool { return false }

func (c *wsConn) wake() {}
