// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A Listening is what a [Listener] asks for. At most one of Position, Last and Since is set.
// They have the meaning that PROTOCOL.md, R58, gives them at a subscribe, for all channels
// together.
type Listening struct {
	Channels []string // names and patterns, each once
	Members  []string // those of Channels, without patterns, whose members the agent is told
	Position string
	Last     int
	Since    time.Time
}

// A Listener is an agent that sends no frames, such as a stream of Server-Sent Events. It
// subscribes when its session opens. It has all of its channels, or it ends.
type Listener struct {
	// Begun is what the listener begins with. It is set by Listen.
	Begun Beginning

	agent   *Agent
	request recoveryRequest
	members []string

	// Guarded by the agent's mu.
	begins  bool         // beginLocked was called
	refused *ListenError // the first refusal
	opened  []opened
	group   laggards // nothing kept comes live before the listener begins
}

// An opened is a subscription that a listener begins with.
type opened struct {
	*subscription
	recover *recovering
	whyNot  string // a gate keeps messages from it
	none    bool   // none are kept
	by      Fingerprint
}

// A Beginning is what a listener begins with.
type Beginning struct {
	// Channels is the number of subscriptions.
	Channels int
	// Position precedes everything that the listener gets. It is empty if none of its
	// channels has a history.
	Position string
	// Gaps are the channels with missing messages.
	Gaps []Gap
}

// A Gap says why messages of a channel or pattern are missing (PROTOCOL.md, R58).
type Gap struct{ Channel, Reason string }

// A ListenError says why an agent may not listen.
type ListenError struct {
	*Refusal

	// Channel is the channel or pattern that the Refusal is about. It is empty if it is about
	// the connect.
	Channel string
}

// Listen connects an agent, without credentials, and subscribes it to the channels of l and
// to those that its connect gate names. It waits for the gates. Nothing is written to the
// Conn before Release. The caller calls Listen once, after Start, and never Receive. After a
// ListenError it calls Left.
func Listen(ctx context.Context, a *Agent, l Listening) (*Listener, *ListenError) {
	a.migrate(true)
	limits := a.policy.Load().Limits
	if len(l.Channels) > limits.ChannelsPerAgent {
		return nil, &ListenError{Refusal: tooManyChannels(limits)}
	}
	for _, name := range l.Channels {
		if r := CheckPattern(name, limits.NameLength); r != nil {
			return nil, &ListenError{Refusal: r}
		}
	}
	stop := context.AfterFunc(ctx, func() { a.Close(CloseNormal, "the client cancelled the request", 0) })
	defer stop()
	if a.hub.Bus() != nil {
		a.hub.history.awaitPosition(ctx, l.Position)
	}
	own := &Listener{agent: a, request: recoveryRequest{position: l.Position, last: min(l.Last, maxSince), since: l.Since}, members: l.Members}
	a.mu.Lock()
	a.out.held, a.in.listener = true, own
	a.mu.Unlock()
	a.in.connectFirst(&inbound{channel: metaConnect, uuid: uuid.NewString(), agentID: a.UUID(), hasAgentID: true}, nil)
	own.await(func() bool { return a.in.held == nil })
	for _, name := range l.Channels {
		in := inbound{channel: metaSubscribe, uuid: uuid.NewString(), data: channelData(name)}
		o := &op{agent: a, gate: GateSubscribe, channel: name, in: in, wishes: wishes{recover: newRecovering(own.request)}, waited: true}
		o.members.asked = own.shows(name)
		o.furtherToRecover()
		o.furtherToWatch()
		o.do()
	}
	own.await(func() bool {
		return a.ops == nil || !slices.ContainsFunc(a.ops.pending, func(o *op) bool { return o.why == byFrame })
	})
	own.search()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		own.refuseLocked("", a.endingLocked().refusal())
	}
	if own.refused != nil {
		return nil, own.refused
	}
	own.beginLocked()
	return own, nil
}

// search looks for the kept messages of patterns, which may take some time.
func (l *Listener) search() {
	l.agent.mu.Lock()
	all := slices.Clone(l.opened)
	l.agent.mu.Unlock()
	for _, s := range all {
		if s.recover != nil && s.node.home.patterns && !s.none && s.whyNot == "" {
			s.recover.searched = l.agent.hub.history.search(s.recover.recoveryRequest, s.node.key())
		}
	}
}

