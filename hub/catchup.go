// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A subscription that begins with kept messages may have to catch up: there may be many
// more than fit into the agent's queue. They are queued in pieces, as the queue drains. Until
// the subscription has caught up, messages that are published meanwhile do not come live:
// they are in the history, where the subscription gets to them. So they need no room, and
// keep their order. In the end, and in one step, nothing is left and the subscription is
// live.
//
// Nothing is held for a subscription that catches up: it has a number up to which it has
// got everything. What the history drops before that is told (see appendMissed).
//
// A client knows one position for each subscription, that of the last message which matches
// it, whatever other subscription has brought it. So messages that two subscriptions of an
// agent match must come in the order of their numbers. That is why subscriptions that overlap
// catch up together, even if only one of them is behind.

const (
	// pieceMessages and pieceBytes limit what is queued at once for subscriptions that catch
	// up, beside the limits of the queue. Small pieces let other agents go first.
	pieceMessages = 256
	pieceBytes    = 64 << 10
	// pieceShare divides the room in bytes of a queue, because messages grow when they are
	// encoded: a stream of events repeats a field for each line of a text.
	pieceShare = 4
	// maxOwn is how many of the messages that an agent does not get, because it has
	// published them, are noted while it catches up. It may get others.
	maxOwn = 1000
)

// A catchUp is what an agent has to catch up with. It is apart from the Agent, because most
// agents are live. The agent's mu guards it.
type catchUp struct {
	agent  *Agent      // its owner; immutable
	behind []*laggards // subscriptions that catch up
	later  []laterItem // messages that wait for them, in the order in which they came
}

// catchUpLocked returns what the agent has to catch up with, to add to it.
func (ls *leases) catchUpLocked() *catchUp {
	if ls.catchUp == nil {
		ls.catchUp = &catchUp{agent: ls.agent}
	}
	return ls.catchUp
}

// isBehind reports whether subscriptions catch up. The caller holds the agent's mu.
func (ls *leases) isBehind() bool { return ls.catchUp != nil && len(ls.catchUp.behind) > 0 }

// releaseLocked releases c once nothing is left in it.
func (c *catchUp) releaseLocked() {
	if len(c.behind) == 0 && len(c.later) == 0 {
		c.agent.leases.catchUp = nil
	}
}

// laggards are subscriptions of one agent that catch up together. The agent's mu guards
// them.
type laggards struct {
	subs  []laggard
	ended []span   // what subscriptions that have ended have brought
	own   []uint64 // numbers of messages that the agent must not get
}

// A laggard is a subscription that catches up.
type laggard struct {
	*subscription
	drops uint32        // the agent knows about all that was dropped up to here, see history.drops
	begun time.Duration // and that what was too old then does not come
	floor uint64        // and about all that was dropped of a channel up to this number
	by    Fingerprint   // of the gate history that allowed it
	asked bool          // it has asked for kept messages
}

// A span is the messages that a subscription has brought.
type span struct {
	channel   string // or pattern
	from, fed uint64
}

// has reports whether the subscription has brought the message with a number.
func (s *span) has(seq uint64) bool { return s.from < seq && seq <= s.fed }

// span returns what a subscription that catches up has brought.
func (s *subscription) span() span { return span{s.channel(), s.from, s.fed} }

// isPast reports whether a kept message does not come live: the subscription began after it,
// or got it when it caught up.
func (s *subscription) isPast(m *Message) bool { return m.seq != 0 && m.seq <= s.fed }

// coversKey reports whether the subscription is to a channel, or to a pattern above it.
func (s *subscription) coversKey(key string) bool {
	if s.node.home.patterns {
		return isBelow(key, s.node.key())
	}
	return key == s.node.key()
}

// hasBrought reports whether one of the subscriptions has brought a message.
func (g *laggards) hasBrought(seq uint64, channel string) bool {
	brought := func(s span) bool { return s.has(seq) && matches(s.channel, channel) }
	return slices.ContainsFunc(g.subs, func(l laggard) bool { return brought(l.span()) }) || slices.ContainsFunc(g.ended, brought)
}

