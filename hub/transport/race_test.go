// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package transport

// raceEnabled: the race detector makes sync.Pool drop things at random.
const raceEnabled = true
