// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"slices"
)

// nodeOf says where the subscribers of a channel or pattern are found.
func (h *Hub) nodeOf(channel string) (d *directory, key string) {
	if IsPattern(channel) {
		return h.patterns, patternPrefix(channel)
	}
	return h.channels, channel
}

// join subscribes a to a channel or pattern and queues the answer, so that it
// precedes the first message. Subscribing again is answered and changes nothing.
func (h *Hub) join(a *Agent, channel string, answer []byte) *Refusal {
	limits := a.policy.Load().Limits
	fits := func() bool { return limits.Channels < 0 || h.Channels() <= limits.Channels }
	d, key := h.nodeOf(channel)
	encoded := a.conn.Form().encode(answer)
	for {
		n := d.obtain(key, fits)
		if n == nil {
			return refuse(CodeLimit, fmt.Sprintf("the server has as many channels as it takes, %d", limits.Channels))
		}
		n.mu.Lock()
		if n.dead {
			n.mu.Unlock()
			continue // its last member left in this moment
		}
		flush, r := a.joinLocked(n, encoded, limits)
		empty := n.buryLocked()
		n.mu.Unlock()
		if empty {
			d.release(n)
		}
		if flush {
			a.schedule()
		}
		return r
	}
}

// joinLocked makes a a member of n. The caller holds n.mu.
func (a *Agent) joinLocked(n *node, answer []byte, limits Limits) (flush bool, r *Refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		return false, nil // nobody is there to be told
	}
	if !a.onAnyLocked([]*node{n}) {
		if len(a.subs) >= limits.ChannelsPerAgent {
			return false, refuse(CodeLimit, fmt.Sprintf("more than %d channels for one agent", limits.ChannelsPerAgent))
		}
		s := &subscription{agent: a, node: n}
		n.addLocked(s)
		a.subs = append(a.subs, s)
	}
	return a.acceptLocked(item{bytes: answer}), nil
}

// part unsubscribes a and queues the answer: nothing of the channel follows it,
// unless another subscription of a matches.
func (h *Hub) part(a *Agent, channel string, answer []byte) {
	d, key := h.nodeOf(channel)
	encoded := a.conn.Form().encode(answer)
	n := d.find(key)
	if n == nil {
		a.Send(encoded)
		return
	}
	n.mu.Lock()
	a.mu.Lock()
	if i := slices.IndexFunc(a.subs, func(s *subscription) bool { return s.node == n }); i >= 0 {
		n.removeLocked(a.subs[i])
		a.subs = slices.Delete(a.subs, i, i+1)
	}
	flush := a.state < stateClosing && a.acceptLocked(item{bytes: encoded})
	a.mu.Unlock()
	empty := n.buryLocked()
	n.mu.Unlock()
	if empty {
		d.release(n)
	}
	if flush {
		a.schedule()
	}
}

// leave takes out the subscription of an agent that is gone.
func (h *Hub) leave(s *subscription) {
	n := s.node
	n.mu.Lock()
	n.removeLocked(s)
	empty := n.buryLocked()
	n.mu.Unlock()
	if empty {
		n.home.release(n)
	}
}
