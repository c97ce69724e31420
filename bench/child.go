// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"os/exec"
)

// A child is a process of this program that runs another command. It ends when its
// standard input is closed.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func startChild(ctx context.Context, command, argument string) (c child, err error) {
	self, err := os.Executable()
	if err != nil {
		return c, err
	}
	c.cmd = exec.CommandContext(ctx, self, command, argument) //nolint:gosec // G204: this program itself
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return c, err
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return c, err
	}
	return c, c.cmd.Start()
}
