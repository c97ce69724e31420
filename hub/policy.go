// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"context"
	"log/slog"
	"time"
)

// A Policy is what one generation of the configuration says about one endpoint. It must
// not change after Hub.Use. Each agent has an atomic pointer to its present Policy.
type Policy struct {
	// Mount names the endpoint in all generations of the configuration. When a
	// generation ends, its agents move to the newest Policy of their Mount.
	Mount string
	// Heartbeat is how often the hub sends an agent a sign of life. It closes an agent
	// that was silent for two intervals. Default: 25s.
	Heartbeat time.Duration
	// Handshake is how long a session may live without /meta/connect.
	// Default: 10s.
	Handshake time.Duration
	// Grace is how long a lease goes on while its gate does not answer: since a reload
	// replaced the gate, or since the gate was asked again. Default: 60s.
	Grace time.Duration
	// Limits restrict agents. Fields that are 0 have their defaults.
	Limits Limits
	// Gates finds the gates; nil allows everything.
	Gates Gates
	// Admission decides which agents of an older generation may stay; nil lets all stay.
	// The hub compares Admissions with ==.
	Admission Admission
	// Histories says which messages of channels the hub keeps; nil keeps none.
	Histories Histories
	// Presences says which channels tell who is in them; nil for none.
	Presences Presences
	// Deliveries says how the messages of channels are delivered; nil has no rules.
	Deliveries Deliveries
	// Log is the endpoint's log, or nil.
	Log *slog.Logger
}

// The defaults of Policy.
const (
	DefaultHeartbeat = 25 * time.Second // some proxies close a connection that is idle for 30 s
	DefaultHandshake = 10 * time.Second
	// DefaultGrace is longer than a backend's restart takes, so that a backend that is
	// away for ten seconds does not log everyone out.
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

// gate returns the gate to ask, or nil if there is none.
func (p *Policy) gate(name GateName, channel string) Gate {
	if p.Gates == nil {
		return nil
	}
	return p.Gates.Gate(name, channel)
}

// has reports whether there is anything that a further gate could keep from an agent.
func (p *Policy) has(gate GateName, channel string) bool {
	if gate == GatePresence {
		return p.presence(channel) != nil
	}
	return p.keeps(channel)
}

// keeps reports whether messages of a channel are kept, or may be of a channel that a
// pattern matches.
func (p *Policy) keeps(channel string) bool {
	return p.Histories != nil && (IsPattern(channel) || p.Histories.History(channel).Count > 0)
}

// gateOf returns the gate to ask about o, or a Refusal that answers without a gate.
func (p *Policy) gateOf(o *op) (Gate, *Refusal) {
	if o.holds {
		return nil, nil
	}
	if p.Gates != nil && o.gate == GateSubscribe && IsPattern(o.channel) {
		return p.Gates.Pattern(o.channel)
	}
	return p.gate(o.gate, o.channel), nil
}

// Limits restrict how much of the server agents can use. A field that is 0 has its
// default. Unlimited means no limit, for the fields that allow it.
type Limits struct {
	// MessageSize is the maximum size of one frame (one JSON object) of an agent, in
	// bytes. Default: 64 KiB.
	MessageSize int
	// CredentialsSize is the maximum size of the credentials of /meta/connect as JSON, in
	// bytes. Default: 16 KiB.
	CredentialsSize int
	// NameLength is the maximum length of a channel's name, in bytes. Default and
	// maximum: 255.
	NameLength int
	// ChannelsPerAgent is the maximum number of subscriptions of one agent. Default: 128.
	ChannelsPerAgent int
	// Channels is the maximum number of channels and patterns with subscribers in the
	// hub. Default: 1,000,000.
	Channels int
	// Agents is the maximum number of sessions of the hub. Default: 100,000.
	Agents int
	// AgentsPerIP is the maximum number of sessions of one address (IPv6: one /64).
	// Default: 2,000. An office with a thousand people and two pages each stays below
	// it; a script that opens one session after the other reaches it. If Caddy's
	// trusted_proxies does not name the proxy in front, all visitors have the proxy's
	// address.
	AgentsPerIP int
	// UnconnectedPerIP is the maximum number of sessions of one address (IPv6: one /64)
	// that are not connected yet. Default: 256.
	UnconnectedPerIP int
	// QueueMessages and QueueBytes limit the queue of an agent. The hub closes the agent
	// with CloseSlow when its queue would exceed either. Defaults: 1,024 and 1 MiB.
	QueueMessages, QueueBytes int
	// HistoryBytes is the approximate maximum memory for the messages that the hub keeps.
	// When it is exceeded, the hub forgets the history of channels with the oldest
	// publishes first. Default: 64 MiB.
	HistoryBytes int
	// FramesPerSecond limits the rate of an agent's frames of any kind. A burst may have
	// five seconds' worth. The hub closes an agent that sends more, with CloseLimit.
	// Default: 100.
	FramesPerSecond int
	// PublishesPerSecond limits the rate of an agent's publishes. A burst may have five
	// seconds' worth. The hub refuses further publishes with CodeLimit. Default: 50.
	PublishesPerSecond int
	// APIPublishesPerSecond limits the rate at which all programs together publish with
	// requests. A burst may have five seconds' worth. The hub refuses further publishes
	// with CodeLimit. Default: 10,000.
	APIPublishesPerSecond int
}

// Unlimited means no limit. These limits allow it: AgentsPerIP, UnconnectedPerIP, Agents,
// Channels, FramesPerSecond, PublishesPerSecond, APIPublishesPerSecond.
const Unlimited = -1

// DefaultLimits are the defaults of Limits.
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
	HistoryBytes:       64 << 20,
	FramesPerSecond:    100,
	PublishesPerSecond: 50,

	APIPublishesPerSecond: 10_000,
}

