// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

// The default times for asking, as in Push-It.
const (
	DefaultConnectTimeout = 10 * time.Second
	DefaultTimeout        = time.Second
)

// The values of PolicyConfig.Default.
const (
	DefaultAllow = "allow"
	DefaultDeny  = "deny"
)

// A PolicyConfig is the configuration of a policy.
type PolicyConfig struct {
	// Gates are those outside of channel blocks.
	Gates map[hub.GateName]*GateConfig
	// Blocks are the channel blocks, in order.
	Blocks []BlockConfig
	// Default says what holds for connect, subscribe and publish if no gate is
	// configured: DefaultAllow, DefaultDeny, or "".
	Default string
	// Timeouts are the times for asking, by gate, for gates that have none of their own.
	Timeouts map[hub.GateName]time.Duration
}

// A GateConfig is the configuration of a gate.
type GateConfig struct {
	Guards []NamedGuard
	// Timeout is the time for asking. 0 is that of the policy, or the default.
	Timeout time.Duration
	// Recheck is how long an answer is valid before the gate is asked again; 0 means until
	// the session ends. It is for connect and subscribe.
	Recheck time.Duration
	// To, Transform and Discard are the verbs.
	To        []string
	Transform string
	Discard   bool
	// Where is the place in the configuration, for errors.
	Where string
}

// A BlockConfig is the configuration of a channel block.
type BlockConfig struct {
	Match    []string
	Patterns bool
	Gates    map[hub.GateName]*GateConfig
	Where    string
}

// A Policy finds the gate of an operation on a channel. It implements hub.Gates.
type Policy struct {
	handler map[hub.GateName]*Chain
	blocks  []block
	env     *Env
	// These answer the most frequent questions without a search.
	delivers bool // some gate is asked before deliveries
}

type block struct {
	match    Match
	patterns bool
	gates    map[hub.GateName]*Chain
	where    string
}

// Compile makes a Policy from its configuration. The error names the first mistake and
// its place.
func Compile(c PolicyConfig, env *Env) (*Policy, error) {
	p := &Policy{handler: make(map[hub.GateName]*Chain), env: env}
	sampler := newSampler(env.Log)
	alike := make(map[string]int) // counts equal guards, for shareAll
	compile := func(name hub.GateName, g *GateConfig) (*Chain, error) {
		chain, err := compileGate(name, g, c.Timeouts[name], env, sampler)
		if err == nil {
			err = shareAll(chain, alike)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, at %s: %w", name, g.Where, err)
		}
		p.delivers = p.delivers || name == hub.GateDeliver
		return chain, nil
	}
	for _, name := range gateNames {
		g := c.Gates[name]
		if g == nil {
			continue
		}
		chain, err := compile(name, g)
		if err != nil {
			return nil, err
		}
		p.handler[name] = chain
	}
	for _, b := range c.Blocks {
		compiled, err := compileBlock(b, compile)
		if err != nil {
			return nil, err
		}
		if err := p.shadowed(compiled); err != nil {
			return nil, err
		}
		p.blocks = append(p.blocks, compiled)
	}
	return p, p.defaults(c, env, sampler)
}

// gateNames are all gates, in the order in which they are checked.
var gateNames = []hub.GateName{
	hub.GateConnect, hub.GateSubscribe, hub.GateUnsubscribe, hub.GatePublish, hub.GateDeliver, hub.GateDisconnect, hub.GateAPI,
	hub.GatePresence, hub.GateHistory, hub.GateDebug,
}

