// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"cmp"
	"context"
	"encoding/json"
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

// TestAgentsCatchUp has clients subscribe, unsubscribe, read slowly, lose their connections
// and come back, at random, with small queues. Each keeps its positions as the JavaScript
// client does. A list beside says what each of them must have got: every message once, in
// order, or the news that some are missing.
func TestAgentsCatchUp(t *testing.T) {
	seeds := 60
	if text := os.Getenv("PUSHIT_SEEDS"); text != "" {
		seeds, _ = strconv.Atoi(text)
	}
	for seed := range seeds {
		runCatchUp(t, uint64(seed))
		if t.Failed() {
			return
		}
	}
}

func FuzzAgentsCatchUp(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(runCatchUp)
}

// catchUpRules keep few messages of some channels, so that some are dropped.
type catchUpRules map[string]int

func (r catchUpRules) History(channel string) hub.HistoryRule {
	return hub.HistoryRule{Count: r[channel], TTL: time.Hour}
}

// A said is a message that was published.
type said struct {
	channel string
	kept    bool
}

// A catcher is a client of the model.
type catcher struct {
	*catchUpModel
	name    string
	peer    *hubtest.Peer
	settles bool // its connections are good from now on
	subs    map[string]*caught
	seen    map[int]bool // by number, what came in this session
}

// A caught is a subscription that a client wants.
type caught struct {
	name     string
	on       bool
	leaving  bool
	position string
	began    int         // the number of the first message that it may bring
	heard    map[int]int // by number: how often it came
	gaps     int         // it was told so often that messages are missing
	again    bool        // messages may come again in another session, see mayComeAgain
	last     int         // the number of the last message in this session
}

type catchUpModel struct {
	*bubble
	seed      uint64
	random    *rand.Rand
	publisher *hubtest.Peer
	all       []said
	rules     catchUpRules
}

func runCatchUp(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 11))
	rules := catchUpRules{"a/x": 1000, "a/y": 1000, "a/b/c": 1000, "b": 1000, "c": 1000, "live": 0}
	if seed%2 == 0 {
		rules["a/y"], rules["c"] = 1+random.IntN(5), 5+random.IntN(10)
	}
	limits := hub.Limits{QueueMessages: 12 + random.IntN(30), PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited}
	inBubble(t, hub.Policy{Histories: rules, Limits: limits, Heartbeat: time.Hour}, func(b *bubble) {
		m := &catchUpModel{bubble: b, seed: seed, random: random, rules: rules, publisher: b.join()}
		var clients []*catcher
		for n := range 3 {
			clients = append(clients, &catcher{catchUpModel: m, name: fmt.Sprint("client", n), subs: make(map[string]*caught)})
			clients[n].connect()
		}
		for range 60 {
			c := clients[random.IntN(len(clients))]
			switch random.IntN(8) {
			case 0:
				c.subscribe()
			case 1:
				c.unsubscribe()
			case 2:
				c.read()
				c.peer.Leave()
				for range random.IntN(40) {
					m.publish()
				}
				c.connect()
			case 3:
				c.peer.Conn.Stall(random.IntN(3) > 0)
			case 4:
				c.read()
			default:
				for range 1 + random.IntN(5) {
					m.publish()
				}
			}
		}
		for _, c := range clients {
			c.settle()
			c.check()
			c.peer.Leave()
		}
	})
}

