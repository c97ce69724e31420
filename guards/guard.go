// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Kind is what a guard answers.
type Kind uint8

// The kinds of answers. Abstain is the zero value: a guard that says nothing
// allows nothing.
const (
	Abstain     Kind = iota // ask the next guard
	Pass                    // approves; ask the next guard
	Allow                   // allowed, whatever the guards behind would say
	Deny                    // refused, whatever the guards behind would say
	Unavailable             // could not find out: refused, but not for good
)

// String returns the word for it, as logs and explanations have it.
func (k Kind) String() string {
	switch k {
	case Abstain:
		return "abstain"
	case Pass:
		return "pass"
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	default:
		return "unavailable"
	}
}

// An Answer is a guard's answer.
type Answer struct {
	Kind Kind
	// Reason is shown to the agent when Kind is Deny or Unavailable: it says
	// nothing internal, and is the same whether or not a channel exists. Empty
	// is a general one.
	Reason string
	// Retry is advice for Unavailable: 0 is the default, one second.
	Retry time.Duration
	// Expired says of a Deny that what was presented was valid once.
	Expired bool
	// Invalid says of a Deny at publish that the data is at fault, not the agent.
	Invalid bool
	// Learned is what was found out; it counts when Kind is Pass or Allow.
	Learned Learned
	// Err is why, for the operator's log; the agent does not see it.
	Err error
}

// Learned is what a guard found out. At the connect gate it sticks to the agent;
// at the others it holds for the guards behind, in that gate.
type Learned struct {
	// User is who the agent is, "" if the guard does not know. When several guards
	// know, UserBy decides, and the first of equal ones; nobody counts if the
	// server itself had authenticated somebody.
	User string
	// UserBy says how the guard knows.
	UserBy UserSource
	// Claims and Attributes are added to what is there, key by key.
	Claims, Attributes map[string]any
	// Header is set on the request that later guards see.
	Header []hub.HeaderField
	// Grants are channels and patterns for the guard granted, Subscribe what to
	// subscribe to at once. Both only from connect.
	Grants, Subscribe []string
	// Expires is when this is no longer to be relied on; zero is never. The
	// earliest counts.
	Expires time.Time
	// Channels, Data and Drop are of a publish: where to, what, and not at all.
	Channels []string
	Data     []byte
	Drop     bool
}

// A UserSource is how a guard knows a user; the greatest counts.
type UserSource uint8

// The sources of users.
const (
	UserByAnswer UserSource = iota // the answer to ask, and guards of others
	UserByToken                    // a token's claim
	UserByHeader                   // user_header of forward_auth
	UserByLogin                    // a login of Caddy's in route, or at connect
)

// merge adds what another guard learned.
func (l *Learned) merge(o *Learned) {
	if o.User != "" && (l.User == "" || o.UserBy > l.UserBy) {
		l.User, l.UserBy = o.User, o.UserBy
	}
	l.Claims = mergeMaps(l.Claims, o.Claims)
	l.Attributes = mergeMaps(l.Attributes, o.Attributes)
	l.Header = slices.Concat(l.Header, o.Header)
	l.Grants = slices.Concat(l.Grants, o.Grants)
	l.Subscribe = slices.Concat(l.Subscribe, o.Subscribe)
	if !o.Expires.IsZero() && (l.Expires.IsZero() || o.Expires.Before(l.Expires)) {
		l.Expires = o.Expires
	}
	if o.Channels != nil {
		l.Channels = o.Channels
	}
	if o.Data != nil {
		l.Data = o.Data
	}
	l.Drop = l.Drop || o.Drop
}

// mergeMaps returns a with b added; neither is changed, since answers are cached
// and shared.
func mergeMaps(a, b map[string]any) map[string]any {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	a = maps.Clone(a)
	maps.Copy(a, b)
	return a
}

// A Guard is one rule of a gate. Decide may block, honors ctx, holds no lock and
// is called concurrently. It neither keeps nor changes q.
type Guard interface {
	Decide(ctx context.Context, q *Question) Answer
}

// A Local guard answers from within this process, at once: in microseconds, or a
// few milliseconds at most. It is asked where the question arises. All others
// are asked in goroutines of their own, with a deadline, and cannot stand before
// deliveries. A guard that is also Remote is not Local.
type Local interface{ Local() }

// A Remote guard asks something outside this process.
type Remote interface{ Remote() }

// A Fixed guard always answers the same: nothing behind an allow or deny of that
// kind is ever asked.
type Fixed interface {
	// Fixed returns the answer's kind; ok is false if it depends on the question.
	Fixed() (kind Kind, ok bool)
}

// A Bounded guard can only answer some kinds, which lets a gate that can never
// allow be found when it is written. A guard that is not Bounded may answer all.
type Bounded interface {
	// CanApprove reports whether it may answer Pass or Allow.
	CanApprove() bool
}
