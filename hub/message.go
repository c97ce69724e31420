// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "sync/atomic"

// A Message was published on a channel. It is immutable. All agents share it, and it is
// encoded once for each Form that they use.
type Message struct {
	// UUID is the uuid of the publish frame.
	UUID string
	// Channel is the channel that it was published on.
	Channel string
	// Data is any JSON value, as the publisher wrote it.
	Data []byte
	// From is the publisher. It is nil if there are no deliver gates to ask for it.
	From *Sender

	key    string // namespace and channel: the key of its node
	object []byte // the frame as a JSON object; Data is a part of it
	forms  [maxForms]atomic.Pointer[[]byte]
	rule   HistoryRule  // what is kept of its channel, and
	most   int          // of all channels, in bytes
	seq    uint64       // its number in the history; 0 for a message that is not kept
	queued atomic.Int32 // subscriptions of this machine that it was queued for

	presence bool // it is no message, but a frame about the members of its channel
}

// NewMessage makes a Message. channel must be a valid name, uuid a valid id and data one
// JSON value, all as PROTOCOL.md defines them. nil data is null. NewMessage copies data.
func NewMessage(channel, uuid string, data []byte) *Message {
	m := &Message{UUID: uuid, Channel: channel, key: channel}
	if data == nil {
		data = []byte("null")
	}
	// A frame is {…,"data":<data>}: the copy in the frame is the only one kept.
	m.object = appendMessage(make([]byte, 0, len(channel)+len(uuid)+len(data)+48), channel, uuid, data)
	end := len(m.object) - 1
	m.Data = m.object[end-len(data) : end : end]
	return m
}

// in puts m into a namespace, before it is published, and returns m.
func (m *Message) in(namespace string) *Message {
	m.key = keyOf(namespace, m.Channel)
	return m
}

// remember notes what p keeps of the message's channel; it has not been published yet.
func (m *Message) remember(p *Policy) *Message {
	if p.Histories != nil {
		m.rule, m.most = p.Histories.History(m.Channel), p.Limits.HistoryBytes
	}
	return m
}

// stamp gives the message its number, and puts its position into the frame.
func (m *Message) stamp(seq uint64, position string) {
	m.seq = seq
	m.object = append(m.object[:len(m.object)-1:len(m.object)-1], `,"position":"`...)
	m.object = append(append(m.object, position...), `"}`...)
}

// keyOf returns the key of a channel in a namespace. Keys of different namespaces are
// never equal, because no name contains a NUL.
func keyOf(namespace, channel string) string {
	if namespace == "" {
		return channel
	}
	return namespace + "\x00" + channel
}

// encoded returns the message in the encoding f. The result is shared: do not change it.
func (m *Message) encoded(f *Form) []byte {
	if b := m.forms[f.slot].Load(); b != nil {
		return *b
	}
	b := f.encode(m.object)
	// Two goroutines may get here at once. Both made the same bytes; keep one.
	m.forms[f.slot].CompareAndSwap(nil, &b)
	return b
}

func (f *Form) encode(object []byte) []byte {
	return f.wrap(make([]byte, 0, len(object)+len(object)/4+16), object)
}
