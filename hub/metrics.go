// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"maps"
	"sync/atomic"
	"time"
)

// What happens in a hub is counted by the hub itself, and read by [Hub.Stats]
// when somebody wants to know. Nothing is called for each delivery, so there is
// no sink that could be slow, and no lock that would be held across it; counts
// live as long as the hub, which outlives reloads.

// A DropReason is why a message did not reach somebody, or anybody.
type DropReason uint8

// The reasons. The first four are counted for each agent that a message did not
// reach, the others once for each publish.
const (
	DropGate      DropReason = iota // the deliver gate kept it from the agent
	DropSlow                        // the agent was over the limits of its queue
	DropGone                        // it was queued or being written when the connection ended
	DropRevoked                     // the right to it ended while it waited: by a reload, or a gate that was asked again
	DropDiscarded                   // the publish gate said that it goes nowhere
	DropRepeated                    // it had been published before
	DropFailed                      // the broker did not take it
	dropReasons
)

// String returns the word for it.
func (r DropReason) String() string {
	return [...]string{"gate", "slow", "gone", "revoked", "discarded", "repeated", "failed"}[r]
}

// A QueueName names a queue that has a bound.
type QueueName uint8

// The queues.
const (
	QueueAgent      QueueName = iota // what waits for an agent; it is closed with CloseSlow
	QueueGate                        // questions that wait for a place to be asked; they are answered unavailable
	QueueDisconnect                  // agents that are gone, which the disconnect gate was not told of
	QueueEvents                      // events that nobody heard of
	queueNames
)

// String returns the word for it.
func (q QueueName) String() string { return [...]string{"agent", "gate", "disconnect", "events"}[q] }

// A ReloadEffect is something that the end of a Policy does.
type ReloadEffect uint8

// The effects.
const (
	ReloadMoved ReloadEffect = iota // an agent came under the next generation
	ReloadAsked                     // a gate was asked again about what an agent had
	ReloadEnded                     // a subscription was ended
	ReloadCut                       // a session was closed
	ReloadLate                      // one of both was because its gate did not answer in time
	reloadEffects
)

// String returns the word for it.
func (e ReloadEffect) String() string {
	return [...]string{"moved", "asked", "ended", "cut", "late"}[e]
}

// An AnswerName is how a gate answered, in one word: Allowed, Abandoned, or the
// Code of its Refusal.
type AnswerName string

// The answers that are no Code.
const (
	Allowed   AnswerName = "allowed"
	Abandoned AnswerName = "abandoned" // the agent left before the answer
)

// answerNames and timedGates are what gates are counted by. What stands before
// deliveries is asked too often to be timed; DropGate counts what it holds back.
var (
	answerNames = [...]AnswerName{
		Allowed, AnswerName(CodeDenied), AnswerName(CodeUnavailable), AnswerName(CodeExpired),
		AnswerName(CodeLimit), AnswerName(CodeInvalid), Abandoned,
	}
	timedGates = [...]GateName{GateConnect, GateSubscribe, GateUnsubscribe, GatePublish, GateDisconnect}
	codes      = [...]Code{CodeDenied, CodeUnavailable, CodeInvalid, CodeLimit, CodeExpired}
)

// Stats are what a hub has counted since it was made, and what there is now. The
// parts are read one after the other, while the hub goes on.
type Stats struct {
	// What there is now: sessions by transport, connected or not yet; subscriptions;
	// channels and patterns that have subscribers; gates that are being asked and do
	// not answer at once.
	Agents                            map[string]int
	Subscriptions, Channels, Patterns int
	Questions                         map[GateName]int

	// Published is messages that agents and Hub.Publish gave to the broker,
	// Delivered is messages that were written to agents: once for each.
	Published, Delivered uint64
	Dropped              map[DropReason]uint64
	// FramesReceived and BytesReceived are what agents sent, BytesSent what was
	// written to them, with the framing of their transports.
	FramesReceived, BytesReceived, BytesSent uint64
	// Refused is sessions that were not opened, by why.
	Refused map[Code]uint64
	// Ended is sessions by how they ended; those that the agent or the network ended
	// count as CloseNormal.
	Ended    map[CloseCode]uint64
	Overflow map[QueueName]uint64
	Reload   map[ReloadEffect]uint64

	// How long gates took to answer, what was handed to the queues of all
	// subscribers, and sessions lasted, by transport.
	Gates    map[GateName]map[AnswerName]Histogram
	FanOut   Histogram
	Sessions map[string]Histogram
}

// A Histogram is how long things took.
type Histogram struct {
	Count uint64
	Sum   time.Duration
	// Below is how many took no longer than each bound, by bound.
	Below map[time.Duration]uint64
}

// The bounds of histograms. A gate may take from microseconds, where it is an
// expression, to the 40 s that a crowd waits for a backend; a fan-out from one
// agent to a hundred thousand; a session from a mistake to a week.
var (
	gateBounds = []time.Duration{
		50 * time.Microsecond, 250 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond,
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
		10 * time.Second, 40 * time.Second,
	}
	fanOutBounds = []time.Duration{
		5 * time.Microsecond, 25 * time.Microsecond, 100 * time.Microsecond, 500 * time.Microsecond,
		2500 * time.Microsecond, 10 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond, time.Second,
	}
	sessionBounds = []time.Duration{
		time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	}
)

// maxBounds is how many bounds a histogram can have.
const maxBounds = 12

