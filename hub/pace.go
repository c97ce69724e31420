// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// paceShare divides the queue limits of an agent. While more than that share waits for
	// it, the agent lags, and publishers wait for it. As much again may be in publishes that
	// are under way, so half of the queue is left for everything else.
	paceShare = 4
	// maxHold is how long one publish waits at the most.
	maxHold = 2 * time.Second
	// An agent that takes nothing for this long is stalled, and nobody waits for it. It is
	// longer if many lag, because they are written one after the other.
	stalledAfter, perWrite = time.Second, 200 * time.Microsecond
	// An agent that took nothing for this long before it lags is stalled until it takes
	// something: without a burst, a stalled agent holds nobody up.
	deafAfter = 500 * time.Millisecond
	// stragglerCredit is how long the publishers of a channel wait in all for agents that
	// read all the time, but more slowly than most. It comes back in stragglerGain times
	// that time. The wait counts busyShare times less while the hub writes more than
	// busyBytes a second: then it may be the machine that is slow, and not the agents.
	stragglerCredit = 3 * time.Second
	stragglerGain   = 1000
	busyBytes       = 4 << 20
	busyShare       = 10
	// paceTick is how often a publisher looks whom it waits for.
	paceTick = 20 * time.Millisecond
)

// A pace keeps the publishers of a node at the pace of the agents that read: it waits,
// within bounds, until what was published is written. Otherwise a burst could fill the
// queues of agents that read as fast as they can.
type pace struct {
	mu       sync.Mutex // guards the following; no other lock is taken under it
	messages int        // publishes under way
	bytes    int        // and their size
	slow     *slowPace  // nil if nothing ever waited
}

// A slowPace is the part of a pace that only nodes need where publishers waited.
type slowPace struct {
	waiting []*paceTurn // publishes that may not begin yet, in order
	crowd   *crowd      // of the newest message; nil if publishers need not wait for any agent

	spent   time.Duration // of stragglerCredit
	spentAt time.Duration // on the hub's clock
}

// A paceTurn is a publish that waits until fewer are under way.
type paceTurn struct {
	n     int           // messages
	size  int           // and their bytes
	ready chan struct{} // closed when it may begin; it counts from then on
}

// A crowd is the agents that lag after one message.
type crowd struct {
	lags   []*lag
	queued int           // subscriptions that the message was queued for
	led    bool          // a publisher watches the crowd for all that wait; guarded by pace.mu
	over   chan struct{} // closed when publishers need not wait for it any more
}

// A lag is the time during which one agent lags.
type lag struct {
	agent *Agent
	over  chan struct{} // closed when the agent does not lag any more
	deaf  time.Duration // outbox.moved when it began, if that was long before; 0 otherwise
}

// paceLimits are how much may be in publishes under way, for each node.
type paceLimits struct{ messages, bytes int }

// A pacer holds publishes back while agents lag.
type pacer struct {
	hub    *Hub
	limits atomic.Pointer[paceLimits]
}

// limit sets the limits so that they leave room in the queues of the agents of all policies.
func (pc *pacer) limit(all map[string][]*Policy) {
	l := paceLimits{math.MaxInt, math.MaxInt}
	for _, policies := range all {
		for _, policy := range policies {
			l.messages, l.bytes = min(l.messages, policy.Limits.QueueMessages), min(l.bytes, policy.Limits.QueueBytes)
		}
	}
	pc.limits.Store(&paceLimits{max(l.messages/paceShare, 1), max(l.bytes/paceShare, 1)})
}

// isBehind reports whether so much waits for the agent that publishers wait. A single item is
// never so much.
func (q *queue) isBehind(share int) bool {
	l := q.currentLimits()
	return q.count > max(1, l.QueueMessages/share) || q.count > 1 && q.bytes > l.QueueBytes/share
}

// lagLocked returns the agent's lag if it lags, else nil.
func (o *outbox) lagLocked() *lag {
	if o.queue.lag == nil && o.queue.isBehind(paceShare) && o.agent.state == stateConnected {
		o.queue.lag = &lag{agent: o.agent, over: make(chan struct{})}
		if o.moved != 0 && o.clock()-o.moved > deafAfter {
			o.queue.lag.deaf = o.moved
		}
	}
	return o.queue.lag
}

// caughtUpLocked ends the agent's lag if less waits for it now: half of what begins one, so
// that writes join many messages. It also ends if the agent is being closed.
func (o *outbox) caughtUpLocked() {
	if o.queue.lag != nil && (o.agent.state >= stateClosing || !o.queue.isBehind(2*paceShare)) {
		close(o.queue.lag.over)
		o.queue.lag = nil
	}
}

// begin waits until n messages of one channel, which have size bytes, may be published. m is the
// first of them. The caller calls end with p, n and size when the publish has ended. p is of the
// first node that gets m, or nil if there is none.
func (pc *pacer) begin(ctx context.Context, m *Message, n, size int) (p *pace) {
	first := pc.hub.firstNode(m)
	if first == nil {
		return nil
	}
	p = &first.pace
	l := pc.limits.Load()
	p.mu.Lock()
	if p.fitsLocked(l, n, size) && (p.slow == nil || len(p.slow.waiting) == 0 && p.slow.crowd == nil) {
		p.countLocked(n, size)
		p.mu.Unlock()
		return p
	}
	pc.hold(ctx, p, l, n, size)
	return p
}

