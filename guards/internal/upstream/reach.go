// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// A Reach is the configuration that a guard decides by: its own, and that of the
// named routes that it invokes.
type Reach struct {
	// Texts are the guard's own JSON, and that of each named route.
	Texts []json.RawMessage
	// Vars are the variables that matchers of handlers read.
	Vars []string
	// Known says that nothing else in the configuration makes a difference. It is
	// false when a module of others is reached, which may look at anything, or one
	// that looks at files or at other apps.
	Known bool
	// Others says that modules from outside of Caddy are reached.
	Others bool

	server *caddyhttp.Server // nil outside of one
	routes map[string]bool   // the named routes that were looked at
}

// guardNamespace is guards.Namespace, which is in a package above this one.
const guardNamespace = "http.pushit.guards"

// ReachOf looks at a module by its ID and its JSON, and at all that it is made of.
func ReachOf(ctx caddy.Context, id string, raw json.RawMessage) *Reach {
	r := &Reach{Texts: []json.RawMessage{raw}, Known: true, routes: make(map[string]bool)}
	r.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	r.module(id, raw)
	return r
}

// caddysModules begins the paths of the packages whose modules are known to decide
// by nothing but their own configuration; readers are those among them that do not.
const (
	caddysOwn     = "github.com/caddyserver/caddy/v2"
	caddysModules = caddysOwn + "/modules/caddyhttp"
)

var readers = []string{
	"http.handlers.file_server", "http.handlers.templates", "http.matchers.file", // they read files
}

// others are modules of other packages that are known, too.
var others = []string{"tls.ca_pool.source.inline", "tls.ca_pool.source.file", "caddy.network_proxy.none", "caddy.network_proxy.url"}

func (r *Reach) module(id string, raw json.RawMessage) {
	info, err := caddy.GetModule(id)
	if err != nil {
		r.Known = false // loading it fails, too
		return
	}
	m := info.New()
	// A guard says itself what else it decides by: see Fingerprinter.
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
		r.Known = r.Known && !slices.ContainsFunc(placeholder.ExprCall.FindAllStringSubmatch(m.Expr, -1), func(call []string) bool { return call[1] == "file" })
	}
	r.parts(reflect.ValueOf(m))
}

// isOf reports whether the type of a module is of a package at or below a path.
func isOf(m caddy.Module, path string) bool {
	t := reflect.TypeOf(m)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == path || strings.HasPrefix(t.PkgPath(), path+"/")
}

func (r *Reach) addVars(names []string) {
	for _, name := range names {
		if !strings.HasPrefix(name, "{") { // a placeholder is found in the texts
			r.Vars = append(r.Vars, name)
		}
	}
}

// route looks at a named route of the server. Caddy loads them after all others
// and drops the raw form then: of an endpoint that is itself in a named route, it
// may be gone.
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

// parts looks for modules in the fields of v, which Caddy's tags tell.
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

// tagged looks at the modules in a field with a tag of Caddy's.
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
		raw, isRaw := v.Interface().(json.RawMessage)
		switch {
		case isRaw && len(raw) == 0:
		case isRaw:
			var fields map[string]json.RawMessage
			var name string
			if key == "" || json.Unmarshal(raw, &fields) != nil || json.Unmarshal(fields[key], &name) != nil {
				r.Known = false // loading it fails, too
				return
			}
			each(name, raw)
		case v.Kind() == reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i))
			}
		case v.Kind() == reflect.Map && key == "":
			for _, name := range v.MapKeys() {
				raw, ok := v.MapIndex(name).Interface().(json.RawMessage)
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
