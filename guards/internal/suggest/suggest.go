// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package suggest guesses what an operator meant by a wrong word.
package suggest

import (
	"fmt"
	"slices"
	"strings"
)

// Nearest returns the word of known that was probably meant, or "". It is close to word
// in edits, or one contains the other.
func Nearest(word string, known []string) string {
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	best, least := "", 1+min(2, len(word)/3)
	for _, k := range known {
		if d := Distance(word, k); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known {
		if len(word) >= 4 && strings.Contains(k, word) || len(k) >= 4 && strings.Contains(word, k) {
			return k
		}
	}
	return ""
}

// Instead says what to write in place of an unknown word: the nearest of known, or any.
func Instead(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "there are " + strings.Join(known, ", ")
}

// Distance returns how many letters to insert, delete, replace or swap with a neighbor to
// get from a to b.
func Distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			d := min(last[j+1], row[j]) + 1
			if a[i] == b[j] {
				d = min(d, last[j])
			} else {
				d = min(d, last[j]+1)
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
	}
	return row[len(b)]
}

// ofPushit are words of pushit's own block and of its gates that no guard has.
var ofPushit = []string{
	"connect", "subscribe", "unsubscribe", "publish", "deliver", "disconnect", "api", "debug", "presence", "history", "channel", "patterns", "namespace", "recheck", "heartbeat", "limits", "session_cookies",
}

// MissingBrace returns the likely mistake if a word in the block of a guard belongs
// outside of it, otherwise "".
func MissingBrace(word, guard string) string {
	if !slices.Contains(ofPushit, word) {
		return ""
	}
	return fmt.Sprintf("a } is missing before %s: close the block of %s", word, guard)
}
