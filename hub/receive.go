// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

// Receive takes one frame: a JSON object. It is called by one goroutine at a
// time and does not keep frame. It blocks while the agent has as much waiting as
// it may: the transport stops reading then.
func (a *Agent) Receive(frame []byte) {
	a.receiving.Store(true)
	a.received += int64(len(frame))
	lane := &a.hub.counts.lanes[a.lane]
	lane.frames.Add(1)
	lane.bytes.Add(uint64(len(frame)))
	defer func() {
		a.Touch()
		a.receiving.Store(false)
	}()
	if a.admits() == nil || a.hold(frame) {
		return
	}
	a.handle(frame)
}

// ReceiveTooLarge is Receive for a frame of which only the beginning was kept, because it
// is larger than any that the transport reads. It is answered like all that are over
// their limit.
func (a *Agent) ReceiveTooLarge(begin []byte) {
	p := a.admits()
	if p == nil {
		return
	}
	in, _ := decodeFrame(begin) // its uuid, if it can be read
	a.reply(appendError(nil, in.uuid, refuse(CodeLimit, fmt.Sprintf("this frame is too large; %d bytes are the most", p.Limits.FrameSize()))))
}

// admits waits for room to answer, and returns the policy that a frame comes under; nil
// if the agent sends too many, and is being closed for it.
func (a *Agent) admits() *Policy {
	a.awaitRoom()
	a.heed()
	p := a.policy.Load()
	if _, ok := a.frames.take(a.hub.schedule.now(), p.Limits.FramesPerSecond); !ok {
		a.Close(CloseLimit, fmt.Sprintf("more than %d frames a second", p.Limits.FramesPerSecond), time.Second)
		return nil
	}
	return p
}

// handle deals with one frame, in the order they came.
func (a *Agent) handle(frame []byte) {
	p := a.policy.Load()
	if len(frame) > p.Limits.FrameSize() {
		in, _ := decodeFrame(frame) // its uuid, if it can be read
		a.reply(appendError(nil, in.uuid, refuse(CodeLimit, fmt.Sprintf("a frame of %d bytes; %d are the most", len(frame), p.Limits.FrameSize()))))
		return
	}
	in, r := decodeFrame(frame)
	if r != nil {
		a.reply(appendError(nil, in.uuid, r))
		return
	}
	if in.channel == metaConnect {
		a.connect(p, &in)
		return
	}
	if r := a.mayAct(p, &in, len(frame)); r != nil {
		channel := in.channel
		if about, r := metaChannel(in.data); r == nil && (channel == metaSubscribe || channel == metaUnsubscribe) {
			channel = about
		}
		a.refuseInTurn(GatePublish, channel, &in, r)
		return
	}
	switch in.channel {
	case metaSubscribe:
		a.subscription(p, GateSubscribe, &in)
	case metaUnsubscribe:
		a.subscription(p, GateUnsubscribe, &in)
	case metaPing:
		a.answer(&in, nil)
	default:
		a.publish(p, &in)
	}
}

// mayAct refuses frames that have no business now.
func (a *Agent) mayAct(p *Policy, in *inbound, size int) *Refusal {
	a.mu.Lock()
	state, id := a.state, a.agentID
	a.mu.Unlock()
	switch {
	case state == stateOpen:
		return refuse(CodeInvalid, "send /meta/connect first")
	case state != stateConnected:
		return refuse(CodeUnavailable, "this session is being closed")
	case in.hasAgentID && in.agentID != id:
		return refuse(CodeInvalid, "this agentId is not the one this session connected with")
	case size > p.Limits.MessageSize:
		return refuse(CodeLimit, fmt.Sprintf("a message of %d bytes; %d are the most", size, p.Limits.MessageSize))
	}
	return nil
}

// answer says how a frame ended, a nil Refusal is success.
func (a *Agent) answer(in *inbound, r *Refusal) { a.reply(answerTo(in, r)) }

func answerTo(in *inbound, r *Refusal) []byte {
	switch {
	case in.channel == metaConnect:
		return appendConnected(nil, in.uuid, in.agentID, time.Time{}, r)
	case in.channel == metaSubscribe || in.channel == metaUnsubscribe:
		return appendSubscribed(nil, in, r)
	case r != nil:
		return appendError(nil, in.uuid, r)
	default:
		return appendPublished(nil, in.uuid)
	}
}

