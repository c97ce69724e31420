// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// busTests are the tests of a Broker with a Bus.
var busTests = map[string]func(*testing.T, Log){
	"Self":             testSelf,
	"Watch":            testWatch,
	"Kill":             testKill,
	"Broadcast":        testBroadcast,
	"Request":          testRequest,
	"RequestErrors":    testRequestErrors,
	"RequestsAtOnce":   testRequestsAtOnce,
	"Payloads":         testPayloads,
	"Ask":              testAsk,
	"AskEnds":          testAskEnds,
	"HandleAgain":      testHandleAgain,
	"OneOrder":         testOneOrder,
	"RepeatsElsewhere": testRepeatsElsewhere,
}

// runBus tests the Bus, and the log with several nodes.
func runBus(t *testing.T, newLog func(t *testing.T) Log) {
	for name, test := range busTests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			if l.Node == nil {
				t.Skip("there is only one machine")
			}
			test(t, l)
		})
	}
}

// node opens another node of a log.
func node(tb testing.TB, l Log, name string) *Replica {
	tb.Helper()
	r := open(tb, Log{Open: func(tb testing.TB) hub.Broker { return l.Node(tb, name) }})
	if r.Bus() == nil {
		tb.Fatal("a node has no Bus")
	}
	return r
}

// nodes opens nodes that see each other.
func nodes(tb testing.TB, l Log, names ...string) []*Replica {
	tb.Helper()
	all := make([]*Replica, len(names))
	watching := make([]*watcher, len(names))
	for i, name := range names {
		all[i] = node(tb, l, name)
		watching[i] = watch(tb, all[i].Bus())
	}
	for i, w := range watching {
		for j, r := range all {
			if i != j {
				w.await(r.Bus().Self(), true)
			}
		}
	}
	return all
}

// A watcher records what a Bus says about other nodes.
type watcher struct {
	changing
	calls atomic.Int32

	events []busEvent
	up     map[hub.NodeID]bool
}

type busEvent struct {
	node hub.NodeID
	up   bool
}

func watch(tb testing.TB, b hub.Bus) *watcher {
	w := &watcher{changing: newChanging(tb), up: make(map[hub.NodeID]bool)}
	b.Watch(func(node hub.NodeID, up bool) {
		if w.calls.Add(1) != 1 {
			tb.Error("a watcher is called twice at once")
		}
		defer w.calls.Add(-1)
		w.mu.Lock()
		defer w.mu.Unlock()
		if node == b.Self() {
			tb.Error("a node watches itself")
		}
		if was := w.up[node]; was == up {
			tb.Errorf("%v is up: %t, and was it before", node, up)
		}
		w.up[node] = up
		w.events = append(w.events, busEvent{node, up})
		w.tellLocked()
	})
	return w
}

// await waits until a node is up, or down.
func (w *watcher) await(node hub.NodeID, up bool) {
	w.tb.Helper()
	w.changing.await(fmt.Sprintf("%v is up: %t", node, up), func() bool { return w.up[node] == up })
}

