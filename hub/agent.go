// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// An agent's life goes through these states in order; it may skip some.
type state uint8

const (
	stateOpen       state = iota // /meta/connect is awaited
	stateConnecting              // the connect gate is being asked
	stateConnected               // may do what its gates allow
	stateClosing                 // the last word is queued or said: nothing more goes in or out
	stateGone                    // the peer is gone
)

// An Agent is one connected endpoint: a browser tab, a program. It begins with
// Hub.Open and ends with its session.
type Agent struct {
	// Immutable after Open.
	hub     *Hub
	id      uuid.UUID
	opening Opening
	address netip.Prefix
	opened  time.Duration // when, on the schedule's clock
	lane    uint16        // which of the hub's flushers writes for it

	// Set by Start, before anything else happens.
	blocks bool // conn cannot write without blocking
	conn   Conn

	policy    atomic.Pointer[Policy]
	reload    atomic.Pointer[Reload]   // the one that is not done with the agent; nil for none
	identity  atomic.Pointer[Identity] // never nil
	heard     atomic.Int64             // when the peer was last heard, on the schedule's clock
	receiving atomic.Bool              // Receive runs: it is not the peer who is silent
	revoked   atomic.Uint32            // how often the right to what was queued has ended; grows with mu held
	due       dueEntry                 // guarded by schedule.mu

	awaitsReview bool // guarded by reviewers.mu

	// Owned by who handles frames: the goroutine that calls Receive, and while
	// frames are held, the one that decides the connect.
	frames, publishes, refreshes bucket
	received                     int64 // bytes

	// Owned by who writes: a flusher, or the agent's own goroutine; see writing.
	deadline bool          // writes have one
	renewed  time.Duration // when it was set, on the schedule's clock
	sent     int64         // bytes

	mu          sync.Mutex // guards the following; taken after hub.mu and node.mu
	cond        sync.Cond  // of mu: state, held, pending, wantsRoom or heeding have changed
	state       state
	writing     bool          // a flusher has the agent on its list, its conn is being written to, or it is parked
	parked      bool          // writing goes on when a reload is done with the agent
	silenced    bool          // no message goes out any more: it was cut, or is too slow
	connClosed  bool          // conn.Close was called
	heeding     bool          // somebody has the policy hold that is not yet heeded
	heeded      *Policy       // what holds for the agent in all; policy, but for the time of a reload
	limits      *Limits       // of the queue
	spare       *Limits       // of the queue, from before a reload; nil but for who was over the new ones then
	idle        chan struct{} // if not nil, closed when writing ends
	queue       *[]item       // nil while empty
	queued      int           // messages in queue and being written
	queuedBytes int
	wantsRoom   bool   // the reader waits until queue is half empty
	joined      bool   // was allowed to connect
	agentID     string // set when it asks to connect
	credentials []byte
	right       validity      // to be connected
	beat        time.Duration // when the next heartbeat is due, on the schedule's clock
	subs        []*subscription
	asking      *asking // nil until something is asked
	reviews     []*op   // what is to be asked for again
	reviewing   bool    // a goroutine sees to reviews
	closeCode   CloseCode
	closeReason string
	closeRetry  time.Duration
	closeBy     time.Time // when closing: how long writes may take
	leftBecause string    // for the log
}

// UUID returns the name the server gave the agent.
func (a *Agent) UUID() string { return a.id.String() }

// Policy returns what holds for the agent now. It changes at a reload: ask each
// time.
func (a *Agent) Policy() *Policy { return a.policy.Load() }

// Opening returns the snapshot of the request that opened the session.
func (a *Agent) Opening() *Opening { return &a.opening }

// User returns who the agent is: who the server authenticated when the session
// opened, else who the connect gate says it is; empty when nobody knows.
func (a *Agent) User() string {
	if a.opening.User != "" {
		return a.opening.User
	}
	return a.identity.Load().User
}

// Credentials returns what the agent presented when it connected, as JSON. They
// are not to be logged or changed.
func (a *Agent) Credentials() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credentials
}

// Identity returns what the connect gate learned of the agent; not nil.
func (a *Agent) Identity() *Identity { return a.identity.Load() }

// AgentID returns what the agent calls itself, which it says when it asks to
// connect: a label that proves nothing.
func (a *Agent) AgentID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agentID
}

// IsConnected reports whether the agent was allowed to connect and is not being
// closed.
func (a *Agent) IsConnected() bool { return a.currently() == stateConnected }

// IsOpen reports whether the session goes on: frames are dealt with until it is
// closed.
func (a *Agent) IsOpen() bool { return a.currently() < stateClosing }

