// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func itemOf(text string, messages bool) item {
	it := item{bytes: []byte(text)}
	if messages {
		it.msg = &Message{Channel: text}
	}
	return it
}

func textsOf(items []item) (texts []string) {
	for _, it := range items {
		texts = append(texts, string(it.bytes))
	}
	return texts
}

// waiting returns the items that wait.
func (q *queue) waiting() []item {
	switch {
	case q.items != nil:
		return *q.items
	case q.one.bytes != nil:
		return []item{q.one}
	default:
		return nil
	}
}

func TestQueueLimits(t *testing.T) {
	q := queue{limits: &Limits{QueueMessages: 3, QueueBytes: 10}}
	if !q.fits(1000) {
		t.Error("an empty queue does not take one large item")
	}
	q.add(itemOf("aaaa", true))
	if !q.fits(6) || q.fits(7) {
		t.Error("the limit of bytes is not 10")
	}
	q.add(itemOf("b", true))
	q.add(itemOf("c", true))
	if q.fits(1) {
		t.Error("a fourth item fits")
	}
	if !q.isCrowded() {
		t.Error("a full queue is not crowded")
	}
	var all, none taken
	if !q.take(math.MaxInt, &all) || q.fits(1) || q.take(1, &none) {
		t.Error("what was taken does not count, or is still there")
	}
	q.release(len(all.items), 6)
	if !q.fits(1) || q.isCrowded() || q.count != 0 || q.bytes != 0 {
		t.Errorf("%d items with %d bytes are left", q.count, q.bytes)
	}
}

// If the limits are lowered below the queue's length, the old ones apply until the queue
// is at half of the new ones.
func TestQueueKeepsFormerLimits(t *testing.T) {
	q := queue{limits: &Limits{QueueMessages: 8, QueueBytes: 100}}
	for range 6 {
		q.add(itemOf("x", true))
	}
	q.setLimits(&Limits{QueueMessages: 4, QueueBytes: 100})
	if !q.fits(1) {
		t.Error("lower limits hold at once")
	}
	q.release(3, 3)
	if !q.fits(1) {
		t.Error("lower limits hold above half of them")
	}
	q.release(1, 1)
	q.currentLimits()
	q.release(-2, -2)
	if q.fits(1) {
		t.Error("the old limits have stayed")
	}
}

func TestQueueDropsWithoutReordering(t *testing.T) {
	q := queue{limits: &Limits{QueueMessages: 100, QueueBytes: 1000}}
	for _, text := range []string{"a", "b", "c", "a"} {
		q.add(itemOf(text, true))
	}
	q.add(itemOf("notice", false))
	if n := q.drop(func(m *Message) bool { return m.Channel != "a" }); n != 2 {
		t.Errorf("%d were dropped, want 2", n)
	}
	if got := textsOf(q.waiting()); !slices.Equal(got, []string{"b", "c", "notice"}) || q.count != 3 || q.bytes != 8 {
		t.Errorf("%q are left, counted as %d with %d bytes", got, q.count, q.bytes)
	}
	if n := q.drop(nil); n != 2 || !q.isEmpty() || q.count != 0 || q.bytes != 0 {
		t.Errorf("%d were dropped at the end, %d with %d bytes are left", n, q.count, q.bytes)
	}
}

// TestQueueModel compares random operations on a queue with a list: no message is lost,
// doubled or out of order, and the counts are right.
func TestQueueModel(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		q := queue{limits: &Limits{QueueMessages: math.MaxInt, QueueBytes: math.MaxInt}}
		var model []string
		var next int
		for range 60 {
			switch random.IntN(3) {
			case 0, 1:
				text := strings.Repeat(string(rune('a'+next%26)), 1+random.IntN(20))
				next++
				q.add(itemOf(text, random.IntN(2) == 0))
				model = append(model, text)
			default:
				most := random.IntN(40)
				if random.IntN(4) == 0 {
					most = math.MaxInt
				}
				var some taken
				if took := q.take(most, &some); took != (len(model) > 0) {
					t.Fatalf("seed %d: take returned %t, there are %q", seed, took, model)
				} else if !took {
					continue
				}
				got := textsOf(some.items)
				if !slices.Equal(got, model[:len(got)]) || len(got) == 0 || len(got) > 1 && len(strings.Join(got, "")) > most {
					t.Fatalf("seed %d: %q was taken of %q, for %d bytes", seed, got, model, most)
				}
				written := random.IntN(len(got) + 1)
				q.release(written, len(strings.Join(got[:written], "")))
				rest := slices.Clone(some.items[written:])
				some.done()
				q.putBack(rest)
				model = model[written:]
			}
			if q.len() != len(model) || q.count != len(model) || q.bytes != len(strings.Join(model, "")) {
				t.Fatalf("seed %d: %d items with %d bytes are counted, there are %q", seed, q.count, q.bytes, model)
			}
		}
		if got := textsOf(q.waiting()); !slices.Equal(got, model) {
			t.Fatalf("seed %d: %q is left, want %q", seed, got, model)
		}
	}
}

