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

// same reports whether i and o, which may be nil, say the same of an agent, however
// long they hold.
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
