// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// Code says in one word why something was refused. A client may try again, except
// after CodeDenied or a retry of false (PROTOCOL.md, R7).
type Code string

// The codes of a refusal.
const (
	CodeDenied      Code = "denied"      // a gate refused
	CodeUnavailable Code = "unavailable" // a gate could not decide, or the broker does not answer
	CodeInvalid     Code = "invalid"     // the frame breaks the protocol
	CodeLimit       Code = "limit"       // a limit is reached
	CodeExpired     Code = "expired"     // a lease or a credential has expired
	CodeMissing     Code = "missing"     // nobody has the channel, see Delivery.Existing
	// CodeTooLarge is CodeLimit for a message of a program, because HTTP has a status for
	// it. Agents never get it.
	CodeTooLarge Code = "too_large"
)

// CloseCode is the number that a session ends with. It stands in the /meta/close notice
// and in the WebSocket close frame (RFC 6455, section 7.4.2, leaves 4000-4999 to the
// application).
type CloseCode int

// The close codes. Their last digits are those of the HTTP status with the same
// meaning, where there is one.
const (
	CloseNormal      CloseCode = 1000 // the peer left
	CloseInvalid     CloseCode = 4400 // the peer broke the protocol
	CloseDenied      CloseCode = 4401 // the connect gate refused
	CloseCut         CloseCode = 4403 // a reload or a gate ended a connected session
	CloseTimeout     CloseCode = 4408 // no /meta/connect in time, or no sign of life
	CloseEndpoint    CloseCode = 4410 // the configuration has no such endpoint any more
	CloseTooLarge    CloseCode = 4413 // a frame exceeded its limit
	CloseLimit       CloseCode = 4429 // a limit, such as a rate, was exceeded
	CloseSlow        CloseCode = 4430 // the agent's queue exceeded its limits: it reads too slowly
	CloseUnavailable CloseCode = 4503 // the server stops, a gate could not decide, or messages were lost
)

// NoRetry in a Refusal tells the client not to try again.
const NoRetry time.Duration = -1

// A Refusal says why something was not done. The agent sees Reason, so it must not
// reveal internals.
type Refusal struct {
	Code   Code
	Reason string
	// Retry is how long to wait before trying again. 0 gives no advice; NoRetry says
	// not to try again.
	Retry time.Duration
}

// Error makes a Refusal an error.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Reason }

func refuse(code Code, reason string) *Refusal { return &Refusal{Code: code, Reason: reason} }
