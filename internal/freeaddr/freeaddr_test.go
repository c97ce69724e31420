// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package freeaddr

import (
	"net"
	"strconv"
	"testing"
)

func TestOn(t *testing.T) {
	seen := make(map[string]bool)
	for range 200 {
		addr, err := On("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		seen[addr] = true
		host, text, _ := net.SplitHostPort(addr)
		if port, _ := strconv.Atoi(text); host != "127.0.0.1" || port < 10_000 || port >= 32_768 {
			t.Errorf("systems give %s to others", addr)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := try(l.Addr().String()); err == nil {
		t.Error("an address is free where somebody listens")
	}
	if addr, err := On("192.0.2.1"); err == nil { // of no machine: RFC 5737
		t.Errorf("%s is an address of this machine", addr)
	}
}
