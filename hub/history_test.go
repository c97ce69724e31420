// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A recovered is a recovery, and what came of it.
type recovered struct {
	recovery
	messages []*Message
}

func textOfRecovery(r recovered) string {
	var b strings.Builder
	for _, m := range r.messages {
		fmt.Fprintf(&b, "%d:%s ", m.seq, m.Channel)
	}
	return b.String()
}

// keep adds a message like a memory Broker.
func (h *history) keep(m *Message, rule HistoryRule) {
	h.add(h.newest()+1, time.Now(), m.Keep(rule))
}

// started returns a history with an empty log.
func started() *history {
	h := newHistory()
	h.reset("e", 1, 0)
	h.replayed()
	return h
}

// at returns the text of a position.
func (h *history) at(seq uint64) string { return h.positionOf(seq).String() }

// subscriptionTo returns a subscription to a channel, or to the channels below a prefix.
func subscriptionTo(key string, pattern bool) *subscription {
	n := &node{name: key, home: &directory{patterns: pattern}}
	if pattern {
		n.name += "*"
	}
	return &subscription{node: n}
}

// begin has s begin with r, as one of g.
func (s *subscription) begin(g *laggards, r recovery) {
	s.from, s.fed = r.from, r.from
	g.add(laggard{subscription: s, drops: r.drops, begun: r.begun, floor: r.floor, asked: true})
}

// ask recovers like a subscribe.
func (h *history) ask(req recoveryRequest, key string, pattern bool) (out recovered) {
	r := newRecovering(req)
	if pattern && r != nil {
		r.searched = h.search(req, key)
	}
	out.recovery = h.recover(r, key, pattern)
	var g laggards
	subscriptionTo(key, pattern).begin(&g, out.recovery)
	for done := false; !done; {
		var pieces []piece
		pieces, done = h.feed(nil, &g, noLimit, noLimit)
		for _, p := range pieces {
			if p.msg != nil {
				out.messages = append(out.messages, p.msg)
			} else if out.whole {
				out.whole, out.why = false, p.missed.why
			}
		}
	}
	return out
}

const noLimit = 1 << 30

// Memory is given back. If there are too many bytes, the channels with the oldest
// publishes lose their messages first. Messages that are too old are dropped in time.
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
		r := h.ask(recoveryRequest{position: h.at(0)}, "quiet/0", false)
		if r.whole || r.why != "bytes" {
			t.Errorf("a channel that was forgotten: %+v", r)
		}
		time.Sleep(time.Minute + sweepEvery)
		synctest.Wait()
		h.mu.Lock()
		if h.live != 0 || h.bytes > len(h.rings)*(sizeOfRing+10) || len(h.log) != 0 || h.sweep != nil {
			t.Errorf("%d messages, %d bytes for %d channels, %d entries are left, sweeping %t", h.live, h.bytes, len(h.rings), len(h.log), h.sweep != nil)
		}
		h.mu.Unlock()
		// A channel without messages still proves that no message was missed.
		if r := h.ask(recoveryRequest{position: h.at(h.last)}, "busy", false); !r.whole {
			t.Errorf("a channel without messages: %+v", r)
		}
		// A large message is kept even if it alone exceeds the limit.
		keep("large", 10)
		if r := h.ask(recoveryRequest{last: 5}, "large", false); len(r.messages) != 1 {
			t.Errorf("%d messages", len(r.messages))
		}
	})
}

