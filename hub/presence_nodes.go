// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub/internal/presence"
)

// With several machines, each node owns what it says about members: how many tabs each has
// there. It broadcasts what has changed, in numbered deltas, and its number at least twice a
// second. A node that has missed a delta requests the whole state. What all nodes say is
// merged in the rosters, so each node tells its watchers by itself.

// The topics of presence on the Bus.
const (
	topicPresence      = "presence"       // a delta, or only its number
	topicPresenceState = "presence state" // a request for a part of the whole state
)

const (
	// sayEvery is the least time between two deltas. It is also how often the hub looks.
	sayEvery = presence.Interval
	// beatLooks is after how many looks without a delta a node says its number.
	beatLooks = int(500 * time.Millisecond / sayEvery)
	// partTimeout is how long a node waits for a part of the state of another one, and
	// fetchTimes how often it tries, each time twice as long. A request that meets a fault
	// must not last much longer than the fault.
	partTimeout = 500 * time.Millisecond
	fetchTimes  = 3
	// stateKept is how long a state is kept for the requests of its other parts.
	stateKept = 10 * time.Second
	// maxEarly is the most bytes of deltas that wait for the whole state.
	maxEarly = 4 << 20
)

// presenceBus connects the rosters of a hub with those of other nodes, over one Bus.
type presenceBus struct {
	hub *Hub
	bus Bus
	end context.CancelFunc

	saying sync.Mutex // guards the following; held while statements are read; taken before presences.mu
	number uint64     // of the last delta
	idle   int        // looks since it
	states []nodeState

	noting sync.Mutex // guards unsaid; taken under roster.mu
	unsaid map[unsaid]bool

	mu    sync.Mutex // guards the following; taken before a node's mu
	ended bool
	last  presence.Node
	nodes map[NodeID]*presenceNode
}

// An unsaid member has changed at this node since the last delta. The value says that it
// does not linger.
type unsaid struct {
	key string
	id  presence.ID
}

// A nodeState is the whole state of this node, as others request it.
type nodeState struct {
	number uint64
	chunks [][]byte
	at     time.Duration
}

// connect begins to work over a Bus, in place of an earlier one. b is nil if there are no
// other machines.
func (ps *presences) connect(h *Hub, b Bus) {
	var next *presenceBus
	if b != nil {
		next = &presenceBus{hub: h, bus: b, unsaid: make(map[unsaid]bool), nodes: make(map[NodeID]*presenceNode)}
	}
	if before := ps.bus.Swap(next); before != nil {
		before.close()
	}
	if next == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // not that of the hub, which ends before the agents leave
	next.end = cancel
	b.Handle(topicPresence, next.hear)
	b.Handle(topicPresenceState, next.tell)
	b.Watch(func(id NodeID, up bool) { next.watch(ctx, id, up) })
	go next.run(ctx)
}

// close forgets all other nodes. Their members linger.
func (pb *presenceBus) close() {
	pb.end()
	pb.mu.Lock()
	nodes := pb.nodes
	pb.nodes, pb.ended = nil, true
	pb.mu.Unlock()
	for _, n := range nodes {
		n.down()
	}
}

// noteLocked notes that what this node says about a member of r has changed. The caller
// holds r.mu.
func (r *roster) noteLocked(id presence.ID, cut bool) {
	pb := r.hub.presences.bus.Load()
	if pb == nil {
		return
	}
	pb.noting.Lock()
	defer pb.noting.Unlock()
	u := unsaid{r.key, id}
	pb.unsaid[u] = pb.unsaid[u] || cut
}

// run says what has changed until ctx ends.
func (pb *presenceBus) run(ctx context.Context) {
	look := time.NewTicker(sayEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			pb.say()
		}
	}
}

// say broadcasts what has changed. A broadcast that fails is a gap to the others: they
// request the state.
func (pb *presenceBus) say() {
	pb.saying.Lock()
	defer pb.saying.Unlock()
	pb.noting.Lock()
	var changed map[unsaid]bool
	if len(pb.unsaid) > 0 {
		changed, pb.unsaid = pb.unsaid, make(map[unsaid]bool)
	}
	pb.noting.Unlock()
	if pb.idle++; len(changed) == 0 {
		if pb.idle >= beatLooks {
			pb.idle = 0
			_ = pb.bus.Broadcast(topicPresence, binary.AppendUvarint(nil, pb.number))
		}
		return
	}
	pb.idle = 0
	byKey := make(map[string][]unsaid)
	for u := range changed {
		byKey[u.key] = append(byKey[u.key], u)
	}
	var w presence.Writer
	for key, list := range byKey {
		r, rule := pb.hub.presences.ruleOf(key)
		w.Begin(key, rule)
		for _, u := range list {
			s := presence.Statement{ID: u.id, Cut: changed[u]}
			if r != nil {
				r.mu.Lock()
				s.Tabs, s.Info, s.At = r.state.State(thisNode, u.id)
				r.mu.Unlock()
			}
			w.Say(&s)
		}
		w.End()
	}
	for _, chunk := range w.Chunks() {
		pb.number++
		_ = pb.bus.Broadcast(topicPresence, append(binary.AppendUvarint(nil, pb.number), chunk...))
	}
}

