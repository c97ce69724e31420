// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// A subscription makes an agent a member of a node.
type subscription struct {
	agent     *Agent
	behind    *laggards // nil: it is live; else none come live, because it catches up; guarded by agent.mu
	fed       uint64    // kept messages up to this number do not come live; guarded by agent.mu
	node      *node
	index     int32  // in node.members; guarded by node.mu
	byConnect bool   // the connect gate made it, and no other gate was asked; guarded by agent.mu
	lists     bool   // in a seat: its endpoint lists members, and does not only count them; guarded as seat
	seat      *seat  // nil: its channel has no presence; written with node.mu and agent.mu held, read with either
	lease     lease  // guarded by agent.mu
	from      uint64 // it brings all kept messages that follow this number; guarded by agent.mu
}

// channel returns the channel or pattern.
func (s *subscription) channel() string {
	_, channel, _ := cutKey(s.node.name)
	return channel
}

// A node is a channel or pattern that has subscribers. The first subscriber makes it; when
// the last one leaves, it is dead.
type node struct {
	// Immutable.
	name string // the channel or pattern, after its namespace: see keyOf
	home *directory

	mu      sync.RWMutex // guards the following; read-held while a fan-out enqueues a message for the members
	members []*subscription
	told    bool // the event that it is occupied was queued

	dead atomic.Bool // no longer in its directory: look the key up again; set with mu held

	pace pace
}

// key returns the key of n in its directory. That of a pattern ends with its prefix.
func (n *node) key() string {
	if n.home.patterns {
		return patternPrefix(n.name)
	}
	return n.name
}

// addLocked adds s. The caller holds n.mu.
func (n *node) addLocked(s *subscription) {
	s.index = int32(len(n.members))
	n.members = append(n.members, s)
	n.home.members.Add(1)
	if !n.told {
		n.told = true
		n.tellLocked(ChannelOccupied)
	}
}

// removeLocked removes s. The caller holds n.mu.
func (n *node) removeLocked(s *subscription) {
	n.home.members.Add(-1)
	s.unwatchLocked()
	last := len(n.members) - 1
	moved := n.members[last]
	n.members[s.index], moved.index = moved, s.index
	n.members[last] = nil
	n.members = n.members[:last]
	if len(n.members) > 64 && len(n.members) < cap(n.members)/4 {
		n.members = append(make([]*subscription, 0, 2*len(n.members)), n.members...)
	}
}

// unlock releases n.mu, and removes n from its directory if it has no members.
func (n *node) unlock() {
	if !n.dead.Load() && len(n.members) == 0 {
		n.dead.Store(true)
		if n.told {
			n.tellLocked(ChannelVacated)
		}
	}
	dead := n.dead.Load()
	n.mu.Unlock()
	if dead {
		n.home.release(n)
	}
}

const directoryShards = 64

// A directory finds nodes by key.
type directory struct {
	patterns bool        // the keys are those of patterns, not of channels; immutable
	events   *eventQueue // set before the first node is made

	seed    maphash.Seed
	count   atomic.Int64 // nodes in all
	members atomic.Int64 // subscriptions in all
	shards  [directoryShards]struct {
		mu    sync.RWMutex // guards nodes; no other lock is taken under it
		nodes map[string]*node
	}
}

func newDirectory(patterns bool) *directory {
	d := &directory{patterns: patterns, seed: maphash.MakeSeed()}
	for i := range d.shards {
		d.shards[i].nodes = make(map[string]*node)
	}
	return d
}

// find returns the node of key, or nil if there is none.
func (d *directory) find(key string) *node {
	if d.count.Load() == 0 {
		return nil
	}
	s := &d.shards[maphash.String(d.seed, key)%directoryShards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nodes[key]
}

// obtain returns the node of key. If there is none, it makes one and counts it, and
// returns nil if fits then returns false.
func (d *directory) obtain(key string, fits func() bool) *node {
	s := &d.shards[maphash.String(d.seed, key)%directoryShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[key]; n != nil {
		return n
	}
	d.count.Add(1)
	if !fits() {
		d.count.Add(-1)
		return nil
	}
	n := &node{home: d}
	if d.patterns {
		n.name = key + "*"
	} else {
		n.name = strings.Clone(key) // the key shares an allocation with the rest of a frame
	}
	s.nodes[n.key()] = n
	return n
}

// release removes a dead node.
func (d *directory) release(n *node) {
	key := n.key()
	s := &d.shards[maphash.String(d.seed, key)%directoryShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[key] == n {
		delete(s.nodes, key)
		d.count.Add(-1)
	}
}