// One channel keeps one message and gets many. It does not make the log grow behind an
// old message of another channel.
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
	if r := h.ask(recoveryRequest{position: h.at(0)}, "old", false); len(r.messages) != 1 || !r.whole {
		t.Errorf("the old one is lost: %+v", r)
	}
	if r := h.ask(recoveryRequest{position: h.at(0)}, "", true); r.whole {
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
			n       int
			whole   bool
			why     string
			pattern bool
		}{
			"only a position":        {req: recoveryRequest{}, whole: true},
			"the last 3":             {req: recoveryRequest{last: 3}, n: 3, whole: true},
			"more than there are":    {req: recoveryRequest{last: 30}, n: 8, whole: true},
			"since a time":           {req: recoveryRequest{since: begin.Add(8 * time.Second)}, n: 3, whole: true},
			"since long":             {req: recoveryRequest{since: begin}, n: 8, why: "count"},
			"position":               {req: recoveryRequest{position: h.at(7)}, n: 3, whole: true},
			"too old":                {req: recoveryRequest{position: h.at(1)}, n: 8, why: "count"},
			"the newest":             {req: recoveryRequest{position: h.at(10)}, whole: true},
			"of the future":          {req: recoveryRequest{position: h.at(12)}, why: "epoch"},
			"of another process":     {req: recoveryRequest{position: "abc.5"}, why: "epoch"},
			"no position":            {req: recoveryRequest{position: "x"}, why: "epoch"},
			"negative":               {req: recoveryRequest{position: string(h.epoch) + ".-1"}, why: "epoch"},
			"a pattern":              {req: recoveryRequest{position: h.at(7)}, n: 3, whole: true, pattern: true},
			"a pattern, too old":     {req: recoveryRequest{position: h.at(1)}, n: 8, why: "count", pattern: true},
			"a pattern since a time": {req: recoveryRequest{since: begin.Add(8 * time.Second)}, n: 3, whole: true, pattern: true},
			"a pattern, the last 3":  {req: recoveryRequest{last: 3}, n: 3, whole: true, pattern: true},
		} {
			key := "a"
			if c.pattern {
				key = "" // the namespace must not be reachable
			}
			r := h.ask(c.req, key, c.pattern)
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

// TestHistoryAllocSizes measures a history: a stored message of 200 bytes takes at most
// 400, and the history takes about as much as history_bytes allows.
func TestHistoryAllocSizes(t *testing.T) {
	data := []byte(`"` + strings.Repeat("x", 198) + `"`)
	for _, c := range []struct {
		name            string
		channels, each  int
		message, others int // maximum bytes of a message, and of the rest of a channel
	}{
		{"many channels", 300, 100, 400, 0},
		{"one channel", 1, 30_000, 400, 0},
		{"a message in each channel", 30_000, 1, 400, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := started()
			defer h.close()
			from := &Sender{User: "program"}
			before := liveHeapBytes()
			for n := range c.each {
				for ch := range c.channels {
					m := NewMessage(fmt.Sprintf("news/%06d", ch), fmt.Sprintf("%036d", n), data)
					m.From = from
					h.keep(m, HistoryRule{c.each, time.Hour})
				}
			}
			took := int(liveHeapBytes() - before)
			runtime.KeepAlive(h)
			n := c.channels * c.each
			limit := n*c.message + c.channels*c.others
			t.Logf("%d messages of 200 bytes in %d channels: %d bytes each, counted as %d", n, c.channels, took/n, h.bytes/n)
			if took > limit {
				t.Errorf("%d bytes, want at most %d", took, limit)
			}
			if off := float64(h.bytes) / float64(took); off < 0.85 || off > 1.25 {
				t.Errorf("%d bytes are counted as %d", took, h.bytes)
			}
		})
	}
}

func liveHeapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// sweepAgain sweeps before it is time.
func (h *history) sweepAgain() {
	h.mu.Lock()
	h.sweep.Stop()
	h.mu.Unlock()
	h.sweepNow()
}

// BenchmarkPublishBeside keeps messages in a history of 64 MiB during sweeps or
// recoveries of a pattern. p99 is how long a publish waits for them.
func BenchmarkPublishBeside(b *testing.B) {
	data := []byte(`"` + strings.Repeat("x", 198) + `"`)
	for name, other := range map[string]func(h *history){
		"nothing":  nil,
		"sweeps":   (*history).sweepAgain,
		"patterns": func(h *history) { h.ask(recoveryRequest{position: "e.1"}, "none/", true) },
	} {
		b.Run(name, func(b *testing.B) {
			h := started()
			defer h.close()
			h.limit(64 << 20)
			var stop atomic.Bool
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop.Store(true)
			keep := func(n int) {
				h.keep(NewMessage(fmt.Sprintf("news/%05d", n%20_000), "u", data), HistoryRule{100, time.Hour})
			}
			for n := range 300_000 {
				keep(n)
			}
			if other != nil {
				wg.Go(func() {
					for !stop.Load() {
						other(h)
						time.Sleep(2 * time.Millisecond)
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				keep(len(took))
				took = append(took, time.Since(begin))
				if other != nil {
					time.Sleep(20 * time.Microsecond)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(took[len(took)*999/1000].Microseconds()), "p999-us")
		})
	}
}

// BenchmarkRecover has a subscription begin with 100 messages.
func BenchmarkRecover(b *testing.B) {
	h := newHistory()
	defer h.close()
	h.reset("epoch", 1, 0)
	h.replayed()
	for n := range 100 {
		h.add(uint64(n+1), time.Now(), NewMessage("a", fmt.Sprint(n), fmt.Appendf(nil, "%0200d", 0)).Keep(HistoryRule{1000, time.Hour}))
	}
	b.ReportAllocs()
	for b.Loop() {
		var g laggards
		subscriptionTo("a", false).begin(&g, h.recover(newRecovering(recoveryRequest{last: 100}), "a", false))
		list := piecesPool.Get().(*[]piece)
		pieces, done := h.feed(*list, &g, pieceMessages, pieceBytes)
		if len(pieces) != 100 {
			b.Fatalf("%d messages, %t", len(pieces), done)
		}
		clear(pieces)
		piecesPool.Put(list)
	}
}
