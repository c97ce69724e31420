// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// A Fingerprinter is a guard that decides by more than its configuration, the Caddy
// modules and named routes in it, and the environment variables and files that it names
// with {env.*} and {file.*}. An example is a guard that reads keys from elsewhere. After
// a reload, a gate is asked again about what agents have only if something of all this
// has changed, or if that is unknown.
type Fingerprinter interface {
	// Fingerprint returns what else the guard decides by. Only a hash of it is stored.
	Fingerprint() []byte
}

// addGuards adds what guards decide by. It returns false if that is unknown for one of
// them.
func addGuards(h hash.Hash, guards []NamedGuard) (known bool) {
	known = true
	walk(guards, func(g NamedGuard) {
		upstream.Add(h, []byte(g.Name))
		upstream.Add(h, g.sum[:])
		f, ok := g.Guard.(Fingerprinter)
		if ok {
			upstream.Add(h, f.Fingerprint())
		}
		known = known && (ok || g.sum != upstream.Sum{})
	})
	return known
}

// fingerprint returns the fingerprint of a chain with the configuration g.
func (c *Chain) fingerprint(g *GateConfig) hub.Fingerprint {
	h := sha256.New()
	learned := slices.Clone(c.env.Learned) // all guards are asked without these fields from clients
	slices.Sort(learned)
	for _, text := range []string{string(c.gate), c.recheck.String(), fmt.Sprintf("%q %q %q %v", learned, g.To, g.Transform, g.Discard)} {
		upstream.Add(h, []byte(text))
	}
	if !c.local {
		upstream.Add(h, []byte(c.env.trusts()))
	}
	if !addGuards(h, c.guards) {
		return ""
	}
	return hub.Fingerprint(h.Sum(nil))
}

// Fingerprint implements hub.FingerprintGate.
func (c *Chain) Fingerprint() hub.Fingerprint { return c.print }

// Fixed implements hub.FixedGate.
func (c *Chain) Fixed() bool {
	return len(c.guards) > 0 && isFixed(c.guards[0].Guard, Allow, Deny)
}

// Changed names the gates that differ between p and an earlier policy, for people. Either
// policy may be nil.
func (p *Policy) Changed(before *Policy) (names []string) {
	now, then := p.entries(), before.entries()
	for _, w := range now {
		old, ok := find(then, w.name)
		switch {
		case !ok || w.print == "" || w.print != old.print:
			names = append(names, w.name)
		case w.timeout != old.timeout:
			names = append(names, "timeout of "+w.name)
		}
	}
	for _, w := range then {
		if _, ok := find(now, w.name); !ok {
			names = append(names, w.name)
		}
	}
	if names == nil && !slices.EqualFunc(now, then, func(a, b gateEntry) bool { return a.name == b.name }) {
		names = []string{"order of the channel blocks"}
	}
	return names
}

// A gateEntry is a gate of a policy and its place.
type gateEntry struct {
	name    string
	print   hub.Fingerprint
	timeout string
}

func find(gates []gateEntry, name string) (gateEntry, bool) {
	i := slices.IndexFunc(gates, func(w gateEntry) bool { return w.name == name })
	if i < 0 {
		return gateEntry{}, false
	}
	return gates[i], true
}

// entries returns the gates in the order in which they are looked up.
func (p *Policy) entries() (gates []gateEntry) {
	if p == nil {
		return nil
	}
	add := func(where string, chains map[hub.GateName]*Chain) {
		for _, name := range gateNames {
			if c := chains[name]; c != nil {
				gates = append(gates, gateEntry{where + string(name), c.print, c.timeout.String()})
			}
		}
	}
	add("", p.handler)
	for _, b := range p.blocks {
		texts := make([]string, len(b.match))
		for i, m := range b.match {
			texts[i] = m.text
		}
		where := "channel " + strings.Join(texts, " ") + " "
		add(where, b.gates)
		if b.patterns {
			gates = append(gates, gateEntry{where + "patterns", "yes", ""})
		}
	}
	return gates
}

// Interface guards
var (
	_ hub.FingerprintGate = (*Chain)(nil)
	_ hub.FixedGate       = (*Chain)(nil)
)
