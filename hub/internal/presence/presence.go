// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package presence works out who is in a channel, and what to tell those who watch it.
//
// Each node of a cluster says how many tabs each user has in the channel. A [Channel]
// merges what the nodes say: it does not matter in which order they say it. From the
// merged list it makes batches of joins, leaves and changes, which it numbers. So all who
// watch at this node see the same list at the same number.
package presence

import (
	"slices"
	"sort"
	"time"
)

// Interval is the least time between two batches of a channel.
const Interval = 250 * time.Millisecond

// The limits of one batch and one page. What does not fit comes with the next one.
const (
	maxChanges = 256
	maxMembers = 256
	maxBytes   = 32 << 10
	overhead   = 48 // about what a member costs besides its name and info
)

// A Node is a number that the owner of a Channel gives to each server of a cluster.
type Node uint16

// An ID says who a member is: a user, or an agent whose user nobody knows.
type ID struct {
	Name      string // of the user; or the 16 bytes of the agent's uuid
	Anonymous bool
}

// A Rule is what the configuration says about a channel.
type Rule struct {
	// Linger is how long a member stays listed after its last tab is gone.
	Linger time.Duration
	// Members is the most that are listed. A channel with more is only counted.
	Members int
	// Count says that the channel is only counted.
	Count bool
}

// A View is a member as it was last told to those who watch.
type View struct {
	ID
	Tabs int
	Info string // JSON, or empty
}

func (v *View) size() int { return len(v.Name) + len(v.Info) + overhead }

// A Batch is what has changed since the batch with the number before.
type Batch struct {
	Number uint64
	Count  int  // members after it
	Listed bool // false: the channel is only counted, and the batch has no members
	// Reset says that the list has to be asked for again: the channel was only counted.
	Reset bool

	Joined, Left, Changed []View
}

// A part is what one node says about a member.
type part struct {
	info string
	at   int64 // when the node said it: the newest info counts
	tabs int32
	node Node
	// anonymous says that the member is an agent whose user nobody knows. It counts only in
	// Member.own, and stands here because it takes no memory here.
	anonymous bool
}

// A Member is somebody who has tabs in the channel, or had some a moment ago.
type Member struct {
	name  string
	own   part // of the node that named the member first
	order uint64
	rare  *rare // nil if all of it is empty, as of most members
}

// What is rare of a Member takes memory only where it is needed.
type rare struct {
	change change
	others []part // of further nodes
}

// A change is a member's difference from what was told.
type change struct {
	open    bool          // false: what was told is what is so
	info    string        // as it was told
	tabs    int32         // the same; 0: the member is not listed
	queued  bool          // the member is in Channel.changed
	urgent  bool          // the member is in Channel.urgent
	removed bool          // the member has left; others may still point to it
	until   time.Duration // until then the tabs are not lowered; 0: they are at once
}

// A Channel knows who is in one channel. Its owner makes sure that one goroutine uses it
// at a time. Times are on any clock that only goes forward, and never 0.
type Channel struct {
	rule     Rule
	users    map[string]*Member
	agents   map[string]*Member // anonymous ones
	list     []*Member          // by order; members that have left stay for a while
	dead     int                // how many of list have left
	orders   uint64
	number   uint64
	listed   int  // members that were told
	counting bool // the channel is only counted
	switched bool // a Rule may have changed that

	urgent, changed []*Member // those to look at in the next batch
	lingering       []linger  // in the order of their times
}

type linger struct {
	member *Member
	until  time.Duration
}

// New returns an empty Channel.
func New(r Rule) *Channel {
	return &Channel{rule: r, counting: r.Count, users: make(map[string]*Member), agents: make(map[string]*Member)}
}

// SetRule replaces the rule. Members that linger keep the time that they were given.
func (c *Channel) SetRule(r Rule) {
	if c.rule == r {
		return
	}
	c.switched = c.switched || c.rule.Members != r.Members || c.rule.Count != r.Count
	c.rule = r
}

func (c *Channel) of(id ID) map[string]*Member {
	if id.Anonymous {
		return c.agents
	}
	return c.users
}

