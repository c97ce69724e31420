// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// A Broker is the log of a hub: it puts messages in one order, and gives them to the hub in
// that order. The hub is a replica of the log. It keeps the messages of channels with a
// history, and hands all of them to subscribers. With several machines, each has a Broker
// for the same log, and a hub that applies all of it.
//
// Package hub/brokertest tests whether a Broker does what is written here.
type Broker interface {
	// Start begins to apply the log to s. It calls s.Reset, applies what the log still
	// holds, and returns. From then on s gets new entries until Close. The hub calls Start
	// once, before any other method. ctx ends when the hub ends.
	Start(ctx context.Context, s Sink) error

	// Publish appends m to the log. It returns when m is as durable as the Broker
	// promises, and, if the Broker is in this process alone, was applied. Messages that
	// one caller publishes one after the other keep that order. The hub calls Publish
	// concurrently. It may block for a few seconds, but not long after ctx ends.
	//
	// If it returns ErrUnknown, m may be in the log or come into it. Any other error means
	// that it is not, and never will be. In both cases the same message may be published
	// again: a Broker that returns ErrUnknown must recognize it by its ID, and then
	// returns the position of the first one. It remembers IDs for at least two minutes.
	// ErrConflict means that the log has other data under that ID.
	//
	// A Broker need not put messages into the log that are not kept (see Message.Kept).
	// Their Position is then zero.
	Publish(ctx context.Context, m *Message) (Position, error)

	// Bus connects the machines of the hub. It is nil if there is only this one.
	Bus() Bus

	// Close ends the Broker. Publishes that wait return ErrUnknown, or a better answer.
	// After Close returns, s gets no more entries, and publishes fail.
	Close() error
}

// Errors of Broker.Publish.
var (
	ErrUnknown  = errors.New("the message may or may not have been published")
	ErrConflict = errors.New("the same uuid was used for other data")
	// ErrClosed is the error of publishes that begin after Close.
	ErrClosed = errors.New("the broker is closed")
)

// A Sink is what a Broker applies its log to: a hub. None of its methods blocks.
type Sink interface {
	// Reset begins another log: positions of an earlier one are void. first is the number
	// of the oldest entry that the log still holds. Entries up to head are history: they
	// are kept, and handed to nobody.
	Reset(epoch Epoch, first, head uint64)

	// Entry applies an entry. There is one call at a time, in rising seq, each seq once.
	// seq is below 2^63. There may be gaps, for what is no message or was dropped.
	//
	// A message that is not in the log has seq 0. Such calls may be concurrent, but not
	// those about one channel.
	Entry(seq uint64, at time.Time, m *Message)

	// Floor says that the log has no longer the entries up to seq of the channel with that
	// key, and why. Key "" stands for all channels that have neither a floor of their own
	// nor an entry. Only a Keeper calls it, between Reset and the first Entry.
	Floor(key string, seq uint64, why string)

	// Lost says that the entries from one number to another are gone: they were dropped
	// from the log before they were applied here.
	Lost(from, to uint64)

	// Behind says whether the log may have entries that were not applied here yet, for
	// longer than it takes to hand them over. A Broker whose log cannot be reached may call
	// it before Reset, and return from Start; then it calls Reset as soon as it can. Behind
	// with false says that the entries up to the head of the last Reset were applied.
	Behind(behind bool)
}

// A Keeper is a Broker with a log of this hub alone, which holds an entry for as long as
// the hub keeps it. The hub calls its methods with locks held, so they must not block.
type Keeper interface {
	Broker
	// Dropped says that the hub no longer keeps entry seq of the channel with that key,
	// and why. It keeps none that is older.
	Dropped(key string, seq uint64, why string)
	// Forgotten says that the hub keeps nothing of that channel, and forgets that it
	// dropped entries up to seq. From now on that holds for all channels without entries.
	Forgotten(key string, seq uint64, why string)
}

// A Snapshot is what a hub has of its log.
type Snapshot struct {
	Epoch   Epoch
	Last    uint64 // the number of the newest entry
	Entries []LogEntry
	Floors  []LogFloor
}

// A LogEntry is an entry of a Snapshot.
type LogEntry struct {
	Seq     uint64
	At      time.Time
	Message *Message
}

// A LogFloor has the arguments of Sink.Floor.
type LogFloor struct {
	Key string
	Seq uint64
	Why string
}

// A Seeder is a Broker whose log can go on where another one ends: see Hub.Swap. Seed comes
// before Start. It returns false, and does nothing, if the log has entries of its own.
type Seeder interface {
	Broker
	Seed(s Snapshot) (seeded bool, err error)
}

// A NodeID names one process of one machine: the incarnation is random.
type NodeID struct {
	Name        string
	Incarnation string
}

// Errors of Bus.Request.
var (
	// ErrNoNode means that there is no such node, or that it is down. It has not got the
	// request.
	ErrNoNode = errors.New("there is no such node")
	// ErrNoAnswer means that the node has answered without a result, handles no such topic,
	// or went down before it answered. It may have handled the request.
	ErrNoAnswer = errors.New("the node gives no answer")
)

// MaxBusPayload is how long a message of a Bus can be, in bytes. Longer ones are errors.
const MaxBusPayload = 1_000_000

// BusTimeout is how long it takes at most until a node is down that has ended or hangs.
const BusTimeout = 3 * time.Second

