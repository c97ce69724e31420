// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package statuspage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
	"github.com/push-it/pushit/internal/statuspage"
)

// crowd makes a hub with agents in channels with long names, in a synctest bubble.
func crowd(t *testing.T, agents, channelsEach int) *hub.Hub {
	t.Helper()
	h, err := hub.New("crowd", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	p := h.Use(&hub.Policy{Mount: "crowd /push", Limits: hub.Limits{
		ChannelsPerAgent: channelsEach, AgentsPerIP: hub.Unlimited, FramesPerSecond: hub.Unlimited, UnconnectedPerIP: hub.Unlimited, QueueMessages: 1_000_000, QueueBytes: 1 << 30,
	}})
	for i := range agents {
		peer := hubtest.Open(t, h, p, hub.Opening{Transport: "test", User: strings.Repeat("&", 1000)}, hubtest.NewConn())
		peer.Send(fmt.Sprintf(`{"channel":"/meta/connect","uuid":"c","agentId":"a%d"}`, i))
		for j := range channelsEach {
			peer.Send(fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"s%d","data":{"channel":"%d-%d-%s"}}`, j, i, j, strings.Repeat("&", 200)))
		}
		t.Cleanup(peer.Leave)
	}
	synctest.Wait()
	return h
}

func get(p *statuspage.Page, name string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	path, _, _ := strings.Cut(name, "?")
	p.Serve(w, httptest.NewRequest(http.MethodGet, "/push/debug"+name, http.NoBody), path, new(hub.Opening))
	return w
}

// The state has a bounded size, however many agents and channels there are.
func TestStateIsBounded(t *testing.T) { synctest.Test(t, stateIsBounded) }

func stateIsBounded(t *testing.T) {
	h := crowd(t, 150, 100)
	for i := range 10_000 {
		h.CountRefused(&hub.Refusal{Code: hub.CodeDenied, Reason: fmt.Sprint(i, strings.Repeat("&", 1000))})
	}
	for _, tc := range []struct {
		query string
		rows  int
		most  int // bytes
	}{{"", 25, 300 << 10}, {"?limit=100", 100, 1100 << 10}, {"?limit=1", 1, 20 << 10}} {
		p := statuspage.New(h)
		w := get(p, "/state"+tc.query)
		var got struct {
			Channels, Agents, Refusals []json.RawMessage
			MoreChannels               bool `json:"more_channels"`
			MoreAgents                 bool `json:"more_agents"`
			Machines                   []struct{ Channels int }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d: %v", w.Code, err)
		}
		if len(got.Channels) != tc.rows || len(got.Agents) == 0 || len(got.Agents) > tc.rows || len(got.Refusals) > tc.rows || len(got.Refusals) == 0 || !got.MoreChannels || !got.MoreAgents {
			t.Errorf("%s: %d channels, %d agents, %d refusals", tc.query, len(got.Channels), len(got.Agents), len(got.Refusals))
		}
		if got.Machines[0].Channels != 15_000 {
			t.Errorf("%s: %d channels in all", tc.query, got.Machines[0].Channels)
		}
		if w.Body.Len() > tc.most {
			t.Errorf("%s: %d bytes, want %d at most", tc.query, w.Body.Len(), tc.most)
		}
	}
}

// Many viewers cost as much as one: within a moment, all get the same state.
func TestViewersShareAState(t *testing.T) { synctest.Test(t, viewersShareAState) }

func viewersShareAState(t *testing.T) {
	p := statuspage.New(crowd(t, 2, 2))
	bodies := make([]string, 20)
	var wg sync.WaitGroup
	for i := range bodies {
		wg.Go(func() { bodies[i] = get(p, "/state").Body.String() })
	}
	wg.Wait()
	for i := range bodies {
		if bodies[i] != bodies[0] || bodies[i] == "" {
			t.Errorf("viewer %d got %s", i, bodies[i])
		}
	}
	for i := range 100 { // as many different questions as there may be are remembered
		if w := get(p, fmt.Sprintf("/state?user=%d", i)); w.Code != http.StatusOK {
			t.Errorf("status %d", w.Code)
		}
	}
}

// A browser that has a file asks whether it is the same, and passes the gate for that.
func TestFilesAreAskedForAgain(t *testing.T) { synctest.Test(t, filesAreAskedForAgain) }

func filesAreAskedForAgain(t *testing.T) {
	p := statuspage.New(crowd(t, 1, 1))
	first := get(p, "/page.mjs")
	if first.Code != http.StatusOK || first.Header().Get("Cache-Control") != "private, no-cache" || first.Header().Get("ETag") == "" {
		t.Fatalf("%d %v", first.Code, first.Header())
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/push/debug/page.mjs", http.NoBody)
	r.Header.Set("If-None-Match", first.Header().Get("ETag"))
	p.Serve(w, r, "/page.mjs", new(hub.Opening))
	if w.Code != http.StatusNotModified {
		t.Errorf("status %d", w.Code)
	}
}

// Somebody who asks for ever other lists does not take all cores: the readings follow each
// other, with pauses.
func TestReadingsTakeTurns(t *testing.T) { synctest.Test(t, readingsTakeTurns) }

func readingsTakeTurns(t *testing.T) {
	p := statuspage.New(crowd(t, 2, 2))
	readings, most := 0, 0
	p.Slow(30*time.Millisecond, func(n int) { readings, most = readings+1, max(most, n) })
	begun := time.Now()
	var wg sync.WaitGroup
	for i := range 30 { // ten lists, each for three viewers
		wg.Go(func() {
			if w := get(p, fmt.Sprintf("/state?user=%d", i%10)); w.Code != http.StatusOK {
				t.Errorf("status %d", w.Code)
			}
		})
	}
	wg.Wait()
	if took := time.Since(begun); readings != 10 || most != 1 || took < 9*600*time.Millisecond || took > 10*time.Second {
		t.Errorf("%d readings, %d at once, took %v", readings, most, took)
	}
	// A viewer that leaves while it waits holds nobody up.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	p.Serve(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/push/debug/state?user=gone", http.NoBody), "/state", new(hub.Opening))
	if got := get(p, "/state?user=next"); w.Code != http.StatusServiceUnavailable || got.Code != http.StatusOK {
		t.Errorf("one that leaves gets %d, and the next one %d", w.Code, got.Code)
	}
}
