// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package transport

import (
	"syscall"
	"unsafe"
)

// What getsockopt(2) returns for SO_MEMINFO: see include/uapi/linux/sock_diag.h.
const (
	soMeminfo           = 55
	meminfoSendBuffer   = 3
	meminfoSendQueued   = 5
	meminfoCountAtLeast = 9
)

// roomOf returns how many bytes the system still takes for sending, together with what it
// needs for them itself; 0 if it does not say.
func roomOf(fd int) int {
	var info [meminfoCountAtLeast]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_SOCKET, soMeminfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // G103: the call keeps both, as the rules of package unsafe say
	if errno != 0 || size < uint32(unsafe.Sizeof(info)) {
		return 0
	}
	return int(info[meminfoSendBuffer]) - int(info[meminfoSendQueued])
}
