// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/push-it/pushit/hub"
)

// beatEvery is how often a node sends heartbeats, and looks for those of others.
const beatEvery = 500 * time.Millisecond

type busHandler = func(ctx context.Context, from hub.NodeID, b []byte) []byte

// A peer is another node that is up.
type peer struct {
	seen time.Time     // its last heartbeat
	down chan struct{} // closed when it is down
}

// A queuedCall is something that handleQueue does.
type queuedCall struct {
	due time.Time
	f   func()
}

// enqueueLocked has handleQueue call f, after all that is queued. The caller holds n.mu.
func (n *Node) enqueueLocked(due time.Time, f func()) {
	n.queue = append(n.queue, queuedCall{due, f})
	select {
	case n.queued <- struct{}{}:
	default:
	}
}

// handleQueue handles broadcasts, and calls watchers, one after the other.
func (n *Node) handleQueue() {
	for {
		n.mu.Lock()
		running, later := n.running, time.Duration(0)
		var f func()
		if len(n.queue) > 0 {
			if later = time.Until(n.queue[0].due); later <= 0 && n.isRunningLocked() {
				f = n.queue[0].f
				n.queue = n.queue[1:]
			}
		}
		empty := len(n.queue) == 0
		n.mu.Unlock()
		switch {
		case f != nil:
			f()
		case empty:
			select {
			case <-n.ended:
				return
			case <-n.queued:
			}
		default:
			timer := time.NewTimer(later)
			select {
			case <-n.ended:
			case <-timer.C:
			}
			timer.Stop()
			select {
			case <-n.ended:
				return
			case <-running:
			}
		}
		if n.life.Err() != nil {
			return
		}
	}
}

// others returns the other nodes that this one can reach. The caller does not hold n.mu.
func (n *Node) others() (list []*Node) {
	if !n.reaches() {
		return nil
	}
	n.cluster.mu.Lock()
	all := slices.Clone(n.cluster.nodes)
	n.cluster.mu.Unlock()
	return slices.DeleteFunc(all, func(o *Node) bool { return o == n || !o.reaches() })
}

// reaches reports whether the node is connected to the Bus.
func (n *Node) reaches() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == nodeUp && !n.cut
}

// join begins the membership of n.
func (n *Node) join() {
	n.mu.Lock()
	n.state = nodeUp
	n.mu.Unlock()
	n.cluster.mu.Lock()
	n.cluster.nodes = append(n.cluster.nodes, n)
	n.cluster.mu.Unlock()
	n.greet()
	for _, o := range n.others() {
		if o.isRunning() {
			n.hear(o.id)
		}
	}
}

func (n *Node) isRunning() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.isRunningLocked()
}

// greet sends a heartbeat to all others.
func (n *Node) greet() {
	if !n.isRunning() {
		return
	}
	for _, o := range n.others() {
		o.hear(n.id)
	}
}

// beat sends heartbeats, and finds out who is down.
func (n *Node) beat() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-n.ended:
			return
		case <-ticker.C:
		}
		n.greet()
		n.mu.Lock()
		if time.Since(last) > 2*beatEvery { // the process did not run, nor did the other nodes
			n.seenAllLocked()
		}
		last = time.Now()
		for id, p := range n.peers {
			if !n.cut && n.isRunningLocked() && time.Since(p.seen) >= hub.BusTimeout-beatEvery {
				n.downLocked(id)
			}
		}
		n.mu.Unlock()
	}
}

// hear notes a heartbeat.
func (n *Node) hear(from hub.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != nodeUp {
		return
	}
	if p := n.peers[from]; p != nil {
		p.seen = time.Now()
		return
	}
	for id := range n.peers {
		if id.Name == from.Name {
			n.downLocked(id)
		}
	}
	n.peers[from] = &peer{seen: time.Now(), down: make(chan struct{})}
	n.watchLocked(from, true)
}

// downLocked notes that a node is down.
func (n *Node) downLocked(id hub.NodeID) {
	if p := n.peers[id]; p != nil {
		close(p.down)
		delete(n.peers, id)
		n.watchLocked(id, false)
	}
}

func (n *Node) watchLocked(id hub.NodeID, up bool) {
	for _, f := range n.watchers {
		n.enqueueLocked(time.Time{}, func() { f(id, up) })
	}
}

// seenAllLocked gives all others time for their next heartbeat.
func (n *Node) seenAllLocked() {
	for _, p := range n.peers {
		p.seen = time.Now()
	}
}

