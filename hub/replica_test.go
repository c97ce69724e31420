// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A keptLog is a Keeper as a list. It is given to histories, not to hubs.
type keptLog struct {
	Broker
	entries map[uint64]*Message
	times   map[uint64]time.Time
	floors  map[string]uint64
	whys    map[string]string
	last    uint64
}

func newKeptLog() *keptLog {
	return &keptLog{entries: make(map[uint64]*Message), times: make(map[uint64]time.Time), floors: make(map[string]uint64), whys: make(map[string]string)}
}

func (l *keptLog) Dropped(key string, seq uint64, why string) {
	delete(l.entries, seq)
	l.floors[key], l.whys[key] = seq, why
}

func (l *keptLog) Forgotten(key string, seq uint64, why string) {
	delete(l.floors, key)
	if seq > l.floors[""] {
		l.floors[""], l.whys[""] = seq, why
	}
}

// replayTo has h read the log as a process that starts does.
func (l *keptLog) replayTo(h *history) {
	h.reset("e", 1, l.last)
	for _, key := range slices.Sorted(maps.Keys(l.floors)) {
		h.setFloor(key, l.floors[key], l.whys[key])
	}
	for _, seq := range slices.Sorted(maps.Keys(l.entries)) {
		m, err := ParseRecord(l.entries[seq].AppendRecord(nil))
		if err != nil {
			panic(err)
		}
		if h.add(seq, l.times[seq], m) {
			panic("an entry of the past is new")
		}
	}
	h.replayed()
}

// TestReplay has a history read what another one has kept: after that both answer all
// requests alike, whether channels or patterns, and whatever was dropped. Only where it
// cannot know, the other one says that messages may be missing.
func TestReplay(t *testing.T) {
	rules := map[string]HistoryRule{"a/1": {5, time.Minute}, "a/2": {20, 10 * time.Second}, "b": {3, time.Hour}, "c": {50, 30 * time.Second}, "d/quiet": {4, 5 * time.Second}}
	channels := slices.Sorted(maps.Keys(rules))
	for seed := range modelSeeds(t, 60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 11))
			log := newKeptLog()
			h := newHistory()
			h.keeper = log
			log.replayTo(h)
			defer func() { h.close() }()
			if random.IntN(3) == 0 {
				h.limit(4000)
			}
			for range 100 {
				if random.IntN(3) == 0 {
					time.Sleep(time.Duration(random.IntN(6000)) * time.Millisecond)
					synctest.Wait() // it may sweep
				}
				ch := channels[random.IntN(len(channels))]
				m := NewMessage(ch, fmt.Sprint(log.last), []byte("1")).Keep(rules[ch])
				log.last++
				log.entries[log.last], log.times[log.last] = m, time.Now()
				if !h.add(log.last, time.Now(), m) {
					t.Fatal("a new entry is of the past")
				}
				if random.IntN(40) > 0 {
					continue
				}
				again := newHistory()
				again.keeper = log
				h.mu.Lock()
				for _, r := range h.rings {
					h.trimLocked(r, time.Now())
				}
				h.mu.Unlock()
				log.replayTo(again)
				for _, key := range append([]string{"none", "", "a/", "d/"}, channels...) {
					pattern := key == "" || key[len(key)-1] == '/'
					for after := range log.last + 1 {
						req := recoveryRequest{position: h.at(after)}
						was, is := h.ask(req, key, pattern), again.ask(req, key, pattern)
						// What was forgotten may have been of this channel, and what was before the
						// log may have been of the pattern.
						cautious := was.whole && !is.whole && (again.lost > after || pattern && len(again.log) > 0 && again.log[0].seq > after+1)
						if textOfRecovery(was) != textOfRecovery(is) || was.whole != is.whole && !cautious || was.from != is.from || was.head != is.head {
							t.Fatalf("seed %d: %q after %d of %d was %s %t %s from %d to %d, after the replay it is %s %t %s from %d to %d", seed, key, after, log.last,
								textOfRecovery(was), was.whole, was.why, was.from, was.head, textOfRecovery(is), is.whole, is.why, is.from, is.head)
						}
					}
				}
				h.close()
				h = again
				h.limit(4000)
			}
		})
	}
}

// A log that drops by itself, and does not say what, is never taken for complete where it
// may not be.
func TestReplayOfAStream(t *testing.T) {
	h := newHistory()
	defer h.close()
	rule := HistoryRule{2, time.Hour}
	h.reset("e", 3, 9)
	for _, e := range []struct {
		seq uint64
		ch  string
	}{{3, "a/few"}, {6, "a/full"}, {8, "a/full"}} {
		if h.add(e.seq, time.Now(), NewMessage(e.ch, "u", nil).Keep(rule)) {
			t.Error("an entry of the past is new")
		}
	}
	h.replayed()
	for _, c := range []struct {
		key   string
		after uint64
		n     int
		whole bool
	}{
		{"a/few", 2, 1, true},
		{"a/few", 1, 1, false},
		{"a/full", 5, 2, true},
		{"a/full", 4, 2, false}, // 5 may have been dropped
		{"none", 2, 0, true},
		{"none", 1, 0, false},
		{"a/", 5, 2, true},
		{"a/", 4, 2, false},
		{"a/full", 9, 0, true},
		{"a/full", 10, 0, false},
	} {
		r := h.ask(recoveryRequest{position: h.at(c.after)}, c.key, c.key == "a/")
		if r.whole != c.whole || len(r.messages) != c.n {
			t.Errorf("%s after %d: %d messages, %t; want %d, %t", c.key, c.after, len(r.messages), r.whole, c.n, c.whole)
		}
	}
	if !h.add(10, time.Now(), NewMessage("a/few", "u", nil).Keep(rule)) {
		t.Error("a new entry is of the past")
	}
}

