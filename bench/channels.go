// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// mostChannelMemory and mostPatternMemory are what a channel or a pattern with one
	// subscriber may take of the heap, with the subscription.
	mostChannelMemory, mostPatternMemory = 700, 700 // bytes
	// mostSpread is how much more a publish may cost when there are many channels.
	mostSpread = 1.5
	// channelDeliveries is the number of publishes behind each figure.
	channelDeliveries = 20_000
)

// channelsCaddyfile configures the server. Arguments: directory, address.
const channelsCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name channels
		default allow
		heartbeat 1m
		limits {
			agents_per_ip unlimited
			unconnected_per_ip unlimited
			frames_per_second unlimited
			publishes_per_second unlimited
		}
	}
}
`

// A channelsLoad is a number of agents and of their channels.
type channelsLoad struct {
	agents, each  int // channels of each agent
	patterns      int // in all
	most          int // channels of one agent, the default limit
	hot           int // subscribers of the hot channel
	quiet         int // agents with a quiet channel each
	window        time.Duration
	every         time.Duration // between messages on the hot channel
	publishesEach int           // of each publisher
}

// runChannels measures many channels: their memory, what a publish costs, and whether a hot
// channel delays quiet ones.
func runChannels(ctx context.Context, r *report, o options) error {
	load := channelsLoad{agents: 1000, each: 100, patterns: 10_000, most: 128, hot: 500, quiet: 50, window: 5 * time.Second, every: 40 * time.Millisecond, publishesEach: 200}
	if o.short {
		load = channelsLoad{agents: 20, each: 100, patterns: 200, most: 128, hot: 20, quiet: 5, window: time.Second, every: 20 * time.Millisecond, publishesEach: 20}
	}
	load.agents = orDefault(o.agents, load.agents)
	c := &channels{load: load}
	if err := raiseFiles(load.agents + load.hot + load.quiet + 500); err != nil {
		return err
	}
	var err error
	if c.server, err = startServer(ctx, o.caddy); err != nil {
		return err
	}
	defer c.server.stop()
	if c.at, err = c.server.serve(ctx, channelsCaddyfile); err != nil {
		return err
	}
	if c.all, err = gather(ctx, load.agents, c.at, bare, func(int) agentOptions {
		return agentOptions{onMessage: func([]byte) { c.got.Add(1) }}
	}); err != nil {
		return err
	}
	defer c.all.vanish()
	for _, part := range []func(context.Context, *report) error{c.measureMany, c.measureOne, c.measurePatterns, c.measureHot} {
		if err := part(ctx, r); err != nil {
			return errors.Join(err, c.server.alive())
		}
	}
	lost, why := c.all.lost()
	r.exactly(0, "agents", float64(lost), "lost")
	return why
}

// channels is the state of this measurement.
type channels struct {
	load   channelsLoad
	server *server
	at     target
	all    crowd
	got    atomic.Int64 // answers to subscribes, and messages
}

// name returns the name of a channel of an agent.
func (c *channels) name(agent, i int) string { return fmt.Sprintf("sites/%d/stories/%d", agent, i) }

// subscribe has each agent subscribe to n channels or patterns, and waits for the answers.
func (c *channels) subscribe(ctx context.Context, agents crowd, n int, name func(agent, i int) string) error {
	want := c.got.Load() + int64(n*len(agents))
	err := each(len(agents), func(agent int) error {
		var frames [][]byte
		for i := range n {
			frames = append(frames, fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":%q,"data":{"channel":%q}}`, agents[agent].nextUUID(), name(agent, i)))
		}
		return agents[agent].send(frames...)
	})
	if err != nil {
		return err
	}
	return c.await(ctx, want)
}

func (c *channels) await(ctx context.Context, want int64) error {
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return until(within, time.Millisecond, "waiting for what was sent", func() (bool, error) { return c.got.Load() >= want, nil })
}

// heap returns the live heap of the server.
func (c *channels) heap(ctx context.Context) (float64, error) {
	if _, err := c.server.settled(ctx); err != nil {
		return 0, err
	}
	m, err := c.server.memory(ctx)
	return float64(m.HeapAlloc), err
}

