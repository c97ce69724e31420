// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import (
	"errors"
	"syscall"
)

func setReceiveBuffer(syscall.RawConn, int) error { return errors.ErrUnsupported }