func compileBlock(b BlockConfig, compile func(hub.GateName, *GateConfig) (*Chain, error)) (block, error) {
	out := block{patterns: b.Patterns, gates: make(map[hub.GateName]*Chain), where: b.Where}
	if len(b.Match) == 0 {
		return out, fmt.Errorf("channel, at %s: it needs at least one pattern, for example: channel news/*", b.Where)
	}
	var err error
	if out.match, err = ParseMatch(b.Match); err != nil {
		return out, fmt.Errorf("%w, at %s", err, b.Where)
	}
	for _, name := range gateNames {
		g := b.Gates[name]
		if g == nil {
			continue
		}
		if !name.IsAboutChannel() {
			return out, fmt.Errorf("%s, at %s: it is not about a channel; write it outside of the channel block", name, g.Where)
		}
		chain, err := compile(name, g)
		if err != nil {
			return out, err
		}
		out.gates[name] = chain
	}
	if b.Patterns && out.gates[hub.GateSubscribe] == nil {
		return out, fmt.Errorf("channel %s, at %s: patterns lets a subscription cover all of the block at once, so the block needs a subscribe gate of its own", strings.Join(b.Match, " "), b.Where)
	}
	return out, out.checkPatterns(b)
}

// A patternAware guard may misunderstand patterns.
type patternAware interface {
	// onPatterns returns an error if the guard would misunderstand every pattern.
	onPatterns() error
}

// checkPatterns refuses guards that are asked about patterns and would misunderstand them.
func (b *block) checkPatterns(c BlockConfig) (err error) {
	if !c.Patterns {
		return nil
	}
	for _, name := range []hub.GateName{hub.GateSubscribe, hub.GatePresence, hub.GateHistory} {
		g := b.gates[name]
		if g == nil {
			continue
		}
		walk(g.guards, func(n NamedGuard) {
			if aware, ok := n.Guard.(patternAware); ok && err == nil {
				if e := aware.onPatterns(); e != nil {
					err = fmt.Errorf("%s, at %s: %s: %w", name, c.Gates[name].Where, n.Name, e)
				}
			}
		})
	}
	return err
}

func compileGate(name hub.GateName, g *GateConfig, timeout time.Duration, env *Env, s *sampler) (*Chain, error) {
	c := &Chain{gate: name, guards: g.Guards, recheck: g.Recheck, env: env, sampler: s}
	remote := firstRemote(g.Guards)
	c.local = remote == ""
	switch {
	case name == hub.GateDeliver && !c.local:
		return nil, fmt.Errorf("%s asks a backend, which is too slow for each delivery; use matchers, cel or transform here", remote)
	case name != hub.GatePublish && (g.To != nil || g.Discard):
		return nil, errors.New("to and discard work only in publish")
	case name != hub.GatePublish && name != hub.GateDeliver && g.Transform != "":
		return nil, errors.New("transform works only in publish and deliver")
	case name != hub.GateConnect && name != hub.GateSubscribe && name != hub.GatePresence && g.Recheck != 0:
		return nil, errors.New("recheck works only in connect, subscribe and presence")
	case g.Discard && (g.To != nil || g.Transform != ""):
		return nil, errors.New("discard publishes nothing, so remove to and transform")
	}
	switch {
	case g.Timeout > 0:
		c.timeout = g.Timeout
	case timeout > 0:
		c.timeout = timeout
	case name.Identifies():
		c.timeout = DefaultConnectTimeout
	default:
		c.timeout = DefaultTimeout
	}
	if err := checkGuards(name, g.Guards); err != nil {
		return nil, err
	}
	if err := forGate(g.Guards, name); err != nil {
		return nil, err
	}
	c.print = c.fingerprint(g)
	return c, c.verbs.compile(name, g)
}

// checkGuards finds guards that are never asked, and gates that can never allow.
func checkGuards(name hub.GateName, guards []NamedGuard) error {
	if name == hub.GateDebug {
		if err := checkDebug(guards); err != nil {
			return err
		}
	}
	if len(guards) == 0 && name != hub.GateDeliver {
		return errors.New("it has no guard, so nothing would be allowed; write allow to allow everything")
	}
	approves := len(guards) == 0
	for i, g := range guards {
		if b, ok := g.Guard.(Bounded); !ok || b.CanApprove() {
			approves = true
		}
		if i < len(guards)-1 && isFixed(g.Guard, Allow, Deny) {
			return fmt.Errorf("%s is never asked, because the %s before it always decides; put that last", guards[i+1].Name, g.Name)
		}
	}
	if approves || name == hub.GateDisconnect {
		return nil
	}
	if len(guards) == 1 && isFixed(guards[0].Guard, Deny, Deny) {
		return nil // the configuration says so explicitly
	}
	return errors.New("it can never allow, because none of its guards approves; end it with allow, or write only deny")
}

