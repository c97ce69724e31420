// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package hubpool keeps hubs across reloads. It gives handlers the hub of a name,
// compares the endpoints of configurations, and drains the hubs when the server stops.
package hubpool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
	"github.com/push-it/pushit/internal/telemetry"
)

// pool holds the hubs by name, so a hub outlives a reload: the new configuration acquires
// its references before the old one releases its own.
var pool = caddy.NewUsagePool()

// Each calls yield with each hub.
func Each(yield func(name string, h *hub.Hub) bool) {
	for _, h := range all() {
		if !yield(h.Name(), h.Hub) {
			return
		}
	}
}

// all returns the hubs, so that the lock of the pool is not held while they are used.
func all() (hubs []*Hub) {
	pool.Range(func(_, v any) bool {
		hubs = append(hubs, v.(*Hub))
		return true
	})
	return hubs
}

// References returns how many handlers have acquired the hub of that name.
func References(name string) int {
	n, _ := pool.References(name)
	return n
}

// A Hub is a hub with its endpoints. During a reload it has the endpoints of two
// configurations.
type Hub struct {
	*hub.Hub
	Announcer *telemetry.Announcer
	Sessions  *transport.Sessions // sessions over fallback transports
	farewell  farewell

	mu    sync.Mutex      // guards the following and the fields of uses
	uses  map[useKey]*Use // an entry lives while it has endpoints
	count int             // of uses that were ever made
	logs  logs
}

// An Endpoint is what the pool knows of one handler.
type Endpoint struct {
	Generation <-chan struct{} // the Done channel of the configuration, which identifies it
	Path       string
	Place      string // where the configuration has it, for errors
	Settings   Settings
	Gates      *guards.Policy // nil if there are none
	Drain      time.Duration
	Log        *slog.Logger
	Handler    any // the handler itself
}

type useKey struct {
	generation <-chan struct{}
	path       string
}

// A Use is shared by all handlers with the same hub, path and configuration.
type Use struct {
	hub       *Hub
	key       useKey
	order     int             // later configurations have a higher order
	first     *Endpoint       // its settings and place are used in errors
	endpoints []*Endpoint     // in the order of registration
	said      map[string]bool // the warnings that were given
	reloads   []*hub.Reload   // of endpoints that were unregistered
}

// Acquire adds a reference to the hub of that name, and makes the hub if there is none.
// The caller must call Release.
func Acquire(name string) (*Hub, error) {
	v, _, err := pool.LoadOrNew(name, func() (caddy.Destructor, error) {
		inner, err := hub.New(name, nil)
		if err != nil {
			return nil, err
		}
		h := &Hub{Hub: inner, Sessions: transport.NewSessions(), Announcer: telemetry.NewAnnouncer(name), uses: make(map[useKey]*Use)}
		h.farewell.over = make(chan struct{})
		inner.HandleEvents(h.Announcer)
		h.Sessions.Join(inner)
		return h, nil
	})
	if err != nil {
		return nil, fmt.Errorf("hub %q: %w", name, err)
	}
	return v.(*Hub), nil
}

// Release drops a reference. The last one closes the hub.
func (h *Hub) Release() error {
	_, err := pool.Delete(h.Name())
	return err
}

// Destruct implements caddy.Destructor.
func (h *Hub) Destruct() error {
	if Leaving() {
		h.BeginDrain()
	}
	h.awaitDrain(context.Background())
	h.Announcer.Close()
	h.Close()
	return nil
}

// Register adds an endpoint to its configuration. A site on two servers registers the
// same endpoint twice; Register fails if they differ.
func (h *Hub) Register(e *Endpoint) (*Use, error) {
	key := useKey{generation: e.Generation, path: e.Path}
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.uses[key]
	if u == nil {
		h.count++
		u = &Use{hub: h, key: key, order: h.count, first: e, said: make(map[string]bool)}
		h.uses[key] = u
	} else if differ := Difference(u.first.Settings, e.Settings); differ != "" {
		one, other := u.first.Place, e.Place
		return nil, fmt.Errorf("two endpoints, in %s and in %s, have the name %q and the path %s, but differ in %s: "+
			"make them equal, or give one of them another name or path", min(one, other), max(one, other), h.Name(), e.Path, differ) // Caddy starts servers in any order
	}
	u.endpoints = append(u.endpoints, e)
	return u, nil
}

// Unregister removes e from u. reload is the reload of e's agents, or nil. The last
// endpoint of u logs the effects on the agents of all its endpoints.
func (u *Use) Unregister(e *Endpoint, reload *hub.Reload) {
	u.hub.mu.Lock()
	defer u.hub.mu.Unlock()
	u.endpoints = slices.DeleteFunc(u.endpoints, func(other *Endpoint) bool { return other == e })
	if reload != nil {
		u.reloads = append(u.reloads, reload)
	}
	if len(u.endpoints) > 0 {
		return
	}
	delete(u.hub.uses, u.key)
	if err := u.hub.generationGoneLocked(u.key.generation); err != nil {
		e.Log.Error("moving the history to another place failed", "error", err)
	}
	if len(u.reloads) == 0 {
		return
	}
	if r := u.reloadedLocked(e); r != nil {
		go r.log()
	}
}

// Once reports whether this is the first call with about, so that a warning is logged
// once for all endpoints of u.
func (u *Use) Once(about string) bool {
	u.hub.mu.Lock()
	defer u.hub.mu.Unlock()
	if u.said[about] {
		return false
	}
	u.said[about] = true
	return true
}

// Endpoints returns the endpoints of a configuration, sorted by hub and path.
func Endpoints(generation <-chan struct{}) (found []*Endpoint) {
	hubs := all()
	slices.SortFunc(hubs, func(a, b *Hub) int { return strings.Compare(a.Name(), b.Name()) })
	for _, h := range hubs {
		h.mu.Lock()
		uses := slices.SortedFunc(maps.Values(h.uses), func(a, b *Use) int { return cmp.Compare(a.key.path, b.key.path) })
		for _, u := range uses {
			if u.key.generation == generation {
				found = append(found, u.endpoints...)
			}
		}
		h.mu.Unlock()
	}
	return found
}

// Settings are hashes of an endpoint's settings, by JSON name.
type Settings map[string][sha256.Size]byte

// Difference names the settings in which a and b differ.
func Difference(a, b Settings) string { return strings.Join(differing(a, b), ", ") }

func differing(a, b Settings) []string {
	names := make(map[string]bool)
	for _, m := range []Settings{a, b} {
		for name := range m {
			if one, other := a[name], b[name]; one != other {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
