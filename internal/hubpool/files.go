// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hubpool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/broker/disk"
)

// A File is where a configuration has the history of a hub.
type File struct {
	Path string        // absolute; "" for memory
	Sync time.Duration // see disk.Options
}

// ExampleFile is a path that File.Check accepts.
const ExampleFile = "/var/lib/caddy/history.db"

// The range of File.Sync, unless it is 0.
const (
	minSync = 10 * time.Millisecond // below it `always` costs no more
	maxSync = time.Minute
)

// Check returns what is wrong with f as it is written. The path may begin with a
// placeholder.
func (f File) Check() error {
	switch {
	case f.Path == "" && f.Sync != 0:
		return errors.New("history has sync, but no file: write file <path>, or leave sync out")
	case f.Path != "" && !filepath.IsAbs(f.Path) && !strings.HasPrefix(f.Path, "{"):
		return fmt.Errorf("history: the path of file must be absolute, such as %s, not %s", ExampleFile, f.Path)
	case f.Sync != 0:
		return CheckSync(f.Sync)
	}
	return nil
}

// CheckSync returns what is wrong with a File.Sync that is not `always`.
func CheckSync(d time.Duration) error {
	if d < minSync || d > maxSync {
		return fmt.Errorf("sync must be between 10ms and 1m, not %s", d)
	}
	return nil
}

// logs has the log of a hub, and those that configurations want. All fields are guarded by
// Hub.mu.
type logs struct {
	now    File
	broker *disk.Broker    // of now, nil for memory
	engine hub.Broker      // connects the hub with other machines; nil if there are none
	keep   hub.HistoryRule // what all configurations so far need of engine
	wanted map[<-chan struct{}]wantedLog
}

// A wantedLog is the log that one configuration wants: an engine, a file, or memory.
type wantedLog struct {
	file   File
	engine *Engine
	place  string     // of the endpoint that says so, for errors
	open   hub.Broker // it was opened, but is not used yet; nil if it is used, or for memory
	log    *slog.Logger
}

// claims has the hub of each file that this process has open.
var claims = struct {
	sync.Mutex
	byPath map[string]string
}{byPath: make(map[string]string)}

// openFile opens a file for the hub of a name.
func openFile(name string, f File, log *slog.Logger) (*disk.Broker, error) {
	path := f.Path
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	claims.Lock()
	defer claims.Unlock()
	if other, ok := claims.byPath[path]; ok {
		if other == name {
			return nil, fmt.Errorf("the history file %s is being closed: load the configuration again", f.Path)
		}
		return nil, fmt.Errorf("the history file %s already belongs to the hub %q, and each hub needs a file of its own: write another file. If this hub was %q before, stop the server to rename it", f.Path, other, other)
	}
	b, err := disk.Open(disk.Options{Path: path, Sync: f.Sync, Log: log, Closed: func() {
		claims.Lock()
		defer claims.Unlock()
		delete(claims.byPath, path)
	}})
	if err != nil {
		return nil, err
	}
	claims.byPath[path] = name
	return b, nil
}

// KeepIn says where u's configuration keeps the history of the hub. It opens the file, so that
// errors are found while the configuration is loaded. The hub moves there when no older
// configuration needs the old place. Without a call, the history is in memory.
func (u *Use) KeepIn(f File, place string, log *slog.Logger) error {
	h := u.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.logs.wanted[u.key.generation]; ok {
		if w.engine != nil {
			return errFileAndBroker(h.Name(), w.place, place)
		}
		if w.file != f {
			one, other := describe(w.file), describe(f)
			return fmt.Errorf("two endpoints of the hub %q, in %s and in %s, have different history files: %s and %s. The file belongs to the hub: write the same in both, or only in one",
				h.Name(), min(w.place, place), max(w.place, place), min(one, other), max(one, other))
		}
		return nil
	}
	w := wantedLog{file: f, place: place, log: log}
	if f.Path != h.logs.now.Path || h.logs.engine != nil {
		if onlyValidates() {
			return checkDirectory(f.Path)
		}
		b, err := openFile(h.Name(), f, log)
		if err != nil {
			return err
		}
		w.open = b
	}
	return h.wantLocked(u, w)
}

// wantLocked notes what u's configuration wants.
func (h *Hub) wantLocked(u *Use, w wantedLog) error {
	if h.logs.wanted == nil {
		h.logs.wanted = make(map[<-chan struct{}]wantedLog)
	}
	h.logs.wanted[u.key.generation] = w
	return h.moveLogLocked()
}

// onlyValidates reports whether this process only looks at a configuration, and serves
// nothing. Then it must not open the file: the server may have it open, and the server could
// not write a file that another user has created. Nor must it be a node of the hub.
func onlyValidates() bool {
	return len(os.Args) > 1 && slices.Contains([]string{"validate", "adapt", "pushit"}, os.Args[1])
}

// checkDirectory says when a file cannot be made because its directory is not there.
func checkDirectory(path string) error {
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return fmt.Errorf("the history file %s: its directory is not there: create it, and let the server write to it", path)
	}
	return nil
}

func describe(f File) string {
	if f.Sync == 0 {
		return f.Path + " with sync always"
	}
	return fmt.Sprintf("%s with sync %v", f.Path, f.Sync)
}

// generationGoneLocked forgets the wish of a configuration without endpoints.
func (h *Hub) generationGoneLocked(generation <-chan struct{}) error {
	for key := range h.uses {
		if key.generation == generation {
			return nil
		}
	}
	var closing error
	if w := h.logs.wanted[generation]; w.open != nil { // it has failed to load
		closing = w.open.Close()
	}
	delete(h.logs.wanted, generation)
	return errors.Join(closing, h.moveLogLocked())
}

// moveLogLocked moves the hub's log to where the only remaining configuration keeps it. While
// there are two, nothing moves: the newer one may still fail to load.
func (h *Hub) moveLogLocked() error {
	var generation <-chan struct{}
	for key := range h.uses {
		if generation != nil && key.generation != generation {
			return nil
		}
		generation = key.generation
	}
	if generation == nil || Leaving() && (h.logs.broker != nil || h.logs.engine != nil) {
		return nil // the hub closes
	}
	w := h.logs.wanted[generation]
	switch {
	case w.engine != nil && h.logs.engine != nil:
		return w.engine.Adopt(h.logs.engine, w.engine.settings(h))
	case w.engine == nil && h.logs.engine == nil && w.file == h.logs.now:
		return nil
	case w.engine == nil && h.logs.engine == nil && w.file.Path == h.logs.now.Path:
		h.logs.broker.SetSync(w.file.Sync)
		h.logs.now = w.file
		return nil
	}
	next := w.open
	switch {
	case next != nil:
	case w.engine != nil: // it has failed before
		var err error
		if next, err = w.engine.Open(w.engine.settings(h)); err != nil {
			return err
		}
	default:
		next = hub.NewMemoryBroker()
	}
	h.logs.now, h.logs.broker, h.logs.engine = w.file, nil, nil
	if w.engine != nil {
		h.logs.engine = next
	} else {
		h.logs.broker, _ = next.(*disk.Broker)
	}
	w.open = nil
	if w.file.Path != "" || w.engine != nil {
		h.logs.wanted[generation] = w
	}
	err := h.Swap(next)
	if err != nil && (h.logs.broker != nil || h.logs.engine != nil) {
		h.logs.now, h.logs.broker, h.logs.engine = File{}, nil, nil
	}
	return err
}