// A Bus carries messages between the machines of a hub, each at most once. It is for what
// can be sent again, such as presence. It keeps no b after the call that gave it, and nobody
// changes a b that it gives. All methods may be called concurrently, once the Broker is
// started.
type Bus interface {
	// Self returns this node. Each start of a Broker is another incarnation.
	Self() NodeID
	// Watch has f called when another node is up or down: first about those that are up
	// now. A node whose heartbeats have ended is down within BusTimeout. A node whose Broker
	// was closed, or that starts as another incarnation, is down at once. While this node
	// is cut off from the Bus, no other one goes down. f is called by one goroutine at a
	// time, and must not block.
	Watch(f func(node NodeID, up bool))
	// Broadcast sends b to all other nodes that are up, and does not wait. Broadcasts of one
	// node are handled one after the other, in their order. One that is lost leaves a gap.
	Broadcast(topic string, b []byte) error
	// Request sends b to another node and returns its answer. It returns ErrNoNode at once
	// if the process is gone or the node is down, and ErrNoAnswer if there will be no
	// answer. Any other error, such as that of ctx, leaves open whether the node got b.
	Request(ctx context.Context, to NodeID, topic string, b []byte) ([]byte, error)
	// Ask sends b to all other nodes that are up, or were heard of and may be. answer gets
	// the answers as they come, one at a time, except the nil ones, and reports whether it
	// wants more. Ask returns nil when answer wants no more, or all of these nodes have
	// answered or are down. If ctx ends before, it returns the error of ctx.
	Ask(ctx context.Context, topic string, b []byte, answer func(from NodeID, b []byte) (more bool)) error
	// Handle sets what handles messages about a topic, also in place of an earlier f. f
	// gets requests and questions concurrently, and returns nil for no answer. It also gets
	// broadcasts, where it must not block, and whose answer is dropped. ctx ends when the
	// Broker is closed, not when the other node no longer waits. Messages about a topic that
	// nothing handles are dropped.
	Handle(topic string, f func(ctx context.Context, from NodeID, b []byte) []byte)
}

// memoryBroker is the Broker of one machine: Publish applies. The entries of the log are
// the messages that the hub keeps, so the Broker keeps none itself.
type memoryBroker struct {
	unlogged Unlogged
	sink     Sink
	epoch    Epoch
	closed   atomic.Bool

	order sync.Mutex // guards seq; held while an entry is applied
	seq   uint64
}

// NewMemoryBroker returns a Broker for one process: it connects the hub to no other
// machine, and its log ends with the process.
func NewMemoryBroker() Broker { return &memoryBroker{epoch: NewEpoch()} }

func (b *memoryBroker) Start(_ context.Context, s Sink) error {
	b.sink = s
	b.unlogged.Start(s)
	s.Reset(b.epoch, 1, b.seq)
	return nil
}

// Seed implements Seeder.
func (b *memoryBroker) Seed(s Snapshot) (bool, error) {
	b.epoch, b.seq = s.Epoch, s.Last
	return true, nil
}

func (b *memoryBroker) Publish(_ context.Context, m *Message) (Position, error) {
	if !m.Kept() {
		if b.closed.Load() {
			return Position{}, ErrClosed
		}
		b.unlogged.Publish(m)
		return Position{}, nil
	}
	b.order.Lock()
	defer b.order.Unlock()
	if b.closed.Load() {
		return Position{}, ErrClosed
	}
	b.seq++
	at := time.Now()
	b.sink.Entry(b.seq, at, m)
	return Position{Epoch: b.epoch, Seq: b.seq, Check: CheckOf(at)}, nil
}

// PublishJoined implements Joiner.
func (b *memoryBroker) PublishJoined(messages []*Message) error {
	if b.closed.Load() {
		return ErrClosed
	}
	b.unlogged.Publish(messages...)
	return nil
}

func (b *memoryBroker) Bus() Bus { return nil }

func (b *memoryBroker) Close() error {
	b.order.Lock()
	defer b.order.Unlock()
	b.closed.Store(true)
	return nil
}

// unloggedStripes is how many channels can be published on at the same moment. More than
// a few times the number of cores would gain nothing.
const unloggedStripes = 64

// Unlogged is the part of a Broker of one machine that applies messages which are not kept.
// They need no log, so different channels do not wait for each other. Call Start first.
type Unlogged struct {
	sink    Sink
	seed    maphash.Seed
	stripes [unloggedStripes]struct {
		sync.Mutex // held while a message of these channels is applied: it gives them their order
		_          [56]byte
	}
}

// Start sets the Sink.
func (u *Unlogged) Start(s Sink) { u.sink, u.seed = s, maphash.MakeSeed() }

// Publish applies messages of one channel. It may be called concurrently.
func (u *Unlogged) Publish(messages ...*Message) {
	s := &u.stripes[maphash.String(u.seed, messages[0].Channel)%unloggedStripes]
	s.Lock()
	defer s.Unlock()
	if all, is := u.sink.(*replica); is {
		all.unkept(messages)
		return
	}
	for _, m := range messages {
		u.sink.Entry(0, time.Time{}, m)
	}
}

var (
	_ Seeder = (*memoryBroker)(nil)
	_ Joiner = (*memoryBroker)(nil)
)
