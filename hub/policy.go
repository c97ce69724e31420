// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"log/slog"
	"time"
)

// A Policy is everything a configuration says about one endpoint, compiled. It
// is immutable once it is given to Hub.Use; each configuration generation has
// its own, and each agent an atomic pointer to the one that holds for it.
type Policy struct {
	// Mount names the endpoint over all generations of the configuration: when
	// a generation goes, its agents move to the newest Policy of their Mount.
	Mount string
	// Heartbeat is how often an agent is sent a sign of life. Silence from it
	// for two of them ends the session. Default: 25s.
	Heartbeat time.Duration
	// Handshake is how long a session may live without /meta/connect.
	// Default: 10s.
	Handshake time.Duration
	// Grace is how long a right is relied on while the gate that governs it cannot
	// find out: since a reload, where another gate has given it, or since it was
	// asked again. Default: 60s.
	Grace time.Duration
	// Limits bound what comes from outside; its zero fields are defaults.
	Limits Limits
	// Gates decides; nil allows everything.
	Gates Gates
	// Admission says who may stay that comes from another generation; nil is
	// everybody. It is compared with ==.
	Admission Admission
	// Log is where the endpoint's log goes; nil is nowhere.
	Log *slog.Logger
}

// The defaults of Policy.
const (
	DefaultHeartbeat = 25 * time.Second // below the 30 s at which the first proxies lose patience
	DefaultHandshake = 10 * time.Second
	// DefaultGrace outlasts a backend's restart: one that is away for ten seconds
	// must not log everyone out.
	DefaultGrace = 60 * time.Second
)