// TestConflateModel compares random queues with a list: of each conflated channel only the
// newest message is left, everything else stays in its order, and the counts are right.
func TestConflateModel(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 2))
		q := queue{limits: &Limits{QueueMessages: math.MaxInt, QueueBytes: math.MaxInt}}
		var all []item
		for i := range random.IntN(20) {
			it := itemOf(strings.Repeat(string(rune('a'+i)), 1+random.IntN(5)), random.IntN(4) > 0)
			if it.msg != nil {
				it.msg.key = string(rune('0' + random.IntN(4)))
				it.msg.conflate = it.msg.key > "1"
			}
			all = append(all, it)
			q.add(it)
		}
		var next *Message
		if random.IntN(2) == 0 {
			next = &Message{key: "2", conflate: true}
		}
		var want []string
		size := 0
		for i, it := range all {
			replaced := it.conflates() && (next != nil && it.msg.key == next.key ||
				slices.ContainsFunc(all[i+1:], func(later item) bool { return later.conflates() && later.msg.key == it.msg.key }))
			if !replaced {
				want = append(want, string(it.bytes))
				size += len(it.bytes)
			}
		}
		dropped := q.conflate(next)
		if got := textsOf(q.waiting()); !slices.Equal(got, want) || q.count != len(want) || q.bytes != size || dropped != len(all)-len(want) {
			t.Fatalf("seed %d: %q are left, counted as %d with %d bytes, %d dropped; want %q", seed, got, q.count, q.bytes, dropped, want)
		}
		if q.isEmpty() != (len(want) == 0) {
			t.Fatalf("seed %d: an empty list is kept", seed)
		}
	}
}

// The queue of an agent that lags stays short, and its bytes fall, before it is full.
func TestConflatedQueuesStayShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		o := &outbox{agent: &Agent{hub: h}, queue: queue{limits: &Limits{QueueMessages: 1000, QueueBytes: 100_000}}}
		for i := range 100 {
			it := itemOf("100 bytes"+strings.Repeat(".", 91), true)
			it.msg.key, it.msg.conflate = string(rune('a'+i%2)), true
			o.acceptLocked(it)
			if q := &o.queue; i > 2 && q.count > 4 || q.bytes != 100*q.count {
				t.Fatalf("after %d messages of two channels, %d with %d bytes wait", i+1, q.count, q.bytes)
			}
			time.Sleep(lagAfter)
		}
	})
}

// Messages that were taken and put back have waited since they came. Those that are taken
// do not wait.
func TestConflatedMessagesThatArePutBack(t *testing.T) {
	q := queue{limits: &Limits{QueueMessages: 1000, QueueBytes: 1000}}
	for range 3 {
		it := itemOf("price", true)
		it.msg.conflate = true
		q.add(it)
	}
	q.conflation = &conflation{since: 1, fresh: 3}
	const late = 1 + lagAfter
	for _, most := range []int{math.MaxInt, 12, 100} {
		var some taken
		q.take(most, &some)
		if rest := !q.isEmpty(); q.lags(late) != rest {
			t.Errorf("%d bytes taken: lags is %t", most, !rest)
		}
		if q.putBack(slices.Clone(some.items)); !q.lags(late) || q.lags(late-1) {
			t.Errorf("%d bytes put back: %+v", most, q.conflation)
		}
	}
	if n := q.conflate(nil); n != 2 || q.count != 1 || q.bytes != 5 {
		t.Errorf("%d were dropped, %d with %d bytes are left", n, q.count, q.bytes)
	}
}

// A join buffer knows which items are written. It keeps the rest of an item that is half
// written, because the next item must not begin inside it.
func TestJoinBufferAfterAWrite(t *testing.T) {
	for n := range 10 {
		b := getJoin(1)
		for _, text := range []string{"abc", "de", "fghi"} {
			b.bytes = append(b.bytes, text...)
			b.ends = append(b.ends, len(b.bytes))
		}
		items, rest := b.wrote(n), ""
		wantItems, wantRest := 0, ""
		for i, end := range []int{3, 5, 9} {
			if begin := []int{0, 3, 5}[i]; n > begin {
				wantItems = i + 1
				wantRest = "abcdefghi"[min(n, end):end]
			}
		}
		if rest = string(b.bytes); items != wantItems || rest != wantRest || len(b.ends) != 0 {
			t.Errorf("after %d bytes: %d items and %q, want %d and %q", n, items, rest, wantItems, wantRest)
		}
		putJoin(b)
	}
}
