// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package presence keeps the list of the members of a channel, and works out what to tell the
// agents that watch it.
//
// Each node of a cluster says how many tabs each user has in the channel. A [Channel] merges
// these statements, in whatever order they come. From the merged list it makes numbered
// batches of joins, leaves and changes. So all watchers at this node see the same list at the
// same number.
package presence

import (
	"slices"
	"sort"
	"time"
)

// Interval is the least time between two batches of a channel.
const Interval = 250 * time.Millisecond

// The limits of one batch and one page. The rest comes with the next one.
const (
	maxChanges = 256
	maxMembers = 256
	maxBytes   = 32 << 10
	overhead   = 48 // the approximate bytes of a member besides its name and info
)

// A Node is a number that the owner of a Channel gives to each server of a cluster.
type Node uint16

// An ID identifies a member: a user, or an agent without a known user.
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

// A View is a member as the watchers know it.
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
	// Reset says that watchers must ask for the list again: the channel was only counted.
	Reset bool

	Joined, Left, Changed []View
}

// A part is what one node says about a member.
type part struct {
	info string
	at   int64 // when the node said it: the newest info counts
	tabs int32
	node Node
	// anonymous says that the member is an agent without a known user. It counts only in
	// Member.own, and is here because it takes no memory here.
	anonymous bool
}

// A Member has tabs in the channel, or had some a moment ago.
type Member struct {
	name  string
	own   part // of the node that named the member first
	order uint64
	rare  *rare // nil if everything in it is empty, as for most members
}

// A rare has fields that most Members do not need, to save memory.
type rare struct {
	change change
	others []part // of further nodes
}

// A change is the difference between a member and what the watchers know of it.
type change struct {
	open    bool          // false: there is no difference
	info    string        // as the watchers know it
	tabs    int32         // likewise; 0: the watchers do not know the member
	queued  bool          // the member is in Channel.changed
	urgent  bool          // the member is in Channel.urgent
	removed bool          // the member has left; others may still point to it
	until   time.Duration // until then the watchers see no fewer tabs; 0: they see it at once
}

// A Channel has the members of one channel. Its owner makes sure that only one goroutine at a
// time uses it. Times are on any clock that only goes forward, and never 0.
type Channel struct {
	rule     Rule
	users    map[string]*Member
	agents   map[string]*Member // anonymous ones
	list     []*Member          // by order; members that have left stay for a while
	dead     int                // number of members in list that have left
	orders   uint64
	number   uint64
	listed   int  // members that the watchers know
	counting bool // the channel is only counted
	switched bool // a new Rule may have changed that

	urgent, changed []*Member // for the next batch
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

// part returns the statement of a node about m; nil if there is none.
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
		// The info of a node without tabs counts only if no other node has tabs.
		newer := p.at > at || p.at == at && p.info > info
		if p.tabs > 0 && (!there || newer) {
			at, info, there = p.at, p.info, true
		}
	}
	return tabs, info
}

// ID returns who the member is.
func (m *Member) ID() ID { return ID{m.name, m.own.anonymous} }

// note stores what the watchers know of m, before m changes.
func (m *Member) note() *change {
	d := m.change()
	if d == nil {
		tabs, info := m.merged()
		d = &m.obtainRare().change
		*d = change{open: true, tabs: tabs, info: info}
	}
	return d
}

// change returns the difference from what the watchers know, or nil if there is none.
func (m *Member) change() *change {
	if m.rare == nil || !m.rare.change.open {
		return nil
	}
	return &m.rare.change
}

// told notes that the watchers know m as it is. It forgets what nodes have said that have no
// tabs of m any more, so that members do not grow with each node that comes and goes.
func (m *Member) told() {
	r := m.rare
	if len(r.others) > 0 {
		r.others = slices.DeleteFunc(r.others, func(p part) bool { return p.tabs == 0 })
		if last := len(r.others) - 1; m.own.tabs == 0 && last >= 0 {
			p := r.others[last]
			p.anonymous = m.own.anonymous
			m.own, r.others = p, r.others[:last]
		}
	}
	if m.rare.change = (change{}); len(m.rare.others) == 0 {
		m.rare = nil
	}
}

// look adds m to the next batch, before others if it is urgent.
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

// Join adds a tab at a node. info is what others see of the member. at is the wall clock of the
// node, in any unit that all nodes use.
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
	leaves                // the member leaves at once
	cut                   // likewise, before others, even if it lingers already
)