func (p *Policy) withDefaults() *Policy {
	c := *p
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.Handshake <= 0 {
		c.Handshake = DefaultHandshake
	}
	if c.Grace <= 0 {
		c.Grace = DefaultGrace
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.WithDefaults()
	return &c
}

// gate returns what is to be asked, nil for nothing.
func (p *Policy) gate(name GateName, channel string) Gate {
	if p.Gates == nil {
		return nil
	}
	return p.Gates.Gate(name, channel)
}

// gateOf is gate for what an agent asked for; a Refusal is an answer already.
func (p *Policy) gateOf(o *op) (Gate, *Refusal) {
	if p.Gates != nil && o.gate == GateSubscribe && IsPattern(o.channel) {
		return p.Gates.Pattern(o.channel)
	}
	return p.gate(o.gate, o.channel), nil
}

// Limits bound what agents can make the server hold and do. A field that is 0
// has its default; Unlimited, where a field allows it, is no limit.
type Limits struct {
	// MessageSize is the most bytes of one frame (one JSON object) of an agent.
	// Default: 64 KiB.
	MessageSize int
	// CredentialsSize is the most bytes of the credentials of /meta/connect, as
	// JSON. Default: 16 KiB.
	CredentialsSize int
	// NameLength is the most bytes of a channel's name. Default and most: 255.
	NameLength int
	// ChannelsPerAgent is the most subscriptions of an agent. Default: 128.
	ChannelsPerAgent int
	// Channels is the most channels and patterns of the hub that have
	// subscribers. Default: 1,000,000.
	Channels int
	// Agents is the most sessions of the hub. Default: 100,000.
	Agents int
	// AgentsPerIP is the most sessions of one address (IPv6: one /64).
	// Default: 2,000. An office of a thousand people with two pages each stays
	// below that; a script that opens session after session does not get on.
	// Behind a proxy that Caddy's trusted_proxies does not name, all visitors
	// have the proxy's address.
	AgentsPerIP int
	// UnconnectedPerIP is the most sessions of one address (IPv6: one /64) that
	// have not been allowed to connect yet. Default: 256.
	UnconnectedPerIP int
	// QueueMessages and QueueBytes are the most that waits for an agent that
	// reads slowly; over either it is closed with CloseSlow.
	// Defaults: 1,024 and 1 MiB.
	QueueMessages, QueueBytes int
	// FramesPerSecond bounds what an agent sends, of any kind; bursts of five
	// seconds' worth are let through, over that it is closed with CloseLimit.
	// Default: 100.
	FramesPerSecond int
	// PublishesPerSecond bounds what an agent publishes; bursts of five seconds'
	// worth are let through, over that a publish is refused with CodeLimit.
	// Default: 50.
	PublishesPerSecond int
}

// Unlimited is no limit, for the limits that allow it: AgentsPerIP,
// UnconnectedPerIP, Agents, Channels, FramesPerSecond, PublishesPerSecond.
const Unlimited = -1

// DefaultLimits are the limits that hold where nothing else is said.
var DefaultLimits = Limits{
	MessageSize:        64 << 10,
	CredentialsSize:    16 << 10,
	NameLength:         MaxNameLength,
	ChannelsPerAgent:   128,
	Channels:           1_000_000,
	Agents:             100_000,
	AgentsPerIP:        2000,
	UnconnectedPerIP:   256,
	QueueMessages:      1024,
	QueueBytes:         1 << 20,
	FramesPerSecond:    100,
	PublishesPerSecond: 50,
}

// WithDefaults returns l with each field that is 0 at its default.
func (l Limits) WithDefaults() Limits {
	d := DefaultLimits
	for _, f := range []struct {
		to   *int
		from int
	}{
		{&d.MessageSize, l.MessageSize},
		{&d.CredentialsSize, l.CredentialsSize},
		{&d.NameLength, l.NameLength},
		{&d.ChannelsPerAgent, l.ChannelsPerAgent},
		{&d.Channels, l.Channels},
		{&d.Agents, l.Agents},
		{&d.AgentsPerIP, l.AgentsPerIP},
		{&d.UnconnectedPerIP, l.UnconnectedPerIP},
		{&d.QueueMessages, l.QueueMessages},
		{&d.QueueBytes, l.QueueBytes},
		{&d.FramesPerSecond, l.FramesPerSecond},
		{&d.PublishesPerSecond, l.PublishesPerSecond},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	return d
}

// FrameSize is the most bytes a frame may have for any purpose: what a transport
// needs to bound its reads.
func (l Limits) FrameSize() int { return max(l.MessageSize, l.CredentialsSize+connectOverhead) }

// connectOverhead is what /meta/connect needs around its credentials.
const connectOverhead = 1 << 10

// GateName names a point where policy is asked.
type GateName string

// The gates.
const (
	GateConnect     GateName = "connect"
	GateSubscribe   GateName = "subscribe"
	GateUnsubscribe GateName = "unsubscribe"
	GatePublish     GateName = "publish"
	GateDeliver     GateName = "deliver"
	GateDisconnect  GateName = "disconnect"
)

// Gates finds the gate that governs. Its methods are called on hot paths, from
// many goroutines, with no lock held: they must not block.
type Gates interface {
	// Gate returns what decides at the named gate (any but deliver) for a
	// channel, and nil where nothing is to be asked: it is allowed then. For
	// connect and disconnect the channel is empty. It is asked for patterns only
	// at unsubscribe.
	Gate(name GateName, channel string) Gate
	// Pattern returns what decides about a subscription to a pattern: a Gate, nil
	// where nothing is to be asked, or a Refusal where patterns are not for
	// subscribing.
	Pattern(pattern string) (Gate, *Refusal)
	// DeliverGate returns what stands before the delivery of each message of a
	// channel, nil for nothing.
	DeliverGate(channel string) DeliverGate
}

// A Gate decides. Decide may block, honors ctx, holds no lock, is called
// concurrently. When ctx ends first, when it panics, the answer is unavailable.
type Gate interface {
	// Timeout bounds one question.
	Timeout() time.Duration
	Decide(ctx context.Context, q *Question) Verdict
}

// A LocalGate may say that its answer comes from within this process and takes
// no time worth a goroutine: it is asked where the question arises then.
type LocalGate interface {
	Gate
	Local() bool
}

// A DeliverGate stands between a message and one agent. Deliver is local and
// fast: it returns what to deliver, m itself or one like it, or nil to drop it
// silently. It is called with no lock held, concurrently.
type DeliverGate interface {
	Deliver(a *Agent, m *Message) *Message
}

// A Question is what a gate is asked.
type Question struct {
	Gate    GateName
	Agent   *Agent
	Channel string   // a name, or a pattern when Pattern
	Pattern bool     // only at subscribe and unsubscribe
	Message *Message // only at publish
	// Credentials of /meta/connect, as JSON: at connect those it came with, else
	// those the agent is connected with. Never logged.
	Credentials []byte
	// Identity is what the connect gate learned of the agent; at connect, what it
	// learned the last time. Never nil.
	Identity *Identity

	within context.Context //nolint:containedctx // has the span that it is asked in; may be nil
	early  func(Verdict)   // gives the verdict before Decide returns; nil if nobody waits for one
}

// CanAnswerEarly reports whether AnswerEarly has an effect: whether the gate is asked in
// a goroutine of its own, which may hang.
func (q *Question) CanAnswerEarly() bool { return q.early != nil }

// AnswerEarly gives the verdict before Decide returns. A gate calls it when its time is
// over while its goroutine still waits for something that ignores its context. Only the
// first verdict counts, so Decide may return anything afterwards.
func (q *Question) AnswerEarly(v Verdict) {
	if q.early != nil {
		q.early(v)
	}
}

// A Verdict is a gate's answer: a nil Refusal allows.
type Verdict struct {
	Refusal *Refusal
	// Overflow says of a Refusal that nothing was asked, because too much waited to
	// be.
	Overflow bool
	// Identity is what a connect gate learned; nil is nothing.
	Identity *Identity
	// Subscribe is what a connect gate subscribes the agent to at once: no other
	// gate is asked.
	Subscribe []string
	// Publish is what a publish gate made of the message; nil leaves it as it is.
	Publish *Publishing
	// Expires is when the answer is no longer to be relied on; zero is never. Of
	// connect and subscribe. At the latest then the gate has been asked again, or
	// the right ends.
	Expires time.Time
	// Recheck is how long until the gate is asked again; 0 is never. Of connect
	// and subscribe.
	Recheck time.Duration
}

// Allow is the Verdict that allows.
var Allow = Verdict{}
