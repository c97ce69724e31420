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
	defer func() {
		a.Touch()
		a.receiving.Store(false)
	}()
	a.awaitRoom()
	p := a.policy.Load()
	if _, ok := a.frames.take(a.hub.schedule.now(), p.Limits.FramesPerSecond); !ok {
		a.Close(CloseLimit, fmt.Sprintf("more than %d frames a second", p.Limits.FramesPerSecond), time.Second)
		return
	}
	if a.hold(frame) {
		return
	}
	a.handle(frame)
}

// handle deals with one frame, in the order they came.
func (a *Agent) handle(frame []byte) {
	p := a.policy.Load()
	if len(frame) > p.Limits.FrameSize() {
		a.reply(appendError(nil, "", refuse(CodeLimit, fmt.Sprintf("a frame of %d bytes; %d are the most", len(frame), p.Limits.FrameSize()))))
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
		a.answer(&in, r)
		return
	}
	switch in.channel {
	case metaSubscribe:
		a.subscription(p, GateSubscribe, &in)
	case metaUnsubscribe:
		a.subscription(p, GateUnsubscribe, &in)
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
		return appendConnected(nil, in.uuid, in.agentID, r)
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
		a.refresh(p, in, id, credentials)
		return
	}
	a.connectFirst(p, in, credentials)
}

// connectFirst asks whether the agent may connect at all.
func (a *Agent) connectFirst(p *Policy, in *inbound, credentials []byte) {
	g := p.gate(GateConnect, "")
	credentials = bytes.Clone(credentials) // the frame is the transport's
	a.mu.Lock()
	if a.state != stateOpen {
		a.mu.Unlock()
		return
	}
	a.state = stateConnecting
	a.credentials = credentials
	if g != nil {
		a.holdLocked()
	}
	a.mu.Unlock()
	if g == nil {
		a.connected(in, nil)
		return
	}
	in.data = nil
	a.ask(p, g, &Question{Gate: GateConnect, Agent: a, Credentials: credentials}, func(v Verdict) {
		a.connected(in, v.Refusal)
		a.releaseHeld()
	})
}

// connected ends the connecting.
func (a *Agent) connected(in *inbound, r *Refusal) {
	answer := a.conn.Form().encode(answerTo(in, r))
	if r != nil {
		a.refuseConnect(answer, r)
		return
	}
	a.mu.Lock()
	if a.state != stateConnecting {
		a.mu.Unlock()
		return
	}
	a.state = stateConnected
	a.agentID = strings.Clone(in.agentID) // it shares an allocation with the rest of the frame
	a.hub.admission.connected(a.address)
	flush := a.acceptLocked(item{bytes: answer})
	a.mu.Unlock()
	a.hub.schedule.set(a, firstHeartbeat(a.policy.Load().Heartbeat))
	if flush {
		a.schedule()
	}
}

// refuseConnect says no, to each frame that was held too, and closes.
func (a *Agent) refuseConnect(answer []byte, r *Refusal) {
	code, retry := CloseDenied, r.Retry
	switch r.Code {
	case CodeDenied:
		retry = NoRetry
	case CodeLimit:
		code = CloseLimit
	case CodeUnavailable:
		code = CloseUnavailable
	}
	a.mu.Lock()
	if a.state != stateConnecting {
		a.mu.Unlock()
		return
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
}

// refresh asks the connect gate again for an agent that is connected.
func (a *Agent) refresh(p *Policy, in *inbound, id string, credentials []byte) {
	if in.agentID != id {
		a.answer(in, refuse(CodeInvalid, "this session connected with another agentId"))
		return
	}
	in.data = bytes.Clone(credentials)
	a.perform(p, &op{gate: GateConnect, in: *in})
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
	a.perform(p, &op{gate: gate, channel: channel, in: *in})
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
		a.answer(in, r)
		return
	}
	msg := NewMessage(in.channel, in.uuid, in.data)
	in.data = nil
	a.perform(p, &op{gate: GatePublish, channel: in.channel, in: *in, msg: msg})
}

// apply does what was allowed, or says that it was not. Operations of one
// channel are applied in the order of their frames.
func (a *Agent) apply(o *op) {
	r := o.verdict.Refusal
	switch {
	case o.gate == GateConnect:
		a.refreshed(&o.in, r)
	case r != nil:
		a.answer(&o.in, r)
	case o.gate == GateSubscribe:
		if r := a.hub.join(a, o.channel, answerTo(&o.in, nil)); r != nil {
			a.answer(&o.in, r)
		}
	case o.gate == GateUnsubscribe:
		a.hub.part(a, o.channel, answerTo(&o.in, nil))
	default:
		a.publishNow(o)
	}
}

// refreshed ends a refresh.
func (a *Agent) refreshed(in *inbound, r *Refusal) {
	if r == nil {
		a.mu.Lock()
		a.credentials = in.data
		a.mu.Unlock()
	}
	a.answer(in, r)
	if r == nil {
		return
	}
	// The page comes back, with today's cookies.
	retry := r.Retry
	if retry == 0 {
		retry = time.Second
	}
	a.Close(CloseCut, r.Reason, retry)
}

// publishNow publishes what the gate allowed, unless it has been already.
func (a *Agent) publishNow(o *op) {
	who := "user\x00" + a.opening.User
	if a.opening.User == "" {
		who = "agent\x00" + a.AgentID()
	}
	key, kind := a.hub.repeats.note(time.Now(), who, o.msg.Channel, o.msg.UUID, o.msg.Data)
	switch kind {
	case repeatSame:
		a.answer(&o.in, nil)
		return
	case repeatConflict:
		a.answer(&o.in, refuse(CodeInvalid, "this uuid was used for other data on this channel"))
		return
	}
	if err := a.hub.broker.Publish(context.Background(), o.msg); err != nil {
		a.hub.repeats.forget(key)
		a.policy.Load().Log.Error("publishing failed", "channel", o.msg.Channel, "agent", a.UUID(), "error", err)
		a.answer(&o.in, &Refusal{CodeUnavailable, "the message could not be passed on; try again", time.Second})
		return
	}
	most := max(a.policy.Load().Limits.QueueMessages/owedShare, 1)
	for _, f := range a.hub.flushers {
		f.keepUp(int32(min(most, math.MaxInt32))) //nolint:gosec // bounded
	}
	a.answer(&o.in, nil)
}
