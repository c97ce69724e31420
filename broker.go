// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/brokers"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
)

var errFileAndBroker = errors.New("history has a file, but with a broker the messages of all machines are in its engine: remove file")

// checkBroker returns what is wrong with the broker of h beside its other settings.
func (h *Handler) checkBroker() error {
	if len(h.BrokerRaw) > 0 && h.History != nil && h.History.File != "" {
		return errFileAndBroker
	}
	return nil
}

// engine loads the broker of h, nil if it has none.
func (h *Handler) engine(ctx caddy.Context, log *slog.Logger) (*hubpool.Engine, error) {
	if len(h.BrokerRaw) == 0 {
		return nil, nil
	}
	e := &hubpool.Engine{Sum: sha256.Sum256(h.BrokerRaw), MessageSize: hub.Limits(h.Limits).WithDefaults().MessageSize, Log: log}
	loaded, err := ctx.LoadModule(h, "BrokerRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the broker: %w", err)
	}
	var ok bool
	if e.Module, ok = loaded.(brokers.Module); !ok {
		return nil, fmt.Errorf("the module %T is not a broker of pushit", loaded)
	}
	if d, ok := e.Module.(brokers.Described); ok {
		h.joinedBy = d.Describe()
	}
	return e, nil
}

// connect connects the hub with other machines, if h says so, and tells the engine what must
// be kept.
func (h *Handler) connect(e *hubpool.Engine) error {
	h.use.Keep(h.keep())
	if e == nil {
		return nil
	}
	return h.use.ConnectBy(e, h.site.place())
}

// keep returns the most that any channel of h keeps.
func (h *Handler) keep() (most hub.HistoryRule) {
	histories := []*History{h.History}
	for _, b := range h.Channels {
		histories = append(histories, b.History)
	}
	for _, one := range histories {
		if one != nil {
			most = most.With(hub.HistoryRule{Count: one.Count, TTL: time.Duration(one.TTL)})
		}
	}
	return most
}

// parseBroker reads `broker <engine> …`.
func parseBroker(p *parser) (err error) {
	if !p.NextArg() {
		return p.Errf("broker needs the name of an engine, such as broker nats; this server has %s", strings.Join(brokers.Known(), ", "))
	}
	p.handler.BrokerRaw, err = brokers.Parse(p.Dispenser)
	return err
}
