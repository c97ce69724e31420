// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Receive handles one frame, which should be a JSON object. One goroutine at a time may
// call it. Receive does not keep frame. It blocks while the agent's queue is crowded or too
// many of its questions are open, so that the transport stops reading.
func (a *Agent) Receive(frame []byte) {
	a.receiving.Store(true)
	a.in.bytes += int64(len(frame))
	shard := &a.hub.counts.shards[a.shard]
	shard.frames.Add(1)
	shard.bytes.Add(uint64(len(frame)))
	defer func() {
		a.Touch()
		a.receiving.Store(false)
	}()
	if a.in.admits() == nil || a.in.hold(frame) {
		return
	}
	a.in.handle(frame, true)
}

// ReceiveTooLarge is Receive for a frame that is too large for the transport to read. begin
// is the beginning of the frame. The agent gets the same kind of answer as for any frame
// above its limit.
func (a *Agent) ReceiveTooLarge(begin []byte) {
	p := a.in.admits()
	if p == nil {
		return
	}
	a.in.publishJoined()
	in, _ := decodeFrame(begin) // only for the uuid
	a.in.refuseFrame(&in, refuse(CodeLimit, fmt.Sprintf("the frame is too large; at most %d bytes are allowed", p.Limits.FrameSize())))
}

// refuseFrame answers a frame that cannot be read.
func (box *inbox) refuseFrame(in *inbound, r *Refusal) {
	a := box.agent
	a.refused(opFrame, "", r)
	a.reply(appendError(nil, in.uuid, r))
}

// admits waits until there is room for answers, and takes a token of the frame rate. It
// returns the agent's policy. If the agent sends too many frames, admits closes it and
// returns nil.
func (box *inbox) admits() *Policy {
	a := box.agent
	a.out.awaitRoom()
	a.migrate(true)
	p := a.policy.Load()
	if _, ok := box.frames.take(a.hub.timers.now(), p.Limits.FramesPerSecond); !ok {
		box.publishJoined()
		a.Close(CloseLimit, fmt.Sprintf("more than %d frames a second", p.Limits.FramesPerSecond), time.Second)
		return nil
	}
	return p
}

// handle handles one frame. Frames are handled in the order in which they came. inTurn says that
// the goroutine that calls Receive does it, and not one that releases held frames.
func (box *inbox) handle(frame []byte, inTurn bool) {
	a := box.agent
	p := a.policy.Load()
	in, r := box.decode(p, frame)
	if inTurn && box.joining != nil && (r != nil || in.channel != box.joining.channel) {
		box.publishJoined()
	}
	if r != nil {
		box.refuseFrame(&in, r)
		return
	}
	if in.channel == metaConnect {
		box.connect(p, &in)
		return
	}
	if r := box.mayAct(p, &in, len(frame)); r != nil {
		channel := in.channel
		if about, r := metaChannel(in.data); r == nil && isAboutChannel(channel) {
			channel = about
		}
		if inTurn {
			box.publishJoined()
		}
		box.refuseInTurn(gateOfFrame(in.channel), channel, &in, r)
		return
	}
	switch in.channel {
	case metaSubscribe:
		box.subscription(p, GateSubscribe, &in)
	case metaUnsubscribe:
		box.subscription(p, GateUnsubscribe, &in)
	case metaPresence:
		box.members(p, &in)
	case metaHistory:
		box.subscription(p, GateSubscribe, &in)
	case metaPing:
		a.answer(&in, nil)
	default:
		box.publish(p, &in, inTurn)
	}
}

// decode decodes a frame. A frame that is too large is decoded only for its uuid.
func (box *inbox) decode(p *Policy, frame []byte) (inbound, *Refusal) {
	in, r := decodeFrame(frame)
	if most := p.Limits.FrameSize(); len(frame) > most {
		r = refuse(CodeLimit, fmt.Sprintf("the frame has %d bytes; at most %d are allowed", len(frame), most))
	}
	return in, r
}

