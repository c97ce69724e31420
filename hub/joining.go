// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"log/slog"
	"sync"
)

// Frames often arrive together: a burst of publishes comes in a few reads of the transport. If
// an agent's publishes on one channel follow each other in such a batch, and nobody keeps them,
// they are joined: the fan-out goes through the subscribers once for all of them. So the
// subscribers get them in one write, too. Nothing waits for more to come: what has arrived is
// published before the transport reads on, and before any other frame is handled.

const (
	// maxJoined and maxJoinedBytes limit what is joined, beside the limits of the pacer: a
	// flusher should begin to write before much is queued.
	maxJoined      = 64
	maxJoinedBytes = 32 << 10
)

// A joining is the publishes of an agent that are accepted, but not published yet. All are on
// one channel. The goroutine that calls Agent.Receive owns it.
type joining struct {
	channel  string
	ops      []*op // they have not been answered yet
	notes    []*remembered
	messages []*Message
	bytes    int
}

var joinings = sync.Pool{New: func() any { return new(joining) }}

func putJoining(j *joining) {
	clear(j.ops)
	clear(j.notes)
	clear(j.messages)
	*j = joining{ops: j.ops[:0], notes: j.notes[:0], messages: j.messages[:0]}
	joinings.Put(j)
}

// join adds the publish of o, or returns false if it must be published alone. note is what
// repeats noted for it.
func (o *op) join(note *remembered, messages []*Message) bool {
	box := &o.agent.in
	if !o.inTurn || o.agent.out.batch.Load() == noBatch || o.span != nil || len(messages) != 1 || messages[0].Kept() || !o.agent.hub.log.joins() {
		return false
	}
	m, limits := messages[0], o.agent.hub.pacer.limits.Load()
	size := len(m.object)
	if j := box.joining; j != nil && (j.channel != m.Channel || len(j.ops) >= min(maxJoined, limits.messages) || j.bytes+size > min(maxJoinedBytes, limits.bytes)) {
		box.publishJoined()
	}
	if box.joining == nil {
		box.joining = joinings.Get().(*joining)
		box.joining.channel = m.Channel
	}
	j := box.joining
	j.ops, j.notes, j.messages, j.bytes = append(j.ops, o), append(j.notes, note), append(j.messages, m), j.bytes+size
	return true
}

// publishJoined publishes what was joined before o, whose answer must not come first.
func (o *op) publishJoined() {
	if o.inTurn {
		o.agent.in.publishJoined()
	}
}

// publishJoined publishes what was joined, and answers the frames. The goroutine that calls
// Receive calls it.
func (box *inbox) publishJoined() {
	j := box.joining
	if j == nil {
		return
	}
	box.joining = nil
	defer putJoining(j)
	a := box.agent
	n, err := a.hub.publishJoined(j.messages, j.bytes)
	a.hub.repeats.published("", j.notes[:n]...)
	a.hub.repeats.forget(j.notes[n:]...)
	var few [8][]byte
	answers, form := few[:0], a.out.conn.Form()
	for _, o := range j.ops[:n] {
		answers = append(answers, form.encode(appendPublished(nil, o.in.uuid, "")))
	}
	a.sendAll(answers)
	for i, o := range j.ops[n:] {
		a.hub.logFailure(a.policy.Load().Log, j.messages[n+i], err, slog.String("agent", a.UUID()))
		a.refuse(o.gate, o.channel, &o.in, errNotPublished)
	}
}

// publishJoined publishes messages of one channel that are not kept, as Publish does for each
// of them. It returns how many it has published, and the error of the next one.
func (h *Hub) publishJoined(messages []*Message, size int) (n int, err error) {
	p := h.pacer.begin(context.Background(), messages[0], len(messages), size)
	defer h.pacer.end(p, len(messages), size)
	n, err = h.log.publishJoined(messages)
	h.counts.published.Add(uint64(n))
	h.counts.drop(DropFailed, len(messages)-n)
	return n, err
}

// sendAll is Send for several frames.
func (a *Agent) sendAll(frames [][]byte) {
	a.mu.Lock()
	notify := false
	for _, p := range frames {
		notify = a.state < stateClosing && a.out.acceptLocked(item{bytes: p}) || notify
	}
	a.unlock(notify)
}

// A Joiner is a Broker that can publish messages of one channel together if they are not kept.
type Joiner interface {
	Broker
	// PublishJoined publishes messages that are not kept, in their order, all or none. They
	// have one channel.
	PublishJoined(messages []*Message) error
}

// joins reports whether the Broker is a Joiner.
func (s *swappable) joins() bool {
	_, is := (*s.broker.Load()).(Joiner)
	return is
}
