// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// A modelEntry is a message as a list would keep it.
type modelEntry struct {
	seq     uint64
	channel string
	text    string
	at      time.Time
}

// A historyModel is a history, and beside it a list of everything that was ever published.
type historyModel struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	h      *history
	rules  map[string]HistoryRule
	names  []string
	tight  bool // its bytes are limited: then the list does not know what is kept
	all    []modelEntry
}

// modelSeeds is how many seeds a model is run with: PUSHIT_SEEDS, or the default.
func modelSeeds(t *testing.T, usually uint64) uint64 {
	t.Helper()
	text := os.Getenv("PUSHIT_SEEDS")
	if text == "" {
		return usually
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("PUSHIT_SEEDS: %v", err)
	}
	return n
}

// TestHistoryModel has random messages kept and recovered, and a list beside: what comes
// is what the list has, and nothing that is missing goes untold.
func TestHistoryModel(t *testing.T) {
	for seed := range modelSeeds(t, 200) {
		runHistoryModel(t, seed)
	}
}

func FuzzHistoryModel(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(runHistoryModel)
}

func runHistoryModel(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 7))
		m := &historyModel{t: t, seed: seed, random: random, h: started()}
		m.h.piece = []int{1, 2, 7, sweepPiece}[random.IntN(4)]
		defer m.h.close()
		m.rules = map[string]HistoryRule{"a/1": {5, time.Minute}, "a/2": {20, 10 * time.Second}, "b": {3, time.Hour}, "c": {50, 30 * time.Second}, "a/b/c": {2, 2 * time.Second}}
		m.names = []string{"a/1", "a/2", "b", "c", "a/b/c"}
		if m.tight = random.IntN(3) == 0; m.tight {
			m.h.limit(1500 + random.IntN(6000))
		}
		for range 150 {
			switch random.IntN(4) {
			case 0:
				time.Sleep(time.Duration(random.IntN(8000)) * time.Millisecond)
				synctest.Wait() // a sweep may have begun
			case 1, 2:
				m.publish()
			default:
				m.recover()
			}
			m.count()
		}
	})
}

func (m *historyModel) publish() {
	ch := m.names[m.random.IntN(len(m.names))]
	text := strconv.Itoa(len(m.all))
	message := NewMessage(ch, "u"+text, []byte(text))
	m.h.keep(message, m.rules[ch])
	m.all = append(m.all, modelEntry{message.seq, ch, text, time.Now()})
}

// kept returns whether the list would keep its messages, by number. If bytes are limited, it
// is what the rings have.
func (m *historyModel) kept() map[uint64]bool {
	kept := make(map[uint64]bool)
	if m.tight {
		for _, r := range m.h.rings {
			for _, e := range r.entries {
				kept[e.seq] = time.Since(m.all[e.seq-1].at) < r.rule.TTL
			}
		}
		return kept
	}
	for ch, rule := range m.rules {
		n := 0
		for _, e := range slices.Backward(m.all) {
			if e.channel == ch && n < rule.Count {
				n++
				kept[e.seq] = time.Since(e.at) < rule.TTL
			}
		}
	}
	return kept
}

// An asked is a subscription of the model that recovers.
type asked struct {
	*subscription
	recovery
	req    recoveryRequest
	after  uint64
	since  time.Time
	told   bool            // messages are missing
	missed map[uint64]bool // by number: messages that were not kept when it began
	owed   bool            // it must be told, and was not when it began
}

func (s *asked) String() string {
	return fmt.Sprintf("%+v of %q, after %d", s.req, s.channel(), s.after)
}

// wants reports whether the request is about a message, if it is kept.
func (s *asked) wants(e modelEntry) bool {
	return e.seq > s.after && matches(s.channel(), e.channel) && !e.at.Before(s.since)
}

