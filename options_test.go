// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit"
	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/internal/doctable"
)

// TestOptionsAreDocumented compares the tables of docs/caddyfile.md with the options of
// the directive and of its JSON.
func TestOptionsAreDocumented(t *testing.T) {
	const path = "docs/caddyfile.md"
	var got []string
	fields := make(map[string]bool)
	for _, row := range doctable.Rows(t, path, "## Options") {
		options, inJSON := doctable.Codes(row[0]), doctable.Codes(row[1])
		if len(row) != 5 || len(inJSON) != 1 {
			t.Fatalf("a row of options is %q", row)
		}
		got = append(got, options...)
		fields[inJSON[0]] = true
		if want, ok := pushit.DefaultOptions()[options[0]]; ok && row[2] != "`"+want+"`" {
			t.Errorf("the default of %s is %s, documented is %s", options[0], want, row[2])
		}
	}
	slices.Sort(got)
	if want := pushit.Subdirectives(); !slices.Equal(got, want) {
		t.Errorf("documented are the options\n\t%q\nand there are\n\t%q", got, want)
	}
	for _, field := range pushit.JSONFields() {
		if !fields[field] {
			t.Errorf("the JSON field %s is not documented", field)
		}
	}
	got = nil
	for _, row := range doctable.Rows(t, path, "## Limits") {
		got = append(got, strings.Join(row[:3], " | "))
	}
	if want := pushit.LimitRows(); !slices.Equal(got, want) {
		t.Errorf("documented are the limits\n\t%s\nand there are\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	got = nil
	for _, row := range doctable.Rows(t, path, "## Gates") {
		got = append(got, doctable.Codes(row[0])[0])
	}
	slices.Sort(got)
	if want := pushit.Verbs(); !slices.Equal(got, want) {
		t.Errorf("documented are in gates %q, and there are %q", got, want)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"path", "name", "origins", "heartbeat", "handshake", "limits"}
	for word, want := range map[string]string{
		"heartbeat": "heartbeat", "haertbeat": "heartbeat", "heart-beat": "heartbeat", "heartbeat_interval": "heartbeat",
		"Origins": "origins", "origin": "origins", "limit": "limits", "nmae": "name", "hand": "handshake",
		"": "", "x": "", "colour": "", "connect": "", "channel": "", "pat": "path", "at": "",
	} {
		if got := guards.Nearest(word, known); got != want {
			t.Errorf("nearest to %q: %q, want %q", word, got, want)
		}
	}
}

func TestResponsesEndBeforeTheServerCutsThem(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{
		0:                      0, // no limit
		500 * time.Millisecond: 250 * time.Millisecond,
		3 * time.Second:        2 * time.Second,
		time.Minute:            54 * time.Second,
	} {
		if got := pushit.ResponseTime(limit); got != want {
			t.Errorf("limit %v: responses end after %v, want %v", limit, got, want)
		}
	}
}
