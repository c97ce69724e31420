// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/telemetry"
)

// metricsSite is a Caddyfile with a site that serves its metrics, and with these
// directives.
func metricsSite(directives string) string {
	return "http://localhost {\n\tmetrics /metrics\n\t" + directives + "\n}\n"
}

// A scrape has the values of metrics, by name and labels.
type scrape map[string]float64

// scrape reads the metrics of pushit.
func (s site) scrape() scrape {
	s.t.Helper()
	status, body := s.get("/metrics", nil)
	if status != http.StatusOK {
		s.t.Fatalf("status %d: %s", status, body)
	}
	out := make(scrape)
	for line := range strings.Lines(body) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(name, "caddy_pushit_") {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		out[name+"}"] = v
	}
	return out
}

// awaitMetrics scrapes until the metrics have the expected values. The hub counts a
// message a moment after it has arrived.
func (s site) awaitMetrics(want scrape) scrape {
	s.t.Helper()
	var got scrape
	wrong := func(name string, v float64) bool {
		have, ok := got[name]
		return !ok || have != v
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		got = s.scrape()
		ok := true
		for name, v := range want {
			ok = ok && !wrong(name, v)
		}
		if ok {
			return got
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if wrong(name, want[name]) {
			s.t.Errorf("%s is %v, want %v", name, got[name], want[name])
		}
	}
	return got
}

// of names a metric of the hub called default, or of another one, with its labels.
func of(name string, labels ...string) string {
	hub := "default"
	var all []string
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		if key == "hub" {
			hub = value
			continue
		}
		all = append(all, fmt.Sprintf("%s=%q", key, value))
	}
	all = append(all, fmt.Sprintf("hub=%q", hub))
	slices.Sort(all) // in the order in which Prometheus writes them
	return "caddy_pushit_" + name + "{" + strings.Join(all, ",") + "}"
}

// TestMetricsAgreeWithWhatWasSentOverReloads counts what agents do, and compares: before
// a reload, right after it, after further messages, with another hub, and after a hub has
// ended.
func TestMetricsAgreeWithWhatWasSentOverReloads(t *testing.T) {
	const gates = "subscribe cel `channel != \"secret\"`\n\t\tconnect allow\n\t\tpublish allow"
	s := serve(t, metricsSite("pushit {\n\t\t"+gates+"\n\t}")).site("localhost")
	old, publisher := s.connect("/push/websocket", nil), s.connect("/push/websocket", nil)
	old.wantAllowed(old.askToSubscribe("chat"))
	old.wantRefused(old.askToSubscribe("secret"), "denied")
	for n := range 5 {
		publisher.publish("chat", float64(n))
		old.wantMessage("chat", float64(n))
	}
	before := scrape{
		of("agents", "transport=websocket"):         2,
		of("subscriptions"):                         1,
		of("channels"):                              1,
		of("patterns"):                              0,
		of("messages_published_total"):              5,
		of("messages_delivered_total"):              5,
		of("messages_dropped_total", "reason=slow"): 0,
		of("frames_received_total"):                 2 + 2 + 5,
		of("gate_duration_seconds_count", "gate=subscribe", "answer=allowed"): 1,
		of("gate_duration_seconds_count", "gate=subscribe", "answer=denied"):  1,
		of("fan_out_duration_seconds_count"):                                  5,
		of("reload_effects_total", "effect=moved"):                            0,
	}
	s.awaitMetrics(before)

	if err := s.load(metricsSite("pushit {\n\t\theartbeat 20s\n\t\t" + gates + "\n\t}\n\tpushit /other {\n\t\tname other\n\t}")); err != nil {
		t.Fatal(err)
	}
	after := maps.Clone(before)
	after[of("reload_effects_total", "effect=moved")] = 2
	after[of("messages_published_total", "hub=other")] = 0
	s.awaitMetrics(after)

	for n := range 3 {
		publisher.publish("chat", float64(n))
		old.wantMessage("chat", float64(n))
	}
	other := s.connect("/other/websocket", nil).subscribe("chat")
	other.publish("chat", "here")
	other.wantMessage("chat", "here")
	_ = old.conn.Close()
	got := s.awaitMetrics(scrape{
		of("agents", "transport=websocket"):                         1,
		of("subscriptions"):                                         0,
		of("channels"):                                              0,
		of("messages_published_total"):                              8,
		of("messages_delivered_total"):                              8,
		of("sessions_ended_total", "code=1000"):                     1,
		of("session_duration_seconds_count", "transport=websocket"): 1,
		of("agents", "transport=websocket", "hub=other"):            1,
		of("messages_published_total", "hub=other"):                 1,
		of("messages_delivered_total", "hub=other"):                 1,
	})
	for name := range got {
		if strings.Contains(name, "chat") || strings.Contains(name, "secret") {
			t.Errorf("%s has the name of a channel in it", name)
		}
	}

	// The other hub ends, and its series disappear.
	if err := s.load(metricsSite("pushit {\n\t\t" + gates + "\n\t}")); err != nil {
		t.Fatal(err)
	}
	for name := range s.awaitMetrics(scrape{of("messages_published_total"): 8}) {
		if strings.Contains(name, `hub="other"`) {
			t.Errorf("%s is told of a hub that is gone", name)
		}
	}
}