func (c *Channel) obtain(node Node, id ID) *Member {
	if m := c.of(id)[id.Name]; m != nil {
		return m
	}
	c.orders++
	m := &Member{name: id.Name, order: c.orders, own: part{node: node, anonymous: id.Anonymous}}
	c.of(id)[id.Name] = m
	c.list = append(c.list, m)
	return m
}

// part returns what a node says about m; nil if it says nothing.
func (m *Member) part(node Node) *part {
	if m.own.node == node {
		return &m.own
	}
	if m.rare != nil {
		for i := range m.rare.others {
			if p := &m.rare.others[i]; p.node == node {
				return p
			}
		}
	}
	return nil
}

func (m *Member) obtainPart(node Node) *part {
	if p := m.part(node); p != nil {
		return p
	}
	r := m.obtainRare()
	r.others = append(r.others, part{node: node})
	return &r.others[len(r.others)-1]
}

func (m *Member) obtainRare() *rare {
	if m.rare == nil {
		m.rare = new(rare)
	}
	return m.rare
}

// merged returns the tabs of m at all nodes, and its newest info.
func (m *Member) merged() (tabs int32, info string) {
	tabs, info = m.own.tabs, m.own.info
	if m.rare == nil {
		return tabs, info
	}
	at, there := m.own.at, m.own.tabs > 0
	for _, p := range m.rare.others {
		tabs += p.tabs
		// A node where the member has no tabs any more counts only if no other has some.
		newer := p.at > at || p.at == at && p.info > info
		if p.tabs > 0 && (!there || newer) {
			at, info, there = p.at, p.info, true
		}
	}
	return tabs, info
}

// ID returns who the member is.
func (m *Member) ID() ID { return ID{m.name, m.own.anonymous} }

// note notes what was told of m, before it changes.
func (m *Member) note() *change {
	d := m.change()
	if d == nil {
		tabs, info := m.merged()
		d = &m.obtainRare().change
		*d = change{open: true, tabs: tabs, info: info}
	}
	return d
}

// change returns the difference from what was told, or nil if there is none.
func (m *Member) change() *change {
	if m.rare == nil || !m.rare.change.open {
		return nil
	}
	return &m.rare.change
}

// told forgets the difference from what was told: there is none any more.
func (m *Member) told() {
	if m.rare.change = (change{}); len(m.rare.others) == 0 {
		m.rare = nil
	}
}

// look has the next batch look at m, before others if it is urgent.
func (c *Channel) look(m *Member, urgent bool) {
	d := m.note()
	switch {
	case d.removed:
	case urgent && !d.urgent:
		d.urgent = true
		c.urgent = append(c.urgent, m)
	case !d.queued && !d.urgent:
		d.queued = true
		c.changed = append(c.changed, m)
	}
}

// Join adds a tab at a node, and says what is shown of the member. at is the wall clock of
// the node, in any unit that all nodes use.
func (c *Channel) Join(node Node, id ID, info string, at int64) *Member {
	m := c.obtain(node, id)
	p := m.part(node)
	tabs := int32(1)
	if p != nil {
		tabs += p.tabs
	}
	c.set(m, node, tabs, info, at, 0, cut)
	return m
}

// An ending is how a tab has ended.
type ending uint8

const (
	lingers ending = iota // the member may come back
	leaves                // it leaves at once
	cut                   // it leaves before others do, even if it lingers already
)

// ending returns how a tab of m ends that may come back. An agent whose user nobody knows
// would come back as another member.
func (m *Member) ending(may bool) ending {
	switch {
	case !may:
		return cut
	case m.own.anonymous:
		return leaves
	}
	return lingers
}

// Leave removes a tab of m at a node. A user whose last tab it was lingers if may is set;
// else the member leaves at once, even if it lingers already.
func (c *Channel) Leave(now time.Duration, node Node, m *Member, may bool) {
	p := m.part(node)
	if p == nil || p.tabs == 0 {
		return
	}
	c.set(m, node, p.tabs-1, p.info, p.at, now, m.ending(may))
}