// overlap reports whether there are channels that both match. They are names or patterns.
func overlap(a, b string) bool {
	switch {
	case !IsPattern(a):
		return matches(b, a)
	case !IsPattern(b):
		return matches(a, b)
	default:
		a, b = patternPrefix(a), patternPrefix(b)
		return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
	}
}

// A piece is a message for subscriptions that catch up. Or, if msg is nil, it says that one
// of them misses messages.
type piece struct {
	msg    *Message
	missed *missed
}

// A missed is a subscription that misses messages which precede position.
type missed struct {
	*subscription
	why      string
	position Position
}

// Lists of pieces are pooled, so that many agents that catch up at once make little garbage.
var piecesPool = sync.Pool{New: func() any { list := make([]piece, 0, pieceMessages); return &list }}

// feed appends to out the next messages for g: at most room, with at most roomBytes, but at
// least one if there is one. It looks at a limited number of entries, so there may be none
// although g has not caught up. done says that it has: from now on, it is live.
func (h *history) feed(out []piece, g *laggards, room, roomBytes int) (_ []piece, done bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for looks := h.piece; looks > 0 && len(out) < room && roomBytes > 0; {
		low, bound := g.next(h.last)
		if low >= h.last {
			for _, l := range g.subs {
				l.fed = max(l.fed, h.last)
			}
			return out, true
		}
		if missed := h.missedLocked(g, low); len(missed) > 0 {
			out = append(out, missed...)
			continue
		}
		f := &feeding{h: h, g: g, low: low, upTo: bound, entries: h.found[:0]}
		f.collectLocked(min(looks, room-len(out)), looks)
		looks -= max(f.looked, 1)
		out = append(out, f.missed...)
		for _, e := range f.entries {
			m := h.dueLocked(g, e)
			if m == nil {
				continue
			}
			if roomBytes < len(m.object) && len(out) > 0 {
				f.upTo, roomBytes = e.seq-1, 0
				break
			}
			roomBytes -= len(m.object)
			out = append(out, piece{msg: m})
		}
		clear(f.entries)
		h.found = f.entries[:0]
		for i := range g.subs {
			if l := &g.subs[i]; l.fed == low {
				l.fed = max(f.upTo, low)
			}
		}
	}
	return out, false
}

// next returns the lowest number up to which one of the subscriptions has got everything,
// and the next higher one, which is at most last.
func (g *laggards) next(last uint64) (low, bound uint64) {
	low, bound = last, last
	for _, l := range g.subs {
		switch {
		case l.fed < low:
			low, bound = l.fed, low
		case l.fed > low && l.fed < bound:
			bound = l.fed
		}
	}
	return low, bound
}

// missedLocked says which subscriptions that stand at low miss messages that were dropped,
// and moves them on.
func (h *history) missedLocked(g *laggards, low uint64) (out []piece) {
	for i := range g.subs {
		l := &g.subs[i]
		if l.fed != low {
			continue
		}
		floor, why := max(low, l.floor), ""
		switch r := h.rings[l.node.key()]; {
		case low < h.base: // another log has come
			floor, why = h.base, "epoch"
		case l.node.home.patterns:
			if front := h.frontLocked(); front > low {
				floor, why = front, "count"
			}
		case r != nil && r.floor > floor:
			floor, why = r.floor, r.why
		case r == nil && h.lost > floor:
			floor, why = h.lost, h.why
		}
		if why == "" {
			continue
		}
		l.floor, l.fed, l.drops = floor, floor, h.drops
		if r := h.rings[l.node.key()]; r != nil && !l.node.home.patterns { // it may have older messages than those that were lost
			if next := following(r.entries, low); len(next) > 0 {
				l.fed = min(floor, next[0].seq-1)
			}
		}
		out = append(out, piece{missed: &missed{l.subscription, why, h.positionLocked(l.fed)}})
	}
	return out
}

// A feeding collects entries that follow low for the subscriptions that stand there.
type feeding struct {
	h       *history
	g       *laggards
	low     uint64
	upTo    uint64 // it has all up to this number
	entries []*entry
	looked  int // how many entries it has looked at
	missed  []piece
}

