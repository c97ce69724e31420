// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package embeddednats

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/internal/options"
)

// words returns the options of the block.
func (s *Server) words() []options.Option {
	text := func(name, example string, to *string) options.Option {
		return options.Option{Name: name, Args: 1, Example: example, Set: func(d *caddyfile.Dispenser, args []string) error {
			return options.SetText(d, to, "embedded: "+name, args[0], nil)
		}}
	}
	return []options.Option{
		{Name: "machine", Args: 2, Example: "web1 10.0.0.1:6222", Repeats: true, Set: s.addMachine},
		text("secret", "{env.PUSHIT_CLUSTER_SECRET}", &s.Secret),
		text("listen", "0.0.0.0:6222", &s.Listen),
		text("store", "/var/lib/caddy/nats", &s.Store),
		text("sync", "always", &s.Sync),
	}
}

func (s *Server) addMachine(d *caddyfile.Dispenser, args []string) error {
	var m Machine
	for i, to := range []*string{&m.Name, &m.Address} {
		if err := options.SetText(d, to, "embedded: machine", args[i], nil); err != nil {
			return err
		}
	}
	s.Machines = append(s.Machines, m)
	return nil
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	embedded {
//	    machine <name> <address>
//	    secret  <secret>
//	    listen  <address>
//	    store   <folder>
//	    sync    always|<duration>
//	}
func (s *Server) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the word
	if d.NextArg() {
		return d.Errf("unexpected %q after embedded, which takes no value on its line: write its settings in a block", d.Val())
	}
	if err := options.Parse(d, "embedded", s.words()); err != nil {
		return err
	}
	if len(s.Machines) == 0 {
		return d.WrapErr(checkMachines(nil))
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Server)(nil)
