// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// The hub counts what happens in it, and [Hub.Stats] reads the counts. A delivery calls
// no metrics code, so that a slow sink cannot delay it. The counts live as long as the
// hub, which outlives reloads.

// A DropReason is why a message did not reach one agent, or any agent.
type DropReason uint8

// The reasons. The first five count once for each agent that a message did not reach,
// the others once for each publish.
const (
	DropGate      DropReason = iota // the deliver gate withheld it
	DropSlow                        // the agent's queue exceeded its limits
	DropGone                        // the connection ended while it waited or was being written
	DropRevoked                     // a reload or a gate ended the subscription or the session while it waited
	DropConflated                   // a newer message of its channel replaced it while it waited, see Delivery.Conflate
	DropDiscarded                   // the publish gate said discard
	DropRepeated                    // it had been published before
	DropFailed                      // the broker did not take it
	dropReasons
)

// String returns the label of the reason in metrics.
func (r DropReason) String() string {
	return [...]string{"gate", "slow", "gone", "revoked", "conflated", "discarded", "repeated", "failed"}[r]
}

// A QueueName names a queue that has a limit.
type QueueName uint8

// The queues, and what happens when one exceeds its limit.
const (
	QueueAgent      QueueName = iota // an agent's frames; the agent is closed with CloseSlow
	QueueGate                        // questions to a backend; the answer is unavailable
	QueueDisconnect                  // questions to disconnect gates; the gate is not told
	QueueEvents                      // events; the event is lost
	queueNames
)

// String returns the label of the queue in metrics.
func (q QueueName) String() string { return [...]string{"agent", "gate", "disconnect", "events"}[q] }

// A ReloadEffect is something that a reload does.
type ReloadEffect uint8

// The effects.
const (
	ReloadMoved ReloadEffect = iota // an agent came under the next generation
	ReloadAsked                     // a gate was asked again about a lease
	ReloadEnded                     // a subscription was revoked
	ReloadCut                       // a session was closed
	ReloadLate                      // one of the last two happened because the gate did not answer in time
	reloadEffects
)

// String returns the label of the effect in metrics.
func (e ReloadEffect) String() string {
	return [...]string{"moved", "asked", "ended", "cut", "late"}[e]
}

// An AnswerName is a gate's answer in one word: Allowed, Abandoned, or the Code of its
// Refusal.
type AnswerName string

// The answers that are not Codes.
const (
	Allowed   AnswerName = "allowed"
	Abandoned AnswerName = "abandoned" // the agent left before the answer
)

// answerNames and timedGates are the labels of gate counts. The deliver gate is not
// among them: it is asked too often to be timed. DropGate counts what it withholds.
var (
	answerNames = [...]AnswerName{
		Allowed, AnswerName(CodeDenied), AnswerName(CodeUnavailable), AnswerName(CodeExpired),
		AnswerName(CodeLimit), AnswerName(CodeInvalid), Abandoned,
	}
	timedGates = [...]GateName{GateConnect, GateSubscribe, GateUnsubscribe, GatePublish, GateDisconnect, GateAPI, GatePresence, GateHistory, GateDebug}
	codes      = [...]Code{CodeDenied, CodeUnavailable, CodeInvalid, CodeLimit, CodeExpired}
)

// Stats are a hub's counts since it was made, and its present state. The parts are read
// one after the other while the hub works, so they may be slightly apart.
type Stats struct {
	// The present state: sessions by transport, connected or not; subscriptions; channels
	// and patterns that have subscribers; questions to gates that do not answer at once.
	Agents                            map[string]int
	Subscriptions, Channels, Patterns int
	// Members counts the members that channels tell of, once in each channel. Watchers
	// counts the subscriptions that are told.
	Members, Watchers int
	Questions         map[GateName]int

	// Published counts the messages that agents and Hub.Publish gave to the broker.
	// Delivered counts messages written to agents, once for each agent.
	Published, Delivered uint64
	Dropped              map[DropReason]uint64
	// FramesReceived and BytesReceived count what agents sent. BytesSent counts what was
	// written to them, including the framing of their transports.
	FramesReceived, BytesReceived, BytesSent uint64
	// Refused counts the sessions that were not opened, by reason.
	Refused map[Code]uint64
	// Ended counts the sessions that ended, by close code. A session that the agent or
	// the network ended counts as CloseNormal.
	Ended    map[CloseCode]uint64
	Overflow map[QueueName]uint64
	Reload   map[ReloadEffect]uint64

	// Gates is how long gates took to answer. FanOut is how long it took to enqueue a
	// message for all its subscribers. Held is how long publishes waited for agents that lag,
	// without those that did not wait. Sessions is how long sessions lasted, by
	// transport.
	Gates    map[GateName]map[AnswerName]Histogram
	FanOut   Histogram
	Held     Histogram
	Sessions map[string]Histogram

	// Broker is nil if there is only this machine.
	Broker *BrokerStats
}

