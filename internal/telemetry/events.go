// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/push-it/pushit/hub"
)

// eventPrefix begins the names of events, because Caddy finds their handlers by name
// alone.
const eventPrefix = "pushit_"

// An Announcer emits what happens in one hub through the events app of the newest
// configuration that has started. It implements hub.Events.
type Announcer struct {
	hub   string
	begun chan struct{} // closed when the first has started; never sent on
	gone  chan struct{} // closed when the hub goes; never sent on

	newest atomic.Pointer[Stage] // the last of stages

	mu     sync.Mutex // guards the following; no other lock is taken under it
	stages []*Stage   // those that have started and have not been taken apart
}

// A Stage is where events go in one configuration.
type Stage struct {
	ctx caddy.Context
	app *caddyevents.App
}

// NewAnnouncer returns the Announcer of the hub of that name.
func NewAnnouncer(hub string) *Announcer {
	return &Announcer{hub: hub, begun: make(chan struct{}), gone: make(chan struct{})}
}

// Wants implements hub.Events. Before any configuration has started, who listens
// is not known yet.
func (a *Announcer) Wants(name hub.EventName) bool {
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
func (a *Announcer) Handle(e hub.Event, lost int) {
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
func (a *Announcer) data(e *hub.Event) map[string]any {
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

// Close ends Handle. No events are emitted after it.
func (a *Announcer) Close() { close(a.gone) }

// begin sends events to g from now on.
func (a *Announcer) begin(g *Stage) {
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

// End sends no more events to g.
func (a *Announcer) End(g *Stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stages = slices.DeleteFunc(a.stages, func(other *Stage) bool { return other == g })
	if n := len(a.stages); n > 0 {
		a.newest.Store(a.stages[n-1])
	} else {
		a.newest.Store(nil)
	}
}

// Begin emits events through app once the configuration of ctx has started. It does
// not emit before: until then other modules subscribe. The caller ends the Stage.
func (a *Announcer) Begin(ctx caddy.Context, app *caddyevents.App) (*Stage, error) {
	g := &Stage{ctx: ctx, app: app}
	if err := On(app, "started", func() { a.begin(g) }); err != nil {
		return nil, fmt.Errorf("subscribing to the start of the server: %w", err)
	}
	return g, nil
}

// On calls do at each event of that name, until the configuration of app ends. Like
// all subscriptions to Caddy's events, it works only while modules are provisioned.
func On(app *caddyevents.App, event string, do func()) error {
	return app.On(event, handlerFunc(do))
}

// A handlerFunc is an event handler that needs nothing of the event.
type handlerFunc func()

// Handle implements caddyevents.Handler.
func (do handlerFunc) Handle(context.Context, caddy.Event) error {
	do()
	return nil
}

var (
	_ hub.Events          = (*Announcer)(nil)
	_ caddyevents.Handler = handlerFunc(nil)
)
