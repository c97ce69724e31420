// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// An Operator sees and steers a hub for the people who run it: it lists agents and channels,
// and ends what agents have. It stands above all gates, so whoever may use it must have been
// checked before. It works on all nodes of the hub. Nothing that it returns has credentials,
// claims or attributes of agents.
//
// It never delays messages: it holds no lock for longer than it takes to look at a thousand
// agents or channels.
type Operator struct{ hub operated }

// operated is what an Operator lists and does on this machine.
type operated struct{ *Hub }

// Operator returns the Operator of the hub.
func (h *Hub) Operator() *Operator { return &Operator{operated{h}} }

// A Selector says which agents are meant: those that all of its fields match. Fields that are
// empty match all agents.
type Selector struct {
	// Agent is the server's name of one agent, see Agent.UUID.
	Agent string `json:"agent,omitempty"`
	// AgentID is the name that agents gave themselves.
	AgentID string `json:"agent_id,omitempty"`
	// User is the name of a user.
	User string `json:"user,omitempty"`
	// Channel is a channel or pattern that agents have subscribed to by exactly this name,
	// in whatever namespace.
	Channel string `json:"channel,omitempty"`
	// Namespace is that of the sessions.
	Namespace string `json:"namespace,omitempty"`
	// Address is an IP address or a network, such as 192.0.2.0/24.
	Address string `json:"address,omitempty"`
	// Transport is the name of a transport, such as "websocket".
	Transport string `json:"transport,omitempty"`
	// Attributes are attributes that the connect gate learned, with their values as text:
	// strings as they are, other values as JSON.
	Attributes map[string]string `json:"attributes,omitempty"`
	// All must be set to select all agents, with all other fields empty. So a forgotten
	// field ends nothing.
	All bool `json:"all,omitempty"`
}

// ErrSelector is what is wrong with a Selector, a query or an order. Its text says what.
var ErrSelector = errors.New("invalid selection")

func wrongSelection(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSelector}, args...)...)
}

// maxSelection is the longest value of a Selector, in bytes, and maxAttributes the most
// attributes.
const (
	maxSelection  = 1 << 10
	maxAttributes = 16
)

// A selection is a Selector that was checked.
type selection struct {
	Selector
	network netip.Prefix
}

// check checks s. change says that agents will lose something.
func (s Selector) check(change bool) (*selection, error) {
	out := &selection{Selector: s}
	for name, value := range map[string]string{
		"agent": s.Agent, "agent_id": s.AgentID, "user": s.User, "channel": s.Channel, "namespace": s.Namespace, "address": s.Address, "transport": s.Transport,
	} {
		if len(value) > maxSelection {
			return nil, wrongSelection("%s has more than %d bytes", name, maxSelection)
		}
	}
	if len(s.Attributes) > maxAttributes {
		return nil, wrongSelection("there are more than %d attributes", maxAttributes)
	}
	for name, value := range s.Attributes {
		if name == "" || len(name)+len(value) > maxSelection {
			return nil, wrongSelection("an attribute needs a name, and has at most %d bytes", maxSelection)
		}
	}
	if s.Channel != "" {
		if r := CheckPattern(s.Channel, MaxNameLength); r != nil {
			return nil, wrongSelection("channel: %s", r.Reason)
		}
	}
	if s.Address != "" {
		var err error
		if out.network, err = parseNetwork(s.Address); err != nil {
			return nil, wrongSelection("address %.100q is neither an IP address nor a network such as 192.0.2.0/24", s.Address)
		}
	}
	some := s.Agent != "" || s.AgentID != "" || s.User != "" || s.Channel != "" || s.Namespace != "" || s.Address != "" || s.Transport != "" || len(s.Attributes) > 0
	switch {
	case some && s.All:
		return nil, wrongSelection("all selects every agent: leave it out, or leave out the other fields")
	case change && !some && !s.All:
		return nil, wrongSelection("it names no agents: to mean every agent, set all")
	}
	return out, nil
}

func parseNetwork(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		return p.Masked(), err
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	ip = ip.Unmap().WithZone("")
	return ip.Prefix(ip.BitLen())
}

