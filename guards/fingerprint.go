// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/token"
	"github.com/push-it/pushit/hub"
)

// A Fingerprinter is a guard that decides by more than what is written of it, the
// modules of Caddy and the named routes it is made of, and what environment
// variables and files it names with {env.*} and {file.*} hold: keys that it read
// elsewhere, say. After a reload, a gate is asked again for what agents have only
// if something of that has changed, or if that cannot be known.
type Fingerprinter interface {
	// Fingerprint returns what else it decides by. Only a hash of it is kept.
	Fingerprint() []byte
}

// A sum is a hash of what a guard is made of; the zero one is of nobody knows what.
type sum [sha256.Size]byte

// sumOf returns the sum of a guard's configuration, of the named routes that it
// invokes, and of the environment variables and files that these name. It is the
// zero one if it may decide by more than that.
func sumOf(ctx caddy.Context, name string, raw json.RawMessage) (s sum) {
	r := reachOf(ctx, Namespace+"."+name, raw)
	if !r.known {
		return s
	}
	h := sha256.New()
	for _, text := range r.texts {
		if !addText(h, text) {
			return s
		}
	}
	return sum(h.Sum(nil))
}

// addText adds a configuration, and what it names outside of it. It returns false
// if that cannot be known.
func addText(h hash.Hash, raw json.RawMessage) (known bool) {
	v, text, err := canonical(raw)
	if err != nil {
		return false // loading it fails, too
	}
	add(h, text)
	names, err := placeholder.InJSON(raw)
	if err != nil {
		return false
	}
	repl := caddy.NewReplacer()
	for _, name := range names {
		if strings.HasPrefix(name, "env.") || strings.HasPrefix(name, "file.") {
			value, _ := repl.GetString(name)
			add(h, []byte(name+"="+value))
		}
	}
	for _, path := range filesIn(v) {
		text, err := token.ReadFile(path)
		if err != nil {
			text = []byte(err.Error()) // it may be there the next time
		}
		add(h, text)
	}
	known = true
	placeholder.EachObject(v, func(fields map[string]any) {
		// Caddy's tls app has the certificate of that name, which it renews.
		known = known && fields["client_certificate_automate"] == nil
	})
	return known
}

// sumOfText returns the sum of a guard's configuration alone.
func sumOfText(raw json.RawMessage) (s sum) {
	if _, text, err := canonical(raw); err == nil {
		s = sha256.Sum256(text)
	}
	return s
}

// canonical returns JSON in one order, without white space.
func canonical(raw json.RawMessage) (v any, text []byte, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, nil, err
	}
	text, err = json.Marshal(v)
	return v, text, err
}

// fileFields are settings of Caddy's modules that name files with what a backend
// is told by, or tells us by.
var fileFields = []string{
	"client_certificate_file", "client_certificate_key_file", "pem_files", "root_ca_pem_files",
}

// filesIn returns the files that a configuration names in such settings.
func filesIn(v any) (paths []string) {
	placeholder.EachObject(v, func(fields map[string]any) {
		for _, name := range fileFields {
			placeholder.EachString(fields[name], func(path string) { paths = append(paths, path) })
		}
	})
	slices.Sort(paths)
	return slices.Compact(paths)
}

// add adds text so that two lists of texts have equal sums only if they are equal.
func add(h hash.Hash, text []byte) {
	_, _ = io.WriteString(h, strconv.Itoa(len(text))+":") // a hash never fails
	_, _ = h.Write(text)
}

// addGuards adds what guards decide by. It returns false if that cannot be known of
// one of them.
func addGuards(h hash.Hash, guards []NamedGuard) (known bool) {
	known = true
	walk(guards, func(g NamedGuard) {
		add(h, []byte(g.Name))
		add(h, g.sum[:])
		f, ok := g.Guard.(Fingerprinter)
		if ok {
			add(h, f.Fingerprint())
		}
		known = known && (ok || g.sum != sum{})
	})
	return known
}

// fingerprint returns that of a chain, as it is written in g.
func (c *Chain) fingerprint(g *GateConfig) hub.Fingerprint {
	h := sha256.New()
	learned := slices.Clone(c.env.Learned) // which are hidden from all guards
	slices.Sort(learned)
	for _, text := range []string{string(c.gate), c.recheck.String(), fmt.Sprintf("%q %q %q %v", learned, g.To, g.Transform, g.Discard)} {
		add(h, []byte(text))
	}
	if !c.local {
		add(h, []byte(c.env.trusts()))
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
	if len(c.guards) == 0 {
		return false
	}
	f, ok := c.guards[0].Guard.(Fixed)
	if !ok {
		return false
	}
	kind, fixed := f.Fixed()
	return fixed && (kind == Allow || kind == Deny)
}

// Changed names the gates in which p differs from an earlier policy, for people.
// Either may be nil.
func (p *Policy) Changed(before *Policy) (names []string) {
	now, then := p.written(), before.written()
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
	if names == nil && !slices.EqualFunc(now, then, func(a, b writtenGate) bool { return a.name == b.name }) {
		names = []string{"order of the channel blocks"}
	}
	return names
}

// A writtenGate is a gate of a policy, by where it is written.
type writtenGate struct {
	name    string
	print   hub.Fingerprint
	timeout string
}

func find(gates []writtenGate, name string) (writtenGate, bool) {
	i := slices.IndexFunc(gates, func(w writtenGate) bool { return w.name == name })
	if i < 0 {
		return writtenGate{}, false
	}
	return gates[i], true
}

// written lists the gates in the order in which they count.
func (p *Policy) written() (gates []writtenGate) {
	if p == nil {
		return nil
	}
	add := func(where string, chains map[hub.GateName]*Chain) {
		for _, name := range gateNames {
			if c := chains[name]; c != nil {
				gates = append(gates, writtenGate{where + string(name), c.print, c.timeout.String()})
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
			gates = append(gates, writtenGate{where + "patterns", "yes", ""})
		}
	}
	return gates
}

// Interface guards
var (
	_ hub.FingerprintGate = (*Chain)(nil)
	_ hub.FixedGate       = (*Chain)(nil)
)
