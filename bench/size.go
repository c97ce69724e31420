// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// maxNATSSize is the most that the client of NATS may add to the program, in bytes. All users
// of pushit have it, but few connect machines.
const maxNATSSize = 2_000_000

// natsFiles are the files that make the broker nats a part of the program.
var natsFiles = []string{"nats.go", "nats_caddyfile.go", "nats_embedded.go"}

// runSize measures how large the program is, as it is delivered, and how much of that is the
// client of NATS: it builds the program without it, too.
func runSize(ctx context.Context, r *report, _ options) error {
	dir, err := os.MkdirTemp("", "pushit-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	brokers, err := filepath.Abs("../brokers")
	if err != nil {
		return err
	}
	without := struct{ Replace map[string]string }{make(map[string]string)}
	for _, name := range natsFiles {
		path := filepath.Join(brokers, name)
		if _, err := os.Stat(path); err != nil {
			return err
		}
		without.Replace[path] = "" // there is no such file
	}
	text, err := json.Marshal(without)
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return err
	}
	whole, err := sizeOf(ctx, filepath.Join(dir, "whole"))
	if err != nil {
		return err
	}
	less, err := sizeOf(ctx, filepath.Join(dir, "less"), "-overlay", overlay)
	if err != nil {
		return err
	}
	r.info("bytes", whole, "the program, stripped")
	r.atMost(maxNATSSize, "bytes", whole-less, "of these for the client of NATS")
	return nil
}

// sizeOf builds the program, and returns its size.
func sizeOf(ctx context.Context, path string, flags ...string) (float64, error) {
	args := append([]string{"build", "-C", "..", "-ldflags=-s -w", "-trimpath", "-o", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/caddy")...) //nolint:gosec // G204: a folder made here
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()), nil
}