// matches reports whether the agent is selected.
func (s *selection) matches(a *Agent) bool {
	o := &a.opening
	switch {
	case s.Agent != "" && s.Agent != a.UUID(),
		s.Namespace != "" && s.Namespace != o.Namespace(),
		s.Transport != "" && s.Transport != o.Transport(),
		s.network.IsValid() && !s.network.Contains(o.RemoteIP().Unmap().WithZone("")),
		s.User != "" && s.User != a.User(),
		s.AgentID != "" && s.AgentID != a.AgentID():
		return false
	}
	attributes := a.identity.Load().Attributes
	for name, want := range s.Attributes {
		if value, ok := attributes[name]; !ok || attributeText(value) != want {
			return false
		}
	}
	return s.Channel == "" || a.leases.has(s.Channel)
}

// attributeText returns the text of an attribute.
func attributeText(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(text)
}

// has reports whether the agent has subscribed to a channel or pattern.
func (ls *leases) has(channel string) bool {
	ls.agent.mu.Lock()
	defer ls.agent.mu.Unlock()
	return slices.ContainsFunc(ls.subs, func(s *subscription) bool { return s.channel() == channel })
}

// lookAt is how many agents or channels are looked at before others may have the lock.
const lookAt = 1000

// each calls f with all agents that s selects, with no lock held.
func (s *selection) each(ctx context.Context, h *Hub, f func(*Agent)) error {
	if s.Channel != "" {
		return s.eachMember(ctx, h, f)
	}
	piece := make([]*Agent, 0, lookAt)
	look := func() {
		for n, a := range piece {
			yield(n)
			if s.matches(a) {
				f(a)
			}
		}
		piece = piece[:0]
	}
	h.mu.Lock()
	for a := range h.agents {
		if piece = append(piece, a); len(piece) < lookAt {
			continue
		}
		// The iteration goes on where it was, whatever changes in the map.
		h.mu.Unlock()
		look()
		if err := ctx.Err(); err != nil {
			return err
		}
		runtime.Gosched() // others wait for the lock
		h.mu.Lock()
	}
	h.mu.Unlock()
	look()
	return nil
}