// connect deals with /meta/connect: the first one, or one that refreshes.
func (a *Agent) connect(p *Policy, in *inbound) {
	credentials, r := metaCredentials(in.data)
	switch {
	case r != nil:
	case !in.hasAgentID:
		r = refuse(CodeInvalid, "/meta/connect needs an agentId: 1 to 64 of A-Z, a-z, 0-9, _ and -")
	case len(credentials) > p.Limits.CredentialsSize:
		r = refuse(CodeLimit, fmt.Sprintf("credentials of %d bytes; %d are the most", len(credentials), p.Limits.CredentialsSize))
	}
	if r != nil {
		a.answer(in, r)
		return
	}
	a.mu.Lock()
	state, id := a.state, a.agentID
	a.mu.Unlock()
	if state == stateConnected {
		a.refresh(in, id, credentials)
		return
	}
	a.connectFirst(in, credentials)
}

// connectFirst asks whether the agent may connect at all. Frames wait meanwhile.
func (a *Agent) connectFirst(in *inbound, credentials []byte) {
	a.mu.Lock()
	if a.state != stateOpen {
		a.mu.Unlock()
		return
	}
	a.state = stateConnecting
	a.agentID = strings.Clone(in.agentID)    // it shares an allocation with the rest of the frame
	a.credentials = bytes.Clone(credentials) // the frame is the transport's
	in.data = nil
	p := a.policy.Load()
	if p.gate(GateConnect, "") == nil {
		a.mu.Unlock()
		if a.connected(in, &Verdict{}, p, openFingerprint) {
			return
		}
		a.mu.Lock()
	}
	a.holdLocked()
	a.mu.Unlock()
	a.askConnect(in)
}

// askConnect asks the connect gate until it has answered under the policy that
// still holds.
func (a *Agent) askConnect(in *inbound) {
	p := a.policy.Load()
	g := p.gate(GateConnect, "")
	by := fingerprintOf(g)
	done := func(v Verdict) {
		found := v.Refusal == nil || v.Refusal.Code != CodeUnavailable
		if now := a.policy.Load(); found && fingerprintOf(now.gate(GateConnect, "")).is(by) {
			p = now // whose gate would say the same
		}
		if !a.connected(in, &v, p, by) {
			a.askConnect(in)
			return
		}
		a.releaseHeld()
	}
	if g == nil {
		done(Allow)
		return
	}
	a.ask(g, &Question{Gate: GateConnect, Agent: a, Credentials: a.Credentials(), Identity: noIdentity}, done)
}

// connected ends the connecting, as a gate of p with that fingerprint has it. It
// returns false, and has done nothing, when p is no longer what holds.
func (a *Agent) connected(in *inbound, v *Verdict, p *Policy, by Fingerprint) bool {
	if v.Refusal != nil {
		return a.refuseConnect(a.conn.Form().encode(answerTo(in, v.Refusal)), v.Refusal, p)
	}
	answer := a.conn.Form().encode(appendConnected(nil, in.uuid, in.agentID, v.Expires, nil))
	a.mu.Lock()
	if a.state != stateConnecting || a.policy.Load() != p {
		gone := a.state != stateConnecting
		a.mu.Unlock()
		return gone
	}
	a.state, a.joined = stateConnected, true
	a.becomeLocked(v, by, false)
	if a.hub.events.wants(AgentConnected) {
		e := a.agentEvent(AgentConnected)
		e.AgentID = a.agentID
		a.hub.events.put(e) // before the lock is released, so before its end
	}
	beat := firstHeartbeat(a.policy.Load().Heartbeat)
	a.beat = a.hub.schedule.now() + beat
	a.hub.admission.connected(a.address)
	flush := a.acceptLocked(item{bytes: answer})
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
	a.hub.schedule.set(a, beat)
	a.subscribeAll(v.Subscribe)
	a.planReview()
	return true
}

// becomeLocked makes what the connect gate learned that of the agent, unless it
// is the same. The caller holds a.mu.
func (a *Agent) becomeLocked(v *Verdict, by Fingerprint, same bool) {
	switch {
	case same: // what was asked for that identity still holds
	case v.Identity == nil:
		a.identity.Store(noIdentity)
	default:
		a.identity.Store(v.Identity)
	}
	a.relyLocked(&a.right, v, by)
}

