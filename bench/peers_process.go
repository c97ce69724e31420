// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A peerServer is a running peer: a process, and those that it has started.
type peerServer struct {
	at  target
	pid int

	dir    string // everything it reads and writes; removed by stop
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended; then err is set
	err    error
}

// startPeer starts a program that listens on a free address. command returns the program; it
// may write a configuration to dir.
func startPeer(ctx context.Context, command func(dir, addr string) (*exec.Cmd, error)) (_ *peerServer, err error) {
	s := &peerServer{exited: make(chan struct{})}
	if s.dir, err = os.MkdirTemp("", "pushit-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.at.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	cmd, err := command(s.dir, s.at.addr)
	if err != nil {
		return nil, err
	}
	if err := s.run(cmd); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = until(within, often, "waiting for the server", func() (bool, error) {
		conn, err := net.DialTimeout("tcp", s.at.addr, time.Second)
		if err != nil {
			return false, s.alive() // not yet
		}
		return true, conn.Close()
	})
	if err != nil {
		return nil, errors.Join(err, s.complaint())
	}
	return s, nil
}

func (s *peerServer) run(cmd *exec.Cmd) error {
	output, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }() // the process has its own
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, output, output
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir)
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.pid = cmd, cmd.Process.Pid
	go func() {
		s.err = cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// processorTime returns the processor time of all processes of the peer.
func (s *peerServer) processorTime() (time.Duration, error) { return treeTime(s.pid) }

// memory returns the resident memory of all processes of the peer. Memory that they share
// counts for each.
func (s *peerServer) memory() (int64, error) { return treeMemory(s.pid) }

// alive returns why the process has ended, if it has.
func (s *peerServer) alive() error {
	select {
	case <-s.exited:
		return errors.Join(errors.New("the server has ended"), s.err)
	default:
		return nil
	}
}

// complaint returns the end of what the process has printed, if it has.
func (s *peerServer) complaint() error {
	text, err := os.ReadFile(filepath.Join(s.dir, "output"))
	if text = bytes.TrimSpace(text); err != nil || len(text) == 0 {
		return nil
	}
	return fmt.Errorf("the server has printed: %s", text[max(0, len(text)-2000):])
}

// stop ends the processes and removes their files.
func (s *peerServer) stop() {
	if s.cmd != nil {
		_ = signalGroup(s.pid, syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(peersStop):
		}
		_ = signalGroup(s.pid, syscall.SIGKILL) // what is left of the group
		<-s.exited
	}
	_ = os.RemoveAll(s.dir)
}

// peersStop is how long a peer may take to end in order. Nothing is measured then.
const peersStop = 3 * time.Second
