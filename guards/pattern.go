// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"strings"

	"github.com/push-it/pushit/hub"
)

// A pattern selects the channels of a block. It is a name in which "*" stands for any one
// segment or, at the end, for everything below.
type pattern struct {
	text     string
	segments []string // without the "*" at the end
	below    bool     // it ends in "*"
}

// parsePattern parses the pattern of a channel block. The error says what to write
// instead.
func parsePattern(s string) (pattern, error) {
	if strings.ContainsAny(s, "{}") {
		return pattern{}, fmt.Errorf("channel pattern %q: patterns cannot have placeholders or captures; match with * and decide with a rule, "+
			"for example: channel users/* { subscribe cel `parts[1] == agent.user` }", s)
	}
	p := pattern{text: s, segments: strings.Split(s, "/")}
	for i, seg := range p.segments {
		switch {
		case seg == "*":
		case strings.Contains(seg, "*"):
			return pattern{}, fmt.Errorf("channel pattern %q: * replaces a whole segment, as in stories/* or users/*/inbox; "+
				"to match a part of a segment, match all and decide with a rule: cel `parts[%d].startsWith(%q)`", s, i, strings.TrimRight(seg, "*"))
		}
	}
	// The pattern must be a valid name with a segment in place of each *.
	if r := hub.CheckName(strings.ReplaceAll(s, "*", "x"), hub.MaxNameLength); r != nil {
		return pattern{}, fmt.Errorf("channel pattern %q: %s", s, r.Reason)
	}
	if last := len(p.segments) - 1; p.segments[last] == "*" {
		p.segments, p.below = p.segments[:last], true
	}
	return p, nil
}

// matches reports whether the pattern matches a channel's name.
func (p pattern) matches(name string) bool {
	for _, seg := range p.segments {
		if name == "" {
			return false
		}
		first, rest, _ := strings.Cut(name, "/")
		if seg != "*" && seg != first {
			return false
		}
		name = rest
	}
	return p.below == (name != "")
}

// covers reports whether p matches every name that q matches.
func (p pattern) covers(q pattern) bool {
	switch {
	case p.below && len(q.segments) < len(p.segments),
		p.below && !q.below && len(q.segments) == len(p.segments),
		!p.below && (q.below || len(q.segments) != len(p.segments)):
		return false
	}
	for i, seg := range p.segments {
		if seg != "*" && seg != q.segments[i] {
			return false
		}
	}
	return true
}

// overlaps reports whether p and q can match the same name.
func (p pattern) overlaps(q pattern) bool {
	n, m := len(p.segments), len(q.segments)
	switch {
	case !p.below && !q.below && n != m,
		p.below && !q.below && m <= n,
		!p.below && q.below && n <= m:
		return false
	}
	for i := range min(n, m) {
		if a, b := p.segments[i], q.segments[i]; a != "*" && b != "*" && a != b {
			return false
		}
	}
	return true
}

// coversName reports whether one of the patterns covers a name or the pattern of a
// subscription. It returns false for anything else.
func coversName(grants []string, channel string) bool {
	want, err := parsePattern(channel)
	if err != nil {
		return false
	}
	for _, g := range grants {
		if p, err := parsePattern(g); err == nil && p.covers(want) {
			return true
		}
	}
	return false
}

// A Match selects the channels that one of its patterns matches.
type Match []pattern

// ParseMatch parses the patterns of a channel block.
func ParseMatch(patterns []string) (Match, error) {
	m := make(Match, 0, len(patterns))
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		m = append(m, p)
	}
	return m, nil
}

// Matches reports whether the Match selects a channel.
func (m Match) Matches(channel string) bool {
	for _, p := range m {
		if p.matches(channel) {
			return true
		}
	}
	return false
}