// refuseConnect says no, to each frame that was held too, and closes. It returns
// false, and has done nothing, when p is no longer what holds.
func (a *Agent) refuseConnect(answer []byte, r *Refusal, p *Policy) bool {
	code, retry := CloseDenied, r.Retry
	switch r.Code {
	case CodeDenied:
		retry = NoRetry
	case CodeExpired:
		retry = max(retry, time.Second) // it will have to get fresh credentials
	case CodeLimit:
		code = CloseLimit
	case CodeUnavailable:
		code = CloseUnavailable
	}
	a.mu.Lock()
	if a.state != stateConnecting || a.policy.Load() != p {
		gone := a.state != stateConnecting
		a.mu.Unlock()
		return gone
	}
	flush := a.acceptLocked(item{bytes: answer})
	if a.asking != nil {
		for _, frame := range a.asking.held {
			in, invalid := decodeFrame(frame)
			object := answerTo(&in, r)
			if invalid != nil {
				object = appendError(nil, in.uuid, invalid)
			}
			flush = a.acceptLocked(item{bytes: a.conn.Form().encode(object)}) || flush
		}
	}
	flush = a.closeLocked(code, r.Reason, retry) || flush
	a.mu.Unlock()
	if flush {
		a.schedule()
	}
	return true
}

// refreshesPerSecond bounds refreshes, with a burst of five: each asks for all
// subscriptions again.
const refreshesPerSecond = 1

// refresh asks the connect gate again for an agent that is connected.
func (a *Agent) refresh(in *inbound, id string, credentials []byte) {
	if in.agentID != id {
		a.answer(in, refuse(CodeInvalid, "this session connected with another agentId"))
		return
	}
	if _, ok := a.refreshes.take(a.hub.schedule.now(), refreshesPerSecond); !ok || a.isReviewing() {
		a.answer(in, refreshing)
		return
	}
	in.data = bytes.Clone(credentials)
	a.perform(&op{gate: GateConnect, in: *in})
}

// subscription deals with /meta/subscribe and /meta/unsubscribe.
func (a *Agent) subscription(p *Policy, gate GateName, in *inbound) {
	channel, r := metaChannel(in.data)
	if r == nil {
		r = CheckPattern(channel, p.Limits.NameLength)
	}
	if r != nil {
		a.answer(in, r)
		return
	}
	a.perform(&op{gate: gate, channel: channel, in: *in})
}

// publish deals with everything that is not of the protocol itself.
func (a *Agent) publish(p *Policy, in *inbound) {
	if r := CheckName(in.channel, p.Limits.NameLength); r != nil {
		a.answer(in, r)
		return
	}
	if wait, ok := a.publishes.take(a.hub.schedule.now(), p.Limits.PublishesPerSecond); !ok {
		r := refuse(CodeLimit, fmt.Sprintf("more than %d publishes a second", p.Limits.PublishesPerSecond))
		r.Retry = wait
		a.refuseInTurn(GatePublish, in.channel, in, r)
		return
	}
	msg := NewMessage(in.channel, in.uuid, in.data)
	in.data = nil
	o := &op{gate: GatePublish, channel: in.channel, in: *in, msg: msg}
	if a.opening.Tracer != nil {
		o.ctx, o.span = a.trace(context.Background(), SpanPublish, in.channel)
	}
	a.perform(o)
}

// apply does what was allowed, or says that it was not. Operations of one
// channel are applied in the order of their frames. It returns false, and has
// done nothing, if o has to be asked for again, since the identity or policy that
// was asked about is no longer the agent's.
func (a *Agent) apply(o *op) (done bool) {
	r := o.verdict.Refusal
	switch {
	case o.gate == GateConnect:
		return a.refreshed(o)
	case o.sub != nil:
		return a.reviewed(o)
	case r != nil:
		o.end(AnswerName(r.Code))
		a.answer(&o.in, r)
	case o.gate == GateSubscribe:
		r, stale := a.hub.join(a, o, answerTo(&o.in, nil))
		if r != nil {
			a.answer(&o.in, r)
		}
		return !stale
	case o.gate == GateUnsubscribe:
		a.hub.part(a, o.channel, answerTo(&o.in, nil))
	default:
		o.end(a.publishNow(o))
	}
	return true
}