func (a *Agent) currently() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Start attaches the Conn: the opening is written, the time to connect begins to
// run. It is called once, before Receive.
func (a *Agent) Start(c Conn) {
	_, err := c.TryWrite(nil)
	a.mu.Lock()
	a.conn, a.blocks = c, err != nil
	closing := a.state == stateClosing // the hub closed while the Conn was made
	if closing {
		a.queueLocked(item{bytes: a.noticeLocked()})
	} else if opening := c.Form().Opening; opening != nil {
		a.queueLocked(item{bytes: opening})
	}
	flush := a.wakeLocked()
	a.mu.Unlock()
	a.Touch()
	if !closing {
		a.hub.schedule.set(a, a.policy.Load().Handshake)
	}
	if flush {
		a.schedule()
	}
}

// Touch notes that bytes have come from the peer.
func (a *Agent) Touch() { a.heard.Store(int64(a.hub.schedule.now())) }

// Send queues bytes of the transport's own, which it must not change any more.
// They go out in order with everything else.
func (a *Agent) Send(p []byte) {
	a.mu.Lock()
	flush := a.state < stateClosing && a.acceptLocked(item{bytes: p})
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
}

// reply queues the answer to a frame: one JSON object.
func (a *Agent) reply(object []byte) { a.Send(a.conn.Form().encode(object)) }

// push queues a message, unless the agent is a member of one of the nodes
// before, through which it has got it. It reports whether the agent is to be
// handed to its flusher. The caller holds the node that leads here and those
// before.
func (a *Agent) push(b []byte, m *Message, before []*node) (flush bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected || a.onAnyLocked(before) {
		return false
	}
	return a.acceptLocked(item{bytes: b, msg: m})
}

// onAnyLocked reports whether the agent is subscribed to one of the nodes.
func (a *Agent) onAnyLocked(nodes []*node) bool {
	for _, n := range nodes {
		if a.subscriptionLocked(n) >= 0 {
			return true
		}
	}
	return false
}

// acceptLocked queues it, or closes the agent if it is too slow, and reports
// whether the agent is to be handed to its flusher. The caller holds a.mu.
func (a *Agent) acceptLocked(it item) (flush bool) {
	if l := a.queueLimitsLocked(); a.queued >= l.QueueMessages || a.queued > 0 && a.queuedBytes+len(it.bytes) > l.QueueBytes {
		a.hub.counts.overflow[QueueAgent].Add(1)
		if it.msg != nil {
			a.hub.counts.drop(DropSlow, 1)
		}
		return a.closeLocked(CloseSlow, "you read slower than your channels speak", time.Second)
	}
	a.queueLocked(it)
	return a.wakeLocked()
}

func (a *Agent) queueLocked(it item) {
	if a.queue == nil {
		a.queue = queuePool.Get().(*[]item)
	}
	*a.queue = append(*a.queue, it)
	a.queued++
	a.queuedBytes += len(it.bytes)
}

// dropQueueLocked forgets what is queued and not being written yet.
func (a *Agent) dropQueueLocked(why DropReason) {
	if a.queue == nil {
		return
	}
	messages := 0
	for _, it := range *a.queue {
		a.queued--
		a.queuedBytes -= len(it.bytes)
		if it.msg != nil {
			messages++
		}
	}
	a.hub.counts.drop(why, messages)
	putQueue(a.queue)
	a.queue = nil
}

// wakeLocked reports whether the caller must call schedule once it has released
// a.mu.
func (a *Agent) wakeLocked() bool {
	switch {
	case a.conn == nil:
		return false
	case a.parked && a.heedsLocked():
		a.parked = false
		return true
	case a.writing:
		return false
	}
	a.writing = true
	return true
}

// schedule hands the agent to its flusher; its writing flag is set.
func (a *Agent) schedule() { a.hub.flushers[a.lane].add(a) }

// Close ends the session in order: what is queued goes out, then /meta/close
// with code, reason and retry, then the Conn is closed with code and reason. The
// first call counts. It does not block.
func (a *Agent) Close(code CloseCode, reason string, retry time.Duration) {
	a.mu.Lock()
	flush := a.closeLocked(code, reason, retry)
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
}

func (a *Agent) closeLocked(code CloseCode, reason string, retry time.Duration) (flush bool) {
	if a.state >= stateClosing {
		return false
	}
	a.state = stateClosing
	a.closeCode, a.closeReason, a.closeRetry = code, reason, retry
	a.leftBecause = reason
	a.stateChangedLocked()
	if a.conn == nil {
		return false // Start says it
	}
	if code == CloseSlow {
		a.silenced = true
		a.dropQueueLocked(DropSlow) // it would not be read in time either
	}
	a.queueLocked(item{bytes: a.noticeLocked()})
	a.expireLocked(time.Now().Add(closeGrace))
	return a.wakeLocked()
}

// noticeLocked returns the /meta/close frame.
func (a *Agent) noticeLocked() []byte {
	return a.conn.Form().encode(appendClose(nil, a.closeCode, a.closeReason, a.closeRetry))
}