// mayAct refuses frames that the agent may not send in its present state, and frames that
// are too large.
func (box *inbox) mayAct(p *Policy, in *inbound, size int) *Refusal {
	a := box.agent
	a.mu.Lock()
	state, id := a.state, a.agentID
	a.mu.Unlock()
	switch {
	case state == stateOpen:
		return refuse(CodeInvalid, "send /meta/connect first")
	case state != stateConnected:
		return refuse(CodeUnavailable, "this session is being closed")
	case in.hasAgentID && in.agentID != id:
		return refuse(CodeInvalid, "this session connected with another agentId")
	case size > p.Limits.MessageSize:
		return refuse(CodeLimit, fmt.Sprintf("the message has %d bytes; at most %d are allowed", size, p.Limits.MessageSize))
	}
	return nil
}

// gateOfFrame returns the gate that decides about frames with this channel name.
func gateOfFrame(channel string) GateName {
	switch channel {
	case metaSubscribe:
		return GateSubscribe
	case metaUnsubscribe:
		return GateUnsubscribe
	case metaPresence:
		return GatePresence
	case metaHistory:
		return GateHistory
	}
	return GatePublish
}

// isAboutChannel reports whether frames with this channel name another one in their data.
func isAboutChannel(channel string) bool {
	return channel == metaSubscribe || channel == metaUnsubscribe || channel == metaHistory || channel == metaPresence
}

// answer answers a frame; a nil r is success.
func (a *Agent) answer(in *inbound, r *Refusal) { a.reply(answerTo(in, r)) }

func answerTo(in *inbound, r *Refusal) []byte {
	switch {
	case in.channel == metaConnect:
		return appendConnected(nil, in.uuid, in.agentID, time.Time{}, r)
	case isAboutChannel(in.channel):
		return appendSubscribed(nil, in, r)
	case r != nil:
		return appendError(nil, in.uuid, r)
	default:
		return appendPublished(nil, in.uuid, "")
	}
}

// connect handles /meta/connect: the first one, or a refresh.
func (box *inbox) connect(p *Policy, in *inbound) {
	a := box.agent
	credentials, r := metaCredentials(in.data)
	switch {
	case r != nil:
	case !in.hasAgentID:
		r = refuse(CodeInvalid, "/meta/connect needs an agentId: 1 to 64 of A-Z, a-z, 0-9, _ and -")
	case len(credentials) > p.Limits.CredentialsSize:
		r = refuse(CodeLimit, fmt.Sprintf("the credentials have %d bytes; at most %d are allowed", len(credentials), p.Limits.CredentialsSize))
	}
	if r != nil {
		a.refuse(GateConnect, "", in, r)
		return
	}
	a.mu.Lock()
	state, id := a.state, a.agentID
	a.mu.Unlock()
	if state == stateConnected {
		box.refresh(in, id, credentials)
		return
	}
	box.connectFirst(in, credentials)
}

// connectFirst asks whether the agent may connect. Further frames are held meanwhile.
func (box *inbox) connectFirst(in *inbound, credentials []byte) {
	a := box.agent
	a.mu.Lock()
	if a.state != stateOpen {
		a.mu.Unlock()
		return
	}
	a.state = stateConnecting
	a.agentID = strings.Clone(in.agentID)            // it shares an allocation with the rest of the frame
	a.setCredentialsLocked(bytes.Clone(credentials)) // the frame is the transport's
	in.data = nil
	p := a.policy.Load()
	if p.gate(GateConnect, "") == nil {
		a.mu.Unlock()
		if box.connected(in, &Verdict{}, p, openFingerprint) {
			return
		}
		a.mu.Lock()
	}
	box.held = new(heldFrames)
	a.mu.Unlock()
	box.askConnect(in)
}

