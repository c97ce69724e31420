// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/push-it/pushit/hub"
)

// defaultName is the name that the Caddyfile adapter writes. JSON has no default name.
const defaultName = "default"

// maxNameLength bounds the name of a hub, which becomes a label of metrics.
const maxNameLength = 64

// The ranges of Handler's durations.
const (
	minHeartbeat = time.Second // more frequent heartbeats would be most of the traffic
	maxHeartbeat = 10 * time.Minute
	minHandshake = time.Second // a slow phone needs this long to send its first frame
	maxHandshake = 5 * time.Minute
	minDrain     = time.Second // a distant client needs this long to answer
	maxDrain     = time.Minute
	minGrace     = time.Second // a backend needs this long to answer
	maxGrace     = 10 * time.Minute
)

// Limits restrict how much of the server agents can use. A limit that is missing or 0
// has its default; -1 means no limit where this is allowed. Sizes are in bytes. The
// fields are those of hub.Limits, to which it is converted.
type Limits struct {
	// The maximum size of one message that an agent sends, as JSON, with its channel and
	// uuid. Between 256 and 16777216. A larger message is refused; a much larger one
	// ends the session. Default: 65536 (64KiB).
	MessageSize int `json:"message_size,omitempty"`

	// The maximum size of the credentials that an agent connects with, as JSON. Between
	// 256 and 1048576. Default: 16384 (16KiB).
	CredentialsSize int `json:"credentials_size,omitempty"`

	// The maximum number of bytes in the name of a channel. Between 1 and 255. Default:
	// 255.
	NameLength int `json:"name_length,omitempty"`

	// The maximum number of channels and patterns that one agent is subscribed to.
	// Between 1 and 100000. Default: 128.
	ChannelsPerAgent int `json:"channels_per_agent,omitempty"`

	// The maximum number of channels and patterns of the hub that have subscribers; -1
	// for no limit. Default: 1000000.
	Channels int `json:"channels,omitempty"`

	// The maximum number of sessions of the hub; -1 for no limit. Default: 100000.
	Agents int `json:"agents,omitempty"`

	// The maximum number of sessions from one address (IPv6: one /64); -1 for no limit.
	// Default: 2000. An office behind one address needs fewer; a script that opens
	// sessions in a loop soon has more. All visitors behind a proxy share its address,
	// unless trusted_proxies lists the proxy.
	AgentsPerIP int `json:"agents_per_ip,omitempty"`

	// The maximum number of sessions from one address (IPv6: one /64) that are open, but
	// not connected yet; -1 for no limit. Default: 256.
	UnconnectedPerIP int `json:"unconnected_per_ip,omitempty"`

	// The maximum number of messages that wait for an agent. An agent that reads too
	// slowly and exceeds it is closed with code 4430. Between 16 and 1000000.
	// Default: 1024.
	QueueMessages int `json:"queue_messages,omitempty"`

	// The maximum number of bytes that wait for an agent, likewise. Between 4096 and
	// 1073741824, and at least twice message_size. Default: 1048576 (1MiB).
	QueueBytes int `json:"queue_bytes,omitempty"`

	// The approximate maximum memory for the messages that the hub keeps for `history`,
	// in bytes. When it is exceeded, the hub forgets the history of channels with the
	// oldest publishes first. Between 65536 and 1073741824. Default: 67108864 (64MiB).
	HistoryBytes int `json:"history_bytes,omitempty"`

	// How many frames of any kind an agent may send in a second; -1 for no limit. A
	// burst may have five seconds' worth. An agent that sends more is closed with code
	// 4429. Default: 100.
	FramesPerSecond int `json:"frames_per_second,omitempty"`

	// How many messages an agent may publish in a second; -1 for no limit. A burst may
	// have five seconds' worth. Further messages are refused. Default: 50.
	PublishesPerSecond int `json:"publishes_per_second,omitempty"`

	// How many messages all programs together may publish in a second with requests; -1
	// for no limit. A burst may have five seconds' worth. Further messages are refused
	// with status 429, and streams are slowed down. Default: 10000.
	APIPublishesPerSecond int `json:"api_publishes_per_second,omitempty"`
}

