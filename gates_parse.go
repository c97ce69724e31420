// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
)

// parseGuard decodes a guard of a gate from JSON. It does not provision the guard,
// because a configuration may be adapted on a machine that cannot run it. So the guard
// answers no questions. parseGuard returns the errors that it can find without them.
func parseGuard(raw json.RawMessage, gate hub.GateName) (g guards.NamedGuard, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return g, err
	}
	if err := json.Unmarshal(fields["guard"], &g.Name); err != nil {
		return g, err
	}
	info, err := caddy.GetModule(guards.Namespace + "." + g.Name)
	if err != nil {
		return g, err
	}
	delete(fields, "guard")
	if raw, err = json.Marshal(fields); err != nil {
		return g, err
	}
	module := info.New()
	if err := json.Unmarshal(raw, module); err != nil {
		return g, fmt.Errorf("%s: %w", g.Name, err)
	}
	var ok bool
	if g.Guard, ok = module.(guards.Guard); !ok {
		return g, fmt.Errorf("the module %s is not a guard", info.ID)
	}
	if aware, ok := g.Guard.(guards.GateAware); ok {
		err = aware.ForGate(gate)
	}
	if err == nil {
		g.Guard, err = lookInto(g.Guard, gate)
	}
	if err != nil && !strings.HasPrefix(err.Error(), g.Name+":") {
		err = fmt.Errorf("%s: %w", g.Name, err)
	}
	return g, err
}

// lookInto checks a guard by its contents. It returns the guard, or a wrapper that shows
// the guards in it.
func lookInto(g guards.Guard, gate hub.GateName) (guards.Guard, error) {
	switch g := g.(type) {
	case *guards.Any:
		w, err := wrap(g, gate, g.GuardsRaw...)
		for _, in := range w.inner {
			if b, ok := in.Guard.(guards.Bounded); ok && !b.CanApprove() {
				return w, fmt.Errorf("%s never approves; put it before any", in.Name)
			}
		}
		return w, err

	case *guards.Optional:
		w, err := wrap(g, gate, g.GuardRaw)
		for _, in := range w.inner {
			if _, ok := in.Guard.(guards.Presenter); !ok {
				return w, fmt.Errorf("it works only with jwt, bearer and forward_auth, which need credentials; %s always has an answer", in.Name)
			}
		}
		return w, err

	case *guards.JWT:
		return g, checkKeyFiles(g.KeyFiles)
	}
	return g, nil
}

// A wrapper shows the guards inside another guard. That guard can show them itself only
// after it is provisioned.
type wrapper struct {
	guards.Guard
	inner []guards.NamedGuard
}

// Local implements guards.Local: a wrapper asks only the guards inside it.
func (*wrapper) Local() {}

// Unwrap implements guards.Wrapper.
func (w *wrapper) Unwrap() []guards.NamedGuard { return w.inner }

func wrap(g guards.Guard, gate hub.GateName, raw ...json.RawMessage) (w *wrapper, err error) {
	w = &wrapper{Guard: g}
	for _, r := range raw {
		in, err := parseGuard(r, gate)
		if err != nil {
			return &wrapper{Guard: g}, err
		}
		w.inner = append(w.inner, in)
	}
	return w, nil
}

// checkKeyFiles checks the files that exist. The others may exist on the machine that
// will run the configuration.
func checkKeyFiles(files []string) error {
	for _, file := range files {
		if strings.Contains(file, "{") { // a placeholder is expanded later
			continue
		}
		alone := guards.JWT{KeyFiles: []string{file}}
		if err := alone.Provision(caddy.Context{}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ guards.Guard   = (*wrapper)(nil)
	_ guards.Wrapper = (*wrapper)(nil)
)
