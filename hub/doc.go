// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package hub is the core of pushit: agents, channels, messages, and the gates that decide
// what agents may do. It does not depend on Caddy, HTTP or SockJS. Transports give it Conns
// and frames. The configuration gives it Policies. A Broker carries messages between hubs.
//
// # Where to find what
//
// Begin with Hub in hub.go, Agent in agent.go and Policy in policy.go. A frame goes through
// receive.go, op.go (which asks the gate), publish.go and node.go, and a message leaves
// through outbox.go, flusher.go and write.go.
//
//   - Publish rate: inbox.publish in receive.go takes a token for
//     Limits.PublishesPerSecond and refuses with CodeLimit. Program.publish in program.go
//     does it for requests of programs, with Limits.APIPublishesPerSecond. rate.go has the
//     token bucket. The frame rate is enforced before, by inbox.admits in receive.go.
//   - Bursts: joining.go joins publishes of an agent that arrive together, so that the
//     fan-out goes through the subscribers once for all of them.
//   - Queue limits: outbox.acceptLocked in outbox.go finds that an item would exceed
//     Limits.QueueMessages or Limits.QueueBytes, and outbox.overflowLocked in outbox.go
//     closes the agent with CloseSlow.
//   - Reloads: [Hub.Drop] in reload.go says what a reload does to sessions and
//     subscriptions. migration.run in migrate.go does it for one agent, and
//     migration.reauthorize in migrate.go for one subscription. reauthorize.go asks gates
//     that take time, and lease.go ends a right. Handler.Cleanup of the root package calls
//     Hub.Drop.
//   - Presence: presence.go enters subscribers, and tells agents that watch a channel.
//     hub/internal/presence finds out what has changed.
//   - Operators: [Operator] in operator.go lists and ends what agents have, on all machines.
//     refusals.go remembers what was refused recently.
//   - History: history.go keeps messages and finds what an agent missed, position.go has
//     the positions, and page.go answers /meta/history. hub/broker/disk keeps them in a file.
//   - Programs within the server publish and listen without gates: inside.go.
//   - Guards, such as forward_auth and ask: the hub sees them as Gates. The documentation of
//     package guards says where a backend's status becomes a verdict.
//
// # The model
//
// An [Agent] is one connected endpoint. [Hub.Open] makes it, [Agent.Start] gives it its
// [Conn], and [Agent.Left] ends it. It sends frames, which the transport passes to
// [Agent.Receive]; PROTOCOL.md has their rules. For each operation that a frame asks for,
// the agent's [Policy] may have a [Gate] that decides.
//
// A channel exists while it has subscribers. It is a node in a directory; its name is the
// key. A pattern is a node too; its prefix is the key.
//
// A publisher gives a [Message] to the [Broker], which is the log of the hub. The hub is a
// replica of that log: the Broker applies each entry to it, in order, by [Sink].Entry. The
// hub keeps the message if its channel has a history, and then finds the matching nodes and
// puts the message into the queue of each of their agents. The message is encoded once for
// each [Form], and the agents share the bytes. What an agent has missed comes from the
// history, in memory, whatever the Broker is. Messages that are not kept need no log, and a
// Broker of one machine applies those of different channels at the same time.
//
// # What is promised
//
//   - An agent gets a message once, however many of its subscriptions match.
//   - All agents get the messages of one channel in the same order. The messages that one
//     agent publishes on one channel keep the order of its frames. There is no promise
//     about the order between channels.
//   - The answer to a subscribe precedes the first message of that subscription. No message
//     of the subscription follows the answer or notice that it has ended.
//   - Answers about one channel come in the order of their frames. If gates take time,
//     answers about different channels may overtake each other.
//   - An agent's queue is written as fast as its Conn takes bytes. No timer delays a
//     message. Messages that queue up meanwhile are joined in one write.
//   - Publishers wait for agents that lag, so that a burst closes nobody who reads: each
//     publish for 2 seconds at most, and only while agents take something. See pace.go.
//   - A reader that is slower than the others holds publishers up for 3 seconds in 50
//     minutes at most, ten times that on a busy machine; one that reads nothing, for one
//     second in a burst. When its queue exceeds a limit, it is closed
//     with [CloseSlow], which tells it that it has lost messages.
//   - After an agent is closed or cut, it gets no message of any channel.
//   - If a gate grants a lease for a time (see [Verdict]), it is asked again before that
//     time is over. The lease ends at that time, unless the gate renews it.
//   - If a reload replaces a gate, the new gate is asked about the leases that the old one
//     granted. A lease ends if the new gate refuses, or does not answer in time (see
//     [Hub.Drop]). A gate that stays the same is not asked.
//
// # Glossary
//
//	agent         one connected endpoint: a browser tab, a program
//	session       the agent's connection, from Open to Left; a transport carries it
//	Conn          what the hub writes an agent's frames to; a transport implements it
//	Form          an encoding of frames for one kind of Conn
//	node          a channel or a pattern that has subscribers
//	policy        the configuration of one endpoint: gates, limits, times
//	generation    the policy from one load of the configuration; a reload replaces it
//	gate          decides whether something may be done; local if it answers at once
//	question      describes the operation to a gate; the answer is a verdict
//	op            an operation that a gate may have to allow
//	lease         a right that a gate granted: to be connected, or to a subscription
//	reauthorize   ask the gate of a lease again
//	grace period  how long a lease goes on while its gate does not answer
//	migrate       put the policy of a reload into effect for one agent
//	cut           close a session that the new policy does not allow
//	revoke        end a subscription that is no longer allowed
//	inbox         counts an agent's frames, and holds them while it connects
//	outbox        queues frames for an agent, and writes them
//	flusher       writes for a part of the agents, its shard, and never blocks
//	writer        writes for one agent, and may block
//	member        a user who has agents in a channel, or one such agent
//	fan-out       enqueueing a message in the outboxes of all subscribers
//	log           the kept messages of a hub as numbered entries; a Broker has it
//	quota         the count of sessions, in all and by address
//	drain         sending all agents away because the server stops
//
// # Who owns what
//
//	goroutine     started by                     owns                                 ends when                      awaited by
//	reader        the transport                  Receive, Left, reading from the Conn the Conn ends, or is idle      nothing: Left is its last call
//	flusher       newFlusher                     writes of the agents on its list     Close                          Close
//	writer        writers.start                  one agent's writes                   the agent's queue is empty     Close; Left, by ending.written
//	timers        newTimers                      handshakes, heartbeats, leases       Close                          Close
//	question      Question.askRemote             one call of Gate.Decide              the gate returns               nothing: a gate may hang
//	position      op.ask                         nothing: it waits for the log        the position is there, timeout nothing
//	reauthorizing leases.reauthorize             nothing: it waits to ask             all is asked, the agent closes nothing
//	reauthorizer  reauthorizers.add              nothing: it waits for answers        no agent waits                 nothing
//	Reload        Hub.Drop, Reload.run           nothing: it migrates agents          all agents are migrated        Reload.Done
//	migration     outbox.parkLocked              nothing: it migrates one agent       the agent is migrated          nothing
//	spans         abandon                        spans of an agent that has left      they are ended                 nothing: a Tracer may hang
//	sweep         history.add, history.sweepSome nothing: it drops old messages       it has looked at all           nothing: it does nothing after Close
//	roster        roster.armLocked               nothing: it enqueues for watchers    all are told                   nothing: a closed agent takes nothing
//	presenceBus   presences.connect              broadcasts of members                another Bus, Close             nothing: a closed Bus takes nothing
//	presenceNode  presenceNode.request           one request of a node's members      all parts, or partTimeout      nothing: the node is gone by then
//	asking        AskEach                        one request to a node                it answers, the asker ends     nothing: the asker may have enough
//	events        Hub.HandleEvents               the calls of Events.Handle           Close, when all are handled    Close, for a second: handlers may hang
//	committer     disk.Broker.Start              the files of a log                   Close                          Close
//	feed          Inside.Listen                  Left of its agent                    the feed ends                  nothing: Left is its last call
//
// At most one goroutine writes for an agent, and none while its queue is empty. The
// goroutine that queues the first item sets outbox.writing and adds the agent to its
// flusher. The goroutine that finds the queue empty clears it. A flusher never blocks and
// never asks a gate. It starts a writer, which has a deadline, if a Conn takes no more, cannot
// tell whether it has room (see [Roomer]), or a deliver gate must be asked.
//
// # Locks
//
// Locks are taken in this order:
//
//	Hub.mu, then roster.delivering, then node.mu (a channel's before its patterns', longer prefixes first), then Agent.mu, then a leaf
//
// No other lock is taken under a leaf, except roster.mu under presences.mu, and
// presenceBus.noting under both. presenceNode.mu and presenceBus.saying are taken before
// these, with no other lock held. presenceBus.saying is held during Bus.Broadcast, which
// does not wait. The leaves are
// the locks of directory shards, paces, timers, flusher, writers, quota, repeats, refusals,
// presences, roster, reauthorizers, Reload, eventQueue, samplers, and the history, which calls
// a [Keeper] with its lock held: a Keeper takes no lock there but a leaf of its own. A Broker
// may hold a lock while it applies an entry. It is taken before all others except Hub.mu.
// No lock is held during a call of a gate, the Broker, the log, a Tracer, Events.Handle or a
// write to a Conn. Conn.SetWriteDeadline and Events.Wants are called with Agent.mu held, so
// they must not block. Functions given to OnBus run while the Broker is being replaced.
//
// # Metrics, events, traces, logs
//
// The hub counts what happens in it, and [Hub.Stats] reads the counts. [Events] gets agents
// and channels that come and go. A [Tracer] gets the gates and publishes of traced
// sessions. The log gets each agent that is gone, sampled.
//
// The package is larger than 3,500 lines because the parts of an agent share one lock, and
// change together when a policy or a subscription ends. Packages of their own would have to
// export that lock.
package hub
