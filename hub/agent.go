// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// An agent's life goes through these states in order; it may skip some.
type state uint8

const (
	stateOpen       state = iota // waits for /meta/connect
	stateConnecting              // the connect gate is being asked
	stateConnected               // may do what its gates allow
	stateClosing                 // the close notice is queued or sent: nothing more goes in or out
	stateGone                    // the peer is gone
)

// An Agent is one connected endpoint: a browser tab, a program. It begins with
// Hub.Open and ends with its session.
//
// Its parts do the work. The inbox counts and holds its frames. Its ops are the
// operations that gates decide. Its leases are the rights that gates granted. The outbox
// writes to it.
//
// It has more than 40 methods because gates, transports and the hub's parts all meet here.
type Agent struct {
	// What a delivery touches is in three cache lines: the first, and the first two of out.
	// TestDeliveryTouchesFewLines checks it.
	hub       *Hub   // immutable
	shard     uint16 // index of its flusher in hub.flushers; immutable
	state     state  // guarded by mu
	migrating bool   // a goroutine runs a migration; guarded by mu
	joined    bool   // the connect gate has allowed it to connect; guarded by mu
	asking    bool   // leases.reauthorize runs a goroutine; guarded by mu
	awaits    bool   // it waits for a reauthorizer; guarded by reauthorizers.mu
	policy    atomic.Pointer[Policy]
	applied   *Policy    // the policy in effect; differs from policy only until migrate has run; guarded by mu
	mu        sync.Mutex // taken after hub.mu and node.mu
	sent      int64      // bytes; owned by the goroutine that writes, see outbox.writing
	leases    leases     // guarded by mu

	reload atomic.Pointer[Reload] // the reload that still has to decide about the agent, or nil

	out outbox // partly guarded by mu

	identity atomic.Pointer[Identity] // never nil
	id       uuid.UUID                // immutable

	// Immutable after Open.
	opening Opened
	opened  time.Duration // on the hub's clock

	liveness

	in inbox // partly guarded by mu

	// Guarded by mu.
	cond   *sync.Cond // on mu: state, in.held, ops, out.full or migrating have changed; nil until a goroutine waits
	ops    *ops       // nil unless an operation waits, mostly for a gate
	ending *ending    // nil until the session ends
	presented
}

// liveness is how the hub notices that a peer is gone.
type liveness struct {
	due       int32         // place in the heap of the timers, from 1 on; 0 if it is not there; guarded by timers.mu
	receiving atomic.Bool   // Receive runs: the peer is not silent, we are busy with its frame
	heard     atomic.Int64  // when bytes last came from the peer, on the hub's clock
	beat      time.Duration // when the next heartbeat is due, on the hub's clock; guarded by Agent.mu
}

// presented is what the agent has presented in /meta/connect. The agent's mu guards it.
type presented struct {
	agentID     string
	credentials *[]byte // nil if there were none
}

func (p *presented) credentialsLocked() []byte {
	if p.credentials == nil {
		return nil
	}
	return *p.credentials
}

// setCredentialsLocked keeps credentials, which must not change afterwards.
func (p *presented) setCredentialsLocked(credentials []byte) {
	p.credentials = nil
	if credentials != nil {
		kept := credentials // a variable of its own, so that an agent without any allocates nothing
		p.credentials = &kept
	}
}

// An ending is how a session ends. It is apart from the Agent, which is alive most of the
// time. The agent's mu guards it.
type ending struct {
	code    CloseCode
	reason  string
	retry   time.Duration
	about   string        // the channel of a listener whose subscription has ended
	because string        // for the log; empty: the transport's reason counts
	by      time.Time     // the write deadline; zero for none
	closed  bool          // Conn.Close was called
	written chan struct{} // if not nil, closed when the writing ends
}

// endingLocked returns how the session ends, to be filled in.
func (a *Agent) endingLocked() *ending {
	if a.ending == nil {
		a.ending = new(ending)
	}
	return a.ending
}

// waitLocked waits until wakeWaitersLocked is called. Few agents ever need it.
func (a *Agent) waitLocked() {
	if a.cond == nil {
		a.cond = sync.NewCond(&a.mu)
	}
	a.cond.Wait()
}

// wakeWaitersLocked wakes every goroutine that waits for the agent.
func (a *Agent) wakeWaitersLocked() {
	if a.cond != nil {
		a.cond.Broadcast()
	}
}

// UUID returns the name that the server gave the agent.
func (a *Agent) UUID() string { return a.id.String() }

// Policy returns the agent's policy. A reload replaces it, so do not keep the result.
func (a *Agent) Policy() *Policy { return a.policy.Load() }