// A limit describes one field of Limits, for the Caddyfile and for checking.
type limit struct {
	name      string
	field     func(*Limits) *int
	size      bool // a number of bytes instead of a count
	min, max  int
	unlimited bool // hub.Unlimited is allowed
}

// maxCount is the maximum of counts without a lower one. It fits into the int of 32-bit
// machines.
const maxCount = 1_000_000_000

// maxHistoryBytes fits into the int of 32-bit machines.
const maxHistoryBytes = 1 << 30

var limitTable = []limit{
	{name: "message_size", field: func(l *Limits) *int { return &l.MessageSize }, size: true, min: 256, max: 16 << 20},
	{name: "credentials_size", field: func(l *Limits) *int { return &l.CredentialsSize }, size: true, min: 256, max: 1 << 20},
	{name: "name_length", field: func(l *Limits) *int { return &l.NameLength }, min: 1, max: hub.MaxNameLength},
	{name: "channels_per_agent", field: func(l *Limits) *int { return &l.ChannelsPerAgent }, min: 1, max: 100_000},
	{name: "channels", field: func(l *Limits) *int { return &l.Channels }, min: 1, max: maxCount, unlimited: true},
	{name: "agents", field: func(l *Limits) *int { return &l.Agents }, min: 1, max: maxCount, unlimited: true},
	{name: "agents_per_ip", field: func(l *Limits) *int { return &l.AgentsPerIP }, min: 1, max: maxCount, unlimited: true},
	{name: "unconnected_per_ip", field: func(l *Limits) *int { return &l.UnconnectedPerIP }, min: 1, max: maxCount, unlimited: true},
	{name: "queue_messages", field: func(l *Limits) *int { return &l.QueueMessages }, min: 16, max: 1_000_000},
	{name: "queue_bytes", field: func(l *Limits) *int { return &l.QueueBytes }, size: true, min: 4 << 10, max: 1 << 30},
	{name: "history_bytes", field: func(l *Limits) *int { return &l.HistoryBytes }, size: true, min: 64 << 10, max: maxHistoryBytes},
	{name: "frames_per_second", field: func(l *Limits) *int { return &l.FramesPerSecond }, min: 1, max: 1_000_000, unlimited: true},
	{name: "publishes_per_second", field: func(l *Limits) *int { return &l.PublishesPerSecond }, min: 1, max: 1_000_000, unlimited: true},
	{name: "api_publishes_per_second", field: func(l *Limits) *int { return &l.APIPublishesPerSecond }, min: 1, max: 10_000_000, unlimited: true},
}

// check returns an error if l does not allow the value v.
func (l *limit) check(v int) error {
	if v == hub.Unlimited && l.unlimited || v >= l.min && v <= l.max {
		return nil
	}
	if l.size {
		return fmt.Errorf("%s must be %s, not %d bytes", l.name, l.ranges(), v)
	}
	return fmt.Errorf("%s must be %s, not %d", l.name, l.ranges(), v)
}

// ranges describes the values that l allows.
func (l *limit) ranges() string {
	switch {
	case l.size:
		return "between " + formatSize(l.min) + " and " + formatSize(l.max)
	case l.unlimited:
		return fmt.Sprintf("between %d and %d, or unlimited (in JSON: -1)", l.min, l.max)
	default:
		return fmt.Sprintf("between %d and %d", l.min, l.max)
	}
}

// example returns a typical value of l for errors.
func (l *limit) example() string {
	defaults := Limits(hub.DefaultLimits)
	switch v := *l.field(&defaults); {
	case l.size:
		return formatSize(v)
	case v == hub.Unlimited:
		return "100"
	default:
		return strconv.Itoa(v)
	}
}

// parse reads a value of l from the Caddyfile.
func (l *limit) parse(text string) (int, error) {
	switch {
	case text == "unlimited" && l.unlimited:
		return hub.Unlimited, nil
	case l.unlimited && (text == "off" || text == "none" || text == "0" || text == "-1"):
		return 0, fmt.Errorf("%s: write unlimited for no limit, not %s", l.name, text)
	case text == "unlimited" || text == "off" || text == "none":
		return 0, fmt.Errorf("%s cannot be switched off: it must be %s", l.name, l.ranges())
	}
	v, err := l.number(text)
	if err != nil {
		return 0, err
	}
	return v, l.check(v)
}

