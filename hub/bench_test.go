// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A sink is a Conn that counts bytes.
type sink struct{ bytes atomic.Int64 }

func (s *sink) Form() *hub.Form                  { return hubtest.Form }
func (s *sink) TryWrite(p []byte) (int, error)   { s.bytes.Add(int64(len(p))); return len(p), nil }
func (s *sink) Write(p []byte) (int, error)      { return s.TryWrite(p) }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) Close(hub.CloseCode, string)      {}

// await spins until the sink has n bytes. A signal would cost time that a real Conn does
// not.
func (s *sink) await(n int64) {
	for s.bytes.Load() < n {
		runtime.Gosched()
	}
}

// newFanout returns a hub with n subscribers of "news", which all write to one sink.
func newFanout(tb testing.TB, n int, gates hub.Gates) (*hub.Hub, *sink) {
	tb.Helper()
	h, err := hub.New("bench", nil)
	if err != nil {
		tb.Fatal(err)
	}
	p := h.Use(&hub.Policy{Mount: "bench", Heartbeat: time.Hour, Gates: gates})
	s := new(sink)
	for i := range n {
		a, err := h.Open(p, hub.Opening{})
		if err != nil {
			tb.Fatal(err)
		}
		a.Start(s)
		a.Receive([]byte(connect(fmt.Sprint("a", i))))
		a.Receive([]byte(subscribe("news")))
		tb.Cleanup(func() { a.Left("the end") })
	}
	want := int64(0)
	for i := range n {
		want += int64(len("o\n") + len(connected(fmt.Sprint("a", i))) + len(subscribed("news")) + 2)
	}
	s.await(want)
	s.bytes.Store(0)
	return h, s
}

// A channel without a deliver gate costs the same if other channels have one: compare
// deliver=elsewhere with deliver=none.
func BenchmarkFanout(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("deliver=none/subscribers=%d", n), func(b *testing.B) { benchmarkFanout(b, n, nil) })
		b.Run(fmt.Sprintf("deliver=elsewhere/subscribers=%d", n), func(b *testing.B) {
			benchmarkFanout(b, n, &gates{only: "guarded", deliver: func(*hub.Agent, *hub.Message) *hub.Message { return nil }})
		})
	}
}

func benchmarkFanout(b *testing.B, n int, g hub.Gates) {
	h, s := newFanout(b, n, g)
	defer h.Close()
	data := []byte(`"` + strings.Repeat("x", 128) + `"`)
	size := int64(len(message("news", "u", string(data))) + 1)
	b.ReportAllocs()
	var done int64
	for b.Loop() {
		if _, err := h.Publish(b.Context(), hub.NewMessage("news", "u", data)); err != nil {
			b.Fatal(err)
		}
		done += int64(n) * size
		s.await(done)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/delivery")
}

// A delivery allocates only the message and the work of a flusher.
func TestDeliveryAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	const subscribers = 1000
	h, s := newFanout(t, subscribers, nil)
	defer h.Close()
	data := []byte(`"` + strings.Repeat("x", 128) + `"`)
	size := int64(len(message("news", "u", string(data))) + 1)
	var done int64
	allocs := testing.AllocsPerRun(50, func() {
		if _, err := h.Publish(t.Context(), hub.NewMessage("news", "u", data)); err != nil {
			t.Fatal(err)
		}
		done += subscribers * size
		s.await(done)
	})
	if per := allocs / subscribers; per > 0.04 {
		t.Errorf("%.3f allocations a delivery (%v a message), want at most 0.04", per, allocs)
	} else {
		t.Logf("%.4f allocations a delivery", per)
	}
}

// BenchmarkDrop reloads with 50,000 agents on a channel each. The gates are the same, or
// one local gate has changed.
func BenchmarkDrop(b *testing.B) {
	const agents = 50_000
	for _, changed := range []bool{false, true} {
		b.Run(fmt.Sprintf("changed=%v", changed), func(b *testing.B) {
			h, err := hub.New("bench", nil)
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			generation := 0
			use := func() *hub.Policy {
				if changed {
					generation++
				}
				return h.Use(&hub.Policy{Mount: "bench", Heartbeat: time.Hour, Gates: gatesOf(byName{
					hub.GateSubscribe: local(fmt.Sprint("rule ", generation), hub.Allow),
				})})
			}
			p := use()
			for i := range agents {
				a, err := h.Open(p, hub.Opening{})
				if err != nil {
					b.Fatal(err)
				}
				a.Start(hubtest.NewConn())
				a.Receive([]byte(connect(fmt.Sprint("a", i))))
				a.Receive([]byte(subscribe(fmt.Sprint("c", i%100))))
			}
			var dropping time.Duration
			for b.Loop() {
				next := use()
				began := time.Now()
				r := h.Drop(p)
				dropping += time.Since(began)
				<-r.Done()
				p = next
			}
			b.ReportMetric(float64(dropping.Milliseconds())/float64(b.N), "ms-in-Drop/op")
		})
	}
}

