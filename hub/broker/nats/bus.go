// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
)

const (
	// beatEvery is how often a node sends a heartbeat.
	beatEvery = 500 * time.Millisecond
	// downAfter is how long a node's heartbeats are missing when it is down, and missedBeats
	// how many of this node's own have come back meanwhile. Those whom the node tells need
	// some time too, until hub.BusTimeout.
	downAfter   = hub.BusTimeout - beatEvery
	missedBeats = 4
	// checkEvery is how often a node looks whether others are down.
	checkEvery = 100 * time.Millisecond
	// inboundQueue and requestQueue are how many messages of other nodes may wait. More are
	// dropped: a bus promises no more than once.
	inboundQueue = 8192
	requestQueue = 1024
	// requestsAtOnce is how many requests of other nodes are handled at once.
	requestsAtOnce = 512
	// flapPatience is how long a request waits for a node that seems to be up, but is not
	// connected: it may just change to another server.
	flapPatience = 700 * time.Millisecond
	flapRetry    = 50 * time.Millisecond
)

// A bus is the hub.Bus of a Broker, over plain NATS. Requests to a node that is gone fail at
// once, because NATS knows who listens.
//
// Whether others are down is a question of time. A node that was stopped, or whose server
// hangs, misjudges the time. So each node measures it in heartbeats of its own that come back:
// another node is down when some of these have come, and none of the other node's. Besides, a
// node declares nobody down while it cannot ask the stream. A server that is cut off from the
// others has no leader to ask. So only the side of a cut that can publish declares the other
// one down.
type bus struct {
	b        *Broker
	self     hub.NodeID
	inbound  chan *nats.Msg // broadcasts, heartbeats and goodbyes
	requests chan *nats.Msg
	calls    chan func() // what the goroutine does besides
	work     sync.WaitGroup
	ended    bool // this node says goodbye; owned by the goroutine

	mu       sync.Mutex // guards the following; a leaf
	handlers map[string]busHandler
	watchers []func(hub.NodeID, bool)
	peers    map[hub.NodeID]*peer
	sent     uint64    // heartbeats
	sentAt   time.Time // the last one
	beats    uint64    // how many have come back
}

type busHandler = func(ctx context.Context, from hub.NodeID, b []byte) []byte

// A peer is another node.
type peer struct {
	up    bool          // it was announced
	first time.Time     // when it was heard of
	seen  time.Time     // when it was heard last
	beat  uint64        // of bus.beats at that time
	down  chan struct{} // closed when it is down
}

func newBus(b *Broker, self hub.NodeID) *bus {
	return &bus{
		b: b, self: self,
		inbound:  make(chan *nats.Msg, inboundQueue),
		requests: make(chan *nats.Msg, requestQueue),
		calls:    make(chan func(), 64),
		handlers: make(map[string]busHandler),
		peers:    make(map[hub.NodeID]*peer),
	}
}

func (u *bus) start() {
	u.work.Go(u.run)
	u.work.Go(u.serve)
}

// nodes returns how many nodes are up, with this one.
func (u *bus) nodes() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 1
	for _, p := range u.peers {
		if p.up {
			n++
		}
	}
	return n
}

// run handles heartbeats and broadcasts, one after the other.
func (u *bus) run() {
	beats, checks := time.NewTicker(beatEvery), time.NewTicker(checkEvery)
	defer beats.Stop()
	defer checks.Stop()
	u.beat()
	for {
		select {
		case <-u.b.life.Done():
			return
		case <-beats.C:
			u.beat()
		case <-checks.C:
			u.welcomeLate()
			u.findDown()
		case f := <-u.calls:
			f()
		case m := <-u.inbound:
			u.handle(m)
		}
	}
}

// beat sends a heartbeat.
func (u *bus) beat() {
	if u.ended {
		return // others would take this node for one that is up again
	}
	u.mu.Lock()
	u.sent++
	u.sentAt = time.Now()
	b := binary.AppendUvarint(u.framed(nil), u.sent)
	u.mu.Unlock()
	_ = u.b.conn().Publish(u.b.names.heartbeat(), b) // the next one comes soon
}

// connected sends a heartbeat soon, because others may have missed some.
func (u *bus) connected() {
	select {
	case u.calls <- u.beat:
	default: // there is much to do, and the next heartbeat is not far
	}
}

func (u *bus) sayGoodbye() {
	l := u.b.link.Load()
	if l == nil {
		return
	}
	said := make(chan struct{})
	patience := time.After(time.Second) // without it, the others find out in some seconds
	select {
	case <-patience:
		return
	case u.calls <- func() {
		u.ended = true
		_ = l.nc.Publish(u.b.names.goodbye(), u.framed(nil))
		close(said)
	}:
	}
	select {
	case <-patience:
	case <-said:
		_ = l.nc.FlushTimeout(time.Second)
	}
}

