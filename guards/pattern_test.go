// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func mustPattern(t testing.TB, s string) pattern {
	t.Helper()
	p, err := parsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatternMatches(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"news", []string{"news"}, []string{"new", "newsx", "news/1", "x/news"}},
		{"news/*", []string{"news/1", "news/1/2"}, []string{"news", "newsx/1", "x/news/1"}},
		{"*", []string{"a", "a/b", "a/b/c"}, nil},
		{"users/*/inbox", []string{"users/bob/inbox", "users/*x/inbox"}, []string{"users/inbox", "users/a/b/inbox", "users/bob/inbox/1", "users/bob"}},
		{"*/chat/*", []string{"a/chat/b", "a/chat/b/c"}, []string{"a/chat", "chat/b", "a/b/chat/c"}},
		{"a/*/*", []string{"a/b/c", "a/b/c/d"}, []string{"a/b", "a", "b/c/d"}},
	} {
		p := mustPattern(t, c.pattern)
		for _, name := range c.yes {
			if !p.matches(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
		}
		for _, name := range c.no {
			if p.matches(name) {
				t.Errorf("%s matches %s", c.pattern, name)
			}
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for s, want := range map[string]string{
		"n*":             "startsWith(\"n\")",
		"a/b*/c":         "parts[1].startsWith(\"b\")",
		"users/{user}":   "cel `parts[1] == agent.user`",
		"users/{re.x.1}": "captures",
		"a//b":           "empty segment",
		"/a":             "empty segment",
		"a/":             "empty segment",
		"a/../b":         "..",
		"a b":            "space",
		"":               "empty",
		"**":             "whole segment",
		"/meta/*":        "meta",
	} {
		if _, err := parsePattern(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", s, err, want)
		}
	}
}

// smallWorld returns all names of up to four segments over two letters, and all patterns
// over them.
func smallWorld() (names, patterns []string) {
	var grow func(prefix []string)
	grow = func(prefix []string) {
		if len(prefix) > 0 {
			s := strings.Join(prefix, "/")
			patterns = append(patterns, s)
			if !strings.Contains(s, "*") {
				names = append(names, s)
			}
		}
		if len(prefix) == 4 {
			return
		}
		for _, seg := range []string{"a", "b", "*"} {
			grow(append(slices.Clip(prefix), seg))
		}
	}
	grow(nil)
	return names, patterns
}

// covers and overlaps agree with a comparison of all names. Names of four segments stand
// for longer ones, so compare patterns of at most three.
func TestCoversAndOverlapsAreRight(t *testing.T) {
	names, texts := smallWorld()
	var patterns []pattern
	for _, s := range texts {
		if strings.Count(s, "/") < 3 {
			patterns = append(patterns, mustPattern(t, s))
		}
	}
	for _, p := range patterns {
		for _, q := range patterns {
			covers, overlaps := true, false
			for _, n := range names {
				inP, inQ := p.matches(n), q.matches(n)
				covers = covers && (inP || !inQ)
				overlaps = overlaps || inP && inQ
			}
			if got := p.overlaps(q); got != overlaps {
				t.Errorf("%s overlaps %s: %v, want %v", p.text, q.text, got, overlaps)
			}
			// Two letters are not all there are: "a" and "b" together do not cover "*".
			// So covers may be false where the small world says true, but never the other
			// way.
			if got := p.covers(q); got && !covers {
				t.Errorf("%s covers %s: %v, want %v", p.text, q.text, got, covers)
			} else if !got && covers && !strings.Contains(q.text, "*") {
				t.Errorf("%s covers the name %s: %v, want %v", p.text, q.text, got, covers)
			}
		}
	}
}

// Whatever the blocks are: an agent that gets the kept messages of a pattern may also have
// those of each channel that it covers.
func TestHistoriesOfPatternsOpenNothing(t *testing.T) {
	names, patterns := smallWorld()
	r := rand.New(rand.NewPCG(3, 4))
	allowed, refused := 0, 0
	for range 4000 {
		c := PolicyConfig{Gates: gatesOf("connect", allowAll{}, "subscribe", allowAll{}, "publish", allowAll{})}
		if r.IntN(2) == 0 {
			c.Gates["history"] = gateOf(pick(r))
		}
		for range 1 + r.IntN(3) {
			b := BlockConfig{Match: []string{patterns[r.IntN(len(patterns))]}, Where: "block", Gates: gatesOf("subscribe", allowAll{})}
			b.Patterns = r.IntN(2) == 0
			if r.IntN(3) > 0 {
				b.Gates["history"] = gateOf(pick(r))
			}
			c.Blocks = append(c.Blocks, b)
		}
		p, err := Compile(c, testEnv())
		if err != nil {
			continue
		}
		for _, s := range patterns {
			if !strings.HasSuffix(s, "*") || strings.Count(s, "*") != 1 {
				continue
			}
			if !verdictOf(t, p.Gate("history", s), "history", s) {
				refused++
				continue
			}
			sub := mustPattern(t, s)
			for _, n := range names {
				if !sub.matches(n) {
					continue
				}
				allowed++
				if !verdictOf(t, p.Gate("history", n), "history", n) {
					t.Fatalf("the history of %s is allowed, that of %s is not, under %+v", s, n, c)
				}
			}
		}
	}
	if allowed == 0 || refused == 0 {
		t.Errorf("%d allowed, %d refused", allowed, refused)
	}
}

// Whatever the blocks are: an agent that may subscribe to a pattern may also subscribe to
// each channel that it covers.
func TestPatternsOpenNothing(t *testing.T) {
	names, patterns := smallWorld()
	var subscriptions []string
	for _, p := range patterns {
		if strings.HasSuffix(p, "*") && strings.Count(p, "*") == 1 {
			subscriptions = append(subscriptions, p)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	allowed, tried := 0, 0
	for range 4000 {
		var c PolicyConfig
		c.Gates = gatesOf("connect", allowAll{}, "publish", allowAll{})
		if r.IntN(2) == 0 {
			c.Gates["subscribe"] = gateOf(pick(r))
		} else {
			c.Default = []string{DefaultAllow, DefaultDeny}[r.IntN(2)]
		}
		for range 1 + r.IntN(4) {
			b := BlockConfig{Match: []string{patterns[r.IntN(len(patterns))]}, Where: "block"}
			if r.IntN(4) > 0 {
				b.Gates = gatesOf("subscribe", pick(r))
				b.Patterns = r.IntN(2) == 0
			} else {
				b.Gates = gatesOf("publish", pick(r))
			}
			c.Blocks = append(c.Blocks, b)
		}
		p, err := Compile(c, testEnv())
		if err != nil {
			continue // for example, shadowed
		}
		for _, s := range subscriptions {
			gate, refusal := p.Pattern(s)
			if refusal != nil || !verdictOf(t, gate, "subscribe", s) {
				continue
			}
			allowed++
			sub := mustPattern(t, s)
			for _, n := range names {
				if !sub.matches(n) {
					continue
				}
				tried++
				if !verdictOf(t, p.Gate("subscribe", n), "subscribe", n) {
					t.Fatalf("%s is allowed, %s is not, under %+v", s, n, c)
				}
			}
		}
	}
	if allowed < 100 || tried < 1000 {
		t.Errorf("only %d patterns were allowed, over %d names: this proves little", allowed, tried)
	}
}

func pick(r *rand.Rand) Guard {
	return []Guard{allowAll{}, denyAll{}, channelIs("a"), channelIs("b")}[r.IntN(4)]
}
