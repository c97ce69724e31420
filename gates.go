// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/routing"
)

// A Gate decides whether an operation is allowed, and may change the message. It asks
// its guards in order until one decides. It allows the operation if at least one guard
// approved.
type Gate struct {
	// The guards. A gate without guards allows nothing, except `deliver`, which then
	// delivers everything.
	GuardsRaw []json.RawMessage `json:"guards,omitempty" caddy:"namespace=http.pushit.guards inline_key=guard"`

	// How long the guards may take for one answer. After that the agent is refused, and
	// told that it may try again. The time in the queue of a guard with `in_flight` does
	// not count. Between 10ms and 5m; not for `deliver`, which asks no backend. Default:
	// the handler's `timeouts`, else 10s for `connect` and 1s for the others.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long an answer of `connect` or `subscribe` is valid. Then the gate is asked
	// again. Between 1s and 24h. Default: until the session ends.
	Recheck caddy.Duration `json:"recheck,omitempty"`

	// For `publish`: the channels that the message goes to instead of its own, at most
	// 16. The gates of these channels are not asked.
	To []string `json:"to,omitempty"`

	// For `publish` and `deliver`: a CEL expression. Its value replaces the data of the
	// message.
	Transform string `json:"transform,omitempty"`

	// For `publish`: the message goes nowhere. Its publisher is told that it succeeded.
	Discard bool `json:"discard,omitempty"`
}

// A ChannelBlock has gates for some channels, which replace those of the handler.
type ChannelBlock struct {
	// The names of the channels. In a name `*` stands for one segment; as the last
	// segment it stands for everything below. Required.
	Match []string `json:"match,omitempty"`

	// The gates of these channels: `subscribe`, `unsubscribe`, `publish`, `deliver`. If a
	// gate is missing, later blocks are searched, and then the handler.
	Gates map[string]*Gate `json:"gates,omitempty"`

	// Whether one subscription may cover many of these channels, as `stories/*` does. The
	// `subscribe` gate is then asked once, about the pattern. A pattern is always refused
	// if it includes channels of another block that has a `subscribe` gate. Default:
	// false.
	Patterns bool `json:"patterns,omitempty"`

	// Whether publishers do not get their own messages on these channels. Default: false.
	EchoOff bool `json:"echo_off,omitempty"`

	// Whether publishes to these channels are refused while nobody is subscribed and no
	// messages are kept. Default: false.
	Existing bool `json:"existing,omitempty"`

	// Whether agents that lag get only the newest message of each of these channels. It has
	// no effect on channels with a deliver gate. Default: false.
	Conflate bool `json:"conflate,omitempty"`

	// The history of these channels. If several blocks match a channel, the first one
	// with a history applies. Default: the `history` of the handler.
	History *History `json:"history,omitempty"`

	// Tells pages who is in these channels. Of several blocks that match a channel, the
	// first that has a presence counts. Default: what the handler says.
	Presence *Presence `json:"presence,omitempty"`
}

// gateNames lists all gates.
var gateNames = []string{
	string(hub.GateConnect), string(hub.GateSubscribe), string(hub.GateUnsubscribe),
	string(hub.GatePublish), string(hub.GateDeliver), string(hub.GateDisconnect), string(hub.GateAPI),
	string(hub.GateDebug), string(hub.GatePresence), string(hub.GateHistory),
}

// The allowed durations of gates.
const (
	minTimeout = 10 * time.Millisecond // a backend in the same room needs this long to answer
	maxTimeout = 5 * time.Minute
	minRecheck = time.Second
	maxRecheck = 24 * time.Hour
)

// hasGates reports whether the configuration has any gate. A default counts, too.
func (h *Handler) hasGates() bool {
	return len(h.Gates) > 0 || h.Default != "" || len(h.Channels) > 0
}

