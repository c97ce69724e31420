// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
	"github.com/push-it/pushit/hub/hubtest"
)

// A place is a node of a cluster with a room.
type place struct {
	*room
	name string
	node *brokertest.Node
	up   bool
}

// A city is a cluster with places, and tabs that come and go at all of them.
type city struct {
	*testing.T
	seed    uint64
	random  *rand.Rand
	cluster *brokertest.Cluster
	linger  time.Duration
	places  []*place
	tabs    []*tab
	at      map[*tab]*place
	lives   map[string]int // how many tabs each user has had
	n       int
}

func newCity(t *testing.T, seed uint64, linger time.Duration, names ...string) *city {
	c := &city{T: t, seed: seed, random: rand.New(rand.NewPCG(seed, 7)), cluster: brokertest.NewCluster(), linger: linger, at: make(map[*tab]*place), lives: make(map[string]int)}
	for _, name := range names {
		p := &place{name: name}
		c.places = append(c.places, p)
		c.start(p)
	}
	synctest.Wait()
	return c
}

func (c *city) start(p *place) {
	c.Helper()
	p.node = c.cluster.Node(p.name)
	h, err := hub.New("city", p.node)
	if err != nil {
		c.Fatal(err)
	}
	policy := roomPolicy(hub.PresenceRule{Linger: c.linger, Members: 5000, Info: func(q *hub.Question) ([]byte, error) {
		if claim := q.Identity.Claims["claim"]; claim != nil {
			return json.Marshal(claim)
		}
		return nil, nil
	}})
	policy.Gates = worldGates{hub.GateConnect: localFunc(func(q *hub.Question) hub.Verdict {
		var who struct {
			User  string
			Claim int
		}
		if len(q.Credentials) > 0 && json.Unmarshal(q.Credentials, &who) != nil {
			return deniedVerdict("no credentials")
		}
		return hub.Verdict{Identity: &hub.Identity{User: who.User, Claims: map[string]any{"claim": who.Claim}}}
	})}
	policy.Mount = "city"
	p.room, p.up = &room{c.T, h, h.Use(policy)}, true
}

// stop ends a place: as kill -9 does, or in order.
func (c *city) stop(p *place, kill bool) {
	p.up = false
	if kill {
		p.node.Kill()
	}
	for tab, at := range c.at {
		if at == p && kill {
			tab.gone = true
		}
	}
	p.hub.Close()
	for tab, at := range c.at {
		if at == p {
			c.leave(tab)
		}
	}
}

func (c *city) open(p *place, user string) *tab {
	return c.openAs(p, user, true)
}

func (c *city) openAs(p *place, user string, asks bool) *tab {
	c.n++
	c.lives[user]++
	t := &tab{t: c.T, name: fmt.Sprint(user, "#", c.n, "@", p.name), user: user, claim: c.n, asked: asks}
	t.Peer = hubtest.Open(c.T, p.hub, p.policy, hub.Opening{Transport: "test"}, hubtest.NewConn())
	c.tabs = append(c.tabs, t)
	c.at[t] = p
	t.Send(t.credentials(c.n), t.subscribe())
	return t
}

func (c *city) leave(t *tab) {
	t.Leave()
	t.gone = true
	c.tabs = slices.DeleteFunc(c.tabs, func(o *tab) bool { return o == t })
	delete(c.at, t)
}

// heal ends all faults.
func (c *city) heal() {
	for _, p := range c.places {
		if !p.up {
			c.start(p)
			continue
		}
		p.node.LoseBroadcasts(nil)
		p.node.DelayBroadcasts(0)
		p.node.CutBus(false)
		p.node.Hang(false)
	}
}

// fault does one thing at random to one place.
func (c *city) fault() {
	p := c.places[c.random.IntN(len(c.places))]
	if !p.up {
		c.start(p)
		return
	}
	switch c.random.IntN(8) {
	case 0:
		c.stop(p, true)
	case 1:
		c.stop(p, false)
	case 2, 3:
		lost := rand.New(rand.NewPCG(c.seed, uint64(c.n)))
		p.node.LoseBroadcasts(func(string, []byte) bool { return lost.IntN(3) == 0 })
	case 4:
		p.node.DelayBroadcasts(time.Duration(c.random.IntN(1500)) * time.Millisecond)
	case 5:
		p.node.CutBus(true)
	case 6:
		p.node.Hang(true)
	default:
		p.node.LoseBroadcasts(nil)
		p.node.DelayBroadcasts(0)
		p.node.CutBus(false)
		p.node.Hang(false)
	}
}

