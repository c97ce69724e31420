// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameLength is the most bytes of a channel's name or a pattern. Limits cannot raise
// it.
const MaxNameLength = 255

// CheckName returns nil if s is a valid channel's name of at most limit bytes, else a
// Refusal with CodeInvalid that says what is wrong (PROTOCOL.md, R10). A name is valid
// UTF-8 without control, format and space characters, without "*", "{" and "}", and
// without empty segments and the segments "." and "..". The hub compares names byte by
// byte and never cleans, decodes or lower-cases them. So CheckName refuses names that look
// the same but differ.
func CheckName(s string, limit int) *Refusal {
	if strings.HasPrefix(s, "/meta/") {
		return refuse(CodeInvalid, "a channel's name cannot begin with /meta/, which is reserved for the protocol")
	}
	return nameCheck(s, limit, "a channel's name")
}

// CheckPattern returns nil if an agent can subscribe to s: a channel's name, "*", or a name
// followed by "/*", at most limit bytes. Else it returns a Refusal with CodeInvalid that
// says what is wrong (PROTOCOL.md, R11).
func CheckPattern(s string, limit int) *Refusal {
	if !strings.Contains(s, "*") {
		return CheckName(s, limit)
	}
	if len(s) > limit {
		return nameTooLong(s, limit, "a pattern")
	}
	if s == "*" {
		return nil
	}
	name, ok := strings.CutSuffix(s, "/*")
	if !ok || strings.Contains(name, "*") {
		return refuse(CodeInvalid, "in a pattern * must be the whole last segment: stories/* matches everything below stories/, and * alone matches everything")
	}
	return nameCheck(name, limit, "what stands before /* in a pattern")
}

// IsPattern reports whether s is a pattern and not a channel's name. CheckPattern must
// have accepted s.
func IsPattern(s string) bool { return strings.HasSuffix(s, "*") }

// prefixesOf yields the prefixes of all patterns that match the channel name, the longest
// first: "a/b/", "a/" and "" for "a/b/c". It does not allocate; this is why patterns are
// looked up by their prefix.
func prefixesOf(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := len(name) - 1; i >= 0; i-- {
			if name[i] == '/' && !yield(name[:i+1]) {
				return
			}
		}
		yield("")
	}
}

// patternPrefix returns the common prefix of the channels that a pattern matches: "a/b/"
// for "a/b/*", "" for "*". No two patterns have the same prefix.
func patternPrefix(pattern string) string { return pattern[:len(pattern)-1] }

// nameCheck does the work of CheckName. The reason of its Refusal begins with what.
func nameCheck(s string, limit int, what string) *Refusal {
	if s == "" {
		return refuse(CodeInvalid, what+" cannot be empty")
	}
	if len(s) > limit {
		return nameTooLong(s, limit, what)
	}
	segment := 0 // where the current segment begins
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				return refuse(CodeInvalid, fmt.Sprintf("%s must be valid UTF-8; byte %d is not", what, i))
			}
			// Every character of White_Space is in Z or Cc.
			if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Z) {
				return nameBadCharacter(r, i, what)
			}
			i += size
			continue
		}
		switch {
		case c <= ' ' || c == 0x7f:
			return nameBadCharacter(rune(c), i, what)
		case c == '*' || c == '{' || c == '}':
			return refuse(CodeInvalid, fmt.Sprintf("%s cannot contain %c (found at byte %d)", what, c, i))
		case c == '/':
			if r := nameSegment(s[segment:i], segment, what); r != nil {
				return r
			}
			segment = i + 1
		}
		i++
	}
	return nameSegment(s[segment:], segment, what)
}

func nameSegment(segment string, at int, what string) *Refusal {
	switch segment {
	case "":
		return refuse(CodeInvalid, fmt.Sprintf("%s cannot have an empty segment (found at byte %d): no / at the beginning or end, and no two in a row", what, at))
	case ".", "..":
		return refuse(CodeInvalid, fmt.Sprintf("%s cannot have %s as a segment (found at byte %d)", what, segment, at))
	}
	return nil
}

func nameTooLong(s string, limit int, what string) *Refusal {
	return refuse(CodeInvalid, what+" can have at most "+strconv.Itoa(limit)+" bytes; this one has "+strconv.Itoa(len(s)))
}

func nameBadCharacter(r rune, at int, what string) *Refusal {
	kind := "a space"
	switch {
	case unicode.Is(unicode.Cc, r):
		kind = "a control character"
	case unicode.Is(unicode.Cf, r):
		kind = "an invisible format character"
	}
	return refuse(CodeInvalid, fmt.Sprintf("%s cannot contain %s (found at byte %d: %U)", what, kind, at, r))
}