// ruleOf returns the roster with a key, and its rule; nil if there is none.
func (ps *presences) ruleOf(key string) (*roster, presence.Rule) {
	r := ps.find(key)
	if r == nil {
		return nil, presence.Rule{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.state.Rule()
}

// all returns all rosters.
func (ps *presences) all() (list []*roster) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, r := range ps.rosters {
		list = append(list, r)
	}
	return list
}

// tell answers a request for a part of the whole state. The request has the number of the
// part and, but for the first part, that of the state. So does the answer, with the count of
// parts in place of the former.
func (pb *presenceBus) tell(_ context.Context, _ NodeID, b []byte) []byte {
	part, n := binary.Uvarint(b)
	if n <= 0 {
		return nil
	}
	number, m := binary.Uvarint(b[n:])
	if m <= 0 {
		return nil
	}
	pb.saying.Lock()
	defer pb.saying.Unlock()
	now := pb.hub.timers.now()
	pb.states = slices.DeleteFunc(pb.states, func(s nodeState) bool { return now-s.at > stateKept })
	if part == 0 {
		number = pb.number
	}
	i := slices.IndexFunc(pb.states, func(s nodeState) bool { return s.number == number })
	if i < 0 && part == 0 {
		i = len(pb.states)
		pb.states = append(pb.states, nodeState{pb.number, pb.whole(), now})
	}
	if i < 0 || part >= uint64(len(pb.states[i].chunks)) {
		return nil
	}
	s := &pb.states[i]
	answer := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(s.chunks))), s.number)
	return append(answer, s.chunks[part]...)
}

// whole returns all that this node says. What changes meanwhile is in the next delta too,
// which is made later. The caller holds pb.saying.
func (pb *presenceBus) whole() [][]byte {
	var w presence.Writer
	for _, r := range pb.hub.presences.all() {
		r.mu.Lock()
		if r.seats > 0 {
			w.Begin(r.key, r.state.Rule())
			r.state.Each(thisNode, func(id presence.ID, tabs int, info string, at int64) bool {
				w.Say(&presence.Statement{ID: id, Tabs: tabs, Info: info, At: at})
				return true
			})
			w.End()
		}
		r.mu.Unlock()
	}
	return w.Chunks()
}

// A presenceNode is another node, while it is up.
type presenceNode struct {
	*presenceBus
	id NodeID
	as presence.Node

	asking atomic.Bool // a goroutine requests the state

	mu     sync.Mutex // guards the following; held while statements are applied; taken before presences.mu
	gone   bool
	known  bool   // its state is, up to number
	number uint64 // of the last delta that was applied
	early  [][]byte
	bytes  int // of early
}

// watch notes that a node is up or down.
func (pb *presenceBus) watch(ctx context.Context, id NodeID, up bool) {
	pb.mu.Lock()
	n := pb.nodes[id]
	switch {
	case pb.ended, up == (n != nil):
		pb.mu.Unlock()
		return
	case up:
		n = &presenceNode{presenceBus: pb, id: id, as: pb.freeLocked()}
		pb.nodes[id] = n
	default:
		delete(pb.nodes, id)
	}
	pb.mu.Unlock()
	if up {
		n.request(ctx)
	} else {
		n.down()
	}
}

// freeLocked returns a number that no node has.
func (pb *presenceBus) freeLocked() presence.Node {
	for {
		pb.last++
		taken := pb.last == thisNode
		for _, n := range pb.nodes {
			taken = taken || n.as == pb.last
		}
		if !taken {
			return pb.last
		}
	}
}

// down notes that the node is gone. Its members linger.
func (n *presenceNode) down() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone, n.early = true, nil
	for _, r := range n.hub.presences.all() {
		r.mu.Lock()
		r.state.Down(r.now(), n.as)
		r.armLocked()
		r.mu.Unlock()
	}
}

