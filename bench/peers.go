// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// peersMany agents are connected, and stay idle, and then get peersManyRate messages a
	// second. peersFew get peersFewRate messages a second, and then all that follows.
	peersMany, peersManyRate = 5000, 5
	peersFew, peersFewRate   = 1000, 25
	// peersSize is the size of a message's data in bytes, as in fanout.
	peersSize = 128
	// peersBurst and peersFlood are how many messages are published at once.
	peersBurst, peersFlood = 20, 100
	// peersFloodAhead is how many bursts of a flood are published before the first of them
	// has arrived, so that the server never waits for the load.
	peersFloodAhead = 2
	peersRounds     = 5
	// peersWindow is how long messages are published at a steady rate, and peersRush how long
	// they are published in bursts.
	peersWindow, peersRush = 3 * time.Second, 2 * time.Second
	// peersSettle is the time between the last connection and the look at the memory.
	peersSettle = 4 * time.Second
	// peersWarm subscribers come and go before anything is measured. They make the server
	// load its code, and allocate what all subscribers share.
	peersWarm = 64
)

// A peer is a server that is measured beside others.
type peer struct {
	name string
	// start starts the server as a process of its own.
	start func(context.Context) (*peerServer, error)
	// subscribe opens a connection, and subscribes to peersChannel.
	subscribe func(context.Context, target) (*subscriber, error)
	// publisher connects a publisher. One of the subscribers is there already.
	publisher func(context.Context, target, *subscriber) (*publisher, error)
}

// peersChannel is the channel of all subscribers.
const peersChannel = "news"

// A publisher publishes messages, n at once, and returns when the server has them or
// they are on their way to it.
type publisher struct {
	publish func(ctx context.Context, n int) error
	close   func()
}

// peersLoad is how large the load is.
type peersLoad struct {
	many, few, rounds    int
	window, rush, settle time.Duration
}

func runPeers(ctx context.Context, r *report, o options) error {
	load := peersLoad{peersMany, peersFew, peersRounds, peersWindow, peersRush, peersSettle}
	if o.short {
		load = peersLoad{200, 100, 1, time.Second, time.Second, time.Second}
	}
	load.many, load.few = orDefault(o.agents, load.many), orDefault(o.agents, load.few)
	all, left := peersOf(o)
	for _, name := range left {
		fmt.Fprintf(r.w, "INFO %s is left out: name its program with -peer %s=path\n", name, name)
	}
	r.note("%d rounds, in each of which every server is started anew, in turns; each figure is the median (least to most);", load.rounds)
	r.note("processor time, user and system, of the server's processes; the load is another process on the same machine; no TLS;")
	r.note("all subscribers have one channel; %d bytes a message; memory %v after the last connection, VmRSS, no collection forced", peersSize, load.settle)
	var rounds [][]peerFigures
	for round := range load.rounds {
		figures, err := peersRound(ctx, all, round, load)
		if err != nil {
			return err
		}
		rounds = append(rounds, figures)
	}
	if err := printPeers(r.w, all, rounds, load); err != nil {
		return err
	}
	if !o.short && o.agents == 0 { // the limits are those of the full load
		checkPeers(r, rounds, load)
	}
	return nil
}

// peersOf returns the peers to measure, and the names of those whose program is not given.
func peersOf(o options) (all []peer, left []string) {
	all = []peer{barePeer(), pushitPeer(o.caddy)}
	for _, name := range peerNames {
		if path := o.peers[name]; path != "" {
			all = append(all, peerMakers[name](path))
		} else {
			left = append(left, name)
		}
	}
	return all, left
}

// peerNames are the names of those that need a program, in the order of the table.
var peerNames = []string{"bun", "centrifugo", "mercure"}

var peerMakers = map[string]func(path string) peer{
	"bun":        bunPeer,
	"centrifugo": centrifugoPeer,
	"mercure":    mercurePeer,
}

// givePeer takes an argument of -peer: a name and the path of its program.
func (o *options) givePeer(argument string) error {
	name, path, found := strings.Cut(argument, "=")
	if _, known := peerMakers[name]; !found || !known {
		return fmt.Errorf("want name=path; the names are %s", strings.Join(peerNames, ", "))
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err != nil {
		return err
	} else if info.IsDir() {
		return fmt.Errorf("%s is a folder", path)
	}
	if o.peers == nil {
		o.peers = make(map[string]string)
	}
	o.peers[name] = path
	return nil
}

// peerFigures are what one round found out about a peer.
type peerFigures struct {
	memory       float64       // bytes resident for each idle subscriber
	connect      time.Duration // processor time of a connection and a subscription
	few, many    time.Duration // processor time of a delivery at a steady rate
	joined       time.Duration // the same in bursts
	flood        time.Duration // the same as fast as the server can
	floodsSecond float64       // deliveries a second
}

// peersRound measures all peers, each round in another order.
func peersRound(ctx context.Context, all []peer, round int, load peersLoad) ([]peerFigures, error) {
	figures := make([]peerFigures, len(all))
	for i := range all {
		i = (i + round) % len(all)
		f, err := measurePeer(ctx, all[i], load)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", all[i].name, err)
		}
		figures[i] = f
	}
	return figures, nil
}

