// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package natsserver

import (
	"os"
	"os/exec"
	"syscall"
)

// endWithParent ends the process with the test, also if that is killed.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func hang(p *os.Process, hung bool) error {
	if hung {
		return p.Signal(syscall.SIGSTOP)
	}
	return p.Signal(syscall.SIGCONT)
}
