// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A modelEntry is a message as a list would keep it.
type modelEntry struct {
	seq     uint64
	channel string
	at      time.Time
}

func textOfRecovery(r recovery) string {
	var b strings.Builder
	for _, m := range r.messages {
		fmt.Fprintf(&b, "%d:%s ", m.seq, m.Channel)
	}
	return b.String()
}

// keep adds a message as a memory Broker does.
func (h *history) keep(m *Message, rule HistoryRule) {
	h.add(h.newest()+1, time.Now(), m.Keep(rule))
}

// started returns a history whose log is empty.
func started() *history {
	h := newHistory()
	h.reset("e", 1, 0)
	h.replayed()
	return h
}

// at returns the text of a position.
func (h *history) at(seq uint64) string { return h.positionLocked(seq).String() }

func noneGot(*Message) bool { return false }

const noLimit = 1 << 30

// TestHistoryModel has random messages kept and recovered, and a list beside: what comes
// is what the list has, and nothing that is missing goes untold.
func TestHistoryModel(t *testing.T) {
	rules := map[string]HistoryRule{"a/1": {5, time.Minute}, "a/2": {20, 10 * time.Second}, "b": {3, time.Hour}, "c": {50, 30 * time.Second}}
	channels := []string{"a/1", "a/2", "b", "c"}
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			h := started()
			defer h.close()
			var all []modelEntry // everything that was ever published
			for range 150 {
				switch random.IntN(4) {
				case 0:
					time.Sleep(time.Duration(random.IntN(8000)) * time.Millisecond)
				case 1, 2:
					ch := channels[random.IntN(len(channels))]
					m := NewMessage(ch, "u", []byte("1"))
					h.keep(m, rules[ch])
					all = append(all, modelEntry{m.seq, ch, time.Now()})
				default:
					key, pattern := channels[random.IntN(len(channels))], false
					if random.IntN(3) == 0 {
						key, pattern = []string{"a/", ""}[random.IntN(2)], true
					}
					after := uint64(random.IntN(len(all) + 1))
					got := h.recover(recoveryRequest{position: h.at(after)}, key, pattern, noneGot, noLimit, noLimit)
					var want strings.Builder
					missing := false
					kept := make(map[uint64]bool)
					for ch, rule := range rules { // what each rule keeps
						n := 0
						for i := len(all) - 1; i >= 0 && n < rule.Count; i-- {
							if all[i].channel == ch {
								if n++; time.Since(all[i].at) < rule.TTL {
									kept[all[i].seq] = true
								}
							}
						}
					}
					for _, e := range all {
						if e.seq <= after || pattern && !strings.HasPrefix(e.channel, key) || !pattern && e.channel != key {
							continue
						}
						if kept[e.seq] {
							fmt.Fprintf(&want, "%d:%s ", e.seq, e.channel)
						} else {
							missing = true
						}
					}
					if textOfRecovery(got) != want.String() {
						t.Fatalf("seed %d: after %d of %q: %s; want %s", seed, after, key, textOfRecovery(got), want.String())
					}
					if missing && got.whole {
						t.Fatalf("seed %d: after %d of %q: messages are missing, and nothing says so", seed, after, key)
					}
					if !pattern && !missing && !got.whole && h.lost <= after {
						t.Fatalf("seed %d: after %d of %q: nothing is missing, but %q", seed, after, key, got.why)
					}
					if got.head != uint64(len(all)) || len(got.messages) > 0 && got.from != got.messages[0].seq-1 || len(got.messages) == 0 && got.from != got.head {
						t.Fatalf("seed %d: head %d, from %d, of %d", seed, got.head, got.from, len(all))
					}
				}
				live, bytes := 0, 0
				h.mu.Lock()
				for _, r := range h.rings {
					bytes += r.size()
					live += len(r.entries)
					for _, e := range r.entries {
						bytes += e.size()
					}
				}
				if live != h.live || bytes != h.bytes {
					t.Fatalf("seed %d: %d entries with %d bytes are counted, there are %d with %d", seed, h.live, h.bytes, live, bytes)
				}
				h.mu.Unlock()
			}
		})
	}
}

// Memory is given back: by bytes the channels go first that were published on least
// recently, and what is too old goes by itself.
func TestHistoryGivesMemoryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := started()
		defer h.close()
		rule := HistoryRule{Count: 10, TTL: time.Minute}
		keep := func(ch string, most int) {
			h.limit(most)
			h.keep(NewMessage(ch, "u", []byte(`"`+strings.Repeat("x", 800)+`"`)), rule)
		}
		for n := range 100 {
			keep(fmt.Sprint("quiet/", n), noLimit)
		}
		keep("busy", noLimit)
		const most = 20 << 10
		for range 50 {
			keep("busy", most)
		}
		if h.bytes > most || len(h.rings["busy"].entries) != 10 {
			t.Errorf("%d bytes are kept, %d of the busy channel; at most %d, and 10", h.bytes, len(h.rings["busy"].entries), most)
		}
		if h.rings["quiet/0"] != nil || h.rings["quiet/99"] == nil {
			t.Error("the channels that were published on least recently are not those that went")
		}
		r := h.recover(recoveryRequest{position: h.at(0)}, "quiet/0", false, noneGot, noLimit, noLimit)
		if r.whole || r.why != "bytes" {
			t.Errorf("a channel that was forgotten: %+v", r)
		}
		time.Sleep(time.Minute + sweepEvery)
		synctest.Wait()
		h.mu.Lock()
		if h.live != 0 || h.bytes > len(h.rings)*(sizeOfEntry+10) || len(h.log) != 0 || h.sweep != nil {
			t.Errorf("%d messages, %d bytes for %d channels, %d entries are left, sweeping %t", h.live, h.bytes, len(h.rings), len(h.log), h.sweep != nil)
		}
		h.mu.Unlock()
		// A channel that has none left still proves that nothing was missed.
		if r := h.recover(recoveryRequest{position: h.at(h.last)}, "busy", false, noneGot, noLimit, noLimit); !r.whole {
			t.Errorf("a channel without messages: %+v", r)
		}
		// A large message is kept even if it alone is over the limit.
		keep("large", 10)
		if r := h.recover(recoveryRequest{last: 5}, "large", false, noneGot, noLimit, noLimit); len(r.messages) != 1 {
			t.Errorf("%d messages", len(r.messages))
		}
	})
}