// framed returns b with this node before it.
func (u *bus) framed(b []byte) []byte {
	out := make([]byte, 0, len(u.self.Name)+len(u.self.Incarnation)+4+len(b))
	for _, text := range []string{u.self.Name, u.self.Incarnation} {
		out = append(binary.AppendUvarint(out, uint64(len(text))), text...)
	}
	return append(out, b...)
}

// unframe undoes framed.
func unframe(b []byte) (from hub.NodeID, rest []byte, ok bool) {
	var parts [2]string
	for i := range parts {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > maxNodeLength || n > uint64(len(b)-size) {
			return hub.NodeID{}, nil, false
		}
		parts[i], b = string(b[size:size+int(n)]), b[size+int(n):]
	}
	return hub.NodeID{Name: parts[0], Incarnation: parts[1]}, b, parts[1] != ""
}

// handle handles a heartbeat, a goodbye or a broadcast.
func (u *bus) handle(m *nats.Msg) {
	from, rest, ok := unframe(m.Data)
	if !ok {
		return
	}
	what := strings.TrimPrefix(m.Subject, u.b.names.base)
	switch {
	case what == "h":
		if n, size := binary.Uvarint(rest); size > 0 {
			u.hear(from, n)
		}
	case from == u.self:
	case what == "g":
		u.goodbye(from)
	case strings.HasPrefix(what, "b."):
		u.mu.Lock()
		f := u.handlers[what[2:]]
		u.mu.Unlock()
		if f != nil {
			f(u.b.life, from, rest)
		}
	}
}

// hear notes a heartbeat.
func (u *bus) hear(from hub.NodeID, n uint64) {
	u.mu.Lock()
	if from == u.self {
		if n == u.sent && time.Since(u.sentAt) < beatEvery { // else it has waited somewhere, and so may those of others
			u.beats++
		}
		u.mu.Unlock()
		return
	}
	p := u.peers[from]
	fresh := p == nil
	if fresh {
		p = &peer{first: time.Now(), down: make(chan struct{})}
		u.peers[from] = p
	}
	p.beat, p.seen = u.beats, time.Now()
	news := u.welcomeLocked(from, p)
	u.mu.Unlock()
	u.announce(news)
	if fresh {
		u.beat() // it gets to know this node now, not later
	}
}

// welcomeLocked announces a node, unless it seems to be a node that was there before and has
// started again. Then that one is down first, if its heartbeats have ended.
func (u *bus) welcomeLocked(id hub.NodeID, p *peer) (news []func()) {
	if p.up {
		return nil
	}
	if twin := u.twinLocked(id); twin != nil {
		if time.Since(p.first) < beatEvery*5/4 {
			return nil
		}
		if u.peers[*twin].seen.Before(p.first) {
			news = u.downLocked(*twin)
		} else {
			u.b.options.Log.Warn("two nodes of the hub have the same name: give each its own", "node", id.Name)
		}
	}
	p.up = true
	return append(news, u.newsLocked(id, true)...)
}

// welcomeLate announces nodes that were heard of, and had to wait.
func (u *bus) welcomeLate() {
	u.mu.Lock()
	var news []func()
	for id, p := range u.peers {
		news = append(news, u.welcomeLocked(id, p)...)
	}
	u.mu.Unlock()
	u.announce(news)
}

// twinLocked returns another node with the same name that is up.
func (u *bus) twinLocked(of hub.NodeID) *hub.NodeID {
	for id, p := range u.peers {
		if id != of && id.Name == of.Name && p.up {
			return &id
		}
	}
	return nil
}

// findDown finds nodes whose heartbeats are missing.
func (u *bus) findDown() {
	if time.Since(time.Unix(0, u.b.log.asked.Load())) > 2*lookEvery || !u.b.conn().IsConnected() {
		return
	}
	u.mu.Lock()
	var news []func()
	for id, p := range u.peers {
		if u.beats-p.beat >= missedBeats && time.Since(p.seen) >= downAfter {
			news = append(news, u.downLocked(id)...)
		}
	}
	u.mu.Unlock()
	u.announce(news)
}

// goodbye notes that a node has said that it ends.
func (u *bus) goodbye(id hub.NodeID) {
	u.mu.Lock()
	news := u.downLocked(id)
	u.mu.Unlock()
	u.announce(news)
}

// downLocked notes that a node is down, and returns what to tell the watchers.
func (u *bus) downLocked(id hub.NodeID) []func() {
	p := u.peers[id]
	if p == nil {
		return nil
	}
	close(p.down)
	delete(u.peers, id)
	if !p.up {
		return nil
	}
	return u.newsLocked(id, false)
}

func (u *bus) newsLocked(id hub.NodeID, up bool) (calls []func()) {
	for _, f := range u.watchers {
		calls = append(calls, func() { f(id, up) })
	}
	return calls
}

// announce calls watchers. Only the goroutine of run does.
func (u *bus) announce(news []func()) {
	for _, f := range news {
		f()
	}
}

