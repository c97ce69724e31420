// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hubpool

import (
	"crypto/sha256"
	"fmt"
	"log/slog"

	"github.com/push-it/pushit/brokers"
	"github.com/push-it/pushit/hub"
)

// An Engine is what a configuration says about the other machines of a hub.
type Engine struct {
	brokers.Module
	Sum         [sha256.Size]byte // of its JSON: endpoints of one hub must have the same
	MessageSize int
	Log         *slog.Logger
}

// settings returns the Settings of the hub's Broker. The caller holds h.mu.
func (e *Engine) settings(h *Hub) brokers.Settings {
	return brokers.Settings{Hub: h.Name(), Keep: h.logs.keep, MessageSize: e.MessageSize, Log: e.Log}
}

// ConnectBy says how u's configuration connects the hub with other machines. The hub connects
// when no older configuration needs it where it is; errors are found while the configuration
// is loaded, as far as that is possible. Without a call there are no other machines.
func (u *Use) ConnectBy(e *Engine, place string) error {
	h := u.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.logs.wanted[u.key.generation]; ok {
		switch {
		case w.engine == nil:
			return errFileAndBroker(h.Name(), place, w.place)
		case w.engine.Sum != e.Sum:
			return fmt.Errorf("two endpoints of the hub %q, in %s and in %s, have different brokers. The broker belongs to the hub: write the same in both, or only in one",
				h.Name(), min(w.place, place), max(w.place, place))
		}
		return nil
	}
	w := wantedLog{engine: e, place: place, log: e.Log}
	if onlyValidates() {
		return nil
	}
	if h.logs.engine != nil {
		if err := e.Check(h.logs.engine, e.settings(h)); err != nil {
			return err
		}
		return h.wantLocked(u, w)
	}
	if len(h.logs.wanted) > 0 || h.hasOtherLocked(u) { // it is used later, and a mistake must be found now
		if err := e.Check(nil, e.settings(h)); err != nil {
			return err
		}
	}
	b, err := e.Open(e.settings(h))
	if err != nil {
		return err
	}
	w.open = b
	return h.wantLocked(u, w)
}

// hasOtherLocked reports whether another configuration than u's has the hub.
func (h *Hub) hasOtherLocked(u *Use) bool {
	for key := range h.uses {
		if key.generation != u.key.generation {
			return true
		}
	}
	return false
}

// Keep says what an endpoint of the hub needs of its log. Only an engine must know: other logs
// keep what the hub keeps.
func (u *Use) Keep(rule hub.HistoryRule) {
	h := u.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs.keep = h.logs.keep.With(rule)
	if keeper, ok := h.logs.engine.(brokers.Keeper); ok {
		keeper.Keep(h.logs.keep)
	}
}

// errFileAndBroker says that a hub has both. one and other are the places of the two.
func errFileAndBroker(name, broker, file string) error {
	return fmt.Errorf("the hub %q has a broker, in %s, and a history file, in %s. The broker keeps the messages of all machines: remove file", name, broker, file)
}