// collectLocked collects at most a number of entries, and looks at no more than looks.
func (f *feeding) collectLocked(most, looks int) {
	pattern := false
	lists := make([][]*entry, 0, len(f.g.subs))
	for _, l := range f.g.subs {
		if l.fed != f.low {
			continue
		}
		if pattern = l.node.home.patterns; pattern {
			break
		}
		if r := f.h.rings[l.node.key()]; r != nil {
			lists = append(lists, following(r.entries, f.low))
		}
	}
	if pattern {
		f.scanLocked(most, looks)
		return
	}
	for len(f.entries) < most {
		var first *[]*entry
		for i := range lists {
			if l := lists[i]; len(l) > 0 && (first == nil || l[0].seq < (*first)[0].seq) {
				first = &lists[i]
			}
		}
		if first == nil || (*first)[0].seq > f.upTo {
			return
		}
		f.entries = append(f.entries, (*first)[0])
		*first = (*first)[1:]
		f.looked++
	}
	f.upTo = f.entries[most-1].seq
}

// scanLocked looks through the log.
func (f *feeding) scanLocked(most, looks int) {
	h := f.h
	for _, e := range following(h.log, f.low) {
		if e.seq > f.upTo {
			break
		}
		if f.looked == looks || len(f.entries) == most {
			f.upTo = e.seq - 1
			break
		}
		f.looked++
		for i := range f.g.subs {
			l := &f.g.subs[i]
			switch {
			case l.fed != f.low || e.key != "" && !l.coversKey(e.key):
				continue
			case !e.dropped():
				f.entries = append(f.entries, e)
			case l.node.home.patterns && e.droppedSince(l.drops):
				l.drops = h.drops
				f.missed = append(f.missed, piece{missed: &missed{l.subscription, h.whyLocked(e), h.positionLocked(f.low)}})
				continue // others may miss it too
			default:
				continue
			}
			break
		}
	}
}

// dueLocked returns the message of an entry, or nil if the agent must not get it, or has it.
func (h *history) dueLocked(g *laggards, e *entry) *Message {
	_, channel, _ := cutKey(e.key)
	old := func(l laggard) bool { return l.begun-e.at >= h.rings[e.key].rule.TTL }
	due := slices.ContainsFunc(g.subs, func(l laggard) bool { return l.fed < e.seq && l.matches(channel) && !old(l) })
	if !due || g.hasBrought(e.seq, channel) || slices.Contains(g.own, e.seq) {
		return nil
	}
	return h.messageLocked(e)
}

// startLocked has a subscription catch up, together with those that overlap with it.
func (c *catchUp) startLocked(l laggard) {
	g := l.behind
	if g == nil {
		g = new(laggards)
		c.behind = append(c.behind, g)
	}
	g.subs = slices.DeleteFunc(g.subs, func(each laggard) bool { return each.subscription == l.subscription })
	l.fed = max(l.fed, l.from)
	g.add(l)
	for grown := true; grown; {
		grown = false
		for _, s := range c.agent.leases.subs {
			if s.behind == g || !slices.ContainsFunc(g.subs, func(l laggard) bool { return overlap(l.channel(), s.channel()) }) {
				continue
			}
			grown = true
			if other := s.behind; other != nil {
				c.mergeLocked(g, other)
				continue
			}
			s.fed = c.agent.leases.broughtLocked(s)
			g.add(laggard{subscription: s, drops: c.agent.hub.history.droppedNow(), begun: c.agent.hub.history.clock(time.Now())})
		}
	}
}

// wideLocked returns the number up to which a wider pattern of the agent has already brought
// the messages that follow from. Without such a pattern, it returns from. A client that comes
// back must not get these messages again.
func (ls *leases) wideLocked(channel string, from uint64) uint64 {
	brought := from
	for _, s := range ls.subs {
		if s.channel() == channel || s.from > from || !IsPattern(s.channel()) || !strings.HasPrefix(strings.TrimSuffix(channel, "*"), patternPrefix(s.channel())) {
			continue
		}
		if s.behind == nil {
			brought = max(brought, ls.broughtLocked(s))
		} else {
			brought = max(brought, s.fed)
		}
	}
	return brought
}

// positionOf returns the position of a number.
func (h *history) positionOf(seq uint64) Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.positionLocked(seq)
}

