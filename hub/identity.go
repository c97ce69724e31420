// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"reflect"
	"slices"
	"time"
)

// An Identity is what the connect gate learned of an agent. It is immutable: a
// refresh replaces it whole.
type Identity struct {
	// User is who the agent is, where the server itself had authenticated nobody;
	// empty when nobody knows.
	User string
	// Claims and Attributes are what tokens and backends said of the user.
	Claims, Attributes map[string]any
	// Header is what the gate set on the request that later gates see.
	Header []HeaderField
	// Grants are channels and patterns that the gate granted.
	Grants []string
	// Expires is when this is no longer to be relied on; zero is never.
	Expires time.Time
}

// same reports whether i and o, which may be nil, say the same of an agent. For
// how long is no matter.
func (i *Identity) same(o *Identity) bool {
	if o == nil {
		o = noIdentity
	}
	return i.User == o.User && slices.Equal(i.Header, o.Header) && slices.Equal(i.Grants, o.Grants) &&
		sameMap(i.Claims, o.Claims) && sameMap(i.Attributes, o.Attributes)
}

func sameMap(a, b map[string]any) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }

// A HeaderField is a header field.
type HeaderField struct{ Name, Value string }

// A Publishing is what the publish gate made of a message.
type Publishing struct {
	// Channels are where it goes, in place of its own channel; nil is its own.
	Channels []string
	// Data is what goes there in place of what was sent; nil is as sent.
	Data []byte
	// Discard says that it goes nowhere; it is acknowledged all the same.
	Discard bool
}

// A Sender is who published a message.
type Sender struct {
	User string // empty when nobody knows
	UUID string // the agent's
}

// noIdentity is that of an agent of which nothing was learned.
var noIdentity = new(Identity)

// expiryLead is how long before an answer's end its gate is asked again: a tenth
// of its life, but no longer than this.
const expiryLead = 30 * time.Second

// longest is as good as never: what a clock can still be added to.
const longest = 100 * 365 * 24 * time.Hour

// A validity is how long an answer of a gate may be relied on. Times are of the
// schedule's clock; zero is never.
type validity struct {
	due  time.Duration // when to ask again
	ends time.Duration // when it ends, whatever has been asked
	by   Fingerprint   // of the gate that gave it
	// grace says that another gate governs since a reload, which has not answered
	// yet; ready, that it is time to ask it.
	grace, ready bool
}

// validFor returns the validity of a verdict that was given now, by a gate of that
// fingerprint.
func (a *Agent) validFor(v *Verdict, by Fingerprint) (val validity) {
	now := a.hub.schedule.now()
	val.by = by
	if v.Recheck > 0 {
		val.due = now + v.Recheck
	}
	if !v.Expires.IsZero() {
		life := min(max(time.Until(v.Expires), 0), longest)
		val.ends = now + life
		if ask := val.ends - min(life/10, expiryLead); val.due == 0 || ask < val.due {
			val.due = ask
		}
	}
	return val
}

// next returns the earlier time at which something is to be done; zero is never.
func (val validity) next() time.Duration {
	switch {
	case val.due == 0:
		return val.ends
	case val.ends == 0:
		return val.due
	default:
		return min(val.due, val.ends)
	}
}

// passed reports whether t has come; zero never does.
func passed(t, now time.Duration) bool { return t != 0 && t <= now }
