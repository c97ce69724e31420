// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package guards is policy: the rules of gates, one file each, how they are
// combined, and which gate governs a channel.
//
// Each guard is a Caddy module in the namespace http.pushit.guards, so that
// others can add theirs. A [Chain] asks the guards of one gate in order; a
// policy, which [Compile] makes, finds the chain that governs. Guards hold no
// lock and know nothing of connections: they see a [Question].
package guards
