// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/internal/sampler"
)

// A Hub connects the agents and channels of one name. It outlives configuration reloads.
// All its methods may be called concurrently.
//
// It is larger than 25 fields because all parts of a hub meet here, and than 40 methods because
// each of these parts begins there.
type Hub struct {
	// Immutable after New.
	name     string
	flushers []*flusher
	timers   *timers
	seed     maphash.Seed

	// Safe by themselves.
	log           swappable
	channels      *directory // by name
	patterns      *directory // by the prefix that a pattern stands for
	repeats       *repeats
	history       *history
	presences     presences
	quota         *quota
	writers       writers
	fanouts       sync.Pool // of *fanout
	reauthorizers reauthorizers
	nextShard     atomic.Uint32
	counts        *counts
	refusals      refusals
	pacer         pacer
	programs      sharedBucket    // of what programs publish
	failures      sampler.Sampler // log lines about publishes that failed
	ends          sampler.Sampler // of the log lines about agents that are gone
	events        *eventQueue     // nil if nothing listens; set before the first Open
	partings      atomic.Int32    // disconnect gates that are being asked
	others        otherNodes
	operating     chan struct{} // buffered(maxOperating): orders of Operators that are carried out

	// Ends when Drain or Close is called.
	life context.Context //nolint:containedctx // of the hub, whose part this is
	end  context.CancelFunc

	mu       sync.Mutex           // guards the following; may be held when Agent.mu is taken
	policies map[string][]*Policy // by mount, oldest generation first
	agents   map[*Agent]struct{}
	closed   bool
	going    bool // Drain was called: Open refuses
}

// New returns a Hub whose messages go through broker. A nil broker means a memory Broker
// for this process alone. New fails if the Broker does not start.
func New(name string, broker Broker) (*Hub, error) {
	if broker == nil {
		broker = NewMemoryBroker()
	}
	h := &Hub{
		name:     name,
		seed:     maphash.MakeSeed(),
		channels: newDirectory(false),
		patterns: newDirectory(true),
		repeats:  newRepeats(),
		history:  newHistory(),
		quota:    newQuota(),
		policies: make(map[string][]*Policy),
		agents:   make(map[*Agent]struct{}),

		operating: make(chan struct{}, maxOperating),
	}
	h.life, h.end = context.WithCancel(context.Background())
	h.timers = newTimers()
	for range runtime.GOMAXPROCS(0) {
		h.flushers = append(h.flushers, newFlusher())
	}
	h.counts = newCounts(len(h.flushers))
	h.fanouts.New = func() any { return &fanout{batches: make([][]*Agent, len(h.flushers))} }
	h.pacer.hub = h
	h.pacer.limit(nil)
	h.log.broker.Store(&broker)
	if err := h.start(broker, (*replica)(h)); err != nil {
		h.Close()
		return nil, fmt.Errorf("starting the broker of hub %q: %w", name, err)
	}
	h.OnBus(h.joinNodes)
	h.OnBus(func(b Bus) { h.presences.connect(h, b) })
	return h, nil
}

// Name returns the name of the hub.
func (h *Hub) Name() string { return h.name }

// Agents returns the number of sessions, connected or not.
func (h *Hub) Agents() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.agents)
}

// Channels returns the number of channels and patterns that have subscribers.
func (h *Hub) Channels() int {
	return int(h.channels.count.Load() + h.patterns.count.Load())
}

// Use makes p the newest generation of its Mount. It returns p with its defaults filled
// in; pass that Policy to Open and Drop. Existing agents keep their policy until Drop
// ends it, so a configuration that fails to load later changes nothing for them.
func (h *Hub) Use(p *Policy) *Policy {
	p = p.withDefaults()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.policies[p.Mount] = append(h.policies[p.Mount], p)
	h.limitHistoryLocked()
	return p
}

// Open begins a session under p, which Use returned, and returns its agent, which is not
// connected yet. It returns a *Refusal if a limit is reached. The caller must then call
// Start, or Left if it gives the session up.
func (h *Hub) Open(p *Policy, o Opening) (*Agent, error) {
	a, r := h.open(p, o)
	if r != nil {
		h.counts.refuse(r.Code)
		h.noteRefusal(opSession, r, "", "", o.User, o.Namespace)
		return nil, r
	}
	return a, nil
}

