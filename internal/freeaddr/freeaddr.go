// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package freeaddr finds addresses for the servers of tests and measurements, which start a
// little later.
package freeaddr

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// given has the addresses that On has returned.
var given sync.Map

// On returns an address of a host that is free for TCP and UDP. It returns each only once.
// Systems take ports from 32768 on for connections and for port 0. This one is below, so nobody
// gets it before its server listens, or while that restarts.
func On(host string) (addr string, err error) {
	for range 100 {
		addr = fmt.Sprintf("%s:%d", host, 10_000+rand.IntN(20_000)) //nolint:gosec // G404: a port is no secret
		if err = try(addr); err != nil {
			continue
		}
		if _, before := given.LoadOrStore(addr, true); !before {
			return addr, nil
		}
	}
	return "", fmt.Errorf("no port of %s is free: %w", host, err)
}

// try returns why a server could not listen at an address.
func try(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // nothing came
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	return p.Close()
}
