// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/hub"
)

// hubs holds the hubs by their names, never by what they are configured with, so
// that they outlive a reload: the new configuration takes its references before
// the old one gives back its own.
var hubs = caddy.NewUsagePool()

// A sharedHub is a hub and the endpoints that the configurations have of it: one
// configuration, or for the time of a reload two.
type sharedHub struct {
	*hub.Hub

	mu   sync.Mutex      // guards uses and what is in it
	uses map[useKey]*use // an entry lives while handlers hold it
}

// A useKey is an endpoint in one configuration.
type useKey struct {
	generation <-chan struct{} // the configuration's Done, which no two share
	path       string
}

// A use is what handlers of one name and one path in one configuration agree on.
type use struct {
	key      useKey
	settings map[string]json.RawMessage
	server   string // of the first of them, for people
	handlers int
}

// acquireHub takes a reference to the hub of that name, and makes it first where
// there is none. The caller returns it with releaseHub.
func acquireHub(name string) (*sharedHub, error) {
	v, _, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		h, err := hub.New(name, nil)
		if err != nil {
			return nil, err
		}
		return &sharedHub{Hub: h, uses: make(map[useKey]*use)}, nil
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
	s.Close()
	return nil
}

// register notes that h is of the configuration of ctx. Where there is an
// endpoint of that name and path in it already (a site on two servers has one on
// each), an error says in what they differ.
func (s *sharedHub) register(ctx caddy.Context, h *Handler) (*use, error) {
	server := "?"
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server = srv.Name()
	}
	key := useKey{generation: ctx.Done(), path: h.Path}
	settings := h.settings()

	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uses[key]
	if u == nil {
		u = &use{key: key, settings: settings, server: server}
		s.uses[key] = u
	} else if differ := difference(u.settings, settings); differ != "" {
		return nil, fmt.Errorf("two endpoints, in the servers %s and %s, have the name %q and the path %s, but differ in %s: "+
			"make them equal, or give one another name or path", u.server, server, h.Name, h.Path, differ)
	}
	u.handlers++
	return u, nil
}

func (s *sharedHub) unregister(u *use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.handlers--; u.handlers == 0 {
		delete(s.uses, u.key)
	}
}

// difference names the settings that a and b do not have in common.
func difference(a, b map[string]json.RawMessage) string {
	names := make(map[string]bool)
	for _, m := range []map[string]json.RawMessage{a, b} {
		for name := range m {
			if !bytes.Equal(a[name], b[name]) {
				names[name] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}
