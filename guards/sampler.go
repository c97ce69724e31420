// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// linesPerSecond bounds what a policy logs of refusals by one guard at one level: an
// operator learns what is wrong from the first few, and a flood of denials must
// not fill a disk.
const linesPerSecond = 10

// A sampler logs so many lines a second, and how many it left out.
type sampler struct {
	log *slog.Logger

	mu      sync.Mutex          // guards the following; not held while logging
	buckets map[string]*sampled // by what is logged about: gates and guards, of which there are few
}

type sampled struct {
	second int64
	lines  int
	left   int // left out since the last line
}

func newSampler(log *slog.Logger) *sampler {
	return &sampler{log: log, buckets: make(map[string]*sampled)}
}

func (s *sampler) take(about string) (leftOut int, ok bool) {
	now := time.Now().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[about]
	if b == nil {
		b = new(sampled)
		s.buckets[about] = b
	}
	if b.second != now {
		b.second, b.lines = now, 0
	}
	if b.lines >= linesPerSecond {
		b.left++
		return 0, false
	}
	b.lines++
	leftOut, b.left = b.left, 0
	return leftOut, true
}

// refused logs a refusal, at error if it is a failure; about says of what, so that
// a flood of one thing hides no other.
func (s *sampler) refused(level slog.Level, about string, attrs []slog.Attr) {
	ctx := context.Background()
	if !s.log.Enabled(ctx, level) {
		return
	}
	left, ok := s.take(level.String() + " " + about)
	if !ok {
		return
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	if level == slog.LevelInfo {
		s.log.LogAttrs(ctx, level, "denied", attrs...)
		return
	}
	s.log.LogAttrs(ctx, level, "could not decide", attrs...)
}
