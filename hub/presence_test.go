// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// presences is a hub.Presences with one rule for the channels whose name begins so.
type presences struct {
	only string
	rule hub.PresenceRule
}

func (p *presences) Presence(channel string) *hub.PresenceRule {
	if !strings.HasPrefix(channel, p.only) {
		return nil
	}
	return &p.rule
}

// A member is one as frames have it.
type member struct {
	User string          `json:"user"`
	UUID string          `json:"uuid"`
	Tabs int             `json:"tabs"`
	Info json.RawMessage `json:"info"`
}

func (m *member) key() string { return m.User + "|" + m.UUID }

// A presenceFrame is what frames about members have.
type presenceFrame struct {
	Channel    string
	UUID       string
	Successful *bool
	Code       any
	Data       struct{ Channel string }

	Number uint64
	Count  int
	Listed *bool
	Reset  bool

	First, More bool // of a page for a listener
	Members     []member

	Joined, Left, Changed []member

	Presence *struct {
		Number  uint64
		Count   int
		Listed  *bool
		Members []member
		Next    string
		Code    string
		Settles int
	}
}

// A tab is a peer of the property test, with what its client would know.
type tab struct {
	*hubtest.Peer
	t          *testing.T
	name       string
	user       string
	claim      int
	stalled    bool
	gone       bool
	asked      bool // it wants the members
	subscribed bool
	watching   bool
	resync     bool // it has missed something, and asked for the list again
	number     uint64
	list       map[string]member
	frames     int
	listener   bool // it sends no frames, and gets pages
}

func (p *tab) credentials(claim int) string {
	return fmt.Sprintf(`{"channel":"/meta/connect","uuid":"%d","agentId":"t","data":{"credentials":{"user":%q,"claim":%d}}}`, claim, p.user, claim)
}

// read handles what has come, as a client would.
func (p *tab) read() {
	for _, line := range p.Conn.Lines() {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var f presenceFrame
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			p.t.Fatalf("%s: %s: %v", p.name, line, err)
		}
		p.frames++
		refused := f.Successful != nil && !*f.Successful
		switch {
		case f.Channel == "/meta/connect" && !refused:
			p.claim, _ = strconv.Atoi(f.UUID)
		case f.Channel == "/meta/close":
			p.gone, p.subscribed, p.watching = true, false, false
		case f.Channel == "/meta/subscribe" && refused, f.Channel == "/meta/unsubscribe" && !refused:
			if f.Channel == "/meta/unsubscribe" || f.Code != "invalid" {
				p.subscribed, p.watching = f.Channel == "/meta/subscribe" && p.subscribed, f.Channel == "/meta/subscribe" && p.watching
			}
		case f.Channel == "/meta/subscribe":
			p.subscribed = true
			p.snapshot(&f, line)
		case f.Channel == "/meta/presence" && (refused || f.UUID == "stop"):
			p.watching = false
		case f.Channel == "/meta/presence" && f.First:
			p.begin(&f, line)
		case f.Channel == "/meta/presence" && f.Successful != nil:
			p.snapshot(&f, line)
		case f.Channel == "/meta/presence":
			p.apply(&f, line)
		}
	}
}

func (p *tab) snapshot(f *presenceFrame, line string) {
	if f.Presence == nil {
		return
	}
	if p.watching = f.Presence.Code == ""; !p.watching {
		return
	}
	p.resync = false
	p.number = f.Presence.Number
	p.list = make(map[string]member)
	for _, m := range f.Presence.Members {
		p.list[m.key()] = m
	}
	if len(p.list) != f.Presence.Count {
		p.t.Fatalf("%s: %d members are counted: %s", p.name, f.Presence.Count, line)
	}
}

// begin takes the first page for a listener. The lists of these tests have one page.
func (p *tab) begin(f *presenceFrame, line string) {
	p.watching, p.resync, p.number, p.list = true, false, f.Number, make(map[string]member)
	for _, m := range f.Members {
		p.list[m.key()] = m
	}
	if len(p.list) != f.Count || f.More {
		p.t.Fatalf("%s: %s", p.name, line)
	}
}

