// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// History says which messages of a channel the server keeps, in memory, for agents that
// come back.
type History struct {
	// How many messages of each channel are kept. Between 1 and 100000. Required, but for off.
	Count int `json:"count,omitempty"`

	// How long a message is kept. Between 1s and 30d. Required, but for off.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// Keep nothing of these channels, although the history of the handler, or of a block
	// below, would. Without count and ttl.
	Off bool `json:"off,omitempty"`
}

// The ranges of a History.
const (
	maxHistoryCount = 100_000
	minHistoryTTL   = time.Second
	maxHistoryTTL   = 30 * 24 * time.Hour
)

func (h *History) check() error {
	if h == nil {
		return nil
	}
	if h.Off {
		if h.Count != 0 || h.TTL != 0 {
			return errors.New("history: with off there is no count and no ttl")
		}
		return nil
	}
	if err := checkHistoryCount(h.Count); err != nil {
		return err
	}
	return checkRange("the time of history", h.TTL, minHistoryTTL, maxHistoryTTL)
}

// checkHistories returns what is wrong with the histories of h.
func (h *Handler) checkHistories() error {
	errs := []error{h.History.check()}
	for i, b := range h.Channels {
		if err := b.History.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", blockPath(i), err))
		}
	}
	return errors.Join(errs...)
}

func checkHistoryCount(n int) error {
	if n < 1 || n > maxHistoryCount {
		return fmt.Errorf("history: the number of messages must be between 1 and %d, not %d", maxHistoryCount, n)
	}
	return nil
}

// histories finds the history of a channel.
type histories struct {
	blocks []historyBlock
	others hub.HistoryRule // of channels without a block
}

type historyBlock struct {
	match guards.Match
	rule  hub.HistoryRule
}

// histories returns the history rules of h, or nil if h keeps nothing.
func (h *Handler) histories() (hub.Histories, error) {
	var all histories
	if h.History != nil {
		all.others = h.History.rule()
	}
	for i, b := range h.Channels {
		if b.History == nil {
			continue
		}
		match, err := guards.ParseMatch(b.Match)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", blockPath(i), err)
		}
		all.blocks = append(all.blocks, historyBlock{match, b.History.rule()})
	}
	if h.History == nil && len(all.blocks) == 0 {
		return nil, nil
	}
	return &all, nil
}

func (h *History) rule() hub.HistoryRule {
	return hub.HistoryRule{Count: h.Count, TTL: time.Duration(h.TTL)}
}

// History implements hub.Histories.
func (all *histories) History(channel string) hub.HistoryRule {
	for i := range all.blocks {
		if all.blocks[i].match.Matches(channel) {
			return all.blocks[i].rule
		}
	}
	return all.others
}

// history reads `history <count> <time>`, or `history off`.
func (p *parser) history(to **History) error {
	const example = "history 100 1h"
	args := p.CountRemainingArgs()
	if args == 1 && p.NextArg() && p.Val() == "off" {
		*to = &History{Off: true}
		return nil
	}
	if args != 2 {
		return p.Errf("history needs a number of messages and a time: write %s", example)
	}
	p.NextArg()
	n, err := strconv.Atoi(p.Val())
	if err != nil {
		return p.Errf("history: %q is not a whole number: write a number of messages and a time, such as %s", p.Val(), example)
	}
	if err := checkHistoryCount(n); err != nil {
		return p.WrapErr(err)
	}
	h := &History{Count: n}
	if err := p.durationOf("the time of history", &h.TTL, "1h", minHistoryTTL, maxHistoryTTL); err != nil {
		return err
	}
	*to = h
	return nil
}
