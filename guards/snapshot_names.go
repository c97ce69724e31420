// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"net/http"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

// A SnapshotReader is a guard that uses placeholders whose values must be looked up when
// a session opens.
type SnapshotReader interface {
	// ReadsSnapshot returns their names, without braces.
	ReadsSnapshot() []string
}

// SnapshotNames returns the names of the placeholders that the guards need from the
// request that opens a session, for [Env.Snapshot].
func SnapshotNames(guards []NamedGuard) (names []string) {
	walk(guards, func(g NamedGuard) {
		if reader, ok := g.Guard.(SnapshotReader); ok {
			names = append(names, reader.ReadsSnapshot()...)
		}
	})
	return names
}

// Snapshot looks up the placeholders for the request that opens a session. The result
// is for [hub.Opening.Values].
func Snapshot(r *http.Request, names []string) (string, error) {
	return placeholder.Snapshot(r, names)
}

// SnapshotHas reports whether every name was looked up when the session was opened. A
// name that had no value then counts as looked up.
func SnapshotHas(o *hub.Opened, names []string) bool { return placeholder.WasLookedUp(o, names) }

// NeedsSnapshot reports whether the value of a placeholder must be looked up when a
// session opens, because it is unknown afterwards. The error says that it is unknown
// even then, or that Caddy has no such placeholder.
func NeedsSnapshot(name string) (bool, error) { return placeholder.MustLookUp(name) }