// eachMember is each for a selection with a channel: it looks only at its subscribers.
func (s *selection) eachMember(ctx context.Context, h *Hub, f func(*Agent)) error {
	key, d := s.Channel, h.channels
	if IsPattern(key) {
		key, d = patternPrefix(key), h.patterns
	}
	for _, n := range d.named(key) {
		n.mu.RLock()
		members := make([]*Agent, len(n.members))
		for i, m := range n.members {
			members[i] = m.agent
		}
		n.mu.RUnlock()
		for _, a := range members {
			if s.matches(a) {
				f(a)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// named returns the nodes with that name in all namespaces.
func (d *directory) named(name string) (nodes []*node) {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.RLock()
		for key, n := range s.nodes {
			if strings.HasSuffix(key, name) && (len(key) == len(name) || key[len(key)-len(name)-1] == 0) {
				nodes = append(nodes, n)
			}
		}
		s.mu.RUnlock()
	}
	return nodes
}

// selected returns the agents that s selects.
func (s *selection) selected(ctx context.Context, h *Hub) (list []*Agent, err error) {
	err = s.each(ctx, h, func(a *Agent) { list = append(list, a) })
	return list, err
}

// A Farewell is how Disconnect ends sessions.
type Farewell struct {
	// Reason is shown to the agents. Empty is a sentence that says no more than that the
	// session was ended.
	Reason string `json:"reason,omitempty"`
	// Retry is how long agents should stay away. 0 lets them come back at once, spread over
	// some time.
	Retry time.Duration `json:"retry,omitempty"`
	// ForGood tells clients not to come back by themselves.
	ForGood bool `json:"for_good,omitempty"`
}

// maxReason is the longest reason that an operator can give, in bytes: a WebSocket close
// frame has room for it.
const maxReason = 120

func reasonText(reason, otherwise string) (string, error) {
	switch {
	case reason == "":
		return otherwise, nil
	case len(reason) > maxReason || !utf8.ValidString(reason):
		return "", wrongSelection("a reason has at most %d bytes of UTF-8", maxReason)
	}
	return reason, nil
}

// disconnect ends the sessions of the agents of this node that sel selects. What waits for
// them is dropped.
func (h operated) disconnect(ctx context.Context, sel Selector, f Farewell) (int, error) {
	s, err := sel.check(true)
	if err != nil {
		return 0, err
	}
	reason, err := reasonText(f.Reason, "this session was ended by the server")
	if err != nil {
		return 0, err
	}
	if f.Retry < 0 {
		return 0, wrongSelection("retry is negative: to keep agents from coming back, set for_good")
	}
	agents, err := s.selected(ctx, h.Hub)
	if err != nil {
		return 0, err
	}
	n := 0
	for i, retry := range comeBack(len(agents)) {
		switch {
		case f.ForGood:
			retry = -1
		case f.Retry > 0:
			retry = f.Retry
		}
		if agents[i].cutWith(reason, retry, false) {
			n++
		}
	}
	return n, nil
}

// unsubscribe ends the subscriptions of the selected agents of this node to a channel or
// pattern, by exactly that name.
func (h operated) unsubscribeSelected(ctx context.Context, sel Selector, channel, reason string) (int, error) {
	s, err := sel.check(true)
	if err != nil {
		return 0, err
	}
	if r := CheckPattern(channel, MaxNameLength); r != nil {
		return 0, wrongSelection("channel: %s", r.Reason)
	}
	if reason, err = reasonText(reason, "this subscription was ended by the server"); err != nil {
		return 0, err
	}
	if s.Channel == "" {
		s.Channel = channel // it looks only at its subscribers
	}
	agents, err := s.selected(ctx, h.Hub)
	n := 0
	for _, a := range agents {
		a.mu.Lock()
		i := slices.IndexFunc(a.leases.subs, func(s *subscription) bool { return s.channel() == channel })
		var sub *subscription
		if i >= 0 {
			sub = a.leases.subs[i]
		}
		a.mu.Unlock()
		if sub != nil && a.revoke(sub, refuse(CodeDenied, reason), nil) {
			n++
		}
	}
	return n, err
}

// reauthorizePace spreads the questions when an operator has gates asked again.
const reauthorizePace = reloadPace

// reauthorizeSelected has the gates of the selected agents of this node asked again: about
// being connected, and about each subscription. With many agents that is spread over some
// time.
func (h operated) reauthorizeSelected(ctx context.Context, sel Selector) (int, error) {
	s, err := sel.check(true)
	if err != nil {
		return 0, err
	}
	agents, err := s.selected(ctx, h.Hub)
	if err != nil {
		return 0, err
	}
	spread := time.Duration(0)
	if len(agents) > maxReauthorizers {
		spread = time.Duration(len(agents)) * reauthorizePace
	}
	n := 0
	for _, a := range agents {
		if a.leases.askAgain(rand.N(spread + 1)) { //nolint:gosec // G404: nothing secret
			n++
		}
	}
	return n, nil
}

// askAgain has the connect gate of a connected agent asked again, after a time. Its answer
// has the gates of the subscriptions asked.
func (ls *leases) askAgain(in time.Duration) bool {
	a := ls.agent
	a.mu.Lock()
	if a.state != stateConnected {
		a.mu.Unlock()
		return false
	}
	l, at := &ls.connect, max(a.hub.timers.now(), 1)+in
	switch t := l.terms(); {
	case t.wants != byFrame: // it is asked anyhow
	case in == 0 && !t.grace && !t.asked:
		l.want(byTime)
	default:
		l.askBy(at)
	}
	a.mu.Unlock()
	ls.reauthorize()
	ls.setTimer()
	return true
}

// An AgentQuery asks for a page of agents.
type AgentQuery struct {
	Selector
	// After is the Next of the page before.
	After string `json:"after,omitempty"`
	// Limit is the most agents of the page: 1 to 1000. 0 is 100.
	Limit int `json:"limit,omitempty"`
	// Top asks for the agents with the longest queues, and among equals for the newest, in
	// this order. There is no next page, and After must be empty.
	Top bool `json:"top,omitempty"`
}

// check returns the selection and the limit.
func (q *AgentQuery) check() (s *selection, limit int, err error) {
	if s, err = q.Selector.check(false); err != nil {
		return nil, 0, err
	}
	if q.Top && q.After != "" {
		return nil, 0, errTopAfter
	}
	limit, err = pageLimit(q.Limit)
	return s, limit, err
}

var errTopAfter = wrongSelection("top has no next page: leave after out")

// pageLimits are the default and the most items of a page.
const (
	defaultListing = 100
	longestListing = 1000
)

func pageLimit(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultListing, nil
	case limit < 0 || limit > longestListing:
		return 0, wrongSelection("limit must be 1 to %d", longestListing)
	}
	return limit, nil
}

// An AgentInfo describes an agent.
type AgentInfo struct {
	Node      string    `json:"node,omitempty"` // the name of its machine; empty if there is only one
	Agent     string    `json:"agent"`
	AgentID   string    `json:"agent_id,omitempty"`
	User      string    `json:"user,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Endpoint  string    `json:"endpoint"` // the Mount of its policy
	Transport string    `json:"transport"`
	Address   string    `json:"address,omitempty"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	// Subscriptions is how many it has. Channels are the first ones: 16, or 1000 if the
	// Selector names the agent.
	Subscriptions int      `json:"subscriptions"`
	Channels      []string `json:"channels,omitempty"`
	// QueuedFrames and QueuedBytes are what waits to be written.
	QueuedFrames int `json:"queued_frames"`
	QueuedBytes  int `json:"queued_bytes"`
}

// listedChannels is how many channels of an agent are listed.
const listedChannels = 16

// infoOf returns what an operator sees of a. most limits the channels.
func (h operated) infoOf(a *Agent, node string, most int) AgentInfo {
	i := AgentInfo{
		Node:      node,
		Agent:     a.UUID(),
		User:      a.User(),
		Namespace: a.opening.Namespace(),
		Endpoint:  a.policy.Load().Mount,
		Transport: a.opening.Transport(),
		Since:     time.Now().Add(a.opened - h.timers.now()).Truncate(time.Millisecond).UTC(),
	}
	if ip := a.opening.RemoteIP(); ip.IsValid() {
		i.Address = ip.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i.AgentID, i.Connected = a.agentID, a.state == stateConnected
	i.Subscriptions = len(a.leases.subs)
	for _, s := range a.leases.subs[:min(most, len(a.leases.subs))] {
		i.Channels = append(i.Channels, s.channel())
	}
	slices.Sort(i.Channels)
	i.QueuedFrames, i.QueuedBytes = a.out.queue.count, a.out.queue.bytes
	return i
}

// An AgentPage is a page of agents, in the order of their names.
type AgentPage struct {
	Agents []AgentInfo `json:"agents"`
	// Next is the After of the next page; empty after the last one.
	Next string `json:"next,omitempty"`
	// More says of Top that there are more agents.
	More bool `json:"more,omitempty"`
	// Silent are the machines that did not answer: their agents are missing.
	Silent []string `json:"silent,omitempty"`
}

// A listedAgent is an agent with what a list is sorted by.
type listedAgent struct {
	*Agent
	queued int // bytes
}

func byName(a, b listedAgent) int { return bytes.Compare(a.id[:], b.id[:]) }

func byQueue(a, b listedAgent) int {
	return cmp.Or(cmp.Compare(b.queued, a.queued), cmp.Compare(b.opened, a.opened), byName(a, b))
}

// compareQueues orders agents of all nodes as byQueue does those of one.
func (i *AgentInfo) compareQueues(o *AgentInfo) int {
	return cmp.Or(cmp.Compare(o.QueuedBytes, i.QueuedBytes), o.Since.Compare(i.Since), strings.Compare(i.Agent, o.Agent))
}

// queuedBytes returns how much waits to be written to the agent.
func (a *Agent) queuedBytes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.queue.bytes
}

// listAgents returns a page of the agents of this node.
func (h operated) listAgents(ctx context.Context, q AgentQuery, node string) (AgentPage, error) {
	s, limit, err := q.check()
	if err != nil {
		return AgentPage{}, err
	}
	var after uuid.UUID
	if q.After != "" {
		if after, err = uuid.Parse(q.After); err != nil {
			return AgentPage{}, wrongSelection("after must be the next of the previous page")
		}
	}
	list := smallest[listedAgent]{most: limit + 1, compare: byName}
	if q.Top {
		list.compare = byQueue
	}
	err = s.each(ctx, h.Hub, func(a *Agent) {
		switch {
		case q.Top:
			list.add(listedAgent{a, a.queuedBytes()})
		case bytes.Compare(a.id[:], after[:]) > 0:
			list.add(listedAgent{a, 0})
		}
	})
	page := AgentPage{Agents: []AgentInfo{}}
	most := listedChannels
	if q.Agent != "" {
		most = longestListing
	}
	room := pageBytes
	for n, a := range list.sorted() {
		yield(n)
		i := h.infoOf(a.Agent, node, most)
		if q.Top {
			i.QueuedBytes = a.queued // the list is sorted by it
		}
		room -= i.size()
		if n == limit || room < 0 && n > 0 {
			if page.More = q.Top; !q.Top {
				page.Next = page.Agents[n-1].Agent
			}
			break
		}
		page.Agents = append(page.Agents, i)
	}
	return page, err
}

// yield lets others run, now and then: a message must not wait until a list is complete.
func yield(n int) {
	if n%100 == 99 {
		runtime.Gosched()
	}
}

// pageBytes limits a page as JSON, so that a Bus takes it.
const pageBytes = MaxBusPayload / 2

// itemSize is about how many bytes an item has as JSON, without its texts.
const itemSize = 400

// size returns about how many bytes i has as JSON; it is never too few.
func (i *AgentInfo) size() int {
	n := itemSize
	for _, text := range []string{i.Node, i.AgentID, i.User, i.Namespace, i.Endpoint, i.Transport} {
		n += textSize(text)
	}
	for _, channel := range i.Channels {
		n += textSize(channel) + len(`"",`)
	}
	return n
}

func (i *ChannelInfo) size() int { return itemSize + textSize(i.Namespace) + textSize(i.Channel) }

// textSize returns how many bytes a text has as JSON at most.
func textSize(text string) int {
	n := len(text)
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c >= 0x7F, c == '"', c == '\\', c == '<', c == '>', c == '&':
			n += len(`\u0000`) - 1
		}
	}
	return n
}

