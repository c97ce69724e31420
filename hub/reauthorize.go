// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// To reauthorize a lease is to ask its gate again. There is one way for all reasons. The
// lease notes the reason (lease.wants). A goroutine then asks about one lease of the agent
// after the other. Usually this goroutine belongs to the agent. After a reload it is one of
// the hub's reauthorizers, so that fifty thousand agents do not ask at once.

const (
	// maxReauthorizers is how many agents are reauthorized at a time after a reload. A
	// guard that asks a backend lets 64 questions through at once by default.
	maxReauthorizers = 128
	// reauthorizePatience is how long a reauthorizer waits for one answer before it goes
	// on to the next lease. The question itself goes on.
	reauthorizePatience = 5 * time.Second
)

// reauthorizers are goroutines that ask the gates that a reload has changed, for one agent
// after the other.
type reauthorizers struct {
	mu      sync.Mutex // guards the following; no other lock is taken under it
	waiting []*Agent   // each once
	running int
}

// add queues an agent with leases that want to be reauthorized because of a reload.
func (r *reauthorizers) add(a *Agent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.awaits {
		return
	}
	a.awaits = true
	r.waiting = append(r.waiting, a)
	if r.running < maxReauthorizers {
		r.running++
		go r.run()
	}
}

// run serves agents until none waits.
func (r *reauthorizers) run() {
	for a := r.next(); a != nil; a = r.next() {
		for o := a.leases.nextOp(true); o != nil; o = a.leases.nextOp(true) {
			a.reload.Load().countAsked()
			o.doAndWait()
		}
		a.migrated()
	}
}

// next returns the next agent. If it returns nil, the calling goroutine must end.
func (r *reauthorizers) next() *Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		r.waiting = nil
		r.running--
		return nil
	}
	a := r.waiting[0]
	r.waiting[0] = nil
	r.waiting = r.waiting[1:]
	a.awaits = false
	return a
}

// doAndWait does o and waits until it is complete, the agent is gone, or
// reauthorizePatience is over.
func (o *op) doAndWait() {
	o.done = make(chan struct{})
	o.do()
	var gone <-chan struct{}
	o.agent.mu.Lock()
	if w := o.agent.ops; w != nil { // else o is complete
		gone = w.ctx.Done()
	}
	o.agent.mu.Unlock()
	late := time.NewTimer(reauthorizePatience)
	defer late.Stop()
	select {
	case <-o.done:
	case <-gone:
	case <-late.C:
	}
}

// nextOp returns the operation that reauthorizes the next lease, or nil if no lease wants
// it. reload selects as in lease.take.
func (ls *leases) nextOp(reload bool) *op {
	a := ls.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateConnected {
		return nil
	}
	l, s, why := a.leases.take(reload)
	switch {
	case why == byFrame:
		return nil
	case s == nil:
		return &op{agent: a, gate: GateConnect, why: why, taken: l}
	case l == &s.lease:
		return &op{agent: a, gate: GateSubscribe, channel: s.channel(), why: why, sub: s, taken: l}
	default:
		return &op{agent: a, gate: GatePresence, channel: s.channel(), why: why, sub: s, taken: l}
	}
}

// reauthorize starts a goroutine that reauthorizes the leases that want it, for any reason
// but a reload. It needs a goroutine because op.do may block. The agent's end ends it.
func (ls *leases) reauthorize() {
	a := ls.agent
	a.mu.Lock()
	start := !a.asking && a.state == stateConnected
	a.asking = a.asking || start
	a.mu.Unlock()
	if !start {
		return
	}
	go func() {
		for {
			o := a.leases.nextOp(false)
			if o == nil {
				break
			}
			o.do()
		}
		a.mu.Lock()
		a.asking = false
		again := a.leases.isWaiting() && a.state == stateConnected // a lease may want it since nextOp
		a.mu.Unlock()
		if again {
			a.leases.reauthorize()
		}
	}()
}

// isReauthorizing reports whether the goroutine of reauthorize runs.
func (ls *leases) isReauthorizing() bool {
	a := ls.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asking
}

// reauthorizeSubscriptions reauthorizes the subscriptions after a refresh of the connect.
// It leaves out those that the connect gate has just made again.
func (ls *leases) reauthorizeSubscriptions(made []string) {
	a := ls.agent
	a.mu.Lock()
	for _, s := range a.leases.subs {
		if !slices.Contains(made, s.channel()) && !s.lease.isAsked() {
			s.lease.want(byConnect)
		}
		if l := s.watchLease(); l != nil && !l.isAsked() {
			l.want(byConnect)
		}
	}
	a.mu.Unlock()
	a.leases.reauthorize()
}

