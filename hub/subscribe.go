// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"

	"github.com/google/uuid"
)

// nodeOf returns the directory and the key of the node of a channel or pattern.
func (a *Agent) nodeOf(channel string) (d *directory, key string) {
	if IsPattern(channel) {
		return a.hub.patterns, keyOf(a.opening.Namespace(), patternPrefix(channel))
	}
	return a.hub.channels, keyOf(a.opening.Namespace(), channel)
}

// subscribe subscribes the agent of o to a channel or pattern. It queues the answer under
// the node's lock, so that the answer precedes the first message. If the agent already
// subscribes, the new verdict replaces the lease. subscribe does nothing if o is stale.
func (h *Hub) subscribe(o *op, in *inbound) (r *Refusal, stale bool) {
	a := o.agent
	limits := a.policy.Load().Limits
	fits := func() bool { return limits.Channels < 0 || h.Channels() <= limits.Channels }
	d, key := a.nodeOf(o.channel)
	v := &o.verdict
	pr := o.policy.presentation(a, o.identity, o.channel)
	if d == h.patterns && o.recover != nil && o.whyNotRecovered() == "" {
		o.recover.searched = h.history.search(o.recover.recoveryRequest, key)
	}
	for {
		n := d.obtain(key, fits)
		if n == nil {
			return refuse(CodeLimit, fmt.Sprintf("the server has reached its limit of %d channels", limits.Channels)), false
		}
		n.mu.Lock()
		if n.dead.Load() {
			n.mu.Unlock()
			continue // its last member has just left: obtain a new one
		}
		notify, stale, r := o.subscribeLocked(n, in, limits, &pr)
		n.unlock()
		if notify {
			a.notify()
		}
		if v.Recheck != 0 || !v.Expires.IsZero() || len(o.further) > 0 {
			a.leases.setTimer()
		}
		return r, stale
	}
}

// subscribeLocked makes the agent a member of n. The caller holds n.mu.
func (o *op) subscribeLocked(n *node, in *inbound, limits Limits, pr *presentation) (notify, stale bool, r *Refusal) {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state != stateConnected:
		return false, false, nil
	case o.isStale(), pr.rule != nil && pr.identity != a.identity.Load():
		return false, true, nil
	}
	// After this point a refresh finds the subscription, and reauthorizes it.
	v := &o.verdict
	now := a.hub.timers.now()
	i := a.leases.find(n)
	if i < 0 && len(a.leases.subs) >= limits.ChannelsPerAgent {
		return false, false, tooManyChannels(limits)
	}
	began, opens := o.beginLocked(n, in), a.in.listener.opensLocked()
	var s *subscription
	var again []span
	if i >= 0 {
		s = a.leases.subs[i]
		s.lease = newLease(v, o.by, now)
		s.byConnect = s.byConnect || o.gate == GateConnect
		again = s.beginAgainLocked(&began)
	} else {
		s = &subscription{
			agent: a, node: n, lease: newLease(v, o.by, now), byConnect: o.gate == GateConnect,
			from: began.from, fed: began.fed,
		}
		n.addLocked(s)
		a.leases.subs = append(a.leases.subs, s)
	}
	s.seatLocked(pr)
	l := a.in.listener
	if o.members.asked && l == nil {
		began.answer = o.membersLocked(s, began.answer)
	}
	if opens {
		l.opensWithLocked(o, s)
		if o.members.asked {
			notify = o.listenLocked(s)
		}
		return notify, false, nil
	}
	notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(began.answer)})
	behind := began.from < began.head && (i < 0 || again != nil) || i < 0 && a.leases.catchUp.overlapsLocked(s.channel())
	if behind && a.state == stateConnected {
		l := laggard{subscription: s, drops: began.drops, begun: began.begun, floor: began.floor, asked: o.recover != nil}
		if f := o.furtherVerdict(GateHistory); f != nil {
			l.by = f.by
		}
		a.leases.catchUpLocked().startLocked(l)
		s.behind.ended = append(s.behind.ended, again...)
		a.leases.catchUp.feedLocked()
		notify = a.out.hasWorkLocked() && a.out.wakeLocked() || notify
	}
	return notify, false, nil
}

// beginAgainLocked notes that the agent has subscribed again. It returns what s has brought,
// if older messages are to come.
func (s *subscription) beginAgainLocked(b *beginning) (brought []span) {
	if b.from >= s.from {
		return nil
	}
	if s.behind == nil {
		s.fed = s.agent.leases.broughtLocked(s)
	}
	brought = []span{s.span()}
	s.from, s.fed = b.from, b.from
	return brought
}

// A beginning is what a subscription begins with: the answer, and kept messages.
type beginning struct {
	recovery
	fed    uint64 // kept messages up to this number do not come live
	answer []byte
}