// hear handles a delta of another node.
func (pb *presenceBus) hear(ctx context.Context, from NodeID, b []byte) []byte {
	pb.mu.Lock()
	n := pb.nodes[from]
	pb.mu.Unlock()
	if n != nil && !n.hear(b) { // else the state is requested when the node is up
		n.request(ctx)
	}
	return nil
}

// hear handles a delta. It reports whether the state of the node is known then.
func (n *presenceNode) hear(b []byte) (known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return true
	}
	if n.known {
		n.known = n.applyLocked(b)
		return n.known
	}
	if n.bytes += len(b); n.bytes <= maxEarly {
		n.early = append(n.early, slices.Clone(b))
	}
	return false
}

// applyLocked applies a delta. It returns false, and changes nothing, if one before it is
// missing.
func (n *presenceNode) applyLocked(b []byte) bool {
	number, size := binary.Uvarint(b)
	switch {
	case size <= 0:
		return false
	case number <= n.number:
		return true // it is known, or a heartbeat that says that nothing is new
	case number != n.number+1 || len(b) == size:
		return false
	}
	groups, err := presence.ParseGroups(b[size:])
	if err != nil {
		return false
	}
	n.number = number
	for i := range groups {
		n.setLocked(&groups[i])
	}
	return true
}

// setLocked applies the statements of a group.
func (n *presenceNode) setLocked(g *presence.Group) {
	ps := &n.hub.presences
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r := ps.rosters[g.Key]
	if r == nil {
		if !slices.ContainsFunc(g.Statements, func(s presence.Statement) bool { return s.Tabs > 0 }) {
			return
		}
		_, channel, _ := cutKey(g.Key)
		r = ps.addLocked(n.hub, g.Key, channel, g.Rule)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seats == 0 {
		r.state.SetRule(g.Rule)
	}
	now := r.now()
	for _, s := range g.Statements {
		r.state.Set(now, n.as, s.ID, s.Tabs, s.Info, s.At, !s.Cut)
	}
	r.armLocked()
}

// request has the state of the node requested, unless that is under way.
func (n *presenceNode) request(ctx context.Context) {
	if !n.asking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		groups, number, ok := n.fetch(ctx, partTimeout)
		for again := 1; !ok && again < fetchTimes && ctx.Err() == nil && !n.isGone(); again++ {
			groups, number, ok = n.fetch(ctx, partTimeout<<again)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.asking.Store(false) // if it failed, the next delta or heartbeat asks again
		early := n.early
		n.early, n.bytes = nil, 0
		if !ok || n.gone {
			return
		}
		n.replaceLocked(groups)
		n.number, n.known = number, true
		for _, b := range early {
			if n.known = n.applyLocked(b); !n.known {
				return
			}
		}
	}()
}

func (n *presenceNode) isGone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// fetch requests all parts of the state of the node, and waits for each part for a time.
func (n *presenceNode) fetch(ctx context.Context, patience time.Duration) (groups []presence.Group, number uint64, ok bool) {
	for part, parts := uint64(0), uint64(1); part < parts; part++ {
		within, cancel := context.WithTimeout(ctx, patience)
		b, err := n.bus.Request(within, n.id, topicPresenceState, binary.AppendUvarint(binary.AppendUvarint(nil, part), number))
		cancel()
		if err != nil {
			return nil, 0, false
		}
		var size, more int
		if parts, size = binary.Uvarint(b); size <= 0 {
			return nil, 0, false
		}
		if number, more = binary.Uvarint(b[size:]); more <= 0 {
			return nil, 0, false
		}
		some, err := presence.ParseGroups(b[size+more:])
		if err != nil {
			return nil, 0, false
		}
		groups = append(groups, some...)
	}
	return groups, number, true
}

// replaceLocked replaces all that the node has said. Members that it says nothing about any
// more linger: it may have said before that they do.
func (n *presenceNode) replaceLocked(groups []presence.Group) {
	said := make(map[unsaid]bool)
	for i := range groups {
		g := &groups[i]
		for _, s := range g.Statements {
			said[unsaid{g.Key, s.ID}] = true
		}
		n.setLocked(g)
	}
	for _, r := range n.hub.presences.all() {
		r.mu.Lock()
		var gone []presence.ID
		r.state.Each(n.as, func(id presence.ID, _ int, _ string, _ int64) bool {
			if !said[unsaid{r.key, id}] {
				gone = append(gone, id)
			}
			return true
		})
		for _, id := range gone {
			_, info, at := r.state.State(n.as, id)
			r.state.Set(r.now(), n.as, id, 0, info, at, true)
		}
		r.armLocked()
		r.mu.Unlock()
	}
}
