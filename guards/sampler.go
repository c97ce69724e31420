// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"log/slog"
	"time"

	lines "github.com/push-it/pushit/internal/sampler"
)

// A sampler logs refusals, but only a few lines a second. It also logs how many it left
// out.
type sampler struct {
	log   *slog.Logger
	lines lines.Keyed // by level, gate and guard, which come from the configuration
}

func newSampler(log *slog.Logger) *sampler { return &sampler{log: log} }

// refused logs a refusal; a failure is logged as an error. Refusals with different values
// of about are counted apart, so a flood of one kind does not hide the others.
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
