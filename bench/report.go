// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

// A report prints figures and counts those over their limit.
type report struct {
	w        io.Writer
	failures int
}

func newReport(w io.Writer) *report { return &report{w: w} }

// header prints what was measured, and on what.
func (r *report) header(ctx context.Context) {
	fmt.Fprintf(r.w, "commit %s\n", commit(ctx))
	fmt.Fprintf(r.w, "machine %d cores, %s, %s/%s\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if binary := os.Getenv("PUSHIT_CADDY"); binary != "" {
		fmt.Fprintln(r.w, "server PUSHIT_CADDY, as it was built by others")
	}
}

func (r *report) section(name string) { fmt.Fprintf(r.w, "\n%s\n", name) }

// atMost prints a figure that has a limit.
func (r *report) atMost(limit float64, unit string, value float64, format string, args ...any) {
	r.verdict(value <= limit, fmt.Sprintf(format, args...), value, unit, "at most "+number(limit))
}

// atLeast prints a figure that has a limit below.
func (r *report) atLeast(limit float64, unit string, value float64, format string, args ...any) {
	r.verdict(value >= limit, fmt.Sprintf(format, args...), value, unit, "at least "+number(limit))
}

// exactly prints a figure that must have one value.
func (r *report) exactly(want float64, unit string, value float64, name string) {
	r.verdict(value == want, name, value, unit, number(want))
}

func (r *report) verdict(ok bool, name string, value float64, unit, limit string) {
	word := "PASS"
	if !ok {
		word = "FAIL"
		r.failures++
	}
	fmt.Fprintf(r.w, "%s %s: %s %s (limit %s)\n", word, name, number(value), unit, limit)
}

// info prints a figure without a limit.
func (r *report) info(unit string, value float64, format string, args ...any) {
	fmt.Fprintf(r.w, "INFO %s: %s %s\n", fmt.Sprintf(format, args...), number(value), unit)
}

// note prints a sentence.
func (r *report) note(format string, args ...any) {
	fmt.Fprintf(r.w, "     %s\n", fmt.Sprintf(format, args...))
}

// number prints three digits behind the point at most, and no zeros at the end.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'f', 3, 64)
	s = string(bytes.TrimRight([]byte(s), "0"))
	return string(bytes.TrimRight([]byte(s), "."))
}

// commit names the commit of the checkout, and says if files differ from it.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := string(bytes.TrimSpace(out))
	if out, err = exec.CommandContext(ctx, "git", "status", "--porcelain").Output(); err != nil || len(out) > 0 {
		name += " dirty"
	}
	return name
}