// smallest are the smallest of the items that were added.
type smallest[T any] struct {
	most    int
	compare func(a, b T) int
	items   []T // sorted if it has most
}

func (s *smallest[T]) add(item T) {
	if len(s.items) < s.most {
		if s.items = append(s.items, item); len(s.items) == s.most {
			slices.SortFunc(s.items, s.compare)
		}
		return
	}
	if s.compare(item, s.items[s.most-1]) >= 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(s.items, item, s.compare)
	copy(s.items[i+1:], s.items[i:])
	s.items[i] = item
}

func (s *smallest[T]) sorted() []T {
	slices.SortFunc(s.items, s.compare)
	return s.items
}

// A ChannelQuery asks for a page of the channels and patterns that have subscribers.
type ChannelQuery struct {
	// Namespace, if not empty, is that of the channels.
	Namespace string `json:"namespace,omitempty"`
	// Prefix is what their names begin with.
	Prefix string `json:"prefix,omitempty"`
	// Channel, if not empty, asks for one channel or pattern, in the Namespace, even if it
	// has no subscribers.
	Channel string `json:"channel,omitempty"`
	// After is the Next of the page before.
	After string `json:"after,omitempty"`
	// Limit is the most channels of the page: 1 to 1000. 0 is 100.
	Limit int `json:"limit,omitempty"`
	// Top asks for the channels and patterns with the most subscribers, in this order. There
	// is no next page, and After must be empty. With many machines, each names its own, so a
	// channel may be missing that is not among them on any machine.
	Top bool `json:"top,omitempty"`
}

