// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is the prefix of this module's packages.
const module = "github.com/push-it/pushit"

// layers lists the packages from top to bottom. A path stands for all packages below it,
// unless a longer path matches. Imports point down, or to another package below the same
// path.
var layers = [][]string{
	{"/cmd/caddy", "/examples"}, // a Caddy with the module in it; programs to learn from
	{""},                        // the handler, which wires the rest together
	{"/internal/hubpool", "/internal/explain", "/internal/routing", "/internal/statuspage"},
	{"/internal/telemetry", "/brokers"},
	{"/internal/options"},
	{"/guards", "/hub/transport", "/hub/broker", "/client"},
	{"/hub"},
	{"/internal/jsontext", "/internal/sampler", "/internal/assets"},
}

// onlyTests are packages that no server contains.
var onlyTests = []string{"/internal/wireclient", "/internal/needs", "/internal/doctable", "/hub/hubtest", "/hub/brokertest", "/internal/natsserver", "/internal/freeaddr"}

// layerOf returns the layer of a package, and the path that matches it.
func layerOf(pkg string) (layer int, path string) {
	layer = -1
	for i, paths := range layers {
		for _, p := range paths {
			if isBelow(pkg, module+p) && (p != "" || pkg == module) && (layer < 0 || len(p) > len(path)) {
				layer, path = i, p
			}
		}
	}
	return layer, path
}

func TestImportsPointDown(t *testing.T) {
	for _, edge := range goList(t, "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}}>{{.}} {{end}}`, module+"/...") {
		pkg, dep, _ := strings.Cut(edge, ">")
		if !isBelow(dep, module) {
			continue
		}
		isTestOnly := func(pkg string) bool {
			return slices.ContainsFunc(onlyTests, func(p string) bool { return isBelow(pkg, module+p) })
		}
		if isTestOnly(dep) {
			t.Errorf("%s must not import %s: that is for tests only", pkg, dep)
			continue
		}
		if isTestOnly(pkg) {
			continue
		}
		from, room := layerOf(pkg)
		to, other := layerOf(dep)
		switch {
		case from < 0 || to < 0:
			t.Errorf("%s imports %s: one of them has no layer: give it one in layers", pkg, dep)
		case to < from || to == from && room != other:
			t.Errorf("%s must not import %s: imports point down, and that is in layer %d of %d, which is not below %d", pkg, dep, to, len(layers), from)
		}
	}
}

// A dependencyRule lists what a package must not import, directly or indirectly. A path
// stands for all packages below it.
type dependencyRule struct {
	pkg  string
	bad  map[string]string // path -> why not
	only []string          // allowed besides the standard library; nil allows anything
}

const (
	whyNoHTTP   = "a request has no place in the core: transports make an Opening of it"
	whyNoCaddy  = "the core and its transports are tested, and can be used, without Caddy"
	whyNoSockJS = "what carries frames is a transport's business"
	whyNoZap    = "log/slog says it without a dependency"
)

var dependencyRules = []dependencyRule{
	{
		pkg: module + "/hub",
		bad: map[string]string{
			"net/http":                 whyNoHTTP,
			"github.com/caddyserver":   whyNoCaddy,
			"github.com/igm/sockjs-go": whyNoSockJS,
			"go.uber.org/zap":          whyNoZap,
		},
		only: []string{module + "/hub", module + "/internal/jsontext", module + "/internal/sampler", "github.com/google/uuid"},
	},
	{
		pkg: module + "/hub/transport",
		bad: map[string]string{"github.com/caddyserver": whyNoCaddy, "go.uber.org/zap": whyNoZap},
	},
	{
		pkg: module + "/hub/broker/nats",
		bad: map[string]string{"github.com/caddyserver": whyNoCaddy, "go.uber.org/zap": whyNoZap},
	},
	{
		pkg: module + "/cmd/caddy",
		bad: map[string]string{"github.com/nats-io/nats-server": "a server is no client: contrib/embedded-nats has it, as a module of its own"},
	},
	{
		pkg: module + "/internal/telemetry",
		bad: map[string]string{
			module + "/hub/transport": "telemetry reads what the hub counts",
			module + "/guards":        "telemetry reads what the hub counts",
		},
	},
}

// goList returns the output of go list, split into words.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	return strings.Fields(string(out))
}

func isBelow(pkg, path string) bool { return pkg == path || strings.HasPrefix(pkg, path+"/") }

func TestDependencies(t *testing.T) {
	for _, rule := range dependencyRules {
		for _, dep := range goList(t, "-deps", rule.pkg) {
			for path, why := range rule.bad {
				if isBelow(dep, path) && dep != rule.pkg {
					t.Errorf("%s must not depend on %s: %s", rule.pkg, dep, why)
				}
			}
		}
		if rule.only == nil {
			continue
		}
		for _, dep := range goList(t, "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", rule.pkg) {
			if !slices.ContainsFunc(rule.only, func(path string) bool { return isBelow(dep, path) }) {
				t.Errorf("%s must not depend on %s: only the standard library and %s", rule.pkg, dep, strings.Join(rule.only, ", "))
			}
		}
	}
}

// The NATS server is for those who want it in their Caddy: contrib/embedded-nats. Nobody else
// downloads it.
func TestNoNATSServer(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "nats-server") {
		t.Error("go.mod names nats-server")
	}
}
