// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/push-it/pushit/hub"
)

// TestFullFileSystem is TestFullDisk on a small file system of its own, in a process with
// mounts of its own.
func TestFullFileSystem(t *testing.T) {
	const mark = "PUSHIT_TEST_MOUNT"
	if dir := os.Getenv(mark); dir != "" {
		onSmallFileSystem(t, dir)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullFileSystem$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "cannot mount") {
		t.Skip("this user may not mount a file system")
	}
	if err != nil || !strings.Contains(string(out), "it goes on") {
		t.Errorf("%v\n%s", err, out)
	}
}

func onSmallFileSystem(t *testing.T, dir string) {
	t.Helper()
	err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"))
	if err != nil {
		t.Log("cannot mount:", err)
		return
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "h")
	b := opened(t, Options{Path: path})
	r := started(t, b)
	text := strings.Repeat("x", 10_000)
	acknowledged := make(map[string]bool)
	refused := 0
	for n := 0; refused < 20; n++ {
		uuid := fmt.Sprint(n)
		_, err := b.Publish(t.Context(), hub.NewMessage("news", uuid, []byte(`"`+text+`"`)).By("test").Keep(hub.HistoryRule{Count: 1 << 20, TTL: 1 << 40}))
		switch {
		case err == nil:
			acknowledged[uuid] = true
		case errors.Is(err, syscall.ENOSPC) && !errors.Is(err, hub.ErrUnknown):
			refused++
		default:
			t.Fatalf("publish %d: %v", n, err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	awaitPublish(t, b, "room")
	acknowledged["room"] = true
	_ = b.Close()
	again := started(t, opened(t, Options{Path: path}))
	for uuid := range acknowledged {
		if again.uuids[uuid] != 1 {
			t.Errorf("%s was acknowledged and is there %d times", uuid, again.uuids[uuid])
		}
	}
	if len(again.entries) != len(acknowledged) || len(r.entries) != len(acknowledged) || again.epoch != r.epoch {
		t.Errorf("%d entries, %d before, %d acknowledged", len(again.entries), len(r.entries), len(acknowledged))
	}
	if !t.Failed() {
		t.Logf("it goes on: %d acknowledged, %d refused", len(acknowledged), refused)
	}
}