// A ChannelInfo describes a channel or pattern.
type ChannelInfo struct {
	Namespace string `json:"namespace,omitempty"`
	Channel   string `json:"channel"`
	// Subscribers is how many agents have subscribed to it by this name.
	Subscribers int `json:"subscribers"`
	// Members is how many members presence counts; Present says that there is presence.
	Members int  `json:"members,omitempty"`
	Present bool `json:"presence,omitempty"`
	// Messages and Position are those of its history.
	Messages int    `json:"messages,omitempty"`
	Position string `json:"position,omitempty"`
}

// A ChannelPage is a page of channels, in the order of namespace and name.
type ChannelPage struct {
	Channels []ChannelInfo `json:"channels"`
	// Next is the After of the next page; empty after the last one.
	Next string `json:"next,omitempty"`
	// More says of Top that there are more channels.
	More bool `json:"more,omitempty"`
	// Silent are the machines that did not answer: their subscribers are missing.
	Silent []string `json:"silent,omitempty"`
}

// next returns the After of the channels that follow i.
func (i *ChannelInfo) next() string { return i.Namespace + "/" + i.Channel }

// compare orders channels: by namespace, then by name.
func (i *ChannelInfo) compare(o *ChannelInfo) int {
	return cmp.Or(strings.Compare(i.Namespace, o.Namespace), strings.Compare(i.Channel, o.Channel))
}

