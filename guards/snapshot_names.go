// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

// A SnapshotReader is a guard that names placeholders whose values have to be looked
// up when a session opens.
type SnapshotReader interface {
	// ReadsSnapshot returns their names, without braces.
	ReadsSnapshot() []string
}

// SnapshotNames returns what the guards name of the request that opens a session,
// for [Env.Snapshot].
func SnapshotNames(guards []NamedGuard) (names []string) {
	walk(guards, func(g NamedGuard) {
		if reader, ok := g.Guard.(SnapshotReader); ok {
			names = append(names, reader.ReadsSnapshot()...)
		}
	})
	return names
}