func (c *city) step() {
	up := slices.DeleteFunc(slices.Clone(c.places), func(p *place) bool { return !p.up })
	users := []string{"", "", "ann", "bob", "cy", fmt.Sprint("guest", c.n)}
	if len(up) > 0 && (len(c.tabs) == 0 || len(c.tabs) < 15 && c.random.IntN(3) == 0) {
		c.open(up[c.random.IntN(len(up))], users[c.random.IntN(len(users))])
		return
	}
	if len(c.tabs) == 0 {
		c.fault()
		return
	}
	t := c.tabs[c.random.IntN(len(c.tabs))]
	switch c.random.IntN(10) {
	case 0:
		c.leave(t)
	case 1, 2: // the client comes back at another node
		c.leave(t)
		if len(up) > 0 {
			c.open(up[c.random.IntN(len(up))], t.user)
		}
	case 3:
		t.stalled = true
		t.Conn.Stall(c.random.IntN(2) == 0)
	case 4:
		c.n++
		t.claim = c.n
		t.Send(t.credentials(c.n))
	case 5:
		t.Send(t.frame("unsubscribe", ""))
	case 6:
		t.Send(t.subscribe())
	case 7:
		c.fault()
	default:
		time.Sleep(time.Duration(c.random.IntN(2500)) * time.Millisecond)
	}
}

// settled checks that each list is the truth, once all faults have ended for long enough.
func (c *city) settled(what string) {
	c.Helper()
	for _, t := range c.tabs {
		t.Conn.Stall(false)
	}
	time.Sleep(hub.BusTimeout + c.linger + 500*time.Millisecond)
	synctest.Wait()
	for _, t := range c.tabs {
		if t.read(); t.resync { // it has missed a batch, and asks again as a client does
			t.Send(t.frame("presence", ""))
		}
	}
	synctest.Wait()
	truth := make(map[string]int)
	infos := make(map[string]string)
	for _, t := range c.tabs {
		t.read()
		select {
		case <-t.Gone():
			continue
		default:
		}
		if t.gone || !t.subscribed {
			continue
		}
		key := t.user + "|"
		if t.user == "" {
			key = "|" + t.Agent.UUID()
		}
		truth[key]++
		infos[key] = fmt.Sprint(t.claim)
	}
	for _, t := range c.tabs {
		select {
		case <-t.Gone():
			continue
		default:
		}
		if !t.watching {
			continue
		}
		got := make(map[string]int)
		for key, m := range t.list {
			if got[key] = m.Tabs; (m.User == "" || c.lives[m.User] == 1) && string(m.Info) != infos[key] {
				c.Errorf("seed %d, %s: %s sees %s as %s; it is %s", c.seed, what, t.name, key, m.Info, infos[key])
			}
		}
		if !maps.Equal(got, truth) {
			c.Errorf("seed %d, %s: %s sees %v; the truth is %v", c.seed, what, t.name, got, truth)
		}
	}
	for _, p := range c.places {
		if s := p.hub.Stats(); p.up && s.Members != len(truth) {
			c.Errorf("seed %d, %s: node %s counts %d members; there are %d", c.seed, what, p.name, s.Members, len(truth))
		}
	}
}

// end lets everything go, also after a failure.
func (c *city) end() {
	for len(c.tabs) > 0 {
		c.tabs[0].Conn.Stall(false)
		c.leave(c.tabs[0])
	}
	for _, p := range c.places {
		p.hub.Close()
	}
	synctest.Wait()
}

// TestPresenceOfManyNodesModel has tabs come, go and move between nodes at random, while
// nodes are killed, stopped, hung and cut off, and broadcasts are lost and late. No list has
// a join or leave twice. Soon after the last fault, every list at every node is the truth.
func TestPresenceOfManyNodesModel(t *testing.T) {
	for seed := range uint64(runs(t, 40)) {
		synctest.Test(t, func(t *testing.T) {
			linger := []time.Duration{time.Second, 5 * time.Second, 15 * time.Second}[seed%3]
			c := newCity(t, seed, linger, "a", "b", "c")
			defer c.end()
			for range 4 {
				for range 60 {
					c.step()
					if c.random.IntN(3) > 0 {
						synctest.Wait()
					}
					for _, tab := range c.tabs {
						tab.read()
					}
				}
				c.heal()
				if c.settled("after faults"); t.Failed() {
					return
				}
			}
			for len(c.tabs) > 0 {
				c.leave(c.tabs[0])
			}
			c.settled("all have left")
		})
	}
}

