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
	"strings"
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

// recover makes a request, and has messages be published in the middle of it.
func (m *historyModel) recover() {
	t, random := m.t, m.random
	key, pattern := m.names[random.IntN(len(m.names))], false
	if random.IntN(2) == 0 {
		key, pattern = []string{"a/", "", "a/b/", "none/"}[random.IntN(4)], true
	}
	var req recoveryRequest
	after := uint64(0)
	switch random.IntN(4) {
	case 0:
		req.last = 1 + random.IntN(30)
	case 1:
		req.since = time.Now().Add(-time.Duration(random.IntN(60_000)) * time.Millisecond)
	default:
		after = uint64(random.IntN(len(m.all) + 1))
		req.position = m.h.at(after)
	}
	asked := newRecovering(req)
	if pattern {
		asked.searched = m.h.search(req, key)
		for range random.IntN(8) {
			if random.IntN(4) == 0 {
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			}
			m.publish()
		}
	}
	room := noLimit
	if random.IntN(4) == 0 {
		room = random.IntN(6)
	}
	skips := uint64(1 + random.IntN(5)) // another subscription has every so many
	skip := func(seq uint64, channel string) bool {
		if e := m.all[seq-1]; e.channel != channel {
			t.Errorf("seed %d: %d is asked about as of %q, and was on %q", m.seed, seq, channel, e.channel)
		}
		return skips > 1 && seq%skips == 0
	}
	got := m.h.recover(asked, key, pattern, skip, room, noLimit)
	what := fmt.Sprintf("seed %d: %+v of %q, after %d", m.seed, req, key, after)

	kept := m.kept()
	missing := false
	var want []modelEntry
	for _, e := range m.all {
		if e.seq <= after || pattern && !strings.HasPrefix(e.channel, key) || !pattern && e.channel != key || e.at.Before(req.since) {
			continue
		}
		if kept[e.seq] {
			want = append(want, e)
		} else {
			missing = true
		}
	}
	if req.last > 0 {
		want, missing = want[max(0, len(want)-req.last):], false
	}
	want = slices.DeleteFunc(want, func(e modelEntry) bool { return skips > 1 && e.seq%skips == 0 })
	full := len(want) > room
	want = want[max(0, len(want)-room):]
	m.compare(what, got, want)
	if (missing || full) && got.whole {
		t.Fatalf("%s: messages are missing, and nothing says so", what)
	}
	if !m.tight && !pattern && !missing && !full && !got.whole {
		t.Fatalf("%s: nothing is missing, but %q", what, got.why)
	}
	if got.head != uint64(len(m.all)) || len(got.messages) > 0 && got.from != got.messages[0].seq-1 || len(got.messages) == 0 && got.from != got.head {
		t.Fatalf("%s: head %d, from %d, of %d", what, got.head, got.from, len(m.all))
	}
}

// compare compares what was recovered with what the list has.
func (m *historyModel) compare(what string, got recovery, want []modelEntry) {
	text := func(seq uint64, channel, data string) string { return fmt.Sprintf("%d:%s:%s ", seq, channel, data) }
	var is, due strings.Builder
	for _, g := range got.messages {
		is.WriteString(text(g.seq, g.Channel, string(g.Data)))
		e := m.all[g.seq-1]
		if wanted := fmt.Sprintf(`{"channel":%q,"uuid":"u%s","data":%s,"position":%q}`, e.channel, e.text, e.text, m.h.at(e.seq)); string(g.object) != wanted && !m.gone(g.seq) {
			m.t.Fatalf("%s: %s, want %s", what, g.object, wanted)
		}
	}
	for _, e := range want {
		due.WriteString(text(e.seq, e.channel, e.text))
	}
	if is.String() == due.String() {
		return
	}
	m.t.Fatalf("%s: %s; want %s", what, is.String(), due.String())
}

// gone reports whether the log no longer has a number: then its position has no check.
func (m *historyModel) gone(seq uint64) bool { return m.h.entryLocked(seq, len(m.h.log)) == nil }

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
