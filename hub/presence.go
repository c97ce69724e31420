// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub/internal/presence"
)

// A PresenceRule is the configuration of the presence of a channel: the list of its members,
// which agents can watch. Each agent that subscribes to the channel is a member of it. Agents
// of one user are one member.
type PresenceRule struct {
	// Linger is how long a member stays listed after its last agent is gone.
	Linger time.Duration
	// Members is the largest number of members that are listed. If a channel has more, agents
	// get only their number.
	Members int
	// Count says that agents get only the number of members.
	Count bool
	// Info returns what others see of an agent, as JSON; nil shows nothing. Question has
	// the agent, its identity and the channel. It is called with no lock held.
	Info func(*Question) ([]byte, error)
	// By is different for rules that differ in anything.
	By Fingerprint
}

// Presences finds the rule of a channel, or nil if it has no presence. It is called
// concurrently and must not block.
type Presences interface {
	Presence(channel string) *PresenceRule
}

// MaxPresenceInfo is the largest number of bytes that PresenceRule.Info may return.
const MaxPresenceInfo = 1 << 10

// thisNode is this server among the nodes of a cluster.
const thisNode presence.Node = 0

// presence returns the rule of a channel or pattern. Patterns have none: an agent that
// subscribes to a pattern is not a member of each of its channels.
func (p *Policy) presence(channel string) *PresenceRule {
	if p.Presences == nil || IsPattern(channel) {
		return nil
	}
	return p.Presences.Presence(channel)
}

// is reports whether r and o are the same rule. Either may be nil.
func (r *PresenceRule) is(o *PresenceRule) bool {
	return r == o || r != nil && o != nil && r.By.is(o.By)
}

// A roster has the members of one channel, and tells the agents that watch it about changes.
// It exists while the channel has members, or members linger.
type roster struct {
	// Immutable.
	hub          *Hub
	key, channel string
	born         time.Duration // on the hub's clock

	delivering sync.Mutex // held by run, so that batches keep their order; taken before node.mu

	watchers []*subscription // guarded by the mu of the channel's node

	mu       sync.Mutex // guards the following; a leaf
	state    *presence.Channel
	timer    *time.Timer   // calls run
	due      time.Duration // when; 0: it does not
	last     time.Duration // when run last ran
	watching int           // watchers
	counted  int           // of the hub's count of members
	listing  int           // members whose endpoint lists them, by subscription
	seats    int           // members, by subscription at this node
	behind   bool          // an agent has missed a batch, and must be told
}

// A seat makes a subscriber a member of its channel.
type seat struct {
	roster *roster
	member *presence.Member // nil once it has left; guarded by the agent's mu
	watch  *watch           // nil: the agent does not watch
}

// A watch is the right of an agent to see the members of a channel.
type watch struct {
	lease  lease // guarded by the agent's mu
	index  int   // in roster.watchers; guarded by the node's mu
	behind bool  // it has missed a batch; guarded by roster.delivering, or node.mu to begin

	pager *pager // of a listener, else nil; guarded as behind
}

// presences are the rosters of a hub.
type presences struct {
	closed            atomic.Bool
	members, watchers atomic.Int64
	bus               atomic.Pointer[presenceBus] // nil: there is one machine

	mu      sync.Mutex // guards rosters; roster.mu is taken under it
	rosters map[string]*roster
}

