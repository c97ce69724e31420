// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hubpool

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/internal/telemetry"
)

// How a hub learns that the server stops: Caddy emits the event "stopping" before it
// stops anything, and waits for the subscribers. Then it closes the listeners and waits
// for open requests. Some requests of streaming transports end only with their sessions.
// So the drain happens during "stopping". At that time the server still serves everything
// else. New sessions are refused with a reason. Events, logs and backends of disconnect
// gates still work until all agents are gone.
//
// With a shutdown_delay Caddy serves as usual during the delay, and the drain happens
// after it. Then a hook of the server starts the drain. Caddy emits "stopping" and runs
// the hooks during a reload, too, so each of them checks Leaving.

// DefaultDrain is how long a drain may take by default.
const DefaultDrain = 5 * time.Second

// A farewell is the drain of a hub. A hub has only one.
type farewell struct {
	begun atomic.Bool
	over  chan struct{} // closed when the drain is over; never sent on
}

// BeginDrain starts to close all sessions, and does not wait. Later calls do nothing. The
// endpoint with the longest drain decides how long it may take.
func (h *Hub) BeginDrain() {
	if h.farewell.begun.Swap(true) {
		return
	}
	within, log := h.drainTime()
	go func() {
		defer close(h.farewell.over)
		d := h.Drain(within)
		if d.Agents == 0 {
			return
		}
		log.Info("the server stops: all sessions were closed",
			"agents", d.Agents, "cut", d.Cut, "took", d.Took.Round(time.Millisecond), "drain", within)
	}()
}

// DrainAll begins the drain of all hubs of a configuration at once, so that no hub waits
// for another. It ignores hubs of other configurations, because a program may stop Caddy
// and start it again before net/http has run the last hook.
func DrainAll(generation <-chan struct{}) {
	for _, h := range all() {
		if h.isIn(generation) {
			h.BeginDrain()
		}
	}
}

// isIn reports whether a configuration has the hub.
func (h *Hub) isIn(generation <-chan struct{}) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range h.uses {
		if key.generation == generation {
			return true
		}
	}
	return false
}

// drainTime returns how long a drain may take, and where to log its result.
func (h *Hub) drainTime() (within time.Duration, log *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	within, log = 0, slog.New(slog.DiscardHandler)
	for _, u := range h.uses {
		for _, e := range u.endpoints {
			if e.Drain > within {
				within, log = e.Drain, e.Log
			}
		}
	}
	if within == 0 { // no configuration has the hub now
		within = DefaultDrain
	}
	return within, log
}

// awaitDrain waits until the drain is over, if it has begun, or until ctx is done.
func (h *Hub) awaitDrain(ctx context.Context) {
	if !h.farewell.begun.Load() {
		return
	}
	select {
	case <-h.farewell.over:
	case <-ctx.Done():
	}
}

// Leaving reports whether the server stops, as opposed to a reload: the process exits,
// or a program that embeds Caddy has called caddy.Stop.
func Leaving() bool { return caddy.Exiting() || caddy.ActiveContext().Context == nil }

// DrainAtStop drains the hub when the server stops. server may be nil. delayed says that
// Caddy has a shutdown_delay.
func (u *Use) DrainAtStop(events *caddyevents.App, server *caddyhttp.Server, delayed bool) error {
	h, generation := u.hub, u.key.generation
	if !delayed {
		if err := telemetry.On(events, "stopping", func() {
			if Leaving() {
				DrainAll(generation)
				h.awaitDrain(context.Background())
			}
		}); err != nil {
			return fmt.Errorf("subscribing to the end of the server: %w", err)
		}
	}
	if server == nil {
		return nil
	}
	server.RegisterOnShutdown(func() { // runs during a reload, too
		if Leaving() {
			DrainAll(generation)
		}
	})
	server.RegisterOnStop(func(ctx context.Context) error {
		if Leaving() {
			DrainAll(generation) // net/http does not wait for the hook above
			h.awaitDrain(ctx)
		}
		return nil
	})
	return nil
}
