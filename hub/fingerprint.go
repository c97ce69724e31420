// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

// A Fingerprint stands for all that a gate decides by: its rules, and what they
// were resolved to (keys, environment, the settings of backends). Two gates with
// the same one, of whatever generation of the configuration, answer a question
// alike. The empty one is like no other, itself included.
type Fingerprint string

// openFingerprint is that of a gate where nothing is asked.
const openFingerprint Fingerprint = "open"

// A FingerprintGate tells what it decides by, so that after a reload only what
// has changed is asked again. A Gate that is none is always taken for changed.
type FingerprintGate interface {
	Gate
	Fingerprint() Fingerprint
}

// A FixedGate may say that it always answers the same, whoever asks for whatever.
type FixedGate interface {
	Gate
	Fixed() bool
}

// fingerprintOf returns that of a gate, which may be nil.
func fingerprintOf(g Gate) Fingerprint {
	if g == nil {
		return openFingerprint
	}
	if f, ok := g.(FingerprintGate); ok {
		return f.Fingerprint()
	}
	return ""
}

// is reports whether f and g are known to stand for the same.
func (f Fingerprint) is(g Fingerprint) bool { return f != "" && f == g }

func isFixed(g Gate) bool {
	f, ok := g.(FixedGate)
	return ok && f.Fixed()
}