func (p *tab) apply(f *presenceFrame, line string) {
	p.t.Helper()
	if !p.watching {
		p.t.Fatalf("%s does not watch: %s", p.name, line)
	}
	if p.resync {
		return
	}
	if f.Reset || f.Number != p.number+1 {
		if !p.stalled || p.listener { // a listener gets the list again
			p.t.Fatalf("%s reads all, and gets %s after %d", p.name, line, p.number)
		}
		p.resync = true
		return
	}
	p.number = f.Number
	for _, m := range f.Joined {
		if _, there := p.list[m.key()]; there {
			p.t.Fatalf("%s: %s is there already: %s", p.name, m.key(), line)
		}
		p.list[m.key()] = m
	}
	for _, m := range f.Changed {
		if before, there := p.list[m.key()]; !there || before.Tabs == m.Tabs && string(before.Info) == string(m.Info) {
			p.t.Fatalf("%s: nothing has changed about %s: %s", p.name, m.key(), line)
		}
		p.list[m.key()] = m
	}
	for _, m := range f.Left {
		if _, there := p.list[m.key()]; !there {
			p.t.Fatalf("%s: %s is not there: %s", p.name, m.key(), line)
		}
		delete(p.list, m.key())
	}
	if len(p.list) != f.Count {
		p.t.Fatalf("%s: %d members, and %s", p.name, len(p.list), line)
	}
}

// A world is a hub with tabs that come and go at random.
type world struct {
	*testing.T
	random *rand.Rand
	hub    *hub.Hub
	policy *hub.Policy
	linger time.Duration
	tabs   []*tab
	lives  map[string]int // how many tabs each user has had

	version                           int
	deniedConnect, deniedSub, deniedP string // a user
	n                                 int
}

const worldChannel = "room"

// reload puts a new policy in place of the old one.
func (w *world) reload() {
	w.version++
	version, connect, sub, list := w.version, w.deniedConnect, w.deniedSub, w.deniedP
	remote := w.random.IntN(2) == 0 // gates that take their time
	slow := func(user, denied string) hub.Verdict {
		if user == denied && user != "" {
			return deniedVerdict("not you")
		}
		return hub.Allow
	}
	local := func(f func(*hub.Question) hub.Verdict) hub.Gate {
		if remote {
			return gateFunc(func(_ context.Context, q *hub.Question) hub.Verdict {
				time.Sleep(time.Duration(q.Agent.UUID()[0]) * time.Millisecond)
				return f(q)
			})
		}
		return localFunc(f)
	}
	g := worldGates{
		hub.GateConnect: local(func(q *hub.Question) hub.Verdict {
			var c struct {
				User  string
				Claim int
			}
			if c.User = q.Agent.Opening().User(); c.User != "" {
				// a listener, which has none
			} else if err := json.Unmarshal(q.Credentials, &c); err != nil {
				return deniedVerdict("no credentials")
			}
			v := slow(c.User, connect)
			v.Identity = &hub.Identity{User: c.User, Claims: map[string]any{"claim": c.Claim}}
			return v
		}),
		hub.GateSubscribe: local(func(q *hub.Question) hub.Verdict { return slow(q.Identity.User, sub) }),
	}
	if w.random.IntN(3) > 0 {
		g[hub.GatePresence] = local(func(q *hub.Question) hub.Verdict { return slow(q.Identity.User, list) })
	} else {
		w.deniedP = ""
	}
	p := &hub.Policy{
		Mount: "world", Gates: g, Heartbeat: 10 * time.Second, Grace: 5 * time.Second,
		Limits: hub.Limits{QueueMessages: 20, FramesPerSecond: hub.Unlimited},
		Presences: &presences{rule: hub.PresenceRule{
			Linger: w.linger, Members: 1000, By: hub.Fingerprint(fmt.Sprint(version)),
			Info: func(q *hub.Question) ([]byte, error) {
				return fmt.Appendf(nil, `{"version":%d,"claim":%v}`, version, q.Identity.Claims["claim"]), nil
			},
		}},
	}
	before := w.policy
	w.policy = w.hub.Use(p)
	if before != nil {
		w.hub.Drop(before)
	}
}

