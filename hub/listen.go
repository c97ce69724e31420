// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"context"
	"fmt"
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
	flowing bool         // Release was called
	refused *ListenError // the first refusal
	from    uint64       // the lowest number that a subscription begins after
	begun   Beginning
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
	own := &Listener{agent: a, request: recoveryRequest{position: l.Position, last: min(l.Last, maxSince), since: l.Since}, members: l.Members}
	a.mu.Lock()
	a.out.held, a.in.listener = true, own
	a.mu.Unlock()
	a.in.connectFirst(&inbound{channel: metaConnect, uuid: uuid.NewString(), agentID: a.UUID(), hasAgentID: true}, nil)
	own.await(func() bool { return a.in.held == nil })
	for _, name := range l.Channels {
		in := inbound{channel: metaSubscribe, uuid: uuid.NewString(), data: channelData(name)}
		o := &op{agent: a, gate: GateSubscribe, channel: name, in: in, wishes: wishes{recover: newRecovering(own.request)}}
		o.members.asked = own.shows(name)
		o.furtherToRecover()
		o.furtherToWatch()
		o.do()
	}
	own.await(func() bool {
		return a.ops == nil || !slices.ContainsFunc(a.ops.pending, func(o *op) bool { return o.why == byFrame })
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		own.refuseLocked("", a.refusal())
	}
	if own.refused != nil {
		return nil, own.refused
	}
	own.Begun = own.begun
	return own, nil
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
		l.agent.cond.Wait()
	}
}

// Release sends the frames that wait since Listen. It sorts the messages that have numbers,
// because kept and live ones of different channels have mixed. So their numbers rise: a listener
// that got one has got all with lower numbers.
//
// This holds because the hub enqueues messages with numbers one after the other, for all
// subscriptions of an agent, and all subscriptions exist by now.
func (l *Listener) Release() {
	a := l.agent
	a.mu.Lock()
	l.flowing = true
	a.out.held = false
	a.out.queue.order()
	notify := !a.out.queue.isEmpty() && a.out.wakeLocked()
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

// opensLocked reports whether l is a listener before Release. l may be nil.
func (l *Listener) opensLocked() bool { return l != nil && !l.flowing }

// beginsLocked notes what a subscription begins with.
func (l *Listener) beginsLocked(channel string, b *beginning) {
	l.begun.Channels++
	if b.position != (Position{}) && (l.begun.Position == "" || b.from < l.from) {
		l.from, l.begun.Position = b.from, b.position.String()
	}
	if l.request.isSet() && !b.whole {
		l.begun.Gaps = append(l.begun.Gaps, Gap{channel, b.why})
	}
}

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
	a.closeAbout = channel
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
	r := &Refusal{Code: CodeUnavailable, Reason: e.closeReason, Retry: e.closeRetry}
	switch e.closeCode {
	case CloseDenied, CloseCut:
		r.Code = CodeDenied
	case CloseLimit, CloseSlow:
		r.Code = CodeLimit
	}
	return r
}

// order moves the messages that have numbers into the backlog, and sorts it.
func (q *queue) order() {
	if q.items != nil {
		*q.items = slices.DeleteFunc(*q.items, func(it item) bool {
			if it.msg == nil || it.msg.seq == 0 {
				return false
			}
			q.release(1, len(it.bytes))
			q.backlog = append(q.backlog, it)
			return true
		})
		if len(*q.items) == 0 {
			putItems(q.items)
			q.items = nil
		}
	}
	slices.SortFunc(q.backlog, func(a, b item) int { return cmp.Compare(a.msg.seq, b.msg.seq) })
}