// askConnect asks the connect gate, again if a reload replaces the gate meanwhile.
func (box *inbox) askConnect(in *inbound) {
	a := box.agent
	p := a.policy.Load()
	g := p.gate(GateConnect, "")
	by := fingerprintOf(g)
	done := func(v Verdict) {
		found := v.Refusal == nil || v.Refusal.Code != CodeUnavailable
		if now := a.policy.Load(); found && fingerprintOf(now.gate(GateConnect, "")).is(by) {
			p = now // the gate of the new policy is the same
		}
		if !box.connected(in, &v, p, by) {
			box.askConnect(in)
			return
		}
		box.releaseHeld()
	}
	q := &Question{Gate: GateConnect, Agent: a, Credentials: a.Credentials(), Identity: noIdentity}
	switch {
	case g == nil:
		done(Allow)
	case isLocal(g):
		done(q.askLocal(context.Background(), g))
	default:
		a.mu.Lock()
		ctx := a.opsLocked().ctx
		a.mu.Unlock()
		q.askRemote(ctx, g, done)
	}
}

// connected applies the verdict of the connect gate of p; by is the gate's fingerprint. It
// returns false and changes nothing if p is no longer the agent's policy.
func (box *inbox) connected(in *inbound, v *Verdict, p *Policy, by Fingerprint) bool {
	a := box.agent
	if v.Refusal != nil {
		return box.refuseConnect(a.out.conn.Form().encode(answerTo(in, v.Refusal)), v.Refusal, p)
	}
	answer := a.out.conn.Form().encode(appendConnected(nil, in.uuid, in.agentID, v.Expires, nil))
	a.mu.Lock()
	if a.state != stateConnecting || a.policy.Load() != p {
		gone := a.state != stateConnecting
		a.mu.Unlock()
		return gone
	}
	a.state, a.joined = stateConnected, true
	a.releaseOpsLocked()
	a.out.form = a.out.conn.Form() // it does not change any more
	a.identify(v.Identity)
	a.leases.connect.renew(v, by, a.hub.timers.now())
	if a.hub.events.wants(AgentConnected) {
		e := a.agentEvent(AgentConnected)
		e.AgentID = a.agentID
		a.hub.events.put(e) // with the lock held, so that it comes before the event of its end
	}
	beat := firstHeartbeat(a.policy.Load().Heartbeat)
	a.beat = a.hub.timers.now() + beat
	a.hub.quota.connected(a.opening.address())
	notify := a.out.acceptLocked(item{bytes: answer})
	a.unlock(notify)
	a.hub.timers.set(a, beat)
	a.leases.subscribeAll(v.Subscribe)
	a.leases.setTimer()
	return true
}

// refuseConnect refuses the connect and each held frame, and closes the agent. It returns
// false and changes nothing if p is no longer the agent's policy.
func (box *inbox) refuseConnect(answer []byte, r *Refusal, p *Policy) bool {
	a := box.agent
	code, retry := CloseDenied, r.Retry
	switch r.Code {
	case CodeDenied:
		retry = NoRetry
	case CodeExpired:
		retry = max(retry, time.Second) // the client must first get fresh credentials
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
	box.listener.refuseLocked("", r)
	notify := a.out.acceptLocked(item{bytes: answer})
	if box.held != nil {
		for _, frame := range box.held.frames {
			in, invalid := decodeFrame(frame)
			object := answerTo(&in, r)
			if invalid != nil {
				object = appendError(nil, in.uuid, invalid)
			}
			notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(object)}) || notify
		}
	}
	notify = a.closeLocked(code, r.Reason, retry) || notify
	a.unlock(notify)
	return true
}

// refresh handles a /meta/connect of a connected agent: it asks the connect gate again,
// with the new credentials.
func (box *inbox) refresh(in *inbound, id string, credentials []byte) {
	a := box.agent
	if in.agentID != id {
		a.refuse(GateConnect, "", in, refuse(CodeInvalid, "this session connected with another agentId"))
		return
	}
	if _, ok := box.refreshes.take(a.hub.timers.now(), refreshesPerSecond); !ok || a.leases.isReauthorizing() {
		a.refuse(GateConnect, "", in, refreshing)
		return
	}
	in.data = bytes.Clone(credentials)
	(&op{agent: a, gate: GateConnect, in: *in}).do()
}

