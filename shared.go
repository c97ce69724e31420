// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
	"github.com/push-it/pushit/internal/telemetry"
)

// hubs holds the hubs by their names, never by what they are configured with, so
// that they outlive a reload: the new configuration takes its references before
// the old one gives back its own.
var hubs = caddy.NewUsagePool()

// eachHub calls yield with each hub there is.
func eachHub(yield func(name string, h *hub.Hub) bool) {
	var all []*hub.Hub // yield runs without the pool's lock
	hubs.Range(func(_, v any) bool {
		all = append(all, v.(*sharedHub).Hub)
		return true
	})
	for _, h := range all {
		if !yield(h.Name(), h) {
			return
		}
	}
}

// A sharedHub is a hub and the endpoints that the configurations have of it: one
// configuration, or for the time of a reload two.
type sharedHub struct {
	*hub.Hub
	announcer *telemetry.Announcer
	farewell  farewell
	sessions  *transport.Sessions // those over fallback transports

	mu    sync.Mutex      // guards the following and what is in uses
	uses  map[useKey]*use // an entry lives while handlers hold it
	count int             // of uses there have been
}

// A useKey is an endpoint in one configuration.
type useKey struct {
	generation <-chan struct{} // the configuration's Done, which no two share
	path       string
}

// A use is what handlers of one name and one path in one configuration agree on.
type use struct {
	key      useKey
	order    int // later configurations have greater ones
	settings settings
	place    string          // of the first of them, for people
	handlers []*Handler      // in the order in which they came
	said     map[string]bool // what warnings were about
	reloads  []*hub.Reload   // of the agents of those that are gone
}

// acquireHub takes a reference to the hub of that name, and makes it first where
// there is none. The caller returns it with releaseHub.
func acquireHub(name string) (*sharedHub, error) {
	v, _, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		h, err := hub.New(name, nil)
		if err != nil {
			return nil, err
		}
		s := &sharedHub{Hub: h, sessions: transport.NewSessions(), announcer: telemetry.NewAnnouncer(name), uses: make(map[useKey]*use)}
		s.farewell.over = make(chan struct{})
		h.HandleEvents(s.announcer)
		return s, nil
	})
	if err != nil {
		return nil, fmt.Errorf("hub %q: %w", name, err)
	}
	return v.(*sharedHub), nil
}

func releaseHub(name string) error {
	_, err := hubs.Delete(name)
	return err
}

// Destruct closes the hub when no configuration has it any more.
func (s *sharedHub) Destruct() error {
	if leaving() {
		s.drain()
	}
	s.drained(context.Background())
	s.announcer.Close()
	s.Close()
	return nil
}

// register notes that h is of the configuration of ctx. Where there is an
// endpoint of that name and path in it already (a site on two servers has one on
// each), an error says in what they differ. settings are those of h.
func (s *sharedHub) register(ctx caddy.Context, h *Handler, settings settings) (*use, error) {
	place := h.site.place()
	key := useKey{generation: ctx.Done(), path: h.Path}

	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uses[key]
	if u == nil {
		s.count++
		u = &use{key: key, order: s.count, settings: settings, place: place, said: make(map[string]bool)}
		s.uses[key] = u
	} else if differ := difference(u.settings, settings); differ != "" {
		return nil, fmt.Errorf("two endpoints, in %s and in %s, have the name %q and the path %s, but differ in %s: "+
			"make them equal, or give one another name or path", min(u.place, place), max(u.place, place), h.Name, h.Path, differ) // Caddy takes servers in any order
	}
	u.handlers = append(u.handlers, h)
	return u, nil
}

// unregister takes h out of u, whose agents it has left to r, which may be nil. The
// last handler of u to go tells what became of them.
func (s *sharedHub) unregister(u *use, h *Handler, r *hub.Reload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.handlers = slices.DeleteFunc(u.handlers, func(other *Handler) bool { return other == h })
	if r != nil {
		u.reloads = append(u.reloads, r)
	}
	if len(u.handlers) > 0 {
		return
	}
	delete(s.uses, u.key)
	if len(u.reloads) == 0 {
		return
	}
	if told := s.reloadingLocked(u, h); told != nil {
		go told.tell()
	}
}

// once reports whether nothing has been said about that yet to who reads the log,
// for the handlers of u.
func (s *sharedHub) once(u *use, about string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.said[about] {
		return false
	}
	u.said[about] = true
	return true
}

// provisioned returns the handlers of the configuration of ctx, by name and path.
func provisioned(ctx caddy.Context) (handlers []*Handler) {
	hubs.Range(func(_, v any) bool {
		s := v.(*sharedHub)
		s.mu.Lock()
		defer s.mu.Unlock()
		for key, u := range s.uses {
			if key.generation == ctx.Done() {
				handlers = append(handlers, u.handlers...)
			}
		}
		return true
	})
	slices.SortStableFunc(handlers, func(a, b *Handler) int { return strings.Compare(a.mount(), b.mount()) })
	return handlers
}

// settings are hashes of what handlers are configured with, by JSON name.
type settings map[string][sha256.Size]byte

// difference names the settings that a and b do not have in common.
func difference(a, b settings) string { return strings.Join(differing(a, b), ", ") }

func differing(a, b settings) []string {
	names := make(map[string]bool)
	for _, m := range []settings{a, b} {
		for name := range m {
			if one, other := a[name], b[name]; one != other {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
