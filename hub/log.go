// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// endsPerSecond is how many agents that go a hub logs in a second: whoever looks
// for one finds it on a quiet day, and a reconnect storm fills no disk.
const endsPerSecond = 10

// A sampler lets so many lines through in a second. Its zero value is ready.
type sampler struct {
	mu     sync.Mutex // guards the following; no other lock is taken under it
	second int64
	lines  int
	left   int // left out since the last line
}

// take reports whether a line may be written, and how many have not been since
// the last.
func (s *sampler) take(now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if second := now.Unix(); second != s.second {
		s.second, s.lines = second, 0
	}
	if s.lines >= endsPerSecond {
		s.left++
		return 0, false
	}
	s.lines++
	leftOut, s.left = s.left, 0
	return leftOut, true
}

// logEnd logs that the agent is gone. Nothing it presented is in the line, nor
// what its transport calls the session.
func (a *Agent) logEnd(log *slog.Logger, agentID, reason string, code CloseCode, lasted time.Duration) {
	ctx := context.Background()
	if !log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	left, ok := a.hub.ends.take(time.Now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("agent", a.UUID()), slog.String("agent_id", agentID), slog.String("user", a.User()),
		slog.String("transport", a.opening.Transport), slog.String("remote_ip", a.opening.RemoteIP.String()),
		slog.Duration("duration", lasted), slog.Int64("bytes_received", a.received), slog.Int64("bytes_sent", a.sent),
		slog.String("reason", reason), slog.Int("code", int(code)),
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "agent gone", attrs...)
}