func (m *catchUpModel) fail(format string, args ...any) {
	m.Helper()
	m.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func (m *catchUpModel) publish() {
	channels := slices.Sorted(maps.Keys(m.rules))
	channel := channels[m.random.IntN(len(channels))]
	frame := publish(channel, fmt.Sprint("m", len(m.all)), fmt.Sprint(len(m.all)))
	kept := m.rules[channel] > 0
	if kept && m.random.IntN(6) == 0 {
		kept = false
		frame = strings.TrimSuffix(frame, "}") + `,"history":false}`
	}
	m.all = append(m.all, said{channel, kept})
	m.publisher.Send(frame)
	m.frames(m.publisher)
}

// connect opens a session and asks for what is wanted, what matches the most first.
func (c *catcher) connect() {
	c.peer = c.join()
	c.peer.Conn.Stall(!c.settles && c.random.IntN(2) == 0)
	c.seen = make(map[int]bool)
	names := slices.SortedFunc(maps.Keys(c.subs), func(a, b string) int {
		breadth := func(s string) int {
			if !hub.IsPattern(s) {
				return 0
			}
			return 1000 - len(s)
		}
		return cmp.Compare(breadth(b), breadth(a))
	})
	c.peer.Agent.BeginBatch()
	for _, name := range names {
		s := c.subs[name]
		if s.on = false; s.leaving {
			delete(c.subs, name)
			continue
		}
		c.ask(s)
	}
	c.peer.Agent.EndBatch()
}

func (c *catcher) ask(s *caught) {
	more := ""
	if s.position != "" {
		more = `,"position":"` + s.position + `"`
	}
	c.peer.Send(`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"` + s.name + `"` + more + `}}`)
	synctest.Wait()
}

func (c *catcher) subscribe() {
	names := []string{"a/x", "a/y", "a/b/c", "b", "c", "live", "a/*", "a/b/*", "*"}
	name := names[c.random.IntN(len(names))]
	if c.subs[name] != nil {
		return
	}
	s := &caught{name: name, heard: make(map[int]int)}
	c.subs[name] = s
	c.mayComeAgain(s)
	c.ask(s)
}

// mayComeAgain notes that s begins or ends while others match the same channels. What it
// brings moves their positions, perhaps back; or they get again what it has brought before
// their positions moved. Both are in later sessions only.
func (c *catcher) mayComeAgain(s *caught) {
	for grown := true; grown; {
		grown = false
		for _, other := range c.subs {
			if !other.again && other != s && (covers(other.name, s.name) || covers(s.name, other.name)) {
				other.again, s.again, grown = true, true, true
				c.mayComeAgain(other)
			}
		}
	}
}

func (c *catcher) unsubscribe() {
	names := slices.Sorted(maps.Keys(c.subs))
	if len(names) == 0 {
		return
	}
	s := c.subs[names[c.random.IntN(len(names))]]
	if s.leaving {
		return
	}
	s.leaving = true
	c.mayComeAgain(s)
	c.peer.Send(unsubscribe(s.name))
	synctest.Wait()
}

// read handles what has come.
func (c *catcher) read() {
	synctest.Wait()
	for _, line := range c.peer.Conn.Lines() {
		if strings.HasPrefix(line, `{"channel":"/meta/close"`) { // it was too slow
			c.peer.Leave()
			c.connect()
			return
		}
		var f positioned
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			c.fail("%s: %v", line, err)
		}
		switch f.Channel {
		case "/meta/subscribe":
			var data struct{ Channel string }
			if json.Unmarshal(f.Data, &data) != nil || f.Error != "" {
				c.fail("%+v", f)
			}
			s := c.subs[data.Channel]
			if f.Recovered != nil && !*f.Recovered {
				s.gaps++
			}
			if s.on && f.Recovered == nil {
				c.fail("%s: a second answer: %+v", s.name, f)
			}
			if !s.on {
				s.on, s.last = true, -1
			}
			if f.Position == "" {
				continue
			}
			if s.position == "" {
				s.began = c.numbered(f.Position)
			}
			s.position = f.Position
		case "/meta/unsubscribe":
			var data struct{ Channel string }
			if json.Unmarshal(f.Data, &data) != nil || f.Error != "" {
				c.fail("%+v", f)
			}
			c.check1(c.subs[data.Channel])
			delete(c.subs, data.Channel)
		default:
			c.message(f)
		}
	}
}

// numbered returns how many messages were published up to a position.
func (c *catcher) numbered(position string) int {
	p, _ := hub.ParsePosition(position)
	for n, m := range c.all {
		if p.Seq == 0 {
			return n
		}
		if m.kept {
			p.Seq--
		}
	}
	return len(c.all)
}

