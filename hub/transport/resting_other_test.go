// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package transport

func (c *wsConn) isResting() bool { return false }