// refreshed ends a refresh: of the agent's own wish, or the server's. It returns
// false, and has done nothing, if one of the latter was decided for who the agent
// is no longer.
func (a *Agent) refreshed(o *op) (done bool) {
	v := &o.verdict
	before := a.identity.Load()
	if o.reload && before != o.identity {
		return false
	}
	if r := v.Refusal; r != nil && r.Code == CodeUnavailable && !o.final {
		a.postpone(&a.right, r)
		if !o.silent {
			a.answer(&o.in, r) // it keeps the rights it has, for as long as they last
		}
		return true
	}
	if v.Refusal == nil && !a.mayBecome(v, o.reload) {
		v.Refusal = refuse(CodeDenied, "this session belongs to another user")
	}
	if r := v.Refusal; r != nil {
		if o.reload {
			a.cut(r)
			return true
		}
		if !o.silent {
			a.answer(&o.in, r)
		}
		retry := r.Retry
		if retry <= 0 {
			retry = time.Second // the page comes back, with today's cookies
		}
		a.Close(CloseCut, r.Reason, retry)
		return true
	}
	a.mu.Lock()
	switch {
	case a.state != stateConnected:
		a.mu.Unlock()
		return true
	case o.reload && before != a.identity.Load():
		a.mu.Unlock()
		return false
	}
	if !o.silent {
		a.credentials = o.in.data
	}
	same := o.reload && before.same(v.Identity)
	a.becomeLocked(v, o.by, same)
	a.mu.Unlock()
	if !o.silent {
		a.reply(appendConnected(nil, o.in.uuid, o.in.agentID, v.Expires, nil))
	}
	a.subscribeAll(v.Subscribe)
	if o.reload {
		a.reconsider(o.policy, !same, append([]string{}, v.Subscribe...))
	} else {
		a.resubscribe(v.Subscribe)
	}
	a.planReview()
	return true
}

// mayBecome reports whether the session may be that of the user whom the connect
// gate has found. It stays with its user; but a reload may begin or cease to ask
// who that is.
func (a *Agent) mayBecome(v *Verdict, reload bool) bool {
	user := a.opening.User
	if user == "" && v.Identity != nil {
		user = v.Identity.User
	}
	return user == a.User() || reload && (user == "" || a.User() == "")
}

// publishNow publishes what the gate allowed, unless it has been already, and
// returns what came of it.
func (a *Agent) publishNow(o *op) AnswerName {
	who := "user\x00" + a.User()
	if len(who) == len("user\x00") {
		who = "agent\x00" + a.AgentID()
	}
	key, kind := a.hub.repeats.note(time.Now(), who, keyOf(a.opening.Namespace, o.msg.Channel), o.msg.UUID, o.msg.Data)
	switch kind {
	case repeatSame:
		a.hub.counts.drop(DropRepeated, 1)
		a.answer(&o.in, nil)
		return Allowed
	case repeatConflict:
		a.answer(&o.in, refuse(CodeInvalid, "this uuid was used for other data on this channel"))
		return AnswerName(CodeInvalid)
	}
	for i, m := range a.publications(o) {
		err := a.hub.Publish(o.context(), m)
		if err == nil {
			continue
		}
		a.policy.Load().Log.Error("publishing failed", "channel", m.Channel, "agent", a.UUID(), "error", err)
		if i > 0 {
			continue // some of it is out: it must not be sent again
		}
		a.hub.repeats.forget(key)
		a.answer(&o.in, &Refusal{CodeUnavailable, "the message could not be passed on; try again", time.Second})
		return AnswerName(CodeUnavailable)
	}
	most := max(a.policy.Load().Limits.QueueMessages/owedShare, 1)
	for _, f := range a.hub.flushers {
		f.keepUp(int32(min(most, math.MaxInt32)))
	}
	a.answer(&o.in, nil)
	return Allowed
}

// publications returns what a publish comes to.
func (a *Agent) publications(o *op) []*Message {
	v := o.verdict.Publish
	if v == nil {
		v = new(Publishing)
	}
	if v.Discard {
		a.hub.counts.drop(DropDiscarded, 1)
		return nil
	}
	channels, data := v.Channels, v.Data
	if channels == nil {
		channels = []string{o.msg.Channel}
	}
	if data == nil {
		data = o.msg.Data
	}
	var from *Sender
	if a.policy.Load().Gates != nil { // else nobody asks
		from = &Sender{User: a.User(), UUID: a.UUID()}
	}
	out := make([]*Message, len(channels))
	for i, ch := range channels {
		m := o.msg
		if ch != m.Channel || v.Data != nil {
			m = NewMessage(ch, o.msg.UUID, data)
		}
		m.From = from
		out[i] = m.in(a.opening.Namespace)
	}
	return out
}
