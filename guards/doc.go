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
// # Words
//
//	guard    one rule of a gate, such as user, jwt or forward_auth
//	Kind     what a guard answers in one word: Abstain, Pass, Allow, Deny or Unavailable
//	Answer   a Kind, with its reason and what the guard learned, such as the user
//	outcome  an Answer from a backend, with what its caching depends on
//	Verdict  what a Chain makes of its guards' Answers for the hub
//	verb     changes a message after the guards allow it, such as to or transform
//
// # Where to find what
//
//   - The status of a backend: ForwardAuth.ask in forward_auth.go passes a 2xx, and kindOf
//     in backend_answer.go gives the Kind of each other status, also for the guards ask and
//     route. Chain.ask in chain.go asks the guards in order, and Chain.explain in chain.go
//     makes the [hub.Verdict]: with Answer.verdict if they refuse, with Chain.allowed if
//     they allow.
//   - Requests to backends: backend.go, for forward_auth, ask and route. Their queue and
//     their cache are in guards/internal/upstream.
//   - The contract that guards fulfil: [Guard] in guard.go. load.go makes guards of JSON,
//     and verbs.go has the verbs.
//   - The choice of the gate: Policy.Find in policy.go.
//   - CEL is in guards/internal/expr, JSON Web Tokens are in guards/internal/token, and the
//     names and checks of placeholders in guards/internal/placeholder.
//
// The package is larger than 3,500 lines because each guard is a Caddy module whose
// exported type, documentation and Caddyfile syntax belong in one package and one
// namespace.
package guards
