// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"errors"
	"math"
	"os"
	"runtime"
	"slices"
	"time"
)

const (
	// writeTimeout is how long one write may take. Then the agent is closed as slow.
	writeTimeout = 10 * time.Second
	// closeGrace is how long an agent that is being closed may take to read its queue and
	// the close notice.
	closeGrace = 2 * time.Second
)

// Reasons to stop a write before it begins.
var (
	// errOutdated: the rules have changed since the items were taken.
	errOutdated = errors.New("the rules have changed")
	// errGated: a deliver gate must be asked, and flushers do not ask gates.
	errGated = errors.New("a deliver gate must be asked")
)

// rules are the rules under which items were taken from the queue.
type rules struct {
	policy  *Policy
	revoked uint32 // outbox.revoked at that moment
}

// isOutdated reports whether the agent may no longer get some of the items that were taken
// under r.
func (o *outbox) isOutdated(r rules) bool {
	return o.agent.policy.Load() != r.policy || o.revoked.Load() != r.revoked
}

// flush writes the queue without blocking. It never asks a gate. It leaves the rest to a
// writer if the Conn takes no more, or if a deliver gate must be asked. It parks an agent
// whose policy has changed. w is the flusher's.
func (o *outbox) flush(w *flushing) {
	most, write := math.MaxInt, o.conn.TryWrite
	if o.blocks {
		if !o.isPrompt() {
			o.startWriter(nil)
			return
		}
		o.prompt, most, write = true, promptSize, o.writePromptly
	}
	t := &w.taken
	r, more := o.take(t, most, false)
	if t.items == nil {
		if more {
			o.agent.notify() // the other agents of the shard go first
		}
		return
	}
	var done int
	var begun []byte
	var err error
	if len(t.items) == 1 && (r.policy.Gates == nil || !t.items[0].isMessage()) {
		done, begun, err = o.writeItem(t.items[0].bytes, r, write)
	} else {
		join := w.joinBuffer()
		done, err = o.writeItems(t.items, r, join, write, true)
		begun = join.bytes
	}
	switch {
	case err == nil:
		if o.wrote(t, nil) {
			o.agent.notify() // more came meanwhile: the other agents of the shard go first
		}
	case errors.Is(err, ErrWouldBlock), errors.Is(err, errGated):
		o.putBack(t, done, r)
		o.startWriter(bytes.Clone(begun))
	case errors.Is(err, errOutdated):
		o.putBack(t, done, r)
		o.agent.notify()
	case o.wrote(t, err):
		o.agent.notify()
	}
}

// startWriter starts a writer, which goes on with the rest of an item.
func (o *outbox) startWriter(begun []byte) {
	o.agent.hub.writers.start(func() { o.write(begun) })
}

