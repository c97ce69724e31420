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
//   - A slow reader delays nobody else. When its queue exceeds a limit, it is closed with
//     [CloseSlow]: it has lost messages, and the code says so.
//   - After an agent is closed or cut, nothing of any channel reaches it.
//   - If a gate grants a lease for a time (see [Verdict]), it is asked again before that
//     time is over, and then the lease ends.
//   - If a reload replaces a gate, the new gate is asked about the leases that the old one
//     granted. A lease ends if the new gate refuses, or does not answer in time (see
//     [Hub.Drop]). A gate that stays the same is not asked.
//
// # Glossary
//
//	agent         one connected endpoint: a browser tab, a program
//	session       the agent's connection, from Open to Left; a transport carries it
//	Conn          where the hub writes an agent's frames; a transport implements it
//	Form          an encoding of frames for one kind of Conn
//	node          a channel or a pattern that has subscribers
//	policy        what the configuration says about one endpoint: gates, limits, times
//	generation    a policy of one configuration; a reload replaces it by the next
//	gate          decides whether something may be done; local if it answers at once
//	question      what a gate is asked; its answer is a verdict
//	op            an operation that a gate may have to allow
//	lease         a right that a gate granted: to be connected, or to a subscription
//	reauthorize   ask the gate of a lease again
//	grace period  how long a lease goes on whose gate does not answer
//	migrate       put the policy of a reload into effect for one agent
//	cut           close a session that the new policy has no place for
//	revoke        end a subscription that is no longer allowed
//	inbox         counts an agent's frames, and holds them while it connects
//	outbox        queues what is to be written to an agent, and writes it
//	shard         the agents that one flusher serves
//	flusher       writes for a shard, and never blocks
//	writer        writes for one agent, and may block
//	fan-out       handing a message to the outboxes of all subscribers
//	quota         the count of sessions, in all and by address
//	drain         sending all agents away because the server stops
//
// # Who owns what
//
//	goroutine      started by            owns                                 ends when                       awaited by
//	reader         the transport         Receive, Left, reading from the Conn the Conn ends                   nobody: Left is its last act
//	flusher        New                   writes of the agents on its list     Close                           Close
//	writer         a flusher             one agent's writes                   the agent's queue is empty      Close; Left, by outbox.idle
//	timers         New                   handshakes, heartbeats, leases       Close                           Close
//	question       Question.askRemote    one call of Gate.Decide              the gate returns                nobody: a gate that hangs holds up no one
//	reauthorizing  leases.reauthorize    nothing: it waits to ask             all is asked, the agent closes  nobody
//	reauthorizer   reauthorizers.add     nothing: it waits for answers        no agent waits                  nobody
//	Reload         Hub.Drop              nothing: it has agents migrate       all agents have migrated        Reload.Done
//	events         HandleEvents          the calls of Events.Handle           Close, when all are handled     Close, for a second: handlers may hang
//
// An agent has one writer at most, and none while its queue is empty. outbox.writing is
// set by the goroutine that queues the first item, which also hands the agent to its
// flusher. It is cleared by the goroutine that finds the queue empty. A flusher never
// blocks and never asks a gate: what a Conn does not take at once, and what a deliver gate
// stands before, is left to a writer, with a deadline.
//
// # Locks
//
// They are taken in this order:
//
//	Hub.mu, then node.mu (a channel's before its patterns', longer prefixes first), then Agent.mu, then a leaf
//
// Leaves, under which no other lock is taken: those of directory shards, timers, flusher,
// writers, quota, repeats, reauthorizers, Reload, eventQueue and samplers. A Broker may
// hold a lock of its own around delivery. No lock is held during a call of a gate, the
// Broker, the log, a Tracer, Events.Handle or the writing of a Conn. Conn.SetWriteDeadline
// and Events.Wants, which do not block, are called with Agent.mu held.
//
// # What is told
//
// The hub counts what happens in it, and [Hub.Stats] reads the counts: nothing is
// called for each delivery. [Events] hears of agents and channels that come and go,
// a [Tracer] of gates and publishes in sessions that are traced, and the log of
// each agent that is gone, sampled. [Hub.Drain] sends everybody away when the
// server goes.
package hub