// TestBlockedWritersAllocLittle: many writers wait for their Conns with a short message
// each. A buffer is as large as the message that waits.
func TestBlockedWritersAllocLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	const agents = 500
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := h.Use(&hub.Policy{Mount: "test", Limits: hub.Limits{AgentsPerIP: hub.Unlimited, UnconnectedPerIP: hub.Unlimited}})
	var conns []*hubtest.Conn
	for n := range agents {
		c := hubtest.NewConn()
		c.Blocks = true
		peer := hubtest.Open(t, h, p, hub.Opening{Transport: "test"}, c)
		peer.Send(connect("agent"+strconv.Itoa(n)), subscribe("news"))
		for lines := 0; lines < 3; lines += len(c.Lines()) {
			c.AwaitWrite(time.Minute)
		}
		conns = append(conns, c)
	}
	before := liveHeap()
	for _, c := range conns {
		c.Stall(true)
	}
	if _, err := h.Publish(t.Context(), hub.NewMessage("news", "1", []byte(`"`+strings.Repeat("x", 200)+`"`))); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		c.AwaitBlocked(time.Minute)
	}
	each := (int64(liveHeap()) - int64(before)) / agents
	t.Logf("%d bytes each", each)
	if limit := int64(4 << 10); each > limit {
		t.Errorf("a blocked writer of a short message holds %d bytes, more than %d", each, limit)
	}
}

// liveHeap returns the bytes of the heap in use.
func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Operators that poll all the time do not delay messages: compare pollers=10 with pollers=0.
// p99-ms is that of the time from a publish until the last of 100 subscribers has the message.
func BenchmarkPublishBesideOperators(b *testing.B) {
	for _, pollers := range []int{0, 10} {
		b.Run(fmt.Sprintf("pollers=%d", pollers), func(b *testing.B) { benchmarkOperators(b, pollers) })
	}
}

func benchmarkOperators(b *testing.B, pollers int) {
	h, s := newFanout(b, 100, nil)
	defer h.Close()
	p := h.Use(&hub.Policy{Mount: "others", Heartbeat: time.Hour})
	other := new(sink)
	for i := range 10_000 {
		a, err := h.Open(p, hub.Opening{})
		if err != nil {
			b.Fatal(err)
		}
		a.Start(other)
		a.Receive([]byte(connect(fmt.Sprint("o", i))))
		a.Receive([]byte(subscribe(fmt.Sprint("rooms/", i))))
		b.Cleanup(func() { a.Left("the end") })
	}
	stop := make(chan struct{})
	var polling sync.WaitGroup
	for range pollers {
		polling.Go(func() {
			for o := h.Operator(); ; {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
				_, err1 := o.Agents(b.Context(), hub.AgentQuery{Limit: 1000})
				_, err2 := o.Channels(b.Context(), hub.ChannelQuery{Limit: 1000})
				if err := errors.Join(err1, err2); err != nil {
					b.Error(err)
				}
			}
		})
	}
	size := int64(100 * (len(message("news", "u", "1")) + 1))
	var took []time.Duration
	for n := int64(1); b.Loop(); n++ {
		begun := time.Now()
		if _, err := h.Publish(b.Context(), hub.NewMessage("news", "u", []byte("1"))); err != nil {
			b.Fatal(err)
		}
		s.await(n * size)
		took = append(took, time.Since(begun))
		time.Sleep(time.Millisecond)
	}
	close(stop)
	polling.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}

// BenchmarkPublishFrame takes frames that publish, on a channel without subscribers, and
// acknowledges them. Run it with -cpu 1, so that the time includes the flusher's.
func BenchmarkPublishFrame(b *testing.B) {
	h, err := hub.New("bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	p := h.Use(&hub.Policy{Mount: "bench", Heartbeat: time.Hour, Limits: hub.Limits{
		FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited,
	}})
	a, err := h.Open(p, hub.Opening{})
	if err != nil {
		b.Fatal(err)
	}
	s := new(sink)
	a.Start(s)
	defer a.Left("the end")
	a.Receive([]byte(connect("a")))
	s.await(int64(len("o\n") + len(connected("a")) + 1))
	s.bytes.Store(0)
	const first = 1_000_000_000
	answer := int64(len(published(strconv.Itoa(first))) + 1)
	data := `"` + strings.Repeat("x", 128) + `"`
	frame := []byte(publish("news", strconv.Itoa(first), data))
	at := strings.Index(string(frame), strconv.Itoa(first))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		strconv.AppendInt(frame[:at], int64(first+n), 10)
		a.Receive(frame)
		if n++; n%32 == 0 {
			s.await(int64(n) * answer)
		}
	}
}