// users returns who a tab sees, with tabs.
func (p *tab) users() string {
	p.read()
	var all []string
	for _, m := range p.list {
		all = append(all, fmt.Sprint(m.User, m.Tabs))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// What becomes of members whose node is killed, stopped in order, started again or cut off.
func TestPresenceOfNodesThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 15 * time.Second
		c := newCity(t, 0, linger, "a", "b", "c")
		defer c.end()
		a, b, third := c.places[0], c.places[1], c.places[2]
		ann, bob := c.open(a, "ann"), c.open(b, "bob")
		sees := func(what string, p *tab, want string) {
			t.Helper()
			synctest.Wait()
			if got := p.users(); got != want {
				t.Errorf("%s: %s sees %q, want %q", what, p.name, got, want)
			}
		}
		time.Sleep(time.Second)
		sees("both are here", ann, "ann1 bob1")
		sees("both are here", bob, "ann1 bob1")
		c.open(third, "ann")
		c.open(third, "cy")
		time.Sleep(time.Second)
		sees("a user at two nodes is one member", bob, "ann2 bob1 cy1")

		begun := time.Now()
		until := func(d time.Duration) { time.Sleep(d - time.Since(begun)) }
		c.stop(third, true)
		until(linger)
		sees("killed: not before the linger", bob, "ann2 bob1 cy1")
		until(hub.BusTimeout + linger)
		sees("killed", bob, "ann1 bob1")
		sees("killed", ann, "ann1 bob1")

		c.start(third)
		c.open(third, "cy")
		time.Sleep(2 * time.Second)
		sees("started again", bob, "ann1 bob1 cy1")
		begun = time.Now()
		c.stop(third, false)
		until(linger - time.Second)
		sees("stopped in order: it lingers", bob, "ann1 bob1 cy1")
		until(linger + time.Second)
		sees("stopped in order: the linger began at once", bob, "ann1 bob1")

		c.start(third)
		cy := c.open(third, "cy")
		time.Sleep(2 * time.Second)
		begun = time.Now()
		c.stop(third, true)
		_ = cy
		c.start(third) // another incarnation
		c.open(third, "cy")
		until(2 * linger)
		sees("who comes back to the next incarnation has not left", bob, "ann1 bob1 cy1")

		for _, p := range c.places {
			p.node.CutBus(true)
		}
		time.Sleep(time.Minute)
		sees("while the bus is away nobody is gone", bob, "ann1 bob1 cy1")
		sees("while the bus is away nobody is gone", ann, "ann1 bob1 cy1")
		bob.Send(bob.frame("unsubscribe", ""))
		time.Sleep(time.Second)
		for _, p := range c.places {
			p.node.CutBus(false)
		}
		time.Sleep(2 * time.Second)
		sees("what has changed meanwhile is known when it is back", ann, "ann1 bob1 cy1")
		time.Sleep(linger)
		sees("what has changed meanwhile is known when it is back, after the linger", ann, "ann1 cy1")
	})
}

// A large list comes to a node that starts, in parts; and to one that has missed a delta.
func TestPresenceOfManyNodesIsLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCity(t, 0, time.Second, "a")
		defer c.end()
		long := strings.Repeat("x", 1000)
		for n := range 1200 {
			c.openAs(c.places[0], fmt.Sprint(long, n), false)
		}
		time.Sleep(time.Minute) // batches are small in bytes
		b := &place{name: "b"}
		c.places = append(c.places, b)
		c.start(b)
		time.Sleep(time.Minute)
		c.open(b, "watch")
		time.Sleep(time.Second)
		synctest.Wait()
		if s := b.hub.Stats(); s.Members != 1201 {
			t.Errorf("a node that has just started counts %d members", s.Members)
		}
		b.node.LoseBroadcasts(func(_ string, b []byte) bool { return len(b) > 4 }) // all but heartbeats
		c.leave(c.tabs[0])
		c.open(c.places[0], "late")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if s := b.hub.Stats(); s.Members != 1201 {
			t.Errorf("after a delta was lost it counts %d", s.Members)
		}
	})
}

// What is no delta changes nothing, and is no reason to forget somebody.
func TestPresenceOfNodesThatSayNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCity(t, 0, time.Second, "a", "b")
		defer c.end()
		ann, bob := c.open(c.places[0], "ann"), c.open(c.places[1], "bob")
		random := rand.New(rand.NewPCG(1, 1))
		for range 200 {
			b := make([]byte, random.IntN(40))
			for i := range b {
				b[i] = byte(random.IntN(256))
			}
			if err := c.places[1].node.Broadcast("presence", b); err != nil {
				t.Fatal(err)
			}
			if got, err := c.places[0].node.Request(t.Context(), c.places[1].node.Self(), "presence state", b); err == nil && len(got) == 0 {
				t.Errorf("%x is answered with %x", b, got)
			}
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for _, p := range []*tab{ann, bob} {
			if got := p.users(); got != "ann1 bob1" {
				t.Errorf("%s sees %s", p.name, got)
			}
		}
	})
}
