// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"errors"
	"log/slog"
	"strings"
	"time"
)

var errNotPublished = &Refusal{CodeUnavailable, "the server could not publish the message; try again", time.Second}

var errUUIDUsed = refuse(CodeInvalid, "this uuid was already used for other data on this channel")

// publish publishes the message of o, which the gate allowed, unless it is a repeat. It
// answers the frame, and returns the outcome for the span.
func (o *op) publish() AnswerName {
	a := o.agent
	who := publisherOf(a)
	note, kind, position := o.noteRepeat(who)
	switch kind {
	case repeatOpen:
		return Abandoned
	case repeatSame:
		o.publishJoined()
		a.hub.counts.drop(DropRepeated, 1)
		a.reply(appendPublished(nil, o.in.uuid, position))
		return Allowed
	case repeatConflict:
		o.publishJoined()
		a.refuse(o.gate, o.channel, &o.in, errUUIDUsed)
		return AnswerName(CodeInvalid)
	}
	messages := o.publications(who)
	for _, m := range messages {
		if a.policy.Load().delivery(m.Channel).Existing && !a.hub.exists(m) {
			o.publishJoined()
			a.hub.repeats.forget(note)
			a.refuse(o.gate, o.channel, &o.in, missing("this channel")) // a gate may have chosen another one
			return AnswerName(CodeMissing)
		}
	}
	if o.join(note, messages) {
		return Allowed
	}
	o.publishJoined()
	for i, m := range messages {
		at, err := a.hub.Publish(o.context(), m)
		switch {
		case err == nil:
			if m.Channel == o.msg.Channel { // the gate's other channels are not the client's business
				position = at.ofKept(m)
			}
			continue
		case errors.Is(err, ErrConflict) && (i > 0 || o.verdict.Publish != nil && o.verdict.Publish.Data != nil):
			continue // it was published before; a gate may set other data each time
		case errors.Is(err, ErrConflict):
			a.hub.repeats.forget(note)
			a.refuse(o.gate, o.channel, &o.in, errUUIDUsed)
			return AnswerName(CodeInvalid)
		}
		a.hub.logFailure(a.policy.Load().Log, m, err, slog.String("agent", a.UUID()))
		if i > 0 {
			continue // a channel already has it, so the client must not send it again
		}
		a.hub.repeats.forget(note)
		a.refuse(o.gate, o.channel, &o.in, errNotPublished)
		return AnswerName(CodeUnavailable)
	}
	a.hub.repeats.published(position, note)
	a.reply(appendPublished(nil, o.in.uuid, position))
	return Allowed
}

// noteRepeat notes the publish of o. If it repeats one that is being published, it waits for
// the end of that one: it may fail, and then this one is new. It returns repeatOpen if the
// agent leaves meanwhile: nobody would hear the answer, and the client repeats it elsewhere.
func (o *op) noteRepeat(who string) (note *remembered, kind repeatKind, position string) {
	a := o.agent
	for {
		note, kind, position = a.hub.repeats.note(time.Now(), who, keyOf(a.opening.Namespace(), o.msg.Channel), o.msg.UUID, o.msg.Data)
		if kind != repeatOpen {
			return note, kind, position
		}
		o.publishJoined() // it may be among them
		<-note.ended
		if a.currently() != stateConnected {
			return note, repeatOpen, ""
		}
	}
}

// publisherOf returns the name under which repeats and the log know who publishes: a user,
// or an agent without one. It is kept, because most agents publish more than once.
func publisherOf(a *Agent) string {
	kind, name := "user\x00", a.User()
	if name == "" {
		kind, name = "agent\x00", a.AgentID()
	}
	if kept := a.in.publisher.Load(); kept != nil && len(*kept) == len(kind)+len(name) &&
		strings.HasPrefix(*kept, kind) && strings.HasSuffix(*kept, name) {
		return *kept
	}
	who := kind + name
	a.in.publisher.Store(&who)
	return who
}

// publications returns the messages to publish after the gate has set channels, data or
// discard. who is the publisher.
func (o *op) publications(who string) []*Message {
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
	p := a.policy.Load()
	if p.Gates != nil { // only deliver gates ask for the sender
		from = &Sender{User: a.User(), UUID: a.UUID()}
	}
	out := make([]*Message, len(channels))
	for i, ch := range channels {
		m := o.msg
		if ch != m.Channel || v.Data != nil {
			m = NewMessage(ch, o.msg.UUID, data)
		}
		m.From = from
		d := p.delivery(ch)
		m.conflate = p.conflates(ch, d)
		if o.in.noEcho || d.NoEcho {
			m.except = &exclusion{agent: a.id}
		}
		if out[i] = m.in(a.opening.Namespace()).By(who); !o.in.noHistory {
			m.keepBy(p)
		}
	}
	return out
}