// checkDebug refuses a status page for everybody.
func checkDebug(guards []NamedGuard) (err error) {
	const instead = "write who may see the status page, such as debug user alice, or debug allow @office with a matcher"
	if len(guards) == 0 {
		return errors.New("it has no guard: " + instead)
	}
	walk(guards, func(g NamedGuard) {
		if isFixed(g.Guard, Allow, Pass) && err == nil {
			err = fmt.Errorf("%s without a matcher would show the status page to everybody: %s", g.Name, instead)
		}
	})
	return err
}

func (v *verbs) compile(name hub.GateName, g *GateConfig) (err error) {
	if len(g.To) > maxTo {
		return fmt.Errorf("to names %d channels; at most %d are allowed", len(g.To), maxTo)
	}
	for i, name := range g.To {
		if slices.Contains(g.To[:i], name) {
			return fmt.Errorf("to names %s twice; a message goes to a channel once", name)
		}
	}
	for _, ch := range g.To {
		if r := hub.CheckName(ch, hub.MaxNameLength); r != nil {
			return fmt.Errorf("to %s: %s", ch, r.Reason)
		}
	}
	v.to, v.discard = g.To, g.Discard
	if g.Transform != "" {
		v.transform, err = expr.CompileValue(g.Transform, expr.ScopeOf(name))
		if err != nil {
			return fmt.Errorf("transform: %w", err)
		}
	}
	return nil
}

// shadowed finds gates of b that are never asked, because blocks before b match the same
// channels.
func (p *Policy) shadowed(b block) error {
	for _, before := range p.blocks {
		if !coversAll(before.match, b.match) {
			continue
		}
		for _, name := range gateNames {
			if b.gates[name] != nil && before.gates[name] != nil {
				return fmt.Errorf("%s of the channel block at %s is never reached: the block at %s matches all of its channels first; put the narrower block first", name, b.where, before.where)
			}
		}
	}
	return nil
}

// coversAll reports whether each name that a pattern in b matches is matched by one in a.
func coversAll(a, b Match) bool {
	for _, q := range b {
		if !slices.ContainsFunc(a, func(p pattern) bool { return p.covers(q) }) {
			return false
		}
	}
	return true
}