// TestMetricsOfReloadsThatTighten: reloads end a subscription, then a session.
func TestMetricsOfReloadsThatTighten(t *testing.T) {
	rules := func(connect, subscribe string) string {
		return metricsSite("pushit {\n\t\tconnect " + connect + "\n\t\tsubscribe " + subscribe + "\n\t\tpublish deny\n\t}")
	}
	s := serve(t, rules("allow", "allow")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("chat")
	if err := s.load(rules("allow", "deny")); err != nil {
		t.Fatal(err)
	}
	s.awaitMetrics(scrape{
		of("reload_effects_total", "effect=moved"): 1,
		of("reload_effects_total", "effect=asked"): 1,
		of("reload_effects_total", "effect=ended"): 1,
		of("reload_effects_total", "effect=cut"):   0,
		of("reload_effects_total", "effect=late"):  0,
		of("subscriptions"):                        0,
	})
	if err := s.load(rules("deny", "deny")); err != nil {
		t.Fatal(err)
	}
	if f := a.receive(); f["channel"] != "/meta/unsubscribe" {
		t.Errorf("got %v, want /meta/unsubscribe", f)
	}
	a.wantClose(int(hub.CloseCut))
	s.awaitMetrics(scrape{
		of("reload_effects_total", "effect=moved"): 2,
		of("reload_effects_total", "effect=asked"): 2,
		of("reload_effects_total", "effect=cut"):   1,
		of("sessions_ended_total", "code=4403"):    1,
		of("agents", "transport=websocket"):        0,
	})
}

// A configuration that fails does not change the metrics.
func TestMetricsOverAReloadThatFails(t *testing.T) {
	s := serve(t, metricsSite("pushit")).site("localhost")
	a := s.connect("/push/websocket", nil)
	a.publish("chat", "one")
	if err := s.load(metricsSite("route {\n\t\tpushit {\n\t\t\thandshake 5s\n\t\t}\n\t\tfails\n\t}")); err == nil {
		t.Fatal("it loaded")
	}
	a.publish("chat", "two")
	s.awaitMetrics(scrape{of("messages_published_total"): 2, of("agents", "transport=websocket"): 1})
}

func TestMetricsOfTwoHubsInOneConfiguration(t *testing.T) {
	s := serve(t, metricsSite("pushit /a {\n\t\tname a\n\t}\n\tpushit /b {\n\t\tname b\n\t}\n\tpushit /c {\n\t\tname a\n\t}")).site("localhost")
	s.connect("/a/websocket", nil)
	s.connect("/c/websocket", nil)
	s.connect("/b/websocket", nil)
	s.awaitMetrics(scrape{
		of("agents", "transport=websocket", "hub=a"): 2,
		of("agents", "transport=websocket", "hub=b"): 1,
	})
}

func TestMetricsAreNamedAsTheyShouldBe(t *testing.T) {
	s := serve(t, metricsSite("pushit {\n\t\tdefault allow\n\t\tsubscribe cel true\n\t}")).site("localhost")
	a := s.connect("/push/websocket", nil)
	a.wantAllowed(a.askToSubscribe("chat"))
	_ = s.connect("/push/websocket", nil).conn.Close()
	s.awaitMetrics(scrape{of("sessions_ended_total", "code=1000"): 1})
	ofBrokers := 0 // only a hub with a broker has these
	for _, name := range telemetry.Names() {
		if strings.HasPrefix(name, "caddy_pushit_broker_") {
			ofBrokers++
		}
	}
	if got, want := lintedMetrics(t), len(telemetry.Names())-ofBrokers; got != want {
		t.Errorf("%d metrics are told, of %d", got, want)
	}
}

// lintedMetrics checks the names of all metrics that there are now, and counts them.
func lintedMetrics(t *testing.T) int {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(telemetry.NewCollector(hubpool.Each)); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if err != nil {
		t.Error(err)
	}
	return len(families)
}

// TestMetricsAreDocumented compares the table of docs/operations.md with what is registered.
func TestMetricsAreDocumented(t *testing.T) {
	text := doctable.Read(t, "docs/operations.md")
	row := regexp.MustCompile("(?m)^\\| `(caddy_pushit_[a-z_]+)` \\|([^|]*)\\|")
	var listed []string
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		labels := []string{"hub"}
		for _, l := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		listed = append(listed, fmt.Sprintf("%s{%s}", m[1], strings.Join(labels, ",")))
	}
	registered := telemetry.Names()
	slices.Sort(listed)
	slices.Sort(registered)
	if !slices.Equal(listed, registered) {
		t.Errorf("docs/operations.md lists\n\t%s\nand there are\n\t%s", strings.Join(listed, "\n\t"), strings.Join(registered, "\n\t"))
	}
}

// TestMetricsAreInCaddysRegistry reads the metrics from the admin endpoint.
func TestMetricsAreInCaddysRegistry(t *testing.T) {
	s := serve(t, reloadSite("pushit")).site("localhost")
	s.connect("/push/websocket", nil)
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "caddy_pushit_agents" && f.GetMetric()[0].GetGauge().GetValue() == 1 {
			return
		}
	}
	t.Error("the registry that /metrics serves does not tell of the agent")
}
