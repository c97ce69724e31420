// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package brokertest tests whether a hub.Broker does what hub.Broker says. The tests of each
// Broker call Run. It also has a Broker with a Bus for tests: see Cluster.
package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// A Log is the log of one hub, which a test opens, maybe more than once.
type Log struct {
	// Open returns a Broker for the log. Run starts and closes it.
	Open func(tb testing.TB) hub.Broker
	// Lasts says that a log which was closed still has its entries when it is opened
	// again, and that it recognizes messages by their ID.
	Lasts bool
	// Replace replaces the log of an open Broker by an empty one. It is nil if nothing can
	// do that.
	Replace func(tb testing.TB)

	// Node returns a Broker of another machine for the log. Names are different, or those
	// of machines that were closed or killed. It is nil for a Broker of one machine.
	Node func(tb testing.TB, name string) hub.Broker
	// Kill ends the machine of a Broker that Node has returned, without a word to the
	// others. It is nil if nothing can do that.
	Kill func(b hub.Broker)
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// rule is the history of the channels of the tests.
var rule = hub.HistoryRule{Count: 100_000, TTL: time.Hour}

// Run tests the Broker. newLog makes an empty log.
func Run(t *testing.T, newLog func(t *testing.T) Log) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Log){
		"Order":       testOrder,
		"Messages":    testMessages,
		"Unkept":      testUnkept,
		"Joined":      testJoined,
		"Reopen":      testReopen,
		"Repeats":     testRepeats,
		"ContextEnds": testContextEnds,
		"Close":       testClose,
		"Keeper":      testKeeper,
		"Replace":     testReplace,
	} {
		t.Run(name, func(t *testing.T) { test(t, newLog(t)) })
	}
	t.Run("Bus", func(t *testing.T) { runBus(t, newLog) })
	t.Run("Epochs", func(t *testing.T) {
		one, other := open(t, newLog(t)), open(t, newLog(t))
		if one.epoch == "" || one.epoch == other.epoch {
			t.Errorf("two logs have the epochs %q and %q", one.epoch, other.epoch)
		}
	})
}

// An Entry is an entry that a Replica got.
type Entry struct {
	Seq     uint64
	At      time.Time
	Message *hub.Message
}

// A changing records what comes, for a test that waits for it.
type changing struct {
	tb testing.TB

	mu      sync.Mutex // guards the following, and what is recorded
	changed chan struct{}
}

func newChanging(tb testing.TB) changing { return changing{tb: tb, changed: make(chan struct{})} }

func (c *changing) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// await waits until done, which is called with the lock held, returns true.
func (c *changing) await(what string, done func() bool) {
	c.tb.Helper()
	late := time.After(patience)
	for {
		c.mu.Lock()
		ok, changed := done(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-late:
			c.tb.Fatalf("%s: waited for %v", what, patience)
		}
	}
}

// A Replica is a hub.Sink that records what it gets, and says when a Broker breaks a rule.
type Replica struct {
	hub.Broker
	changing

	closed  bool
	busy    bool // in Entry, with a number
	epoch   hub.Epoch
	resets  int
	first   uint64
	head    uint64
	last    uint64
	entries []Entry // of the newest epoch
	byUUID  map[string][]Entry
	unkept  []Entry
	floors  map[string]uint64
}

// open opens a Broker of a log with a Replica as its Sink.
func open(tb testing.TB, l Log) *Replica {
	tb.Helper()
	r := &Replica{Broker: l.Open(tb), changing: newChanging(tb), floors: make(map[string]uint64)}
	if err := r.Start(tb.Context(), r); err != nil {
		tb.Fatal(err)
	}
	if r.resets == 0 {
		tb.Error("Start has not called Reset")
	}
	if r.last > r.head && l.Node == nil { // else what was published just before can come after Reset
		tb.Errorf("Start replayed up to %d, but Reset said up to %d", r.last, r.head)
	}
	tb.Cleanup(func() { r.close() })
	return r
}