// tickLocked closes the session if the lease of the connect has ended. Else it returns
// what has to be done about the leases. The caller holds a.mu.
func (ls *leases) tickLocked(now time.Duration) (due dueLeases, notify bool) {
	a := ls.agent
	if l := &a.leases.connect; l.hasEnded(now) {
		r := expiredConnect
		if l.inGrace() {
			r = tooLate()
			if reload := a.reload.Load(); reload != nil {
				reload.cut.Add(1)
				reload.late.Add(1)
			}
		}
		return due, a.closeLocked(CloseCut, r.Reason, r.Retry)
	}
	return a.leases.look(now), false
}

// seeTo does what tickLocked returned. The caller holds no lock.
func (ls *leases) seeTo(due *dueLeases) {
	a := ls.agent
	for _, s := range due.ended {
		a.mu.Lock()
		late := s.lease.inGrace()
		a.mu.Unlock()
		r := expired
		if late {
			r = tooLate()
		}
		a.end(s, r, nil, late)
	}
	for _, s := range due.blind {
		a.mu.Lock()
		l := s.watchLease()
		late := l != nil && l.inGrace()
		a.mu.Unlock()
		if late {
			ls.unwatch(s, tooLate(), nil)
		} else {
			ls.unwatch(s, expiredPresence, nil)
		}
	}
	if due.other {
		a.leases.reauthorize()
	}
	if due.reload {
		a.hub.reauthorizers.add(a)
	}
	a.migrated()
}

// Why a lease has ended.
var (
	expired         = refuse(CodeExpired, "your permission to receive this channel has expired")
	expiredPresence = refuse(CodeExpired, "your permission to see who is in this channel has expired")
	expiredConnect  = &Refusal{CodeExpired, "your permission to be connected has expired", time.Second}
)

// tooLate is why a lease ends when its gate did not answer after a reload. The retry is
// random, so that the agents do not come back all at once.
func tooLate() *Refusal {
	return &Refusal{CodeUnavailable, "the server could not find out whether this is still allowed", cutRetry()}
}

// setTimer sets the agent's timer to when its first lease is due.
func (ls *leases) setTimer() {
	a := ls.agent
	a.mu.Lock()
	next := a.leases.next()
	beat := a.beat
	alive := a.state == stateConnected
	a.mu.Unlock()
	if next != 0 && next < beat && alive {
		a.hub.timers.set(a, max(next-a.hub.timers.now(), 0))
	}
}

// isFinal reports whether to apply even the verdict unavailable. This is so for a gate
// that a reload has changed and that answers at once: it would not know more later.
func (o *op) isFinal() bool { return o.why == byReload && o.local }

// applyLease applies the verdict on the reauthorization of a subscription, or of the right
// to its list of members. It returns false and changes nothing if o is stale.
func (o *op) applyLease() (done bool) {
	a, r := o.agent, o.verdict.Refusal
	unknown := r != nil && r.Code == CodeUnavailable && !o.isFinal()
	end := a.revoke
	if o.gate == GatePresence {
		end = a.leases.unwatch
	}
	if r != nil && !unknown {
		end(o.sub, r, o)
	}
	a.mu.Lock()
	if o.isStale() {
		a.mu.Unlock()
		return false
	}
	l := o.leaseLocked()
	switch {
	case l == nil: // it has ended meanwhile
	case unknown:
		a.postponeLocked(l, r)
	case r == nil && slices.Contains(a.leases.subs, o.sub):
		l.renew(&o.verdict, o.by, a.hub.timers.now())
		o.sub.byConnect = o.sub.byConnect && o.gate == GatePresence
	}
	a.mu.Unlock()
	a.leases.setTimer()
	return true
}

// postponeLocked keeps a lease whose gate could not decide, and has the gate asked again.
// The caller holds a.mu, and must call setTimer after it has released it.
func (a *Agent) postponeLocked(l *lease, r *Refusal) {
	l.postpone(a.hub.timers.now(), max(r.Retry, time.Second), a.policy.Load().Grace)
}

