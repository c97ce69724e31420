// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import "sync/atomic"

// A Message is what was published on a channel. It is immutable; all agents
// share it, and it is encoded once for each Form they want.
type Message struct {
	// UUID is the publisher's name for this publication.
	UUID string
	// Channel is where it was published.
	Channel string
	// Data is any JSON value, as the publisher wrote it.
	Data []byte
	// From is who published it, where a gate before deliveries may want to know;
	// else nil.
	From *Sender

	key    string // namespace and channel, as nodes are found by
	object []byte // the frame on the bare wire; Data is a part of it
	forms  [maxForms]atomic.Pointer[[]byte]
}

// NewMessage makes a Message. The channel must be a channel's name, uuid an id
// and data one JSON value as PROTOCOL.md has them, nil for null; data is copied.
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

// in returns m as of a namespace; it has not been published yet.
func (m *Message) in(namespace string) *Message {
	m.key = keyOf(namespace, m.Channel)
	return m
}

// keyOf keeps the names of namespaces apart: no name holds a NUL.
func keyOf(namespace, channel string) string {
	if namespace == "" {
		return channel
	}
	return namespace + "\x00" + channel
}

// encoded returns the message as f has it. The result is shared: read-only.
func (m *Message) encoded(f *Form) []byte {
	if b := m.forms[f.slot].Load(); b != nil {
		return *b
	}
	b := f.encode(m.object)
	// Two may meet here; both encodings are the same, one is kept.
	m.forms[f.slot].CompareAndSwap(nil, &b)
	return b
}

func (f *Form) encode(object []byte) []byte {
	return f.wrap(make([]byte, 0, len(object)+len(object)/4+16), object)
}