// ask makes a random request. For a pattern, it has messages be published during the search.
func (m *historyModel) ask() *asked {
	random := m.random
	key, pattern := m.names[random.IntN(len(m.names))], false
	if random.IntN(2) == 0 {
		key, pattern = []string{"a/", "", "a/b/", "none/"}[random.IntN(4)], true
	}
	s := &asked{subscription: subscriptionTo(key, pattern), missed: make(map[uint64]bool)}
	switch random.IntN(4) {
	case 0:
		s.req.last = 1 + random.IntN(30)
	case 1:
		s.since = time.Now().Add(-time.Duration(random.IntN(60_000)) * time.Millisecond)
		s.req.since = s.since
	default:
		s.after = uint64(random.IntN(len(m.all) + 1))
		s.req.position = m.h.at(s.after)
	}
	return s
}

// recover has subscriptions begin, and catch up together, in pieces. Messages are published
// and dropped meanwhile.
func (m *historyModel) recover() {
	var all []*asked
	var requests []*recovering
	for range 1 + m.random.IntN(3) {
		s := m.ask()
		if slices.ContainsFunc(all, func(other *asked) bool { return other.channel() == s.channel() }) {
			continue
		}
		asked := newRecovering(s.req)
		if s.node.home.patterns {
			asked.searched = m.h.search(s.req, s.node.key())
			m.meanwhile(8)
		}
		all, requests = append(all, s), append(requests, asked)
	}
	var g laggards
	due := make(map[uint64][]*asked) // by number: who must get it, or be told
	for i, s := range all {
		s.recovery = m.h.recover(requests[i], s.node.key(), s.node.home.patterns)
		s.begin(&g, s.recovery)
		m.checkBeginning(s, due)
	}
	begun := len(m.all)
	got := m.feed(&g, all)
	for _, e := range m.all[begun:] {
		for _, s := range all {
			if matches(s.channel(), e.channel) {
				due[e.seq] = append(due[e.seq], s)
			}
		}
	}
	for seq, by := range due {
		if got[seq] {
			continue
		}
		for _, s := range by {
			if !s.told && (s.whole || !s.missed[seq]) {
				m.t.Fatalf("seed %d: %s: %d is missing, and nothing says so", m.seed, s, seq)
			}
		}
	}
	for _, s := range all {
		if s.told && !s.node.home.patterns && !m.tight && !slices.ContainsFunc(m.all, func(e modelEntry) bool { return s.wants(e) && !got[e.seq] }) {
			m.t.Fatalf("seed %d: %s: a gap is told, and nothing is missing", m.seed, s)
		}
	}
}

// meanwhile has a few messages be published and time pass.
func (m *historyModel) meanwhile(most int) {
	for range m.random.IntN(most) {
		if m.random.IntN(4) == 0 {
			time.Sleep(time.Duration(m.random.IntN(3000)) * time.Millisecond)
			synctest.Wait() // a sweep may have begun
		}
		m.publish()
	}
}

// checkBeginning compares what a subscription begins with with the list.
func (m *historyModel) checkBeginning(s *asked, due map[uint64][]*asked) {
	kept := m.kept()
	missing := false
	var want []modelEntry
	for _, e := range m.all {
		switch {
		case !s.wants(e):
		case kept[e.seq]:
			want = append(want, e)
		default:
			missing = true
		}
	}
	if s.req.last > 0 {
		want, missing = want[max(0, len(want)-s.req.last):], false
	}
	r, pattern := s.recovery, s.node.home.patterns
	switch last := uint64(len(m.all)); {
	case missing && r.whole && !pattern: // what a pattern lost during the search is told later
		m.t.Fatalf("seed %d: %s: messages are missing, and nothing says so", m.seed, s)
	case !m.tight && !pattern && !missing && !r.whole:
		m.t.Fatalf("seed %d: %s: nothing is missing, but %q", m.seed, s, r.why)
	case r.head != last, len(want) == 0 && !pattern && r.from != last, len(want) > 0 && r.from >= want[0].seq, len(want) > 0 && !pattern && r.from != want[0].seq-1:
		m.t.Fatalf("seed %d: %s: head %d, from %d, of %d; want %v", m.seed, s, r.head, r.from, last, want)
	}
	for _, e := range want {
		due[e.seq] = append(due[e.seq], s)
	}
	for _, e := range m.all {
		if missing && s.wants(e) && !kept[e.seq] { // it may still come, or is told later
			due[e.seq] = append(due[e.seq], s)
			s.missed[e.seq] = true
		}
	}
}