func (h *Hub) open(p *Policy, o Opening) (*Agent, *Refusal) {
	key := addressKey(o.RemoteIP)
	if r := h.quota.enter(key, p.Limits); r != nil {
		return nil, r
	}
	a := h.newAgent(o)
	a.opened = h.timers.now()
	a.shard = uint16(h.nextShard.Add(1) % uint32(len(h.flushers)))
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.goingAwayLocked(); r != nil {
		h.quota.leave(key, false)
		return nil, r
	}
	a.applied, a.out.queue.limits = p, &p.Limits
	// A reload may have dropped p since the request came in.
	if all := h.policies[p.Mount]; len(all) == 0 {
		h.quota.leave(key, false)
		return nil, refuse(CodeUnavailable, "this endpoint is no longer served")
	} else if !slices.Contains(all, p) {
		p = all[len(all)-1]
	}
	a.policy.Store(p)
	h.listLocked(a)
	return a, nil
}

// listLocked adds a to the hub's agents, and counts it.
func (h *Hub) listLocked(a *Agent) {
	h.agents[a] = struct{}{}
	h.counts.openedLocked(a.opening.Transport())
}

// newAgent makes an agent that the hub does not list, and that has no policy yet.
func (h *Hub) newAgent(o Opening) *Agent {
	a := &Agent{hub: h, id: uuid.New(), opening: newOpened(&o)}
	a.in.agent, a.out.agent, a.leases.agent = a, a, a
	a.identity.Store(noIdentity)
	return a
}

// Close closes every agent with CloseUnavailable and waits for the flushers and writers.
func (h *Hub) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	h.end()
	agents := slices.Collect(maps.Keys(h.agents))
	h.mu.Unlock()
	for i, retry := range comeBack(len(agents)) {
		agents[i].Close(CloseUnavailable, goingAway.Reason, retry)
	}
	h.timers.close()
	for _, f := range h.flushers {
		f.close()
	}
	h.writers.wait()
	h.events.close()
	h.presences.close()
	_ = h.log.close() // all agents are closed: nothing could use the error
	h.history.close()
}

// OnEnd calls f, in a goroutine of its own, when Drain or Close is called, or at once if
// one was. stop takes that back, and reports whether f will not be called.
func (h *Hub) OnEnd(f func()) (stop func() bool) { return context.AfterFunc(h.life, f) }

// Publish gives m to the Broker, and counts it. While agents that get m lag, it first waits
// for them, for a bounded time (see pace.go). It returns the position of m if the log
// has it. See Broker.Publish for the errors.
func (h *Hub) Publish(ctx context.Context, m *Message) (Position, error) {
	size := len(m.object)
	p := h.pacer.begin(ctx, m, 1, size)
	defer h.pacer.end(p, 1, size)
	at, err := h.log.publish(ctx, m)
	if err != nil {
		h.counts.drop(DropFailed, 1)
		return Position{}, err
	}
	h.counts.published.Add(1)
	return at, nil
}

// limitHistoryLocked gives the history the highest limit of all policies, and the pacer the
// lowest ones. The caller holds h.mu.
func (h *Hub) limitHistoryLocked() {
	most := 0
	for _, policies := range h.policies {
		for _, p := range policies {
			most = max(most, p.Limits.HistoryBytes)
		}
	}
	h.pacer.limit(h.policies)
	if most > 0 { // else there is no endpoint, or the next configuration has not come yet
		h.history.limit(most)
	}
}

// forget removes a from the hub and counts its end. code is 0 if the server did not close
// it.
func (h *Hub) forget(a *Agent, code CloseCode, lasted time.Duration) {
	h.timers.drop(a)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.agents, a)
	h.counts.endedLocked(a.opening.Transport(), code, lasted)
}

// appendNodes appends the nodes that get m: its channel, and the patterns that match it, the
// longest prefix first.
func (h *Hub) appendNodes(nodes []*node, m *Message) []*node {
	n := m.node
	if n == nil || n.dead.Load() {
		n = h.channels.find(m.key)
	}
	if n != nil {
		nodes = append(nodes, n)
	}
	return h.appendPatterns(nodes, m)
}