// Restate replaces what is shown of m.
func (c *Channel) Restate(node Node, m *Member, info string, at int64) {
	if p := m.part(node); p != nil && p.tabs > 0 {
		c.set(m, node, p.tabs, info, at, 0, cut)
	}
}

// Set is what another node says: how many tabs a member has there, and what is shown of
// it. Saying the same again changes nothing. may is as in Leave.
func (c *Channel) Set(now time.Duration, node Node, id ID, tabs int, info string, at int64, may bool) {
	m := c.of(id)[id.Name]
	if m == nil {
		if tabs == 0 {
			return
		}
		m = c.obtain(node, id)
	}
	c.set(m, node, int32(tabs), info, at, now, m.ending(may))
}

func (c *Channel) set(m *Member, node Node, tabs int32, info string, at int64, now time.Duration, how ending) {
	d := m.note()
	p := m.obtainPart(node)
	fewer := tabs < p.tabs
	p.tabs = tabs
	if at >= p.at {
		p.info, p.at = info, at
	}
	total, _ := m.merged()
	switch {
	case total >= d.tabs:
		d.until = 0
	case fewer && how == lingers && c.rule.Linger > 0:
		c.linger(m, now+c.rule.Linger)
		if total == 0 {
			return // nothing of it shows before that time
		}
	case fewer && how == cut:
		d.until = 0
	}
	c.look(m, fewer && how == cut)
}

// linger has m stay as it is until a time.
func (c *Channel) linger(m *Member, until time.Duration) {
	m.change().until = until
	i := len(c.lingering) // another rule may have given members before it more time
	for i > 0 && c.lingering[i-1].until > until {
		i--
	}
	c.lingering = slices.Insert(c.lingering, i, linger{m, until})
}

// Down removes all tabs at a node that is gone. Members linger: the node may come back.
func (c *Channel) Down(now time.Duration, node Node) {
	for _, m := range slices.Clone(c.list) {
		if p := m.part(node); p != nil && p.tabs > 0 {
			c.set(m, node, 0, p.info, p.at, now, lingers)
		}
	}
}

// Each yields what a node says about each member that has tabs there.
func (c *Channel) Each(node Node, yield func(id ID, tabs int, info string, at int64) bool) {
	for _, m := range c.list {
		if p := m.part(node); p != nil && p.tabs > 0 && !yield(m.ID(), int(p.tabs), p.info, p.at) {
			return
		}
	}
}

// Next returns when Take must be called: at once if something has changed, else when the
// first member stops lingering. It returns 0 if there is nothing to wait for.
func (c *Channel) Next(now time.Duration) time.Duration {
	switch {
	case len(c.urgent) > 0 || len(c.changed) > 0 || c.switched:
		return now
	case len(c.lingering) > 0:
		return c.lingering[0].until
	default:
		return 0
	}
}

// Linger returns how long members stay listed after they are gone.
func (c *Channel) Linger() time.Duration { return c.rule.Linger }

// Count returns how many members were told.
func (c *Channel) Count() int { return c.listed }

// Number returns the number of the last batch.
func (c *Channel) Number() uint64 { return c.number }

// Listed reports whether members are listed, and not only counted.
func (c *Channel) Listed() bool { return !c.counting }

// IsEmpty reports whether nothing would be lost if the Channel were made anew.
func (c *Channel) IsEmpty() bool {
	return len(c.users) == 0 && len(c.agents) == 0
}

