// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// operatorTopic is the topic of an Operator's questions to other nodes.
const operatorTopic = "operator"

// operatorPatience is how long an Operator waits for other nodes. A node that hangs is down
// by then.
const operatorPatience = BusTimeout + time.Second

// maxOperating is how many questions of Operators a node answers at a time. Further ones
// wait: together they must not take more than one core.
const maxOperating = 1

// An Effect is what an order of an Operator has done.
type Effect struct {
	// Agents is how many agents it was done to, on all machines.
	Agents int `json:"agents"`
	// Silent are the machines that did not answer. What they did is not known; an order may
	// be given again.
	Silent []string `json:"silent,omitempty"`
}

// Agents returns a page of the agents that q selects, on all machines. Errors that are
// ErrSelector say what is wrong with q.
func (o *Operator) Agents(ctx context.Context, q AgentQuery) (AgentPage, error) {
	pages, silent, err := ask[AgentPage](ctx, o.hub, order{Do: "agents", Agents: &q})
	page := AgentPage{Silent: silent}
	m := merging[AgentInfo]{
		compare: func(a, b *AgentInfo) int { return strings.Compare(a.Agent, b.Agent) },
		next:    func(i *AgentInfo) string { return i.Agent },
	}
	if q.Top {
		m.compare = (*AgentInfo).compareQueues
	}
	page.Agents, page.Next = merge(pages, q.Limit, func(p AgentPage) ([]AgentInfo, string) { return p.Agents, p.Next }, m)
	if q.Top {
		page.More = page.Next != "" || slices.ContainsFunc(pages, func(p AgentPage) bool { return p.More })
		page.Next = ""
	}
	return page, err
}

// Channels returns a page of the channels that q selects, on all machines together. Errors
// that are ErrSelector say what is wrong with q.
func (o *Operator) Channels(ctx context.Context, q ChannelQuery) (ChannelPage, error) {
	pages, silent, err := ask[ChannelPage](ctx, o.hub, order{Do: "channels", Channels: &q})
	page := ChannelPage{Silent: silent}
	if q.Top && err == nil {
		page.Channels, page.More = o.topChannels(ctx, pages, q.Limit)
		return page, nil
	}
	page.Channels, page.Next = merge(pages, q.Limit, func(p ChannelPage) ([]ChannelInfo, string) { return p.Channels, p.Next }, byChannel)
	return page, err
}

// byChannel has one entry for each channel.
var byChannel = merging[ChannelInfo]{compare: (*ChannelInfo).compare, next: (*ChannelInfo).next, join: (*ChannelInfo).join}

// topChannels makes one list of those of all nodes. A node names only its own top, so all of
// them are asked about each channel of the list.
func (o *Operator) topChannels(ctx context.Context, pages []ChannelPage, limit int) (list []ChannelInfo, more bool) {
	limit, _ = pageLimit(limit) // it was checked
	top := func(pages []ChannelPage) []ChannelInfo {
		joined := []ChannelInfo{}
		for _, p := range pages {
			joined = append(joined, p.Channels...)
			more = more || p.More
		}
		joined = byChannel.joined(joined)
		slices.SortFunc(joined, func(a, b ChannelInfo) int { return a.compareSubscribers(&b) })
		more = more || len(joined) > limit
		return joined[:min(len(joined), limit)]
	}
	list = top(pages)
	if len(pages) < 2 {
		return list, more
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].next()
	}
	exact, _, err := ask[ChannelPage](ctx, o.hub, order{Do: "named", Names: names})
	if err != nil || len(exact) < len(pages) {
		return list, more // the numbers of the nodes that named them
	}
	return top(exact), more
}

// Refusals returns what was refused recently, on all machines, the newest first: at most 100
// of each. namespace, if not empty, selects those in it. silent are the machines that did not
// answer.
func (o *Operator) Refusals(ctx context.Context, namespace string) (list []RefusalInfo, silent []string, err error) {
	all, silent, err := ask[[]RefusalInfo](ctx, o.hub, order{Do: "refusals", Selector: Selector{Namespace: namespace}})
	list = slices.Concat(all...)
	slices.SortStableFunc(list, func(a, b RefusalInfo) int { return b.Time.Compare(a.Time) })
	return list, silent, err
}

