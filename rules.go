// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"

	"github.com/push-it/pushit/guards"
)

// A channelRule is what a channel block says about its channels.
type channelRule[R any] struct {
	match guards.Match
	rule  R
}

// channelRules returns the rules of the channel blocks of h. of returns the rule of a
// block, and whether it has one.
func channelRules[R any](h *Handler, of func(*ChannelBlock) (rule R, has bool, err error)) (rules []channelRule[R], err error) {
	for i := range h.Channels {
		rule, has, err := of(&h.Channels[i])
		if err == nil && !has {
			continue
		}
		match, matchErr := guards.ParseMatch(h.Channels[i].Match)
		if err := errors.Join(matchErr, err); err != nil {
			return nil, fmt.Errorf("%s: %w", blockPath(i), err)
		}
		rules = append(rules, channelRule[R]{match, rule})
	}
	return rules, nil
}

// firstRule returns the first rule of a channel, or otherwise.
func firstRule[R any](rules []channelRule[R], channel string, otherwise R) R {
	for i := range rules {
		if rules[i].match.Matches(channel) {
			return rules[i].rule
		}
	}
	return otherwise
}

// eachBlock joins what check returns for each channel block, with the block's path.
func (h *Handler) eachBlock(check func(*ChannelBlock) error) error {
	var errs []error
	for i := range h.Channels {
		if err := check(&h.Channels[i]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", blockPath(i), err))
		}
	}
	return errors.Join(errs...)
}

// checkCount returns an error if there are not between 1 and most of what.
func checkCount(what string, n, most int) error {
	if n < 1 || n > most {
		return fmt.Errorf("%s must be between 1 and %d, not %d", what, most, n)
	}
	return nil
}
