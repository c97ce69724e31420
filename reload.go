// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/transport"
)

// An admission is what was looked at of the requests that opened sessions, beside
// the gates. It implements hub.Admission. It is immutable.
type admission struct {
	listed    []string // origins, as they are configured
	ways      []string // transports that are served
	origins   *transport.Origins
	namespace string
	env       *guards.Env
}

// What a session is cut with that a new configuration has no place for.
var (
	errForeign = &hub.Refusal{Code: hub.CodeDenied, Reason: "pages of this origin may not use this endpoint any more"}
	errWay     = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "this transport is not served any more; come back by another"}
	errOlder   = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "the rules ask for more now than is known of this session; open a new one"}
	errMoved   = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "this session was opened in another space than it would be now; open a new one"}
)

// Stays implements hub.Admission: who was let in under other settings is looked at
// again by these.
func (ad *admission) Stays(a *hub.Agent, before hub.Admission) *hub.Refusal {
	old, ok := before.(*admission)
	if !ok {
		old = new(admission)
	}
	if !slices.Equal(old.listed, ad.listed) && !ad.origins.Admit(a.Opening()) {
		return errForeign
	}
	if !slices.Equal(old.ways, ad.ways) && !slices.Contains(ad.ways, a.Opening().Transport) {
		return errWay
	}
	if !guards.SnapshotHas(a.Opening(), ad.env.Snapshot) {
		return errOlder
	}
	if old.namespace != ad.namespace && !ad.isIn(a) {
		return errMoved
	}
	return nil
}

// waysIn are the transports that h serves.
func (h *Handler) waysIn() []string {
	if h.Transports == nil {
		return transport.DefaultTransports
	}
	return h.Transports
}

// isIn reports whether a session that was opened now, by the request that a's was
// opened with, would have the same namespace. What cannot be told of that request
// any more is taken for another.
func (ad *admission) isIn(a *hub.Agent) bool {
	var now string
	if ad.namespace != "" {
		value, ok := guards.Remembered(a, ad.env, strings.Trim(ad.namespace, "{}"))
		if !ok || value == "" {
			return false
		}
		now = value
	}
	return now == a.Opening().Namespace
}

// A reloading is what becomes of the agents of one endpoint when the configuration
// that it was in is gone.
type reloading struct {
	gone    bool     // there is none of that name and path any more
	changed []string // settings
	gates   []string
	reloads []*hub.Reload
	log     *slog.Logger // of the configuration that has come
}

// reloadingLocked says what a new configuration has changed of what was in u. It
// returns nil when u is of one that has failed to load: nothing has changed then.
// The caller holds s.mu.
func (s *sharedHub) reloadingLocked(u *use, last *Handler) *reloading {
	r := &reloading{reloads: u.reloads, log: last.env.Log}
	var next *use
	for key, other := range s.uses {
		if key.path == u.key.path && other != u && len(other.handlers) > 0 && (next == nil || other.order > next.order) {
			next = other
		}
	}
	if next == nil {
		r.gone, r.changed = true, []string{"the endpoint is gone"}
		return r
	}
	if next.order < u.order {
		return nil
	}
	h := next.handlers[len(next.handlers)-1]
	r.changed, r.gates, r.log = differing(u.settings, next.settings), h.gates.Changed(last.gates), h.env.Log
	return r
}

// tell logs what the reload has done, once it has.
func (r *reloading) tell() {
	began := time.Now()
	var all hub.Effects
	for _, one := range r.reloads {
		<-one.Done()
		e := one.Effects()
		all.Agents += e.Agents
		all.Asked += e.Asked
		all.Ended += e.Ended
		all.Cut += e.Cut
		all.Late += e.Late
	}
	level := slog.LevelInfo
	if len(r.changed)+len(r.gates)+all.Cut+all.Ended == 0 || r.gone && all.Agents == 0 {
		level = slog.LevelDebug
	}
	r.log.Log(context.Background(), level, "a new configuration holds for the agents",
		slog.Any("changed", r.changed), slog.Any("gates", r.gates),
		slog.Int("agents", all.Agents), slog.Int("asked", all.Asked), slog.Int("subscriptions_ended", all.Ended),
		slog.Int("agents_cut", all.Cut), slog.Int("unanswered", all.Late), slog.Duration("duration", time.Since(began)))
}

// Interface guards
var _ hub.Admission = (*admission)(nil)