// soon returns a context for what should take no time.
func soon(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// Each start of a node is another incarnation.
func testSelf(t *testing.T, l Log) {
	r := node(t, l, "a")
	first := r.Bus().Self()
	if first.Name == "" || first.Incarnation == "" || r.Bus().Self() != first {
		t.Errorf("a node is %v, then %v", first, r.Bus().Self())
	}
	other := node(t, l, "b").Bus().Self()
	if other.Name == first.Name || other.Incarnation == first.Incarnation {
		t.Errorf("two nodes are %v and %v", first, other)
	}
	r.close()
	if again := node(t, l, "a").Bus().Self(); again.Name != first.Name || again.Incarnation == first.Incarnation {
		t.Errorf("%v started again as %v", first, again)
	}
}

// Nodes see each other come and go.
func testWatch(t *testing.T, l Log) {
	a := node(t, l, "a")
	begun := time.Now()
	early := watch(t, a.Bus())
	b := node(t, l, "b")
	early.await(b.Bus().Self(), true)
	watch(t, b.Bus()).await(a.Bus().Self(), true)
	watch(t, a.Bus()).await(b.Bus().Self(), true) // about what was before
	b.close()
	early.await(b.Bus().Self(), false)
	again := node(t, l, "b")
	early.await(again.Bus().Self(), true)
	early.mu.Lock()
	defer early.mu.Unlock()
	want := []busEvent{{b.Bus().Self(), true}, {b.Bus().Self(), false}, {again.Bus().Self(), true}}
	// On a busy machine, nodes may hear nothing of each other for so long that they seem down.
	quick := time.Since(begun) < hub.BusTimeout
	if n := len(early.events); quick && !slices.Equal(early.events, want) || early.events[0] != want[0] || early.events[n-1] != want[2] {
		t.Errorf("it said %v, want %v", early.events, want)
	}
}

// A node that ends without a word is down after BusTimeout, or when it starts again.
func testKill(t *testing.T, l Log) {
	if l.Kill == nil {
		t.Skip("nothing can kill a node")
	}
	all := nodes(t, l, "a", "b", "c")
	a, b, c := all[0], all[1], all[2]
	w := watch(t, a.Bus())
	w.await(b.Bus().Self(), true)
	w.await(c.Bus().Self(), true)
	l.Kill(b.Broker)
	if _, err := a.Bus().Request(soon(t), b.Bus().Self(), "t", nil); !errors.Is(err, hub.ErrNoNode) {
		t.Errorf("a request to a process that is gone: %v", err)
	}
	l.Kill(c.Broker)
	again := node(t, l, "c")
	w.await(c.Bus().Self(), false)
	w.await(again.Bus().Self(), true)
	w.await(b.Bus().Self(), false)
	if _, err := a.Bus().Request(soon(t), b.Bus().Self(), "t", nil); !errors.Is(err, hub.ErrNoNode) {
		t.Errorf("a request to a node that is down: %v", err)
	}
}

// Broadcasts come to all others, in the order of their sender, one at a time.
func testBroadcast(t *testing.T, l Log) {
	const each = 200
	all := nodes(t, l, "a", "b", "c")
	type heard struct {
		mu   sync.Mutex
		next map[hub.NodeID]int
		done chan struct{}
		busy atomic.Int32
	}
	ears := make([]*heard, len(all))
	for i, r := range all {
		h := &heard{next: make(map[hub.NodeID]int), done: make(chan struct{})}
		ears[i] = h
		self := r.Bus().Self()
		r.Bus().Handle("news", func(_ context.Context, from hub.NodeID, b []byte) []byte {
			if h.busy.Add(1) != 1 {
				t.Error("two broadcasts are handled at once")
			}
			defer h.busy.Add(-1)
			h.mu.Lock()
			defer h.mu.Unlock()
			n, err := strconv.Atoi(string(b))
			if from == self || err != nil || n != h.next[from] {
				t.Errorf("%v got %q of %v, want %d", self, b, from, h.next[from])
			}
			if h.next[from]++; h.next[from] == each && len(h.next) == 2 && n == each-1 {
				whole := true
				for _, n := range h.next {
					whole = whole && n == each
				}
				if whole {
					close(h.done)
				}
			}
			return []byte("nobody wants to know")
		})
	}
	var sending sync.WaitGroup
	for _, r := range all {
		sending.Go(func() {
			b := make([]byte, 0, 8)
			for n := range each {
				b = strconv.AppendInt(b[:0], int64(n), 10) // it may be used again
				if err := r.Bus().Broadcast("news", b); err != nil {
					t.Error(err)
				}
			}
			if err := r.Bus().Broadcast("nobody handles this", nil); err != nil {
				t.Error(err)
			}
		})
	}
	sending.Wait()
	for i, h := range ears {
		select {
		case <-h.done:
		case <-time.After(patience):
			h.mu.Lock()
			t.Errorf("node %d got %v", i, h.next)
			h.mu.Unlock()
		}
	}
}

// A request comes to one node, and its answer comes back.
func testRequest(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b", "c")
	for _, r := range all {
		self := r.Bus().Self()
		r.Bus().Handle("echo", func(ctx context.Context, from hub.NodeID, b []byte) []byte {
			if err := ctx.Err(); err != nil {
				t.Error(err)
			}
			return []byte(fmt.Sprintf("%v to %v: %q", from, self, b))
		})
	}
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			for _, b := range [][]byte{nil, []byte("x"), {0, 255, '\n', 0}} {
				got, err := from.Bus().Request(soon(t), to.Bus().Self(), "echo", b)
				if want := fmt.Sprintf("%v to %v: %q", from.Bus().Self(), to.Bus().Self(), b); err != nil || string(got) != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			}
		}
	}
}