type worldGates map[hub.GateName]hub.Gate

func (g worldGates) Gate(name hub.GateName, _ string) hub.Gate { return g[name] }

func (g worldGates) Pattern(string) (hub.Gate, *hub.Refusal) { return g[hub.GateSubscribe], nil }

func (worldGates) DeliverGate(string) hub.DeliverGate { return nil }

// localFunc is a gate that answers at once.
type localFunc func(*hub.Question) hub.Verdict

func (localFunc) Timeout() time.Duration { return time.Second }

func (localFunc) Local() bool { return true }

func (f localFunc) Decide(_ context.Context, q *hub.Question) hub.Verdict { return f(q) }

func deniedVerdict(reason string) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: reason}}
}

func (w *world) open(user string, asks bool) *tab {
	w.n++
	p := &tab{t: w.T, name: fmt.Sprint(user, "#", w.n), user: user, asked: asks}
	p.Peer = hubtest.Open(w.T, w.hub, w.policy, hub.Opening{Transport: "test"}, hubtest.NewConn())
	w.tabs = append(w.tabs, p)
	w.lives[user]++
	p.Send(p.credentials(w.n), p.subscribe())
	return p
}

// listen opens a listener, whose user a login has named.
func (w *world) listen(user string) {
	w.n++
	a, err := w.hub.Open(w.policy, hub.Opening{Transport: "test", User: user})
	if err != nil {
		w.Fatal(err)
	}
	p := &tab{t: w.T, name: fmt.Sprint(user, "#", w.n, " listens"), user: user, listener: true, Peer: hubtest.Carry(a, hubtest.NewConn())}
	l, refused := hub.Listen(w.Context(), a, hub.Listening{Channels: []string{worldChannel}, Members: []string{worldChannel}})
	if refused != nil {
		p.Leave()
		return
	}
	l.Release()
	w.lives[user]++
	p.subscribed = true
	w.tabs = append(w.tabs, p)
}

func (p *tab) subscribe() string {
	return fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":%q,"presence":%t}}`, worldChannel, p.asked)
}

func (p *tab) frame(meta, rest string) string {
	return fmt.Sprintf(`{"channel":"/meta/%s","uuid":"x","data":{"channel":%q%s}}`, meta, worldChannel, rest)
}

// step does one thing at random.
func (w *world) step() {
	random := w.random
	users := []string{"", "", "ann", "bob", "cy", "dee", "eve"}
	if len(w.tabs) < 12 && random.IntN(3) == 0 || len(w.tabs) == 0 {
		w.open(users[random.IntN(len(users))], random.IntN(3) > 0)
		return
	}
	if len(w.tabs) < 14 && random.IntN(8) == 0 {
		w.listen(users[2+random.IntN(5)])
		return
	}
	i := random.IntN(len(w.tabs))
	p := w.tabs[i]
	leave := func() {
		p.Leave()
		p.gone = true
		w.tabs = slices.DeleteFunc(w.tabs, func(q *tab) bool { return q == p })
	}
	n := random.IntN(14)
	if p.listener && 3 < n && n < 9 {
		return // it sends no frames
	}
	switch n {
	case 0:
		leave()
	case 1, 2: // the page is reloaded
		leave()
		if p.listener {
			w.listen(p.user)
		} else {
			w.open(p.user, p.asked)
		}
	case 3: // the connection breaks
		p.Conn.Fail(errors.New("broken"))
	case 4:
		w.n++
		p.Send(p.credentials(w.n)) // a refresh
	case 5:
		p.Send(p.frame("unsubscribe", ""))
	case 6:
		p.Send(p.subscribe())
	case 7:
		p.Send(strings.Replace(p.frame("presence", `,"stop":true`), `"x"`, `"stop"`, 1))
		p.asked = false
	case 8:
		p.asked = true
		p.Send(p.frame("presence", ""))
	case 9:
		if !p.stalled {
			p.stalled = true
			p.Conn.Stall(true)
		}
	case 10, 11:
		denied := []*string{&w.deniedConnect, &w.deniedSub, &w.deniedP}
		*denied[random.IntN(3)] = users[random.IntN(len(users))]
		w.reload()
	default:
		time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
	}
}

