// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

func TestHeaderOfEverySize(t *testing.T) {
	for _, tc := range []struct {
		size int
		want string
	}{
		{0, "\x81\x00"},
		{1, "\x81\x01"},
		{125, "\x81\x7d"},
		{126, "\x81\x7e\x00\x7e"},
		{65535, "\x81\x7e\xff\xff"},
		{65536, "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"},
	} {
		if got := appendHeader(nil, opText, tc.size); string(got) != tc.want {
			t.Errorf("appendHeader(%d) = % x, want % x", tc.size, got, tc.want)
		}
		h, n, err := parseHeader(rawFrame(opText, true, tc.size, ""))
		if err != nil || n != len(tc.want)+4 || h.size != uint64(tc.size) || h.op != opText || !h.fin {
			t.Errorf("parseHeader of size %d = %+v, %d, %v", tc.size, h, n, err)
		}
	}
}

func TestHeaderBreakingRules(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		want error
	}{
		{"RSV1 of a ping", "\xc9\x80", errReserved},
		{"RSV1 of a continuation", "\xc0\x80", errReserved},
		{"RSV2", "\xa1\x80", errReserved},
		{"RSV3", "\x91\x80", errReserved},
		{"HTTP", "GET / HTTP/1.1\r\n", errReserved},
		{"opcode 3", "\x83\x80", errOpcode},
		{"opcode 7", "\x87\x80", errOpcode},
		{"opcode 11", "\x8b\x80", errOpcode},
		{"opcode 15", "\x8f\x80", errOpcode},
		{"unmasked", "\x81\x05hello", errUnmasked},
		{"ping of 126", "\x89\xfe", errBigControl},
		{"close of 127", "\x88\xff", errBigControl},
		{"fragmented ping", "\x09\x80", errBigControl},
		{"125 in two bytes", "\x81\xfe\x00\x7d", errLength},
		{"65535 in eight bytes", "\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", errLength},
		{"negative", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", errLength},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, err := parseHeader([]byte(tc.in)); !errors.Is(err, tc.want) {
				t.Errorf("parseHeader = %v, want %v", err, tc.want)
			}
		})
	}
	for n := range 13 {
		whole := rawFrame(opText, true, 70000, "")
		if _, got, err := parseHeader(whole[:n]); got != 0 || err != nil {
			t.Errorf("parseHeader of the first %d bytes = %d, %v; want it to wait", n, got, err)
		}
	}
}

func TestUnmaskAtAnyOffset(t *testing.T) {
	mask := [4]byte{1, 2, 4, 8}
	for n := range 40 {
		plain := []byte(strings.Repeat("payload", 6))[:n]
		want := bytes.Clone(plain)
		for i := range want {
			want[i] ^= mask[i%4]
		}
		for cut := range n + 1 {
			got := bytes.Clone(plain)
			unmask(got[:cut], mask, 0)
			unmask(got[cut:], mask, uint64(cut))
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes cut at %d: %x, want %x", n, cut, got, want)
			}
		}
	}
}

func TestCloseCodes(t *testing.T) {
	for code, want := range map[hub.CloseCode]bool{
		0: false, 999: false, 1000: true, 1001: true, 1003: true, 1004: false, 1005: false, 1006: false,
		1007: true, 1014: true, 1015: false, 1100: false, 2999: false, 3000: true, 4999: true, 5000: false, 65535: false,
	} {
		if got := validCloseCode(code); got != want {
			t.Errorf("validCloseCode(%d) = %v", code, got)
		}
	}
}

func TestCloseFrameIsAControlFrame(t *testing.T) {
	if got, want := string(appendClose(nil, 0, "never sent")), "\x88\x00"; got != want {
		t.Errorf("without a code: %q, want %q", got, want)
	}
	if got, want := string(appendClose(nil, hub.CloseSlow, "slow")), "\x88\x06\x11\x4eslow"; got != want {
		t.Errorf("with one: %q, want %q", got, want)
	}
	got := appendClose(nil, hub.CloseSlow, strings.Repeat("ü", 100))
	if want := strings.Repeat("ü", 61); string(got[4:]) != want || len(got) > 2+maxControl {
		t.Errorf("a long reason: %d bytes, %q", len(got), got[4:])
	}
}
