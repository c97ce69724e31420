// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package doctable reads the tables of Markdown documents. Tests compare them with the
// code that they describe.
package doctable

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Read returns the text of a document with line feeds as line ends.
func Read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // G304: the test names it
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// Rows returns the rows of the tables below a heading such as "## Options", up to the next
// heading of the same level or a higher one, split into cells. It skips rows whose first cell is not code.
func Rows(t testing.TB, path, heading string) (rows [][]string) {
	t.Helper()
	_, section, ok := strings.Cut("\n"+Read(t, path), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no %q", path, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	for ; len(level) > 1; level = level[1:] { // a single # may begin a comment in an example
		section, _, _ = strings.Cut(section, "\n"+level+" ")
	}
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		line = strings.ReplaceAll(strings.TrimSpace(line), "| |", "|  |") // a cell may be empty
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

var code = regexp.MustCompile("`([^`]+)`")

// Codes returns the code in a cell.
func Codes(cell string) (codes []string) {
	for _, m := range code.FindAllStringSubmatch(cell, -1) {
		codes = append(codes, m[1])
	}
	return codes
}
