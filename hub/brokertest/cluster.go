// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Cluster is the log of one hub, in memory, with any number of nodes: what an engine and
// several machines are in production. Tests set its faults, which the methods of Node have.
// It works inside and outside of testing/synctest bubbles.
type Cluster struct {
	mu      sync.Mutex // guards the following; a leaf
	changed chan struct{}
	log     *clusterLog
	started int
	nodes   []*Node // those that run, also if they hang
}

// A clusterLog is what a Cluster has until it is replaced. Cluster.mu guards it.
type clusterLog struct {
	epoch   hub.Epoch
	first   uint64 // the number of entries[0]
	entries []clusterEntry
	byID    map[[16]byte]clusterID
}

type clusterEntry struct {
	at     time.Time
	record []byte
}

type clusterID struct {
	at       time.Time
	position hub.Position
	data     [sha256.Size]byte
}

// rememberFor is how long a Cluster knows IDs.
const rememberFor = 2 * time.Minute

// NewCluster returns a Cluster with an empty log and no nodes.
func NewCluster() *Cluster {
	return &Cluster{changed: make(chan struct{}), log: newClusterLog()}
}

func newClusterLog() *clusterLog {
	return &clusterLog{epoch: hub.NewEpoch(), first: 1, byID: make(map[[16]byte]clusterID)}
}

// last returns the number of the newest entry.
func (l *clusterLog) last() uint64 { return l.first + uint64(len(l.entries)) - 1 }

// Node returns a node with a name, and another incarnation for each call. It is up when its
// method Start was called, by hub.New. Two nodes with the same name must not run at once.
func (c *Cluster) Node(name string) *Node {
	c.mu.Lock()
	c.started++
	id := hub.NodeID{Name: name, Incarnation: string(hub.NewEpoch())}
	c.mu.Unlock()
	n := &Node{
		cluster:  c,
		id:       id,
		ended:    make(chan struct{}),
		running:  make(chan struct{}),
		queued:   make(chan struct{}, 1),
		handlers: make(map[string]busHandler),
		peers:    make(map[hub.NodeID]*peer),
	}
	close(n.running)
	n.life, n.end = context.WithCancel(context.Background())
	return n
}

// Last returns the number of the newest entry.
func (c *Cluster) Last() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.last()
}

// Evict drops entries up to a number from the log. Nodes that have not applied them yet have
// lost them.
func (c *Cluster) Evict(upTo uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.log
	upTo = min(upTo, l.last())
	if upTo < l.first {
		return
	}
	l.entries = append([]clusterEntry(nil), l.entries[upTo-l.first+1:]...)
	l.first = upTo + 1
	c.tellLocked()
}

// Replace replaces the log by an empty one.
func (c *Cluster) Replace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = newClusterLog()
	c.tellLocked()
}

// tellLocked wakes all that wait for a change of the log, or of a fault.
func (c *Cluster) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Cluster) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tellLocked()
}

// append appends m to the log, unless it is there.
func (c *Cluster) append(m *hub.Message) (hub.Position, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, id, data, at := c.log, m.ID(), sha256.Sum256(m.Data), time.Now()
	if seen, ok := l.byID[id]; ok && at.Sub(seen.at) < rememberFor {
		if seen.data != data {
			return hub.Position{}, hub.ErrConflict
		}
		return seen.position, nil
	}
	l.entries = append(l.entries, clusterEntry{at, m.AppendRecord(nil)})
	p := hub.Position{Epoch: l.epoch, Seq: l.last(), Check: hub.CheckOf(at)}
	l.byID[id] = clusterID{at, p, data}
	c.tellLocked()
	return p, nil
}

// A PublishFault is what goes wrong with a publish.
type PublishFault int

// What can happen to a publish.
const (
	PublishWorks      PublishFault = iota
	PublishRefused                 // the log takes it not, and the node knows that
	PublishLost                    // the log takes it not, and the node does not know that
	PublishUnanswered              // the log takes it, and the node does not know that
)

// A Node is a machine of a Cluster as its hub sees it: the Broker and the Bus. It lasts for
// one start of a process. Faults may be set at any time.
type Node struct {
	// Immutable.
	cluster *Cluster
	id      hub.NodeID
	life    context.Context //nolint:containedctx // of the node, which ends it
	end     context.CancelFunc
	ended   chan struct{} // closed when life ends
	sink    hub.Sink      // set by Start
	work    sync.WaitGroup

	mu       sync.Mutex // guards the following; a leaf
	state    nodeState
	running  chan struct{} // closed unless the node hangs
	cut      bool
	held     bool
	fault    func(*hub.Message) PublishFault
	lose     func(topic string, b []byte) bool
	delay    time.Duration
	handlers map[string]busHandler
	watchers []func(hub.NodeID, bool)
	peers    map[hub.NodeID]*peer
	queue    []queuedCall
	queued   chan struct{} // buffered(1): the queue is not empty
}

type nodeState int

const (
	nodeNew nodeState = iota
	nodeUp
	nodeGone
)

var (
	_ hub.Broker = (*Node)(nil)
	_ hub.Bus    = (*Node)(nil)
)

var (
	errRefused = errors.New("the log refuses the message")
	errCut     = errors.New("this node is cut off from the bus")
)

