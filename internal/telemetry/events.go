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

// eventPrefix is the prefix of the names of events. It keeps them apart from events of
// other modules, because Caddy finds handlers by name alone.
const eventPrefix = "pushit_"

// An Announcer emits the events of one hub through the events app of the newest
// configuration that has started. It implements hub.Events.
type Announcer struct {
	hub   string
	begun chan struct{} // closed when the first configuration has started; never sent on
	gone  chan struct{} // closed by Close; never sent on

	newest atomic.Pointer[Stage] // the last of stages

	mu     sync.Mutex // guards the following; no other lock is taken under it
	stages []*Stage   // of configurations that have started and not ended
}

// A Stage is the events app of one configuration.
type Stage struct {
	ctx caddy.Context
	app *caddyevents.App
}

// NewAnnouncer returns the Announcer of the hub of that name.
func NewAnnouncer(hub string) *Announcer {
	return &Announcer{hub: hub, begun: make(chan struct{}), gone: make(chan struct{})}
}

// Wants implements hub.Events. It returns true before the first configuration has started,
// because handlers may still subscribe.
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
		return // the configuration is ending: its handlers are gone
	}
	if lost > 0 {
		g.ctx.Slogger().Error("events were lost, because a handler of events is too slow", "hub", a.hub, "lost", lost)
	}
	g.app.Emit(g.ctx, eventPrefix+string(e.Name), a.data(&e))
}

// data returns the data of an event, which handlers see as {event.data.agent} and so on.
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

// Close makes Handle return. The Announcer emits no events after it.
func (a *Announcer) Close() { close(a.gone) }

// begin makes g the newest stage.
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

// End removes g: it gets no more events.
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

// Begin makes the Announcer emit events through app as soon as the configuration of ctx has
// started; before that, other modules still subscribe. The caller must call End.
func (a *Announcer) Begin(ctx caddy.Context, app *caddyevents.App) (*Stage, error) {
	g := &Stage{ctx: ctx, app: app}
	if err := On(app, "started", func() { a.begin(g) }); err != nil {
		return nil, fmt.Errorf("subscribing to the start of the server: %w", err)
	}
	return g, nil
}

// On makes app call do at each event of that name, until its configuration ends. Call On
// only while modules are provisioned: Caddy accepts no subscriptions later.
func On(app *caddyevents.App, event string, do func()) error {
	return app.On(event, handlerFunc(do))
}

// A handlerFunc is an event handler that ignores the event's data.
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
