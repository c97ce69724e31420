// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// listen opens a listener that is told who is in the room.
func (r *room) listen(user string) *hubtest.Peer {
	r.Helper()
	a, err := r.hub.Open(r.policy, hub.Opening{Transport: "test", User: user})
	if err != nil {
		r.Fatal(err)
	}
	p := hubtest.Carry(a, hubtest.NewConn())
	l, refused := hub.Listen(r.Context(), a, hub.Listening{Channels: []string{"room"}, Members: []string{"room"}})
	if refused != nil {
		r.Fatal(refused)
	}
	l.Release()
	synctest.Wait()
	return p
}

// A page is what comes in place of an answer to a listener.
type page struct {
	presenceFrame
	First, More bool
	Members     []member
	Error       string
}

// pages returns the frames that came since the last call.
func (r *room) pages(p *hubtest.Peer) (all []page) {
	r.Helper()
	synctest.Wait()
	for _, line := range p.Conn.Lines() {
		if !strings.HasPrefix(line, "{") || strings.Contains(line, `"/meta/connect"`) {
			continue
		}
		var f page
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Channel != "/meta/presence" || f.Data.Channel != "room" {
			r.Fatalf("%s: %v", line, err)
		}
		all = append(all, f)
	}
	return all
}

// A listener cannot ask for pages: the server pushes them, and begins anew if the listener
// has missed something. The listener is a member too.
func TestListenersAreToldWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := roomPolicy(hub.PresenceRule{Linger: time.Second, Members: 10_000})
		p.Limits.QueueMessages = 8
		r := newRoom(t, p)
		defer r.hub.Close()
		for n := range 600 {
			defer r.enter(fmt.Sprint("guest", n), entersRoom).Leave()
		}
		time.Sleep(time.Minute)
		ann := r.listen("ann")
		defer ann.Leave()
		users := make(map[string]bool)
		read := func(what string, sizes ...int) (last page) {
			t.Helper()
			all := r.pages(ann)
			if len(all) != len(sizes) {
				t.Fatalf("%s: %d frames, want %d: %+v", what, len(all), len(sizes), all)
			}
			for i, f := range all {
				if f.First != (i == 0) || f.More != (i < len(sizes)-1) || len(f.Members) != sizes[i] {
					t.Errorf("%s: page %d: first %t, more %t, %d members", what, i, f.First, f.More, len(f.Members))
				}
				for _, m := range f.Members {
					users[m.User] = true
				}
				last = f
			}
			return last
		}
		if last := read("the list", 256, 256, 89); len(users) != 601 || !users["ann"] || last.Count != 601 {
			t.Errorf("%d users; %d are counted", len(users), last.Count)
		}
		bob := r.enter("bob", entersRoom)
		time.Sleep(time.Second)
		if all := r.pages(ann); len(all) != 1 || all[0].First || len(all[0].Joined) != 1 || all[0].Joined[0].User != "bob" {
			t.Errorf("bob comes: %+v", all)
		}
		bob.Leave()
		time.Sleep(3 * time.Second)
		if all := r.pages(ann); len(all) != 1 || len(all[0].Left) != 1 {
			t.Errorf("bob leaves: %+v", all)
		}

		ann.Conn.Stall(true)
		for n := range 20 {
			defer r.enter(fmt.Sprint("late", n), entersRoom).Leave()
			time.Sleep(400 * time.Millisecond)
		}
		ann.Conn.Stall(false)
		time.Sleep(3 * time.Second)
		all := r.pages(ann)
		for len(all) > 0 && !all[0].First {
			all = all[1:] // what waited
		}
		clear(users)
		for _, f := range all {
			for _, m := range f.Members {
				users[m.User] = true
			}
		}
		if len(all) != 3 || len(users) != 621 || all[2].Number != all[0].Number {
			t.Errorf("after batches were missed: %d pages with %d users", len(all), len(users))
		}
	})
}

