// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"errors"
	"math"
	"os"
	"slices"
	"time"
)

const (
	// writeTimeout is how long one write may take until the peer is given up.
	writeTimeout = 10 * time.Second
	// closeGrace is how long an agent that is being closed may take to read what
	// was written, and the notice that it is closed.
	closeGrace = 2 * time.Second
)

// What a writer finds instead of writing.
var (
	// errOutdated: the rules have changed since the items were taken.
	errOutdated = errors.New("the rules have changed")
	// errGated: a deliver gate is to be asked, which is not for a flusher to do.
	errGated = errors.New("a deliver gate is to be asked")
)

// rules are what items were taken under.
type rules struct {
	policy  *Policy
	revoked uint32 // outbox.revoked then
}

// isOutdated reports whether items that were taken under r may have lost their right to
// go out.
func (o *outbox) isOutdated(r rules) bool {
	return o.agent.policy.Load() != r.policy || o.revoked.Load() != r.revoked
}

// flush writes what waits, without blocking. It never asks a gate and never waits: what
// the Conn does not take, and what a deliver gate stands before, is left to a writer. An
// agent whose policy has changed is parked.
func (o *outbox) flush() {
	start := func(begun []byte) { o.agent.hub.writers.start(func() { o.write(begun) }) }
	if o.blocks {
		start(nil)
		return
	}
	items, r := o.take(math.MaxInt, false)
	if items == nil {
		return
	}
	join := getJoin(joinSize)
	done, err := o.writeItems(*items, r, join, o.conn.TryWrite, true)
	begun := bytes.Clone(join.bytes)
	putJoin(join)
	switch {
	case errors.Is(err, ErrWouldBlock), errors.Is(err, errGated):
		o.putBack(items, done, r)
		start(begun)
	case errors.Is(err, errOutdated):
		o.putBack(items, done, r)
		o.agent.notify()
	case o.wrote(items, err):
		// What came meanwhile waits for its turn behind all other agents.
		o.agent.notify()
	}
}

// write is the writer. It goes on where flush could not: it blocks, for writeTimeout at
// most in one write, until the queue is empty. begun is the rest of an item that the Conn
// has taken in part. Everything else stays in the queue until the Conn can take it, so
// that what is written is decided at the last moment.
func (o *outbox) write(begun []byte) {
	if len(begun) > 0 {
		n, err := o.writeBlocking(begun)
		o.noteSent(n)
		if !o.wrote(nil, err) {
			return
		}
	}
	waiter, waits := o.conn.(Waiter)
	most := blockingJoinSize
	if waits {
		most = joinSize // it hands over at once
	}
	for {
		if waits {
			o.awaitReader(waiter)
		}
		items, r := o.take(most, true)
		if items == nil {
			return
		}
		join := getJoin(sizeOf(*items))
		done, err := o.writeItems(*items, r, join, o.writeBlocking, false)
		putJoin(join)
		if errors.Is(err, errOutdated) || waits && errors.Is(err, ErrWouldBlock) {
			o.putBack(items, done, r)
			continue
		}
		if !o.wrote(items, err) {
			return
		}
	}
}

func sizeOf(items []item) (n int) {
	for _, it := range items {
		n += len(it.bytes)
	}
	return n
}

// awaitReader waits until somebody reads from the Conn, if there is more to write than
// heartbeats.
func (o *outbox) awaitReader(w Waiter) {
	o.agent.mu.Lock()
	beat := o.conn.Form().Heartbeat
	matters := o.queue.items != nil && slices.ContainsFunc(*o.queue.items, func(it item) bool {
		return len(it.bytes) == 0 || len(beat) == 0 || &it.bytes[0] != &beat[0]
	})
	if matters && o.deadline {
		o.deadline = false // it was for the write before
		_ = o.setDeadlineLocked(time.Time{})
	}
	o.agent.mu.Unlock()
	if matters {
		w.Await()
	}
}

