// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
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
//
// Its parts do the work: the inbox counts and holds its frames, ops are what it asks
// gates for, leases are what it was granted, and the outbox writes to it.
type Agent struct {
	// Immutable after Open.
	hub     *Hub
	id      uuid.UUID
	opening Opening
	address netip.Prefix
	opened  time.Duration // when, by the hub's timers
	shard   uint16        // which of the hub's flushers writes for it

	policy    atomic.Pointer[Policy]
	reload    atomic.Pointer[Reload]   // the one that is not done with the agent; nil for none
	identity  atomic.Pointer[Identity] // never nil
	heard     atomic.Int64             // when the peer was last heard, by the hub's timers
	receiving atomic.Bool              // Receive runs: it is not the peer that is silent
	due       dueEntry                 // guarded by timers.mu

	awaitsReauthorizer bool // guarded by reauthorizers.mu

	in  inbox
	out outbox

	mu          sync.Mutex // guards the following, and parts of in and out; taken after hub.mu and node.mu
	cond        sync.Cond  // of mu: state, in.held, ops, out.full or migrating have changed
	state       state
	ops         *ops // nil until a gate is asked that takes its time
	leases      leases
	applied     *Policy       // the policy that is in effect: policy, except during a reload
	migrating   bool          // a goroutine puts policy into effect
	beat        time.Duration // when the next heartbeat is due, by the hub's timers
	joined      bool          // it was allowed to connect
	agentID     string        // set when it asks to connect
	credentials []byte
	ending
}

// ending is how a session ends.
type ending struct {
	closeCode   CloseCode
	closeReason string
	closeRetry  time.Duration
	leftBecause string // for the log
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
	a.out.conn, a.out.blocks = c, err != nil
	closing := a.state == stateClosing // the hub closed while the Conn was made
	if closing {
		a.out.queue.add(item{bytes: a.noticeLocked()})
	} else if opening := c.Form().Opening; opening != nil {
		a.out.queue.add(item{bytes: opening})
	}
	notify := a.out.wakeLocked()
	a.mu.Unlock()
	a.Touch()
	if !closing {
		a.hub.timers.set(a, a.policy.Load().Handshake)
	}
	if notify {
		a.notify()
	}
}

// Touch notes that bytes have come from the peer.
func (a *Agent) Touch() { a.heard.Store(int64(a.hub.timers.now())) }

// Send queues bytes of the transport's own, which it must not change any more.
// They go out in order with everything else.
func (a *Agent) Send(p []byte) {
	a.mu.Lock()
	notify := a.state < stateClosing && a.out.acceptLocked(item{bytes: p})
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

// reply queues the answer to a frame: one JSON object.
func (a *Agent) reply(object []byte) { a.Send(a.out.conn.Form().encode(object)) }

// enqueue queues a message, unless the agent is a member of one of the nodes
// before, through which it has got it. It reports whether the agent is to be
// handed to its notifyer. The caller holds the node that leads here and those
// before.
func (a *Agent) enqueue(b []byte, m *Message, before []*node) (notify bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected || a.leases.hasAny(before) {
		return false
	}
	return a.out.acceptLocked(item{bytes: b, msg: m})
}

// notify hands the agent to its notifyer; the writing flag of its outbox is set.
func (a *Agent) notify() { a.hub.flushers[a.shard].add(a) }

// Close ends the session in order: what is queued goes out, then /meta/close
// with code, reason and retry, then the Conn is closed with code and reason. The
// first call counts. It does not block.
func (a *Agent) Close(code CloseCode, reason string, retry time.Duration) {
	a.mu.Lock()
	notify := a.closeLocked(code, reason, retry)
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

func (a *Agent) closeLocked(code CloseCode, reason string, retry time.Duration) (notify bool) {
	if a.state >= stateClosing {
		return false
	}
	a.state = stateClosing
	a.closeCode, a.closeReason, a.closeRetry = code, reason, retry
	a.leftBecause = reason
	a.stateChangedLocked()
	if a.out.conn == nil {
		return false // Start says it
	}
	if code == CloseSlow {
		a.out.silenced = true
		a.out.dropLocked(DropSlow) // it would not be read in time either
	}
	a.out.queue.add(item{bytes: a.noticeLocked()})
	a.out.expireLocked(time.Now().Add(closeGrace))
	return a.out.wakeLocked()
}

// noticeLocked returns the /meta/close frame.
func (a *Agent) noticeLocked() []byte {
	return a.out.conn.Form().encode(appendClose(nil, a.closeCode, a.closeReason, a.closeRetry))
}

// stateChangedLocked cancels what is being asked and wakes who waits.
func (a *Agent) stateChangedLocked() {
	if a.ops != nil {
		if a.state >= stateClosing {
			abandon(a.ops.pending)
		}
		a.ops.cancel()
		a.ops.pending = nil
	}
	a.in.held = nil
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
	for a.ops != nil && a.ops.applying {
		a.cond.Wait() // what was allowed and is being done is done before the end
	}
	if a.leftBecause != "" {
		reason = a.leftBecause
	}
	subs := a.leases.subs
	a.leases.subs = nil
	a.out.dropLocked(DropGone)
	var idle chan struct{}
	if a.out.parked {
		a.out.parked, a.out.writing = false, false
	}
	if a.out.writing {
		idle = make(chan struct{})
		a.out.idle = idle
		a.out.expireLocked(time.Unix(1, 0)) // a write under way ends at once
	}
	agentID, code := a.agentID, a.closeCode
	lasted := a.hub.timers.now() - a.opened
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
	a.hub.quota.leave(a.address, wasConnected)
	if wasConnected {
		a.tellDisconnect(p)
	}
}

// tick is called when the agent is due, and returns when it is due again: 0 for
// never.
func (a *Agent) tick() time.Duration {
	p := a.policy.Load()
	a.hub.repeats.expire(time.Now())
	a.mu.Lock()
	now := a.hub.timers.now()
	var due review
	var notify bool
	switch silence := now - time.Duration(a.heard.Load()); {
	case a.state >= stateClosing:
		a.mu.Unlock()
		return 0
	case a.state == stateOpen:
		notify = a.closeLocked(CloseTimeout, "no /meta/connect came in time", time.Second)
	case now < a.beat:
		due, notify = a.leases.tickLocked(now)
	case silence >= 2*p.Heartbeat-p.Heartbeat/4 && !a.receiving.Load():
		// A quarter less than two intervals: what answered the last ping but one
		// answered a little after it was sent.
		notify = a.closeLocked(CloseTimeout, "nothing was heard from you for two heartbeats", time.Second)
	default:
		a.beat = now + p.Heartbeat
		due, notify = a.leases.tickLocked(now)
		if a.state < stateClosing {
			notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().Heartbeat}) || notify
		}
	}
	next := a.beat
	if review := a.leases.next(); review != 0 {
		next = min(next, review)
	}
	a.mu.Unlock()
	if notify {
		a.notify()
	}
	a.leases.seeTo(&due)
	return max(next-now, timerGrain)
}

// firstHeartbeat spreads the heartbeats of agents that connected at one moment.
func firstHeartbeat(interval time.Duration) time.Duration {
	return interval/2 + rand.N(interval/2+1) //nolint:gosec // G404: nothing secret
}