// BrokerStats are the counts of a Broker that connects several machines.
type BrokerStats struct {
	// Engine names the engine, and Server is where the hub is connected, or was.
	Engine, Server string
	// Connected says that the engine can be reached, and Behind that the hub may not have
	// all entries of the log. Nodes counts the nodes that are up, with this one.
	Connected, Behind bool
	Nodes             int
	// Applied counts the entries that came here. Filled counts those of them that had to be
	// read from the log, because they did not come by themselves. Lost counts entries that
	// the log had dropped before. Skipped counts entries that are no messages.
	Applied, Filled, Lost, Skipped uint64
	// Publishes is how long publishes took that succeeded.
	Publishes Histogram
}

// A Measured is a Broker that counts.
type Measured interface {
	Broker
	Stats() BrokerStats
}

// A Histogram counts durations.
type Histogram struct {
	Count uint64
	Sum   time.Duration
	// Below counts, for each bound, the durations that were no longer.
	Below map[time.Duration]uint64
}

// The bounds of histograms. A gate takes microseconds if it is an expression, and up to
// 40 s if many agents wait for a backend. A fan-out reaches one agent or a hundred
// thousand. A session lasts from less than a second to weeks.
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
	heldBounds = []time.Duration{
		time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
		time.Second, maxHold,
	}
	sessionBounds = []time.Duration{
		time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	}
)

// maxBounds is how many bounds a histogram can have.
const maxBounds = 12

// A Recorder counts durations for a Histogram. It is safe by itself.
type Recorder struct {
	bounds  []time.Duration // immutable; at most maxBounds, rising
	sum     atomic.Int64
	buckets [maxBounds + 1]atomic.Uint64 // one for the durations up to each bound, and one for longer ones
}

// NewRecorder returns a Recorder for a Histogram with these bounds: at most 12, rising. The
// caller must not change them.
func NewRecorder(bounds ...time.Duration) *Recorder { return &Recorder{bounds: bounds} }

