// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package transport

// An idleWait does not wait.
type idleWait struct{}

func (*idleWait) wait() {}