// subscription handles /meta/subscribe, /meta/unsubscribe and /meta/history.
func (box *inbox) subscription(p *Policy, gate GateName, in *inbound) {
	a := box.agent
	channel, r := metaChannel(in.data)
	if r == nil {
		r = CheckPattern(channel, p.Limits.NameLength)
	}
	if r != nil {
		a.refuse(gate, channel, in, r)
		return
	}
	o := &op{agent: a, gate: gate, channel: channel, in: *in}
	switch in.channel {
	case metaSubscribe:
		var req recoveryRequest
		req, r = metaRecovery(in.data)
		if o.recover = newRecovering(req); r == nil {
			o.members.asked, r = metaWatches(in.data)
		}
		o.furtherToRecover()
		if o.members.asked && r == nil {
			o.members.refused = box.takePage()
		}
		o.furtherToWatch()
	case metaHistory:
		o.page, r = metaPage(in.data)
		o.further = append(o.further, further{gate: GateHistory})
	}
	if r != nil {
		a.refuse(gate, channel, in, r)
		return
	}
	o.do()
}

// members handles /meta/presence.
func (box *inbox) members(p *Policy, in *inbound) {
	a := box.agent
	channel, r := metaChannel(in.data)
	if r == nil {
		r = CheckPattern(channel, p.Limits.NameLength)
	}
	if r == nil && IsPattern(channel) {
		r = noPatternPresence
	}
	o := &op{agent: a, gate: GatePresence, channel: channel, in: *in}
	if r == nil {
		o.members, r = metaPresenceRequest(in.data)
	}
	if r != nil {
		a.refuse(GatePresence, channel, in, r)
		return
	}
	if r := box.takePage(); r != nil {
		box.refuseInTurn(GatePresence, channel, in, r)
		return
	}
	o.holds = o.members.stop || o.members.after > 0 || a.leases.watches(channel)
	o.do()
}

// takePage takes a token for a page of members.
func (box *inbox) takePage() *Refusal {
	wait, ok := box.pages.take(box.agent.hub.timers.now(), pagesPerSecond)
	if ok {
		return nil
	}
	return &Refusal{CodeLimit, fmt.Sprintf("more than %d pages of members a second", pagesPerSecond), wait}
}

// watches reports whether the agent is told who is in a channel.
func (ls *leases) watches(channel string) bool {
	ls.agent.mu.Lock()
	defer ls.agent.mu.Unlock()
	return slices.ContainsFunc(ls.subs, func(s *subscription) bool { return s.channel() == channel && s.watchLease() != nil })
}

// publish handles a frame for any channel that is not under /meta/. It enforces the
// publish rate (Limits.PublishesPerSecond).
func (box *inbox) publish(p *Policy, in *inbound, inTurn bool) {
	a := box.agent
	if r := CheckName(in.channel, p.Limits.NameLength); r != nil {
		if inTurn {
			box.publishJoined()
		}
		a.refuse(GatePublish, in.channel, in, r)
		return
	}
	if wait, ok := box.publishes.take(a.hub.timers.now(), p.Limits.PublishesPerSecond); !ok {
		r := refuse(CodeLimit, fmt.Sprintf("more than %d publishes a second", p.Limits.PublishesPerSecond))
		r.Retry = wait
		if inTurn {
			box.publishJoined()
		}
		box.refuseInTurn(GatePublish, in.channel, in, r)
		return
	}
	msg := NewMessage(in.channel, in.uuid, in.data)
	in.data = nil
	o := &op{agent: a, gate: GatePublish, channel: in.channel, in: *in, msg: msg, inTurn: inTurn}
	if a.opening.tracer() != nil {
		o.ctx, o.span = a.trace(context.Background(), SpanPublish, in.channel)
	}
	o.do()
}

// refuseInTurn answers a frame about a channel with r, but only after the earlier frames
// about the same channel (PROTOCOL.md, R31).
func (box *inbox) refuseInTurn(gate GateName, channel string, in *inbound, r *Refusal) {
	a := box.agent
	(&op{agent: a, gate: gate, channel: channel, in: *in, refused: r}).do()
}