// Whoever gets no answer is told why, at once if that is possible.
func testRequestErrors(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b")
	a, b := all[0].Bus(), all[1].Bus()
	entered, blocked := make(chan struct{}, 1), make(chan struct{})
	unblock := sync.OnceFunc(func() { close(blocked) })
	b.Handle("nil", func(context.Context, hub.NodeID, []byte) []byte { return nil })
	b.Handle("empty", func(context.Context, hub.NodeID, []byte) []byte { return []byte{} })
	b.Handle("hangs", func(ctx context.Context, _ hub.NodeID, _ []byte) []byte {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-ctx.Done()
		unblock()
		return nil
	})
	nobody := hub.NodeID{Name: "nobody", Incarnation: "1"}
	before := hub.NodeID{Name: b.Self().Name, Incarnation: "earlier"}
	for _, c := range []struct {
		to    hub.NodeID
		topic string
		want  error
	}{
		{nobody, "nil", hub.ErrNoNode},
		{before, "nil", hub.ErrNoNode},
		{b.Self(), "nil", hub.ErrNoAnswer},
		{b.Self(), "not handled", hub.ErrNoAnswer},
		{b.Self(), "empty", nil},
	} {
		if got, err := a.Request(soon(t), c.to, c.topic, nil); !errors.Is(err, c.want) || len(got) > 0 {
			t.Errorf("%s to %v: %q, %v; want %v", c.topic, c.to, got, err, c.want)
		}
	}
	for late := soon(t); len(entered) == 0 && late.Err() == nil; { // a busy machine may be too slow for the first
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := a.Request(ctx, b.Self(), "hangs", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request that is not answered in time: %v", err)
		}
		cancel()
	}
	all[1].close()
	select {
	case <-blocked: // its context has ended
	case <-time.After(patience):
		t.Error("the context of a handler goes on after Close")
	}
	// Until the other node knows, which takes a moment, a request may be on its way.
	err := hub.ErrNoAnswer
	for ctx := soon(t); errors.Is(err, hub.ErrNoAnswer) && ctx.Err() == nil; {
		_, err = a.Request(ctx, b.Self(), "nil", nil)
	}
	if !errors.Is(err, hub.ErrNoNode) {
		t.Errorf("a request to a node that was closed: %v", err)
	}
	if _, err := b.Request(soon(t), a.Self(), "nil", nil); err == nil {
		t.Error("a node that was closed gets an answer")
	}
}