// WithDefaults returns l with the default in each field that is 0.
func (l Limits) WithDefaults() Limits {
	d := &DefaultLimits
	return Limits{
		MessageSize:           cmp.Or(l.MessageSize, d.MessageSize),
		CredentialsSize:       cmp.Or(l.CredentialsSize, d.CredentialsSize),
		NameLength:            cmp.Or(l.NameLength, d.NameLength),
		ChannelsPerAgent:      cmp.Or(l.ChannelsPerAgent, d.ChannelsPerAgent),
		Channels:              cmp.Or(l.Channels, d.Channels),
		Agents:                cmp.Or(l.Agents, d.Agents),
		AgentsPerIP:           cmp.Or(l.AgentsPerIP, d.AgentsPerIP),
		UnconnectedPerIP:      cmp.Or(l.UnconnectedPerIP, d.UnconnectedPerIP),
		QueueMessages:         cmp.Or(l.QueueMessages, d.QueueMessages),
		QueueBytes:            cmp.Or(l.QueueBytes, d.QueueBytes),
		HistoryBytes:          cmp.Or(l.HistoryBytes, d.HistoryBytes),
		FramesPerSecond:       cmp.Or(l.FramesPerSecond, d.FramesPerSecond),
		PublishesPerSecond:    cmp.Or(l.PublishesPerSecond, d.PublishesPerSecond),
		APIPublishesPerSecond: cmp.Or(l.APIPublishesPerSecond, d.APIPublishesPerSecond),
	}
}

// FrameSize returns the maximum size of any frame, in bytes. Transports limit their reads
// to it.
func (l Limits) FrameSize() int { return max(l.MessageSize, l.CredentialsSize+connectOverhead) }

// connectOverhead is the room for the rest of a /meta/connect frame, besides its
// credentials.
const connectOverhead = 1 << 10

// GateName names a gate: the kind of operation that it decides.
type GateName string

// The gates.
const (
	GateConnect     GateName = "connect"
	GateSubscribe   GateName = "subscribe"
	GateUnsubscribe GateName = "unsubscribe"
	GatePublish     GateName = "publish"
	GateDeliver     GateName = "deliver"
	GateDisconnect  GateName = "disconnect"
	GateAPI         GateName = "api"
	GatePresence    GateName = "presence"
	GateHistory     GateName = "history"
	GateDebug       GateName = "debug"
)

