// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"reflect"
	"slices"
	"time"
)

// An Identity is what the connect gate learned about an agent. It is immutable: a refresh
// replaces it.
type Identity struct {
	// User is the user's name according to the gate, or empty. It counts only if the
	// server itself authenticated no user; see Agent.User.
	User string
	// Claims come from tokens, Attributes from backends.
	Claims, Attributes map[string]any
	// Header has the fields that the gate set on the request that later gates see.
	Header []HeaderField
	// Grants are the channels and patterns that the gate granted.
	Grants []string
	// Expires is when the identity is no longer valid; zero is never.
	Expires time.Time
}

// same reports whether i and o describe the same agent. It ignores when they expire. o may
// be nil.
func (i *Identity) same(o *Identity) bool {
	if o == nil {
		o = noIdentity
	}
	return i.User == o.User && slices.Equal(i.Header, o.Header) && slices.Equal(i.Grants, o.Grants) &&
		sameMap(i.Claims, o.Claims) && sameMap(i.Attributes, o.Attributes)
}

func sameMap(a, b map[string]any) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }

// A HeaderField is a name and a value of an HTTP header.
type HeaderField struct{ Name, Value string }

// A Publishing says how a publish gate changed a message.
type Publishing struct {
	// Channels are the channels to publish on; nil means the message's own.
	Channels []string
	// Data replaces the message's data; nil keeps it.
	Data []byte
	// Discard publishes the message nowhere. It is acknowledged all the same.
	Discard bool
}

// A Sender is the publisher of a message.
type Sender struct {
	User string // empty if unknown
	UUID string // the agent's
}

// noIdentity is the identity of an agent about which the connect gate learned nothing.
var noIdentity = new(Identity)