// close stops all timers.
func (ps *presences) close() {
	ps.closed.Store(true)
	if pb := ps.bus.Swap(nil); pb != nil {
		pb.close()
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, r := range ps.rosters {
		r.mu.Lock()
		if r.timer != nil {
			r.timer.Stop()
		}
		r.mu.Unlock()
	}
}

// now returns the time on the hub's clock; it is never 0.
func (r *roster) now() time.Duration { return max(r.hub.timers.now(), 1) }

// join adds a tab of a member to the channel of n. The caller holds n.mu.
func (ps *presences) join(h *Hub, n *node, channel string, p *presentation) (*roster, *presence.Member) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r := ps.rosters[n.key()]
	if r == nil {
		r = ps.addLocked(h, n.key(), channel, p.rule.shared())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ruleLocked(p, false)
	r.seats++
	m := r.state.Join(thisNode, p.id, p.info, time.Now().UnixNano())
	r.noteLocked(p.id, false)
	r.armLocked()
	return r, m
}

// addLocked adds an empty roster.
func (ps *presences) addLocked(h *Hub, key, channel string, rule presence.Rule) *roster {
	r := &roster{hub: h, key: key, channel: channel, born: h.timers.now(), state: presence.New(rule)}
	if ps.rosters == nil {
		ps.rosters = make(map[string]*roster)
	}
	ps.rosters[key] = r
	return r
}

// shared returns what a roster needs of the rule.
func (r *PresenceRule) shared() presence.Rule {
	return presence.Rule{Linger: r.Linger, Members: r.Members, Count: r.Count}
}

// ruleLocked puts the rule of a subscription into effect. before says that the subscription
// listed members so far. Endpoints with different rules may share a hub: while one of them
// lists members, the roster does. Agents of the others get only the count.
func (r *roster) ruleLocked(p *presentation, before bool) {
	if before {
		r.listing--
	}
	if !p.rule.Count {
		r.listing++
	}
	if !p.rule.Count || r.listing == 0 {
		r.state.SetRule(p.rule.shared())
	}
}

// drop removes r if it has no members and no watchers.
func (ps *presences) drop(r *roster) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.IsEmpty() && r.watching == 0 && ps.rosters[r.key] == r {
		delete(ps.rosters, r.key)
	}
}

// leave removes a tab of a member. Without linger, the member leaves at once. lists says
// whether its subscription listed members.
func (r *roster) leave(m *presence.Member, linger, lists bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if lists {
		r.listing--
	}
	r.seats--
	r.state.Leave(r.now(), thisNode, m, linger)
	r.noteLocked(m.ID(), !linger)
	r.armLocked()
}

// restate replaces what is shown of a member. lists says whether its subscription listed
// members so far.
func (r *roster) restate(m *presence.Member, p *presentation, lists bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ruleLocked(p, lists)
	r.state.Restate(thisNode, m, p.info, time.Now().UnixNano())
	r.noteLocked(p.id, false)
	r.armLocked()
}

// behindRetry is how soon an agent that missed a batch hears of it, if it reads again.
const behindRetry = time.Second

// armLocked sets the timer for the next work of r, at least Interval after the last run.
func (r *roster) armLocked() {
	now := r.now()
	at := r.state.Next(now)
	if at != 0 {
		if at <= now {
			at = now + presence.Interval
		}
		at = max(at, r.last+presence.Interval)
	}
	if behind := now + behindRetry; r.behind && (at == 0 || behind < at) {
		at = behind
	}
	if at == 0 || r.due != 0 && r.due <= at || r.hub.presences.closed.Load() {
		return
	}
	r.due = at
	if r.timer == nil {
		r.timer = time.AfterFunc(at-now, r.run)
	} else {
		r.timer.Reset(at - now)
	}
}

// run sends the watchers what has changed.
func (r *roster) run() {
	r.delivering.Lock()
	defer r.delivering.Unlock()
	var n *node
	for {
		n = r.hub.channels.find(r.key)
		if n != nil {
			// No subscription begins or ends between the batch and its delivery. So an agent
			// gets the batches that follow its snapshot, and no other.
			n.mu.RLock()
			if n.dead.Load() {
				n.mu.RUnlock()
				continue
			}
		}
		r.mu.Lock()
		if n != nil || r.watching == 0 {
			break
		}
		r.mu.Unlock() // an agent has just begun to watch
	}
	r.due, r.last = 0, r.now()
	b, ok := r.state.Take(r.last)
	r.countLocked()
	behind := r.behind
	r.behind = false
	empty := r.state.IsEmpty()
	r.armLocked()
	r.mu.Unlock()
	if n != nil {
		if (ok || behind) && r.deliver(&b, ok) {
			r.mu.Lock()
			r.behind = true
			r.armLocked()
			r.mu.Unlock()
		}
		n.mu.RUnlock()
	}
	if empty {
		r.hub.presences.drop(r)
	}
}