// measurePeer starts a peer twice: for the large crowd, and for the small one.
func measurePeer(ctx context.Context, p peer, load peersLoad) (f peerFigures, err error) {
	err = withPeer(ctx, p, func(s *peerServer) error { return f.withMany(ctx, p, s, load) })
	if err != nil {
		return f, err
	}
	err = withPeer(ctx, p, func(s *peerServer) error { return f.withFew(ctx, p, s, load) })
	return f, err
}

// withPeer starts a peer and warms it up.
func withPeer(ctx context.Context, p peer, use func(*peerServer) error) error {
	s, err := p.start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	err = withAudience(ctx, p, s, peersWarm, func(a *audience) error {
		for range 10 {
			if err := a.publish(ctx, 1, 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = use(s)
	}
	if err != nil {
		return errors.Join(err, s.complaint())
	}
	return nil
}

// withMany measures connecting, the memory of idle subscribers, and deliveries to many.
func (f *peerFigures) withMany(ctx context.Context, p peer, s *peerServer, load peersLoad) error {
	if err := pause(ctx, min(load.settle, time.Second)); err != nil {
		return err
	}
	before, err := s.memory()
	if err != nil {
		return err
	}
	began, err := s.processorTime()
	if err != nil {
		return err
	}
	return withAudience(ctx, p, s, load.many, func(a *audience) error {
		ended, err := s.processorTime()
		if err != nil {
			return err
		}
		f.connect = (ended - began) / time.Duration(load.many)
		if err := pause(ctx, load.settle); err != nil {
			return err
		}
		after, err := s.memory()
		if err != nil {
			return err
		}
		f.memory = float64(after-before) / float64(load.many)
		f.many, err = a.steadily(ctx, peersManyRate, load.window)
		return err
	})
}

// withFew measures deliveries to few: at a steady rate, in bursts, and as fast as possible.
func (f *peerFigures) withFew(ctx context.Context, p peer, s *peerServer, load peersLoad) error {
	return withAudience(ctx, p, s, load.few, func(a *audience) (err error) {
		if f.few, err = a.steadily(ctx, peersFewRate, load.window); err != nil {
			return err
		}
		if f.joined, _, err = a.atOnce(ctx, peersBurst, 1, load.rush); err != nil {
			return err
		}
		f.flood, f.floodsSecond, err = a.atOnce(ctx, peersFlood, peersFloodAhead, load.rush)
		return err
	})
}

// steadily publishes at a steady rate, and returns the processor time of a delivery.
func (a *audience) steadily(ctx context.Context, rate int, window time.Duration) (time.Duration, error) {
	if err := a.publish(ctx, 1, 1); err != nil { // to warm up
		return 0, err
	}
	every := time.Second / time.Duration(rate)
	n := max(1, int(window/every))
	begun := time.Now()
	return a.weigh(n, func() error {
		for i := range n {
			if err := pause(ctx, time.Until(begun.Add(time.Duration(i)*every))); err != nil {
				return err
			}
			if err := a.publisher.publish(ctx, 1); err != nil {
				return err
			}
		}
		a.published += int64(n)
		return a.await(ctx, a.published)
	})
}

// atOnce publishes bursts of n messages until window is over. It goes on until the server's
// processor time has changed, which systems count in steps. At most ahead bursts are under way.
// It returns the processor time of a delivery, and how many deliveries there were a second.
func (a *audience) atOnce(ctx context.Context, n, ahead int, window time.Duration) (each time.Duration, perSecond float64, err error) {
	if err := a.publish(ctx, n, 1); err != nil { // to warm up
		return 0, 0, err
	}
	before, err := a.server.processorTime()
	if err != nil {
		return 0, 0, err
	}
	begun, first := time.Now(), a.published
	after := before
	for after == before {
		for more := true; more; more = time.Since(begun) < window {
			if err := a.publish(ctx, n, ahead); err != nil {
				return 0, 0, err
			}
		}
		if err := a.await(ctx, a.published); err != nil {
			return 0, 0, err
		}
		if after, err = a.server.processorTime(); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(begun)
	deliveries := float64(a.published-first) * float64(len(a.subscribers))
	return time.Duration(float64(after-before) / deliveries), deliveries / took.Seconds(), nil
}

// weigh returns the processor time for each of the deliveries of n messages.
func (a *audience) weigh(n int, work func() error) (time.Duration, error) {
	before, err := a.server.processorTime()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := a.server.processorTime()
	return (after - before) / time.Duration(n*len(a.subscribers)), err
}

// A spread is the middle of some figures, and the range of them.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + middle) / 2
	}
	return spread{middle, v[0], v[len(v)-1]}
}

// String prints up to three digits behind the point: fewer of large figures.
func (s spread) String() string {
	digits := 2
	if s.median < 0.1 {
		digits = 3
	}
	if s.median >= 10 {
		digits = 1
	}
	if s.median >= 100 {
		digits = 0
	}
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, s.median, digits, s.least, digits, s.most)
}