// Take returns what has changed. It takes a bounded number of changes; Next tells whether
// there are more. ok is false if there is nothing to tell.
func (c *Channel) Take(now time.Duration) (b Batch, ok bool) {
	for len(c.lingering) > 0 && c.lingering[0].until <= now {
		if l := c.lingering[0]; l.member.change() != nil && l.member.change().until == l.until {
			l.member.change().until = 0
			c.look(l.member, false)
		}
		c.lingering[0] = linger{}
		c.lingering = c.lingering[1:]
	}
	if len(c.lingering) == 0 {
		c.lingering = nil
	}
	before, room, size := c.listed, maxChanges, 0
	for (c.counting || room > 0 && size < maxBytes) && (len(c.urgent) > 0 || len(c.changed) > 0) {
		v, kind := c.tell(c.next())
		if kind == nothing {
			continue
		}
		ok = true
		if c.counting {
			continue
		}
		room--
		size += v.size()
		switch kind {
		case joined:
			b.Joined = append(b.Joined, v)
		case left:
			b.Left = append(b.Left, v)
		default:
			b.Changed = append(b.Changed, v)
		}
	}
	switched := c.switchMode()
	if c.counting {
		b = Batch{}
		ok = c.listed != before
	}
	b.Reset = switched && !c.counting
	if ok = ok || switched; ok {
		c.number++
	}
	b.Number, b.Count, b.Listed = c.number, c.listed, !c.counting
	if b.Reset {
		b.Joined, b.Left, b.Changed = nil, nil, nil
	}
	return b, ok
}

// switchMode reports whether the channel is counted from now on, or listed again. It is
// listed again only when it has clearly fewer members, so that it does not switch all the
// time.
func (c *Channel) switchMode() (switched bool) {
	counting := c.rule.Count || c.listed > c.rule.Members || c.counting && !c.switched && c.listed > c.rule.Members*9/10
	switched = counting != c.counting
	c.counting, c.switched = counting, false
	return switched
}

// next removes and returns the next member to look at.
func (c *Channel) next() (m *Member) {
	from := &c.changed
	if len(c.urgent) > 0 {
		from = &c.urgent
	}
	m, (*from)[0] = (*from)[0], nil
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	return m
}

// kind is what has happened to a member.
type kind uint8

const (
	nothing kind = iota
	joined
	left
	changed
)

// tell makes what is so of m what was told, and returns the difference.
func (c *Channel) tell(m *Member) (v View, k kind) {
	d := m.change()
	if d == nil || d.removed {
		return v, nothing
	}
	d.queued, d.urgent = false, false
	tabs, info := m.merged()
	if d.until != 0 {
		tabs = max(tabs, d.tabs)
	}
	v = View{m.ID(), int(tabs), info}
	switch {
	case d.tabs == 0 && tabs == 0:
		c.remove(m)
		return v, nothing
	case d.tabs == 0:
		k = joined
		c.listed++
	case tabs == 0:
		k = left
		c.listed--
		c.remove(m)
		return v, k
	case d.tabs != tabs || d.info != info:
		k = changed
	}
	if d.until == 0 {
		m.told()
	} else {
		d.tabs, d.info = tabs, info
	}
	return v, k
}

func (c *Channel) remove(m *Member) {
	m.note().removed = true
	delete(c.of(m.ID()), m.name)
	if c.dead++; c.dead > 32 && c.dead > len(c.list)/3 {
		c.list = slices.DeleteFunc(c.list, (*Member).isRemoved)
		c.list = slices.Clip(c.list)
		c.dead = 0
	}
}

func (m *Member) isRemoved() bool { return m.change() != nil && m.change().removed }

// view returns m as it was told; ok is false if it is not listed.
func (m *Member) view() (v View, ok bool) {
	tabs, info := m.merged()
	if d := m.change(); d != nil {
		tabs, info = d.tabs, d.info
	}
	return View{m.ID(), int(tabs), info}, tabs > 0 && !m.isRemoved()
}

// Page returns members as they were told, in the order in which they came: those that
// follow after, which is 0 or what another Page returned. next is 0 for the last page.
func (c *Channel) Page(after uint64) (members []View, next uint64) {
	i := sort.Search(len(c.list), func(i int) bool { return c.list[i].order > after })
	size := 0
	for ; i < len(c.list); i++ {
		v, ok := c.list[i].view()
		if !ok {
			continue
		}
		if len(members) == maxMembers || size > 0 && size+v.size() > maxBytes {
			return members, c.list[i].order - 1
		}
		size += v.size()
		members = append(members, v)
	}
	return members, 0
}