// countLocked keeps the hub's count of members.
func (r *roster) countLocked() {
	r.hub.presences.members.Add(int64(r.state.Count() - r.counted))
	r.counted = r.state.Count()
}

// deliver queues a batch for all watchers. A watcher whose queue is crowded misses it. It is
// told later to ask for the list again. deliver reports whether there is such a watcher. The
// caller holds the mu of the node.
func (r *roster) deliver(b *presence.Batch, ok bool) (behind bool) {
	h := r.hub
	f := h.fanouts.Get().(*fanout)
	defer f.put(h)
	var all, reset, count *Message // made when an agent needs them
	obtain := func(m **Message, b *presence.Batch) *Message {
		if *m == nil {
			*m = r.message(appendPresence(nil, r.channel, b))
		}
		return *m
	}
	for _, s := range r.watchers {
		a, w := s.agent, s.seat.watch
		var each *Message
		switch {
		case !ok && !w.behind && !w.isPaging():
			continue
		case w.pager != nil && (w.behind || b.Reset):
			w.pager.begin()
		case !ok && !w.behind: // only pages
		case !b.Listed || !s.lists:
			each = obtain(&count, &presence.Batch{Number: b.Number, Count: b.Count})
		case w.behind:
			each = obtain(&reset, &presence.Batch{Number: b.Number, Count: b.Count, Listed: true, Reset: true})
		default:
			each = obtain(&all, b)
		}
		queued, notify := true, false
		if each != nil {
			queued, notify = a.out.offer(each)
		}
		w.behind = !queued
		if w.isPaging() && queued {
			more, awake := r.push(s)
			queued, notify = !more, notify || awake
		}
		behind = behind || !queued
		if notify {
			h.wake(f, a)
		}
	}
	return behind
}

// isPaging reports whether pages of the list are to be pushed.
func (w *watch) isPaging() bool { return w.pager != nil && w.pager.paging }

func (r *roster) message(frame []byte) *Message {
	return &Message{Channel: r.channel, key: r.key, object: frame, presence: true}
}

// offer queues a frame about members, unless the queue is crowded: the agent can ask for the
// list again. For an agent that is being closed, it reports that the frame was queued.
func (o *outbox) offer(m *Message) (queued, notify bool) {
	a := o.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state != stateConnected:
		return true, false
	case o.queue.isCrowded():
		return false, false
	}
	return true, o.acceptLocked(item{bytes: m.encoded(o.conn.Form()), msg: m})
}

// A presentation is what others see of an agent in a channel.
type presentation struct {
	rule     *PresenceRule // nil: the channel has no presence
	policy   *Policy       // whose rule it is
	identity *Identity     // of the agent
	id       presence.ID
	info     string
}

// presentation works out what others see of an agent in a channel. The caller holds no
// lock.
func (p *Policy) presentation(a *Agent, i *Identity, channel string) (out presentation) {
	out.policy, out.identity, out.rule = p, i, p.presence(channel)
	if out.rule == nil {
		return out
	}
	user := a.userWith(i)
	out.id = presence.ID{Name: user}
	if user == "" {
		out.id = presence.ID{Name: string(a.id[:]), Anonymous: true}
	}
	if out.rule.Info == nil {
		return out
	}
	info, err := out.rule.infoOf(a, i, channel)
	if err != nil {
		p.Log.Error("the info of a member could not be made, so the member is listed without it", "channel", channel, "agent", a.UUID(), "error", err)
		return out
	}
	out.info = string(info)
	return out
}

func (r *PresenceRule) infoOf(a *Agent, i *Identity, channel string) (info []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			info, err = nil, fmt.Errorf("panic: %v", v)
		}
	}()
	info, err = r.Info(&Question{Gate: GatePresence, Agent: a, Channel: channel, Identity: i})
	if err == nil && len(info) > MaxPresenceInfo {
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(info), MaxPresenceInfo)
	}
	return info, err
}

