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
	// read emits the metric from a hub's counts.
	read func(e emitter, s *hub.Stats)

	name   string
	labels []string // besides the hub's name
}

// metrics are all metrics. No label has a value that clients choose, because each channel,
// user or address would make a series of its own.
var metrics = []*metric{
	labelled("agents", "Open sessions, connected or not.", gauge, "transport", func(s *hub.Stats) map[string]int { return s.Agents }, itself[string]),
	number("subscriptions", "Subscriptions of agents to channels and patterns.", gauge, func(s *hub.Stats) int { return s.Subscriptions }),
	number("channels", "Channels that have subscribers.", gauge, func(s *hub.Stats) int { return s.Channels }),
	number("patterns", "Patterns that have subscribers.", gauge, func(s *hub.Stats) int { return s.Patterns }),
	number("presence_members", "Members of channels that tell who is in them, counted once in each channel.", gauge, func(s *hub.Stats) int { return s.Members }),
	number("presence_watchers", "Subscriptions that are told who is in their channel.", gauge, func(s *hub.Stats) int { return s.Watchers }),
	labelled("questions_in_flight", "Questions to gates that ask a backend and have not answered yet.", gauge, "gate",
		func(s *hub.Stats) map[hub.GateName]int { return s.Questions }, itself[hub.GateName]),

	ofBroker("broker_connected", "Whether the engine that connects this machine with others can be reached.", gauge, func(b *hub.BrokerStats) int { return oneIf(b.Connected) }),
	ofBroker("broker_behind", "Whether messages of other machines may be missing here for now.", gauge, func(b *hub.BrokerStats) int { return oneIf(b.Behind) }),
	ofBroker("broker_nodes", "Machines that are up, with this one.", gauge, func(b *hub.BrokerStats) int { return b.Nodes }),
	ofBroker("broker_messages_applied_total", "Messages of all machines that came here.", counter, func(b *hub.BrokerStats) uint64 { return b.Applied }),
	ofBroker("broker_messages_filled_total", "Messages that did not come by themselves, and were read from the engine.", counter, func(b *hub.BrokerStats) uint64 { return b.Filled }),
	ofBroker("broker_messages_lost_total", "Messages that the engine had dropped before they came here.", counter, func(b *hub.BrokerStats) uint64 { return b.Lost }),
	ofBroker("broker_messages_skipped_total", "Entries of the engine that are no messages.", counter, func(b *hub.BrokerStats) uint64 { return b.Skipped }),

	number("messages_published_total", "Messages published by agents or by the server.", counter, func(s *hub.Stats) uint64 { return s.Published }),
	number("messages_delivered_total", "Messages written to agents, counted for each agent.", counter, func(s *hub.Stats) uint64 { return s.Delivered }),
	labelled("messages_dropped_total", "Messages that did not reach an agent, or were not published, by reason.", counter, "reason",
		func(s *hub.Stats) map[hub.DropReason]uint64 { return s.Dropped }, hub.DropReason.String),
	number("frames_received_total", "Frames that agents sent, of any kind.", counter, func(s *hub.Stats) uint64 { return s.FramesReceived }),
	number("received_bytes_total", "Bytes of the frames that agents sent.", counter, func(s *hub.Stats) uint64 { return s.BytesReceived }),
	number("sent_bytes_total", "Bytes written to agents, including the framing of their transports.", counter, func(s *hub.Stats) uint64 { return s.BytesSent }),
	labelled("sessions_refused_total", "Sessions that were not opened, by the code of the refusal.", counter, "code",
		func(s *hub.Stats) map[hub.Code]uint64 { return s.Refused }, itself[hub.Code]),
	labelled("sessions_ended_total", "Sessions that have ended, by close code; 1000 if the server did not close the session.", counter, "code",
		func(s *hub.Stats) map[hub.CloseCode]uint64 { return s.Ended }, func(c hub.CloseCode) string { return strconv.Itoa(int(c)) }),
	labelled("queue_overflows_total", "How often a queue was full, by queue.", counter, "queue",
		func(s *hub.Stats) map[hub.QueueName]uint64 { return s.Overflow }, hub.QueueName.String),
	labelled("reload_effects_total", "What reloads of the configuration did to sessions and subscriptions, by effect.", counter, "effect",
		func(s *hub.Stats) map[hub.ReloadEffect]uint64 { return s.Reload }, hub.ReloadEffect.String),

	histogram("gate_duration_seconds", "How long gates took to answer, by gate and answer.", func(m *metric, e emitter, s *hub.Stats) {
		for gate, answers := range s.Gates {
			for answer, h := range answers {
				e.histogram(m, &h, string(gate), string(answer))
			}
		}
	}, "gate", "answer"),
	histogram("publish_wait_seconds", "How long publishes waited for agents that lag, without those that did not wait.",
		func(m *metric, e emitter, s *hub.Stats) { e.histogram(m, &s.Held) }),
	histogram("fan_out_duration_seconds", "How long it took to queue a message for all its subscribers.",
		func(m *metric, e emitter, s *hub.Stats) { e.histogram(m, &s.FanOut) }),
	histogram("broker_publish_duration_seconds", "How long the engine took to take a message.", func(m *metric, e emitter, s *hub.Stats) {
		if s.Broker != nil {
			e.histogram(m, &s.Broker.Publishes)
		}
	}),
	histogram("session_duration_seconds", "How long sessions lasted that have ended, by transport.", func(m *metric, e emitter, s *hub.Stats) {
		for transport, h := range s.Sessions {
			e.histogram(m, &h, transport)
		}
	}, "transport"),
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

func itself[K ~string](label K) string { return string(label) }

// number returns a metric that is one number of a hub.
func number[N int | uint64](name, help string, kind prometheus.ValueType, of func(*hub.Stats) N) *metric {
	m := newMetric(name, help)
	m.read = func(e emitter, s *hub.Stats) { e.value(m, kind, float64(of(s))) }
	return m
}

// ofBroker returns a metric that only hubs on several machines have.
func ofBroker[N int | uint64](name, help string, kind prometheus.ValueType, of func(*hub.BrokerStats) N) *metric {
	m := newMetric(name, help)
	m.read = func(e emitter, s *hub.Stats) {
		if s.Broker != nil {
			e.value(m, kind, float64(of(s.Broker)))
		}
	}
	return m
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

// labelled returns a metric with a number for each value of a label.
func labelled[K comparable, N int | uint64](name, help string, kind prometheus.ValueType, label string, of func(*hub.Stats) map[K]N, text func(K) string) *metric {
	m := newMetric(name, help, label)
	m.read = func(e emitter, s *hub.Stats) {
		for key, n := range of(s) {
			e.value(m, kind, float64(n), text(key))
		}
	}
	return m
}

func histogram(name, help string, read func(*metric, emitter, *hub.Stats), labels ...string) *metric {
	m := newMetric(name, help, labels...)
	m.read = func(e emitter, s *hub.Stats) { read(m, e, s) }
	return m
}

func newMetric(name, help string, labels ...string) *metric {
	m := &metric{name: prometheus.BuildFQName("caddy", "pushit", name), labels: labels}
	m.desc = prometheus.NewDesc(m.name, help, append([]string{"hub"}, labels...), nil)
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
			m.read(emitter{name, to}, &stats)
		}
	}
}

// An emitter emits the metrics of one hub.
type emitter struct {
	hub string
	to  chan<- prometheus.Metric
}

func (e emitter) value(m *metric, kind prometheus.ValueType, v float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(m.desc, kind, v, append([]string{e.hub}, labels...)...)
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
