// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"slices"
	"strings"
)

// nodeOf says where the subscribers of a channel or pattern are found.
func (a *Agent) nodeOf(channel string) (d *directory, key string) {
	if IsPattern(channel) {
		return a.hub.patterns, keyOf(a.opening.Namespace, patternPrefix(channel))
	}
	return a.hub.channels, keyOf(a.opening.Namespace, channel)
}

// join subscribes a to a channel or pattern and queues the answer, so that it
// precedes the first message. Subscribing again is answered, and what o's verdict
// gives is relied on from now on. It does nothing if o is stale.
func (h *Hub) join(a *Agent, o *op, answer []byte) (r *Refusal, stale bool) {
	limits := a.policy.Load().Limits
	fits := func() bool { return limits.Channels < 0 || h.Channels() <= limits.Channels }
	d, key := a.nodeOf(o.channel)
	encoded := a.conn.Form().encode(answer)
	v := &o.verdict
	for {
		n := d.obtain(key, fits)
		if n == nil {
			return refuse(CodeLimit, fmt.Sprintf("the server has as many channels as it takes, %d", limits.Channels)), false
		}
		n.mu.Lock()
		if n.dead {
			n.mu.Unlock()
			continue // its last member left in this moment
		}
		flush, stale, r := a.joinLocked(n, o, encoded, limits)
		n.unlock()
		if flush {
			a.schedule()
		}
		if v.Recheck != 0 || !v.Expires.IsZero() {
			a.planReview()
		}
		return r, stale
	}
}

// joinLocked makes a a member of n. The caller holds n.mu.
func (a *Agent) joinLocked(n *node, o *op, answer []byte, limits Limits) (flush, stale bool, r *Refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state != stateConnected:
		return false, false, nil // nobody is there to be told
	case a.isStale(o):
		// From here on a refresh finds the subscription, and asks for it again.
		return false, true, nil
	}
	v := &o.verdict
	if i := a.subscriptionLocked(n); i >= 0 {
		a.subs[i].right = a.validFor(v, o.by)
		a.subs[i].byConnect = a.subs[i].byConnect || o.gate == GateConnect
	} else {
		if len(a.subs) >= limits.ChannelsPerAgent {
			return false, false, refuse(CodeLimit, fmt.Sprintf("more than %d channels for one agent", limits.ChannelsPerAgent))
		}
		s := &subscription{agent: a, node: n, channel: strings.Clone(o.channel), right: a.validFor(v, o.by), byConnect: o.gate == GateConnect}
		n.addLocked(s)
		a.subs = append(a.subs, s)
	}
	return a.acceptLocked(item{bytes: answer}), false, nil
}

// subscriptionLocked returns the index in a.subs of the one on n, else -1. An
// agent has few subscriptions; looking through them is faster than any map. The
// caller holds a.mu.
func (a *Agent) subscriptionLocked(n *node) int {
	return slices.IndexFunc(a.subs, func(s *subscription) bool { return s.node == n })
}

// dropLocked ends the subscription a.subs[i]. The caller holds its node's mu and
// a.mu.
func (a *Agent) dropLocked(i int) {
	s := a.subs[i]
	s.node.removeLocked(s)
	a.subs = slices.Delete(a.subs, i, i+1)
}

// part unsubscribes a and queues the answer: nothing of the channel follows it,
// unless another subscription of a matches.
func (h *Hub) part(a *Agent, channel string, answer []byte) {
	d, key := a.nodeOf(channel)
	encoded := a.conn.Form().encode(answer)
	n := d.find(key)
	if n == nil {
		a.Send(encoded)
		return
	}
	n.mu.Lock()
	a.mu.Lock()
	if i := a.subscriptionLocked(n); i >= 0 {
		a.dropLocked(i)
	}
	flush := a.state < stateClosing && a.acceptLocked(item{bytes: encoded})
	a.mu.Unlock()
	n.unlock()
	if flush {
		a.schedule()
	}
}

// leave takes out the subscription of an agent that is gone.
func (h *Hub) leave(s *subscription) {
	n := s.node
	n.mu.Lock()
	n.removeLocked(s)
	n.unlock()
}