// After another log has come, positions of the old one are void, and numbers that were used
// before are new again.
func TestAnotherLog(t *testing.T) {
	h := started()
	defer h.close()
	rule := HistoryRule{10, time.Hour}
	for n := range 5 {
		h.keep(NewMessage("a", fmt.Sprint(n), nil), rule)
	}
	old, newest := h.at(5), h.newest()
	h.reset("f", 1, 2)
	for seq := range uint64(4) {
		m := NewMessage("a", fmt.Sprint("new", seq), nil).Keep(rule)
		if fresh := h.add(seq+1, time.Now(), m); fresh != (seq >= 2) || m.seq <= newest {
			t.Errorf("entry %d of the new log: new %t, number %d after %d", seq+1, fresh, m.seq, newest)
		}
	}
	if r := h.ask(recoveryRequest{position: old}, "a", false); r.whole || r.why != "epoch" || len(r.messages) != 0 {
		t.Errorf("a position of the old log: %+v", r)
	}
	r := h.ask(recoveryRequest{position: "f.2"}, "a", false)
	if !r.whole || len(r.messages) != 2 || r.position.Epoch != "f" || r.position.Seq != 2 {
		t.Errorf("a position of the new log: %+v", r)
	}
	if r := h.ask(recoveryRequest{since: time.Now().Add(-time.Minute)}, "a", false); r.whole {
		t.Error("what the old log had is missing, and nothing says so")
	}
}

// A number that was used twice is told by the time of its entry.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := started()
		defer h.close()
		h.keep(NewMessage("a", "u", nil), HistoryRule{10, time.Hour})
		before := h.at(1)
		if r := h.ask(recoveryRequest{position: before}, "a", false); !r.whole {
			t.Errorf("its own position: %+v", r)
		}
		time.Sleep(time.Millisecond)
		again := started() // a copy of the log from before entry 1
		defer again.close()
		again.keep(NewMessage("a", "v", nil), HistoryRule{10, time.Hour})
		if r := again.ask(recoveryRequest{position: before}, "a", false); r.whole || r.why != "epoch" {
			t.Errorf("a position of another entry 1: %+v", r)
		}
	})
}

// While this machine is behind, an agent that comes from another one may be ahead. It gets
// nothing that it has.
func TestAheadOfAMachineThatIsBehind(t *testing.T) {
	h := started()
	defer h.close()
	rule := HistoryRule{10, time.Hour}
	h.keep(NewMessage("a", "1", nil), rule)
	ahead := recoveryRequest{position: "e.3.7"}
	if r := h.ask(ahead, "a", false); r.whole || r.why != "epoch" {
		t.Errorf("a position that is not in the log: %+v", r)
	}
	h.behind = true
	if r := h.ask(ahead, "a", false); !r.whole || r.head != 3 || r.from != 3 || len(r.messages) != 0 {
		t.Errorf("while it is behind: %+v", r)
	}
	h.behind = false
	if r := h.ask(ahead, "a", false); r.whole {
		t.Errorf("when it no longer is: %+v", r)
	}
}

// What was lost on the way is missing on all channels.
func TestLost(t *testing.T) {
	h := started()
	defer h.close()
	rule := HistoryRule{10, time.Hour}
	h.keep(NewMessage("a", "1", nil), rule)
	h.loseUpTo(4)
	h.add(5, time.Now(), NewMessage("b", "5", nil).Keep(rule))
	for _, key := range []string{"a", "b", "none", ""} {
		for after := range uint64(6) {
			r := h.ask(recoveryRequest{position: h.at(after)}, key, key == "")
			if r.whole != (after >= 4) {
				t.Errorf("%q after %d: %+v", key, after, r)
			}
		}
	}
}

// A server may be started while its log cannot be reached. Nobody is told then that messages
// are missing, and the log that comes is complete before it is told that it is.
func TestLogThatComesLater(t *testing.T) {
	hub, err := New("late", &lateBroker{})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	h, late := hub.history, (*hub.log.broker.Load()).(*lateBroker)
	if r := h.ask(recoveryRequest{position: "e.3.7"}, "a", false); !r.whole || len(r.messages) > 0 || r.position.String() != "e.3.7" {
		t.Errorf("without a log: %+v", r)
	}
	rule := HistoryRule{2, time.Hour}
	late.sink.Reset("e", 1, 6)
	for _, seq := range []uint64{4, 6} {
		late.sink.Entry(seq, time.Now(), NewMessage("a", fmt.Sprint(seq), nil).Keep(rule))
	}
	late.sink.Behind(false)
	for after, whole := range map[uint64]bool{2: false, 3: true, 5: true, 6: true} { // 3 may have been dropped
		if r := h.ask(recoveryRequest{position: h.at(after)}, "a", false); r.whole != whole {
			t.Errorf("after %d: %+v", after, r)
		}
	}
}

// A lateBroker has a log only when the test says so.
type lateBroker struct {
	Broker
	sink Sink
}

func (b *lateBroker) Start(_ context.Context, s Sink) error {
	b.sink = s
	s.Behind(true)
	return nil
}

func (*lateBroker) Bus() Bus     { return nil }
func (*lateBroker) Close() error { return nil }
