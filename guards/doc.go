// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package guards decides who may do what. It has the guards, one file each, how a gate
// combines them, and which gate decides about a channel.
//
// Each guard is a Caddy module in the namespace http.pushit.guards, so other packages can
// add guards. A [Chain] is a gate: it asks its guards in order. A [Policy], made by
// [Compile], finds the gate of a channel. Guards hold no locks and know nothing of
// connections: they answer a [Question].
//
// # Where to find what
//
//   - The status of a backend: ForwardAuth.ask in forward_auth.go passes a 2xx, and kindOf
//     in backend_answer.go decides about each other status, for the guards ask and route,
//     too. A Chain makes a [hub.Verdict] of its guards' answers: see Answer.verdict and
//     Chain.allowed in chain.go.
//   - Requests to backends: backend.go, for forward_auth, ask and route. Their queue and
//     their cache are in guards/internal/upstream.
//   - The choice of the gate: Policy.find in policy.go.
//   - CEL is in guards/internal/expr, JSON Web Tokens are in guards/internal/token, and the
//     names and checks of placeholders in guards/internal/placeholder.
//
// The package is larger than 3,500 lines because each guard is a Caddy module whose
// exported type, documentation and Caddyfile syntax belong in one package and one
// namespace.
package guards
