// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

// A Fingerprint identifies everything that a gate's answers depend on in the
// configuration: its rules, and the keys, environment variables and backend settings that
// they use. Two gates with the same Fingerprint answer a question alike, even if they
// belong to different generations. The empty Fingerprint equals no Fingerprint, not even
// itself.
type Fingerprint string

// openFingerprint is the fingerprint where there is no gate and everything is allowed.
const openFingerprint Fingerprint = "open"

// A FingerprintGate has a Fingerprint, so that a reload asks it again only if it has
// changed. A reload treats any other Gate as changed.
type FingerprintGate interface {
	Gate
	Fingerprint() Fingerprint
}

// A FixedGate may report that it gives the same answer to every question.
type FixedGate interface {
	Gate
	Fixed() bool
}

// fingerprintOf returns the fingerprint of g, which may be nil.
func fingerprintOf(g Gate) Fingerprint {
	if g == nil {
		return openFingerprint
	}
	if f, ok := g.(FingerprintGate); ok {
		return f.Fingerprint()
	}
	return ""
}

// is reports whether f and g are equal and known.
func (f Fingerprint) is(g Fingerprint) bool { return f != "" && f == g }

func isFixed(g Gate) bool {
	f, ok := g.(FixedGate)
	return ok && f.Fixed()
}
