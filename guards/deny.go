// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import "context"

// denyAll is the guard of the gates that default deny adds.
type denyAll struct{}

func (denyAll) Decide(context.Context, *Question) Answer { return Answer{Kind: Deny} }
func (denyAll) Local()                                   {}
func (denyAll) Fixed() (Kind, bool)                      { return Deny, true }
func (denyAll) CanApprove() bool                         { return false }
func (denyAll) Fingerprint() []byte                      { return nil }