// settle lets everything come to rest, and checks that each list is the truth.
func (w *world) settle(seed uint64) {
	for _, p := range w.tabs {
		p.Conn.Stall(false)
	}
	for range 15 {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, p := range w.tabs {
			if p.read(); p.resync {
				p.Send(p.frame("presence", ""))
			}
			if !p.listener {
				p.Send(`{"channel":"/meta/ping","uuid":"p"}`)
			}
		}
	}
	synctest.Wait()
	truth := make(map[string]int)
	infos := make(map[string]string)
	for _, p := range w.tabs {
		p.read()
		select {
		case <-p.Gone():
			continue
		default:
		}
		if p.gone || !p.subscribed {
			continue
		}
		key := p.user + "|"
		if p.user == "" {
			key = "|" + p.Agent.UUID()
		}
		truth[key]++
		infos[key] = fmt.Sprintf(`{"version":%d,"claim":%d}`, w.version, p.claim)
	}
	for _, p := range w.tabs {
		select {
		case <-p.Gone():
			continue
		default:
		}
		if !p.watching {
			if !p.listener && p.asked && p.subscribed && w.deniedP == "" && p.frames > 0 && !p.gone && !p.stalled {
				// It may have been denied before, and a client asks again.
				p.Send(p.frame("presence", ""))
				synctest.Wait()
				time.Sleep(time.Second)
				if p.read(); !p.watching {
					w.Fatalf("seed %d: %s may see the members, and does not", seed, p.name)
				}
			} else {
				continue
			}
		}
		if p.user != "" && p.user == w.deniedP {
			w.Fatalf("seed %d: %s sees the members, and may not", seed, p.name)
		}
		got := make(map[string]int)
		for key, m := range p.list {
			got[key] = m.Tabs
			single := m.User == "" || w.lives[m.User] == 1
			if single && string(m.Info) != infos[key] || !strings.Contains(string(m.Info), fmt.Sprintf(`"version":%d,`, w.version)) {
				w.Fatalf("seed %d: %s sees %s as %s; it is %s", seed, p.name, key, m.Info, infos[key])
			}
		}
		if !maps.Equal(got, truth) {
			w.Fatalf("seed %d: %s sees %v; the truth is %v", seed, p.name, got, truth)
		}
	}
	if s := w.hub.Stats(); s.Members != len(truth) {
		w.Fatalf("seed %d: the hub counts %d members; there are %d", seed, s.Members, len(truth))
	}
}

// end lets everything go, also after a failure.
func (w *world) end() {
	for _, p := range w.tabs {
		p.Conn.Stall(false)
		p.Leave()
	}
	w.hub.Close()
}

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

// TestPresenceModel has tabs of several users connect, subscribe, refresh, crash, read
// slowly and leave at random, while reloads deny and cut some of them. No list has a join
// or leave twice. When all has come to rest, every list is the truth.
func TestPresenceModel(t *testing.T) {
	for seed := range uint64(runs(t, 60)) {
		synctest.Test(t, func(t *testing.T) {
			h, err := hub.New("world", nil)
			if err != nil {
				t.Fatal(err)
			}
			w := &world{T: t, random: rand.New(rand.NewPCG(seed, 4)), hub: h, lives: make(map[string]int)}
			w.linger = []time.Duration{0, time.Second, 15 * time.Second}[w.random.IntN(3)]
			w.reload()
			defer w.end()
			for range 120 {
				w.step()
				if w.random.IntN(3) > 0 {
					synctest.Wait()
				}
				for _, p := range w.tabs {
					if p.read(); p.resync && w.random.IntN(5) == 0 {
						p.Send(p.frame("presence", ""))
					}
				}
			}
			w.settle(seed)
			for _, p := range w.tabs {
				p.Leave()
			}
			w.tabs = nil
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := h.Stats(); s.Members != 0 || s.Watchers != 0 {
				t.Errorf("seed %d: all have left; %d members and %d watchers are counted", seed, s.Members, s.Watchers)
			}
		})
	}
}
