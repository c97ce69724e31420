// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"os/exec"
	"strings"
	"testing"
)

// module is the import path of this module's root.
const module = "github.com/push-it/pushit"

// A dependencyRule says what a package must not import, directly or indirectly. A path
// includes all packages below it.
type dependencyRule struct {
	pkg  string
	bad  map[string]string // path -> why not
	only []string          // the only packages outside the standard library; nil allows any
}

const (
	whyNoHTTP   = "the core never sees a request: transports make an Opening from it"
	whyNoCaddy  = "the core and its transports are tested, and can be used, without Caddy"
	whyNoSockJS = "only transports know SockJS"
	whyNoZap    = "log/slog does the same without a dependency"
	whyNoRoot   = "imports go down only: the root wires the other packages together"
)

var dependencyRules = []dependencyRule{
	{
		pkg: module + "/hub",
		bad: map[string]string{
			"net/http":                 whyNoHTTP,
			"github.com/caddyserver":   whyNoCaddy,
			"github.com/igm/sockjs-go": whyNoSockJS,
			"go.uber.org/zap":          whyNoZap,
			module + "/hub/transport":  "transports know the hub, not the other way around",
			module + "/guards":         "guards know the hub, not the other way around",
		},
		only: []string{module + "/hub", module + "/internal/jsontext", module + "/internal/sampler", "github.com/google/uuid"},
	},
	{
		pkg: module + "/hub/transport",
		bad: map[string]string{
			"github.com/caddyserver": whyNoCaddy,
			"go.uber.org/zap":        whyNoZap,
			module + "/guards":       "a transport asks only the hub",
		},
	},
	{
		pkg: module + "/internal/telemetry",
		bad: map[string]string{
			module + "/hub/transport": "telemetry reads only the hub's counts",
			module + "/guards":        "telemetry reads only the hub's counts",
		},
	},
}

// goList returns what go list prints, word by word.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	return strings.Fields(string(out))
}

func isBelow(pkg, path string) bool { return pkg == path || strings.HasPrefix(pkg, path+"/") }

func TestImportsGoDownOnly(t *testing.T) {
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
			if !contains(rule.only, dep) {
				t.Errorf("%s must not depend on %s: only the standard library and %s", rule.pkg, dep, strings.Join(rule.only, ", "))
			}
		}
	}
}

func contains(paths []string, pkg string) bool {
	for _, path := range paths {
		if isBelow(pkg, path) {
			return true
		}
	}
	return false
}

func TestOnlyTheCommandImportsTheRoot(t *testing.T) {
	const command = module + "/cmd/caddy" // a Caddy with the module in it
	for _, edge := range goList(t, "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}}>{{.}} {{end}}`, module+"/...") {
		pkg, dep, _ := strings.Cut(edge, ">")
		if dep == module && pkg != command {
			t.Errorf("%s must not import %s: %s", pkg, module, whyNoRoot)
		}
	}
}
