// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package hub is the core of pushit: agents, channels, messages, and the gates
// between them. It knows nothing of Caddy, HTTP or SockJS. Transports bring it
// Conns and frames; a configuration brings it Policies; a Broker carries
// messages between hubs.
//
// # The model
//
// An [Agent] is one connected endpoint. It begins with [Hub.Open], is carried by
// a [Conn] from [Agent.Start] on, and ends with [Agent.Left]. What it asks for
// comes in frames, through [Agent.Receive]; PROTOCOL.md has their rules. Before
// each thing that it asks for, a [Gate] of its [Policy] may be asked.
//
// A channel exists while it has subscribers: it is a node in a directory, found
// by name; a pattern is a node found by the prefix it stands for. A [Message]
// goes through the [Broker], which gives the messages of each channel their
// order, to the nodes it matches, and into the queue of each of their agents. It
// is encoded once for each [Form]; the agents share the bytes.
//
// # What is promised
//
//   - An agent gets a message once, however many of its subscriptions match.
//   - All agents get the messages of one channel in the same order, and what one
//     agent publishes on one channel in the order of its frames. Nothing is said
//     of the order between channels.
//   - The answer to a subscribe precedes the first message of that subscription;
//     nothing of the subscription follows the answer that it has ended.
//   - Answers come in the order of their frames for each channel; with gates that
//     take their time, answers of different channels may overtake each other.
//   - What is queued for an agent leaves as fast as its Conn takes it: no timer
//     holds anything back, and what queued meanwhile is joined in one write.
//   - Nobody waits for an agent that reads slowly. Over its limits it is closed
//     with [CloseSlow]; it has lost messages then, and is told so by the code.
//   - After an agent is closed or cut, nothing of any channel reaches it.
//   - What a gate allowed for a time (see [Verdict]) is asked for again before the
//     time is over, and has ended when it is.
//   - What a gate allowed that another one governs since a reload is asked for again,
//     and has ended when that one does not allow it, or not in time (see [Hub.Drop]).
//     What the same gate still governs is not.
//
// # Who owns what
//
//	goroutine        started by    owns                               ends when                     awaited by
//	reader           transport     Receive, Left, the Conn's reading  the Conn ends                 nobody; Left is its last act
//	flusher          New           writes of the agents on its list   Close                         Close
//	agent's writer   a flusher     that agent's writes, while writing the queue is empty            Close, Left (by Agent.idle)
//	schedule         New           handshakes, heartbeats             Close                         Close
//	question         Agent.ask     one question of one agent          answer, timeout, agent closed nobody: a gate that hangs
//	                                                                                                must hold up no one
//	review           Agent.askAgain  nothing: it waits to ask again       all is asked, agent closed    nobody: it holds nothing
//	bringers         Hub.Drop      nothing: they have agents heed     all agents have applied        nobody, likewise
//	reviewers        a schedule    nothing: they wait for answers     nobody waits to be asked for  nobody, likewise
//	gate             Agent.decide  the call of Gate.Decide            the gate returns              nobody, for the same reason
//	events           HandleEvents  the calls of Events.Handle         Close, when all are handled   Close, for a second: what
//	                                                                                                handles them may hang
//
// There is at most one writer for an agent, and none while its queue is empty:
// Agent.writing is set by who puts the first item in the queue, which also hands
// the agent to its flusher, and cleared by who finds the queue empty. A flusher
// never blocks; what a Conn does not take at once is left to a writer of the
// agent's own, with a deadline.
//
// # Locks
//
// They are taken in this order, each only while those before it are held or free:
//
//	Hub.mu → node.mu (a channel's before its patterns', longer prefixes first) → Agent.mu → the leaves
//
// The leaves, under which no other lock is taken: directory shards, timers.mu,
// flusher.mu, quota.mu, repeats.mu, reviewers.mu, eventQueue.mu, those of samplers. A
// Broker may hold a lock of its own around delivery. No lock is held while a gate, the Broker, a Conn's writing, the
// log, a Tracer or Events.Handle is called; Conn.SetWriteDeadline and Events.Wants,
// which do not block, are.
//
// # What is told
//
// The hub counts what happens in it, and [Hub.Stats] reads the counts: nothing is
// called for each delivery. [Events] hears of agents and channels that come and go,
// a [Tracer] of gates and publishes in sessions that are traced, and the log of
// each agent that is gone, sampled. [Hub.Drain] sends everybody away when the
// server goes.
package hub
