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

// The kinds of answers. Abstain is the zero value, so a guard that says nothing allows
// nothing.
const (
	Abstain     Kind = iota // ask the next guard
	Pass                    // approves; ask the next guard
	Allow                   // allow, and ask no further guard
	Deny                    // refuse, and ask no further guard
	Unavailable             // the guard cannot decide: refuse, but only for now
)

// String returns the word for k in logs and explanations.
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
	// Reason is what the agent is told when Kind is Deny or Unavailable. It must not show
	// anything internal, and must not depend on whether a channel exists. If it is empty,
	// the agent is told a general reason.
	Reason string
	// Retry tells the agent when to try again after Unavailable. 0 is the default, one
	// second.
	Retry time.Duration
	// Expired says of a Deny that what the agent presented was valid before.
	Expired bool
	// Invalid says of a Deny at publish that the data is wrong, not the agent.
	Invalid bool
	// Learned is what the guard found out. It counts if Kind is Pass or Allow.
	Learned Learned
	// Err is the cause, for the operator's log. The agent does not see it.
	Err error
}

// Learned is what a guard found out. What the connect gate learns is stored with the
// agent. What another gate learns holds only for the guards behind, in that gate.
type Learned struct {
	// User is the agent's user, "" if the guard does not know it. If several guards know
	// one, the one with the greatest UserBy counts, and the first among equals. If the
	// site itself has authenticated a user, that one counts instead.
	User string
	// UserBy says how the guard knows.
	UserBy UserSource
	// Claims and Attributes are merged into those already learned, key by key.
	Claims, Attributes map[string]any
	// Header is set on the requests that later guards see.
	Header []hub.HeaderField
	// Grants are channels and patterns for the guard granted. Subscribe are those to
	// subscribe the agent to at once. Both count only at connect.
	Grants, Subscribe []string
	// Expires is when the answer ends; zero is never. The earliest of several counts.
	Expires time.Time
	// Channels, Data and Drop are for publish: the channels to publish to, the data to
	// publish, and whether to publish nothing.
	Channels []string
	Data     []byte
	Drop     bool
}

// A UserSource is how a guard knows a user. The greatest counts.
type UserSource uint8

// The sources of users.
const (
	UserByAnswer UserSource = iota // the answer to ask, and guards of other packages
	UserByToken                    // a token's claim
	UserByHeader                   // user_header of forward_auth
	UserByLogin                    // a login by one of Caddy's directives, in route or at connect
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

// mergeMaps returns a with b merged into it. It changes neither, because cached answers
// share them.
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

// A Guard is one rule of a gate. Decide may block. It must honor ctx, must not hold
// locks, and is called concurrently. It must not keep or change q.
type Guard interface {
	Decide(ctx context.Context, q *Question) Answer
}

// A Local guard answers from within this process, in microseconds, or a few milliseconds
// at most. It is asked in the goroutine where the question arises. Other guards are asked
// in goroutines of their own, with a deadline, and cannot be used in deliver. A guard
// that is also Remote is not Local.
type Local interface{ Local() }

// A Remote guard asks something outside this process.
type Remote interface{ Remote() }

// A Fixed guard always gives the same answer, so guards behind an allow or deny of that
// kind are never asked.
type Fixed interface {
	// Fixed returns the kind of the answer. ok is false if the answer depends on the
	// question.
	Fixed() (kind Kind, ok bool)
}

// isFixed reports whether g always gives an answer of the same kind, which is one of these.
func isFixed(g Guard, one, other Kind) bool {
	f, ok := g.(Fixed)
	if !ok {
		return false
	}
	kind, fixed := f.Fixed()
	return fixed && (kind == one || kind == other)
}

// A Bounded guard gives only some kinds of answers. With that, a gate that can never
// allow is found when the configuration is read. A guard that is not Bounded may give all
// kinds.
type Bounded interface {
	// CanApprove reports whether it may answer Pass or Allow.
	CanApprove() bool
}