func (r *Replica) close() {
	if err := r.Close(); err != nil {
		r.tb.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// Reset implements hub.Sink.
func (r *Replica) Reset(epoch hub.Epoch, first, head uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch == "" || strings.Contains(string(epoch), ".") {
		r.tb.Errorf("%q is not an epoch", epoch)
	}
	if first > head+1 {
		r.tb.Errorf("the log begins with %d and ends with %d", first, head)
	}
	r.epoch, r.first, r.head, r.last, r.entries = epoch, first, head, 0, nil
	r.byUUID = make(map[string][]Entry)
	r.resets++
	r.tellLocked()
}

// Entry implements hub.Sink.
func (r *Replica) Entry(seq uint64, at time.Time, m *hub.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		r.tb.Errorf("entry %d came after Close", seq)
	case r.resets == 0:
		r.tb.Errorf("entry %d came before Reset", seq)
	}
	if seq == 0 {
		if m.Kept() {
			r.tb.Error("a message that is kept has no number")
		}
		r.unkept = append(r.unkept, Entry{Message: m})
		r.tellLocked()
		return
	}
	switch {
	case r.busy:
		r.tb.Errorf("two entries come at once, one is %d", seq)
	case seq <= r.last:
		r.tb.Errorf("entry %d came after %d", seq, r.last)
	case seq < r.first:
		r.tb.Errorf("entry %d came, but the log begins with %d", seq, r.first)
	case at.IsZero() || at.After(time.Now().Add(time.Minute)):
		r.tb.Errorf("entry %d is of %v", seq, at)
	}
	r.busy = true
	r.mu.Unlock() // others could come now
	r.mu.Lock()
	r.busy = false
	r.last = seq
	r.entries = append(r.entries, Entry{seq, at, m})
	r.byUUID[m.UUID] = append(r.byUUID[m.UUID], Entry{seq, at, m})
	r.tellLocked()
}

// Floor implements hub.Sink.
func (r *Replica) Floor(key string, seq uint64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last > 0 || why == "" {
		r.tb.Errorf("floor %d of %q comes after entry %d, because of %q", seq, key, r.last, why)
	}
	r.floors[key] = seq
}

// Lost implements hub.Sink.
func (r *Replica) Lost(from, to uint64) { r.tb.Errorf("%d to %d are lost", from, to) }

// Behind implements hub.Sink.
func (r *Replica) Behind(bool) {}

// message makes a message of a channel with a history.
func message(channel, uuid, data string) *hub.Message {
	return hub.NewMessage(channel, uuid, []byte(data)).By("test").Keep(rule)
}

// say publishes a message, and fails the test if that fails.
func (r *Replica) say(m *hub.Message) hub.Position {
	r.tb.Helper()
	at, err := r.Publish(context.Background(), m)
	if err != nil {
		r.tb.Fatal(err)
	}
	return at
}

// sayAgain publishes a message as a client does: again, until the log takes it. For a moment a
// log may take nothing, for example because its servers have not agreed on a leader yet.
func (r *Replica) sayAgain(m *hub.Message) hub.Position {
	r.tb.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		at, err := r.Publish(context.Background(), m)
		if err == nil {
			return at
		}
		if time.Now().After(late) {
			r.tb.Fatal(err)
		}
	}
}

// find returns the entries with a uuid.
func (r *Replica) find(uuid string) []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byUUID[uuid]
}

// wantAt checks that a message is in the log once, at a position.
func (r *Replica) wantAt(uuid string, at hub.Position) {
	r.tb.Helper()
	r.await("entry "+uuid, func() bool { return r.last >= at.Seq })
	found := r.find(uuid)
	if len(found) != 1 {
		r.tb.Errorf("%s is in the log %d times", uuid, len(found))
		return
	}
	if e := found[0]; at != (hub.Position{Epoch: r.epoch, Seq: e.Seq, Check: hub.CheckOf(e.At)}) {
		r.tb.Errorf("%s is at %d of %v in %s, but Publish said %v", uuid, e.Seq, e.At, r.epoch, at)
	}
}