// write runs in a writer's goroutine. It continues where flush stopped, until the queue is
// empty. It may block, for writeTimeout at most in one write. begun is the rest of an item
// that the Conn took in part. Other items stay in the queue until the Conn can take them,
// so that a reload can still drop them.
func (o *outbox) write(begun []byte) {
	o.prompt = false
	if len(begun) > 0 {
		o.noteMoved()
		n, err := o.writeBlocking(begun)
		o.noteSent(n)
		if !o.wrote(nil, err) {
			return
		}
	}
	waiter, waits := o.conn.(Waiter)
	most := blockingJoinSize
	if waits {
		most = joinSize // its Write does not block after Await
	}
	t := new(taken)
	for {
		if waits {
			o.awaitReader(waiter)
		}
		r, more := o.take(t, most, true)
		if t.items == nil && more {
			runtime.Gosched()
			continue
		}
		if t.items == nil {
			return
		}
		join := getJoin(sizeOf(t.items))
		done, err := o.writeItems(t.items, r, join, o.writeBlocking, false)
		putJoin(join)
		if errors.Is(err, errOutdated) || waits && errors.Is(err, ErrWouldBlock) {
			o.putBack(t, done, r)
			continue
		}
		if !o.wrote(t, err) {
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

// awaitReader waits until the Conn has a reader, unless only heartbeats wait.
func (o *outbox) awaitReader(w Waiter) {
	o.agent.mu.Lock()
	if o.moved == 0 {
		o.moved = o.clock()
	}
	beat := o.conn.Form().Heartbeat
	isOther := func(it item) bool { return len(it.bytes) == 0 || len(beat) == 0 || &it.bytes[0] != &beat[0] }
	q := &o.queue
	matters := o.agent.leases.isBehind() || q.one.bytes != nil && isOther(q.one) || q.items != nil && slices.ContainsFunc(*q.items, isOther)
	if matters && o.deadline {
		o.deadline = false // it was for the previous write
		_ = o.setDeadlineLocked(time.Time{})
	}
	o.agent.mu.Unlock()
	if matters {
		w.Await()
	}
}

// take moves items from the queue to t, up to most bytes, but at least one, and returns the
// rules they were taken under. If nothing waits, it ends the writing and t stays empty; or
// it returns more, if subscriptions that catch up have not found anything yet. If the agent's
// policy is not in effect yet, take migrates the agent; without wait, it parks the outbox and
// t stays empty.
func (o *outbox) take(t *taken, most int, wait bool) (r rules, more bool) {
	a := o.agent
	a.mu.Lock()
	for !a.isCurrentLocked() {
		if !wait {
			o.parkLocked()
			return rules{}, false
		}
		if o.moved == 0 {
			o.moved = o.clock()
		}
		a.mu.Unlock()
		a.migrate(true)
		a.mu.Lock()
	}
	a.leases.catchUp.feedLocked()
	if !o.hasWorkLocked() || a.state == stateGone {
		o.endLocked()
		return rules{}, false
	}
	if o.queue.isEmpty() {
		a.mu.Unlock()
		return rules{}, true
	}
	if wait {
		o.moved = o.clock()
	}
	r = rules{policy: a.applied, revoked: o.revoked.Load()}
	if a.state >= stateClosing { // it is not migrated any more
		r.policy = a.policy.Load()
	}
	if o.queue.conflation.waits() && o.queue.lags(a.hub.timers.now()) {
		o.conflateLocked(nil)
	}
	o.queue.take(most, t)
	a.mu.Unlock()
	return r, false
}

// parkLocked stops the writing until the agent is migrated, so that nothing is written
// under an old policy. The goroutine that completes the migration notifies the flusher.
// parkLocked releases the agent's mu.
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

// withheld replaces the message of an item that the deliver gate has withheld.
var withheld = new(Message)

// writeItem is writeItems for one item that no gate is asked about. It does not copy it: begun is
// the rest of an item that the Conn has taken in part.
func (o *outbox) writeItem(b []byte, r rules, write func([]byte) (int, error)) (done int, begun []byte, err error) {
	if o.isOutdated(r) {
		return 0, nil, errOutdated
	}
	if len(b) == 0 {
		return 1, nil, nil
	}
	n, err := write(b)
	if n <= 0 {
		return 0, nil, err
	}
	o.noteSent(n)
	return 1, b[n:], err
}

// writeItems writes items that were taken under r, joined in join. It returns how many of
// them, from the first on, are written or withheld. If write would block, the Conn may
// have taken the last of those in part; join then holds the rest of it. Before each write,
// writeItems checks the rules again, because a deliver gate may have taken some time. For a
// flusher it asks no gate and returns errGated.
func (o *outbox) writeItems(items []item, r rules, join *joinBuffer, write func([]byte) (int, error), flusher bool) (done int, err error) {
	gates := r.policy.Gates
	join.bytes, join.ends = join.bytes[:0], join.ends[:0]
	before := o.agent.sent
	defer func() { o.shard().sent.Add(uint64(o.agent.sent - before)) }()
	flush := func() error {
		if o.isOutdated(r) {
			join.bytes = join.bytes[:0]
			return errOutdated
		}
		n, err := write(join.bytes)
		o.agent.sent += int64(n)
		done += join.wrote(n)
		return err
	}
	for i, it := range items {
		b := it.bytes
		if gates != nil && it.isMessage() {
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

// gated asks the deliver gate, and returns the bytes to write, or nil if it withheld the
// message.
func (o *outbox) gated(g DeliverGate, it item) []byte {
	switch m := delivered(g, o.agent, it.msg); m {
	case nil:
		return nil
	case it.msg:
		return it.bytes
	default:
		return m.encoded(o.conn.Form())
	}
}

// delivered asks a deliver gate. It returns the message to deliver, which has the position
// of m, or nil.
func delivered(g DeliverGate, a *Agent, m *Message) *Message {
	out := g.Deliver(a, m)
	if out == nil || out == m {
		return out
	}
	return out.at(m)
}

// writeBlocking is Conn.Write with a deadline. It renews the deadline only when a quarter
// of it has passed, because a new timer for each write would cost more than the write.
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

// promptSize is the most bytes that a flusher writes to a Roomer.
const promptSize = 4 << 10

// isPrompt reports whether a flusher can write all that waits to a Conn that blocks. If more
// waits, a writer joins it in fewer writes. A writer also closes the Conn.
func (o *outbox) isPrompt() bool {
	roomer, is := o.conn.(Roomer)
	if !is {
		return false
	}
	o.agent.mu.Lock()
	few := o.queue.bytes <= promptSize && o.agent.state < stateClosing
	o.agent.mu.Unlock()
	return few && roomer.HasRoom(promptSize)
}

// writePromptly is writeBlocking for a flusher, whose Conn has room.
func (o *outbox) writePromptly(p []byte) (int, error) {
	if len(p) > promptSize {
		return 0, ErrWouldBlock
	}
	return o.writeBlocking(p)
}

func (o *outbox) shard() *shardCount { return &o.agent.hub.counts.shards[o.agent.shard] }

func (o *outbox) noteSent(n int) {
	o.agent.sent += int64(n)
	o.shard().sent.Add(uint64(n))
}

// putBack puts the items that take returned in front of the queue again, except the first
// done, which are written or withheld. If the rules have changed, it drops messages that
// the agent's subscriptions do not cover any more.
func (o *outbox) putBack(t *taken, done int, r rules) {
	a, items := o.agent, t.items
	count, size, messages := tallyOf(items[:done])
	o.shard().delivered.Add(uint64(messages))
	a.mu.Lock()
	defer a.mu.Unlock()
	o.queue.release(count, size)
	outdated := o.isOutdated(r)
	rest := make([]item, 0, len(items)-done+8)
	drop := func(it item, why DropReason) {
		o.queue.release(1, len(it.bytes))
		if it.isMessage() && it.msg != withheld {
			a.hub.counts.drop(why, 1)
		}
	}
	for _, it := range items[done:] {
		switch {
		case it.msg == withheld, a.state == stateGone:
			drop(it, DropGone)
		case it.msg != nil && o.silenced && a.ending.code == CloseSlow:
			drop(it, DropSlow)
		case it.msg != nil && (o.silenced || outdated && !a.leases.cover(it.msg)):
			drop(it, DropRevoked)
		default:
			rest = append(rest, it)
		}
	}
	t.done()
	o.queue.putBack(rest)
}

// tallyOf returns the number of items, their size, and how many of them are messages that
// were not withheld.
func tallyOf(items []item) (count, size, messages int) {
	for _, it := range items {
		size += len(it.bytes)
		if it.isMessage() && it.msg != withheld {
			messages++
		}
	}
	return len(items), size, messages
}

// wrote counts items as written, or as dropped if err is not nil. t may be nil. It
// reports whether there is more to write. If not, it has ended the writing.
func (o *outbox) wrote(t *taken, err error) bool {
	var count, size, messages int
	if t != nil {
		count, size, messages = tallyOf(t.items)
		t.done()
	}
	if err == nil && messages > 0 {
		o.shard().delivered.Add(uint64(messages))
	}
	a := o.agent
	a.mu.Lock()
	o.queue.release(count, size)
	if err != nil {
		o.failLocked(err, messages)
	}
	o.roomLocked()
	if o.hasWorkLocked() && a.state != stateGone {
		a.mu.Unlock()
		return true
	}
	if o.deadline && !o.blocks {
		o.deadline = false                   // left in place, it would fail a later TryWrite
		_ = o.setDeadlineLocked(time.Time{}) // if this fails, the next write fails too
	}
	o.endLocked()
	return false
}

// endLocked ends the writing. It closes the Conn if the agent is being closed. The
// goroutine that writes calls it with the agent's mu held; endLocked releases it.
func (o *outbox) endLocked() {
	a := o.agent
	if a.state == stateClosing && !a.ending.closed {
		if o.prompt { // a writer finds nothing to write, and gets here again
			a.mu.Unlock()
			a.hub.writers.start(func() { o.write(nil) })
			return
		}
		a.ending.closed = true
		code, reason := a.ending.code, a.ending.reason
		a.mu.Unlock()
		o.conn.Close(code, reason)
		a.mu.Lock()
	}
	o.writing, o.moved = false, 0
	if a.state == stateGone && a.ending.written != nil {
		close(a.ending.written)
		a.ending.written = nil
	}
	a.mu.Unlock()
}

// failLocked closes the agent after a write failed: its peer reads too slowly, or is gone.
// messages is how many messages the write held; some of them may have arrived. An agent
// that is already being closed keeps its code and reason.
func (o *outbox) failLocked(err error, messages int) {
	a := o.agent
	closing := a.state >= stateClosing
	slow := errors.Is(err, os.ErrDeadlineExceeded) && !closing || closing && a.ending.code == CloseSlow
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
	e := a.endingLocked()
	e.code, e.reason = CloseNormal, "the connection is gone"
	if slow {
		e.code, e.reason = CloseSlow, "the connection does not take any more data"
	}
	e.because = "write failed: " + err.Error()
	if ended, ok := errors.AsType[*EndedError](err); ok {
		e.because = ended.Reason
	}
	a.stateChangedLocked()
}