// end ends what begin began.
func (pc *pacer) end(p *pace, n, size int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked(-n, -size)
	if p.slow == nil {
		return
	}
	l := pc.limits.Load()
	for len(p.slow.waiting) > 0 && p.fitsLocked(l, p.slow.waiting[0].n, p.slow.waiting[0].size) {
		next := p.slow.waiting[0]
		p.slow.waiting = slices.Delete(p.slow.waiting, 0, 1)
		p.countLocked(next.n, next.size)
		close(next.ready)
	}
}

func (p *pace) fitsLocked(l *paceLimits, n, size int) bool {
	return p.messages == 0 || p.messages+n <= l.messages && p.bytes+size <= l.bytes
}

func (p *pace) countLocked(n, size int) {
	p.messages += n
	p.bytes += size
}

func (p *pace) slowLocked() *slowPace {
	if p.slow == nil {
		p.slow = new(slowPace)
	}
	return p.slow
}

// hold waits until it is the turn of a publish, and no agent lags that is worth waiting for;
// or for maxHold. The publish counts when hold returns. The caller holds p.mu, which hold
// releases.
func (pc *pacer) hold(ctx context.Context, p *pace, l *paceLimits, n, size int) {
	h := pc.hub
	begun := h.timers.now()
	defer func() { h.counts.held.Observe(h.timers.now() - begun) }()
	ctx, cancel := context.WithTimeout(ctx, maxHold)
	defer cancel()
	defer context.AfterFunc(h.life, cancel)()
	s := p.slowLocked()
	if len(s.waiting) > 0 || !p.fitsLocked(l, n, size) {
		turn := &paceTurn{n, size, make(chan struct{})}
		s.waiting = append(s.waiting, turn)
		p.mu.Unlock()
		select {
		case <-turn.ready:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if i := slices.Index(s.waiting, turn); i >= 0 {
			s.waiting = slices.Delete(s.waiting, i, i+1)
			p.countLocked(n, size)
		}
	} else {
		p.countLocked(n, size)
	}
	for s.crowd != nil && ctx.Err() == nil {
		c := s.crowd
		if c.led {
			p.mu.Unlock()
			select {
			case <-c.over:
			case <-ctx.Done():
			}
			p.mu.Lock()
			continue
		}
		c.led = true
		p.mu.Unlock()
		pc.watch(ctx, p, c)
		p.mu.Lock()
		if s.crowd == c {
			s.crowd = nil
		}
		close(c.over)
	}
	p.mu.Unlock()
}

// watch waits until no agent of c lags that is worth waiting for, or ctx ends.
func (pc *pacer) watch(ctx context.Context, p *pace, c *crowd) {
	h := pc.hub
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		now := h.timers.now()
		wait, stragglers := c.look(now)
		if !wait || stragglers && !p.affords(now) {
			return
		}
		sent := h.counts.sent()
		c.await(ctx, tick.C)
		if stragglers {
			took := h.timers.now() - now
			if float64(h.counts.sent()-sent) > took.Seconds()*busyBytes {
				took /= busyShare
			}
			p.spend(took)
		}
	}
}

// await waits until no agent of c lags, for the next tick, or until ctx ends.
func (c *crowd) await(ctx context.Context, tick <-chan time.Time) {
	for len(c.lags) > 0 {
		last := len(c.lags) - 1
		select {
		case <-c.lags[last].over:
			c.lags = c.lags[:last]
		case <-tick:
			return
		case <-ctx.Done():
			return
		}
	}
}

// look reports whether an agent of c is worth waiting for, and whether it straggles: most of
// those that read do not lag. In a burst that the machine can just deliver, most lag.
func (c *crowd) look(now time.Duration) (wait, stragglers bool) {
	c.lags = slices.DeleteFunc(c.lags, func(l *lag) bool {
		select {
		case <-l.over:
			return true
		default:
			return false
		}
	})
	extra := time.Duration(len(c.lags)) * perWrite
	reading := 0
	for _, l := range c.lags {
		if l.silence(now) < stalledAfter+extra {
			reading++
		}
	}
	stalled := len(c.lags) - reading
	return reading > 0, 2*reading <= c.queued-stalled
}

// clock returns the time on the hub's clock, which is not 0.
func (o *outbox) clock() time.Duration { return max(o.agent.hub.timers.now(), 1) }

// noteMoved notes that a writer begins to write.
func (o *outbox) noteMoved() {
	o.agent.mu.Lock()
	defer o.agent.mu.Unlock()
	o.moved = o.clock()
}

// silence returns for how long the agent has taken nothing that is being written. Until a
// flusher has tried to write, it returns 0: the agent is not to blame for that wait.
func (l *lag) silence(now time.Duration) time.Duration {
	l.agent.mu.Lock()
	defer l.agent.mu.Unlock()
	o := &l.agent.out
	switch {
	case o.parked, o.held, o.moved != 0 && o.moved == l.deaf: // parked and held: it waits for a gate
		return math.MaxInt64 / 2
	case o.moved == 0:
		return 0
	}
	return now - o.moved
}

// affords reports whether the credit of stragglers allows to wait for them.
func (p *pace) affords(now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slow
	s.spent = max(0, s.spent-(now-s.spentAt)/stragglerGain)
	s.spentAt = now
	return s.spent < stragglerCredit
}

// spend takes d from the credit of stragglers.
func (p *pace) spend(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow.spent += d
}

// crowdAt notes which agents lag after a message.
func (p *pace) crowdAt(lags []*lag, queued int32) {
	c := &crowd{lags: slices.Clone(lags), queued: int(queued), over: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slowLocked().crowd = c
}