// A histogram counts durations. It is safe by itself.
type histogram struct {
	bounds  []time.Duration // immutable; at most maxBounds, rising
	sum     atomic.Int64
	buckets [maxBounds + 1]atomic.Uint64 // of those up to each bound and over the one before; the last over all
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() Histogram {
	out := Histogram{Below: make(map[time.Duration]uint64, len(h.bounds))}
	for i, bound := range h.bounds {
		out.Count += h.buckets[i].Load()
		out.Below[bound] = out.Count
	}
	out.Count += h.buckets[len(h.bounds)].Load()
	out.Sum = time.Duration(h.sum.Load())
	return out
}

// A shardCount is what one flusher, and the readers of its agents, count: apart
// from those of other cores, so that nobody waits for the cache of another.
type shardCount struct {
	delivered, sent atomic.Uint64
	_               [112]byte
	frames, bytes   atomic.Uint64
	_               [112]byte
}

// counts are what a hub counts. They are safe by themselves but for what is
// guarded.
type counts struct {
	shards    []shardCount // by Agent.shard
	published atomic.Uint64
	dropped   [dropReasons]atomic.Uint64
	overflow  [queueNames]atomic.Uint64
	reload    [reloadEffects]atomic.Uint64
	refused   [len(codes)]atomic.Uint64
	questions [len(timedGates)]atomic.Int64
	gates     [len(timedGates)][len(answerNames)]histogram
	fanOut    histogram

	transports map[string]*transportCount // guarded by Hub.mu, as is the next
	ended      map[CloseCode]uint64
}

// A transportCount is the sessions of one transport.
type transportCount struct {
	now    int
	lasted histogram
}

func newCounts(shards int) *counts {
	c := &counts{
		shards:     make([]shardCount, shards),
		fanOut:     histogram{bounds: fanOutBounds},
		transports: make(map[string]*transportCount),
		ended:      make(map[CloseCode]uint64),
	}
	for g := range c.gates {
		for a := range c.gates[g] {
			c.gates[g][a].bounds = gateBounds
		}
	}
	return c
}

// openedLocked counts a session. The caller holds Hub.mu.
func (c *counts) openedLocked(transport string) {
	t := c.transports[transport]
	if t == nil {
		t = &transportCount{lasted: histogram{bounds: sessionBounds}}
		c.transports[transport] = t
	}
	t.now++
}

// endedLocked counts the end of a session. The caller holds Hub.mu.
func (c *counts) endedLocked(transport string, code CloseCode, lasted time.Duration) {
	t := c.transports[transport]
	t.now--
	t.lasted.observe(lasted)
	if code == 0 {
		code = CloseNormal
	}
	c.ended[code]++
}

// drop counts messages that were dropped.
func (c *counts) drop(why DropReason, n int) {
	if n > 0 {
		c.dropped[why].Add(uint64(n))
	}
}

// CountRefused counts a session that the transport did not ask the hub to open.
func (h *Hub) CountRefused(code Code) { h.counts.refuse(code) }

func (c *counts) refuse(code Code) {
	if i := indexOf(codes[:], code); i >= 0 {
		c.refused[i].Add(1)
	}
}

// asked counts an answer of a gate.
func (c *counts) asked(gate GateName, answer AnswerName, took time.Duration) {
	g, a := indexOf(timedGates[:], gate), indexOf(answerNames[:], answer)
	if g >= 0 && a >= 0 {
		c.gates[g][a].observe(took)
	}
}

// asking counts a question that is being asked, or is not any more.
func (c *counts) asking(gate GateName, n int64) {
	if g := indexOf(timedGates[:], gate); g >= 0 {
		c.questions[g].Add(n)
	}
}

// answerName is the word for what a gate answered.
func answerName(v *Verdict) AnswerName {
	if v.Refusal == nil {
		return Allowed
	}
	return AnswerName(v.Refusal.Code)
}

func indexOf[T comparable](all []T, one T) int {
	for i := range all {
		if all[i] == one {
			return i
		}
	}
	return -1
}

// Stats returns what the hub has counted and what there is now.
func (h *Hub) Stats() Stats {
	c := h.counts
	s := Stats{
		Agents:        make(map[string]int),
		Subscriptions: int(h.channels.members.Load() + h.patterns.members.Load()),
		Channels:      int(h.channels.count.Load()),
		Patterns:      int(h.patterns.count.Load()),
		Questions:     make(map[GateName]int),
		Published:     c.published.Load(),
		Dropped:       readAll[DropReason](c.dropped[:]),
		Refused:       make(map[Code]uint64),
		Ended:         make(map[CloseCode]uint64),
		Overflow:      readAll[QueueName](c.overflow[:]),
		Reload:        readAll[ReloadEffect](c.reload[:]),
		Gates:         make(map[GateName]map[AnswerName]Histogram),
		FanOut:        c.fanOut.read(),
		Sessions:      make(map[string]Histogram),
	}
	for i := range c.shards {
		l := &c.shards[i]
		s.Delivered += l.delivered.Load()
		s.BytesSent += l.sent.Load()
		s.FramesReceived += l.frames.Load()
		s.BytesReceived += l.bytes.Load()
	}
	for i, code := range codes {
		s.Refused[code] = c.refused[i].Load()
	}
	for g, gate := range timedGates {
		s.Questions[gate] = int(c.questions[g].Load())
		s.Gates[gate] = make(map[AnswerName]Histogram)
		for a, answer := range answerNames {
			if read := c.gates[g][a].read(); read.Count > 0 {
				s.Gates[gate][answer] = read
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range c.transports {
		s.Agents[name] = t.now
		s.Sessions[name] = t.lasted.read()
	}
	maps.Copy(s.Ended, c.ended)
	return s
}

// readAll reads counters that are found by small numbers.
func readAll[K ~uint8](all []atomic.Uint64) map[K]uint64 {
	out := make(map[K]uint64, len(all))
	for i := range all {
		out[K(i)] = all[i].Load()
	}
	return out
}
