// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package brokers has the Caddy modules that connect a hub with the same hub on other
// machines. They are in the namespace http.pushit.brokers. Each makes a hub.Broker from its
// configuration; package hub/brokertest tests whether such a Broker keeps its promises.
package brokers

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// Namespace is the namespace of these modules. InlineKey is the key of their names in the
// JSON of a handler.
const (
	Namespace = "http.pushit.brokers"
	InlineKey = "engine"
)

// A Module is a Caddy module in Namespace. The Broker that it makes outlives reloads: each
// new configuration has a Module that is asked whether it can go on with that Broker.
type Module interface {
	// Open returns a Broker that was not started. It does not connect.
	Open(s Settings) (hub.Broker, error)
	// Check is called while a configuration is loaded, and changes nothing. It returns an
	// error if running, which Open of such a Module has returned and which is started, cannot
	// go on with these settings; for example because it is another engine, or because the
	// engine does not let it in. If running is nil, Check returns what is wrong with the
	// settings, as far as that can be known in some seconds. An engine that is away is not an
	// error.
	Check(running hub.Broker, s Settings) error
	// Adopt has running go on with these settings. Check was called before.
	Adopt(running hub.Broker, s Settings) error
}

// Settings are what a hub needs of a Broker.
type Settings struct {
	Hub string
	// Keep is what the log must keep of each channel, at least.
	Keep hub.HistoryRule
	// MessageSize is the size of the longest message of an agent, in bytes.
	MessageSize int
	Log         *slog.Logger
}

// A Described is a Module that says in a few words, for operators, what it connects to. The
// words have no secrets.
type Described interface{ Describe() string }

// A Keeper is a Broker whose log can be told to keep more while it runs.
type Keeper interface {
	Keep(rule hub.HistoryRule)
}

// Parse reads the module that the current word names, with its arguments and its block, and
// returns its JSON.
func Parse(d *caddyfile.Dispenser) (json.RawMessage, error) {
	word := d.Val()
	info, err := caddy.GetModule(Namespace + "." + word)
	if err != nil {
		return nil, d.Err(unknown(word))
	}
	module := info.New()
	u, ok := module.(caddyfile.Unmarshaler)
	if !ok {
		return nil, d.Errf("the broker %s has no Caddyfile form; use JSON", word)
	}
	segment := d.NewFromNextSegment()
	if err := u.UnmarshalCaddyfile(segment); err != nil {
		return nil, err
	}
	if segment.Next() {
		return nil, segment.Errf("unexpected %q after the broker %s", segment.Val(), word)
	}
	return caddyconfig.JSONModuleObject(module, InlineKey, word, nil), nil
}

// unknown says what to write instead of a word that is not a broker.
func unknown(word string) string {
	known := Known()
	if near := guards.Nearest(word, known); near != "" {
		return fmt.Sprintf("unknown broker %q; did you mean %s?", word, near)
	}
	return fmt.Sprintf("unknown broker %q; this server has %s", word, strings.Join(known, ", "))
}

// Known returns the names of all brokers.
func Known() (names []string) {
	for _, m := range caddy.GetModules(Namespace) {
		names = append(names, m.ID.Name())
	}
	return names
}
