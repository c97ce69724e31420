// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// A machine that has hung gives clients two seconds for their next request, not five: also if
// it is another machine that has hung, and says so.
func TestClientsOfMachinesThatHang(t *testing.T) {
	t.Parallel()
	type machine struct {
		*Sessions
		*session
		by *claimant
	}
	const hangs = 1500 * time.Millisecond
	for name, c := range map[string]struct {
		happens func(m machine)
		lasts   time.Duration // the session, from then on
	}{
		"nothing": {func(m machine) {
			for range 4 {
				m.beat()
				time.Sleep(pulseEvery)
			}
			m.detach(true, "")
		}, disconnectDelay},
		"it hangs between two requests": {func(m machine) {
			m.beat()
			m.detach(true, "")
			time.Sleep(hangs)
			m.beat()
		}, doubtDelay},
		"a response ends when it goes on": {func(m machine) {
			m.beat()
			time.Sleep(hangs)
			m.detach(true, "")
			m.beat()
		}, doubtDelay},
		"a response ends soon after": {func(m machine) {
			m.beat()
			time.Sleep(hangs)
			m.beat()
			time.Sleep(doubtFor / 2)
			m.detach(true, "")
		}, doubtDelay},
		"a response ends later": {func(m machine) {
			m.beat()
			time.Sleep(hangs)
			for range 2 * doubtFor / pulseEvery {
				m.beat()
				time.Sleep(pulseEvery)
			}
			m.detach(true, "")
		}, disconnectDelay},
		"a machine that relays has hung": {func(m machine) {
			m.detach(true, "")
			q := relayRequest{ID: "1", Do: relayWritten, OK: true, Mount: m.key.mount, Session: []byte(m.key.id), Claim: m.by.claim(nil), Hung: true}
			m.answerRelay(t.Context(), hub.NodeID{}, appendRelay(q, nil))
		}, doubtDelay},
		"somebody else says so": {func(m machine) {
			m.detach(true, "")
			q := relayRequest{ID: "1", Do: relayWritten, OK: true, Mount: m.key.mount, Session: []byte(m.key.id), Hung: true}
			m.answerRelay(t.Context(), hub.NodeID{}, appendRelay(q, nil))
		}, disconnectDelay},
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
				c.happens(machine{ss, s, by})
				time.Sleep(c.lasts - time.Millisecond)
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
