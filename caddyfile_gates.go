// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// gateSubdirectives returns the subdirectives of pushit that are about gates and
// channels.
func gateSubdirectives() []subdirective {
	subs := []subdirective{
		{name: "namespace", parse: (*parser).namespace},
		{name: "default", parse: (*parser).defaultAnswer},
		{name: "timeout", parse: (*parser).timeoutOf, repeats: true},
		{name: "channel", parse: (*parser).channel, repeats: true},
		{name: "history", repeats: true, parse: func(p *parser) error {
			return historyOrGate(p, "", &p.handler.History, &p.handler.Gates)
		}},
	}
	for _, name := range gateNames {
		if name == string(hub.GatePresence) || name == string(hub.GateHistory) {
			continue
		}
		subs = append(subs, subdirective{name: name, parse: func(p *parser) error { return p.gate("", &p.handler.Gates) }})
	}
	subs = append(subs, subdirective{name: "presence", parse: func(p *parser) error {
		return p.presence("", &p.handler.Presence, &p.handler.Gates)
	}})
	return subs
}

// channelSubdirectives returns the subdirectives of a channel block. path is the block's
// path in the JSON.
func channelSubdirectives(path string, b *ChannelBlock) []subdirective {
	subs := []subdirective{
		flag("patterns", &b.Patterns),
		{name: "history", repeats: true, parse: func(p *parser) error {
			return historyOrGate(p, path+".", &b.History, &b.Gates)
		}},
		{name: "echo", parse: func(p *parser) error { return p.echo(b) }},
		flag("existing", &b.Existing),
		flag("conflate", &b.Conflate),
		{name: "presence", parse: func(p *parser) error { return p.presence(path+".", &b.Presence, &b.Gates) }},
	}
	for _, name := range []hub.GateName{hub.GateSubscribe, hub.GateUnsubscribe, hub.GatePublish, hub.GateDeliver} {
		subs = append(subs, subdirective{name: string(name), parse: func(p *parser) error { return p.gate(path+".", &b.Gates) }})
	}
	return subs
}

// flag returns a subdirective that takes no arguments, and sets to.
func flag(name string, to *bool) subdirective {
	return subdirective{name: name, parse: func(p *parser) error {
		*to = true
		if p.NextArg() {
			return p.Errf("unexpected %q after %s, which takes no value", p.Val(), name)
		}
		return p.noBlock(name)
	}}
}

// verbs returns the words in the block of a gate that are not guards.
func verbs(name string, g *Gate) []subdirective {
	return []subdirective{
		{name: "to", parse: func(p *parser) error { return p.to(g) }},
		{name: "transform", parse: func(p *parser) error { return p.transform(name, g) }},
		flag("discard", &g.Discard),
		{name: "timeout", parse: func(p *parser) error {
			if err := checkTimeoutOf(name); err != nil {
				return p.WrapErr(err)
			}
			return p.duration(&g.Timeout, "2s", minTimeout, maxTimeout)
		}},
		{name: "recheck", parse: func(p *parser) error { return p.duration(&g.Recheck, "5m", minRecheck, maxRecheck) }},
	}
}

func verbNames() (names []string) {
	for _, v := range verbs("", new(Gate)) {
		names = append(names, v.name)
	}
	return names
}

// defineMatchers makes the matchers that the block defines known everywhere in the block.
// Caddy parses them: defineMatchers gives it a block with one definition and this
// directive. Caddy then calls parseCaddyfile with a Helper that knows the matcher.
func (p *parser) defineMatchers() error {
	segment := p.NewFromNextSegment()
	defer p.reset()
	segment.Next()
	for segment.NextArg() {
		continue // the matcher
	}
	for nesting := segment.Nesting(); segment.NextBlock(nesting); {
		definition := segment.NextSegment()
		if !strings.HasPrefix(definition.Directive(), "@") {
			continue
		}
		brace := func(text string) caddyfile.Token {
			return caddyfile.Token{File: p.directive.File, Line: p.directive.Line, Text: text}
		}
		line := definition[len(definition)-1].Line
		around := slices.Concat(caddyfile.Segment{p.directive, brace("{")}, definition, caddyfile.Segment{p.directive, brace("}")})
		// Give each part a line of its own, because Caddy parses by lines.
		around[1].Line, around[0].Line = definition[0].Line-1, definition[0].Line-1
		around[len(around)-2].Line, around[len(around)-1].Line = line+1, line+2
		var knowing httpcaddyfile.Helper
		h := p.WithDispenser(caddyfile.NewDispenser(around))
		h.BlockState = map[string]any{matchersKey: &knowing}
		if _, err := httpcaddyfile.ParseSegmentAsSubroute(h); err != nil {
			return errorAt(definition[0], err)
		}
		knowing.BlockState = p.BlockState
		p.Helper = knowing.WithDispenser(p.Dispenser)
	}
	return nil
}