// overlapsLocked reports whether a subscription that catches up overlaps with a channel or
// pattern. c may be nil.
func (c *catchUp) overlapsLocked(channel string) bool {
	return c != nil && slices.ContainsFunc(c.behind, func(g *laggards) bool {
		return slices.ContainsFunc(g.subs, func(l laggard) bool { return overlap(l.channel(), channel) })
	})
}

func (g *laggards) add(l laggard) {
	l.behind = g
	g.subs = append(g.subs, l)
}

// laggardLocked returns how s catches up, or nil if it does not.
func (s *subscription) laggardLocked() *laggard {
	if s.behind == nil {
		return nil
	}
	i := slices.IndexFunc(s.behind.subs, func(l laggard) bool { return l.subscription == s })
	if i < 0 {
		return nil // its listener has not begun
	}
	l := s.behind.subs[i]
	return &l
}

// mergeLocked moves what catches up in other to g.
func (c *catchUp) mergeLocked(g, other *laggards) {
	for _, l := range other.subs {
		g.add(l)
	}
	g.ended = append(g.ended, other.ended...)
	g.own = append(g.own, other.own...)
	for i := range c.later {
		if c.later[i].group == other {
			c.later[i].group = g
		}
	}
	c.behind = slices.DeleteFunc(c.behind, func(each *laggards) bool { return each == other })
}

// broughtLocked returns the number up to which a live subscription has brought everything.
// The newest message may be on its way: it is in the history, and was not handed to the
// agent yet. There is at most one such message, see Sink.Entry.
func (ls *leases) broughtLocked(s *subscription) uint64 {
	newest := ls.agent.hub.history.newest()
	if newest > 0 && ls.seen != newest {
		newest--
	}
	return max(s.fed, s.from, newest)
}

// droppedNow returns how many entries were dropped, see history.drops.
func (h *history) droppedNow() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drops
}

// feedLocked queues messages for the subscriptions that catch up, if there is room. c may be
// nil.
func (c *catchUp) feedLocked() {
	if c == nil || len(c.behind) == 0 || c.agent.out.waitsForBatchLocked() {
		return
	}
	q := &c.agent.out.queue
	for range len(c.behind) {
		l := q.currentLimits()
		room := min(l.QueueMessages/2-q.count, pieceMessages)
		roomBytes := min((l.QueueBytes/2-q.bytes)/pieceShare, pieceBytes)
		if q.isEmpty() { // one always fits; what is held must not stop it
			room, roomBytes = max(room, 1), max(roomBytes, 1)
		}
		if room <= 0 || roomBytes <= 0 {
			return
		}
		g := c.behind[0]
		list := piecesPool.Get().(*[]piece)
		pieces, done := c.agent.hub.history.feed((*list)[:0], g, room, roomBytes)
		c.behind = c.behind[1:]
		if !done { // the others go first
			c.behind = append(c.behind, g)
		}
		c.queueLocked(g, pieces)
		clear(pieces)
		if cap(pieces) == cap(*list) { // leave a list that has grown to the garbage collector
			piecesPool.Put(list)
		}
		if done {
			for _, l := range g.subs {
				l.behind = nil
			}
			c.unholdLocked(g, nil)
		}
	}
	c.releaseLocked()
}

// States of outbox.batch.
const (
	noBatch uint32 = iota
	inBatch
	batchAwaited // and subscriptions wait for its end to catch up
)

// BeginBatch says that frames follow which have arrived together. The answers to subscribes
// among them come before the kept messages: a client that reads a message then knows of all
// these subscriptions that they have begun, and moves their positions.
func (a *Agent) BeginBatch() { a.out.batch.CompareAndSwap(noBatch, inBatch) }

// EndBatch says that the frames that have arrived together were handled. The goroutine that
// called Receive calls it.
func (a *Agent) EndBatch() {
	a.in.publishJoined()
	a.endBatch()
}

// endBatch ends a batch of any goroutine that handles frames.
func (a *Agent) endBatch() {
	if a.out.batch.Swap(noBatch) != batchAwaited {
		return
	}
	a.mu.Lock()
	a.leases.catchUp.feedLocked()
	notify := a.out.hasWorkLocked() && a.out.wakeLocked()
	a.mu.Unlock()
	if notify {
		a.notify()
	}
}

