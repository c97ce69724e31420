// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// An arrival tells how long ago the kernel received what a connection has read last. A
// program that shares the machine with the server may read late; a client on a machine of its
// own would not. If a read returned packets that came at different times, the time is that of
// the last one. The goroutine that reads owns it.
type arrival struct{ ago time.Duration }

// note notes that what is read now was received at a time of the wall clock.
func (a *arrival) note(t time.Time) { a.ago = max(0, time.Since(t)) }
