// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// A Reach is the configuration that a guard decides by: its own, and that of the named
// routes that it invokes.
type Reach struct {
	// Texts are the JSON of the guard and of each named route.
	Texts []json.RawMessage
	// Vars are the variables that the matchers of handlers read.
	Vars []string
	// Known says that the guard decides by nothing else. It is false if the configuration
	// has modules of other packages, which can depend on anything, or modules that read
	// files or other apps.
	Known bool
	// Others says that the configuration has modules from outside of Caddy.
	Others bool
	// Compared are the placeholders that matchers compare.
	Compared placeholder.Compared
	// Err is a mistake in a matcher.
	Err error

	matches bool // it has matchers
	copies  bool // a handler puts the channel where matchers may find it

	server *caddyhttp.Server // nil outside of a server
	routes map[string]bool   // the named routes seen so far
}

// guardNamespace is guards.Namespace, which is in a package above this one.
const guardNamespace = "http.pushit.guards"

// ReachOf looks at a module, given by its ID and JSON, and at all modules in it.
func ReachOf(ctx caddy.Context, id string, raw json.RawMessage) *Reach {
	r := &Reach{Texts: []json.RawMessage{raw}, Known: true, routes: make(map[string]bool)}
	r.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	r.module(id, raw)
	return r
}

// caddysModules begins the paths of packages whose modules decide only by their own
// configuration. readers are the exceptions among them.
const (
	caddysOwn     = "github.com/caddyserver/caddy/v2"
	caddysModules = caddysOwn + "/modules/caddyhttp"
)

var readers = []string{
	"http.handlers.file_server", "http.handlers.templates", "http.matchers.file", // they read files
}

// others are modules of other packages that decide only by their configuration.
var others = []string{"tls.ca_pool.source.inline", "tls.ca_pool.source.file", "caddy.network_proxy.none", "caddy.network_proxy.url"}

// copiers are handlers that put values where the matchers of handlers behind them find
// them. So may handlers of other packages.
var copiers = []string{"vars", "map", "headers", "rewrite"}

// OnPatterns returns an error if what r reaches would misunderstand patterns.
func (r *Reach) OnPatterns() error {
	if r.matches && r.copies {
		return errors.New("matchers could take a pattern such as users/* for the name of a channel, because a directive puts {pushit.channel} where they look; " + placeholder.WriteCEL)
	}
	return r.Compared.OnPatterns()
}

func (r *Reach) module(id string, raw json.RawMessage) {
	info, err := caddy.GetModule(id)
	if err != nil {
		r.Known = false // loading it fails, so it does not matter
		return
	}
	m := info.New()
	switch name := info.ID.Name(); info.ID.Namespace() {
	case "http.matchers":
		r.matches = true
		if err := r.Compared.Add(name, raw); err != nil {
			r.Err, r.Known = cmp.Or(r.Err, fmt.Errorf("matcher %s: %w", name, err)), false
			return
		}
	case "http.handlers":
		r.copies = r.copies || (slices.Contains(copiers, name) || !isOf(m, caddysOwn)) && placeholder.NamesChannel(raw)
	}
	// A guard implements Fingerprinter if it decides by more.
	isGuard := info.ID.Namespace() == guardNamespace
	r.Others = r.Others || !isGuard && !isOf(m, caddysOwn)
	if !isGuard && !slices.Contains(others, id) && (!isOf(m, caddysModules) || slices.Contains(readers, id)) {
		r.Known = false
	}
	if err := json.Unmarshal(raw, m); err != nil {
		r.Known = false
		return
	}
	switch m := m.(type) {
	case *caddyhttp.Invoke:
		r.route(m.Name)
	case *caddyhttp.VarsMatcher:
		r.addVars(slices.Collect(maps.Keys(*m)))
	case *caddyhttp.MatchVarsRE:
		r.addVars(slices.Collect(maps.Keys(*m)))
	case *caddyhttp.MatchExpression:
		r.Known = r.Known && !placeholder.CallsFile(raw)
	}
	r.parts(reflect.ValueOf(m))
}

// isOf reports whether the type of a module belongs to a package at or below a path.
func isOf(m caddy.Module, path string) bool {
	t := reflect.TypeOf(m)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == path || strings.HasPrefix(t.PkgPath(), path+"/")
}

func (r *Reach) addVars(names []string) {
	for _, name := range names {
		if !strings.HasPrefix(name, "{") { // placeholders are found in the texts
			r.Vars = append(r.Vars, name)
		}
	}
}

// route looks at a named route of the server. Caddy loads named routes last and drops
// their raw form then. If the endpoint is itself in a named route, the raw form may be
// gone.
func (r *Reach) route(name string) {
	if r.routes[name] {
		return
	}
	r.routes[name] = true
	if r.server == nil || r.server.NamedRoutes[name] == nil {
		r.Known = false
		return
	}
	route := r.server.NamedRoutes[name]
	if route.HandlersRaw == nil && len(route.Handlers) > 0 {
		r.Known = false
		return
	}
	text, err := json.Marshal(route)
	if err != nil {
		r.Known = false
		return
	}
	r.Texts = append(r.Texts, text)
	r.parts(reflect.ValueOf(route))
}

// parts looks for modules in the fields of v, which Caddy's tags mark.
func (r *Reach) parts(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			r.parts(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			r.parts(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			r.parts(v.MapIndex(key))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			tag, ok := field.Tag.Lookup("caddy")
			switch {
			case !field.IsExported():
			case ok && strings.Contains(tag, "namespace="):
				r.tagged(v.Field(i), tag)
			default:
				r.parts(v.Field(i))
			}
		}
	}
}

// tagged looks at the modules in a field with one of Caddy's tags.
func (r *Reach) tagged(v reflect.Value, tag string) {
	var namespace, key string
	for setting := range strings.FieldsSeq(tag) {
		switch name, value, _ := strings.Cut(setting, "="); name {
		case "namespace":
			namespace = value
		case "inline_key":
			key = value
		}
	}
	each := func(name string, raw json.RawMessage) {
		if namespace != "" {
			name = namespace + "." + name
		}
		r.module(name, raw)
	}
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		raw, isRaw := reflect.TypeAssert[json.RawMessage](v)
		switch {
		case isRaw && len(raw) == 0:
		case isRaw:
			var fields map[string]json.RawMessage
			var name string
			if key == "" || json.Unmarshal(raw, &fields) != nil || json.Unmarshal(fields[key], &name) != nil {
				r.Known = false // loading it fails, so it does not matter
				return
			}
			each(name, raw)
		case v.Kind() == reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i))
			}
		case v.Kind() == reflect.Map && key == "":
			for _, name := range v.MapKeys() {
				raw, ok := reflect.TypeAssert[json.RawMessage](v.MapIndex(name))
				if !ok || name.Kind() != reflect.String {
					r.Known = false
					return
				}
				each(name.String(), raw)
			}
		case v.Kind() == reflect.Map:
			for _, name := range v.MapKeys() {
				look(v.MapIndex(name))
			}
		default:
			r.Known = false
		}
	}
	look(v)
}