// waitsForBatchLocked reports whether there is a batch. If so, its end has subscriptions go
// on that catch up.
func (o *outbox) waitsForBatchLocked() bool {
	return o.batch.CompareAndSwap(inBatch, batchAwaited) || o.batch.Load() == batchAwaited
}

// queueLocked queues pieces for g.
func (c *catchUp) queueLocked(g *laggards, pieces []piece) {
	q, form := &c.agent.out.queue, c.agent.out.conn.Form()
	for _, p := range pieces {
		if p.msg == nil {
			q.add(item{bytes: form.encode(appendMissed(nil, uuid.NewString(), p.missed.channel(), p.missed.position.String(), p.missed.why))})
			continue
		}
		c.unholdLocked(g, func(l *laterItem) bool { return l.after < p.msg.seq })
		q.add(item{bytes: p.msg.encoded(form), msg: p.msg})
	}
}

// holdLocked keeps a message that no history keeps for when g has got what precedes it. It
// reports whether the caller must notify the flusher.
func (o *outbox) holdLocked(g *laggards, it item) (notify bool) {
	if !o.queue.fits(len(it.bytes)) {
		return o.overflowLocked(it)
	}
	o.queue.count++
	o.queue.bytes += len(it.bytes)
	c := o.agent.leases.catchUpLocked()
	c.later = append(c.later, laterItem{item: it, group: g, after: o.agent.hub.history.newest()})
	return false
}

// stopLocked notes that a subscription has ended.
func (s *subscription) stopLocked() {
	g, a := s.behind, s.agent
	if g == nil {
		return
	}
	s.behind = nil
	g.ended = append(g.ended, s.span())
	g.subs = slices.DeleteFunc(g.subs, func(l laggard) bool { return l.subscription == s })
	// What it has brought goes out before the notice of its end.
	c := a.leases.catchUp
	if c == nil {
		return // its listener has not begun, and nothing has come, or the agent is being closed
	}
	c.unholdLocked(g, func(l *laterItem) bool {
		return !slices.ContainsFunc(g.subs, func(other laggard) bool { return other.matches(l.msg.Channel) })
	})
	if len(g.subs) == 0 {
		c.behind = slices.DeleteFunc(c.behind, func(each *laggards) bool { return each == g })
	}
	c.releaseLocked()
}

// excludeLocked notes that the agent must not get a message when it catches up.
func (s *subscription) excludeLocked(m *Message) {
	if g := s.behind; g != nil && m.seq != 0 && len(g.own) < maxOwn {
		g.own = append(g.own, m.seq)
	}
}

// endLocked is for an agent that is being closed. It gets what came live. c may be nil.
func (c *catchUp) endLocked() {
	if c == nil {
		return
	}
	for _, g := range c.behind {
		c.unholdLocked(g, nil)
	}
	c.behind = nil
	c.releaseLocked()
}

// A laterItem is a message that no history keeps. It waits for subscriptions that catch up:
// it comes after the message with a number. It counts in the queue.
type laterItem struct {
	item
	group *laggards
	after uint64
}

// unholdLocked queues the items of a group for which due returns true. nil is for all.
func (c *catchUp) unholdLocked(g *laggards, due func(*laterItem) bool) {
	q := &c.agent.out.queue
	c.later = slices.DeleteFunc(c.later, func(l laterItem) bool {
		if l.group != g || due != nil && !due(&l) {
			return false
		}
		q.release(1, len(l.bytes))
		q.add(l.item)
		return true
	})
}

// dropLaterLocked drops the later items for which keep returns false. If keep is nil, it drops all
// of them. It returns how many. c may be nil.
func (c *catchUp) dropLaterLocked(keep func(*Message) bool) (messages int) {
	if c == nil {
		return 0
	}
	q := &c.agent.out.queue
	c.later = slices.DeleteFunc(c.later, func(l laterItem) bool {
		if keep != nil && keep(l.msg) {
			return false
		}
		q.release(1, len(l.bytes))
		messages++
		return true
	})
	c.releaseLocked()
	return messages
}
