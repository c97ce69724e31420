// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// A state is what the page shows. It lists what it has field by field, so that nothing else
// that operators may see gets here: no addresses, no agentIds, no credentials.
type state struct {
	Hub      string    `json:"hub"`
	Time     time.Time `json:"time"`
	Machines []machine `json:"machines"`
	Silent   []string  `json:"silent,omitempty"` // machines that did not answer

	Channels     []channel `json:"channels"` // with the most subscribers
	MoreChannels bool      `json:"more_channels,omitempty"`
	Agents       []agent   `json:"agents"` // with the longest queues, then the newest
	MoreAgents   bool      `json:"more_agents,omitempty"`
	Refusals     []refusal `json:"refusals"` // the newest first
}

// A machine is the hub on one machine. Its counts begin at Since.
type machine struct {
	Name            string         `json:"name,omitempty"` // empty if there is only one
	Since           time.Time      `json:"since"`
	Agents          map[string]int `json:"agents"` // by transport
	Subscriptions   int            `json:"subscriptions"`
	Channels        int            `json:"channels"`
	Patterns        int            `json:"patterns"`
	Members         int            `json:"members"`
	Published       uint64         `json:"published"`
	Delivered       uint64         `json:"delivered"`
	Dropped         uint64         `json:"dropped"`
	Refusals        uint64         `json:"refusals"`
	Frames          uint64         `json:"frames"` // from agents
	BytesReceived   uint64         `json:"bytes_received"`
	BytesSent       uint64         `json:"bytes_sent"`
	HistoryMessages int            `json:"history_messages"`
	HistoryBytes    int            `json:"history_bytes"`
	Behind          bool           `json:"behind,omitempty"`
}

type channel struct {
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name"`
	Subscribers int    `json:"subscribers"`
	Messages    int    `json:"messages"`          // that are kept
	Members     *int   `json:"members,omitempty"` // if the channel has presence
}

type agent struct {
	Name          string    `json:"name"` // the beginning of the name that it has in the log
	Machine       string    `json:"machine,omitempty"`
	User          string    `json:"user,omitempty"`
	Namespace     string    `json:"namespace,omitempty"`
	Transport     string    `json:"transport"`
	Connected     bool      `json:"connected"`
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
	Channels      []string  `json:"channels,omitempty"` // some of them
	QueuedFrames  int       `json:"queued_frames"`
	QueuedBytes   int       `json:"queued_bytes"`
}