// A handler that takes its time delays no other request, and no broadcast.
func testRequestsAtOnce(t *testing.T, l Log) {
	const many = 100
	all := nodes(t, l, "a", "b")
	a, b := all[0].Bus(), all[1].Bus()
	var waiting sync.WaitGroup
	waiting.Add(many)
	release := make(chan struct{})
	b.Handle("slow", func(_ context.Context, _ hub.NodeID, b []byte) []byte {
		waiting.Done()
		<-release
		return bytes.Clone(b)
	})
	told := make(chan struct{})
	b.Handle("told", func(context.Context, hub.NodeID, []byte) []byte {
		close(told)
		return nil
	})
	var asking sync.WaitGroup
	for n := range many {
		asking.Go(func() {
			want := fmt.Sprint(n)
			if got, err := a.Request(soon(t), b.Self(), "slow", []byte(want)); err != nil || string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
	waiting.Wait() // all are handled at once
	if err := a.Broadcast("told", nil); err != nil {
		t.Error(err)
	}
	select {
	case <-told:
	case <-time.After(patience):
		t.Error("a broadcast waits for requests")
	}
	close(release)
	asking.Wait()
}

// Messages have a limit.
func testPayloads(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b")
	a, b := all[0].Bus(), all[1].Bus()
	b.Handle("echo", func(_ context.Context, _ hub.NodeID, b []byte) []byte { return b })
	b.Handle("more", func(context.Context, hub.NodeID, []byte) []byte { return make([]byte, hub.MaxBusPayload+1) })
	most := bytes.Repeat([]byte{0, 1, 2, 255}, hub.MaxBusPayload/4)
	if got, err := a.Request(soon(t), b.Self(), "echo", most); err != nil || !bytes.Equal(got, most) {
		t.Errorf("%d bytes became %d: %v", len(most), len(got), err)
	}
	if _, err := a.Request(soon(t), b.Self(), "more", nil); !errors.Is(err, hub.ErrNoAnswer) {
		t.Errorf("an answer that is too large: %v", err)
	}
	most = append(most, 0)
	if _, err := a.Request(soon(t), b.Self(), "echo", most); err == nil || errors.Is(err, hub.ErrNoNode) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that is too large: %v", err)
	}
	if err := a.Broadcast("echo", most); err == nil {
		t.Error("a broadcast that is too large is sent")
	}
}

// A question goes to all others. It ends when all have answered.
func testAsk(t *testing.T, l Log) {
	lone := node(t, l, "lone")
	if err := lone.Bus().Ask(soon(t), "who", nil, func(hub.NodeID, []byte) bool { return true }); err != nil {
		t.Errorf("a question without anybody there: %v", err)
	}
	lone.close()
	all := nodes(t, l, "a", "b", "c", "d")
	for i, r := range all[1:] {
		r.Bus().Handle("who", func(_ context.Context, _ hub.NodeID, b []byte) []byte {
			if i == 0 {
				return nil
			}
			return fmt.Appendf(nil, "%s %d", b, i)
		})
	}
	got := make(map[hub.NodeID]string)
	if err := all[0].Bus().Ask(soon(t), "who", []byte("it"), func(from hub.NodeID, b []byte) bool {
		got[from] = string(b)
		return true
	}); err != nil {
		t.Error(err)
	}
	if len(got) != 2 || got[all[2].Bus().Self()] != "it 1" || got[all[3].Bus().Self()] != "it 2" {
		t.Errorf("the answers are %v", got)
	}
	calls := 0
	if err := all[0].Bus().Ask(soon(t), "who", nil, func(hub.NodeID, []byte) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("after one answer it got %d more: %v", calls-1, err)
	}
	if err := all[0].Bus().Ask(soon(t), "nobody handles this", nil, func(hub.NodeID, []byte) bool { calls++; return true }); err != nil || calls != 1 {
		t.Errorf("nobody could answer: %v, but %d answers came", err, calls-1)
	}
}

// A question ends with its context, and does not wait for a node that is down.
func testAskEnds(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b", "c")
	a := all[0].Bus()
	all[1].Bus().Handle("who", func(context.Context, hub.NodeID, []byte) []byte { return []byte("b") })
	asked := make(chan struct{}, 2)
	all[2].Bus().Handle("who", func(ctx context.Context, _ hub.NodeID, _ []byte) []byte {
		asked <- struct{}{}
		<-ctx.Done()
		return []byte("too late")
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answers := 0
	err := a.Ask(ctx, "who", nil, func(hub.NodeID, []byte) bool {
		answers++
		cancel()
		return true
	})
	if !errors.Is(err, context.Canceled) || answers != 1 {
		t.Errorf("its context has ended: %v, %d answers", err, answers)
	}
	<-asked
	done := make(chan error)
	go func() {
		done <- a.Ask(soon(t), "who", nil, func(hub.NodeID, []byte) bool { return true })
	}()
	<-asked
	all[2].close()
	if err := <-done; err != nil {
		t.Errorf("a node that was asked has gone: %v", err)
	}
}

// The last handler of a topic counts.
func testHandleAgain(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b")
	a, b := all[0].Bus(), all[1].Bus()
	for n := range 3 {
		b.Handle("n", func(context.Context, hub.NodeID, []byte) []byte { return []byte{byte(n)} })
		if got, err := a.Request(soon(t), b.Self(), "n", nil); err != nil || !bytes.Equal(got, []byte{byte(n)}) {
			t.Errorf("handler %d answers %v, %v", n, got, err)
		}
	}
}

// All nodes get the messages of all nodes in the same order, and those of channels without
// a history too.
func testOneOrder(t *testing.T, l Log) {
	const each = 100
	all := nodes(t, l, "a", "b", "c")
	var publishing sync.WaitGroup
	for p, r := range all {
		publishing.Go(func() {
			for n := range each {
				m := message("a", fmt.Sprintf("%d-%d", p, n), "1")
				if n%4 == 0 {
					m.Keep(hub.HistoryRule{})
				}
				if _, err := r.Publish(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	late := node(t, l, "late")
	for _, r := range all {
		r.await("the entries", func() bool { return len(r.entries) >= len(all)*each })
	}
	for i, r := range all[1:] {
		for n, e := range r.entries {
			if want := all[0].entries[n]; e.Seq != want.Seq || e.Message.UUID != want.Message.UUID || !e.At.Equal(want.At) {
				t.Fatalf("entry %d of node %d is %d, %s; that of node 0 is %d, %s", n, i+1, e.Seq, e.Message.UUID, want.Seq, want.Message.UUID)
			}
		}
	}
	if late.epoch != all[0].epoch || late.head < all[0].last {
		t.Errorf("a node that starts has %d of %s, the others %d of %s", late.head, late.epoch, all[0].last, all[0].epoch)
	}
}

// A message that one node has published is not published again by another one.
func testRepeatsElsewhere(t *testing.T, l Log) {
	all := nodes(t, l, "a", "b")
	first := all[0].say(message("a", "u", `"x"`))
	if again := all[1].say(message("a", "u", `"x"`)); again != first {
		t.Errorf("the repeat at another node is at %v, the first at %v", again, first)
	}
	if _, err := all[1].Publish(t.Context(), message("a", "u", `"y"`)); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("the same uuid with other data at another node: %v", err)
	}
	for _, r := range all {
		r.wantAt("u", first)
	}
}