// seatLocked makes the subscriber a member, as p presents it. If the channel has no presence,
// it ends the membership. The caller holds the node's mu and the agent's.
func (s *subscription) seatLocked(p *presentation) {
	t := s.seat
	switch {
	case p.rule == nil && t == nil:
	case p.rule == nil:
		s.vacateLocked(false)
		s.unwatchLocked()
		s.seat = nil
	case t == nil:
		s.seat = new(seat)
		s.seat.roster, s.seat.member = s.agent.hub.presences.join(s.agent.hub, s.node, s.channel(), p)
		s.lists = !p.rule.Count
	case t.member != nil && t.member.ID() == p.id:
		t.roster.restate(t.member, p, s.lists)
		s.listLocked(!p.rule.Count)
	default: // a reload has given the agent another user
		_, m := s.agent.hub.presences.join(s.agent.hub, s.node, s.channel(), p) // first, so that the roster stays
		s.vacateLocked(false)
		t.member = m
		s.listLocked(!p.rule.Count)
	}
}

// listLocked notes whether the agent gets a list of members. If that has changed, the agent
// is told soon. The caller holds the node's mu and the agent's.
func (s *subscription) listLocked(lists bool) {
	t := s.seat
	if s.lists == lists {
		return
	}
	s.lists = lists
	if t.watch == nil {
		return
	}
	t.watch.behind = true
	t.roster.mu.Lock()
	defer t.roster.mu.Unlock()
	t.roster.behind = true
	t.roster.armLocked()
}

// vacateLocked ends the membership. The caller holds the agent's mu.
func (s *subscription) vacateLocked(linger bool) {
	if t := s.seat; t != nil && t.member != nil {
		t.roster.leave(t.member, linger, s.lists)
		t.member = nil
	}
}

// vacateLocked ends all memberships at once. The caller holds the agent's mu.
func (ls *leases) vacateLocked() {
	for _, s := range ls.subs {
		s.vacateLocked(false)
	}
}

// watchLocked makes the agent a watcher of the channel. The caller holds the node's mu and the
// agent's.
func (s *subscription) watchLocked(l lease) {
	t := s.seat
	if t.watch != nil {
		t.watch.lease, t.watch.behind = l, false
		return
	}
	t.watch = &watch{lease: l, index: len(t.roster.watchers)}
	t.roster.watchers = append(t.roster.watchers, s)
	s.agent.hub.presences.watchers.Add(1)
	t.roster.mu.Lock()
	t.roster.watching++
	t.roster.mu.Unlock()
}

// unwatchLocked undoes watchLocked. The caller holds the node's mu, and the agent's unless
// the agent is gone. It reports whether the agent watched.
func (s *subscription) unwatchLocked() bool {
	t := s.seat
	if t == nil || t.watch == nil {
		return false
	}
	r := t.roster
	last := len(r.watchers) - 1
	moved := r.watchers[last]
	r.watchers[t.watch.index], moved.seat.watch.index = moved, t.watch.index
	r.watchers[last] = nil
	r.watchers = r.watchers[:last]
	t.watch = nil
	s.agent.hub.presences.watchers.Add(-1)
	r.mu.Lock()
	r.watching--
	r.mu.Unlock()
	return true
}

// watchLease returns the lease of the watch; nil if the agent does not watch.
func (s *subscription) watchLease() *lease {
	if s.seat == nil || s.seat.watch == nil {
		return nil
	}
	return &s.seat.watch.lease
}

// snapshotLocked adds a page of members to an answer to a watcher. If no other agent watches,
// the page includes the newest changes, so that the first agent that asks finds itself in the
// list. The caller holds the node's mu.
func (r *roster) snapshotLocked(answer []byte, after uint64, lists bool) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after == 0 {
		r.takeLocked()
	}
	return appendSnapshot(answer, r.state, after, r.settlesLocked(), lists)
}

// takeLocked adds the newest changes to the list, unless another agent watches, which must get
// them in a batch.
func (r *roster) takeLocked() {
	if r.watching <= 1 {
		r.state.Take(r.now())
		r.countLocked()
	}
}

// settlesLocked returns the time until all members from before the server's start have had
// time to come back.
func (r *roster) settlesLocked() time.Duration {
	return max(r.state.Rule().Linger-(r.now()-r.born), 0)
}

