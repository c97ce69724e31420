// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"log/slog"
	"time"

	lines "github.com/push-it/pushit/internal/sampler"
)

// A sampler logs refusals, and how many lines it left out.
type sampler struct {
	log   *slog.Logger
	lines lines.Keyed // by level, gate and guard, which the configuration names
}

func newSampler(log *slog.Logger) *sampler { return &sampler{log: log} }

// refused logs a refusal, at error if it is a failure; about says of what, so that
// a flood of one thing hides no other.
func (s *sampler) refused(level slog.Level, about string, attrs []slog.Attr) {
	ctx := context.Background()
	if !s.log.Enabled(ctx, level) {
		return
	}
	left, ok := s.lines.Take(level.String()+" "+about, time.Now())
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
