// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// Namespace is the namespace of guards among Caddy's modules.
const Namespace = "http.pushit.guards"

// A GateAware guard must know which gates it is in, because what it can ask depends on
// it. ForGate is called once for each gate, after the guard is provisioned. An error
// refuses the configuration.
type GateAware interface {
	ForGate(gate hub.GateName) error
}

// A Presenter is a guard to which an agent presents something.
type Presenter interface {
	// Presented reports whether the agent has presented something, right or wrong.
	Presented(q *Question) bool
}

// A Wrapper is a guard made of other guards.
type Wrapper interface {
	Unwrap() []NamedGuard
}

// A HeaderLearner sets header fields on the requests that the guards behind it see.
type HeaderLearner interface {
	// LearnsHeaders returns their names.
	LearnsHeaders() []string
}

// Load loads the guards in the named field of a module. raw is the value of the field,
// which has a caddy tag.
func Load(ctx caddy.Context, module any, field string, raw []json.RawMessage) ([]NamedGuard, error) {
	guards := make([]NamedGuard, len(raw))
	for i, r := range raw {
		var named struct {
			Guard string `json:"guard"`
		}
		if err := json.Unmarshal(r, &named); err != nil {
			return nil, fmt.Errorf("guard %d: %w", i+1, err)
		}
		guards[i].Name, guards[i].sum, guards[i].text = named.Guard, upstream.SumOf(ctx, Namespace+"."+named.Guard, r), upstream.SumOfText(r)
	}
	if len(raw) == 0 {
		return nil, nil
	}
	loaded, err := ctx.LoadModule(module, field)
	if err != nil {
		return nil, err
	}
	list, ok := loaded.([]any)
	if !ok {
		list = []any{loaded}
	}
	for i, m := range list {
		g, ok := m.(Guard)
		if !ok {
			return nil, fmt.Errorf("module %s.%s is not a guard", Namespace, guards[i].Name)
		}
		guards[i].Guard = g
	}
	return guards, nil
}

// forGate tells guards which gate they are in.
func forGate(guards []NamedGuard, gate hub.GateName) error {
	for _, g := range guards {
		if aware, ok := g.Guard.(GateAware); ok {
			if err := aware.ForGate(gate); err != nil {
				return fmt.Errorf("%s: %w", g.Name, err)
			}
		}
	}
	return nil
}

// walk calls f for each guard, and for the guards that it is made of.
func walk(guards []NamedGuard, f func(NamedGuard)) {
	for _, g := range guards {
		f(g)
		if w, ok := g.Guard.(Wrapper); ok {
			walk(w.Unwrap(), f)
		}
	}
}

// LearnedHeaders returns the names of the header fields that the guards set.
func LearnedHeaders(guards []NamedGuard) (names []string) {
	walk(guards, func(g NamedGuard) {
		if l, ok := g.Guard.(HeaderLearner); ok {
			names = append(names, l.LearnsHeaders()...)
		}
	})
	return names
}

// firstRemote returns the name of a guard that is not Local, "" if there is none.
func firstRemote(guards []NamedGuard) (name string) {
	walk(guards, func(g NamedGuard) {
		_, local := g.Guard.(Local)
		_, remote := g.Guard.(Remote)
		if name == "" && (remote || !local) {
			name = g.Name
		}
	})
	return name
}