// applyConnect applies the verdict on the connect of an agent that is connected: after a
// refresh by the agent, or a reauthorization. It returns false and changes nothing if a
// reload is the reason and the agent's identity has changed since the gate was asked.
func (o *op) applyConnect() (done bool) {
	a, v := o.agent, &o.verdict
	reload := o.why == byReload
	before := a.identity.Load()
	if reload && before != o.identity {
		return false
	}
	if r := v.Refusal; r != nil && r.Code == CodeUnavailable && !o.isFinal() {
		a.mu.Lock()
		a.postponeLocked(o.leaseLocked(), r)
		a.mu.Unlock()
		a.leases.setTimer()
		if o.why == byFrame {
			a.answer(&o.in, r) // the refresh failed, but the agent keeps its leases
		}
		return true
	}
	if v.Refusal == nil && !o.mayBecome(v, reload) {
		v.Refusal = refuse(CodeDenied, "this session belongs to another user")
	}
	if r := v.Refusal; r != nil {
		o.refuseConnect(r)
		return true
	}
	a.mu.Lock()
	switch {
	case a.state != stateConnected:
		a.mu.Unlock()
		return true
	case reload && before != a.identity.Load():
		a.mu.Unlock()
		return false
	}
	if o.why == byFrame {
		a.setCredentialsLocked(o.in.data)
	}
	same := reload && before.same(v.Identity)
	if !same { // keep the old one if it is the same, so that no pending operation becomes stale
		a.identify(v.Identity)
	}
	o.leaseLocked().renew(v, o.by, a.hub.timers.now())
	a.mu.Unlock()
	if o.why == byFrame {
		a.reply(appendConnected(nil, o.in.uuid, o.in.agentID, v.Expires, nil))
	}
	a.leases.present()
	a.leases.subscribeAll(v.Subscribe)
	if reload {
		(&migration{agent: a, to: o.policy}).subscriptions(!same, append([]string{}, v.Subscribe...))
	} else {
		a.leases.reauthorizeSubscriptions(v.Subscribe)
	}
	a.leases.setTimer()
	return true
}

// refuseConnect closes the session of an agent whose connect is no longer allowed.
func (o *op) refuseConnect(r *Refusal) {
	a := o.agent
	if o.why == byReload {
		a.cut(r)
		return
	}
	if o.why == byFrame {
		a.answer(&o.in, r)
	}
	retry := r.Retry
	if retry <= 0 {
		retry = time.Second // the page reconnects, with its current cookies
	}
	a.Close(CloseCut, r.Reason, retry)
}

// identify sets the agent's identity; nil is noIdentity.
func (a *Agent) identify(i *Identity) {
	if i == nil {
		i = noIdentity
	}
	a.identity.Store(i)
}

// mayBecome reports whether the session may belong to the user in the verdict of the
// connect gate. A session stays with its user. Only after a reload may a user appear or
// disappear, because the new configuration may begin or cease to ask for one.
func (o *op) mayBecome(v *Verdict, reload bool) bool {
	a := o.agent
	user := a.userWith(v.Identity)
	return user == a.User() || reload && (user == "" || a.User() == "")
}

// revoke ends a subscription and tells the agent why. No message of the subscription
// follows that notice. o is the reauthorization that was refused, or nil. If o is stale,
// revoke does nothing. If a reload is its reason, revoke also drops the messages that
// already wait. It reports whether it ended the subscription.
func (a *Agent) revoke(s *subscription, r *Refusal, o *op) (revoked bool) {
	return a.end(s, r, o, false)
}

// end is revoke. late says that the gate has not answered in time after a reload.
func (a *Agent) end(s *subscription, r *Refusal, o *op, late bool) (ended bool) {
	n := s.node
	n.mu.Lock()
	a.mu.Lock()
	var notify bool
	if i := slices.Index(a.leases.subs, s); i >= 0 && a.state == stateConnected && (o == nil || !o.isStale()) {
		ended = true
		a.leases.drop(i)
		byReload := o != nil && o.why == byReload
		if byReload {
			a.out.revokeLocked(a.leases.cover)
		}
		// It is counted before anyone can find out that it is decided.
		if reload := a.reload.Load(); reload != nil && (byReload || late) {
			reload.ended.Add(1)
			if late {
				reload.late.Add(1)
			}
		}
		if l := a.in.listener; l != nil {
			notify = l.endLocked(s.channel(), r)
		} else {
			notice := appendEnded(nil, uuid.NewString(), s.channel(), r)
			notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(notice)})
		}
	}
	a.mu.Unlock()
	n.unlock()
	if notify {
		a.notify()
	}
	return ended
}

// unwatch ends the right to the list of members of a subscription's channel, and tells the
// agent why. o is as in revoke.
func (ls *leases) unwatch(s *subscription, r *Refusal, o *op) (ended bool) {
	a := ls.agent
	n := s.node
	n.mu.Lock()
	a.mu.Lock()
	var notify bool
	if slices.Contains(a.leases.subs, s) && a.state == stateConnected && (o == nil || !o.isStale()) && s.unwatchLocked() {
		ended = true
		notify = ls.tellUnwatchedLocked(s, r)
	}
	a.mu.Unlock()
	n.unlock()
	if notify {
		a.notify()
	}
	return ended
}

// tellUnwatchedLocked tells the agent that its right to a list of members has ended, and
// drops what waits of the list. The caller holds a.mu.
func (ls *leases) tellUnwatchedLocked(s *subscription, r *Refusal) (notify bool) {
	a := ls.agent
	a.out.revokeLocked(a.leases.cover)
	return a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(appendUnwatched(nil, s.channel(), r))})
}