// Opening returns what the session keeps of the request that opened it.
func (a *Agent) Opening() *Opened { return &a.opening }

// User returns the name of the user that the server authenticated when the session opened,
// or else of the user that the connect gate named. It is empty if there is neither.
func (a *Agent) User() string { return a.userWith(a.identity.Load()) }

// userWith is User for an agent about which the connect gate learned i, which may be nil.
func (a *Agent) userWith(i *Identity) string {
	if user := a.opening.User(); user != "" || i == nil {
		return user
	}
	return i.User
}

// Credentials returns the credentials of /meta/connect, as JSON. Do not log or change
// them.
func (a *Agent) Credentials() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credentialsLocked()
}

// Identity returns what the connect gate learned about the agent. It is never nil.
func (a *Agent) Identity() *Identity { return a.identity.Load() }

// AgentID returns the agentId of /meta/connect. The agent chooses it, so it proves
// nothing.
func (a *Agent) AgentID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.agentID
}

// IsConnected reports whether the agent was allowed to connect and is not being
// closed.
func (a *Agent) IsConnected() bool { return a.currently() == stateConnected }

// IsOpen reports whether the agent still handles frames: it is not being closed.
func (a *Agent) IsOpen() bool { return a.currently() < stateClosing }

func (a *Agent) currently() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Start attaches the Conn, writes the Form's opening, and starts the handshake timeout.
// The transport calls it once, before Receive.
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
	notify := a.out.hasWorkLocked() && a.out.wakeLocked()
	a.mu.Unlock()
	a.Touch()
	if !closing {
		a.hub.timers.set(a, a.policy.Load().Handshake)
	}
	if notify {
		a.notify()
	}
}

// Touch notes that bytes came from the peer, which counts as a sign of life.
func (a *Agent) Touch() { a.heard.Store(int64(a.hub.timers.now())) }

// Send queues bytes that the transport itself wants to write, in order with the hub's
// frames. The caller must not change p afterwards.
func (a *Agent) Send(p []byte) {
	a.mu.Lock()
	notify := a.state < stateClosing && a.out.acceptLocked(item{bytes: p})
	a.unlock(notify)
}

// reply queues the answer to a frame; object is one JSON object.
func (a *Agent) reply(object []byte) { a.Send(a.out.conn.Form().encode(object)) }

// enqueue queues the messages of f, which s brings, except those that the agent already got as
// a member of one of the nodes in before. It counts in f those that it has queued, or that the
// agent gets when it catches up, and reports whether the caller must notify the agent's
// flusher. The caller holds the locks of those nodes and of the node of s.
func (a *Agent) enqueue(f *fanout, s *subscription, before []*node) (notify bool) {
	a.mu.Lock()
	o := &a.out
	if a.state == stateConnected && o.form != f.form {
		f.encode(o.form)
	}
	live := false
	for i := range f.messages {
		m := f.messages[i].msg
		if a.state != stateConnected { // perhaps because its queue is full
			break
		}
		if m.seq != 0 {
			a.leases.seen = m.seq
		}
		switch {
		case s.isPast(m):
			continue
		case m.excludesLocked(a):
			s.excludeLocked(m)
			continue
		case len(before) > 0 && a.leases.gotThrough(before, m):
			continue
		case s.behind == nil:
			live = true
			notify = o.acceptLocked(f.messages[i]) || notify
		case m.seq == 0:
			notify = o.holdLocked(s.behind, f.messages[i]) || notify
		}
		if a.state == stateConnected {
			f.queued[i]++
		}
	}
	if live && o.queue.count > 1 { // one item is never a lag
		if lag := o.lagLocked(); lag != nil {
			f.lags = append(f.lags, lag)
		}
	}
	a.mu.Unlock()
	return notify
}

// notify wakes the agent's flusher. The caller has set the writing flag of the outbox.
func (a *Agent) notify() { a.hub.flushers[a.shard].add(a) }

