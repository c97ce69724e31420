// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"log/slog"
	"time"
)

// logEnd logs that an agent is gone, sampled. The line must not contain credentials or a
// fallback session's id, which would give access to the session.
func logEnd(a *Agent, log *slog.Logger, agentID, reason string, code CloseCode, lasted time.Duration) {
	ctx := context.Background()
	if !log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	left, ok := a.hub.ends.Take(time.Now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("agent", a.UUID()), slog.String("agent_id", agentID), slog.String("user", a.User()),
		slog.String("transport", a.opening.Transport()), slog.String("remote_ip", a.opening.RemoteIP().String()),
		slog.Duration("duration", lasted), slog.Int64("bytes_received", a.in.bytes), slog.Int64("bytes_sent", a.sent),
		slog.String("reason", reason), slog.Int("code", int(code)),
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "agent gone", attrs...)
}

// logFailure logs that a publish has failed, sampled: a full disk fails all of them.
func (h *Hub) logFailure(log *slog.Logger, m *Message, err error, attrs ...slog.Attr) {
	left, ok := h.failures.Take(time.Now())
	if !ok {
		return
	}
	attrs = append(attrs, slog.String("channel", m.Channel), slog.String("uuid", m.UUID), slog.Any("error", err))
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	log.LogAttrs(context.Background(), slog.LevelError, "publishing failed", attrs...)
}
