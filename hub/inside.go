// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"net"
	"slices"
	"sync"
)

// An Inside is a program within the server: another module, the program that embeds the
// hub, or the operator's admin API. It has a namespace of the hub. No gate is asked about
// what it does. Its methods may be called concurrently.
type Inside struct {
	hub       *Hub
	namespace string
}

// NewInside returns what programs within the server use to publish and to listen. Without
// tenants, the namespace is empty.
func NewInside(h *Hub, namespace string) *Inside { return &Inside{h, namespace} }

const (
	// insidePrefix begins the name under which repeats remembers programs within the server.
	insidePrefix = "inside\x00"
	// insideTransport is the transport of agents that Inside.Listen makes.
	insideTransport = "internal"
	// insideChannels is the most channels of one Feed.
	insideChannels = 1024
)

// policy returns the policy of programs within the server: what the newest
// configuration says about the histories of channels and how messages are delivered, without
// gates. Endpoints that share a hub agree on both.
func (i *Inside) policy() *Policy {
	h := i.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	p := new(Policy)
	if mounts := slices.Sorted(maps.Keys(h.policies)); len(mounts) > 0 {
		all := h.policies[mounts[0]]
		*p = *all[len(all)-1]
	}
	p.Mount, p.Gates, p.Admission, p.Presences = "", nil, nil, nil
	p.Limits.ChannelsPerAgent = insideChannels
	return p.withDefaults()
}

// Publish publishes p on all of its channels. For its errors, see Program.Publish. Messages
// with a UUID are published once, as those of other programs.
func (i *Inside) Publish(ctx context.Context, p Publication) (Receipt, *Refusal) {
	if len(p.Channels) == 0 || len(p.Channels) > MaxPublicationChannels {
		return Receipt{}, refuse(CodeInvalid, "a message needs 1 to 16 channels")
	}
	if p.Data == nil {
		p.Data = []byte("null")
	}
	if !json.Valid(p.Data) {
		return Receipt{}, refuse(CodeInvalid, "the data of a message must be one JSON value")
	}
	if r := i.hub.goingAway(); r != nil {
		return Receipt{}, r
	}
	a := i.hub.newAgent(Opening{Namespace: i.namespace, Transport: insideTransport})
	a.policy.Store(i.policy())
	pr := &Program{agent: a, from: new(Sender), who: insidePrefix, inside: true}
	return pr.Publish(ctx, p)
}

// A Received is a message as a Feed gets it.
type Received struct {
	Channel  string          `json:"channel"`
	UUID     string          `json:"uuid"`
	Data     json.RawMessage `json:"data"`
	Position string          `json:"position,omitempty"` // if its channel has a history
}

// A Feed is what a program within the server gets of some channels. One goroutine may use
// it at a time, except for Close.
type Feed struct {
	// Begun is what the feed begins with.
	Begun Beginning

	agent *Agent
	conn  *feedConn
	stop  func() bool // ctx no longer ends it
	err   error
}

// feedForm encodes messages as JSON, one after the other, and nothing else: a Feed needs no
// notice, because Err says why it has ended.
var feedForm = NewMessageForm(
	func(dst []byte, m *Message) []byte { return append(append(dst, m.object...), '\n') },
	func(dst, _ []byte) []byte { return dst },
	nil,
)

// A feedConn hands what is written to a Feed. A write waits for the Feed to read.
type feedConn struct {
	net.Conn // the side that the hub writes to
	reader   net.Conn
	closed   chan struct{} // closed by end

	once   sync.Once // guards the following
	code   CloseCode
	reason string
}

// Form implements Conn.
func (*feedConn) Form() *Form { return feedForm }

// TryWrite implements Conn. It cannot tell whether the Feed reads now.
func (*feedConn) TryWrite([]byte) (int, error) { return 0, ErrWouldBlock }