func (l *limit) number(text string) (int, error) {
	if l.size {
		v, err := humanize.ParseBytes(text)
		if err != nil || v > 2*maxCount {
			return 0, fmt.Errorf("%s: %q is not a size %s: write a number of bytes, or a number with a unit, such as %s", l.name, text, l.ranges(), l.example())
		}
		return int(v), nil
	}
	v, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a whole number: write digits, such as %s", l.name, text, l.example())
	}
	return v, nil
}

// formatSize writes a size in the Caddyfile's syntax, such as 64KiB.
func formatSize(n int) string {
	number, unit, _ := strings.Cut(humanize.IBytes(uint64(n)), " ")
	return strings.TrimSuffix(number, ".0") + unit
}

// check returns the first error of a field of l, or of the fields together.
func (l *Limits) check() error {
	for i := range limitTable {
		if v := *limitTable[i].field(l); v != 0 {
			if err := limitTable[i].check(v); err != nil {
				return fmt.Errorf("limits: %w", err)
			}
		}
	}
	return l.checkQueue()
}

// checkQueue requires that the longest message fits into the queue. SockJS carries JSON
// in JSON strings, which can double its size.
func (l *Limits) checkQueue() error {
	all := hub.Limits(*l).WithDefaults()
	if all.QueueBytes < 2*all.MessageSize {
		return fmt.Errorf("limits: queue_bytes (%s) must be at least twice message_size (%s): write queue_bytes %s",
			formatSize(all.QueueBytes), formatSize(all.MessageSize), formatSize(2*all.MessageSize))
	}
	return nil
}

// checkRange returns an error if a duration is not between least and most. The error
// calls it name.
func checkRange(name string, d caddy.Duration, least, most time.Duration) error {
	if v := time.Duration(d); v < least || v > most {
		return fmt.Errorf("%s must be between %s and %s, not %s", name, shortDuration(least), shortDuration(most), shortDuration(v))
	}
	return nil
}

// shortDuration writes whole hours and minutes without the zeros: 5m, not 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// checkName returns an error if name cannot be the name of a hub.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case strings.ContainsAny(name, "{}"):
		return fmt.Errorf("placeholders are not expanded in the name %q; write an environment variable as {$NAME}", name)
	case len(name) > maxNameLength:
		return fmt.Errorf("the name %q is longer than %d bytes", name, maxNameLength)
	}
	for _, c := range name {
		if !nameChar(c) {
			return fmt.Errorf("the name %q contains %q; use only letters, digits, and - . _", name, c)
		}
	}
	return nil
}

func nameChar(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// setDrain sets how long h may drain: less than Caddy's grace period, which ends all
// requests. written means that the configuration has a drain.
func (h *Handler) setDrain(written bool) error {
	h.drain = time.Duration(h.Drain)
	if h.site.app == nil || h.site.app.GracePeriod <= 0 {
		return nil
	}
	grace := time.Duration(h.site.app.GracePeriod)
	if !written {
		h.drain = min(h.drain, grace*3/4)
		return nil
	}
	return checkDrain(h.drain, grace)
}

// checkDrain returns an error if the drain does not fit into Caddy's grace period.
func checkDrain(drain, grace time.Duration) error {
	if grace <= 0 || drain < grace {
		return nil
	}
	if proposed := (grace * 3 / 4).Truncate(time.Second); proposed >= minDrain {
		return fmt.Errorf("drain (%s) must be shorter than Caddy's grace_period (%s), after which Caddy closes all connections: write drain %s, or a longer grace_period",
			shortDuration(drain), shortDuration(grace), shortDuration(proposed))
	}
	return fmt.Errorf("drain (%s) must be shorter than Caddy's grace_period (%s), after which Caddy closes all connections: write a longer grace_period, or leave drain out",
		shortDuration(drain), shortDuration(grace))
}