// The pages of a large list do not fill the queue: they follow as the listener reads.
func TestPagesForListenersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := roomPolicy(hub.PresenceRule{Linger: time.Second, Members: 10_000})
		p.Limits.QueueMessages = 8
		r := newRoom(t, p)
		defer r.hub.Close()
		for n := range 3000 {
			defer r.enter(fmt.Sprint("guest", n), entersRoom).Leave()
		}
		time.Sleep(time.Minute)
		ann := r.listen("ann")
		defer ann.Leave()
		begun := r.pages(ann)
		if len(begun) == 0 || len(begun) > 6 || !begun[len(begun)-1].More {
			t.Fatalf("%d pages at once", len(begun))
		}
		users := make(map[string]bool)
		changes := 0
		for n := range 5 {
			defer r.enter(fmt.Sprint("late", n), entersRoom).Leave()
			time.Sleep(time.Second)
			for _, f := range append(begun, r.pages(ann)...) {
				for _, m := range append(f.Members, f.Joined...) {
					users[m.User] = true
				}
				changes += len(f.Joined)
				if users["ann"] && f.First && n > 0 {
					t.Error("the list begins anew, though nothing was missed")
				}
			}
			begun = nil
		}
		time.Sleep(time.Second)
		for _, f := range r.pages(ann) {
			for _, m := range append(f.Members, f.Joined...) {
				users[m.User] = true
			}
		}
		if len(users) != 3006 || changes == 0 {
			t.Errorf("%d users, %d of them by batches", len(users), changes)
		}
	})
}

// A listener that may not see the members gets the messages all the same.
func TestListenersThatMayNotSeeTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blind atomic.Value
		p := roomPolicy(hub.PresenceRule{})
		p.Gates = worldGates{hub.GatePresence: localFunc(func(q *hub.Question) hub.Verdict {
			if q.Agent.User() == blind.Load() {
				return deniedVerdict("not for you")
			}
			return hub.Verdict{Recheck: 10 * time.Second}
		})}
		r := newRoom(t, p)
		defer r.hub.Close()
		blind.Store("dan")
		dan := r.listen("dan")
		defer dan.Leave()
		r.told("dan", dan, ofRoom+`"successful":false,"error":"not for you","code":"denied"}`)
		ann := r.listen("ann")
		defer ann.Leave()
		r.told("ann", ann, ofRoom+`"number":1,"count":2,"first":true,"members":[{"user":"dan","tabs":1},{"user":"ann","tabs":1}]}`)
		blind.Store("ann")
		time.Sleep(20 * time.Second)
		r.told("ann, later", ann, ofRoom+`"successful":false,"error":"not for you","code":"denied"}`)
		defer r.enter("bob", entersRoom).Leave()
		time.Sleep(time.Second)
		r.told("ann, after that", ann)
	})
}

// An agent gets no more pages by subscribing than by asking. The subscription holds, and
// what the agent was told of the members goes on.
func TestSubscribesThatAskForMembersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := roomPolicy(hub.PresenceRule{})
		p.Gates = worldGates{hub.GatePresence: localFunc(func(*hub.Question) hub.Verdict { return hub.Allow })}
		p.Limits.FramesPerSecond = hub.Unlimited
		r := newRoom(t, p)
		defer r.hub.Close()
		ann := r.enter("ann")
		defer ann.Leave()
		for range 30 {
			ann.Send(`{"channel":"/meta/unsubscribe","uuid":"u","data":{"channel":"room"}}`, watchesRoom)
		}
		for range 30 {
			ann.Send(watchesRoom)
		}
		synctest.Wait()
		pages, refused := 0, 0
		limited := begunInRoom + `{"error":"more than 10 pages of members a second","code":"limit","retry":100}}`
		for _, line := range ann.Conn.Lines() {
			switch {
			case line == limited:
				refused++
			case strings.Contains(line, `"members":[`):
				pages++
			}
		}
		if pages != 50 || refused != 10 {
			t.Errorf("60 subscribes: %d pages, %d refusals", pages, refused)
		}
		defer r.enter("bob", entersRoom).Leave()
		time.Sleep(time.Second)
		lines := ann.Conn.Lines()
		if len(lines) != 1 || !strings.Contains(lines[0], `"joined":[{"user":"bob"`) {
			t.Errorf("bob comes: %q", lines)
		}
		ann.Send(watchesRoom)
		synctest.Wait()
		if lines := ann.Conn.Lines(); len(lines) != 1 || !strings.Contains(lines[0], `"members":[`) {
			t.Errorf("a second later: %q", lines)
		}
	})
}