// beginLocked begins the subscriptions, all at one moment. They catch up together, so that
// the numbers of their messages rise.
func (l *Listener) beginLocked() {
	a, h := l.agent, l.agent.hub.history
	lowest := uint64(math.MaxUint64)
	l.Begun.Channels = len(l.opened)
	for _, s := range l.opened {
		why := s.whyNot
		if s.none {
			why = "none"
		}
		r := h.recoverUnless(why, s.recover, s.node)
		s.from, s.fed = r.from, r.from
		l.group.add(laggard{subscription: s.subscription, drops: r.drops, begun: r.begun, floor: r.floor, by: s.by, asked: s.recover != nil})
		if !s.none && r.from < lowest {
			lowest, l.Begun.Position = r.from, r.position.String()
		}
		if s.recover != nil && !r.whole {
			l.Begun.Gaps = append(l.Begun.Gaps, Gap{s.channel(), r.why})
		}
	}
	l.opened, l.begins = nil, true
	if len(l.group.subs) > 0 {
		c := a.leases.catchUpLocked()
		c.behind = append(c.behind, &l.group)
		c.feedLocked()
	}
}

// opensWithLocked notes a subscription, which o has asked for.
func (l *Listener) opensWithLocked(o *op, s *subscription) {
	s.behind = &l.group
	made := opened{subscription: s, recover: o.recover, whyNot: o.whyNotRecovered(), none: !l.agent.policy.Load().keeps(s.channel())}
	if f := o.furtherVerdict(GateHistory); f != nil {
		made.by = f.by
	}
	if i := slices.IndexFunc(l.opened, func(each opened) bool { return each.subscription == s }); i >= 0 {
		l.opened[i] = made // the connect gate has named the channel too
		return
	}
	l.opened = append(l.opened, made)
}

func tooManyChannels(limits Limits) *Refusal {
	return refuse(CodeLimit, fmt.Sprintf("more than %d channels for one agent", limits.ChannelsPerAgent))
}

// await waits until done returns true, or the agent is being closed. It calls done with the
// agent's mu held.
func (l *Listener) await(done func() bool) {
	l.agent.mu.Lock()
	defer l.agent.mu.Unlock()
	for l.agent.state < stateClosing && !done() {
		l.agent.waitLocked()
	}
}

// Release lets the frames flow that wait since Listen. The numbers of messages rise: a
// listener that got one has got all with lower numbers.
//
// This holds because all subscriptions catch up together, and the hub then enqueues messages
// with numbers one after the other, for all subscriptions of an agent.
func (l *Listener) Release() {
	a := l.agent
	a.mu.Lock()
	a.out.held = false
	notify := a.out.hasWorkLocked() && a.out.wakeLocked()
	a.unlock(notify)
}

// opensLocked reports whether l is a listener that has not begun yet. l may be nil.
func (l *Listener) opensLocked() bool { return l != nil && !l.begins }

// refuseLocked notes the reason why the agent may not listen. l may be nil.
func (l *Listener) refuseLocked(channel string, r *Refusal) {
	if l != nil && l.refused == nil {
		l.refused = &ListenError{r, channel}
	}
}

// endLocked closes the listener because one of its subscriptions has ended. It reports
// whether the caller must notify the flusher.
func (l *Listener) endLocked(channel string, r *Refusal) (notify bool) {
	l.refuseLocked(channel, r)
	a := l.agent
	a.endingLocked().about = channel
	retry := r.Retry
	if retry <= 0 {
		retry = cutRetry()
	}
	return a.closeLocked(CloseCut, r.Reason, retry)
}

// refuseSubscribe refuses a subscribe.
func (o *op) refuseSubscribe(r *Refusal) {
	a := o.agent
	a.mu.Lock()
	l := a.in.listener
	l.refuseLocked(o.channel, r)
	a.mu.Unlock()
	if l == nil {
		a.answer(&o.in, r)
	}
}

// refusal returns why the agent was closed.
func (e *ending) refusal() *Refusal {
	r := &Refusal{Code: CodeUnavailable, Reason: e.reason, Retry: e.retry}
	switch e.code {
	case CloseDenied, CloseCut:
		r.Code = CodeDenied
	case CloseLimit, CloseSlow:
		r.Code = CodeLimit
	}
	return r
}
