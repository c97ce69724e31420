// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"net"
)

func stampArrivals(net.Conn, *arrival) (net.Conn, error) { return nil, errors.ErrUnsupported }