// checkGates returns what is wrong with the gates of h. It does not look at the guards;
// guards.Compile does.
func (h *Handler) checkGates() error {
	errs := []error{checkNamespace(h.Namespace), checkDefault(h.Default)}
	for _, name := range slices.Sorted(maps.Keys(h.Timeouts)) {
		errs = append(errs, checkTimeoutOf(name), checkRange("timeouts."+name, h.Timeouts[name], minTimeout, maxTimeout))
	}
	errs = append(errs, h.eachGate(func(where, name string, g *Gate) error {
		if g == nil {
			return fmt.Errorf("%s is null: leave it out, or write its guards", where)
		}
		errs := []error{checkGateName(name)}
		if g.Timeout != 0 {
			errs = append(errs, checkTimeoutOf(name), checkRange("timeout", g.Timeout, minTimeout, maxTimeout))
		}
		if g.Recheck != 0 {
			errs = append(errs, checkRange("recheck", g.Recheck, minRecheck, maxRecheck))
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		return nil
	}))
	return errors.Join(errs...)
}

// eachGate calls f for each gate of h in a fixed order. where is the path of the gate in
// the JSON.
func (h *Handler) eachGate(f func(where, name string, g *Gate) error) error {
	var errs []error
	each := func(parent string, gates map[string]*Gate) {
		for _, name := range slices.Sorted(maps.Keys(gates)) {
			errs = append(errs, f(parent+"gates."+name, name, gates[name]))
		}
	}
	each("", h.Gates)
	for i := range h.Channels {
		each(blockPath(i)+".", h.Channels[i].Gates)
	}
	return errors.Join(errs...)
}

// blockPath returns the path of a channel block in the JSON of a Handler.
func blockPath(i int) string { return fmt.Sprintf("channels[%d]", i) }

func checkGateName(name string) error {
	if slices.Contains(gateNames, name) {
		return nil
	}
	return fmt.Errorf("there is no gate %q; %s", name, guards.Instead(name, gateNames))
}

// checkTimeoutOf returns an error if a gate cannot have a timeout.
func checkTimeoutOf(gate string) error {
	if gate == string(hub.GateDeliver) {
		return errors.New("deliver has no timeout, because it never asks a backend")
	}
	return checkGateName(gate)
}

func checkDefault(value string) error {
	switch value {
	case "", guards.DefaultAllow, guards.DefaultDeny:
		return nil
	}
	return fmt.Errorf("default must be allow or deny, not %q: it decides connect, subscribe and publish where there is no gate", value)
}

// checkNamespace requires one placeholder, or nothing.
func checkNamespace(text string) error {
	inner := strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}")
	if text == "" {
		return nil
	}
	if text == "{"+inner+"}" && inner != "" && !strings.ContainsAny(inner, "{} \t\r\n") {
		return checkNamespacePlaceholder(inner)
	}
	return fmt.Errorf("the namespace %q is not a placeholder: write one whose value differs for each tenant, such as {labels.2} "+
		"(in JSON {http.request.host.labels.2}), which is acme in acme.example.com", text)
}

// checkNamespacePlaceholder returns an error if a placeholder has no value yet when a
// session opens.
func checkNamespacePlaceholder(name string) error {
	for prefix, when := range map[string]string{
		"pushit.":         "no gate has been asked yet",
		"http.response.":  "there is no response yet",
		"http.intercept.": "there is no response yet",
		"http.error.":     "there is no error",
	} {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("the namespace {%s} has no value when a session opens, because %s: write a placeholder of the request, such as {labels.2}", name, when)
		}
	}
	short := caddyfile.Segment{{Text: "{" + name + "}"}}
	httpcaddyfile.NewShorthandReplacer().ApplyToSegment(&short)
	if full := short[0].Text; full != "{"+name+"}" {
		return fmt.Errorf("the namespace {%s} is a shorthand that only a Caddyfile knows: in JSON write %s", name, full)
	}
	if _, err := guards.NeedsSnapshot(name); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if word, rest, dotted := strings.Cut(name, "."); dotted {
		if near := guards.Nearest(word, shorthands); near != "" {
			return fmt.Errorf("namespace: there is no placeholder {%s}; did you mean {%s.%s}?", name, near, rest)
		}
	}
	if strings.HasPrefix(name, "http.request.") && !strings.HasPrefix(name, "http.request.tls.") {
		repl := caddy.NewReplacer()
		caddyhttp.PrepareRequest(routing.RequestTo("", http.MethodGet, "/", http.Header{}), repl, nil, new(caddyhttp.Server))
		if _, known := repl.Get(name); !known {
			return fmt.Errorf("namespace: there is no placeholder {%s}: write a placeholder of the request, such as {labels.2}", name)
		}
	}
	return nil
}