// matchersKey is the key in a BlockState under which defineMatchers expects the Helper.
const matchersKey = "http.handlers.pushit.matchers"

// reset goes back to the start of the directive.
func (p *parser) reset() {
	p.Reset()
	p.Next()
}

// gate reads a gate: a guard on the line, or guards and verbs in a block. It adds the
// gate to gates, by the current word. parent is the path of gates in the JSON.
func (p *parser) gate(parent string, gates *map[string]*Gate) error {
	name, at, g := p.Val(), p.Token(), new(Gate)
	if *gates == nil {
		*gates = make(map[string]*Gate)
	}
	(*gates)[name] = g
	path := parent + "gates." + name
	p.places[path] = at
	if p.NextArg() {
		return p.guard(path, g)
	}
	outer := p.seen
	defer func() { p.seen = outer }()
	p.seen = make(map[string]caddyfile.Token)
	lines := 0
	for nesting := p.Nesting(); p.NextBlock(nesting); lines++ {
		if sub := find(verbs(name, g), p.Val()); sub != nil {
			if err := p.once(sub, name+" "+sub.name); err != nil {
				return err
			}
			continue
		}
		if err := p.guard(path, g); err != nil {
			return err
		}
	}
	if lines == 0 {
		example := "allow"
		if name == string(hub.GateDebug) {
			example = "user alice"
		}
		return errorAt(at, fmt.Errorf("%s needs a guard, such as %s %s, or a block with one guard on each line", name, name, example))
	}
	return nil
}

// gateOf returns the name of the gate at a path of the JSON.
func gateOf(path string) hub.GateName { return hub.GateName(path[strings.LastIndexByte(path, '.')+1:]) }

// guardPath returns the path of a guard in the JSON. path is the path of its gate.
func guardPath(path string, i int) string { return fmt.Sprintf("%s.guards[%d]", path, i) }

// guard reads the guard that the current word names. path is the path of its gate in the
// JSON.
func (p *parser) guard(path string, g *Gate) error {
	word := p.Val()
	p.places[guardPath(path, len(g.GuardsRaw))] = p.Token()
	if strings.HasPrefix(word, "@") && p.definesMatcher() {
		return p.Errf("the matcher %s is defined in a gate: define it in the block of pushit itself", word)
	}
	switch {
	case word == "":
		return p.empty("a guard")
	case isGuard(word):
	case find(verbs("", g), word) != nil:
		return p.Errf("%s is not a guard: write it in the block of the gate, on a line of its own, beside the guards", word)
	case find(subdirectives(), word) != nil || find(channelSubdirectives("", new(ChannelBlock)), word) != nil:
		return p.Errf("%s is not a guard; if it is not meant to be in a gate, a } is missing before it", word)
	case guards.Nearest(word, verbNames()) != "":
		return p.Errf("unknown word %q in a gate; did you mean %s?", word, guards.Nearest(word, verbNames()))
	}
	raw, err := guards.ParseNext(p.Helper)
	if err != nil {
		return err
	}
	g.GuardsRaw = append(g.GuardsRaw, raw)
	return nil
}

// definesMatcher reports whether the current word begins a line and has arguments. A
// matcher as a guard has none.
func (p *parser) definesMatcher() bool {
	line := p.Line()
	p.Prev()
	first := p.Line() != line
	p.Next()
	return first && p.CountRemainingArgs() > 0
}

func (p *parser) to(g *Gate) error {
	if p.CountRemainingArgs() == 0 {
		return p.missing("to", "moderation")
	}
	for p.NextArg() {
		if p.Val() == "" {
			return p.empty("a channel of to")
		}
		g.To = append(g.To, p.Val())
	}
	return p.noBlock("to")
}

func (p *parser) transform(gate string, g *Gate) error {
	if p.CountRemainingArgs() > 1 {
		return p.Errf("transform takes one expression: put it in backquotes, such as transform `{\"text\": message.data.text, \"from\": agent.user}`")
	}
	var err error
	if g.Transform, err = p.argument("`{\"text\": message.data.text}`"); err != nil {
		return err
	}
	if gate == string(hub.GatePublish) || gate == string(hub.GateDeliver) {
		if err := guards.CheckTransform(g.Transform, hub.GateName(gate)); err != nil {
			return p.WrapErr(fmt.Errorf("transform: %w", err))
		}
	}
	return p.noBlock("transform")
}