// A channel that keeps one message, published on again and again, does not make the log of
// all channels grow behind one old message of another.
func TestHistoryLogIsBounded(t *testing.T) {
	h := started()
	defer h.close()
	h.keep(NewMessage("old", "u", nil), HistoryRule{1, time.Hour})
	for range 50_000 {
		h.keep(NewMessage("new", "u", nil), HistoryRule{1, time.Hour})
	}
	if len(h.log) > 5_000 {
		t.Errorf("the log has %d entries, of which 2 are kept", len(h.log))
	}
	if r := h.recover(recoveryRequest{position: h.at(0)}, "old", false, noneGot, noLimit, noLimit); len(r.messages) != 1 || !r.whole {
		t.Errorf("the old one is lost: %+v", r)
	}
	if r := h.recover(recoveryRequest{position: h.at(0)}, "", true, noneGot, noLimit, noLimit); r.whole {
		t.Error("50,000 messages are missing, and nothing says so")
	}
}

func TestRecoveryRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := started()
		defer h.close()
		begin := time.Now()
		for n := range 10 {
			time.Sleep(time.Second)
			m := NewMessage("a", fmt.Sprint(n), nil)
			h.keep(m, HistoryRule{8, time.Hour})
		}
		tenant := NewMessage("a", "tenant", nil).in("acme")
		h.keep(tenant, HistoryRule{8, time.Hour})
		for name, c := range map[string]struct {
			req     recoveryRequest
			room    int
			n       int
			whole   bool
			why     string
			pattern bool
		}{
			"only a position":        {req: recoveryRequest{}, room: 100, whole: true},
			"the last 3":             {req: recoveryRequest{last: 3}, room: 100, n: 3, whole: true},
			"more than there are":    {req: recoveryRequest{last: 30}, room: 100, n: 8, whole: true},
			"since a time":           {req: recoveryRequest{since: begin.Add(8 * time.Second)}, room: 100, n: 3, whole: true},
			"since long":             {req: recoveryRequest{since: begin}, room: 100, n: 8, why: "count"},
			"position":               {req: recoveryRequest{position: h.at(7)}, room: 100, n: 3, whole: true},
			"too old":                {req: recoveryRequest{position: h.at(1)}, room: 100, n: 8, why: "count"},
			"the newest":             {req: recoveryRequest{position: h.at(10)}, room: 100, whole: true},
			"of the future":          {req: recoveryRequest{position: h.at(12)}, room: 100, why: "epoch"},
			"of another process":     {req: recoveryRequest{position: "abc.5"}, room: 100, why: "epoch"},
			"no position":            {req: recoveryRequest{position: "x"}, room: 100, why: "epoch"},
			"negative":               {req: recoveryRequest{position: string(h.epoch) + ".-1"}, room: 100, why: "epoch"},
			"no room":                {req: recoveryRequest{last: 8}, room: 2, n: 2, why: "limit"},
			"a pattern":              {req: recoveryRequest{position: h.at(7)}, room: 100, n: 3, whole: true, pattern: true},
			"a pattern, too old":     {req: recoveryRequest{position: h.at(1)}, room: 100, n: 8, why: "count", pattern: true},
			"a pattern since a time": {req: recoveryRequest{since: begin.Add(8 * time.Second)}, room: 100, n: 3, whole: true, pattern: true},
			"a pattern, the last 3":  {req: recoveryRequest{last: 3}, room: 100, n: 3, whole: true, pattern: true},
		} {
			key := "a"
			if c.pattern {
				key = "" // it must not reach into the namespace
			}
			r := h.recover(c.req, key, c.pattern, noneGot, c.room, noLimit)
			if len(r.messages) != c.n || r.whole != c.whole || r.why != c.why {
				t.Errorf("%s: %d messages, %t, %q; want %d, %t, %q", name, len(r.messages), r.whole, r.why, c.n, c.whole, c.why)
			}
		}
	})
}

// BenchmarkHistoryKeep keeps messages of a channel whose ring is full.
func BenchmarkHistoryKeep(b *testing.B) {
	for _, count := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("count=", count), func(b *testing.B) {
			h := started()
			defer h.close()
			keep := func() { h.keep(NewMessage("news", "u", []byte("1")), HistoryRule{count, time.Hour}) }
			for range 2 * count {
				keep()
			}
			b.ReportAllocs()
			for b.Loop() {
				keep()
			}
		})
	}
}
