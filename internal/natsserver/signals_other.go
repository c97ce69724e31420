// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package natsserver

import (
	"errors"
	"os"
	"os/exec"
)

func endWithParent(*exec.Cmd) {}

func hang(*os.Process, bool) error { return errors.New("no process can be stopped on this system") }