// OpensAddress reports whether the gate decides about requests to an address that is there
// only with the gate.
func (g GateName) OpensAddress() bool { return g == GateAPI || g == GateDebug }

// Identifies reports whether the gate finds out who somebody is. All others are asked about
// somebody who is known.
func (g GateName) Identifies() bool { return g == GateConnect || g.OpensAddress() }

// IsAboutChannel reports whether the gate is asked about a channel.
func (g GateName) IsAboutChannel() bool { return !g.Identifies() && g != GateDisconnect }

// Gates finds the gate for an operation. The hub calls its methods often, concurrently
// and with no lock held. They must not block.
type Gates interface {
	// Gate returns the named gate (any but deliver) for a channel, or nil to allow the
	// operation without asking. For connect, disconnect, api and debug the channel is empty. The
	// channel is a pattern only for unsubscribe and history. A gate history of a pattern
	// decides about all channels that the pattern matches.
	Gate(name GateName, channel string) Gate
	// Pattern returns the gate that decides about a subscription to a pattern, or nil to
	// allow it without asking. It returns a Refusal if agents cannot subscribe to the
	// pattern.
	Pattern(pattern string) (Gate, *Refusal)
	// DeliverGate returns the gate that decides about each delivery of a message of a
	// channel, or nil if there is none.
	DeliverGate(channel string) DeliverGate
}

// A Gate decides whether something may be done. The hub calls Decide concurrently, with no
// lock held. Decide may block, but should return when ctx ends. If it returns later, or
// panics, the answer is unavailable.
type Gate interface {
	// Timeout limits how long one question may take.
	Timeout() time.Duration
	Decide(ctx context.Context, q *Question) Verdict
}

// A LocalGate may report that it answers at once, without leaving this process. The hub
// then asks it in the calling goroutine.
type LocalGate interface {
	Gate
	Local() bool
}

// A DeliverGate decides about the delivery of a message to one agent. Deliver returns the
// message to deliver, which is m or a changed copy, or nil to withhold it. The agent is not
// told. Deliver must be fast and stay within this process. The hub calls it concurrently,
// with no lock held.
type DeliverGate interface {
	Deliver(a *Agent, m *Message) *Message
}

// A Question describes the operation that a gate decides.
type Question struct {
	Gate    GateName
	Agent   *Agent
	Channel string   // a name, or a pattern if Pattern is true
	Pattern bool     // only at subscribe, unsubscribe and history
	Message *Message // only at publish
	// Credentials are those of /meta/connect, as JSON: at connect those of this frame,
	// else those of the frame that connected the agent. Never log them.
	Credentials []byte
	// Identity is what the connect gate learned about the agent. At connect it is what
	// the gate learned the last time. It is never nil.
	Identity *Identity

	within context.Context //nolint:containedctx // has the span that it is asked in; may be nil
	early  func(Verdict)   // gives the verdict before Decide returns; nil if that has no effect
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

// A Verdict is a gate's answer. A nil Refusal allows the operation.
type Verdict struct {
	Refusal *Refusal
	// Guard names the part of the gate that refused, for operators. It may be empty.
	Guard string
	// Overflow reports that the gate refused because too many questions already wait for
	// its backend.
	Overflow bool
	// Identity is what a connect gate learned about the agent, or nil.
	Identity *Identity
	// Subscribe are channels that a connect gate subscribes the agent to at once. No other
	// gate is asked.
	Subscribe []string
	// Publish says how a publish gate changed the message; nil leaves it as it is.
	Publish *Publishing
	// Expires is when the lease ends; zero is never. The gate is asked again before. Only
	// connect, subscribe and presence use it.
	Expires time.Time
	// Recheck is how long until the gate is asked again; 0 is never. Only connect,
	// subscribe and presence use it.
	Recheck time.Duration
}

// Allow is a Verdict that allows, and grants a lease without an end.
var Allow = Verdict{}
