// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package options reads blocks of a Caddyfile with one option on each line. An option that is
// unknown, given twice, incomplete or empty is an error that says what to write.
package options

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards"
)

// An Option is a word in a block.
type Option struct {
	Name    string
	Args    int    // how many it takes; -1 for one or more
	Example string // what follows the word
	Set     func(d *caddyfile.Dispenser, args []string) error
	Block   []Option // what its own block may have; nil: it has none
	Reads   bool     // Set reads the block itself
	Repeats bool     // it may be given more than once
}

// Parse reads a block, if there is one. parent names it in errors.
func Parse(d *caddyfile.Dispenser, parent string, known []Option) error {
	seen := make(map[string]int)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		i := slices.IndexFunc(known, func(o Option) bool { return o.Name == word })
		if i < 0 {
			var names []string
			for _, k := range known {
				names = append(names, k.Name)
			}
			return d.Errf("unrecognized option %q of %s; %s", word, parent, guards.Instead(word, names))
		}
		if first, ok := seen[word]; ok && !known[i].Repeats {
			return d.Errf("%s is given twice in %s, first in line %d: keep one", word, parent, first)
		}
		seen[word] = d.Line()
		if err := known[i].parse(d, parent); err != nil {
			return err
		}
	}
	return nil
}

// parse reads the arguments and the block of an option, which is the current word.
func (o *Option) parse(d *caddyfile.Dispenser, parent string) error {
	args := d.RemainingArgs()
	switch {
	case o.Args < 0 && len(args) == 0, o.Args >= 0 && len(args) < o.Args:
		return d.Errf("%s needs a value, such as %s %s; is an environment variable not set?", o.Name, o.Name, o.Example)
	case o.Args == 0 && len(args) > 0:
		return d.Errf("unexpected %q after %s, which takes no value on its line", args[0], o.Name)
	case o.Args > 0 && len(args) > o.Args:
		return d.Errf("unexpected %q after %s, which is written as %s %s", args[o.Args], o.Name, o.Name, o.Example)
	}
	if slices.Contains(args, "") {
		return d.Errf("%s is empty; is an environment variable not set?", o.Name)
	}
	if err := o.Set(d, args); err != nil {
		return err
	}
	if o.Reads {
		return nil
	}
	if o.Block != nil {
		return Parse(d, o.Name+" of "+parent, o.Block)
	}
	last := d.Val()
	if d.NextBlock(d.Nesting()) || d.Val() != last {
		return d.Errf("%s takes no block", o.Name)
	}
	return nil
}

// SetText sets a text, which may have placeholders. what names it in errors, which do not show
// it. check, if not nil, checks a text without placeholders.
func SetText(d *caddyfile.Dispenser, to *string, what, text string, check func(string) error) error {
	if err := guards.NoteSetting(d, what, text); err != nil {
		return err
	}
	if check != nil && !strings.Contains(text, "{") {
		if err := check(text); err != nil {
			return d.WrapErr(err)
		}
	}
	*to = text
	return nil
}