// message handles a message.
func (c *catcher) message(f positioned) {
	n, err := strconv.Atoi(string(f.Data))
	if err != nil || c.all[n].channel != f.Channel {
		c.fail("%s: %+v", c.name, f)
	}
	if c.seen[n] {
		c.fail("%s: %d came twice in a session", c.name, n)
	}
	c.seen[n] = true
	taken := false
	for _, s := range c.subs {
		if !covers(s.name, f.Channel) {
			continue
		}
		taken = true
		s.heard[n]++
		if s.on && n < s.last && n >= s.began { // others may bring what is older than it is
			c.fail("%s: %s: %d of %s came after %d", c.name, s.name, n, f.Channel, s.last)
		}
		s.last = n
		if s.on && f.Position != "" {
			s.position = f.Position
		}
	}
	if !taken {
		c.fail("%s: %d of %s came, to which it is not subscribed", c.name, n, f.Channel)
	}
}

func covers(name, channel string) bool {
	if prefix, pattern := strings.CutSuffix(name, "*"); pattern {
		return strings.HasPrefix(channel, prefix)
	}
	return name == channel
}

// settle has c read everything.
func (c *catcher) settle() {
	c.settles = true
	c.peer.Conn.Stall(false)
	c.read()
	time.Sleep(time.Minute)
	if !c.peer.Agent.IsOpen() { // it was cut off in the middle of a frame
		c.peer.Leave()
		c.connect()
	}
	c.read()
	c.read() // it may have come back
}

func (c *catcher) check() {
	for _, s := range c.subs {
		c.check1(s)
		if !s.on && !s.leaving {
			c.fail("%s: %s is not on", c.name, s.name)
		}
	}
}

// check1 compares what a subscription has brought with what was published.
func (c *catcher) check1(s *caught) {
	if s == nil {
		c.fail("%s: it is gone already", c.name)
	}
	last := -1
	for n := range s.heard {
		last = max(last, n)
	}
	missing := 0
	for n, m := range c.all {
		if !covers(s.name, m.channel) || n < s.began {
			continue
		}
		switch got := s.heard[n]; {
		case got > 1 && !s.again:
			c.fail("%s: %s: %d of %s came %d times", c.name, s.name, n, m.channel, got)
		case got == 0 && m.kept && (s.on && !s.leaving || n < last):
			missing++
		}
	}
	if missing > 0 && s.gaps == 0 {
		c.fail("%s: %s: %d messages are missing, and nothing says so", c.name, s.name, missing)
	}
}

// slowly makes an agent that has subscribed to news from its first message on, and has read
// nothing of the more than 50 that are kept.
func (b *bubble) slowly(publisher *hubtest.Peer) *hubtest.Peer {
	b.Helper()
	for n := range 60 {
		publisher.Send(publish("news", fmt.Sprint("m", n), fmt.Sprint(n)))
		b.frames(publisher)
	}
	slow := b.join()
	slow.Conn.Stall(true)
	slow.Send(subscribeSince("news", `"since":50`))
	synctest.Wait()
	return slow
}

var (
	few50    = kept{Count: 50, TTL: time.Hour}
	smallest = hub.Limits{QueueMessages: 20, PublishesPerSecond: hub.Unlimited, FramesPerSecond: hub.Unlimited}
)

// What the history drops before a slow agent could get it is told in time, with a position
// that the rest follows.
func TestCatchingUpTellsWhatWasDropped(t *testing.T) {
	inBubble(t, hub.Policy{Histories: few50, Limits: smallest}, func(b *bubble) {
		publisher := b.join()
		slow := b.slowly(publisher)
		for n := 60; n < 100; n++ {
			publisher.Send(publish("news", fmt.Sprint("m", n), fmt.Sprint(n)))
			b.frames(publisher)
		}
		slow.Conn.Stall(false)
		got := b.frames(slow)
		if !*got[0].Recovered {
			b.Fatalf("%+v", got[0])
		}
		next, gaps := 10, 0
		for i, f := range got[1:] {
			if f.Channel == "/meta/subscribe" {
				gaps++
				next = 50
				if f.Recovered == nil || *f.Recovered || f.Reason != "count" || f.Error != "" || string(f.Data) != `{"channel":"news"}` || i+2 == len(got) {
					b.Fatalf("%+v", f)
				}
				again := b.join()
				again.Send(subscribeSince("news", `"position":"`+f.Position+`"`))
				if rest := b.frames(again); len(rest) != 51 || !*rest[0].Recovered || string(rest[1].Data) != "50" {
					b.Errorf("from its position on come %d frames", len(rest))
				}
				continue
			}
			if string(f.Data) != fmt.Sprint(next) {
				b.Fatalf("%s came, want %d", f.Data, next)
			}
			next++
		}
		if gaps != 1 || next != 100 {
			b.Errorf("%d gaps were told, and messages up to %d came", gaps, next)
		}
	})
}

