// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package presence

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"
)

// runs returns how many random runs a test makes: n, or PUSHIT_RUNS.
func runs(t *testing.T, n int) int {
	t.Helper()
	if text := os.Getenv("PUSHIT_RUNS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// An observer has what a client has: a list that a snapshot began and batches continue.
type observer struct {
	t      *testing.T
	seed   uint64
	number uint64
	count  int
	listed bool
	list   map[ID]View
}

func (o *observer) snapshot(c *Channel, random *rand.Rand, step func()) {
	o.list = make(map[ID]View)
	for after := uint64(0); ; {
		members, next := c.Page(after)
		if !c.Listed() {
			members, next = nil, 0
		}
		for _, v := range members {
			o.list[v.ID] = v
		}
		o.number, o.count, o.listed = c.Number(), c.Count(), c.Listed()
		if after = next; next == 0 {
			return
		}
		if random.IntN(2) == 0 {
			step() // batches may come between two pages
			if !o.listed || o.list == nil {
				return
			}
		}
	}
}

// apply applies a batch, and checks that no join and no leave comes twice. A member that
// stands on a page that was not read yet may leave before it was there.
func (o *observer) apply(b Batch, paging bool) {
	o.t.Helper()
	if b.Number != o.number+1 {
		o.t.Fatalf("seed %d: batch %d after %d", o.seed, b.Number, o.number)
	}
	o.number, o.count = b.Number, b.Count
	if !b.Listed || b.Reset {
		if o.listed = b.Listed; len(b.Joined)+len(b.Left)+len(b.Changed) > 0 {
			o.t.Fatalf("seed %d: members in a batch that lists none", o.seed)
		}
		o.list = nil
		return
	}
	told := make(map[ID]bool)
	once := func(v View) {
		if told[v.ID] {
			o.t.Fatalf("seed %d: %v stands in batch %d twice", o.seed, v.ID, b.Number)
		}
		told[v.ID] = true
	}
	for _, v := range b.Joined {
		once(v)
		if _, there := o.list[v.ID]; there {
			o.t.Fatalf("seed %d: %v joins, and is there", o.seed, v.ID)
		}
		o.list[v.ID] = v
	}
	for _, v := range b.Changed {
		once(v)
		if before, there := o.list[v.ID]; !there && !paging || before == v {
			o.t.Fatalf("seed %d: %v changes from %v", o.seed, v, before)
		}
		o.list[v.ID] = v
	}
	for _, v := range b.Left {
		once(v)
		if _, there := o.list[v.ID]; !there && !paging {
			o.t.Fatalf("seed %d: %v leaves, and is not there", o.seed, v.ID)
		}
		delete(o.list, v.ID)
	}
}

// A tab is one of the model.
type tab struct {
	node Node
	id   ID
	m    *Member
}

// TestChannelModel has tabs at three nodes come, go and change at random, beside a plain
// list of them. Observers begin at any time, between pages too. At each batch every list
// has as many members as the batch says; after the linger, each is the truth.
func TestChannelModel(t *testing.T) {
	for seed := range uint64(runs(t, 300)) {
		random := rand.New(rand.NewPCG(seed, 13))
		rule := Rule{Linger: time.Duration(random.IntN(3)) * time.Second, Members: 10_000}
		if seed%4 == 0 {
			rule.Members = 3 + random.IntN(8)
		}
		c := New(rule)
		now := time.Duration(1)
		at := int64(0)
		var tabs []tab
		var seen []*observer
		infos := make(map[ID]string)
		var reading *observer
		take := func() {
			b, ok := c.Take(now)
			if !ok {
				return
			}
			for _, o := range seen {
				if o.apply(b, false); o.list != nil && len(o.list) != b.Count {
					t.Fatalf("seed %d: the list has %d members, and the batch counts %d", seed, len(o.list), b.Count)
				}
				if o.list == nil && b.Listed {
					o.snapshot(c, random, func() {})
				}
			}
			if reading != nil {
				reading.apply(b, true)
			}
		}
		pick := func() ID {
			n := random.IntN(14)
			if n < 10 {
				return ID{Name: fmt.Sprint("user", n)}
			}
			return ID{fmt.Sprint("0123456789abcd", n), true}
		}
		step := func() {
			at++
			switch n := random.IntN(20); {
			case n < 6:
				id, node := pick(), Node(random.IntN(3))
				infos[id] = fmt.Sprint(at)
				tabs = append(tabs, tab{node, id, c.Join(node, id, infos[id], at)})
			case n < 12 && len(tabs) > 0:
				i := random.IntN(len(tabs))
				c.Leave(now, tabs[i].node, tabs[i].m, n < 10)
				tabs = slices.Delete(tabs, i, i+1)
			case n < 14 && len(tabs) > 0:
				i := random.IntN(len(tabs))
				infos[tabs[i].id] = fmt.Sprint(at)
				c.Restate(tabs[i].node, tabs[i].m, infos[tabs[i].id], at)
			case n == 14 && random.IntN(4) == 0:
				c.Down(now, 2)
				tabs = slices.DeleteFunc(tabs, func(t tab) bool { return t.node == 2 })
			case n == 15 && random.IntN(4) == 0:
				rule.Linger = time.Duration(random.IntN(3)) * time.Second
				if seed%4 == 0 {
					rule.Members, rule.Count = 3+random.IntN(8), random.IntN(5) == 0
				}
				c.SetRule(rule)
			case n == 16 && reading == nil:
				reading = &observer{t: t, seed: seed}
				reading.snapshot(c, random, take)
				if reading.list != nil || !reading.listed {
					seen = append(seen, reading)
				}
				reading = nil
			default:
				now += time.Duration(random.IntN(400)) * time.Millisecond
				take()
			}
		}
		for range 300 {
			step()
		}
		now += 10 * time.Second
		for next := c.Next(now); next != 0; next = c.Next(now) {
			if next > now {
				t.Fatalf("seed %d: something lingers for 10 s", seed)
			}
			take()
		}
		truth := make(map[ID]int)
		for _, tab := range tabs {
			truth[tab.id]++
		}
		if c.Count() != len(truth) || len(c.users)+len(c.agents) != len(truth) {
			t.Fatalf("seed %d: %d members are counted, %d kept; there are %d", seed, c.Count(), len(c.users)+len(c.agents), len(truth))
		}
		end := &observer{t: t, seed: seed}
		end.snapshot(c, random, func() {})
		for i, o := range append(seen, end) {
			if o.count != len(truth) || o.listed != c.Listed() {
				t.Fatalf("seed %d: observer %d counts %d, listed %t; there are %d, %t", seed, i, o.count, o.listed, len(truth), c.Listed())
			}
			if !o.listed {
				continue
			}
			got := make(map[ID]int)
			for id, v := range o.list {
				got[id] = v.Tabs
			}
			if !maps.Equal(got, truth) {
				t.Fatalf("seed %d: observer %d has %v; the truth is %v", seed, i, got, truth)
			}
			if !reflect.DeepEqual(o.list, end.list) {
				t.Fatalf("seed %d: observer %d has %v; another has %v", seed, i, o.list, end.list)
			}
		}
	}
}

// What nodes say is merged to the same list in whatever order it comes, and however often.
func TestStatementsMergeInAnyOrder(t *testing.T) {
	type statement struct {
		node Node
		id   ID
		tabs int
		info string
		at   int64
	}
	all := []statement{
		{0, ID{Name: "ann"}, 1, "old", 1},
		{1, ID{Name: "ann"}, 2, "new", 5},
		{2, ID{Name: "ann"}, 1, "mid", 3},
		{1, ID{Name: "bob"}, 1, "b", 2},
		{2, ID{Name: "bob"}, 0, "", 9},
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		c := New(Rule{Members: 100})
		for _, s := range append(all, all...) {
			c.Set(1, s.node, s.id, s.tabs, s.info, s.at, true)
		}
		b, _ := c.Take(2)
		slices.SortFunc(b.Joined, func(a, b View) int { return b.Tabs - a.Tabs })
		want := []View{{ID{Name: "ann"}, 4, "new"}, {ID{Name: "bob"}, 1, "b"}}
		if !slices.Equal(b.Joined, want) {
			t.Fatalf("%v; want %v", b.Joined, want)
		}
	}
	c := New(Rule{Members: 100, Linger: time.Second})
	c.Join(0, ID{Name: "ann"}, "here", 1)
	c.Join(1, ID{Name: "ann"}, "there", 2)
	c.Take(1)
	var told []int
	c.Each(1, func(_ ID, tabs int, info string, at int64) bool {
		told = append(told, tabs, int(at))
		return info == "there"
	})
	if !slices.Equal(told, []int{1, 2}) {
		t.Errorf("node 1 says %v", told)
	}
	c.Down(1, 1)
	if b, ok := c.Take(2 * time.Second); !ok || len(b.Changed) != 1 || b.Changed[0] != (View{ID{Name: "ann"}, 1, "here"}) {
		t.Errorf("after node 1 is gone: %+v", b)
	}
}

// A page that is reloaded is no leave and join; a member that is cut leaves at once, even
// while it lingers.
func TestLinger(t *testing.T) {
	c := New(Rule{Members: 100, Linger: 15 * time.Second})
	ann := ID{Name: "ann"}
	m := c.Join(0, ann, "", 1)
	c.Take(1)
	c.Leave(1, 0, m, true)
	if c.Next(1) != 15*time.Second+1 {
		t.Errorf("the next thing happens at %s", c.Next(1))
	}
	m = c.Join(0, ann, "", 2)
	if b, ok := c.Take(10 * time.Second); ok {
		t.Errorf("a reload of the page is told: %+v", b)
	}
	if b, ok := c.Take(20 * time.Second); ok {
		t.Errorf("somebody who is back leaves: %+v", b)
	}
	c.Leave(20*time.Second, 0, m, true)
	if b, ok := c.Take(34 * time.Second); ok {
		t.Errorf("somebody leaves too early: %+v", b)
	}
	if b, ok := c.Take(35 * time.Second); !ok || len(b.Left) != 1 || b.Count != 0 || !c.IsEmpty() {
		t.Errorf("after the linger: %+v", b)
	}

	m = c.Join(0, ann, "", 3)
	second := c.Join(0, ann, "", 4)
	c.Take(40 * time.Second)
	c.Leave(40*time.Second, 0, m, true)
	c.Leave(40*time.Second, 0, second, false)
	if b, ok := c.Take(40 * time.Second); !ok || len(b.Left) != 1 {
		t.Errorf("somebody who was cut lingers: %+v", b)
	}
	// A shorter linger is not held up by a longer one.
	first := c.Join(0, ann, "", 5)
	other := c.Join(0, ID{Name: "bob"}, "", 5)
	c.Take(50 * time.Second)
	c.Leave(50*time.Second, 0, first, true)
	c.SetRule(Rule{Members: 100, Linger: time.Second})
	c.Leave(50*time.Second, 0, other, true)
	if b, ok := c.Take(51 * time.Second); !ok || len(b.Left) != 1 || b.Left[0].Name != "bob" {
		t.Errorf("after a linger of a second: %+v", b)
	}
}

// A burst comes in several batches, and those who were cut go before all others.
func TestBatchesAreBounded(t *testing.T) {
	c := New(Rule{Members: 100_000, Linger: time.Second})
	cut := c.Join(0, ID{Name: "cut"}, "", 1)
	c.Take(1)
	for n := range 1000 {
		c.Join(0, ID{Name: fmt.Sprint(n)}, "", 1)
	}
	c.Leave(1, 0, cut, false)
	sizes := []int{}
	for c.Next(1) != 0 {
		b, _ := c.Take(1)
		if sizes = append(sizes, len(b.Joined)); len(sizes) == 1 && len(b.Left) != 1 {
			t.Error("somebody who was cut waits behind those who join")
		}
	}
	if !slices.Equal(sizes, []int{255, 256, 256, 233}) {
		t.Errorf("batches of %v", sizes)
	}
	var members, pages int
	for after := uint64(0); ; {
		views, next := c.Page(after)
		members, pages = members+len(views), pages+1
		if after = next; next == 0 {
			break
		}
	}
	if members != 1000 || pages != 4 {
		t.Errorf("%d members on %d pages", members, pages)
	}
}

// A channel with many members is counted, and is not listed again at the first leave.
func TestManyAreOnlyCounted(t *testing.T) {
	c := New(Rule{Members: 10})
	var all []*Member
	for n := range 10 {
		all = append(all, c.Join(0, ID{Name: fmt.Sprint(n)}, "", 1))
	}
	if b, _ := c.Take(1); !b.Listed || len(b.Joined) != 10 {
		t.Errorf("ten members: %+v", b)
	}
	all = append(all, c.Join(0, ID{Name: "eleven"}, "", 1))
	if b, _ := c.Take(1); b.Listed || b.Count != 11 || len(b.Joined) != 0 {
		t.Errorf("eleven members: %+v", b)
	}
	leave := func() Batch {
		c.Leave(1, 0, all[0], true)
		all = all[1:]
		b, _ := c.Take(1)
		return b
	}
	if b := leave(); b.Listed || b.Count != 10 || b.Number != 3 {
		t.Errorf("ten again: %+v", b)
	}
	if b := leave(); !b.Listed || !b.Reset || b.Count != 9 {
		t.Errorf("nine: %+v", b)
	}
	if b := leave(); b.Reset || len(b.Left) != 1 {
		t.Errorf("eight: %+v", b)
	}
	if c := New(Rule{Members: 10, Count: true}); c.Listed() {
		t.Error("a channel that is only counted begins with a list")
	}
}

// TestMemberIsSmall measures what a member costs.
func TestMemberIsSmall(t *testing.T) {
	const n = 10_000
	names := make([]string, n)
	infos := make([]string, n)
	for i := range names {
		names[i], infos[i] = fmt.Sprintf("user-%05d", i), fmt.Sprintf(`{"name":"User %05d"}`, i)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := New(Rule{Members: n})
	for i := range names {
		c.Join(0, ID{Name: names[i]}, infos[i], 1)
	}
	for c.Next(1) != 0 {
		c.Take(1)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes a member, without its name and info", each)
	if each > 150 {
		t.Errorf("a member takes %d bytes besides its name and info", each)
	}
	runtime.KeepAlive(c)
}