// join adds what another machine knows of the channel. Each knows all members and messages;
// one that is behind knows fewer.
func (i *ChannelInfo) join(o *ChannelInfo) {
	i.Subscribers += o.Subscribers
	i.Members, i.Present = max(i.Members, o.Members), i.Present || o.Present
	before, _ := ParsePosition(i.Position)
	if p, ok := ParsePosition(o.Position); ok && (i.Position == "" || p.Seq > before.Seq) {
		i.Position, i.Messages = o.Position, o.Messages
	}
}

// Nodes describes the hub on each machine. silent are the machines that did not answer.
func (o *Operator) Nodes(ctx context.Context) (nodes []NodeInfo, silent []string, err error) {
	nodes, silent, err = ask[NodeInfo](ctx, o.hub, order{Do: "nodes"})
	slices.SortFunc(nodes, func(a, b NodeInfo) int { return cmp.Compare(a.Node, b.Node) })
	return nodes, silent, err
}

// Disconnect ends the sessions of the selected agents. Messages that wait for them are
// dropped. Agents that are connecting at this moment may be left out: it is for a gate to
// keep them away.
func (o *Operator) Disconnect(ctx context.Context, s Selector, f Farewell) (Effect, error) {
	return o.change(ctx, order{Do: "disconnect", Selector: s, Farewell: f})
}

// Unsubscribe ends the selected agents' subscriptions to a channel or pattern, by exactly
// that name, and tells them the reason. An empty reason says only that it was ended.
func (o *Operator) Unsubscribe(ctx context.Context, s Selector, channel, reason string) (Effect, error) {
	return o.change(ctx, order{Do: "unsubscribe", Selector: s, Channel: channel, Farewell: Farewell{Reason: reason}})
}

// Reauthorize has the gates of the selected agents asked again: about being connected, and
// about each subscription. It does not wait for their answers. With more than 128 agents the
// questions are spread over some time, 500 agents a second.
func (o *Operator) Reauthorize(ctx context.Context, s Selector) (Effect, error) {
	return o.change(ctx, order{Do: "reauthorize", Selector: s})
}

func (o *Operator) change(ctx context.Context, d order) (e Effect, err error) {
	effects, silent, err := ask[Effect](ctx, o.hub, d)
	for _, one := range effects {
		e.Agents += one.Agents
	}
	e.Silent = silent
	return e, err
}

// An order is what an Operator asks of each node.
type order struct {
	Do       string        `json:"do"`
	Selector Selector      `json:"selector"`
	Channel  string        `json:"channel,omitempty"`
	Farewell Farewell      `json:"farewell"`
	Agents   *AgentQuery   `json:"agents,omitempty"`
	Channels *ChannelQuery `json:"channels,omitempty"`
	Names    []string      `json:"names,omitempty"` // of channels, as ChannelInfo.next
}

var errOrder = errors.New("this machine does not know that order")