// feed has g catch up. It returns the numbers of the messages that came.
func (m *historyModel) feed(g *laggards, all []*asked) map[uint64]bool {
	t, got, highest := m.t, make(map[uint64]bool), uint64(0)
	slow := m.random.IntN(2) == 0
	for done := false; !done; {
		room, roomBytes := 1+m.random.IntN(6), 1+m.random.IntN(300)
		if !slow {
			room, roomBytes = noLimit, noLimit
		}
		var pieces []piece
		pieces, done = m.h.feed(nil, g, room, roomBytes)
		if len(pieces) > room+len(all) {
			t.Fatalf("seed %d: %d pieces, room for %d", m.seed, len(pieces), room)
		}
		for _, p := range pieces {
			if p.msg == nil {
				i := slices.IndexFunc(all, func(s *asked) bool { return s.subscription == p.missed.subscription })
				all[i].told = true
				if p.missed.why == "" || p.missed.position.Epoch != m.h.epoch {
					t.Fatalf("seed %d: a gap without a reason or position: %+v", m.seed, p.missed)
				}
				continue
			}
			e := m.all[p.msg.seq-1]
			if p.msg.seq <= highest || !slices.ContainsFunc(all, func(s *asked) bool { return s.wants(e) || m.seesAfter(s, e) }) {
				t.Fatalf("seed %d: %d came after %d", m.seed, p.msg.seq, highest)
			}
			highest = p.msg.seq
			got[highest] = true
			m.compare(p.msg, e)
		}
		if slow && !done && m.random.IntN(2) == 0 {
			m.meanwhile(4)
		}
	}
	for _, l := range g.subs {
		if l.fed != uint64(len(m.all)) {
			t.Fatalf("seed %d: %q has caught up to %d, of %d", m.seed, l.channel(), l.fed, len(m.all))
		}
	}
	return got
}

// seesAfter reports whether e was published after s began.
func (m *historyModel) seesAfter(s *asked, e modelEntry) bool {
	return e.seq > s.head && matches(s.channel(), e.channel)
}

// compare compares a message with what was published.
func (m *historyModel) compare(got *Message, e modelEntry) {
	wanted := fmt.Sprintf(`{"channel":%q,"uuid":"u%s","data":%s,"position":%q}`, e.channel, e.text, e.text, m.h.at(e.seq))
	if string(got.object) != wanted && !m.gone(got.seq) {
		m.t.Fatalf("seed %d: %s, want %s", m.seed, got.object, wanted)
	}
}

// gone reports whether the log no longer has a number: then its position has no check.
func (m *historyModel) gone(seq uint64) bool {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	return m.h.entryLocked(seq, len(m.h.log)) == nil
}

// count compares the history's counts with what there is, and looks at the order of things.
func (m *historyModel) count() {
	h := m.h
	h.mu.Lock()
	defer h.mu.Unlock()
	live, bytes, filled := 0, 0, 0
	for _, r := range h.rings {
		bytes += r.size()
		live += len(r.entries)
		for _, e := range r.entries {
			bytes += e.size()
		}
		if len(r.entries) == 0 {
			continue
		}
		filled++
		if r.rank == 0 || h.ages[r.rank-1] != r || r.due > r.expires() {
			m.t.Fatalf("seed %d: no sweep comes to %q in time", m.seed, r.key)
		}
	}
	if live != h.live || bytes != h.bytes {
		m.t.Fatalf("seed %d: %d entries with %d bytes are counted, there are %d with %d", m.seed, h.live, h.bytes, live, bytes)
	}
	if len(h.ages) < filled {
		m.t.Fatalf("seed %d: %d of %d rings are in the heap", m.seed, len(h.ages), filled)
	}
	if !slices.IsSortedFunc(h.log, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) }) {
		m.t.Fatalf("seed %d: the log is not in order", m.seed)
	}
}
