// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Some values fool a matcher. Caddy's matchers host, path, query and header take a "*"
// for a wildcard, also one that comes out of a placeholder. And a matcher that compares
// the channel with what comes from outside takes the pattern "users/*" for a channel of
// somebody called "*". This file finds such matchers, and such values.

// An AmbiguousError says that a rule could misunderstand the value of a placeholder. The
// rule denies then: it would misunderstand it the next time, too.
type AmbiguousError string

func (e AmbiguousError) Error() string { return string(e) }

// Compared has the placeholders that matchers compare with something.
type Compared struct {
	// wild are those in which a "*" is a wildcard.
	wild []string
	// channels are those that a matcher compares with the channel.
	channels []string
	// by is a matcher that takes the "*" of a pattern for a wildcard; "" if there is none.
	by string
}

// wildcards are Caddy's matchers that take a "*" in a value for a wildcard.
var wildcards = []string{"host", "path", "query", "header"}

// literal are Caddy's matchers that expand no placeholders, or escape what they expand.
var literal = []string{"file", "header_regexp", "path_regexp", "vars_regexp", "url_pattern", "method", "protocol", "tls", "remote_ip", "client_ip"}

// Add adds the placeholders of a matcher, given as JSON.
func (c *Compared) Add(matcher string, raw json.RawMessage) error {
	switch {
	case matcher == "not":
		var sets []caddy.ModuleMap
		if err := json.Unmarshal(raw, &sets); err != nil {
			return err
		}
		return c.addSets(sets)
	case matcher == "expression":
		return c.addExpression(raw)
	case slices.Contains(literal, matcher):
		return nil
	}
	names, err := InJSON(raw)
	if err != nil {
		return err
	}
	if matcher != "vars" {
		c.addWild(matcher, names)
		return nil
	}
	var vars caddyhttp.VarsMatcher
	if err := json.Unmarshal(raw, &vars); err != nil {
		return err
	}
	for name := range vars {
		if !strings.HasPrefix(name, "{") {
			names = append(names, VarsPrefix+name)
		}
	}
	c.addEqual(names)
	return nil
}

func (c *Compared) addSets(sets []caddy.ModuleMap) error {
	for _, set := range sets {
		for name, raw := range set {
			if err := c.Add(name, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// ComparedBy returns the placeholders that sets of matchers compare.
func ComparedBy(sets []caddy.ModuleMap) (c Compared, err error) {
	err = c.addSets(sets)
	return c, err
}

// addExpression adds the placeholders of an expression of Caddy's.
func (c *Compared) addExpression(raw json.RawMessage) error {
	expr, err := exprOf(raw)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range exprPlaceholder.FindAllStringSubmatch(expr, -1) {
		names = append(names, m[1])
	}
	wild := ""
	for _, call := range callsIn(expr) {
		switch {
		case call == "ph":
			return errors.New("ph(): write the placeholder itself, for example {http.request.host} == 'example.com'")
		case call == "vars" || slices.Contains(wildcards, call):
			wild = call
		}
	}
	if wild != "" {
		c.addWild(wild+"()", names)
	} else {
		c.addEqual(names)
	}
	return nil
}

// addWild adds the placeholders of a matcher that takes a "*" for a wildcard, or may do so.
func (c *Compared) addWild(matcher string, names []string) {
	for _, name := range names {
		switch {
		case isChannel(name):
			c.by = matcher
			c.wild = append(c.wild, name)
		case IsVariable(name):
			c.wild = append(c.wild, name)
		}
	}
}

// addEqual adds the placeholders of a matcher that compares texts.
func (c *Compared) addEqual(names []string) {
	if !slices.ContainsFunc(names, isChannel) {
		return
	}
	for _, name := range names {
		if !isChannel(name) && IsVariable(name) {
			c.channels = append(c.channels, name)
		}
	}
}

// isChannel reports whether the value of a placeholder can be a pattern.
func isChannel(name string) bool { return name == Prefix+"channel" || name == EscapedPrefix+"channel" }

// NamesChannel reports whether a configuration has a placeholder whose value can be a
// pattern.
func NamesChannel(raw json.RawMessage) bool {
	names, err := InJSON(raw)
	return err != nil || slices.ContainsFunc(names, isChannel)
}

// NeedsNothing reports whether no value could fool the matchers.
func (c *Compared) NeedsNothing(pattern bool) bool {
	return len(c.wild) == 0 && (!pattern || len(c.channels) == 0)
}

// Fooled returns an AmbiguousError if a value would fool a matcher. pattern says that the
// question is about a pattern, and value returns the value of a placeholder.
func (c *Compared) Fooled(pattern bool, value func(name string) string) error {
	for _, name := range c.wild {
		if strings.Contains(value(name), "*") {
			return AmbiguousError(fmt.Sprintf("the value of {%s} has a *, which the matcher would take for a wildcard", name))
		}
	}
	if !pattern {
		return nil
	}
	for _, name := range c.channels {
		if strings.Contains(value(name), "*") {
			return StarError(name)
		}
	}
	return nil
}

// StarError says that the value of a placeholder could be taken for a pattern.
func StarError(name string) error {
	return AmbiguousError(fmt.Sprintf("the value of {%s} has a *, which a rule could take for the pattern of the subscription", name))
}

// OnPatterns returns an error if the matchers would misunderstand every pattern.
func (c *Compared) OnPatterns() error {
	if c.by == "" {
		return nil
	}
	return fmt.Errorf("the matcher %s would take the * of a pattern such as users/* for a wildcard, because it has {%schannel}; %s", c.by, Prefix, WriteCEL)
}

// WriteCEL says what to write instead of a rule that would misunderstand patterns.
const WriteCEL = "remove patterns from the channel block, or compare the channel with a rule such as cel `channel == \"users/\" + agent.user`"