// compareSubscribers orders channels: by subscribers, the most first.
func (i *ChannelInfo) compareSubscribers(o *ChannelInfo) int {
	return cmp.Or(cmp.Compare(o.Subscribers, i.Subscribers), i.compare(o))
}

func (q *ChannelQuery) check() (limit int, err error) {
	if limit, err = pageLimit(q.Limit); err != nil {
		return 0, err
	}
	if q.Top && q.After != "" {
		return 0, errTopAfter
	}
	if q.Channel != "" {
		if r := CheckPattern(q.Channel, MaxNameLength); r != nil {
			return 0, wrongSelection("channel: %s", r.Reason)
		}
		if q.Prefix != "" {
			return 0, wrongSelection("channel asks for one channel: leave it or the prefix out")
		}
	}
	for _, value := range []string{q.Namespace, q.Prefix, q.After} {
		if len(value) > maxSelection {
			return 0, wrongSelection("namespace, prefix and after have at most %d bytes", maxSelection)
		}
	}
	return limit, nil
}

// listChannels returns a page of the channels of this node.
func (h operated) listChannels(ctx context.Context, q ChannelQuery) (ChannelPage, error) {
	limit, err := q.check()
	if err != nil {
		return ChannelPage{}, err
	}
	page := ChannelPage{Channels: []ChannelInfo{}}
	if q.Channel != "" {
		if i := h.channelInfo(q.Namespace, q.Channel); i.Subscribers > 0 || i.Messages > 0 || i.Present {
			page.Channels = append(page.Channels, i)
		}
		return page, nil
	}
	list := h.findChannels(ctx, &q, limit)
	room := pageBytes
	for n, found := range list.sorted() {
		yield(n)
		i := h.channelInfo(found.Namespace, found.Channel)
		if q.Top {
			i.Subscribers = found.Subscribers // the list is sorted by it
		}
		room -= i.size()
		if n == limit || room < 0 && n > 0 {
			if page.More = q.Top; !q.Top {
				page.Next = page.Channels[n-1].next()
			}
			break
		}
		page.Channels = append(page.Channels, i)
	}
	return page, ctx.Err()
}

// findChannels finds the channels and patterns that a page of limit begins with. Only Top needs
// their subscribers.
func (h operated) findChannels(ctx context.Context, q *ChannelQuery, limit int) smallest[ChannelInfo] {
	var after ChannelInfo
	after.Namespace, after.Channel, _ = strings.Cut(q.After, "/")
	list := smallest[ChannelInfo]{most: limit + 1, compare: func(a, b ChannelInfo) int { return a.compare(&b) }}
	if q.Top {
		list.compare = func(a, b ChannelInfo) int { return a.compareSubscribers(&b) }
	}
	for _, d := range []*directory{h.channels, h.patterns} {
		for key := range d.keys(ctx) {
			i := ChannelInfo{}
			i.Namespace, i.Channel, _ = cutKey(key)
			if q.Namespace != "" && q.Namespace != i.Namespace || !strings.HasPrefix(i.Channel, q.Prefix) && !d.patterns {
				continue
			}
			if d.patterns {
				i.Channel += "*"
			}
			if i.compare(&after) <= 0 || !strings.HasPrefix(i.Channel, q.Prefix) {
				continue
			}
			if q.Top {
				i.Subscribers = d.find(key).subscribers()
			}
			list.add(i)
		}
	}
	return list
}

