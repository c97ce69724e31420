// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package wireclient has a client for each way to reach an endpoint: [WebSocket], and
// [Fallback] for the other transports of SockJS. Tests and measurements use it; servers
// do not.
//
// The clients know frames, but not their contents. They are small, because measurements
// need thousands of them. They hide no errors: a failed request is an error, or is
// repeated and counted.
package wireclient