// present updates the membership to the agent's present policy and identity. The caller holds
// no lock.
func (s *subscription) present() {
	a := s.agent
	for {
		a.mu.Lock()
		seated := s.seat != nil
		a.mu.Unlock()
		p, i := a.policy.Load(), a.identity.Load()
		if !seated && p.presence(s.channel()) == nil {
			return
		}
		pr := p.presentation(a, i, s.channel())
		s.node.mu.Lock()
		a.mu.Lock()
		current := pr.policy == a.policy.Load() && pr.identity == a.identity.Load()
		var notify bool
		if current && a.state == stateConnected && a.leases.find(s.node) >= 0 {
			watched := s.watchLease() != nil
			if s.seatLocked(&pr); watched && s.seat == nil {
				notify = a.leases.tellUnwatchedLocked(s, noPresence)
			}
		}
		a.mu.Unlock()
		s.node.unlock()
		if notify {
			a.notify()
		}
		if current {
			return
		}
	}
}

// present does that for all subscriptions.
func (ls *leases) present() {
	a := ls.agent
	a.mu.Lock()
	var subs []*subscription
	for _, s := range ls.subs {
		if s.seat != nil {
			subs = append(subs, s)
		}
	}
	a.mu.Unlock()
	for _, s := range subs {
		s.present()
	}
}

// membersLocked adds the members of the channel to the answer to a subscribe, or the reason
// why the agent cannot see them. The caller holds the node's mu and the agent's.
func (o *op) membersLocked(s *subscription, answer []byte) []byte {
	if r := o.watchLocked(s); r != nil {
		return appendNoPresence(answer, r)
	}
	return s.seat.roster.snapshotLocked(answer, 0, s.lists)
}

// watchLocked makes the agent a watcher, as its subscribe asked. It returns the reason if that
// is not allowed. The caller holds the node's mu and the agent's.
func (o *op) watchLocked(s *subscription) *Refusal {
	f := o.furtherVerdict(GatePresence)
	switch {
	case IsPattern(s.channel()):
		return noPatternPresence
	case o.members.refused != nil: // an earlier watch goes on
		return o.members.refused
	case s.seat == nil || f == nil:
		return noPresence
	case f.verdict.Refusal != nil:
		s.unwatchLocked()
		return f.verdict.Refusal
	}
	s.watchLocked(newLease(&f.verdict, f.by, o.agent.hub.timers.now()))
	return nil
}

// tellMembers answers a frame on /meta/presence that is allowed. It does nothing if o is
// stale, and then returns false.
func (h *Hub) tellMembers(o *op) (done bool) {
	a := o.agent
	n := h.channels.find(keyOf(a.opening.Namespace(), o.channel))
	if n == nil {
		a.answer(&o.in, notSubscribed)
		return true
	}
	n.mu.Lock()
	a.mu.Lock()
	done = a.state != stateConnected || !o.isStale()
	var notify bool
	if done && a.state == stateConnected {
		notify = a.out.acceptLocked(item{bytes: a.out.conn.Form().encode(o.memberAnswerLocked(n))})
	}
	a.mu.Unlock()
	n.unlock()
	if notify {
		a.notify()
	}
	a.leases.setTimer()
	return done
}

// memberAnswerLocked returns the answer to a frame on /meta/presence. The caller holds n.mu
// and the agent's mu.
func (o *op) memberAnswerLocked(n *node) []byte {
	a := o.agent
	i := a.leases.find(n)
	if i < 0 {
		return answerTo(&o.in, notSubscribed)
	}
	s := a.leases.subs[i]
	switch {
	case o.members.stop:
		s.unwatchLocked()
		return answerTo(&o.in, nil)
	case s.seat == nil:
		return answerTo(&o.in, noPresence)
	case o.holds && s.watchLease() == nil && o.members.after > 0:
		return answerTo(&o.in, notWatching)
	case o.holds && s.watchLease() == nil: // it has just ended: the client may ask again
		return answerTo(&o.in, expiredPresence)
	case !o.holds:
		s.watchLocked(newLease(&o.verdict, o.by, a.hub.timers.now()))
	}
	return s.seat.roster.snapshotLocked(answerTo(&o.in, nil), o.members.after, s.lists)
}