func (p *parser) namespace() error { return p.text(&p.handler.Namespace, "{labels.2}", checkNamespace) }

func (p *parser) defaultAnswer() error { return p.text(&p.handler.Default, "deny", checkDefault) }

// timeoutOf reads timeout <gate> <duration>.
func (p *parser) timeoutOf() error {
	at := p.Token()
	if !p.NextArg() {
		return p.Errf("timeout needs a gate and a duration, such as timeout subscribe 2s")
	}
	gate := p.Val()
	if err := checkTimeoutOf(gate); err != nil {
		return p.WrapErr(fmt.Errorf("timeout: %w; write timeout subscribe 2s, for example", err))
	}
	key := "timeout " + gate
	if first, ok := p.seen[key]; ok {
		return p.Errf("%s is given twice, first at %s: keep one", key, place(first))
	}
	p.seen[key] = at
	var d caddy.Duration
	if err := p.durationOf(key, &d, "2s", minTimeout, maxTimeout); err != nil {
		return err
	}
	if p.handler.Timeouts == nil {
		p.handler.Timeouts = make(map[string]caddy.Duration)
	}
	p.handler.Timeouts[gate] = d
	return nil
}

// channel reads a channel block.
func (p *parser) channel() error {
	at, path := p.Token(), blockPath(len(p.handler.Channels))
	var b ChannelBlock
	for p.NextArg() {
		if p.Val() == "" {
			return p.empty("a pattern of channel")
		}
		if err := checkHabits(p.Val()); err != nil {
			return p.WrapErr(err)
		}
		b.Match = append(b.Match, p.Val())
	}
	if len(b.Match) == 0 {
		return errorAt(at, errors.New("channel needs the names of channels, such as channel news stories/*"))
	}
	p.places[path] = at
	outer := p.seen
	p.seen = make(map[string]caddyfile.Token)
	err := p.block("channel", channelSubdirectives(path, &b))
	p.seen = outer
	if err != nil {
		return err
	}
	if b.Gates == nil && !b.Patterns && b.History == nil && b.Presence == nil && !b.hasDelivery() {
		return errorAt(at, fmt.Errorf("channel %s has no effect: give it a block with gates or a history, such as { subscribe allow }", strings.Join(b.Match, " ")))
	}
	p.handler.Channels = append(p.handler.Channels, b)
	return nil
}

// checkHabits explains pattern syntax of other programs that pushit does not have.
func checkHabits(pattern string) error {
	if rest := strings.TrimLeft(pattern, "/"); rest != pattern && !strings.HasPrefix(pattern, "/meta/") {
		return fmt.Errorf("channel pattern %q: names of channels do not begin with a slash; write %s", pattern, rest)
	}
	for segment := range strings.SplitSeq(pattern, "/") {
		switch {
		case segment == "**":
			return fmt.Errorf("channel pattern %q: write %s; at the end * matches everything below", pattern, strings.ReplaceAll(pattern, "**", "*"))
		case strings.HasPrefix(segment, ":") || segment == "+" || segment == "#":
			return fmt.Errorf("channel pattern %q: %s is not a capture or wildcard here; match with * and decide with a rule, "+
				"for example: channel users/* { subscribe cel `parts[1] == agent.user` }", pattern, segment)
		}
	}
	return nil
}

// checkPolicy checks the history, and all gates together. Provision finds the same
// mistakes, but cannot say at which line they are.
func (p *parser) checkPolicy() error {
	h := &p.handler
	if err := h.History.check(h.blocks()); err != nil {
		return errorAt(p.seen["read: history"], err)
	}
	if !h.hasGates() {
		return nil
	}
	load := func(where string, g *Gate) ([]guards.NamedGuard, error) {
		list := make([]guards.NamedGuard, len(g.GuardsRaw))
		for i, raw := range g.GuardsRaw {
			var err error
			if list[i], err = parseGuard(raw, gateOf(where)); err != nil {
				return nil, errorAt(p.places[guardPath(where, i)], err)
			}
		}
		return list, nil
	}
	c, err := h.policyConfig(load, func(where string) string { return place(p.places[where]) })
	if err != nil {
		return err
	}
	_, err = guards.Compile(c, &guards.Env{Log: slog.New(slog.DiscardHandler)})
	if err != nil && !strings.Contains(err.Error(), " at ") {
		return errorAt(p.directive, err)
	}
	return err
}

// isGuard reports whether a guard has this name.
func isGuard(word string) bool {
	_, err := caddy.GetModule(guards.Namespace + "." + word)
	return err == nil && word != ""
}
