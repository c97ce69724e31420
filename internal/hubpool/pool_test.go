// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hubpool

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// acquired returns a hub with a reference, which the test must release.
func acquired(t *testing.T, name string) *Hub {
	t.Helper()
	h, err := Acquire(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func release(t *testing.T, h *Hub) {
	t.Helper()
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
}

func registered(t *testing.T, h *Hub, e *Endpoint) *Use {
	t.Helper()
	u, err := h.Register(e)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestHubLivesAsLongAsItsReferences(t *testing.T) {
	one, two := acquired(t, "chat"), acquired(t, "chat")
	if one != two || References("chat") != 2 {
		t.Fatalf("the hub has %d references, and is one: %t", References("chat"), one == two)
	}
	other := acquired(t, "other")
	var names []string
	for name, h := range Each {
		if h.Name() != name {
			t.Errorf("%s comes as %s", h.Name(), name)
		}
		names = append(names, name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"chat", "other"}) {
		t.Errorf("the hubs are %q", names)
	}
	release(t, other)
	release(t, one)
	if again := acquired(t, "chat"); again != two {
		t.Error("the hub is another one, though it had a reference")
	}
	release(t, two)
	release(t, two)
	if again := acquired(t, "chat"); again == two {
		t.Error("the hub is the same, though it had no reference")
	} else {
		release(t, again)
	}
}

func TestRegister(t *testing.T) {
	h := acquired(t, "chat")
	defer release(t, h)
	old, now := make(chan struct{}), make(chan struct{})
	settings := func(origins byte) Settings { return Settings{"name": {1}, "origins": {origins}} }
	endpoint := func(generation chan struct{}, path, place string, origins byte) *Endpoint {
		return &Endpoint{Generation: generation, Path: path, Place: place, Settings: settings(origins), Log: slog.New(slog.DiscardHandler), Handler: place}
	}
	one, same := endpoint(old, "/push", "srv1", 1), endpoint(old, "/push", "srv0", 1)
	first := registered(t, h, one)
	if registered(t, h, same) != first {
		t.Error("the same endpoint on two servers has two uses")
	}
	if !first.Once("it") || first.Once("it") || !first.Once("else") {
		t.Error("a warning is not told once")
	}
	_, err := h.Register(endpoint(old, "/push", "srv2", 2))
	if err == nil || !strings.Contains(err.Error(), "in srv1 and in srv2") || !strings.Contains(err.Error(), "differ in origins:") {
		t.Errorf("another endpoint of the same name and path: %v", err)
	}
	elsewhere, next := registered(t, h, endpoint(old, "/live", "srv0", 2)), registered(t, h, endpoint(now, "/push", "srv0", 2))
	if elsewhere == first || next == first {
		t.Error("another path, or another configuration, is not another use")
	}
	var handlers []string
	for _, e := range Endpoints(old) {
		handlers = append(handlers, e.Path+" "+e.Handler.(string))
	}
	if want := []string{"/live srv0", "/push srv1", "/push srv0"}; !slices.Equal(handlers, want) {
		t.Errorf("the endpoints of the configuration are %q, want %q", handlers, want)
	}
	for _, u := range []*Use{first, elsewhere, next} {
		for _, e := range slices.Clone(u.endpoints) {
			u.Unregister(e, nil)
		}
	}
	if len(Endpoints(old))+len(Endpoints(now)) > 0 {
		t.Error("endpoints are left")
	}
}

// A notifier sends each line that is written to it.
type notifier chan []byte

func (n notifier) Write(p []byte) (int, error) {
	n <- bytes.Clone(p)
	return len(p), nil
}

// The new configuration logs the effects of a reload. If it has failed to load, nothing
// is logged.
func TestReloadIsLogged(t *testing.T) {
	h := acquired(t, "chat")
	defer release(t, h)
	lines := make(notifier, 2)
	log := slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	endpoint := func(configuration string, origins byte) *Endpoint {
		return &Endpoint{
			Generation: make(chan struct{}), Path: "/push", Settings: Settings{"origins": {origins}},
			Log: log.With("configuration", configuration),
		}
	}
	drop := func() *hub.Reload { return h.Drop(h.Use(&hub.Policy{Mount: "chat /push"})) }
	type entry struct {
		Level, Configuration string
		Changed              []string
	}
	next := func() (line entry) {
		t.Helper()
		select {
		case text := <-lines:
			if err := json.Unmarshal(text, &line); err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is logged")
		}
		return line
	}

	one, two, broken := endpoint("one", 1), endpoint("two", 2), endpoint("broken", 3)
	first, second, failed := registered(t, h, one), registered(t, h, two), registered(t, h, broken)
	failed.Unregister(broken, drop())
	first.Unregister(one, drop())
	if line := next(); line.Configuration != "two" || line.Level != "INFO" || !slices.Equal(line.Changed, []string{"origins"}) {
		t.Errorf("the log has %+v", line)
	}
	second.Unregister(two, drop())
	if line := next(); line.Configuration != "two" || line.Level != "DEBUG" || !slices.Equal(line.Changed, []string{"the endpoint is gone"}) {
		t.Errorf("the log has %+v", line)
	}
	select {
	case text := <-lines:
		t.Errorf("the log has %s too", text)
	default:
	}
}

// The longest drain of a hub's endpoints applies.
func TestDrainTime(t *testing.T) {
	h := acquired(t, "chat")
	defer release(t, h)
	if within, _ := h.drainTime(); within != DefaultDrain {
		t.Errorf("without an endpoint: %v", within)
	}
	e := []*Endpoint{
		{Generation: make(chan struct{}), Path: "/a", Drain: time.Second, Log: slog.New(slog.DiscardHandler)},
		{Generation: make(chan struct{}), Path: "/b", Drain: 9 * time.Second, Log: slog.New(slog.DiscardHandler)},
	}
	uses := []*Use{registered(t, h, e[0]), registered(t, h, e[1])}
	if within, _ := h.drainTime(); within != 9*time.Second {
		t.Errorf("of two endpoints: %v", within)
	}
	if !h.isIn(e[0].Generation) || h.isIn(make(chan struct{})) {
		t.Error("the hub does not know its configurations")
	}
	for i, u := range uses {
		u.Unregister(e[i], nil)
	}
}