// shorthands are the first words of the placeholders that the Caddyfile abbreviates.
var shorthands = []string{"labels", "header", "cookie", "path", "query", "vars"}

// policy loads the guards of h and compiles its policy. If h has no gate, it returns nil,
// which allows everything.
func (h *Handler) policy(ctx caddy.Context, env *guards.Env) (*guards.Policy, error) {
	// A reload needs the placeholder's value for sessions that are open.
	tenant := strings.Trim(h.Namespace, "{}")
	if need, _ := guards.NeedsSnapshot(tenant); need {
		env.Snapshot = append(env.Snapshot, tenant)
	}
	if !h.hasGates() {
		return nil, nil
	}
	load := func(where string, g *Gate) ([]guards.NamedGuard, error) {
		list, err := guards.Load(ctx, g, "GuardsRaw", g.GuardsRaw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		return list, nil
	}
	c, err := h.policyConfig(load, func(where string) string { return where })
	if err != nil {
		return nil, err
	}
	env.Learned = learnedHeaders(c)
	env.Snapshot = append(env.Snapshot, ofGuards(c, guards.SnapshotNames)...)
	slices.Sort(env.Snapshot)
	env.Snapshot = slices.Compact(env.Snapshot)
	h.asks = whatGatesAsk(c)
	return guards.Compile(c, env)
}

// policyConfig returns the configuration of h's policy. load returns the guards of a
// gate, and place names the position of a path in the JSON for errors.
func (h *Handler) policyConfig(load func(where string, g *Gate) ([]guards.NamedGuard, error), place func(where string) string) (guards.PolicyConfig, error) {
	c := guards.PolicyConfig{
		Gates:    make(map[hub.GateName]*guards.GateConfig),
		Blocks:   make([]guards.BlockConfig, len(h.Channels)),
		Default:  h.Default,
		Timeouts: make(map[hub.GateName]time.Duration),
	}
	for name, d := range h.Timeouts {
		c.Timeouts[hub.GateName(name)] = time.Duration(d)
	}
	byPath := map[string]map[hub.GateName]*guards.GateConfig{"": c.Gates}
	for i, b := range h.Channels {
		gates := make(map[hub.GateName]*guards.GateConfig)
		c.Blocks[i] = guards.BlockConfig{Match: b.Match, Patterns: b.Patterns, Gates: gates, Where: place(blockPath(i))}
		byPath[blockPath(i)+"."] = gates
	}
	return c, h.eachGate(func(where, name string, g *Gate) error {
		list, err := load(where, g)
		if err != nil {
			return err
		}
		parent, _ := strings.CutSuffix(where, "gates."+name)
		byPath[parent][hub.GateName(name)] = &guards.GateConfig{
			Guards:    list,
			Timeout:   time.Duration(g.Timeout),
			Recheck:   time.Duration(g.Recheck),
			To:        g.To,
			Transform: g.Transform,
			Discard:   g.Discard,
			Where:     place(where),
		}
		return nil
	})
}

// learnedHeaders returns the header fields that guards of c set, in canonical form.
func learnedHeaders(c guards.PolicyConfig) (names []string) {
	for _, name := range ofGuards(c, guards.LearnedHeaders) {
		names = append(names, http.CanonicalHeaderKey(name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ofGuards collects what f returns for the guards of each gate.
func ofGuards(c guards.PolicyConfig, f func([]guards.NamedGuard) []string) (all []string) {
	for _, g := range c.Gates {
		all = append(all, f(g.Guards)...)
	}
	for _, b := range c.Blocks {
		for _, g := range b.Gates {
			all = append(all, f(g.Guards)...)
		}
	}
	return all
}
