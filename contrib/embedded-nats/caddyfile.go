// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package embeddednats

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards"
)

// options are the words of the block, with how they are written.
var options = map[string]string{ //nolint:gosec // G101: it has no secret
	"machine": "machine web1 10.0.0.1:6222",
	"secret":  "secret {env.PUSHIT_CLUSTER_SECRET}",
	"listen":  "listen 0.0.0.0:6222",
	"store":   "store /var/lib/caddy/nats",
	"sync":    "sync always",
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
	seen := make(map[string]int)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		line := d.Line()
		if first, ok := seen[word]; ok && word != "machine" {
			return d.Errf("%s is given twice in embedded, first in line %d: keep one", word, first)
		}
		seen[word] = line
		if err := s.parse(d, word); err != nil {
			return err
		}
	}
	if len(s.Machines) == 0 {
		return d.WrapErr(checkMachines(nil))
	}
	return nil
}

// parse reads one option.
func (s *Server) parse(d *caddyfile.Dispenser, word string) error {
	example, ok := options[word]
	if !ok {
		if near := guards.Nearest(word, words()); near != "" {
			return d.Errf("unrecognized option %q of embedded; did you mean %q?", word, near)
		}
		return d.Errf("unrecognized option %q of embedded; there are %s", word, strings.Join(words(), ", "))
	}
	args := d.RemainingArgs()
	want := strings.Count(example, " ")
	if slices.Contains(args, "") {
		return d.Errf("%s is empty; is an environment variable not set? Write it as %s", word, example)
	}
	if len(args) != want {
		return d.Errf("%s is written as %s", word, example)
	}
	if word == "machine" {
		s.Machines = append(s.Machines, Machine{Name: args[0], Address: args[1]})
	}
	to := map[string]*string{"secret": &s.Secret, "listen": &s.Listen, "store": &s.Store, "sync": &s.Sync}[word]
	for _, a := range args {
		if err := guards.NoteSetting(d, "embedded: "+word, a); err != nil {
			return err
		}
		if to != nil {
			*to = a
		}
	}
	if nesting := d.Nesting(); d.NextBlock(nesting) {
		return d.Errf("%s takes no block", word)
	}
	return nil
}

// words returns the options in the order of UnmarshalCaddyfile.
func words() []string { return []string{"machine", "secret", "listen", "store", "sync"} }

var _ caddyfile.Unmarshaler = (*Server)(nil)