// defaults completes the gates for connect, subscribe and publish.
func (p *Policy) defaults(c PolicyConfig, env *Env, s *sampler) error {
	configured := len(c.Gates) > 0 || slices.ContainsFunc(c.Blocks, func(b BlockConfig) bool { return len(b.Gates) > 0 })
	var open []string
	for _, name := range []hub.GateName{hub.GateConnect, hub.GateSubscribe, hub.GatePublish} {
		switch {
		case p.handler[name] != nil || c.Default == DefaultAllow:
		case c.Default == DefaultDeny:
			deny := &Chain{gate: name, guards: []NamedGuard{{Name: "default deny", Guard: denyAll{}}}, timeout: DefaultTimeout, local: true, env: env, sampler: s}
			deny.print = deny.fingerprint(new(GateConfig))
			p.handler[name] = deny
		case configured:
			open = append(open, string(name))
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("gates are configured, but not %s for every channel, so it would be open; write %s { … } outside of channel blocks, or default deny (or default allow)", strings.Join(open, " and "), open[0])
	}
	return nil
}

// Gate implements hub.Gates.
func (p *Policy) Gate(name hub.GateName, channel string) hub.Gate {
	if name == hub.GateHistory && hub.IsPattern(channel) {
		return p.historyOfPattern(channel)
	}
	if c, _ := p.Find(name, channel); c != nil && (!c.open() || name.OpensAddress()) {
		return c
	}
	return nil
}

// DeliverGate implements hub.Gates.
func (p *Policy) DeliverGate(channel string) hub.DeliverGate {
	if !p.delivers {
		return nil
	}
	if c, _ := p.Find(hub.GateDeliver, channel); c != nil && !c.open() {
		return c
	}
	return nil
}

// errNoPatterns refuses a pattern that could include channels the agent may not see.
var errNoPatterns = &hub.Refusal{Code: hub.CodeDenied, Reason: "you cannot subscribe to patterns here; subscribe to the channels"}

// Pattern implements hub.Gates. A gate is asked about a pattern only if that gate alone
// decides about every channel that the pattern covers.
func (p *Policy) Pattern(text string) (hub.Gate, *hub.Refusal) {
	found, ok := p.ofPattern(hub.GateSubscribe, text)
	switch {
	case ok && found == nil && p.handler[hub.GateSubscribe] == nil:
		return nil, nil // every channel is open, so the pattern is, too
	case !ok || found == nil || !found.patterns:
		return nil, errNoPatterns
	}
	if c := found.gates[hub.GateSubscribe]; !c.open() {
		return c, nil
	}
	return nil, nil
}

// ofPattern returns the block whose gate decides about all channels of a pattern. It is nil
// if no block has the gate for any of them. ok is false if no gate decides about all.
func (p *Policy) ofPattern(name hub.GateName, text string) (found *block, ok bool) {
	want, err := parsePattern(text)
	if err != nil {
		return nil, false
	}
	for i := range p.blocks {
		b := &p.blocks[i]
		if b.gates[name] == nil || !slices.ContainsFunc(b.match, want.overlaps) {
			continue
		}
		if found != nil {
			return nil, false
		}
		found = b
	}
	return found, found == nil || slices.ContainsFunc(found.match, func(q pattern) bool { return q.covers(want) })
}

// historyOfPattern returns the gate history of a pattern. Like a subscribe gate, it is asked
// about a pattern only in a block with patterns, because its guards may look at the channel.
func (p *Policy) historyOfPattern(text string) hub.Gate {
	found, ok := p.ofPattern(hub.GateHistory, text)
	outside := p.handler[hub.GateHistory]
	switch {
	case ok && found == nil && (outside == nil || outside.open()):
		return nil
	case !ok || found == nil || !found.patterns:
		return withoutHistory{}
	}
	if c := found.gates[hub.GateHistory]; !c.open() {
		return c
	}
	return nil
}

// PatternHistory returns a Refusal if agents cannot get kept messages of a pattern, whoever
// they are. It is for operators.
func (p *Policy) PatternHistory(text string) *hub.Refusal {
	if g, ok := p.historyOfPattern(text).(withoutHistory); ok {
		return g.Decide(context.Background(), nil).Refusal
	}
	return nil
}

// withoutHistory is the gate history of patterns about which no gate decides.
type withoutHistory struct{}

func (withoutHistory) Timeout() time.Duration       { return DefaultTimeout }
func (withoutHistory) Local() bool                  { return true }
func (withoutHistory) Fingerprint() hub.Fingerprint { return "without history" }

func (withoutHistory) Decide(context.Context, *hub.Question) hub.Verdict {
	return hub.Verdict{Refusal: &hub.Refusal{Code: hub.CodeDenied, Reason: "you cannot get kept messages of patterns here; ask for those of the channels"}}
}

// Find returns the gate of a channel, nil if there is none, and the place of its channel block
// in the configuration, which is "" outside of channel blocks.
func (p *Policy) Find(name hub.GateName, channel string) (*Chain, string) {
	if channel != "" {
		for i := range p.blocks {
			b := &p.blocks[i]
			if c := b.gates[name]; c != nil && b.match.Matches(channel) {
				return c, b.where
			}
		}
	}
	return p.handler[name], ""
}

// open reports whether the gate always allows and changes nothing.
func (c *Chain) open() bool {
	return c.verbs.to == nil && !c.verbs.discard && c.verbs.transform == nil &&
		len(c.guards) == 1 && isFixed(c.guards[0].Guard, Allow, Pass)
}

var _ hub.Gates = (*Policy)(nil)