// Many publish at once: all come, each once, and those of one publisher in its order.
func testOrder(t *testing.T, l Log) {
	const publishers, each = 8, 100
	r := open(t, l)
	var all sync.WaitGroup
	at := make([][]hub.Position, publishers)
	for p := range publishers {
		all.Go(func() {
			for n := range each {
				position, err := r.Publish(t.Context(), message([]string{"a", "b", "c"}[n%3], fmt.Sprintf("%d-%d", p, n), "1"))
				if err != nil {
					t.Error(err)
					return
				}
				at[p] = append(at[p], position)
			}
		})
	}
	all.Wait()
	r.await("the entries", func() bool { return len(r.entries) >= publishers*each })
	if len(r.entries) != publishers*each {
		t.Errorf("there are %d entries of %d messages", len(r.entries), publishers*each)
	}
	byUUID := make(map[string]Entry)
	for _, e := range r.entries {
		byUUID[e.Message.UUID] = e
	}
	for p := range publishers {
		before := uint64(0)
		for n, position := range at[p] {
			e := byUUID[fmt.Sprintf("%d-%d", p, n)]
			if position != (hub.Position{Epoch: r.epoch, Seq: e.Seq, Check: hub.CheckOf(e.At)}) || e.Seq <= before {
				t.Fatalf("message %d of publisher %d is entry %d after %d, but Publish said %v", n, p, e.Seq, before, position)
			}
			before = e.Seq
		}
	}
}

// A message comes out as it went in.
func testMessages(t *testing.T, l Log) {
	r := open(t, l)
	samples := []*hub.Message{
		message("a", "1", "1"),
		message("rooms/ü/7", "2", `{"text":"`+strings.Repeat("ü", 30_000)+`"}`).Keep(hub.HistoryRule{Count: 3, TTL: 90 * time.Second}),
		message(strings.Repeat("x", hub.MaxNameLength), strings.Repeat("u", 64), `"\u0000"`),
	}
	samples[0].From = &hub.Sender{User: "bob", UUID: "0b5e"}
	var records [][]byte
	for _, m := range samples {
		records = append(records, m.AppendRecord(nil))
		r.say(m)
	}
	check := func(r *Replica) {
		t.Helper()
		r.await("the entries", func() bool { return len(r.entries) == len(samples) })
		for i, e := range r.entries {
			if got := e.Message.AppendRecord(nil); !bytes.Equal(got, records[i]) {
				t.Errorf("message %d became %.200q, want %.200q", i, got, records[i])
			}
		}
	}
	check(r)
	if l.Lasts {
		r.close()
		check(open(t, l))
	}
}