// stateChangedLocked cancels what is being asked and wakes who waits.
func (a *Agent) stateChangedLocked() {
	if a.asking != nil {
		if a.state >= stateClosing {
			abandon(a.asking.pending)
		}
		a.asking.cancel()
		a.asking.pending = nil
		a.asking.held = nil
	}
	a.cond.Broadcast()
}

// Left ends the agent: the peer is gone, for the reason given, which goes to the
// log. The transport calls it once, as its last call, from the goroutine that
// called Receive. When it returns, the hub does not touch the Conn any more.
func (a *Agent) Left(reason string) {
	a.mu.Lock()
	wasConnected := a.joined
	a.state = stateGone
	a.stateChangedLocked()
	for a.asking != nil && a.asking.applying {
		a.cond.Wait() // what was allowed and is being done is done before the end
	}
	if a.leftBecause != "" {
		reason = a.leftBecause
	}
	subs := a.subs
	a.subs = nil
	a.dropQueueLocked(DropGone)
	var idle chan struct{}
	if a.parked {
		a.parked, a.writing = false, false
	}
	if a.writing {
		idle = make(chan struct{})
		a.idle = idle
		a.expireLocked(time.Unix(1, 0)) // a write under way ends at once
	}
	agentID, code := a.agentID, a.closeCode
	lasted := a.hub.schedule.now() - a.opened
	a.mu.Unlock()
	if idle != nil {
		<-idle
	}
	for _, s := range subs {
		a.hub.leave(s)
	}
	if wasConnected && a.hub.events.wants(AgentDisconnected) {
		e := a.agentEvent(AgentDisconnected)
		e.AgentID, e.Code, e.Reason, e.Lasted = agentID, code, reason, lasted
		a.hub.events.put(e)
	}
	p := a.policy.Load()
	a.logEnd(p.Log, agentID, reason, code, lasted)
	a.hub.forget(a, code, lasted)
	if r := a.reload.Swap(nil); r != nil {
		r.leave()
	}
	a.hub.admission.leave(a.address, wasConnected)
	if wasConnected {
		a.disconnected(p)
	}
}

// maxPartings is how many agents that are gone their disconnect gates can be told
// of at once. Who is gone counts in no other limit.
const maxPartings = 1000

// disconnected tells the disconnect gate, whose answer changes nothing: nobody
// waits for it.
func (a *Agent) disconnected(p *Policy) {
	g := p.gate(GateDisconnect, "")
	if g == nil {
		return
	}
	q := &Question{Gate: GateDisconnect, Agent: a, Credentials: a.Credentials(), Identity: a.identity.Load()}
	if isLocal(g) {
		a.decideLocal(context.Background(), g, q)
		return
	}
	if a.hub.partings.Add(1) > maxPartings {
		a.hub.partings.Add(-1)
		a.hub.counts.overflow[QueueDisconnect].Add(1)
		p.Log.Error("the disconnect gate was not told, it is too far behind", "agent", a.UUID(), "behind", maxPartings)
		return
	}
	go func() {
		defer a.hub.partings.Add(-1)
		a.decide(context.Background(), g, q)
	}()
}

// tick is called when the agent is due, and returns when it is due again: 0 for
// never.
func (a *Agent) tick() time.Duration {
	p := a.policy.Load()
	a.hub.repeats.expire(time.Now())
	a.mu.Lock()
	now := a.hub.schedule.now()
	var due review
	var flush bool
	switch silence := now - time.Duration(a.heard.Load()); {
	case a.state >= stateClosing:
		a.mu.Unlock()
		return 0
	case a.state == stateOpen:
		flush = a.closeLocked(CloseTimeout, "no /meta/connect came in time", time.Second)
	case now < a.beat:
		due, flush = a.reviewLocked(now)
	case silence >= 2*p.Heartbeat-p.Heartbeat/4 && !a.receiving.Load():
		// A quarter less than two intervals: what answered the last ping but one
		// answered a little after it was sent.
		flush = a.closeLocked(CloseTimeout, "nothing was heard from you for two heartbeats", time.Second)
	default:
		a.beat = now + p.Heartbeat
		due, flush = a.reviewLocked(now)
		if a.state < stateClosing {
			flush = a.acceptLocked(item{bytes: a.conn.Form().Heartbeat}) || flush
		}
	}
	next := a.beat
	if review := a.nextReviewLocked(); review != 0 {
		next = min(next, review)
	}
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
	a.seeTo(&due)
	return max(next-now, scheduleGrain)
}

// firstHeartbeat spreads the heartbeats of agents that connected at one moment.
func firstHeartbeat(interval time.Duration) time.Duration {
	return interval/2 + rand.N(interval/2+1) //nolint:gosec // G404: nothing secret
}
