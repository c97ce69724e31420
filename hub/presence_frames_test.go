// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A room is a hub whose channels tell who is in them.
type room struct {
	*testing.T
	hub    *hub.Hub
	policy *hub.Policy
}

func newRoom(t *testing.T, p *hub.Policy) *room {
	t.Helper()
	h, err := hub.New("room", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Mount = "room"
	return &room{t, h, h.Use(p)}
}

func roomPolicy(rule hub.PresenceRule) *hub.Policy {
	if rule.Members == 0 {
		rule.Members = 100
	}
	return &hub.Policy{Heartbeat: time.Hour, Presences: &presences{only: "room", rule: rule}}
}

func (r *room) enter(user string, frames ...string) *hubtest.Peer {
	p := hubtest.Open(r, r.hub, r.policy, hub.Opening{Transport: "test", User: user}, hubtest.NewConn())
	p.Send(`{"channel":"/meta/connect","uuid":"c","agentId":"a"}`)
	p.Send(frames...)
	synctest.Wait()
	return p
}

const (
	entersRoom  = `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room"}}`
	watchesRoom = `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room","presence":true}}`
	begunInRoom = `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room","presence":true},"successful":true,"error":"","presence":`
	listsRoom   = `{"channel":"/meta/presence","uuid":"l","data":{"channel":"room"}}`
	ofRoom      = `{"channel":"/meta/presence","data":{"channel":"room"},`
)

// told checks the frames that came since the last call, without heartbeats and what comes
// first in a session.
func (r *room) told(what string, p *hubtest.Peer, want ...string) {
	r.Helper()
	synctest.Wait()
	var got []string
	for _, line := range p.Conn.Lines() {
		if line != "o" && line != "h" && !strings.Contains(line, `"/meta/connect"`) {
			got = append(got, line)
		}
	}
	if len(got) != len(want) {
		r.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			r.Errorf("%s:\n%s\nwant\n%s", what, got[i], want[i])
		}
	}
}

func TestPresenceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, roomPolicy(hub.PresenceRule{Linger: 15 * time.Second, Info: func(q *hub.Question) ([]byte, error) {
			if q.Agent.User() == "dan" {
				return nil, errors.New("no info")
			}
			return fmt.Appendf(nil, `{"name":%q}`, strings.ToUpper(q.Agent.User())), nil
		}}))
		defer r.hub.Close()
		ann := r.enter("ann", watchesRoom)
		defer ann.Leave()
		r.told("the first one is in the list", ann, begunInRoom+`{"number":1,"count":1,"members":[{"user":"ann","tabs":1,"info":{"name":"ANN"}}],"settles":15000}}`)

		bob := r.enter("bob", entersRoom)
		dan := r.enter("dan", entersRoom)
		again := r.enter("ann", entersRoom)
		r.told("nothing at once", ann)
		time.Sleep(250 * time.Millisecond)
		r.told("one batch", ann, ofRoom+`"number":2,"count":3,"joined":[{"user":"bob","tabs":1,"info":{"name":"BOB"}},{"user":"dan","tabs":1}],"changed":[{"user":"ann","tabs":2,"info":{"name":"ANN"}}]}`)

		bob.Leave()
		again.Leave()
		time.Sleep(10 * time.Second)
		r.told("they linger", ann)
		bob = r.enter("bob", entersRoom)
		time.Sleep(10 * time.Second)
		r.told("a page that is reloaded is no leave", ann, ofRoom+`"number":3,"count":3,"changed":[{"user":"ann","tabs":1,"info":{"name":"ANN"}}]}`)

		bob.Send(`{"channel":"/meta/unsubscribe","uuid":"u","data":{"channel":"room"}}`)
		dan.Leave()
		time.Sleep(250 * time.Millisecond)
		r.told("who unsubscribes leaves at once", ann, ofRoom+`"number":4,"count":2,"left":[{"user":"bob"}]}`)
		time.Sleep(15 * time.Second)
		r.told("after the linger", ann, ofRoom+`"number":5,"count":1,"left":[{"user":"dan"}]}`)

		nobody := r.enter("", watchesRoom)
		time.Sleep(time.Second)
		r.told("somebody without a name", nobody,
			begunInRoom+`{"number":5,"count":1,"members":[{"user":"ann","tabs":1,"info":{"name":"ANN"}}]}}`,
			ofRoom+`"number":6,"count":2,"joined":[{"uuid":"`+nobody.Agent.UUID()+`","tabs":1,"info":{"name":""}}]}`)
		ann.Conn.Lines()
		ann.Send(listsRoom, `{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","stop":true}}`)
		r.told("asking again", ann, `{"channel":"/meta/presence","uuid":"l","data":{"channel":"room"},"successful":true,"error":"","presence":{"number":6,"count":2,"members":[{"user":"ann","tabs":1,"info":{"name":"ANN"}},{"uuid":"`+nobody.Agent.UUID()+`","tabs":1,"info":{"name":""}}]}}`,
			`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","stop":true},"successful":true,"error":""}`)
		nobody.Leave()
		bob.Leave()
		time.Sleep(time.Minute)
		r.told("who has stopped is not told", ann)
	})
}

func TestPresenceRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, roomPolicy(hub.PresenceRule{}))
		defer r.hub.Close()
		p := r.enter("ann")
		defer p.Leave()
		refused := func(frame, code, reason string) string {
			return strings.TrimSuffix(frame, "}") + `,"successful":false,"error":"` + reason + `","code":"` + code + `"}`
		}
		begun := func(frame, presence string) string {
			return strings.TrimSuffix(frame, "}") + `,"successful":true,"error":"","presence":` + presence + "}"
		}
		for frame, want := range map[string]string{
			`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"hall","presence":true}}`:       begun(`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"hall","presence":true}}`, `{"error":"this channel tells nobody who is in it","code":"denied"}`),
			`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room/*","presence":true}}`:     begun(`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room/*","presence":true}}`, `{"error":"a pattern has no members: ask for those of a channel","code":"invalid"}`),
			`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room","presence":1}}`:          refused(`{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"room","presence":1}}`, "invalid", "data.presence must be true or false"),
			`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room"}}`:                        refused(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room"}}`, "invalid", "subscribe to the channel before you ask who is in it"),
			`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room/*"}}`:                      refused(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room/*"}}`, "invalid", "a pattern has no members: ask for those of a channel"),
			`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"x"}}`:             refused(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"x"}}`, "invalid", "data.next must be the next of the previous page"),
			`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"1","stop":true}}`: refused(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"1","stop":true}}`, "invalid", "data has next or stop, not both"),
			`{"channel":"/meta/presence","uuid":"l","data":{}}`:                                        refused(`{"channel":"/meta/presence","uuid":"l","data":{}}`, "invalid", `data.channel is missing: data must be like {\"channel\":\"stories/5\"}`),
		} {
			p.Send(frame)
			r.told(frame, p, want)
		}
		p.Send(entersRoom)
		synctest.Wait()
		p.Conn.Lines()
		p.Send(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"1"}}`)
		r.told("a page before the first", p, refused(`{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"1"}}`, "invalid", "ask for the first page of members before you ask for the next one"))
		for range 60 {
			p.Send(listsRoom)
		}
		synctest.Wait()
		lines := p.Conn.Lines()
		if last := lines[len(lines)-1]; !strings.Contains(last, `"error":"more than 10 pages of members a second","code":"limit","retry":`) {
			t.Errorf("60 requests at once: %s", last)
		}
	})
}

// An agent that loses its right leaves at once, while an agent that is gone lingers. An
// agent that may not see the members is not told, and drops out when a reload says so.
func TestPresenceFollowsRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blind, out string
		policy := func() *hub.Policy {
			blind, out := blind, out // those of this generation
			p := roomPolicy(hub.PresenceRule{Linger: time.Hour, By: "same"})
			p.Gates = worldGates{
				hub.GateConnect: localFunc(func(q *hub.Question) hub.Verdict {
					if q.Agent.User() == out {
						return deniedVerdict("out")
					}
					return hub.Allow
				}),
				hub.GatePresence: localFunc(func(q *hub.Question) hub.Verdict {
					if q.Agent.User() == blind {
						return deniedVerdict("not for you")
					}
					return hub.Allow
				}),
			}
			p.Mount = "room"
			return p
		}
		blind = "dan"
		r := newRoom(t, policy())
		defer r.hub.Close()
		reload := func() {
			before := r.policy
			r.policy = r.hub.Use(policy())
			<-r.hub.Drop(before).Done()
		}
		ann, bob, dan := r.enter("ann", watchesRoom), r.enter("bob", watchesRoom), r.enter("dan", watchesRoom)
		defer func() {
			ann.Leave()
			bob.Leave()
			dan.Leave()
		}()
		r.told("dan may not see", dan, begunInRoom+`{"error":"not for you","code":"denied"}}`)
		dan.Send(listsRoom)
		r.told("nor ask", dan, strings.TrimSuffix(listsRoom, "}")+`,"successful":false,"error":"not for you","code":"denied"}`)
		time.Sleep(time.Second)
		ann.Conn.Lines()
		bob.Conn.Lines()

		blind, out = "ann", "bob"
		reload()
		time.Sleep(time.Second)
		r.told("ann may not see any more", ann, ofRoom+`"successful":false,"error":"not for you","code":"denied"}`)
		dan.Send(listsRoom)
		r.told("dan may see now; bob is out, and has left at once", dan, strings.TrimSuffix(listsRoom, "}")+`,"successful":true,"error":"","presence":{"number":3,"count":2,"members":[{"user":"ann","tabs":1},{"user":"dan","tabs":1}],"settles":`+"3598001}}")
		if code, _, _ := bob.Conn.Closed(); code != hub.CloseCut {
			t.Errorf("bob was closed with %d", code)
		}
	})
}

// A reload can switch presence on and off, and replaces the info.
func TestPresenceFollowsReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, &hub.Policy{Heartbeat: time.Hour})
		defer r.hub.Close()
		ann := r.enter("ann", entersRoom)
		defer ann.Leave()
		r.told("no presence", ann, strings.TrimSuffix(entersRoom, "}")+`,"successful":true,"error":""}`)
		reload := func(p *hub.Policy) {
			p.Mount = "room"
			before := r.policy
			r.policy = r.hub.Use(p)
			<-r.hub.Drop(before).Done()
			time.Sleep(time.Second)
		}
		info := func(text string) hub.PresenceRule {
			return hub.PresenceRule{By: hub.Fingerprint(text), Info: func(*hub.Question) ([]byte, error) { return []byte(text), nil }}
		}
		reload(roomPolicy(info("1")))
		ann.Send(listsRoom)
		r.told("it is on", ann, strings.TrimSuffix(listsRoom, "}")+`,"successful":true,"error":"","presence":{"number":1,"count":1,"members":[{"user":"ann","tabs":1,"info":1}]}}`)
		reload(roomPolicy(info("2")))
		r.told("another info", ann, ofRoom+`"number":2,"count":1,"changed":[{"user":"ann","tabs":1,"info":2}]}`)
		many := info("3")
		many.Count, many.By = true, "counted"
		reload(roomPolicy(many))
		r.told("only counted", ann, ofRoom+`"number":3,"count":1,"listed":false}`)
		reload(roomPolicy(info("3")))
		r.told("listed again", ann, ofRoom+`"number":4,"count":1,"reset":true}`)
		reload(&hub.Policy{Heartbeat: time.Hour})
		r.told("it is off", ann, ofRoom+`"successful":false,"error":"this channel tells nobody who is in it","code":"denied"}`)
		if s := r.hub.Stats(); s.Members != 0 || s.Watchers != 0 {
			t.Errorf("%d members and %d watchers are counted", s.Members, s.Watchers)
		}
	})
}

// A watcher that reads slowly misses batches, and is told to ask again when it reads: it is
// not closed because of them.
func TestPresenceDoesNotFillQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := roomPolicy(hub.PresenceRule{})
		p.Limits.QueueMessages = 8
		r := newRoom(t, p)
		defer r.hub.Close()
		slow := r.enter("slow", watchesRoom)
		defer slow.Leave()
		slow.Conn.Lines()
		slow.Conn.Stall(true)
		for n := range 20 {
			guest := r.enter(fmt.Sprint("guest", n), entersRoom)
			defer guest.Leave()
			time.Sleep(400 * time.Millisecond)
		}
		slow.Conn.Stall(false)
		time.Sleep(2 * time.Second)
		lines := slow.Conn.Lines()
		last := lines[len(lines)-1]
		if want := ofRoom + `"number":21,"count":21,"reset":true}`; last != want {
			t.Errorf("%d frames, the last one is\n%s\nwant\n%s", len(lines), last, want)
		}
		slow.Send(listsRoom)
		synctest.Wait()
		if lines := slow.Conn.Lines(); len(lines) != 1 || strings.Count(lines[0], `"user"`) != 21 {
			t.Errorf("the list has %q", lines)
		}
	})
}

// The gate is asked again at a refresh and when its answer expires. What waits of the list
// is dropped when the right to it ends.
func TestPresenceGateIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := roomPolicy(hub.PresenceRule{})
		var lasts atomic.Int64
		p.Gates = worldGates{
			hub.GateConnect: localFunc(func(q *hub.Question) hub.Verdict {
				return hub.Verdict{Identity: &hub.Identity{Claims: map[string]any{"role": string(q.Credentials)}}}
			}),
			hub.GatePresence: gateFunc(func(_ context.Context, q *hub.Question) hub.Verdict {
				time.Sleep(100 * time.Millisecond)
				if q.Identity.Claims["role"] == `"guest"` {
					return deniedVerdict("not for guests")
				}
				if lasts.Load() == 0 {
					return hub.Allow
				}
				return hub.Verdict{Expires: time.Now().Add(time.Duration(lasts.Load()))}
			}),
		}
		r := newRoom(t, p)
		defer r.hub.Close()
		ann := r.enter("ann", watchesRoom)
		defer ann.Leave()
		time.Sleep(time.Second)
		r.told("a gate that takes its time", ann, begunInRoom+`{"number":1,"count":1,"members":[{"user":"ann","tabs":1}]}}`)
		ann.Conn.Stall(true)
		bob := r.enter("bob", entersRoom)
		defer bob.Leave()
		time.Sleep(time.Second)
		eve := r.enter("eve", entersRoom)
		defer eve.Leave()
		time.Sleep(time.Second)
		ann.Send(`{"channel":"/meta/connect","uuid":"c","agentId":"a","data":{"credentials":"guest"}}`)
		time.Sleep(time.Second)
		ann.Conn.Stall(false)
		r.told("she is a guest now; a frame was being written", ann, ofRoom+`"number":2,"count":2,"joined":[{"user":"bob","tabs":1}]}`, ofRoom+`"successful":false,"error":"not for guests","code":"denied"}`)

		lasts.Store(int64(time.Minute))
		ann.Send(`{"channel":"/meta/connect","uuid":"c","agentId":"a","data":{"credentials":"host"}}`)
		synctest.Wait()
		ann.Send(listsRoom)
		time.Sleep(time.Second)
		r.told("a host again", ann, strings.TrimSuffix(listsRoom, "}")+`,"successful":true,"error":"","presence":{"number":3,"count":3,"members":[{"user":"ann","tabs":1},{"user":"bob","tabs":1},{"user":"eve","tabs":1}]}}`)
		time.Sleep(3 * time.Minute)
		r.told("the right is renewed", ann)
		lasts.Store(-1)
		time.Sleep(3 * time.Minute)
		r.told("and ends", ann, ofRoom+`"successful":false,"error":"your permission to see who is in this channel has expired","code":"expired"}`)
	})
}

// Of two endpoints that share a hub, one lists members and one only counts them. Each keeps
// its promise, whoever subscribes last.
func TestPresenceOfEndpointsThatShareAHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside := newRoom(t, roomPolicy(hub.PresenceRule{By: "lists"}))
		defer inside.hub.Close()
		public := func(rule hub.PresenceRule) *room {
			p := roomPolicy(rule)
			p.Mount = "public"
			return &room{t, inside.hub, inside.hub.Use(p)}
		}
		outside := public(hub.PresenceRule{Count: true, By: "counts"})
		pages := `{"channel":"/meta/presence","uuid":"l","data":{"channel":"room","next":"1"}}`
		counted := func(frame, rest string) string {
			return strings.TrimSuffix(frame, "}") + `,"successful":true,"error":"","presence":{` + rest + `,"listed":false}}`
		}

		eve := outside.enter("eve", watchesRoom)
		defer eve.Leave()
		outside.told("only guests", eve, begunInRoom+`{"number":1,"count":1,"listed":false}}`)
		ann := inside.enter("ann", watchesRoom)
		defer ann.Leave()
		ann.Conn.Lines()
		time.Sleep(time.Second)
		inside.told("a host makes a list of it", ann, ofRoom+`"number":2,"count":2,"reset":true}`)
		outside.told("which guests do not get", eve, ofRoom+`"number":2,"count":2,"listed":false}`)
		bob := outside.enter("bob", watchesRoom)
		defer bob.Leave()
		outside.told("a guest", bob, begunInRoom+`{"number":2,"count":2,"listed":false}}`)
		bob.Send(pages, listsRoom)
		outside.told("asks again", bob, counted(pages, `"number":2,"count":2`), counted(listsRoom, `"number":2,"count":2`))
		time.Sleep(time.Second)
		inside.told("a host gets the list", ann, ofRoom+`"number":3,"count":3,"joined":[{"user":"bob","tabs":1}]}`)
		outside.told("a guest does not", bob, ofRoom+`"number":3,"count":3,"listed":false}`)
		outside.told("nor does the other one", eve, ofRoom+`"number":3,"count":3,"listed":false}`)

		// A reload of one of them.
		before := outside.policy
		outside = public(hub.PresenceRule{By: "lists"})
		<-inside.hub.Drop(before).Done()
		time.Sleep(3 * time.Second)
		outside.told("guests may see the list now", eve, ofRoom+`"number":3,"count":3,"reset":true}`)
		before = outside.policy
		outside = public(hub.PresenceRule{Count: true, By: "counts"})
		<-inside.hub.Drop(before).Done()
		time.Sleep(3 * time.Second)
		outside.told("and no more", eve, ofRoom+`"number":3,"count":3,"listed":false}`)
		ann.Leave()
		time.Sleep(time.Second)
		outside.told("without a host", eve, ofRoom+`"number":4,"count":2,"listed":false}`)
	})
}