// publishing has each agent publish on the channel of that name, to which one agent is
// subscribed. It returns the cost of a publish.
func (c *channels) publishing(ctx context.Context, name func(agent, i int) string) (cost, error) {
	rounds := min(max(1, channelDeliveries/len(c.all)), c.load.publishesEach)
	var best cost
	for range fanoutRuns {
		one, err := weighWork(c.server.pid(), float64(rounds*len(c.all)), nil, func() error {
			for round := range rounds {
				want := c.got.Load() + int64(len(c.all))
				if err := each(len(c.all), func(i int) error { return c.all[i].publish(name(i, round), []byte(`"hello"`)) }); err != nil {
					return err
				}
				if err := c.await(ctx, want); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return best, err
		}
		best = one.better(best)
	}
	return best, nil
}

// measureMany measures many channels with one subscriber each.
func (c *channels) measureMany(ctx context.Context, r *report) error {
	if err := c.subscribe(ctx, c.all, 1, c.name); err != nil {
		return err
	}
	first := func(agent, _ int) string { return c.name(agent, 0) }
	few, err := c.publishing(ctx, first)
	if err != nil {
		return err
	}
	before, err := c.heap(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := c.subscribe(ctx, c.all, c.load.each-1, func(agent, i int) string { return c.name(agent, i+1) }); err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := c.heap(ctx)
	if err != nil {
		return err
	}
	many, err := c.publishing(ctx, func(agent, i int) string { return c.name(agent, i%c.load.each) })
	if err != nil {
		return err
	}
	n := c.load.agents * c.load.each
	added := float64(n - c.load.agents)
	r.atMost(mostChannelMemory, "bytes", (after-before)/added, "%d channels with a subscriber each: heap of each, with the subscription", n)
	r.info("us", float64(took.Microseconds())/added, "%d channels: subscribing, all agents at once, for each", n)
	r.info("us", microseconds(few.cpu), "%d channels: publishing and delivering to one agent, processor time", c.load.agents)
	r.info("us", microseconds(many.cpu), "%d channels: publishing and delivering to one agent, processor time", n)
	if c.load.agents < 1000 { // too few publishes to compare
		return nil
	}
	r.atMost(mostSpread, "times", float64(many.cpu)/float64(few.cpu), "%d channels: of what it costs with %d", n, c.load.agents)
	return nil
}

// measureOne measures one agent with as many channels as it may have.
func (c *channels) measureOne(ctx context.Context, r *report) error {
	var got atomic.Int64
	a, err := come(ctx, c.at, bare, agentOptions{onMessage: func([]byte) { got.Add(1); c.got.Add(1) }})
	if err != nil {
		return err
	}
	defer a.vanish()
	name := func(_, i int) string { return fmt.Sprintf("one/%d", i) }
	if err := c.subscribe(ctx, crowd{a}, c.load.most, name); err != nil {
		return err
	}
	got.Store(0)
	want := c.got.Load() + int64(c.load.most)
	for i := range c.load.most {
		if err := c.all[0].publish(name(0, i), []byte(`"hello"`)); err != nil {
			return err
		}
	}
	if err := c.await(ctx, want); err != nil {
		return err
	}
	r.exactly(float64(c.load.most), "messages", float64(got.Load()), fmt.Sprintf("an agent on %d channels: of one message on each", c.load.most))
	return nil
}

// measurePatterns measures many patterns with one subscriber each.
func (c *channels) measurePatterns(ctx context.Context, r *report) error {
	agents := c.all[:min(len(c.all), c.load.patterns/10)]
	perAgent := c.load.patterns / len(agents)
	if perAgent > c.load.most-c.load.each {
		return fmt.Errorf("%d agents cannot have %d patterns", len(agents), c.load.patterns)
	}
	before, err := c.heap(ctx)
	if err != nil {
		return err
	}
	if err := c.subscribe(ctx, agents, perAgent, func(agent, i int) string { return fmt.Sprintf("rooms/%d-%d/*", agent, i) }); err != nil {
		return err
	}
	after, err := c.heap(ctx)
	if err != nil {
		return err
	}
	n := perAgent * len(agents)
	through, err := c.publishing(ctx, func(agent, i int) string {
		return fmt.Sprintf("rooms/%d-%d/talk", agent%len(agents), i%perAgent)
	})
	if err != nil {
		return err
	}
	beside, err := c.publishing(ctx, func(agent, i int) string { return c.name(agent, i%c.load.each) })
	if err != nil {
		return err
	}
	r.atMost(mostPatternMemory, "bytes", (after-before)/float64(n), "%d patterns with a subscriber each: heap of each, with the subscription", n)
	r.info("us", microseconds(through.cpu), "%d patterns: publishing to the one that matches, processor time", n)
	r.info("us", microseconds(beside.cpu), "%d patterns: publishing to a channel that no pattern matches, processor time", n)
	return nil
}

// warmChannels is the number of channels over which the load of the hot channel is spread
// for comparison.
const warmChannels = 10

// measureHot measures quiet channels: alone, beside a hot channel, and beside the same load on
// several channels. If the last two do not differ, the load of the machine delays quiet
// channels, and not the hot channel itself.
func (c *channels) measureHot(ctx context.Context, r *report) error {
	clock := &latencies{start: time.Now()}
	quiet, err := gather(ctx, c.load.quiet, c.at, bare, func(i int) agentOptions {
		return agentOptions{subscribe: []string{fmt.Sprintf("quiet/%d", i)}, onMessage: clock.take}
	})
	if err != nil {
		return err
	}
	defer quiet.vanish()
	var hot atomic.Int64
	warm := func(i int) string { return fmt.Sprintf("warm/%d", i%warmChannels) }
	listeners, err := gather(ctx, c.load.hot, c.at, bare, func(i int) agentOptions {
		return agentOptions{subscribe: []string{"hot", warm(i)}, onMessage: func([]byte) { hot.Add(1) }}
	})
	if err != nil {
		return err
	}
	defer listeners.vanish()
	p99 := make([][]time.Duration, 3)
	var want int64
	for range fanoutRuns {
		for i, burn := range []func() error{
			nil,
			func() error { return listeners[0].publish("hot", []byte(`"hello"`)) },
			func() error {
				for i := range warmChannels {
					if err := listeners[0].publish(warm(i), []byte(`"hello"`)); err != nil {
						return err
					}
				}
				return nil
			},
		} {
			took, times, err := c.beside(ctx, quiet, clock, burn)
			if err != nil {
				return err
			}
			p99[i] = append(p99[i], took)
			want += int64(times * c.load.hot)
		}
	}
	if err := untilWithin(ctx, startTimeout, often, "waiting for the hot channel", func() (bool, error) { return hot.Load() >= want, nil }); err != nil {
		return err
	}
	r.exactly(float64(want), "deliveries", float64(hot.Load()), fmt.Sprintf("a hot channel with %d subscribers, a message every %v", c.load.hot, c.load.every))
	r.info("ms", milliseconds(median(p99[0])), "%d quiet channels, a message every %v on each: p99 latency, median of %d", c.load.quiet, quietEvery, fanoutRuns)
	r.info("ms", milliseconds(median(p99[1])), "the same beside the hot channel")
	r.info("ms", milliseconds(median(p99[2])), "the same beside the same load on %d channels", warmChannels)
	return nil
}

// beside calls burn again and again. It returns the p99 latency of quiet channels meanwhile,
// and the number of calls.
func (c *channels) beside(ctx context.Context, quiet crowd, clock *latencies, burn func() error) (p99 time.Duration, times int, err error) {
	burning, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var failure error
	if burn != nil {
		wg.Go(func() {
			for failure == nil && pause(burning, c.load.every) == nil {
				failure = burn()
				times++
			}
		})
	}
	p99, err = c.quietly(ctx, quiet, clock)
	stop()
	wg.Wait()
	return p99, times, errors.Join(err, failure)
}

// quietEvery is the time between two messages on a quiet channel.
const quietEvery = 20 * time.Millisecond

// quietly has each agent publish on its own channel, and returns the p99 latency.
func (c *channels) quietly(ctx context.Context, quiet crowd, clock *latencies) (time.Duration, error) {
	rounds := int(c.load.window / quietEvery)
	clock.reset(rounds * len(quiet))
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	for range rounds {
		<-tick.C
		for i, a := range quiet {
			if err := a.publish(fmt.Sprintf("quiet/%d", i), fmt.Appendf(nil, `"%s%d;"`, stampMark, time.Since(clock.start))); err != nil {
				return 0, err
			}
		}
	}
	want := int64(rounds * len(quiet))
	if err := until(ctx, often, "waiting for quiet channels", func() (bool, error) { return clock.count.Load() >= want, nil }); err != nil {
		return 0, err
	}
	return clock.percentile(0.99), nil
}