// take takes what waits, up to most bytes, but at least one item, and says under which
// rules. If nothing waits, it ends the writing, and the Conn too if all is said. If a
// reload is not done with the agent, it waits for that, or without wait parks the outbox.
func (o *outbox) take(most int, wait bool) (*[]item, rules) {
	a := o.agent
	a.mu.Lock()
	for !a.isCurrentLocked() {
		if !wait {
			o.parkLocked()
			return nil, rules{}
		}
		a.mu.Unlock()
		a.migrate(true)
		a.mu.Lock()
	}
	if o.queue.items == nil || a.state == stateGone {
		o.endLocked()
		return nil, rules{}
	}
	defer a.mu.Unlock()
	r := rules{policy: a.applied, revoked: o.revoked.Load()}
	if a.state >= stateClosing { // reloads do not concern it any more
		r.policy = a.policy.Load()
	}
	return o.queue.take(most), r
}

// parkLocked leaves the outbox to the reload that has changed the agent's policy: nothing
// is written under rules that are no longer in force. Who completes the change hands the
// agent to its flusher again. It releases the agent's mu.
func (o *outbox) parkLocked() {
	a := o.agent
	o.parked = true
	a.mu.Unlock()
	if r := a.reload.Load(); r != nil {
		r.hurry(a)
	} else {
		go a.migrate(true)
	}
}

// withheld marks an item that the deliver gate has withheld from the agent.
var withheld = new(Message)

// writeItems writes items that were taken under r, joined in join. It returns how many
// of them are done with, from the first on. If write would block, the last of those may
// have been taken in part: join holds what is missing of it. Deliver gates may take their
// time, so each write looks at the rules once more; a flusher asks none.
func (o *outbox) writeItems(items []item, r rules, join *joinBuffer, write func([]byte) (int, error), flusher bool) (done int, err error) {
	gates := r.policy.Gates
	join.bytes, join.ends = join.bytes[:0], join.ends[:0]
	before := o.sent
	defer func() { o.shard().sent.Add(uint64(o.sent - before)) }()
	flush := func() error {
		if o.isOutdated(r) {
			join.bytes = join.bytes[:0]
			return errOutdated
		}
		n, err := write(join.bytes)
		o.sent += int64(n)
		done += join.wrote(n)
		return err
	}
	for i, it := range items {
		b := it.bytes
		if gates != nil && it.msg != nil {
			if g := gates.DeliverGate(it.msg.Channel); g != nil {
				if flusher {
					if len(join.bytes) > 0 {
						err = flush()
					}
					if err == nil {
						err = errGated
					}
					return done, err
				}
				if b = o.gated(g, it); b == nil {
					items[i].msg = withheld
					o.agent.hub.counts.drop(DropGate, 1)
				}
			}
		}
		if len(join.bytes) > 0 && len(join.bytes)+len(b) > joinSize {
			if err := flush(); err != nil {
				return done, err
			}
		}
		join.bytes = append(join.bytes, b...)
		join.ends = append(join.ends, len(join.bytes))
	}
	if len(join.bytes) > 0 {
		if err := flush(); err != nil {
			return done, err
		}
	}
	return len(items), nil
}

// gated asks the deliver gate, and returns what is to be written; nil for nothing.
func (o *outbox) gated(g DeliverGate, it item) []byte {
	switch m := g.Deliver(o.agent, it.msg); m {
	case nil:
		return nil
	case it.msg:
		return it.bytes
	default:
		return m.encoded(o.conn.Form())
	}
}

// writeBlocking is Conn.Write under a deadline that is renewed only when a
// quarter of it has gone: a timer for each write would cost more than the write.
func (o *outbox) writeBlocking(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if now := o.agent.hub.timers.now(); !o.deadline || now-o.renewed > writeTimeout/4 {
		o.deadline, o.renewed = true, now
		if err := o.setDeadline(time.Now().Add(writeTimeout)); err != nil {
			return 0, err
		}
	}
	return o.conn.Write(p)
}

func (o *outbox) shard() *shardCount { return &o.agent.hub.counts.shards[o.agent.shard] }