// Start implements hub.Broker.
func (n *Node) Start(_ context.Context, s hub.Sink) error {
	n.sink = s
	n.cluster.mu.Lock()
	l := n.cluster.log
	first, entries := l.first, l.entries
	n.cluster.mu.Unlock()
	s.Reset(l.epoch, first, first+uint64(len(entries))-1)
	for i, e := range entries {
		n.apply(first+uint64(i), e)
	}
	n.work.Go(func() { n.follow(l, first+uint64(len(entries))) })
	n.work.Go(n.handleQueue)
	n.work.Go(n.beat)
	n.join()
	return nil
}

// apply gives an entry to the hub.
func (n *Node) apply(seq uint64, e clusterEntry) {
	m, err := hub.ParseRecord(e.record)
	if err != nil {
		panic(err) // AppendRecord has made it
	}
	n.sink.Entry(seq, e.at, m)
}

// follow applies the entries of a log from a number on, and of the logs that replace it.
func (n *Node) follow(l *clusterLog, next uint64) {
	behind := false
	c := n.cluster
	for {
		c.mu.Lock()
		now, first, entries, changed := c.log, c.log.first, c.log.entries, c.changed
		c.mu.Unlock()
		n.mu.Lock()
		held, running := n.held, n.running
		n.mu.Unlock()
		select {
		case <-n.ended:
			return
		case <-running:
		}
		if held && !behind {
			behind = true
			n.sink.Behind(true)
		}
		switch {
		case held:
		case now != l:
			l, next = now, first
			n.sink.Reset(l.epoch, first, first+uint64(len(entries))-1)
			continue
		case next < first:
			n.sink.Lost(next, first-1)
			next = first
			continue
		case next-first < uint64(len(entries)):
			n.apply(next, entries[next-first])
			next++
			continue
		case behind:
			behind = false
			n.sink.Behind(false)
		}
		select {
		case <-n.ended:
			return
		case <-changed:
		}
	}
}

// Publish implements hub.Broker.
func (n *Node) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	n.mu.Lock()
	state, running, fault := n.state, n.running, PublishWorks
	if n.fault != nil {
		fault = n.fault(m)
	}
	n.mu.Unlock()
	if state != nodeUp {
		return hub.Position{}, hub.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return hub.Position{}, err
	}
	select {
	case <-running:
	case <-ctx.Done():
		return hub.Position{}, ctx.Err()
	case <-n.ended:
		return hub.Position{}, hub.ErrClosed
	}
	switch fault {
	case PublishRefused:
		return hub.Position{}, errRefused
	case PublishLost:
		return hub.Position{}, hub.ErrUnknown
	}
	at, err := n.cluster.append(m)
	if fault == PublishUnanswered {
		return hub.Position{}, hub.ErrUnknown
	}
	return at, err
}

// Bus implements hub.Broker.
func (n *Node) Bus() hub.Bus { return n }

// Close implements hub.Broker. The other nodes get to know it at once.
func (n *Node) Close() error {
	n.leave(true)
	return nil
}

// Kill ends the node as kill -9 ends a process: the others miss its heartbeats. Its hub gets
// nothing any more, and all that it asks for fails. Close the hub nevertheless.
func (n *Node) Kill() { n.leave(false) }

// leave ends the node, and waits until its hub gets no more entries.
func (n *Node) leave(goodbye bool) {
	n.mu.Lock()
	was := n.state
	n.state = nodeGone
	goodbye = goodbye && !n.cut && n.isRunningLocked()
	n.mu.Unlock()
	if was != nodeGone {
		n.end()
		close(n.ended)
		n.part(goodbye)
	}
	n.work.Wait()
}

// Hang stops the node if hung is set, as SIGSTOP stops a process, and lets it go on
// otherwise. The hub itself goes on: it only gets nothing, and publishes wait.
func (n *Node) Hang(hung bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case hung == !n.isRunningLocked():
	case hung:
		n.running = make(chan struct{})
	default:
		n.seenAllLocked()
		close(n.running)
	}
}

func (n *Node) isRunningLocked() bool {
	select {
	case <-n.running:
		return true
	default:
		return false
	}
}

// HoldLog holds back the entries of the log, or lets them come again. The hub is told that
// it is Behind, until it has all of them.
func (n *Node) HoldLog(held bool) {
	n.mu.Lock()
	n.held = held
	n.mu.Unlock()
	n.cluster.tell()
}

// FailPublishes has f say what goes wrong with each publish at this node; nil is nothing.
func (n *Node) FailPublishes(f func(*hub.Message) PublishFault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// CutBus cuts the node off from the Bus, or joins it again. The node knows that it is cut
// off; the others only miss its heartbeats. The log is not affected.
func (n *Node) CutBus(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut && !cut {
		n.seenAllLocked()
	}
	n.cut = cut
}

// LoseBroadcasts has f say which broadcasts do not arrive at this node; nil is none.
func (n *Node) LoseBroadcasts(f func(topic string, b []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose = f
}

// DelayBroadcasts has broadcasts arrive later at this node. They keep their order.
func (n *Node) DelayBroadcasts(by time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = by
}
