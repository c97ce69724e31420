// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// Code says in one word why something was refused. Only CodeDenied, or a
// retry of false, should keep a client from trying again (PROTOCOL.md, R7).
type Code string

// The codes of a refusal.
const (
	CodeDenied      Code = "denied"      // policy said no
	CodeUnavailable Code = "unavailable" // policy could not find out, or the broker is away
	CodeInvalid     Code = "invalid"     // the frame is not what the protocol allows
	CodeLimit       Code = "limit"       // a limit is reached
	CodeExpired     Code = "expired"     // what was once allowed is no longer
)

// CloseCode is the number that a session ends with: in the /meta/close notice
// and in the WebSocket close frame (RFC 6455, section 7.4.2: 4000-4999 are the
// application's).
type CloseCode int

// The close codes. Their last digits follow the HTTP status of the same sense
// where there is one.
const (
	CloseNormal      CloseCode = 1000 // the peer left of its own accord
	CloseInvalid     CloseCode = 4400 // what came was not the protocol
	CloseDenied      CloseCode = 4401 // the connect gate refused
	CloseCut         CloseCode = 4403 // policy ended a session that was connected
	CloseTimeout     CloseCode = 4408 // no /meta/connect in time, or silence
	CloseEndpoint    CloseCode = 4410 // the endpoint is gone from the configuration
	CloseTooLarge    CloseCode = 4413 // a message over its limit
	CloseLimit       CloseCode = 4429 // too much of something in a time
	CloseSlow        CloseCode = 4430 // the agent reads slower than its channels speak
	CloseUnavailable CloseCode = 4503 // the server is going, or could not find out
)

// NoRetry in a Refusal says that trying again is of no use.
const NoRetry time.Duration = -1

// A Refusal is why something was not done. Reason is shown to the agent: it
// says nothing internal.
type Refusal struct {
	Code   Code
	Reason string
	// Retry is how long to wait before trying again: 0 gives no advice,
	// NoRetry tells not to.
	Retry time.Duration
}

// Error makes a Refusal an error.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Reason }

func refuse(code Code, reason string) *Refusal { return &Refusal{Code: code, Reason: reason} }
