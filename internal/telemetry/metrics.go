// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package telemetry reports what happens in hubs: metrics in Caddy's registry, events
// through Caddy's events app, and spans if Caddy traces a request.
package telemetry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/push-it/pushit/hub"
)

// A metric is a number or a histogram that each hub has.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType // unused for histograms
	// read emits the metric from a hub's counts.
	read func(m *metric, e emitter, s *hub.Stats)

	name, help string
	labels     []string // besides the hub's name
}

// metrics are all metrics. No label has a value that clients choose, because each channel,
// user or address would make a series of its own.
var metrics = []*metric{
	gauge("agents", "Open sessions, connected or not.", func(m *metric, e emitter, s *hub.Stats) {
		for transport, n := range s.Agents {
			e.value(m, float64(n), transport)
		}
	}, "transport"),
	gauge("subscriptions", "Subscriptions of agents to channels and patterns.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Subscriptions))
	}),
	gauge("channels", "Channels that have subscribers.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Channels))
	}),
	gauge("patterns", "Patterns that have subscribers.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Patterns))
	}),
	gauge("presence_members", "Members of channels that tell who is in them, counted once in each channel.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Members))
	}),
	gauge("presence_watchers", "Subscriptions that are told who is in their channel.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Watchers))
	}),
	gauge("questions_in_flight", "Questions to gates that ask a backend and have not answered yet.",
		func(m *metric, e emitter, s *hub.Stats) {
			for gate, n := range s.Questions {
				e.value(m, float64(n), string(gate))
			}
		}, "gate"),

	counter("messages_published_total", "Messages published by agents or by the server.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Published))
	}),
	counter("messages_delivered_total", "Messages written to agents, counted for each agent.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.Delivered))
	}),
	counter("messages_dropped_total", "Messages that did not reach an agent, or were not published, by reason.",
		func(m *metric, e emitter, s *hub.Stats) {
			for why, n := range s.Dropped {
				e.value(m, float64(n), why.String())
			}
		}, "reason"),
	counter("frames_received_total", "Frames that agents sent, of any kind.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.FramesReceived))
	}),
	counter("received_bytes_total", "Bytes of the frames that agents sent.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.BytesReceived))
	}),
	counter("sent_bytes_total", "Bytes written to agents, including the framing of their transports.", func(m *metric, e emitter, s *hub.Stats) {
		e.value(m, float64(s.BytesSent))
	}),
	counter("sessions_refused_total", "Sessions that were not opened, by the code of the refusal.", func(m *metric, e emitter, s *hub.Stats) {
		for code, n := range s.Refused {
			e.value(m, float64(n), string(code))
		}
	}, "code"),
	counter("sessions_ended_total", "Sessions that have ended, by close code; 1000 if the server did not close the session.",
		func(m *metric, e emitter, s *hub.Stats) {
			for code, n := range s.Ended {
				e.value(m, float64(n), strconv.Itoa(int(code)))
			}
		}, "code"),
	counter("queue_overflows_total", "How often a queue was full, by queue.", func(m *metric, e emitter, s *hub.Stats) {
		for queue, n := range s.Overflow {
			e.value(m, float64(n), queue.String())
		}
	}, "queue"),
	counter("reload_effects_total", "What reloads of the configuration did to sessions and subscriptions, by effect.", func(m *metric, e emitter, s *hub.Stats) {
		for effect, n := range s.Reload {
			e.value(m, float64(n), effect.String())
		}
	}, "effect"),

	histogram("gate_duration_seconds", "How long gates took to answer, by gate and answer.", func(m *metric, e emitter, s *hub.Stats) {
		for gate, answers := range s.Gates {
			for answer, h := range answers {
				e.histogram(m, &h, string(gate), string(answer))
			}
		}
	}, "gate", "answer"),
	histogram("fan_out_duration_seconds", "How long it took to queue a message for all its subscribers.",
		func(m *metric, e emitter, s *hub.Stats) { e.histogram(m, &s.FanOut) }),
	histogram("session_duration_seconds", "How long sessions lasted that have ended, by transport.", func(m *metric, e emitter, s *hub.Stats) {
		for transport, h := range s.Sessions {
			e.histogram(m, &h, transport)
		}
	}, "transport"),
}

type readMetric = func(*metric, emitter, *hub.Stats)

func gauge(name, help string, read readMetric, labels ...string) *metric {
	return newMetric(prometheus.GaugeValue, name, help, read, labels)
}

func counter(name, help string, read readMetric, labels ...string) *metric {
	return newMetric(prometheus.CounterValue, name, help, read, labels)
}

func histogram(name, help string, read readMetric, labels ...string) *metric {
	return newMetric(prometheus.UntypedValue, name, help, read, labels)
}

func newMetric(kind prometheus.ValueType, name, help string, read readMetric, labels []string) *metric {
	m := &metric{kind: kind, read: read, name: prometheus.BuildFQName("caddy", "pushit", name), help: help, labels: labels}
	m.desc = prometheus.NewDesc(m.name, m.help, append([]string{"hub"}, labels...), nil)
	return m
}

// Hubs calls yield with each hub and its name, until yield returns false.
type Hubs func(yield func(name string, h *hub.Hub) bool)

// A collector reads the counts of all hubs. It keeps no counts itself, because each reload
// makes a new registry, and the counts must outlive it.
type collector struct{ hubs Hubs }

// NewCollector returns a collector of the metrics of hubs.
func NewCollector(hubs Hubs) prometheus.Collector { return collector{hubs} }

// Describe implements prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range metrics {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for name, h := range c.hubs {
		stats := h.Stats()
		for _, m := range metrics {
			m.read(m, emitter{name, to}, &stats)
		}
	}
}

// An emitter emits the metrics of one hub.
type emitter struct {
	hub string
	to  chan<- prometheus.Metric
}

func (e emitter) value(m *metric, v float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(m.desc, m.kind, v, append([]string{e.hub}, labels...)...)
}

func (e emitter) histogram(m *metric, h *hub.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Below))
	for bound, n := range h.Below {
		buckets[bound.Seconds()] = n
	}
	e.to <- prometheus.MustNewConstHistogram(m.desc, h.Count, h.Sum.Seconds(), buckets, append([]string{e.hub}, labels...)...)
}

// Register adds the metrics of hubs to the registry of a configuration, unless another
// handler of the same configuration has done so.
func Register(ctx caddy.Context, hubs Hubs) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	err := registry.Register(NewCollector(hubs))
	if already := (prometheus.AlreadyRegisteredError{}); errors.As(err, &already) {
		return nil
	}
	return err
}

// Names returns the names of all metrics with their labels, such as
// caddy_pushit_agents{hub,transport}.
func Names() (names []string) {
	for _, m := range metrics {
		names = append(names, fmt.Sprintf("%s{%s}", m.name, strings.Join(append([]string{"hub"}, m.labels...), ",")))
	}
	return names
}

var _ prometheus.Collector = collector{}
