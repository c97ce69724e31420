// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"cmp"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// A machine that has hung, or was cut off, gives clients two seconds for their next request, not
// five: also if it is another machine, which says so.
func TestClientsOfMachinesThatWereAway(t *testing.T) {
	t.Parallel()
	type machine struct {
		*Sessions
		*session
		by *claimant
	}
	const hangs = 1500 * time.Millisecond
	const late = pulseEvery + lateBy + time.Millisecond
	for name, c := range map[string]struct {
		happens func(m machine)
		lasts   time.Duration // the session, from then on
		every   time.Duration // the beats from then on; 0: pulseEvery
	}{
		"nothing": {func(m machine) {
			for range 4 {
				m.beat(false)
				time.Sleep(pulseEvery)
			}
			m.detach(true, "")
		}, disconnectDelay, 0},
		"it hangs between two requests": {func(m machine) {
			m.beat(false)
			m.detach(true, "")
			time.Sleep(hangs)
			m.beat(false)
		}, doubtDelay, 0},
		"a response ends when it goes on": {func(m machine) {
			m.beat(false)
			time.Sleep(hangs)
			m.detach(true, "")
			m.beat(false)
		}, doubtDelay, 0},
		"a response ends soon after": {func(m machine) {
			m.beat(false)
			time.Sleep(hangs)
			for range doubtFor / 2 / pulseEvery {
				time.Sleep(pulseEvery)
				m.beat(false)
			}
			m.detach(true, "")
		}, doubtDelay, 0},
		"a response ends later": {func(m machine) {
			m.beat(false)
			time.Sleep(hangs)
			for range 2 * doubtFor / pulseEvery {
				m.beat(false)
				time.Sleep(pulseEvery)
			}
			m.detach(true, "")
		}, disconnectDelay, 0},
		"it was cut off": {func(m machine) {
			m.beat(true)
			time.Sleep(pulseEvery)
			m.beat(false)
			m.detach(true, "")
		}, doubtDelay, 0},
		"it is busy": {func(m machine) {
			for range 4 {
				m.beat(true)
				time.Sleep(late)
			}
			m.beat(false)
			m.detach(true, "")
		}, disconnectDelay, late},
		"it was busy": {func(m machine) {
			for range 4 {
				m.beat(true)
				time.Sleep(late)
			}
			m.beat(false)
			m.detach(true, "")
		}, disconnectDelay, 0},
		"it is so busy that it seems to hang": {func(m machine) {
			m.beat(false)
			for range 3 {
				time.Sleep(hangs)
				m.beat(false)
			}
			m.detach(true, "")
		}, disconnectDelay, 0},
		"it becomes busy soon after": {func(m machine) {
			m.beat(false)
			time.Sleep(hangs)
			m.beat(false)
			m.detach(true, "")
		}, disconnectDelay, late},
		"it is stuck when time is over": {func(m machine) {
			m.beat(false)
			time.Sleep(hangs)
			m.beat(false)
			m.detach(true, "")
		}, disconnectDelay, time.Hour},
		"a machine that relays was away": {func(m machine) {
			m.detach(true, "")
			q := relayRequest{ID: "1", Do: relayWritten, OK: true, Mount: m.key.mount, Session: []byte(m.key.id), Claim: m.by.claim(nil), Away: true}
			m.answerRelay(t.Context(), hub.NodeID{}, appendRelay(q, nil))
		}, doubtDelay, 0},
		"somebody else says so": {func(m machine) {
			m.detach(true, "")
			q := relayRequest{ID: "1", Do: relayWritten, OK: true, Mount: m.key.mount, Session: []byte(m.key.id), Away: true}
			m.answerRelay(t.Context(), hub.NodeID{}, appendRelay(q, nil))
		}, disconnectDelay, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, err := hub.New("test", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				a, err := h.Open(h.Use(&hub.Policy{Mount: "test", Handshake: time.Hour}), hub.Opening{})
				if err != nil {
					t.Fatal(err)
				}
				by := &claimant{r: &http.Request{Header: http.Header{}}}
				ss := NewSessions()
				s := ss.newSession(sessionKey{"test", "x"}, by.owner(nil), nil, a, defaultTimes)
				a.Start(s)
				ss.add(s)
				m := machine{ss, s, by}
				c.happens(m)
				every := cmp.Or(c.every, pulseEvery)
				end := time.Now().Add(c.lasts - time.Millisecond)
				for time.Until(end) > every {
					time.Sleep(every)
					m.beat(false)
				}
				time.Sleep(time.Until(end))
				synctest.Wait()
				if ss.find(s.key) == nil {
					t.Error("it has ended too early")
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				if ss.find(s.key) != nil || h.Agents() != 0 {
					t.Error("it goes on")
				}
			})
		})
	}
}
