// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

// maxTo is the largest number of channels that one publish goes to.
const maxTo = 16

// verbs are what a gate does after it has allowed.
type verbs struct {
	to        []string      // publish: the channels, instead of the message's
	transform *expr.Program // publish, deliver: the data, instead of the message's
	discard   bool          // publish: publish nothing
}

// publishing returns what to publish instead of a message; nil means the message itself.
func (v *verbs) publishing(q *Question) (*hub.Publishing, error) {
	l := &q.Learned
	p := hub.Publishing{Channels: l.Channels, Data: l.Data, Discard: l.Drop || v.discard}
	if v.to != nil {
		p.Channels = v.to
	}
	if v.transform != nil && !p.Discard {
		if p.Data != nil {
			q.Question = withData(q.Question, p.Data)
		}
		data, err := v.transformed(q)
		if err != nil {
			return nil, err
		}
		p.Data = data
	}
	if p.Channels == nil && p.Data == nil && !p.Discard {
		return nil, nil
	}
	return &p, nil
}

// transformed returns the data that transform makes of a message. The data must not be
// larger than what an agent may send.
func (v *verbs) transformed(q *Question) ([]byte, error) {
	data, err := v.transform.Value(q.Question, session{q})
	if err != nil {
		return nil, fmt.Errorf("transform: %w", err)
	}
	if limit := q.Agent.Policy().Limits.MessageSize; len(data) > limit {
		return nil, &expr.DataFault{Err: fmt.Errorf("transform made %d bytes of data; message_size allows %d", len(data), limit)}
	}
	return data, nil
}

// transformFailed returns the answer for a transform that failed. It is invalid if the
// data of the message is the cause.
func transformFailed(err error) Answer {
	if fault, ok := errors.AsType[*expr.DataFault](err); ok {
		return Answer{Kind: Deny, Invalid: true, Reason: fault.Reason(), Err: err}
	}
	return Answer{Kind: Unavailable, Err: err}
}

// withData returns q with other data in its message.
func withData(q *hub.Question, data []byte) *hub.Question {
	c := *q
	c.Message = hub.NewMessage(q.Message.Channel, q.Message.UUID, data)
	c.Message.From = q.Message.From
	return &c
}

// Deliver implements hub.DeliverGate. It drops a message if the guards do not allow it or
// cannot decide.
func (c *Chain) Deliver(a *hub.Agent, m *hub.Message) (out *hub.Message) {
	hq := &hub.Question{Gate: hub.GateDeliver, Agent: a, Channel: m.Channel, Message: m, Credentials: a.Credentials(), Identity: a.Identity()}
	q := c.question(hq)
	defer func() {
		if p := recover(); p != nil {
			c.report(q, "transform", Answer{Kind: Unavailable, Err: fmt.Errorf("panic: %v", p)})
			out = nil
		}
	}()
	_, name, answer := c.ask(context.Background(), q, nil) // local guards need no deadline
	switch answer.Kind {
	case Pass, Allow:
	case Unavailable:
		c.report(q, name, answer)
		return nil
	default:
		if answer.Err != nil { // the expression failed; it did not just say no
			c.report(q, name, Answer{Kind: Unavailable, Err: answer.Err})
		}
		return nil
	}
	if c.verbs.transform == nil {
		return m
	}
	data, err := c.verbs.transformed(q)
	if err != nil {
		c.report(q, "transform", transformFailed(err))
		return nil
	}
	if len(data) > 0 && len(data) == len(m.Data) && &data[0] == &m.Data[0] {
		return m // these are the message's own bytes, so all receivers can share its encoding
	}
	return hub.NewMessage(m.Channel, m.UUID, data)
}
