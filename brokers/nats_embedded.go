// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokers

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/broker/nats"
)

// NATSServerID is the ID of the module that the option embedded of the broker nats loads. It is
// a NATSServer. It is not a part of pushit itself, because it is large: contrib/embedded-nats
// has it.
const NATSServerID = Namespace + ".nats.embedded"

// A NATSServer runs a NATS server within this process.
type NATSServer interface {
	// Place says what this node is called. It is called once, after the module was
	// provisioned, and returns what is wrong with the settings then. It starts nothing.
	Place(node string) error
	// Use starts the server, unless it runs, and returns how to connect to it. The server
	// ends when each use has called its end, once. Use returns an error if the server runs
	// with other settings, or cannot start.
	Use() (urls []string, as nats.Auth, end func(), err error)
	Described
}

// A natsServer is a server in this process, as one configuration uses it.
type natsServer struct {
	module NATSServer

	mu   sync.Mutex // guards the following
	urls []string
	auth nats.Auth
	end  func() // nil: it is not used yet
	over bool   // the configuration is gone
}

// errNoServer says what to do without a server.
const errNoServer = "this Caddy has no NATS server in it: build it with contrib/embedded-nats, or remove embedded and write the addresses of NATS servers"

// parseEmbedded reads the block of embedded. The current token is that word.
func (n *NATS) parseEmbedded(d *caddyfile.Dispenser) error {
	info, err := caddy.GetModule(NATSServerID)
	if err != nil {
		return d.Err(errNoServer)
	}
	module := info.New()
	u, ok := module.(caddyfile.Unmarshaler)
	if !ok {
		return d.Errf("the module %s has no Caddyfile form; use JSON", NATSServerID)
	}
	if err := u.UnmarshalCaddyfile(d.NewFromNextSegment()); err != nil {
		return err
	}
	n.EmbeddedRaw = caddyconfig.JSON(module, nil)
	return nil
}

// elsewhere names an option that is about servers elsewhere, if n has one.
func (n *NATS) elsewhere() string {
	for _, o := range []struct {
		name  string
		there bool
	}{
		{"url", len(n.URLs) > 0},
		{"credentials", n.Credentials != ""},
		{"nkey", n.NKey != ""},
		{"token", n.Token != ""},
		{"user", n.User != "" || n.Password != ""},
		{"tls", n.TLS != nil},
		{"domain", n.Domain != ""},
	} {
		if o.there {
			return o.name
		}
	}
	return ""
}

// checkEmbedded returns what is wrong with options beside embedded.
func (n *NATS) checkEmbedded() error {
	if other := n.elsewhere(); len(n.EmbeddedRaw) > 0 && other != "" {
		return fmt.Errorf("%s is about NATS servers elsewhere, and embedded runs one in this process: remove one of the two", other)
	}
	return nil
}

// embed loads the server.
func (n *NATS) embed(ctx caddy.Context) error {
	if err := n.checkEmbedded(); err != nil {
		return err
	}
	if _, err := caddy.GetModule(NATSServerID); err != nil {
		return errors.New(errNoServer)
	}
	loaded, err := ctx.LoadModuleByID(NATSServerID, n.EmbeddedRaw)
	if err != nil {
		return err
	}
	module, ok := loaded.(NATSServer)
	if !ok {
		return fmt.Errorf("the module %s is a %T, and no NATS server", NATSServerID, loaded)
	}
	host, _ := os.Hostname() // "" is the name of no machine
	if err := module.Place(cmp.Or(n.options.Node, host)); err != nil {
		return err
	}
	n.server = &natsServer{module: module}
	return nil
}

// start starts the server, unless it runs, and returns how to connect to it. It runs at least
// until the configuration is gone.
func (s *natsServer) start() ([]string, nats.Auth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, nats.Auth{}, hub.ErrClosed
	}
	if s.end == nil {
		urls, auth, end, err := s.module.Use()
		if err != nil {
			return nil, nats.Auth{}, err
		}
		s.urls, s.auth, s.end = urls, auth, end
	}
	return s.urls, s.auth, nil
}

// stop ends the use of the server by this configuration. start fails from now on.
func (s *natsServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.end != nil {
		s.end()
		s.end = nil
	}
}

// Cleanup implements caddy.CleanerUpper. Brokers that still run have their own use of the
// server.
func (n *NATS) Cleanup() error {
	if n.server != nil {
		n.server.stop()
	}
	return nil
}
