// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/push-it/pushit/internal/telemetry"
)

// How the server's end is known: Caddy emits "stopping" before it stops anything,
// at a reload as well as at its end, and waits for who hears of it. Only then does
// it close the listeners, and wait for requests under way, of which streaming
// transports have some that end only when their sessions do. So everybody is sent
// away at "stopping": what else the server has is served meanwhile, who comes for a
// session is told why there is none, and events, logs and what disconnect gates ask
// are there until all are gone. With a shutdown_delay, in which Caddy serves as
// ever, that is done when the delay is over, which a hook of the server tells.

const (
	defaultDrain = 5 * time.Second
	minDrain     = time.Second // below it who is far away has no time to answer
	maxDrain     = time.Minute
)

// A farewell is the drain of a hub: it has one at most.
type farewell struct {
	begun atomic.Bool
	over  chan struct{} // closed when it is over; never sent on
}

// drain begins to send everybody away, if that has not begun; it does not wait.
// It takes as long as the most patient endpoint of the hub gives it.
func (s *sharedHub) drain() {
	if s.farewell.begun.Swap(true) {
		return
	}
	within, log := s.drainTime()
	go func() {
		defer close(s.farewell.over)
		d := s.Drain(within)
		if d.Agents == 0 {
			return
		}
		log.Info("the server is going: everybody was sent away",
			"agents", d.Agents, "cut", d.Cut, "took", d.Took.Round(time.Millisecond), "drain", within)
	}()
}

// drainAll begins to send everybody away from all hubs that a configuration has, so that
// each does not have to wait for the others. It leaves those of another one alone: a
// program may have stopped Caddy and started it again before net/http runs the last
// hook.
func drainAll(generation <-chan struct{}) {
	var all []*sharedHub
	hubs.Range(func(_, v any) bool {
		if s := v.(*sharedHub); s.isIn(generation) {
			all = append(all, s)
		}
		return true
	})
	for _, s := range all {
		s.drain()
	}
}

// isIn reports whether a configuration has the hub.
func (s *sharedHub) isIn(generation <-chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.uses {
		if key.generation == generation {
			return true
		}
	}
	return false
}

// drainTime returns how long a drain may take, and where to say how it went.
func (s *sharedHub) drainTime() (within time.Duration, log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	within, log = 0, slog.New(slog.DiscardHandler)
	for _, u := range s.uses {
		for _, h := range u.handlers {
			if h.drain > within {
				within, log = h.drain, h.env.Log
			}
		}
	}
	if within == 0 { // no configuration has it any more
		within = defaultDrain
	}
	return within, log
}

// drained waits until the drain is over, or ctx is, if there is a drain.
func (s *sharedHub) drained(ctx context.Context) {
	if !s.farewell.begun.Load() {
		return
	}
	select {
	case <-s.farewell.over:
	case <-ctx.Done():
	}
}

// leaving reports whether the server is going, and not from one configuration to
// the next: the process exits, or, in a program of somebody else's, caddy.Stop was
// called.
func leaving() bool { return caddy.Exiting() || caddy.ActiveContext().Context == nil }

// awaitEnd has everybody sent away when the server goes.
func (h *Handler) awaitEnd(events *caddyevents.App) error {
	s, generation := h.hub, h.use.key.generation
	if h.site.app == nil || h.site.app.ShutdownDelay <= 0 {
		if err := telemetry.On(events, "stopping", func() {
			if leaving() {
				drainAll(generation)
				s.drained(context.Background())
			}
		}); err != nil {
			return fmt.Errorf("subscribing to the end of the server: %w", err)
		}
	}
	if h.site.server == nil {
		return nil
	}
	h.site.server.RegisterOnShutdown(func() { // of a reload too
		if leaving() {
			drainAll(generation)
		}
	})
	h.site.server.RegisterOnStop(func(ctx context.Context) error {
		if leaving() {
			drainAll(generation) // the hook before may not have been run yet: nobody waits for it
			s.drained(ctx)
		}
		return nil
	})
	return nil
}

// settleDrain finds out how long h has to send everybody away. Caddy's grace period
// is the end of all requests, so that is what there is at most.
func (h *Handler) settleDrain(written bool) error {
	h.drain = time.Duration(h.Drain)
	if h.site.app == nil || h.site.app.GracePeriod <= 0 {
		return nil
	}
	grace := time.Duration(h.site.app.GracePeriod)
	if !written {
		h.drain = min(h.drain, grace*3/4)
		return nil
	}
	return checkDrain(h.drain, grace)
}

// checkDrain says when a drain does not fit into Caddy's grace period.
func checkDrain(drain, grace time.Duration) error {
	if grace <= 0 || drain < grace {
		return nil
	}
	if proposed := (grace * 3 / 4).Truncate(time.Second); proposed >= minDrain {
		return fmt.Errorf("drain (%s) must be shorter than Caddy's grace_period (%s), after which it waits for nobody: write drain %s, or a longer grace_period",
			shortDuration(drain), shortDuration(grace), shortDuration(proposed))
	}
	return fmt.Errorf("drain (%s) must be shorter than Caddy's grace_period (%s), after which it waits for nobody: write a longer grace_period, or leave drain out",
		shortDuration(drain), shortDuration(grace))
}
