// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "time"

// publish publishes the message of o, which the gate allowed, unless it is a repeat. It
// answers the frame, and returns the outcome for the span.
func (o *op) publish() AnswerName {
	a := o.agent
	who := "user\x00" + a.User()
	if len(who) == len("user\x00") {
		who = "agent\x00" + a.AgentID()
	}
	key, kind, position := a.hub.repeats.note(time.Now(), who, keyOf(a.opening.Namespace, o.msg.Channel), o.msg.UUID, o.msg.Data)
	switch kind {
	case repeatSame:
		a.hub.counts.drop(DropRepeated, 1)
		a.reply(appendPublished(nil, o.in.uuid, position))
		return Allowed
	case repeatConflict:
		a.answer(&o.in, refuse(CodeInvalid, "this uuid was already used for other data on this channel"))
		return AnswerName(CodeInvalid)
	}
	for i, m := range o.publications() {
		err := a.hub.Publish(o.context(), m)
		if err == nil {
			if m.Channel == o.msg.Channel { // the gate's other channels are not the client's business
				position = a.hub.history.position(m)
			}
			continue
		}
		a.policy.Load().Log.Error("publishing failed", "channel", m.Channel, "agent", a.UUID(), "error", err)
		if i > 0 {
			continue // a channel already has it, so the client must not send it again
		}
		a.hub.repeats.forget(key)
		a.answer(&o.in, &Refusal{CodeUnavailable, "the server could not publish the message; try again", time.Second})
		return AnswerName(CodeUnavailable)
	}
	a.hub.keepUp(a.policy.Load().Limits)
	a.hub.repeats.published(key, position)
	a.reply(appendPublished(nil, o.in.uuid, position))
	return Allowed
}

// publications returns the messages to publish after the gate has set channels, data or
// discard.
func (o *op) publications() []*Message {
	a := o.agent
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
	if a.policy.Load().Gates != nil { // only deliver gates ask for the sender
		from = &Sender{User: a.User(), UUID: a.UUID()}
	}
	out := make([]*Message, len(channels))
	for i, ch := range channels {
		m := o.msg
		if ch != m.Channel || v.Data != nil {
			m = NewMessage(ch, o.msg.UUID, data)
		}
		m.From = from
		out[i] = m.in(a.opening.Namespace).remember(a.policy.Load())
	}
	return out
}