func (h *Hub) appendPatterns(nodes []*node, m *Message) []*node {
	if h.patterns.count.Load() == 0 {
		return nodes
	}
	for prefix := range prefixesOf(m.Channel) {
		if n := h.patterns.find(m.key[:len(m.key)-len(m.Channel)+len(prefix)]); n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// firstNode returns the first of the nodes that get m, or nil. If that is its channel, m
// remembers it. Call it before m is published.
func (h *Hub) firstNode(m *Message) *node {
	if m.node = h.channels.find(m.key); m.node != nil {
		return m.node
	}
	var few [4]*node
	if patterns := h.appendPatterns(few[:0], m); len(patterns) > 0 {
		return patterns[0]
	}
	return nil
}

// A fanout holds the working memory of one delivery.
type fanout struct {
	nodes    []*node
	batches  [][]*Agent // for each flusher, by index
	messages []item     // what is delivered, in the encoding of form
	form     *Form
	queued   []int32 // for how many subscriptions each of the messages is queued
	lags     []*lag  // of the agents that lag
}

// encode encodes the messages in another form.
func (f *fanout) encode(form *Form) {
	f.form = form
	for i := range f.messages {
		f.messages[i].bytes = f.messages[i].msg.encoded(form)
	}
}

// A replica is a Hub as its Broker sees it.
type replica Hub

// Entry implements Sink: it keeps m if its channel has a history, and hands it to all
// subscribers.
func (r *replica) Entry(seq uint64, at time.Time, m *Message) {
	h := (*Hub)(r)
	if seq != 0 && !h.history.add(seq, at, m) {
		return
	}
	r.unkept([]*Message{m})
}

// unkept hands messages of one channel to all subscribers. It measures them as one.
func (r *replica) unkept(messages []*Message) {
	h := (*Hub)(r)
	begun := h.timers.now()
	h.fanOut(messages...)
	h.counts.fanOut.Observe(h.timers.now() - begun)
}

// Reset implements Sink.
func (r *replica) Reset(epoch Epoch, first, head uint64) {
	r.history.reset(epoch, first, head)
	if r.log.runs.Load() { // the log was replaced: what it has already is handed to nobody
		(*Hub)(r).sendBack()
	}
}

// Floor implements Sink.
func (r *replica) Floor(key string, seq uint64, why string) { r.history.setFloor(key, seq, why) }

// Lost implements Sink.
func (r *replica) Lost(_, to uint64) {
	if r.history.loseUpTo(to) {
		(*Hub)(r).sendBack()
	}
}

// Behind implements Sink.
func (r *replica) Behind(behind bool) {
	r.history.mu.Lock()
	defer r.history.mu.Unlock()
	r.history.behind = behind
	r.history.wakeLocked(behind)     // a position that is ahead counts then
	if !behind && r.history.replay { // the log came later than this server
		r.history.replayedLocked()
	}
}

// IsBehind reports whether messages of other machines may be missing here for the moment.
func (h *Hub) IsBehind() bool {
	h.history.mu.Lock()
	defer h.history.mu.Unlock()
	return h.history.behind
}

// fanOut queues messages of one channel, in their order, for every agent that subscribed to
// the channel or to a pattern that matches it, once for each agent. It waits only for the locks
// of those nodes. There is one call at a time about one channel.
func (h *Hub) fanOut(messages ...*Message) {
	f := h.fanouts.Get().(*fanout)
	defer f.put(h)
	for _, m := range messages {
		f.messages, f.queued = append(f.messages, item{msg: m}), append(f.queued, 0)
	}
	f.nodes = h.appendNodes(f.nodes, messages[0])
	// Hold all nodes together. Otherwise an agent that moves from one to another
	// meanwhile would get the message twice. Every delivery locks them in this order,
	// from the channel to the shortest prefix.
	for _, n := range f.nodes {
		n.mu.RLock()
	}
	for i, n := range f.nodes {
		for _, s := range n.members {
			if s.agent.enqueue(f, s, f.nodes[:i]) {
				h.wake(f, s.agent)
			}
		}
	}
	for _, n := range f.nodes {
		n.mu.RUnlock()
	}
	if len(f.lags) > 0 {
		f.nodes[0].pace.crowdAt(f.lags, f.queued[len(f.queued)-1])
	}
	for i, m := range messages {
		m.queued.Store(f.queued[i])
	}
}

// wake notifies the flusher of a, together with other agents of its shard.
func (h *Hub) wake(f *fanout, a *Agent) {
	batch := append(f.batches[a.shard], a)
	if len(batch) == fanoutBatch {
		h.flushers[a.shard].add(batch...)
		batch = batch[:0]
	}
	f.batches[a.shard] = batch
}

// put wakes the flushers of the agents that f has queued for, and returns f to the pool.
func (f *fanout) put(h *Hub) {
	for i, batch := range f.batches {
		if len(batch) > 0 {
			h.flushers[i].add(batch...)
		}
		clear(batch[:cap(batch)])
		f.batches[i] = batch[:0]
	}
	clear(f.nodes)
	clear(f.lags)
	clear(f.messages)
	f.nodes, f.lags, f.messages, f.queued, f.form = f.nodes[:0], f.lags[:0], f.messages[:0], f.queued[:0], nil
	h.fanouts.Put(f)
}