// keys yields the keys of all nodes, with no lock held.
func (d *directory) keys(ctx context.Context) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range d.shards {
			s := &d.shards[i]
			s.mu.RLock()
			all := slices.AppendSeq(make([]string, 0, len(s.nodes)), maps.Keys(s.nodes))
			s.mu.RUnlock()
			runtime.Gosched()
			for _, key := range all {
				if !yield(key) {
					return
				}
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// channelInfo describes a channel or pattern as this node knows it.
func (h operated) channelInfo(namespace, channel string) ChannelInfo {
	i := ChannelInfo{Namespace: namespace, Channel: channel}
	d, key := h.channels, keyOf(namespace, channel)
	if IsPattern(channel) {
		d, key = h.patterns, keyOf(namespace, patternPrefix(channel))
	}
	i.Subscribers = d.find(key).subscribers()
	if d.patterns {
		return i
	}
	i.Members, i.Present = h.presences.count(key)
	i.Messages, i.Position = countKept(h.history, key)
	return i
}

// subscribers returns how many subscribers n has. n may be nil.
func (n *node) subscribers() int {
	if n == nil {
		return 0
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.members)
}

// count returns how many members a channel has.
func (ps *presences) count(key string) (members int, ok bool) {
	ps.mu.Lock()
	r := ps.rosters[key]
	ps.mu.Unlock()
	if r == nil {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Count(), true
}

// countKept returns how many messages of a channel are kept, and the position of the newest.
func countKept(h *history, key string) (messages int, position string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[key]
	if r == nil || len(r.entries) == 0 {
		return 0, ""
	}
	newest := r.entries[len(r.entries)-1]
	return len(r.entries), Position{h.epoch, newest.seq - h.base, newest.check}.String()
}

// A NodeInfo describes a hub on one machine.
type NodeInfo struct {
	Node          string         `json:"node,omitempty"` // its name; empty if there is only one machine
	Agents        map[string]int `json:"agents"`         // by transport
	Subscriptions int            `json:"subscriptions"`
	Channels      int            `json:"channels"`
	Patterns      int            `json:"patterns"`
	Members       int            `json:"members"`
	Published     uint64         `json:"published"` // by agents and programs at this machine
	Delivered     uint64         `json:"delivered"`
	// Since is when the hub was made. All counts begin then.
	Since time.Time `json:"since"`
	// FramesReceived and BytesReceived are what agents sent, and BytesSent what was written to
	// them. Dropped are messages that an agent did not get, or that were not published.
	FramesReceived uint64 `json:"frames_received"`
	BytesReceived  uint64 `json:"bytes_received"`
	BytesSent      uint64 `json:"bytes_sent"`
	Dropped        uint64 `json:"dropped"`
	// Refusals counts what was refused, by gates and limits.
	Refusals uint64 `json:"refusals"`
	// Position is how far the machine has applied the log. Behind says that there is more.
	Position string `json:"position,omitempty"`
	Behind   bool   `json:"behind,omitempty"`
	// Broker is what joins the machines; nil if there is only one.
	Broker *BrokerInfo `json:"broker,omitempty"`
	// HistoryMessages and HistoryBytes are what the machine keeps in memory.
	HistoryMessages int `json:"history_messages"`
	HistoryBytes    int `json:"history_bytes"`
}

// A BrokerInfo describes what joins a machine with others. Its counts are those of BrokerStats.
type BrokerInfo struct {
	Engine    string `json:"engine"`
	Server    string `json:"server,omitempty"` // where the machine is connected
	Connected bool   `json:"connected"`
	Nodes     int    `json:"nodes"` // machines that are up, with this one
	Filled    uint64 `json:"filled"`
	Lost      uint64 `json:"lost"`
	Skipped   uint64 `json:"skipped"`
}

// nodeInfo describes this node.
func (h operated) nodeInfo(node string) NodeInfo {
	s := h.Stats()
	i := NodeInfo{
		Node: node, Agents: s.Agents, Subscriptions: s.Subscriptions, Channels: s.Channels, Patterns: s.Patterns,
		Members: s.Members, Published: s.Published, Delivered: s.Delivered,
		Since:          h.timers.start.Truncate(time.Millisecond).UTC(),
		FramesReceived: s.FramesReceived, BytesReceived: s.BytesReceived, BytesSent: s.BytesSent,
		Refusals: h.refusals.count(),
	}
	for _, n := range s.Dropped {
		i.Dropped += n
	}
	if b := s.Broker; b != nil {
		i.Broker = &BrokerInfo{
			Engine: b.Engine, Server: b.Server, Connected: b.Connected, Nodes: b.Nodes,
			Filled: b.Filled, Lost: b.Lost, Skipped: b.Skipped,
		}
	}
	h.history.mu.Lock()
	defer h.history.mu.Unlock()
	i.Behind, i.HistoryMessages, i.HistoryBytes = h.history.behind, h.history.live, h.history.bytes
	if h.history.last > h.history.base {
		i.Position = h.history.positionLocked(h.history.last).String()
	}
	return i
}
