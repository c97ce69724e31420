// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"crypto/sha256"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub/internal/packed"
)

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

	key    string                   // namespace and channel: the key of its node
	object []byte                   // the frame as a JSON object; Data is a part of it
	forms  atomic.Pointer[encoding] // its encodings so far; the newest is first
	who    string                   // who published it, see By
	except *exclusion               // who does not get it; nil for nobody
	keep   packedRule               // what is kept of its channel
	seq    uint64                   // its number in the history; 0 for a message that is not kept
	queued atomic.Int32             // subscriptions of this machine that it was queued for
	node   *node                    // of its channel, found before it is published; nil if there was none

	conflate bool // see Delivery.Conflate
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

// Came says that m has come back from the log as another object, which was applied here. So m
// tells to how many subscriptions of this machine it went. A Broker with such a log calls it
// before Publish returns.
func (m *Message) Came(applied *Message) { m.queued.Store(applied.queued.Load()) }

// copy returns a Message like m that was not published yet.
func (m *Message) copy() *Message {
	c := NewMessage(m.Channel, m.UUID, m.Data)
	c.key, c.From = m.key, m.From
	return c
}

// in puts m into a namespace, before it is published, and returns m.
func (m *Message) in(namespace string) *Message {
	m.key = keyOf(namespace, m.Channel)
	return m
}

// By notes who published m, and returns m. who and the UUID identify the message: see ID.
// Call it before m is published.
func (m *Message) By(who string) *Message {
	m.who = who
	return m
}

// Keep notes what is kept of the message's channel, and returns m. Call it before m is
// published.
func (m *Message) Keep(rule HistoryRule) *Message {
	m.keep = packRule(rule)
	return m
}

// A packedRule is a HistoryRule in 8 bytes, because each message has one.
type packedRule struct{ count, milliseconds uint32 }

func packRule(r HistoryRule) packedRule {
	return packedRule{uint32(min(max(r.Count, 0), math.MaxInt32)), uint32(min(max(r.TTL/time.Millisecond, 0), math.MaxUint32))}
}

func (p packedRule) rule() HistoryRule {
	return HistoryRule{Count: int(p.count), TTL: time.Duration(p.milliseconds) * time.Millisecond}
}

// Kept reports whether the history keeps m.
func (m *Message) Kept() bool { return m.keep.count > 0 }

// Key returns the namespace and the channel of m as one string.
func (m *Message) Key() string { return m.key }

// keepBy notes what p keeps of the message's channel.
func (m *Message) keepBy(p *Policy) {
	if p.Histories != nil {
		m.Keep(p.Histories.History(m.Channel))
	}
}

// ID identifies m: no other message has the same publisher, channel and UUID. It is the
// same in each process.
func (m *Message) ID() [16]byte {
	var b []byte
	for _, part := range []string{m.key, m.who, m.UUID} {
		b = packed.AppendText(b, part)
	}
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// positionKey precedes the position in the frame, which ends with it.
const positionKey = `,"position":"`

// stamp gives the message its number, and puts its position into the frame.
func (m *Message) stamp(seq uint64, position Position) {
	m.seq = seq
	object := make([]byte, 0, len(m.object)+len(position.Epoch)+48)
	object = append(append(object, m.object[:len(m.object)-1]...), positionKey...)
	m.object = append(position.Append(object), `"}`...)
}

// at returns the message with the position of original, of which it is a changed copy.
func (m *Message) at(original *Message) *Message {
	if original.seq == 0 {
		return m
	}
	c := NewMessage(m.Channel, m.UUID, m.Data)
	c.seq = original.seq
	c.object = slices.Concat(c.object[:len(c.object)-1], []byte(positionKey), original.Position(), []byte(`"}`))
	return c
}

// keyOf returns the key of a channel in a namespace. Keys of different namespaces are
// never equal, because no name contains a NUL.
func keyOf(namespace, channel string) string {
	if namespace == "" {
		return channel
	}
	return namespace + "\x00" + channel
}

// cutKey undoes keyOf. found says that there is a namespace.
func cutKey(key string) (namespace, channel string, found bool) {
	if namespace, channel, found = strings.Cut(key, "\x00"); !found {
		return "", key, false
	}
	return namespace, channel, true
}

// An encoding is a message in one Form. A message has few: most hubs use one or two Forms.
type encoding struct {
	form  *Form
	bytes []byte
	next  *encoding
}

// encoded returns the message in the encoding f. The result is shared: do not change it.
func (m *Message) encoded(f *Form) []byte {
	var made *encoding
	for {
		first := m.forms.Load()
		for e := first; e != nil; e = e.next {
			if e.form == f {
				return e.bytes
			}
		}
		if made == nil {
			made = &encoding{form: f, bytes: f.encodeMessage(m)}
		}
		// Two goroutines may get here at once: keep what the other one has added.
		made.next = first
		if m.forms.CompareAndSwap(first, made) {
			return made.bytes
		}
	}
}

// Object returns the message as a JSON object (PROTOCOL.md, R29). Do not change it.
func (m *Message) Object() []byte { return m.object }

// Position returns the position of a message that is kept in a history (PROTOCOL.md, R58),
// else nil.
func (m *Message) Position() []byte {
	i := bytes.LastIndex(m.object, []byte(positionKey))
	if m.seq == 0 || i < 0 {
		return nil
	}
	return m.object[i+len(positionKey) : len(m.object)-len(`"}`)]
}

func (f *Form) encodeMessage(m *Message) []byte {
	if f.message == nil || m.presence {
		return f.encode(m.object)
	}
	return f.message(make([]byte, 0, len(m.object)+len(m.object)/4+16), m)
}

func (f *Form) encode(object []byte) []byte {
	return f.wrap(make([]byte, 0, len(object)+len(object)/4+16), object)
}
