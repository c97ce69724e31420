// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package guards decides who may do what: the guards, one file each, how a gate combines
// them, and which gate governs a channel.
//
// Each guard is a Caddy module in the namespace http.pushit.guards, so other packages can
// add guards. A [Chain] is a gate: it asks its guards in order. A [Policy], which
// [Compile] makes, finds the gate that governs. Guards hold no locks and know nothing of
// connections: they answer a [Question].
//
// Where things are: backend.go asks backends for the guards ask, forward_auth and route,
// and backend_answer.go turns the status of an answer into a decision. Below
// guards/internal, expr has CEL, token has JSON Web Tokens, upstream has the requests to
// backends, their queue and their cache, and placeholder has the names and checks of
// placeholders.
//
// The package is larger than 3,500 lines because each guard is a Caddy module whose
// exported type, documentation and Caddyfile syntax belong in one package and one
// namespace.
package guards