// carryOut does what an order says on this node.
func (h operated) carryOut(ctx context.Context, d *order) (any, error) {
	node := ""
	if b := h.Bus(); b != nil {
		node = b.Self().Name
	}
	select {
	case h.operating <- struct{}{}:
		defer func() { <-h.operating }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var e Effect
	var err error
	switch {
	case d.Do == "agents" && d.Agents != nil:
		return h.listAgents(ctx, *d.Agents, node)
	case d.Do == "channels" && d.Channels != nil:
		return h.listChannels(ctx, *d.Channels)
	case d.Do == "named" && len(d.Names) <= longestListing:
		page := ChannelPage{}
		for n, name := range d.Names {
			yield(n)
			namespace, channel, _ := strings.Cut(name, "/")
			page.Channels = append(page.Channels, h.channelInfo(namespace, channel))
		}
		return page, nil
	case d.Do == "refusals":
		return h.refusals.recent(d.Selector.Namespace, node), nil
	case d.Do == "nodes":
		return h.nodeInfo(node), nil
	case d.Do == "disconnect":
		e.Agents, err = h.disconnect(ctx, d.Selector, d.Farewell)
	case d.Do == "unsubscribe":
		e.Agents, err = h.unsubscribeSelected(ctx, d.Selector, d.Channel, d.Farewell.Reason)
	case d.Do == "reauthorize":
		e.Agents, err = h.reauthorizeSelected(ctx, d.Selector)
	default:
		err = errOrder
	}
	return e, err
}

// answerOrder answers another node. A node that cannot say what it did is silent.
func (h operated) answerOrder(ctx context.Context, _ NodeID, b []byte) []byte {
	var d order
	if json.Unmarshal(b, &d) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	answer, err := h.carryOut(ctx, &d)
	if err != nil {
		return nil
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return nil
	}
	return text
}

// ask has all nodes carry out an order, and returns their answers: that of this node first.
// silent are the names of those that did not answer.
func ask[T any](ctx context.Context, h operated, d order) (answers []T, silent []string, err error) {
	own, err := h.carryOut(ctx, &d) // also finds what is wrong with it
	if err != nil {
		return nil, nil, err
	}
	answers = []T{own.(T)}
	bus := h.Bus()
	if bus == nil {
		return answers, nil, nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, nil, err
	}
	waiting := h.others.all()
	asking, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	err = bus.Ask(asking, operatorTopic, b, func(from NodeID, b []byte) bool {
		var a T
		if json.Unmarshal(b, &a) == nil {
			answers = append(answers, a)
			delete(waiting, from)
		}
		return true
	})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil && asking.Err() == nil && len(waiting) == 0 {
		silent = append(silent, "the other machines") // this one is cut off from them
	}
	for id := range waiting {
		silent = append(silent, id.Name)
	}
	slices.Sort(silent)
	return answers, silent, nil
}

// merging says how the items of pages become one list.
type merging[T any] struct {
	compare func(a, b *T) int
	next    func(last *T) string // the After of what follows
	join    func(one, other *T)  // makes one item of two that are equal; nil if there are none
}

// merge makes one page of pages that begin at the same place. list returns the items of a
// page and its Next.
func merge[P, T any](pages []P, limit int, list func(P) ([]T, string), m merging[T]) (out []T, next string) {
	limit, err := pageLimit(limit)
	if err != nil || len(pages) == 0 {
		return nil, ""
	}
	out = []T{}
	var end *T // what comes later is missing in one of the pages
	for _, p := range pages {
		items, next := list(p)
		out = append(out, items...)
		if next != "" && len(items) > 0 {
			if last := &items[len(items)-1]; end == nil || m.compare(last, end) < 0 {
				end = last
			}
		}
	}
	out = m.joined(out)
	n := 0
	for n < min(len(out), limit) && (end == nil || m.compare(&out[n], end) <= 0) {
		n++
	}
	switch {
	case n < len(out):
		next = m.next(&out[n-1])
	case end != nil:
		next = m.next(end)
	}
	return out[:n], next
}

// joined sorts a list, and makes one item of those that are equal.
func (m merging[T]) joined(list []T) []T {
	slices.SortStableFunc(list, func(a, b T) int { return m.compare(&a, &b) })
	out := list[:0]
	for i := range list {
		if n := len(out); m.join != nil && n > 0 && m.compare(&out[n-1], &list[i]) == 0 {
			m.join(&out[n-1], &list[i])
			continue
		}
		out = append(out, list[i])
	}
	return out
}

// otherNodes are the other nodes that are up.
type otherNodes struct {
	mu  sync.Mutex // guards the following; a leaf
	bus Bus
	up  map[NodeID]struct{}
}

// watch follows the nodes of a Bus, and no longer those of the one before.
func (o *otherNodes) watch(b Bus) {
	o.mu.Lock()
	o.bus, o.up = b, make(map[NodeID]struct{})
	o.mu.Unlock()
	if b == nil {
		return
	}
	b.Watch(func(node NodeID, up bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		switch {
		case o.bus != b:
		case up:
			o.up[node] = struct{}{}
		default:
			delete(o.up, node)
		}
	})
}

// all returns the nodes that are up now.
func (o *otherNodes) all() map[NodeID]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[NodeID]struct{}, len(o.up))
	for id := range o.up {
		all[id] = struct{}{}
	}
	return all
}