// An agent that catches up does not get what it publishes without an echo, and gets what no
// history keeps in its place.
func TestCatchingUpWithoutEchoAndHistory(t *testing.T) {
	inBubble(t, hub.Policy{Histories: kept{Count: 100, TTL: time.Hour}, Limits: smallest}, func(b *bubble) {
		publisher := b.join()
		slow := b.slowly(publisher)
		publisher.Send(`{"channel":"news","uuid":"m60","data":60,"history":false}`, publish("news", "m61", "61"))
		slow.Send(`{"channel":"news","uuid":"own","data":0,"echo":false}`)
		publisher.Send(publish("news", "m62", "62"))
		b.frames(publisher)
		slow.Conn.Stall(false)
		next := 10
		for _, f := range b.frames(slow)[1:] {
			if f.Channel != "news" {
				continue
			}
			if string(f.Data) != fmt.Sprint(next) {
				b.Fatalf("%s came, want %d", f.Data, next)
			}
			next++
		}
		if next != 63 {
			b.Errorf("messages up to %d came", next)
		}
	})
}

// While an agent catches up, it may unsubscribe, a reload may ask another gate about kept
// messages, and it may be cut. Then nothing more of the past comes.
func TestCatchingUpEnds(t *testing.T) {
	gate := func(text string) hub.Gates {
		return gatesOf(byName{hub.GateHistory: &fakeGate{text: text, local: true, decide: func(context.Context, *hub.Question) hub.Verdict {
			if text == "old" {
				return hub.Allow
			}
			return denied("not for you")
		}}})
	}
	policy := func(text string) hub.Policy {
		return hub.Policy{Histories: few50, Limits: smallest, Gates: gate(text), Grace: time.Minute}
	}
	for name, end := range map[string]func(b *bubble, slow *hubtest.Peer){
		"unsubscribe":  func(_ *bubble, slow *hubtest.Peer) { slow.Send(unsubscribe("news")) },
		"another gate": func(b *bubble, _ *hubtest.Peer) { b.reload(policy("new")) },
		"cut":          func(_ *bubble, slow *hubtest.Peer) { slow.Agent.Close(hub.CloseCut, "out", time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, policy("old"), func(b *bubble) {
				publisher := b.join()
				slow := b.slowly(publisher)
				end(b, slow)
				synctest.Wait()
				publisher.Send(publish("news", "late", "99"))
				b.frames(publisher)
				slow.Conn.Stall(false)
				synctest.Wait()
				lines := slow.Conn.Lines()
				if last := lines[len(lines)-1]; len(lines) > 25 || strings.Contains(strings.Join(lines, ""), `"late"`) || !strings.Contains(last, "/meta/unsubscribe") && !strings.Contains(last, "/meta/close") {
					b.Errorf("%d frames came; the last is %s", len(lines), last)
				}
				if name != "another gate" {
					return
				}
				slow.Send(subscribeSince("news", `"since":50`))
				if got := b.frames(slow); len(got) != 1 || got[0].Reason != "denied" {
					b.Errorf("%+v", got)
				}
			})
		})
	}
}

// A wake-up is not lost if everything waits for a batch, and nothing else comes.
func TestCatchingUpAfterABatch(t *testing.T) {
	inBubble(t, hub.Policy{Histories: few50, Limits: smallest}, func(b *bubble) {
		publisher := b.join()
		b.slowly(publisher)
		a := b.join()
		a.Agent.BeginBatch()
		a.Send(subscribeSince("news", `"since":50`), subscribeSince("*", `"since":50`))
		if got := b.frames(a); len(got) != 2 {
			b.Fatalf("in the batch came %+v", got)
		}
		a.Agent.EndBatch()
		if got := b.frames(a); len(got) != 50 {
			b.Errorf("%d messages came", len(got))
		}
	})
}