// Self implements hub.Bus.
func (u *bus) Self() hub.NodeID { return u.self }

// Watch implements hub.Bus.
func (u *bus) Watch(f func(hub.NodeID, bool)) {
	select {
	case <-u.b.life.Done():
	case u.calls <- func() {
		u.mu.Lock()
		u.watchers = append(u.watchers, f)
		var up []hub.NodeID
		for id, p := range u.peers {
			if p.up {
				up = append(up, id)
			}
		}
		u.mu.Unlock()
		for _, id := range up {
			f(id, true)
		}
	}:
	}
}

// Handle implements hub.Bus.
func (u *bus) Handle(topic string, f func(context.Context, hub.NodeID, []byte) []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handlers[token(topic)] = f
}

// Broadcast implements hub.Bus.
func (u *bus) Broadcast(topic string, b []byte) error {
	if err := u.sendable(b); err != nil {
		return err
	}
	if err := u.b.conn().Publish(u.b.names.broadcast(topic), u.framed(b)); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return nil
}

// sendable returns what is wrong with sending b.
func (u *bus) sendable(b []byte) error {
	switch l := u.b.link.Load(); {
	case len(b) > hub.MaxBusPayload:
		return fmt.Errorf("the message has %d bytes; at most %d are possible", len(b), hub.MaxBusPayload)
	case u.b.life.Err() != nil, l == nil:
		return hub.ErrClosed
	case !l.nc.IsConnected():
		return ErrAway
	}
	return nil
}

// What an answer begins with.
const (
	answered  = 1
	noAnswer  = 0
	answerHas = 1 // bytes before the answer itself
)

// Request implements hub.Bus.
func (u *bus) Request(ctx context.Context, to hub.NodeID, topic string, b []byte) ([]byte, error) {
	if err := u.sendable(b); err != nil {
		return nil, err
	}
	u.mu.Lock()
	p := u.peers[to]
	u.mu.Unlock()
	if p == nil {
		return nil, hub.ErrNoNode
	}
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(u.b.life, func() { cancel(hub.ErrClosed) })
	defer stop()
	go func() {
		select {
		case <-p.down:
			cancel(hub.ErrNoAnswer)
		case <-waiting.Done():
		}
	}()
	data, subject, begun := u.framed(b), u.b.names.request(to.Incarnation, topic), time.Now()
	for {
		m, err := u.b.conn().RequestWithContext(waiting, subject, data)
		switch {
		case err == nil && len(m.Data) >= answerHas && m.Data[0] == answered:
			return m.Data[answerHas:], nil
		case err == nil:
			return nil, hub.ErrNoAnswer
		case errors.Is(err, nats.ErrNoResponders):
			select {
			case <-p.down:
				return nil, hub.ErrNoNode
			default:
			}
			if time.Since(begun) > flapPatience {
				return nil, hub.ErrNoNode
			}
			select {
			case <-waiting.Done():
				if cause := context.Cause(waiting); errors.Is(cause, hub.ErrNoAnswer) {
					return nil, hub.ErrNoNode // it has not got the request
				}
			case <-time.After(flapRetry):
				continue
			}
		}
		if waiting.Err() != nil {
			return nil, context.Cause(waiting)
		}
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
}

// serve handles requests, some at once.
func (u *bus) serve() {
	room := make(chan struct{}, requestsAtOnce)
	for {
		select {
		case <-u.b.life.Done():
			return
		case m := <-u.requests:
			select {
			case <-u.b.life.Done():
				return
			case room <- struct{}{}:
			}
			u.work.Go(func() {
				defer func() { <-room }()
				u.answer(m)
			})
		}
	}
}

func (u *bus) answer(m *nats.Msg) {
	from, rest, ok := unframe(m.Data)
	topic := strings.TrimPrefix(m.Subject, u.b.names.base+"r."+token(u.self.Incarnation)+".")
	u.mu.Lock()
	f := u.handlers[topic]
	u.mu.Unlock()
	var a []byte
	if ok && f != nil {
		a = f(u.b.life, from, rest)
	}
	out := []byte{noAnswer}
	if a != nil && len(a) <= hub.MaxBusPayload {
		out = append([]byte{answered}, a...)
	}
	_ = m.Respond(out) // the other node no longer waits, or its own patience ends
}

// Ask implements hub.Bus.
func (u *bus) Ask(ctx context.Context, topic string, b []byte, answer func(hub.NodeID, []byte) bool) error {
	if err := u.sendable(b); err != nil {
		return err
	}
	b = bytes.Clone(b) // requests that nobody waits for may go on for a moment
	u.mu.Lock()
	ids := slices.Collect(maps.Keys(u.peers)) // also those that are not announced yet: they serve already
	u.mu.Unlock()
	return hub.AskEach(ctx, ids, func(ctx context.Context, id hub.NodeID) ([]byte, error) { return u.Request(ctx, id, topic, b) }, answer)
}

var _ hub.Bus = (*bus)(nil)
