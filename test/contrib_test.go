// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/natsserver"
	"github.com/push-it/pushit/internal/needs"
)

// contribCheck builds test/check. The result runs it, and returns what it prints.
func contribCheck(t *testing.T) func(args ...string) (out string, ok bool) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "check")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "test/check", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(args ...string) (string, bool) {
		out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
		return string(out), err == nil
	}
}

// metricsOfAll writes the metrics of a server to a file, after all has happened that the
// rules and dashboards name.
func metricsOfAll(t *testing.T) (path string) {
	t.Helper()
	s := serve(t, metricsSite("pushit {\n\t\tdefault allow\n\t\tbroker nats "+natsserver.New(t, "").URL()+"\n\t\tsubscribe cel true\n\t\tchannel asked/* {\n\t\t\tsubscribe ask "+nowhere+" {\n\t\t\t\turi /\n\t\t\t}\n\t\t}\n\t}")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("news")
	a.publish("news", 1)
	a.wantRefused(a.askToSubscribe("asked/1"), hub.CodeUnavailable)
	_ = s.connect("/push/websocket", nil).conn.Close()
	s.awaitMetrics(scrape{of("sessions_ended_total", "code=1000"): 1})
	status, text := s.get("/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("/metrics is answered with %d", status)
	}
	path = filepath.Join(t.TempDir(), "metrics.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	alertRules = "contrib/prometheus/pushit.rules.yml"
	dashboards = "contrib/grafana/pushit.json"
)

// TestAlertsAreDocumented compares the table of docs/operations.md with the alert rules.
func TestAlertsAreDocumented(t *testing.T) {
	var alerts, documented []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(doctable.Read(t, alertRules), -1) {
		alerts = append(alerts, m[1])
	}
	for _, row := range doctable.Rows(t, "docs/operations.md", "### Dashboard and alerts") {
		documented = append(documented, doctable.Codes(row[0])...)
		if len(row) != 3 {
			t.Errorf("%s: it has %d columns", row[0], len(row))
		}
	}
	if !slices.Equal(alerts, documented) || len(alerts) == 0 {
		t.Errorf("docs/operations.md has\n\t%v\nand the alerts are\n\t%v", documented, alerts)
	}
}

// TestSystemdSettings has systemd read the settings of contrib/systemd.
func TestSystemdSettings(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("systemd is what only Linux has")
	}
	analyze := needs.Program(t, "systemd-analyze")
	dir := t.TempDir()
	unit := filepath.Join(dir, "caddy.service")
	verify := func(settings string) string {
		if err := os.MkdirAll(unit+".d", 0o700); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{unit: "[Service]\nExecStart=/bin/true\n", unit + ".d/pushit.conf": settings} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
		if err != nil {
			t.Log(err)
		}
		return string(out)
	}
	settings := strings.ReplaceAll(doctable.Read(t, "contrib/systemd/pushit.conf"), "\n#Environment", "\nEnvironment")
	settings = strings.ReplaceAll(settings, "\n#MemoryMax", "\nMemoryMax")
	if out := verify(settings); strings.Contains(out, "pushit.conf") {
		t.Error(out)
	}
	if out := verify(strings.ReplaceAll(settings, "LimitNOFILE", "LimitFiles")); !strings.Contains(out, "LimitFiles") {
		t.Errorf("systemd finds no mistake: %s", out)
	}
}

// TestContribFitsTheServer compares the alert rules and the dashboard with the metrics of a
// server, and looks for mistakes in the Dockerfile and in the configuration of releases.
func TestContribFitsTheServer(t *testing.T) {
	check, metrics := contribCheck(t), metricsOfAll(t)
	out, ok := check("-metrics", metrics, alertRules, dashboards, "contrib/docker/Dockerfile", "examples/cluster/compose.yaml", ".goreleaser.yaml")
	if !ok {
		t.Fatal(out)
	}
	t.Log(out)

	// The check finds mistakes.
	for _, mistake := range []struct{ path, right, wrong, want string }{
		{alertRules, "caddy_pushit_reload_effects_total", "caddy_pushit_reload_total", "there is no metric caddy_pushit_reload_total"},
		{alertRules, `{reason="failed"}`, `{why="failed"}`, "has no label why"},
		{alertRules, `{reason="failed"}`, `{reason="fails"}`, `fits reason="fails"`},
		{alertRules, "sum by (instance, hub, queue)", "sum by (instance, hub, name)", "groups by name"},
		{alertRules, "{{ $labels.queue }}", "{{ $labels.name }}", "uses the label name"},
		{alertRules, "sum by (instance, hub, gate, le)", "sum by (instance, hub, gate)", "needs the label le"},
		{alertRules, "(caddy_pushit_agents) > 0.3", "(caddy_pushit_agents)) > 0.3", "parse error"},
		{alertRules, "severity: info", "level: info", "has no severity"},
		{dashboards, "sum(caddy_pushit_channels{", "sum(caddy_pushit_rooms{", "there is no metric caddy_pushit_rooms"},
		{dashboards, "{{transport}}", "{{kind}}", "uses the label kind"},
		{dashboards, "label_values(caddy_pushit_channels, hub)", "label_values(caddy_pushit_channels, name)", "variable hub"},
		{dashboards, `hub=~\"$hub\"`, `hub=~\"$name\"`, "there is no variable name"},
		{dashboards, `"y": 1,`, `"y": 6,`, "covers"},
		{"contrib/docker/Dockerfile", "USER caddy", "USER 0", "runs as root"},
		{"contrib/docker/Dockerfile", "HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \\\n\tCMD", "HEALTHCHECK NONE\n#", "has no HEALTHCHECK"},
		{"contrib/docker/Dockerfile", "--from=build", "--from=builder", "no such stage"},
		{"examples/cluster/compose.yaml", "image: nats:2.12-alpine", "image: nats", "has no version"},
		{"examples/cluster/compose.yaml", "restart: unless-stopped", "restarts: unless-stopped", "restarts"},
		{"examples/cluster/compose.yaml", "networks: [engine]", "networks: [engines]", "engines"},
		{".goreleaser.yaml", "CGO_ENABLED=0", "CGO_ENABLED=1", "is not static"},
		{".goreleaser.yaml", "goarch:", "goarchs:", "goarchs"},
	} {
		text := doctable.Read(t, mistake.path)
		if !strings.Contains(text, mistake.right) {
			t.Errorf("%s does not have %q", mistake.path, mistake.right)
			continue
		}
		path := filepath.Join(t.TempDir(), filepath.Base(mistake.path))
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, mistake.right, mistake.wrong)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, ok := check("-metrics", metrics, path); ok || !strings.Contains(out, mistake.want) {
			t.Errorf("%s with %q: want %q, and get %s", mistake.path, mistake.wrong, mistake.want, out)
		}
	}
}