// Write implements Conn.
func (c *feedConn) Write(p []byte) (int, error) {
	if len(p) == 0 { // a notice that says nothing
		return 0, nil
	}
	return c.Conn.Write(p)
}

// Close implements Conn.
func (c *feedConn) Close(code CloseCode, reason string) { c.end(code, reason) }

// Cut implements Cutter.
func (c *feedConn) Cut() { c.end(CloseUnavailable, goingAway.Reason) }

func (c *feedConn) end(code CloseCode, reason string) {
	c.once.Do(func() {
		c.code, c.reason = code, reason
		close(c.closed)    // before the Feed can find that nothing more comes: Err looks at it
		_ = c.Conn.Close() // a pipe: it cannot fail
	})
}

// Listen subscribes to channels and patterns, until ctx ends or Close is called. It counts
// as an agent with the transport "internal". Read all that comes: if you read more slowly
// than messages arrive, the feed ends, as an agent's session does.
func (i *Inside) Listen(ctx context.Context, l Listening) (*Feed, error) {
	if len(l.Channels) == 0 {
		return nil, refuse(CodeInvalid, "name at least one channel or pattern")
	}
	a := i.open()
	if a == nil {
		return nil, goingAway
	}
	reader, writer := net.Pipe()
	f := &Feed{agent: a, conn: &feedConn{Conn: writer, reader: reader, closed: make(chan struct{})}}
	a.Start(f.conn)
	go func() {
		<-f.conn.closed
		a.Left("the program stopped listening")
	}()
	own, wrong := Listen(ctx, a, l)
	if wrong != nil {
		f.Close()
		return nil, wrong
	}
	f.stop = context.AfterFunc(ctx, f.Close)
	f.Begun = own.Begun
	own.Release()
	return f, nil
}

// open begins the session of a program within the server. It counts to no limit. It
// returns nil if the hub is being closed.
func (i *Inside) open() *Agent {
	h := i.hub
	a := h.newAgent(Opening{Namespace: i.namespace, Transport: insideTransport})
	p := i.policy()
	a.applied, a.out.queue.limits, a.opened = p, &p.Limits, h.timers.now()
	a.shard = uint16(h.nextShard.Add(1) % uint32(len(h.flushers)))
	a.policy.Store(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.goingAwayLocked() != nil {
		return nil
	}
	_ = h.quota.enter(a.opening.address(), Limits{Agents: Unlimited, AgentsPerIP: Unlimited, UnconnectedPerIP: Unlimited}) // nothing limits it
	h.listLocked(a)
	return a
}

// All returns the messages of the feed, as they come, until it ends. See Err.
func (f *Feed) All() iter.Seq[Received] {
	return func(yield func(Received) bool) {
		stream := json.NewDecoder(f.conn.reader)
		for {
			var m Received
			if err := stream.Decode(&m); err != nil {
				f.err = err
				return
			}
			if !yield(m) {
				return
			}
		}
	}
}

// Err returns why All has ended; nil if Close was called or the context has ended. The
// error is a Refusal if the hub ended the feed, such as for reading too slowly.
func (f *Feed) Err() error {
	if f.err == nil {
		return nil
	}
	select {
	case <-f.conn.closed:
	default:
		return f.err
	}
	switch f.conn.code {
	case CloseNormal:
		return nil
	case CloseSlow:
		return refuse(CodeLimit, f.conn.reason)
	case CloseUnavailable:
		return refuse(CodeUnavailable, f.conn.reason)
	}
	return errors.New(f.conn.reason)
}

// Close ends the feed. It may be called more than once, and by any goroutine.
func (f *Feed) Close() {
	f.agent.Close(CloseNormal, "the program stopped listening", 0)
	f.conn.end(CloseNormal, "")
	_ = f.conn.reader.Close() // a write that waits for the program ends now
	if f.stop != nil {
		f.stop()
	}
}

// Interface guards
var (
	_ Conn   = (*feedConn)(nil)
	_ Cutter = (*feedConn)(nil)
)