// part ends the membership of n.
func (n *Node) part(goodbye bool) {
	n.cluster.mu.Lock()
	n.cluster.nodes = slices.DeleteFunc(n.cluster.nodes, func(o *Node) bool { return o == n })
	left := slices.Clone(n.cluster.nodes)
	n.cluster.mu.Unlock()
	for _, o := range left {
		if goodbye && o.reaches() {
			o.mu.Lock()
			o.downLocked(n.id)
			o.mu.Unlock()
		}
	}
}

// Self implements hub.Bus.
func (n *Node) Self() hub.NodeID { return n.id }

// Watch implements hub.Bus.
func (n *Node) Watch(f func(hub.NodeID, bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watchers = append(n.watchers, f)
	for id := range n.peers {
		n.enqueueLocked(time.Time{}, func() { f(id, true) })
	}
}

// Handle implements hub.Bus.
func (n *Node) Handle(topic string, f func(context.Context, hub.NodeID, []byte) []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handlers[topic] = f
}

// handler returns what handles a topic, nil if nothing does.
func (n *Node) handler(topic string) busHandler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != nodeUp {
		return nil
	}
	return n.handlers[topic]
}

// sendable returns what is wrong with sending b.
func (n *Node) sendable(b []byte) error {
	switch {
	case len(b) > hub.MaxBusPayload:
		return fmt.Errorf("the message has %d bytes; at most %d are possible", len(b), hub.MaxBusPayload)
	case n.life.Err() != nil:
		return hub.ErrClosed
	case !n.reaches():
		return errCut
	}
	return nil
}

// Broadcast implements hub.Bus.
func (n *Node) Broadcast(topic string, b []byte) error {
	if err := n.sendable(b); err != nil {
		return err
	}
	for _, o := range n.others() {
		o.get(n.id, topic, bytes.Clone(b))
	}
	return nil
}

// get queues a broadcast that has arrived.
func (n *Node) get(from hub.NodeID, topic string, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lose != nil && n.lose(topic, b) {
		return
	}
	due := time.Time{}
	if n.delay > 0 {
		due = time.Now().Add(n.delay)
	}
	n.enqueueLocked(due, func() {
		if f := n.handler(topic); f != nil {
			f(n.life, from, b)
		}
	})
}

// find returns a node that runs, and whether this one can reach it.
func (n *Node) find(id hub.NodeID) (o *Node, reachable bool) {
	n.cluster.mu.Lock()
	i := slices.IndexFunc(n.cluster.nodes, func(o *Node) bool { return o.id == id && o != n })
	if i >= 0 {
		o = n.cluster.nodes[i]
	}
	n.cluster.mu.Unlock()
	return o, o != nil && o.reaches()
}

// Request implements hub.Bus.
func (n *Node) Request(ctx context.Context, to hub.NodeID, topic string, b []byte) ([]byte, error) {
	if err := n.sendable(b); err != nil {
		return nil, err
	}
	o, reachable := n.find(to)
	n.mu.Lock()
	p := n.peers[to]
	n.mu.Unlock()
	if o == nil || p == nil {
		return nil, hub.ErrNoNode
	}
	answers := make(chan []byte, 1)
	if reachable {
		go o.answer(n, topic, bytes.Clone(b), answers)
	}
	select {
	case a := <-answers:
		if a == nil {
			return nil, hub.ErrNoAnswer
		}
		return a, nil
	case <-p.down:
		return nil, hub.ErrNoAnswer
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.ended:
		return nil, hub.ErrClosed
	}
}

// answer handles a request of another node. There is no answer if either is cut off by then,
// or gone.
func (n *Node) answer(to *Node, topic string, b []byte, answers chan<- []byte) {
	n.mu.Lock()
	running := n.running
	n.mu.Unlock()
	select {
	case <-running:
	case <-n.ended:
		return
	}
	var a []byte
	if f := n.handler(topic); f != nil {
		a = f(n.life, to.id, b)
	}
	n.mu.Lock()
	running = n.running
	n.mu.Unlock()
	select {
	case <-running: // it may hang by now
	case <-n.ended:
		return
	}
	if len(a) > hub.MaxBusPayload {
		a = nil
	}
	if n.reaches() && to.reaches() {
		answers <- a
	}
}

// Ask implements hub.Bus.
func (n *Node) Ask(ctx context.Context, topic string, b []byte, answer func(hub.NodeID, []byte) bool) error {
	if err := n.sendable(b); err != nil {
		return err
	}
	n.mu.Lock()
	ids := slices.Collect(maps.Keys(n.peers))
	n.mu.Unlock()
	return hub.AskEach(ctx, ids, func(ctx context.Context, id hub.NodeID) ([]byte, error) { return n.Request(ctx, id, topic, b) }, answer)
}