// Observe counts a duration.
func (h *Recorder) Observe(d time.Duration) {
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Read returns what was counted so far.
func (h *Recorder) Read() Histogram {
	out := Histogram{Below: make(map[time.Duration]uint64, len(h.bounds))}
	for i, bound := range h.bounds {
		out.Count += h.buckets[i].Load()
		out.Below[bound] = out.Count
	}
	out.Count += h.buckets[len(h.bounds)].Load()
	out.Sum = time.Duration(h.sum.Load())
	return out
}

// A shardCount has the counts of one shard. The padding keeps the counts of different
// goroutines in different cache lines, so that cores do not wait for each other.
type shardCount struct {
	delivered, sent atomic.Uint64
	_               [112]byte
	frames, bytes   atomic.Uint64
	_               [112]byte
}

// counts are the counts of a hub. Their fields are safe by themselves, except those that
// a lock guards.
type counts struct {
	shards    []shardCount // by Agent.shard
	published atomic.Uint64
	dropped   [dropReasons]atomic.Uint64
	overflow  [queueNames]atomic.Uint64
	reload    [reloadEffects]atomic.Uint64
	refused   [len(codes)]atomic.Uint64
	questions [len(timedGates)]atomic.Int64
	gates     [len(timedGates)][len(answerNames)]Recorder
	fanOut    Recorder
	held      Recorder // how long publishes waited for readers; those that did not wait do not count

	transports map[string]*transportCount // guarded by Hub.mu, as is the next
	ended      map[CloseCode]uint64
}

// A transportCount counts the sessions of one transport.
type transportCount struct {
	now    int
	lasted Recorder
}

func newCounts(shards int) *counts {
	c := &counts{
		shards:     make([]shardCount, shards),
		fanOut:     Recorder{bounds: fanOutBounds},
		held:       Recorder{bounds: heldBounds},
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

// sent returns how many bytes were written to agents.
func (c *counts) sent() (n uint64) {
	for i := range c.shards {
		n += c.shards[i].sent.Load()
	}
	return n
}

// openedLocked counts a session. The caller holds Hub.mu.
func (c *counts) openedLocked(transport string) {
	t := c.transports[transport]
	if t == nil {
		t = &transportCount{lasted: Recorder{bounds: sessionBounds}}
		c.transports[transport] = t
	}
	t.now++
}

// endedLocked counts the end of a session. The caller holds Hub.mu.
func (c *counts) endedLocked(transport string, code CloseCode, lasted time.Duration) {
	t := c.transports[transport]
	t.now--
	t.lasted.Observe(lasted)
	if code == 0 {
		code = CloseNormal
	}
	c.ended[code]++
}

// drop counts n dropped messages.
func (c *counts) drop(why DropReason, n int) {
	if n > 0 {
		c.dropped[why].Add(uint64(n))
	}
}

// CountRefused counts a session that the transport itself refused, without calling Open. The
// reason is for operators.
func (h *Hub) CountRefused(r *Refusal) {
	h.counts.refuse(r.Code)
	h.noteRefusal(opSession, r, "", "", "", "")
}

func (c *counts) refuse(code Code) {
	if i := slices.Index(codes[:], code); i >= 0 {
		c.refused[i].Add(1)
	}
}

// asked counts the answer of a gate, and how long it took.
func (c *counts) asked(gate GateName, answer AnswerName, took time.Duration) {
	g, a := slices.Index(timedGates[:], gate), slices.Index(answerNames[:], answer)
	if g >= 0 && a >= 0 {
		c.gates[g][a].Observe(took)
	}
}

// asking counts a question: n is 1 when it begins, -1 when it ends.
func (c *counts) asking(gate GateName, n int64) {
	if g := slices.Index(timedGates[:], gate); g >= 0 {
		c.questions[g].Add(n)
	}
}

// answerName returns the label of a verdict in metrics and traces.
func answerName(v *Verdict) AnswerName {
	if v.Refusal == nil {
		return Allowed
	}
	return AnswerName(v.Refusal.Code)
}

// Stats returns the hub's counts and its present state.
func (h *Hub) Stats() Stats {
	c := h.counts
	s := Stats{
		Agents:        make(map[string]int),
		Subscriptions: int(h.channels.members.Load() + h.patterns.members.Load()),
		Channels:      int(h.channels.count.Load()),
		Patterns:      int(h.patterns.count.Load()),
		Members:       int(h.presences.members.Load()),
		Watchers:      int(h.presences.watchers.Load()),
		Questions:     make(map[GateName]int),
		Published:     c.published.Load(),
		Dropped:       readAll[DropReason](c.dropped[:]),
		Refused:       make(map[Code]uint64),
		Ended:         make(map[CloseCode]uint64),
		Overflow:      readAll[QueueName](c.overflow[:]),
		Reload:        readAll[ReloadEffect](c.reload[:]),
		Gates:         make(map[GateName]map[AnswerName]Histogram),
		FanOut:        c.fanOut.Read(),
		Held:          c.held.Read(),
		Sessions:      make(map[string]Histogram),
	}
	for i := range c.shards {
		l := &c.shards[i]
		s.Delivered += l.delivered.Load()
		s.FramesReceived += l.frames.Load()
		s.BytesReceived += l.bytes.Load()
	}
	s.BytesSent = c.sent()
	for i, code := range codes {
		s.Refused[code] = c.refused[i].Load()
	}
	for g, gate := range timedGates {
		s.Questions[gate] = int(c.questions[g].Load())
		s.Gates[gate] = make(map[AnswerName]Histogram)
		for a, answer := range answerNames {
			if read := c.gates[g][a].Read(); read.Count > 0 {
				s.Gates[gate][answer] = read
			}
		}
	}
	if m, ok := (*h.log.broker.Load()).(Measured); ok {
		stats := m.Stats()
		s.Broker = &stats
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range c.transports {
		s.Agents[name] = t.now
		s.Sessions[name] = t.lasted.Read()
	}
	maps.Copy(s.Ended, c.ended)
	return s
}

// readAll reads counters whose keys are their indexes.
func readAll[K ~uint8](all []atomic.Uint64) map[K]uint64 {
	out := make(map[K]uint64, len(all))
	for i := range all {
		out[K(i)] = all[i].Load()
	}
	return out
}