type refusal struct {
	Time      time.Time `json:"time"`
	Machine   string    `json:"machine,omitempty"`
	Operation string    `json:"operation"`
	Code      string    `json:"code"`
	Guard     string    `json:"guard,omitempty"`
	Reason    string    `json:"reason"`
	Channel   string    `json:"channel,omitempty"`
	User      string    `json:"user,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Count     uint64    `json:"count"`
	Others    uint64    `json:"others,omitempty"` // like it, and not listed
}

const (
	defaultRows = 25
	mostRows    = 100 // of a table
	mostText    = 1 << 10
	// shownChannels is how many channels of an agent are listed, and shownName how much of its
	// name: enough to find it in the log.
	shownChannels = 4
	shownName     = 8
	// shownUser is the most bytes of a user's name. A backend may give it a longer one.
	shownUser = 256
)

// A query says which state is asked for.
type query struct {
	namespace string // of the request; empty for all
	prefix    string // of the channels
	channel   string // of the agents
	user      string // of the agents
	limit     int    // of each table
}

var errQuery = errors.New("invalid query")

// queryOf reads the query of a request.
func queryOf(r *http.Request, o *hub.Opening) (q query, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("%w: it cannot be read", errQuery)
	}
	q = query{namespace: o.Namespace, limit: defaultRows}
	texts := map[string]*string{"prefix": &q.prefix, "channel": &q.channel, "user": &q.user}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		switch to := texts[name]; {
		case to != nil && len(value) > mostText:
			return q, fmt.Errorf("%w: %s has more than %d bytes", errQuery, name, mostText)
		case to != nil:
			*to = strings.Clone(value)
		case name == "limit":
			if q.limit, err = strconv.Atoi(value); err != nil || q.limit < 1 || q.limit > mostRows {
				return q, fmt.Errorf("%w: limit must be a number from 1 to %d", errQuery, mostRows)
			}
		default:
			return q, fmt.Errorf("%w: there is no parameter %.100q: there are prefix, channel, user and limit", errQuery, name)
		}
	}
	return q, nil
}

const (
	// freshFor is how long a state counts as the present one, so that many viewers cost as
	// much as one.
	freshFor = 900 * time.Millisecond
	// share is how many times longer than it took a state counts as the present one. So the
	// page takes a twentieth of a core at most, however many agents and channels there are.
	share = 20
	// longestFresh limits that.
	longestFresh = 10 * time.Second
	// longestPause limits how long the page rests after a state for one query, before it reads
	// the state for another. Else somebody who asks for ever other lists takes all cores.
	longestPause = time.Second
	// mostReading is how many requests for the state are under way, and mostKnown how many
	// different ones are remembered.
	mostReading = 64
	mostKnown   = 16
)

// A reading is a state as JSON.
type reading struct {
	busy  chan struct{} // full while the state is read, by one that owns the following
	until time.Time
	body  []byte
}

// serveState answers with the state as JSON.
func (p *Page) serveState(w http.ResponseWriter, r *http.Request, o *hub.Opening) {
	defer p.reading.Add(-1)
	if p.reading.Add(1) > mostReading {
		w.Header().Set("Retry-After", "2")
		fail(w, http.StatusServiceUnavailable, "Too many requests for the state at once.")
		return
	}
	q, err := queryOf(r, o)
	var body []byte
	if err == nil {
		body, err = p.readingOf(q).read(r.Context(), p, &q)
	}
	switch {
	case errors.Is(err, errQuery), errors.Is(err, hub.ErrSelector):
		_, what, _ := strings.Cut(err.Error(), ": ")
		fail(w, http.StatusBadRequest, "The query is wrong: "+what+".")
		return
	case err != nil:
		w.Header().Set("Retry-After", "2")
		fail(w, http.StatusServiceUnavailable, "The state cannot be read now.")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // a page that is gone needs no answer
}

// readingOf returns the reading of a query. It forgets old ones if there are too many.
func (p *Page) readingOf(q query) *reading {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[q]; known != nil {
		return known
	}
	if len(p.known) >= mostKnown {
		clear(p.known) // whoever has one still uses it
	}
	known := &reading{busy: make(chan struct{}, 1)}
	p.known[q] = known
	return known
}

// read returns the present state as JSON. Of several calls at once, one reads it.
func (g *reading) read(ctx context.Context, p *Page, q *query) ([]byte, error) {
	select {
	case g.busy <- struct{}{}:
		defer func() { <-g.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if time.Now().Before(g.until) {
		return g.body, nil
	}
	begun, end, err := p.turn.take(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	s, err := p.read(ctx, p.hub, q)
	if err != nil {
		return nil, err
	}
	if g.body, err = json.Marshal(s); err != nil {
		return nil, err
	}
	now := time.Now()
	g.until = now.Add(min(max(freshFor, share*now.Sub(begun)), longestFresh))
	return g.body, nil
}

// A turn lets one reading of a page after the other run, with a pause between them.
type turn struct {
	free chan struct{} // has a value while no reading runs
	next time.Time     // when the next one may begin; owned by the one that runs
}

func newTurn() *turn {
	t := &turn{free: make(chan struct{}, 1)}
	t.free <- struct{}{}
	return t
}

// take waits until a reading may begin. Call end after it.
func (t *turn) take(ctx context.Context) (begun time.Time, end func(), err error) {
	select {
	case <-t.free:
	case <-ctx.Done():
		return begun, nil, ctx.Err()
	}
	if wait := time.Until(t.next); wait > 0 {
		pause := time.NewTimer(wait)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
			t.free <- struct{}{}
			return begun, nil, ctx.Err()
		}
	}
	begun = time.Now()
	return begun, func() {
		now := time.Now()
		t.next = now.Add(min(share*now.Sub(begun), longestPause))
		t.free <- struct{}{}
	}, nil
}

// readState asks all machines of the hub, about everything at once: one that hangs costs its
// timeout once.
func readState(ctx context.Context, h *hub.Hub, q *query) (*state, error) {
	o := h.Operator()
	var nodes []hub.NodeInfo
	var silent []string
	var channels hub.ChannelPage
	var agents hub.AgentPage
	var refusals []hub.RefusalInfo
	errs := make([]error, 4)
	var asking sync.WaitGroup
	asking.Go(func() { nodes, silent, errs[0] = o.Nodes(ctx) })
	asking.Go(func() {
		channels, errs[1] = o.Channels(ctx, hub.ChannelQuery{Namespace: q.namespace, Prefix: q.prefix, Limit: q.limit, Top: true})
	})
	asking.Go(func() {
		selector := hub.Selector{Namespace: q.namespace, Channel: q.channel, User: q.user}
		agents, errs[2] = o.Agents(ctx, hub.AgentQuery{Selector: selector, Limit: q.limit, Top: true})
	})
	asking.Go(func() { refusals, _, errs[3] = o.Refusals(ctx, q.namespace) })
	asking.Wait()
	for _, err := range errs { // not joined: a wrong query is one sentence
		if err != nil {
			return nil, err
		}
	}
	s := &state{
		Hub: h.Name(), Time: time.Now().Truncate(time.Millisecond).UTC(), Silent: silent,
		Machines: []machine{}, Channels: []channel{}, Agents: []agent{}, Refusals: []refusal{},
		MoreChannels: channels.More, MoreAgents: agents.More,
	}
	for i := range nodes {
		s.Machines = append(s.Machines, machineOf(&nodes[i]))
	}
	for _, c := range channels.Channels {
		out := channel{Namespace: c.Namespace, Name: c.Channel, Subscribers: c.Subscribers, Messages: c.Messages}
		if c.Present {
			out.Members = &c.Members
		}
		s.Channels = append(s.Channels, out)
	}
	for i := range agents.Agents {
		s.Agents = append(s.Agents, agentOf(&agents.Agents[i]))
	}
	for _, i := range refusals[:min(len(refusals), q.limit)] {
		s.Refusals = append(s.Refusals, refusal{
			Time: i.Time, Machine: i.Node, Operation: string(i.Operation), Code: string(i.Code), Guard: i.Guard, Reason: i.Reason,
			Channel: i.Channel, User: i.User, Namespace: i.Namespace, Count: i.Count, Others: i.Others,
		})
	}
	return s, nil
}

func machineOf(n *hub.NodeInfo) machine {
	return machine{
		Name: n.Node, Since: n.Since, Agents: n.Agents, Subscriptions: n.Subscriptions, Channels: n.Channels, Patterns: n.Patterns, Members: n.Members,
		Published: n.Published, Delivered: n.Delivered, Dropped: n.Dropped, Refusals: n.Refusals,
		Frames: n.FramesReceived, BytesReceived: n.BytesReceived, BytesSent: n.BytesSent,
		HistoryMessages: n.HistoryMessages, HistoryBytes: n.HistoryBytes, Behind: n.Behind,
	}
}

func agentOf(i *hub.AgentInfo) agent {
	return agent{
		Name: i.Agent[:min(len(i.Agent), shownName)], Machine: i.Node, User: cut(i.User, shownUser), Namespace: i.Namespace,
		Transport: i.Transport, Connected: i.Connected, Since: i.Since,
		Subscriptions: i.Subscriptions, Channels: i.Channels[:min(len(i.Channels), shownChannels)],
		QueuedFrames: i.QueuedFrames, QueuedBytes: i.QueuedBytes,
	}
}

// cut returns text, or its beginning if it has more than n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}