// unlock releases a.mu, and then wakes the agent's flusher if notify is set.
func (a *Agent) unlock(notify bool) {
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

// Close ends the session in order: it writes what is queued, then /meta/close with code,
// reason and retry, then closes the Conn with code and reason. Only the first call has an
// effect. Close does not block.
func (a *Agent) Close(code CloseCode, reason string, retry time.Duration) {
	a.mu.Lock()
	notify := a.closeLocked(code, reason, retry)
	a.unlock(notify)
}

func (a *Agent) closeLocked(code CloseCode, reason string, retry time.Duration) (notify bool) {
	if a.state >= stateClosing {
		return false
	}
	a.state = stateClosing
	e := a.endingLocked()
	e.code, e.reason, e.retry, e.because = code, reason, retry, reason
	a.noteClose(code, reason)
	a.stateChangedLocked()
	if code == CloseCut || code == CloseEndpoint || code == CloseDenied {
		a.leases.vacateLocked() // it has lost the right: it does not linger
	}
	if a.out.conn == nil {
		return false // Start queues the notice
	}
	if code == CloseSlow {
		a.out.silenced = true
		a.out.dropLocked(DropSlow) // the notice must not wait behind a queue that the peer does not read
	}
	a.out.queue.add(item{bytes: a.noticeLocked()})
	a.out.expireLocked(time.Now().Add(closeGrace))
	return a.out.wakeLocked()
}

// noticeLocked returns the /meta/close frame.
func (a *Agent) noticeLocked() []byte {
	e := a.ending
	notice := appendClose(nil, e.code, e.reason, e.retry)
	if e.about != "" {
		notice = appendAbout(notice, e.about)
	}
	return a.out.conn.Form().encode(notice)
}

// stateChangedLocked cancels pending questions and wakes every goroutine that waits for
// the agent.
func (a *Agent) stateChangedLocked() {
	if a.state >= stateClosing {
		a.leases.catchUp.endLocked()
	}
	if a.ops != nil {
		if a.state >= stateClosing {
			abandon(a.ops.pending)
		}
		a.ops.cancel()
		a.ops.pending = nil
	}
	a.in.held = nil
	a.out.caughtUpLocked()
	a.wakeWaitersLocked()
}

// Left ends the agent because the peer is gone; reason goes to the log. The transport
// calls it once, as its last call, from the goroutine that called Receive. After it
// returns, the hub does not use the Conn any more.
func (a *Agent) Left(reason string) {
	a.mu.Lock()
	wasConnected := a.joined
	e := a.endingLocked()
	a.state = stateGone
	a.stateChangedLocked()
	for a.ops != nil && a.ops.applying {
		a.waitLocked() // an operation that is being applied completes first
	}
	if e.because != "" {
		reason = e.because
	}
	subs := a.leases.subs
	a.leases.subs = nil
	a.out.dropLocked(DropGone)
	var written chan struct{}
	if a.out.parked {
		a.out.parked, a.out.writing = false, false
	}
	if a.out.writing {
		written = make(chan struct{})
		e.written = written
		a.out.expireLocked(time.Unix(1, 0)) // ends a write that is under way
	}
	agentID, code := a.agentID, e.code
	lasted := a.hub.timers.now() - a.opened
	a.mu.Unlock()
	if written != nil {
		<-written
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
	logEnd(a, p.Log, agentID, reason, code, lasted)
	a.hub.forget(a, code, lasted)
	if r := a.reload.Swap(nil); r != nil {
		r.leave()
	}
	a.hub.quota.leave(a.opening.address(), wasConnected)
	if wasConnected {
		a.tellDisconnect(p)
	}
}

// tick does what is due for the agent, and returns the time until it is due again; 0 is
// never. The timers call it.
func (a *Agent) tick() time.Duration {
	p := a.policy.Load()
	a.hub.repeats.expire(time.Now())
	a.mu.Lock()
	now := a.hub.timers.now()
	var due dueLeases
	var notify bool
	switch silence := now - time.Duration(a.heard.Load()); {
	case a.state >= stateClosing:
		a.mu.Unlock()
		return 0
	case a.state == stateOpen:
		notify = a.closeLocked(CloseTimeout, "/meta/connect did not arrive in time", time.Second)
	case now < a.beat:
		due, notify = a.leases.tickLocked(now)
	case silence >= 2*p.Heartbeat-p.Heartbeat/4 && !a.receiving.Load() && a.in.listener == nil:
		// A listener sends nothing: it is there while the network takes its heartbeats. A quarter less than two intervals, because an answer to the ping before the
		// last one came a little later than that ping.
		notify = a.closeLocked(CloseTimeout, "the server heard nothing from you for two heartbeats", time.Second)
	default:
		a.beat = now + p.Heartbeat
		due, notify = a.leases.tickLocked(now)
		if a.state < stateClosing {
			notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().Heartbeat}) || notify
		}
	}
	next := a.beat
	if at := a.leases.next(); at != 0 {
		next = min(next, at)
	}
	a.unlock(notify)
	a.leases.seeTo(&due)
	return max(next-now, timerGrain)
}

// firstHeartbeat returns a random time until an agent's first heartbeat, so that agents
// that connected at the same moment do not get their heartbeats at the same moment.
func firstHeartbeat(interval time.Duration) time.Duration {
	return interval/2 + rand.N(interval/2+1) //nolint:gosec // G404: nothing secret
}
