// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package wireclient has a client for each way to reach an endpoint: [WebSocket], and
// [Fallback] for the other transports of SockJS. Tests and measurements build on it; no
// server does.
//
// The clients know frames, not what is in them. They are small, because measurements
// need thousands of them, and they hide nothing: a request that failed is an error, or
// is counted and made again.
package wireclient
