// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hubpool

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

// An Admission has the settings that decide about the request that opens a session,
// besides the gates. It implements hub.Admission. It is immutable.
type Admission struct {
	Listed     []string           // origins as they are configured
	Origins    *transport.Origins // parsed from Listed
	Transports []string           // the transports that are served
	Namespace  string             // a placeholder, or ""
	Env        *guards.Env
}

// Refusals of sessions that the new configuration does not admit.
var (
	errForeign = &hub.Refusal{Code: hub.CodeDenied, Reason: "pages of this origin may not use this endpoint any more"}
	errWay     = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "this transport is not served any more; reconnect with another one"}
	errOlder   = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "the new configuration needs data that this session does not have; open a new session"}
	errMoved   = &hub.Refusal{Code: hub.CodeUnavailable, Reason: "this session would have another namespace now; open a new session"}
)

// Stays implements hub.Admission. It checks settings that differ from those before, and that
// the session stores what the new guards need.
func (ad *Admission) Stays(a *hub.Agent, before hub.Admission) *hub.Refusal {
	old, ok := before.(*Admission)
	if !ok {
		old = new(Admission)
	}
	if !slices.Equal(old.Listed, ad.Listed) && !ad.Origins.Admit(a.Opening()) {
		return errForeign
	}
	if !slices.Equal(old.Transports, ad.Transports) && !slices.Contains(ad.Transports, a.Opening().Transport()) {
		return errWay
	}
	if !guards.SnapshotHas(a.Opening(), ad.Env.Snapshot) {
		return errOlder
	}
	if old.Namespace != ad.Namespace && !ad.isIn(a) {
		return errMoved
	}
	return nil
}

// isIn reports whether the session of a still belongs to its namespace. It does not if
// the session did not store the placeholder's value.
func (ad *Admission) isIn(a *hub.Agent) bool {
	var now string
	if ad.Namespace != "" {
		value, ok := guards.Remembered(a, ad.Env, strings.Trim(ad.Namespace, "{}"))
		if !ok || value == "" {
			return false
		}
		now = value
	}
	return now == a.Opening().Namespace()
}

// A reloaded describes the effects of a reload on the agents of one Use.
type reloaded struct {
	gone    bool     // the new configuration does not have the endpoint
	changed []string // names of settings
	gates   []string
	reloads []*hub.Reload
	to      *slog.Logger // the log of the new configuration
}

// reloadedLocked compares u with the newest Use of the same path. e is the last endpoint
// of u. If u is newer, it returns nil: then the configuration of u failed to load, and
// nothing has changed. The caller holds the hub's mu.
func (u *Use) reloadedLocked(e *Endpoint) *reloaded {
	r := &reloaded{reloads: u.reloads, to: e.Log}
	var next *Use
	for key, other := range u.hub.uses {
		if key.path == u.key.path && other != u && len(other.endpoints) > 0 && (next == nil || other.order > next.order) {
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
	latest := next.endpoints[len(next.endpoints)-1]
	r.changed, r.gates, r.to = differing(u.first.Settings, next.first.Settings), latest.Gates.Changed(e.Gates), latest.Log
	return r
}

// log waits for the reload and logs its effects.
func (r *reloaded) log() {
	began := time.Now()
	var sum hub.Effects
	for _, one := range r.reloads {
		<-one.Done()
		e := one.Effects()
		sum.Agents += e.Agents
		sum.Asked += e.Asked
		sum.Ended += e.Ended
		sum.Cut += e.Cut
		sum.Late += e.Late
	}
	level := slog.LevelInfo
	if len(r.changed)+len(r.gates)+sum.Cut+sum.Ended == 0 || r.gone && sum.Agents == 0 {
		level = slog.LevelDebug
	}
	r.to.Log(context.Background(), level, "agents moved to a new configuration",
		slog.Any("changed", r.changed), slog.Any("gates", r.gates),
		slog.Int("agents", sum.Agents), slog.Int("asked", sum.Asked), slog.Int("subscriptions_ended", sum.Ended),
		slog.Int("agents_cut", sum.Cut), slog.Int("unanswered", sum.Late), slog.Duration("duration", time.Since(began)))
}

// Interface guards
var _ hub.Admission = (*Admission)(nil)