// beginLocked returns what the subscription begins with. The caller holds n.mu and the
// agent's mu.
func (o *op) beginLocked(n *node, in *inbound) (b beginning) {
	a := o.agent
	if !a.policy.Load().keeps(o.channel) {
		b.recovery = a.hub.history.recover(nil, n.key(), n.home.patterns) // a reload may keep messages from now on
		b.whole = false
		b.answer = appendSubscribed(nil, in, nil)
		if o.recover != nil {
			b.why = "none"
			b.answer = appendRecovered(b.answer, false, b.why)
		}
		return b
	}
	b.recovery = a.hub.history.recoverUnless(o.whyNotRecovered(), o.recover, n)
	if from := a.leases.wideLocked(o.channel, b.from); from > b.from {
		b.from, b.position = from, a.hub.history.positionOf(from)
	}
	b.fed = b.from
	b.answer = appendPosition(appendSubscribed(nil, in, nil), b.position.String())
	if o.recover != nil {
		b.answer = appendRecovered(b.answer, b.whole, b.why)
	}
	return b
}

// recoverUnless returns what a subscription to n begins with: nothing kept if why is set.
func (h *history) recoverUnless(why string, req *recovering, n *node) recovery {
	if why == "" {
		return h.recover(req, n.key(), n.home.patterns)
	}
	r := h.recover(nil, n.key(), n.home.patterns)
	r.whole, r.why = false, why
	return r
}

// furtherToRecover notes that the gate history is asked, if the subscribe of o is to begin
// with kept messages.
func (o *op) furtherToRecover() {
	if o.recover != nil {
		o.further = append(o.further, further{gate: GateHistory})
	}
}

// furtherToWatch notes that the gate presence is asked, if the subscribe of o asks for the
// members of its channel.
func (o *op) furtherToWatch() {
	if o.members.asked && o.members.refused == nil && !IsPattern(o.channel) {
		o.further = append(o.further, further{gate: GatePresence})
	}
}

// whyNotRecovered returns why a gate lets the subscription begin without kept messages; ""
// if it does not.
func (o *op) whyNotRecovered() string {
	f := o.furtherVerdict(GateHistory)
	switch {
	case f == nil || f.verdict.Refusal == nil:
		return ""
	case f.verdict.Refusal.Code == CodeUnavailable, f.verdict.Refusal.Code == CodeLimit:
		return string(CodeUnavailable)
	}
	return string(CodeDenied)
}

// unsubscribe unsubscribes a and queues the answer. No message of the channel follows the
// answer, unless another subscription of a matches it.
func (h *Hub) unsubscribe(a *Agent, channel string, answer []byte) {
	d, key := a.nodeOf(channel)
	encoded := a.out.conn.Form().encode(answer)
	n := d.find(key)
	if n == nil {
		a.Send(encoded)
		return
	}
	n.mu.Lock()
	a.mu.Lock()
	if i := a.leases.find(n); i >= 0 {
		a.leases.drop(i)
	}
	notify := a.state < stateClosing && a.out.acceptLocked(item{bytes: encoded})
	a.mu.Unlock()
	n.unlock()
	if notify {
		a.notify()
	}
}

// leave removes the subscription of an agent that is gone.
func (h *Hub) leave(s *subscription) {
	n := s.node
	n.mu.Lock()
	if s.seat == nil {
		n.removeLocked(s)
	} else {
		s.agent.mu.Lock()
		s.vacateLocked(true)
		n.removeLocked(s)
		s.agent.mu.Unlock()
	}
	n.unlock()
}

// subscribeAll subscribes the agent to the channels that its connect gate named. It does
// not ask the gate subscribe, because the operator's connect gate has already decided.
func (ls *leases) subscribeAll(channels []string) {
	a := ls.agent
	var request recoveryRequest
	a.mu.Lock()
	if l := a.in.listener; l.opensLocked() {
		request = l.request
	}
	a.mu.Unlock()
	for _, ch := range channels {
		if r := CheckPattern(ch, MaxNameLength); r != nil {
			a.policy.Load().Log.Error("the connect gate named an invalid channel", "channel", ch, "agent", a.UUID(), "error", r)
			continue
		}
		in := &inbound{channel: metaSubscribe, uuid: uuid.NewString(), data: channelData(ch)}
		o := &op{agent: a, gate: GateConnect, channel: ch, wishes: wishes{recover: newRecovering(request)}}
		o.furtherToRecover()
		r, stale := (*Refusal)(nil), true
		for stale {
			o.policy, o.identity, o.asked = a.policy.Load(), a.identity.Load(), 0
			o.askHere()
			r, stale = a.hub.subscribe(o, in)
		}
		if r != nil {
			a.policy.Load().Log.Error("subscribing for the connect gate failed", "channel", ch, "agent", a.UUID(), "error", r)
		}
	}
}

// askHere asks the further gates that answer at once. Another one refuses: nothing may wait
// for a backend here.
func (o *op) askHere() {
	for g, q := o.nextGate(); g != nil; g, q = o.nextGate() {
		if isLocal(g) {
			o.note(q, q.askLocal(o.context(), g))
		} else {
			o.note(q, Verdict{Refusal: refuse(CodeDenied, "a backend decides about kept messages")})
		}
	}
}
