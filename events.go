// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/push-it/pushit/hub"
)

// eventPrefix begins the names of events, since handlers of Caddy's events are
// found by name alone.
const eventPrefix = "pushit_"

// An announcer emits what happens in a hub through the events app of the newest
// configuration that has started. It implements hub.Events.
type announcer struct {
	hub   string
	begun chan struct{} // closed when the first has started; never sent on
	gone  chan struct{} // closed when the hub goes; never sent on

	newest atomic.Pointer[stage] // the last of stages

	mu     sync.Mutex // guards the following; no other lock is taken under it
	stages []*stage   // those that have started and have not been taken apart
}

// A stage is where events go in one configuration.
type stage struct {
	ctx caddy.Context
	app *caddyevents.App
}

func newAnnouncer(hub string) *announcer {
	return &announcer{hub: hub, begun: make(chan struct{}), gone: make(chan struct{})}
}

// Wants implements hub.Events. Before any configuration has started, who listens
// is not known yet.
func (a *announcer) Wants(name hub.EventName) bool {
	g := a.newest.Load()
	if g == nil {
		select {
		case <-a.begun:
			return false
		default:
			return true
		}
	}
	return g.app.ShouldEmit(eventPrefix + string(name))
}

// Handle implements hub.Events.
func (a *announcer) Handle(e hub.Event, lost int) {
	select {
	case <-a.begun:
	case <-a.gone:
		return
	}
	g := a.newest.Load()
	if g == nil || g.ctx.Err() != nil {
		return // the configuration is being taken apart: nobody is there
	}
	if lost > 0 {
		g.ctx.Slogger().Error("events were lost: what handles them is too slow", "hub", a.hub, "lost", lost)
	}
	g.app.Emit(g.ctx, eventPrefix+string(e.Name), a.data(&e))
}

// data is what handlers get of an event: {event.data.agent} and so on.
func (a *announcer) data(e *hub.Event) map[string]any {
	d := map[string]any{"hub": a.hub}
	if e.Namespace != "" {
		d["namespace"] = e.Namespace
	}
	if e.Channel != "" {
		d["channel"], d["pattern"] = e.Channel, e.Pattern
		return d
	}
	d["agent"], d["agent_id"], d["user"] = e.Agent, e.AgentID, e.User
	d["transport"], d["remote_ip"] = e.Transport, e.RemoteIP
	if e.Name == hub.AgentDisconnected {
		d["code"], d["reason"], d["duration"] = int(e.Code), e.Reason, e.Lasted.Seconds()
	}
	return d
}

// begin has events go to g from now on.
func (a *announcer) begin(g *stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.stages) == 0 && a.newest.Load() == nil {
		select {
		case <-a.begun:
		default:
			defer close(a.begun)
		}
	}
	a.stages = append(a.stages, g)
	a.newest.Store(g)
}

// end has no more events go to g.
func (a *announcer) end(g *stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stages = slices.DeleteFunc(a.stages, func(other *stage) bool { return other == g })
	if n := len(a.stages); n > 0 {
		a.newest.Store(a.stages[n-1])
	} else {
		a.newest.Store(nil)
	}
}

// announce has what happens in the hub of h emitted, from when the configuration of
// ctx has started: not before, for until then others subscribe.
func (h *Handler) announce(ctx caddy.Context, events *caddyevents.App) error {
	h.stage = &stage{ctx: ctx, app: events}
	a, g := h.hub.announcer, h.stage
	if err := events.On("started", whenever{func() { a.begin(g) }}); err != nil {
		return fmt.Errorf("subscribing to the start of the server: %w", err)
	}
	return nil
}

var _ hub.Events = (*announcer)(nil)
