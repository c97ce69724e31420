// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import "github.com/push-it/pushit/hub"

// hasDelivery reports whether b says how messages are delivered.
func (b *ChannelBlock) hasDelivery() bool { return b.delivery() != hub.Delivery{} }

func (b *ChannelBlock) delivery() hub.Delivery {
	return hub.Delivery{NoEcho: b.EchoOff, Existing: b.Existing, Conflate: b.Conflate}
}

// deliveries finds how the messages of a channel are delivered.
type deliveries []channelRule[hub.Delivery]

// deliveries returns how h delivers the messages of channels, or nil if it has no rules.
func (h *Handler) deliveries() (hub.Deliveries, error) {
	rules, err := channelRules(h, func(b *ChannelBlock) (hub.Delivery, bool, error) { return b.delivery(), b.hasDelivery(), nil })
	if err != nil || rules == nil {
		return nil, err
	}
	return deliveries(rules), nil
}

// Delivery implements hub.Deliveries. What any of the matching blocks says holds.
func (all deliveries) Delivery(channel string) (d hub.Delivery) {
	for i := range all {
		if b := &all[i]; b.match.Matches(channel) {
			d.NoEcho = d.NoEcho || b.rule.NoEcho
			d.Existing = d.Existing || b.rule.Existing
			d.Conflate = d.Conflate || b.rule.Conflate
		}
	}
	return d
}

// echo reads `echo off`.
func (p *parser) echo(b *ChannelBlock) error {
	value, err := p.argument("off")
	if err != nil {
		return err
	}
	if value != "off" {
		return p.Errf("echo: write echo off, or leave it out: publishers get their own messages by default, not %q", value)
	}
	b.EchoOff = true
	return p.noBlock("echo")
}
