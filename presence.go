// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// Presence tells pages who is in a channel: each agent that is subscribed to it. The tabs
// and devices of one user are one member.
type Presence struct {
	// An expression (CEL) whose value others see of a member, beside the user. It can use
	// `agent.user`, `agent.claims`, `agent.attributes`, `agent.uuid`, `channel`, `parts`
	// and `now`. At most 1 KiB of JSON. Default: nothing.
	Info string `json:"info,omitempty"`

	// How long a member stays listed after its last connection is gone, so that a page
	// that is reloaded is no leave and join. Between 1s and 10m. Default: 15s.
	Linger caddy.Duration `json:"linger,omitempty"`

	// Only count the members. Default: false.
	Count bool `json:"count,omitempty"`

	// The most members that are listed. A channel with more is only counted. Between 1 and
	// 100000. Default: 1000.
	Members int `json:"members,omitempty"`
}

// The ranges and defaults of a Presence.
const (
	defaultLinger  = 15 * time.Second
	minLinger      = time.Second
	maxLinger      = 10 * time.Minute
	defaultMembers = 1000
	maxMembers     = 100_000
)

func (p *Presence) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.Info != "" {
		if _, err := guards.CompileInfo(p.Info); err != nil {
			errs = append(errs, fmt.Errorf("presence: info: %w", err))
		}
	}
	if p.Linger != 0 {
		errs = append(errs, checkRange("linger", p.Linger, minLinger, maxLinger))
	}
	if p.Members != 0 {
		errs = append(errs, checkPresenceMembers(p.Members))
	}
	if p.Count && p.Members != 0 {
		errs = append(errs, errPresenceCounts)
	}
	return errors.Join(errs...)
}

var errPresenceCounts = errors.New("presence: count lists nobody, so members has no effect: keep one of them")

func checkPresenceMembers(n int) error { return checkCount("presence: members", n, maxMembers) }

// checkPresences returns what is wrong with the presences of h.
func (h *Handler) checkPresences() error {
	return errors.Join(h.Presence.check(), h.eachBlock(func(b *ChannelBlock) error { return b.Presence.check() }))
}

// presences finds the presence rule of a channel.
type presences struct {
	rules  []channelRule[*hub.PresenceRule]
	others *hub.PresenceRule // of channels without a block
}

// presences returns the presence rules of h, or nil if there are none.
func (h *Handler) presences() (hub.Presences, error) {
	others, err := h.Presence.rule()
	if err != nil {
		return nil, err
	}
	rules, err := channelRules(h, func(b *ChannelBlock) (*hub.PresenceRule, bool, error) {
		rule, err := b.Presence.rule()
		return rule, rule != nil, err
	})
	if err != nil || others == nil && rules == nil {
		return nil, err
	}
	return &presences{rules, others}, nil
}

func (p *Presence) rule() (*hub.PresenceRule, error) {
	if p == nil {
		return nil, nil
	}
	r := &hub.PresenceRule{
		Linger: cmp.Or(time.Duration(p.Linger), defaultLinger), Members: cmp.Or(p.Members, defaultMembers), Count: p.Count,
	}
	if p.Info != "" {
		var err error
		if r.Info, err = guards.CompileInfo(p.Info); err != nil {
			return nil, fmt.Errorf("presence: info: %w", err)
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	r.By = hub.Fingerprint(sum[:])
	return r, nil
}

// Presence implements hub.Presences.
func (all *presences) Presence(channel string) *hub.PresenceRule {
	return firstRule(all.rules, channel, all.others)
}

// presence reads what `presence` says: settings, and the guards of the gate presence, which
// are written in the same block. parent is where the gates are in the JSON.
func (p *parser) presence(parent string, to **Presence, gates *map[string]*Gate) error {
	const name = string(hub.GatePresence)
	at, path := p.Token(), parent+"gates."+name
	*to = new(Presence)
	g := new(Gate)
	if p.CountRemainingArgs() > 0 {
		p.NextArg()
		if find(presenceSettings(new(Presence)), p.Val()) != nil {
			return p.Errf("write %s in a block: presence { %s … }", p.Val(), p.Val())
		}
		if err := p.guard(path, g); err != nil {
			return err
		}
	}
	outer := p.seen
	p.seen = make(map[string]caddyfile.Token)
	defer func() { p.seen = outer }()
	known := append(presenceSettings(*to), verbs(name, g)...)
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		sub := find(known, p.Val())
		if sub == nil {
			if near := guards.Nearest(p.Val(), []string{"info", "linger", "members", "count"}); near != "" && !isGuard(p.Val()) {
				return p.Errf("unknown word %q in presence; did you mean %s?", p.Val(), near)
			}
			if err := p.guard(path, g); err != nil {
				return err
			}
			continue
		}
		if err := p.once(sub, name+" "+sub.name); err != nil {
			return err
		}
	}
	if (*to).Count && (*to).Members != 0 {
		return errorAt(at, errPresenceCounts)
	}
	if len(g.GuardsRaw) == 0 && g.Timeout == 0 && g.Recheck == 0 && g.Transform == "" && g.To == nil && !g.Discard {
		return nil
	}
	if *gates == nil {
		*gates = make(map[string]*Gate)
	}
	(*gates)[name] = g
	p.places[path] = at
	return nil
}

// presenceSettings are the words of a presence block that are not about its gate.
func presenceSettings(to *Presence) []subdirective {
	return []subdirective{
		{name: "info", parse: func(p *parser) (err error) {
			const example = "`{\"name\": agent.claims.name}`"
			if p.CountRemainingArgs() > 1 {
				return p.Errf("info takes one expression: put it in backquotes, such as info %s", example)
			}
			if to.Info, err = p.argument(example); err != nil {
				return err
			}
			if _, err := guards.CompileInfo(to.Info); err != nil {
				return p.WrapErr(fmt.Errorf("info: %w", err))
			}
			return p.noBlock("info")
		}},
		{name: "linger", parse: func(p *parser) error { return p.duration(&to.Linger, "15s", minLinger, maxLinger) }},
		flag("count", &to.Count),
		{name: "members", parse: func(p *parser) error {
			text, err := p.argument("1000")
			if err != nil {
				return err
			}
			if to.Members, err = strconv.Atoi(text); err != nil {
				return p.Errf("members: %q is not a whole number: write the most members that are listed, such as members 1000", text)
			}
			if err := checkPresenceMembers(to.Members); err != nil {
				return p.WrapErr(err)
			}
			return p.noBlock("members")
		}},
	}
}
