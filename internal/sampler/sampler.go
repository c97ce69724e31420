// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package sampler limits how many log lines one kind of event writes. An operator
// learns what is wrong from the first few lines; a flood must not fill a disk.
package sampler

import (
	"sync"
	"time"
)

// LinesPerSecond is how many lines a Sampler lets through in each second.
const LinesPerSecond = 10

// A Sampler lets LinesPerSecond lines through in each second of the wall clock. Its
// zero value is ready to use. It may be used concurrently.
type Sampler struct {
	mu     sync.Mutex // guards the following; no other lock is taken under it
	second int64
	lines  int // lines in that second
	left   int // lines left out since the last line
}

// Take reports whether a line may be written now, and how many lines were left out
// since the last one.
func (s *Sampler) Take(now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if second := now.Unix(); second != s.second {
		s.second, s.lines = second, 0
	}
	if s.lines >= LinesPerSecond {
		s.left++
		return 0, false
	}
	s.lines++
	leftOut, s.left = s.left, 0
	return leftOut, true
}

// A Keyed has a Sampler for each key, so that a flood of one kind does not hide the other
// kinds. It never forgets a key, so use it only for keys from the configuration, never for
// keys from clients. Its zero value is ready to use. It may be used concurrently.
type Keyed struct {
	samplers sync.Map // string -> *Sampler
}

// Take is Sampler.Take for the Sampler of key.
func (k *Keyed) Take(key string, now time.Time) (leftOut int, ok bool) {
	s, known := k.samplers.Load(key)
	if !known {
		s, _ = k.samplers.LoadOrStore(key, new(Sampler))
	}
	return s.(*Sampler).Take(now) //nolint:forcetypeassert // nothing else is stored
}