// ending returns how a tab of m ends. may says that it may come back. An agent without a
// known user never does: it would be another member.
func (m *Member) ending(may bool) ending {
	switch {
	case !may:
		return cut
	case m.own.anonymous:
		return leaves
	}
	return lingers
}

// Leave removes a tab of m at a node. If it was the last tab of a user and may is set, the
// member lingers. Otherwise it leaves at once, even if it lingers already.
func (c *Channel) Leave(now time.Duration, node Node, m *Member, may bool) {
	p := m.part(node)
	if p == nil || p.tabs == 0 {
		return
	}
	c.set(m, node, p.tabs-1, p.info, p.at, now, m.ending(may))
}

// Restate replaces what others see of m.
func (c *Channel) Restate(node Node, m *Member, info string, at int64) {
	if p := m.part(node); p != nil && p.tabs > 0 {
		c.set(m, node, p.tabs, info, at, 0, cut)
	}
}

// Set applies the statement of another node: how many tabs a member has there, and what others
// see of it. Repeating a statement changes nothing. may is as in Leave.
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
			return // the watchers see nothing of it before that time
		}
	case fewer && how == cut:
		d.until = 0
	}
	c.look(m, fewer && how == cut)
}

// linger keeps m as it is until a time.
func (c *Channel) linger(m *Member, until time.Duration) {
	m.change().until = until
	i := len(c.lingering) // another rule may have given earlier members more time
	for i > 0 && c.lingering[i-1].until > until {
		i--
	}
	c.lingering = slices.Insert(c.lingering, i, linger{m, until})
}

// Down removes all tabs at a node that is gone. Its members linger, because it may come back.
func (c *Channel) Down(now time.Duration, node Node) {
	for _, m := range slices.Clone(c.list) {
		if p := m.part(node); p != nil && p.tabs > 0 {
			c.set(m, node, 0, p.info, p.at, now, lingers)
		}
	}
}

// Each yields the statement of a node about each member that has tabs there.
func (c *Channel) Each(node Node, yield func(id ID, tabs int, info string, at int64) bool) {
	for _, m := range c.list {
		if p := m.part(node); p != nil && p.tabs > 0 && !yield(m.ID(), int(p.tabs), p.info, p.at) {
			return
		}
	}
}

// State returns what a node says about a member: nothing, that is 0 tabs, if it has none there.
func (c *Channel) State(node Node, id ID) (tabs int, info string, at int64) {
	m := c.of(id)[id.Name]
	if m == nil {
		return 0, "", 0
	}
	p := m.part(node)
	if p == nil {
		return 0, "", 0
	}
	return int(p.tabs), p.info, p.at
}

// Rule returns the rule.
func (c *Channel) Rule() Rule { return c.rule }

// Next returns when to call Take: now if something has changed, otherwise when the first member
// stops lingering. It returns 0 if there is nothing to wait for.
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

// Count returns how many members the watchers know.
func (c *Channel) Count() int { return c.listed }

// Number returns the number of the last batch.
func (c *Channel) Number() uint64 { return c.number }

// Listed reports whether members are listed, and not only counted.
func (c *Channel) Listed() bool { return !c.counting }

// IsEmpty reports whether the Channel has no members, so that a new one could replace it.
func (c *Channel) IsEmpty() bool {
	return len(c.users) == 0 && len(c.agents) == 0
}

// Take returns the next batch, with a bounded number of changes. Next tells whether there are
// more. ok is false if nothing has changed.
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

// switchMode switches between listing and counting if the number of members requires it, and
// reports whether it has. A channel is listed again only when it has clearly fewer members, so
// that it does not switch all the time.
func (c *Channel) switchMode() (switched bool) {
	counting := c.rule.Count || c.listed > c.rule.Members || c.counting && !c.switched && c.listed > c.rule.Members*9/10
	switched = counting != c.counting
	c.counting, c.switched = counting, false
	return switched
}

// next removes and returns the next member for the batch.
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

// A kind says what has happened to a member.
type kind uint8

const (
	nothing kind = iota
	joined
	left
	changed
)

// tell returns what has changed of m, for a batch. The watchers then know m as it is.
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

// view returns m as the watchers know it; ok is false if they do not know it.
func (m *Member) view() (v View, ok bool) {
	tabs, info := m.merged()
	if d := m.change(); d != nil {
		tabs, info = d.tabs, d.info
	}
	return View{m.ID(), int(tabs), info}, tabs > 0 && !m.isRemoved()
}

// Page returns members as the watchers know them, in the order in which they came. after is 0
// for the first page, and then the next that the previous Page returned. next is 0 for the last
// page.
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