func (o *outbox) noteSent(n int) {
	o.sent += int64(n)
	o.shard().sent.Add(uint64(n))
}

// putBack puts items that were taken, but not written, in front of the queue again.
// done of them are accounted for. If the rules they were taken under have changed,
// those that the agent's subscriptions do not cover any more are dropped.
func (o *outbox) putBack(items *[]item, done int, r rules) {
	a := o.agent
	count, size, messages := tallyOf((*items)[:done])
	o.shard().delivered.Add(uint64(messages))
	a.mu.Lock()
	defer a.mu.Unlock()
	o.queue.release(count, size)
	outdated := o.isOutdated(r)
	rest := make([]item, 0, len(*items)-done+8)
	drop := func(it item, why DropReason) {
		o.queue.release(1, len(it.bytes))
		if it.msg != nil && it.msg != withheld {
			a.hub.counts.drop(why, 1)
		}
	}
	for _, it := range (*items)[done:] {
		switch {
		case it.msg == withheld, a.state == stateGone:
			drop(it, DropGone)
		case it.msg != nil && o.silenced && a.closeCode == CloseSlow:
			drop(it, DropSlow)
		case it.msg != nil && (o.silenced || outdated && !a.leases.cover(it.msg)):
			drop(it, DropRevoked)
		default:
			rest = append(rest, it)
		}
	}
	putItems(items)
	o.queue.putBack(rest)
}

// tallyOf returns how many items there are, their size, and how many of them are
// messages that were not withheld.
func tallyOf(items []item) (count, size, messages int) {
	for _, it := range items {
		size += len(it.bytes)
		if it.msg != nil && it.msg != withheld {
			messages++
		}
	}
	return len(items), size, messages
}

// wrote accounts for what was written, nil for nothing, and reports whether there is
// more to write. If not, the writing has ended.
func (o *outbox) wrote(items *[]item, err error) bool {
	var count, size, messages int
	if items != nil {
		count, size, messages = tallyOf(*items)
		putItems(items)
	}
	if err == nil {
		o.shard().delivered.Add(uint64(messages))
	}
	a := o.agent
	a.mu.Lock()
	o.queue.release(count, size)
	if err != nil {
		o.failLocked(err, messages)
	}
	o.roomLocked()
	if o.queue.items != nil && a.state != stateGone {
		a.mu.Unlock()
		return true
	}
	if o.deadline && !o.blocks {
		// One that stays would fail a later TryWrite.
		o.deadline = false
		_ = o.setDeadlineLocked(time.Time{}) // what fails here fails the next write too
	}
	o.endLocked()
	return false
}

// endLocked ends the writing, closes the Conn if all is said, and releases the agent's
// mu. The writer calls it, with the agent's mu held.
func (o *outbox) endLocked() {
	a := o.agent
	if a.state == stateClosing && !o.closed {
		o.closed = true
		code, reason := a.closeCode, a.closeReason
		a.mu.Unlock()
		o.conn.Close(code, reason)
		a.mu.Lock()
	}
	o.writing = false
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
	a.mu.Unlock()
}

// failLocked gives up a Conn that failed to write that many messages, some of which
// may have arrived: its peer reads too slowly, or is gone. An agent that is being
// closed keeps its own reason.
func (o *outbox) failLocked(err error, messages int) {
	a := o.agent
	closing := a.state >= stateClosing
	slow := errors.Is(err, os.ErrDeadlineExceeded) && !closing || closing && a.closeCode == CloseSlow
	why := DropGone
	if slow {
		why = DropSlow
	}
	a.hub.counts.drop(why, messages)
	o.dropLocked(why)
	if closing {
		return
	}
	a.state = stateClosing
	a.closeCode, a.closeReason = CloseNormal, "the connection is gone"
	if slow {
		a.closeCode, a.closeReason = CloseSlow, "the connection does not take what is written"
	}
	a.leftBecause = "write failed: " + err.Error()
	a.stateChangedLocked()
}