// Messages of channels without a history come once and in order too.
func testUnkept(t *testing.T, l Log) {
	r := open(t, l)
	const each = 50
	var all sync.WaitGroup
	for p := range 4 {
		all.Go(func() {
			for n := range each {
				if _, err := r.Publish(t.Context(), hub.NewMessage(fmt.Sprint("c", p), fmt.Sprint(n), nil)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	r.wantUnkept(4 * each)
}

// wantUnkept waits for messages without a history, whose uuids count those of their channels.
func (r *Replica) wantUnkept(n int) {
	r.tb.Helper()
	r.await("the messages", func() bool { return len(r.entries)+len(r.unkept) >= n })
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.entries, r.unkept)
	if len(all) != n {
		r.tb.Errorf("%d messages came, want %d", len(all), n)
	}
	next := make(map[string]int)
	for _, e := range all {
		if want := fmt.Sprint(next[e.Message.Channel]); e.Message.UUID != want {
			r.tb.Fatalf("message %s of %s came, want %s", e.Message.UUID, e.Message.Channel, want)
		}
		next[e.Message.Channel]++
	}
}

// A Joiner publishes messages together: all come, in order, or none.
func testJoined(t *testing.T, l Log) {
	r := open(t, l)
	joiner, ok := r.Broker.(hub.Joiner)
	if !ok {
		t.Skip("this Broker publishes each message alone")
	}
	const each, together = 20, 5
	var all sync.WaitGroup
	for p := range 4 {
		all.Go(func() {
			for n := range each {
				var messages []*hub.Message
				for i := range together {
					messages = append(messages, hub.NewMessage(fmt.Sprint("c", p), fmt.Sprint(n*together+i), nil))
				}
				if err := joiner.PublishJoined(messages); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	r.wantUnkept(4 * each * together)
	r.close()
	if err := joiner.PublishJoined([]*hub.Message{hub.NewMessage("c", "late", nil)}); err == nil {
		t.Error("it publishes after Close")
	}
}

// A log that is opened again has the same entries, and goes on behind them.
func testReopen(t *testing.T, l Log) {
	if !l.Lasts {
		t.Skip("this log ends with its Broker")
	}
	r := open(t, l)
	for n := range 50 {
		r.say(message("a", fmt.Sprint(n), fmt.Sprint(n)))
	}
	r.await("the entries", func() bool { return len(r.entries) == 50 })
	for round := range 3 {
		before := r
		r.close()
		r = open(t, l)
		if r.epoch != before.epoch || len(r.entries) != len(before.entries) || r.head < before.last {
			t.Fatalf("round %d: epoch %s, %d entries, up to %d; want %s, %d, %d", round, r.epoch, len(r.entries), r.head, before.epoch, len(before.entries), before.last)
		}
		for i, e := range before.entries {
			again := r.entries[i]
			if again.Seq != e.Seq || !again.At.Equal(e.At) || again.Message.UUID != e.Message.UUID || !bytes.Equal(again.Message.Data, e.Message.Data) {
				t.Fatalf("entry %d of %v, %s, became %d of %v, %s", e.Seq, e.At, e.Message.UUID, again.Seq, again.At, again.Message.UUID)
			}
		}
		id := fmt.Sprint("later", round)
		r.wantAt(id, r.say(message("a", id, "1")))
	}
}

// The same message is in the log once, with the position of the first.
func testRepeats(t *testing.T, l Log) {
	if !l.Lasts {
		t.Skip("a hub does not repeat what it publishes in such a log")
	}
	r := open(t, l)
	first := r.say(message("a", "u", `"x"`))
	check := func() {
		t.Helper()
		if again := r.say(message("a", "u", `"x"`)); again != first {
			t.Errorf("the repeat is at %v, the first at %v", again, first)
		}
		if _, err := r.Publish(t.Context(), message("a", "u", `"y"`)); !errors.Is(err, hub.ErrConflict) {
			t.Errorf("the same uuid with other data: %v", err)
		}
		r.wantAt("u", first)
	}
	check()
	if other := r.say(message("a", "u", `"y"`).By("somebody else")); other == first {
		t.Error("the uuids of two publishers are taken for one")
	}
	r.close()
	r = open(t, l)
	if again := r.say(message("a", "u", `"x"`)); again != first {
		t.Errorf("after opening it again the repeat is at %v, the first at %v", again, first)
	}
	// Repeats that meet are one.
	var all sync.WaitGroup
	at := make([]hub.Position, 8)
	for i := range at {
		all.Go(func() { at[i] = r.say(message("a", "meet", "1")) })
	}
	all.Wait()
	for i := range at {
		if at[i] != at[0] {
			t.Errorf("repeats that meet are at %v and %v", at[i], at[0])
		}
	}
	r.wantAt("meet", at[0])
}

// What Publish says when its context ends is true: only ErrUnknown leaves it open.
func testContextEnds(t *testing.T, l Log) {
	r := open(t, l)
	type outcome struct {
		at  hub.Position
		err error
	}
	outcomes := make([]outcome, 200)
	var all sync.WaitGroup
	for n := range outcomes {
		ctx, cancel := context.WithCancel(t.Context())
		all.Go(func() {
			outcomes[n].at, outcomes[n].err = r.Publish(ctx, message("a", fmt.Sprint(n), "1"))
		})
		all.Go(cancel)
	}
	all.Wait()
	for n, o := range outcomes {
		if errors.Is(o.err, hub.ErrUnknown) {
			outcomes[n] = outcome{at: r.say(message("a", fmt.Sprint(n), "1"))}
		}
	}
	last := r.say(message("a", "last", "1"))
	r.await("the last", func() bool { return r.last >= last.Seq })
	for n, o := range outcomes {
		if o.err == nil {
			r.wantAt(fmt.Sprint(n), o.at)
		} else if found := r.find(fmt.Sprint(n)); len(found) != 0 {
			t.Errorf("message %d is in the log, but Publish said %v", n, o.err)
		}
	}
}

// Close may come while many publish: what was acknowledged is in the log.
func testClose(t *testing.T, l Log) {
	r := open(t, l)
	const publishers = 8
	acknowledged := make([]map[string]hub.Position, publishers)
	refused := make([][]string, publishers)
	var all sync.WaitGroup
	begun := make(chan struct{}, publishers)
	for p := range publishers {
		acknowledged[p] = make(map[string]hub.Position)
		all.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d", p, n)
				at, err := r.Publish(context.Background(), message("a", id, "1"))
				if n == 10 {
					begun <- struct{}{}
				}
				switch {
				case err == nil:
					acknowledged[p][id] = at
					continue
				case !errors.Is(err, hub.ErrUnknown):
					refused[p] = append(refused[p], id)
				}
				return
			}
		})
	}
	for range publishers {
		<-begun
	}
	r.close()
	all.Wait()
	if _, err := r.Publish(t.Context(), message("a", "late", "1")); err == nil || errors.Is(err, hub.ErrUnknown) {
		t.Errorf("a publish after Close: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if l.Lasts {
		r = open(t, l)
	}
	for p := range publishers {
		for id, at := range acknowledged[p] {
			r.wantAt(id, at)
		}
		for _, id := range refused[p] {
			if len(r.find(id)) > 0 {
				t.Errorf("%s was refused, but is in the log", id)
			}
		}
	}
}

// A Keeper drops what the hub drops, and remembers that.
func testKeeper(t *testing.T, l Log) {
	r := open(t, l)
	keeper, ok := r.Broker.(hub.Keeper)
	if !ok || !l.Lasts {
		t.Skip("the hub does not tell this Broker what it drops")
	}
	var at []hub.Position
	for n := range 6 {
		at = append(at, r.say(message([]string{"a", "b", "c"}[n%3], fmt.Sprint(n), "1")))
	}
	last := at[5].Seq
	keeper.Dropped("a", at[0].Seq, "count")
	keeper.Dropped("b", at[1].Seq, "age")
	keeper.Dropped("b", at[4].Seq, "age")
	keeper.Dropped("c", at[2].Seq, "age")
	keeper.Dropped("c", last, "bytes")
	keeper.Forgotten("c", last, "bytes")
	r.close()
	for range 2 {
		r = open(t, l)
		if len(r.entries) != 1 || r.entries[0].Message.UUID != "3" || r.head < last {
			t.Errorf("%d entries are left, up to %d", len(r.entries), r.head)
		}
		if r.floors["a"] != at[0].Seq || r.floors["b"] != at[4].Seq || r.floors[""] != last {
			t.Errorf("the floors are %v of %v", r.floors, at)
		}
		if _, ok := r.floors["c"]; ok {
			t.Error("a channel that was forgotten has a floor")
		}
		r.close()
	}
	r = open(t, l)
	if next := r.say(message("a", "next", "1")); next.Seq <= last {
		t.Errorf("number %d was used twice", next.Seq)
	}
}

// A Broker whose log is replaced by another one says so.
func testReplace(t *testing.T, l Log) {
	if l.Replace == nil {
		t.Skip("nothing can replace this log")
	}
	r := open(t, l)
	r.say(message("a", "old", "1"))
	before := r.epoch
	l.Replace(t)
	r.await("another epoch", func() bool { return r.epoch != before })
	r.wantAt("new", r.sayAgain(message("a", "new", "1")))
	if len(r.find("old")) > 0 {
		t.Error("the new log has an entry of the old one")
	}
}
