// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The measurements of three Caddys over three NATS servers, which keep each message three
// times. All run on this machine, together with the load, so the rate is lower than on six
// machines.
const (
	clusterSize       = 3
	clusterEvery      = time.Millisecond // between two messages, for the latency
	clusterLasts      = 20 * time.Second
	latencyPublishers = 16
	clusterPublishers = 64     // at each Caddy, for the rate
	clusterRate       = 10_000 // publishes a second
	clusterRateLasts  = time.Minute
	clusterChannels   = 100_000

	mostClusterMedian = 3 * time.Millisecond
	mostClusterP99    = 15 * time.Millisecond
	mostJoin          = 10 * time.Second
)

// clusterCaddyfile configures one of the Caddys. The queues are long: one agent gets all
// messages of the rate, and shares the processors with everything that makes them.
// Arguments: directory, address, addresses of the NATS servers, the name of the node.
const clusterCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name cluster
		default allow
		api bearer "` + programSecret + `"
		broker nats %[3]s {
			node %[4]s
			replicas 3
			max_bytes 1GiB
		}
		history 10 1h
		limits {
			agents_per_ip unlimited
			frames_per_second unlimited
			publishes_per_second unlimited
			api_publishes_per_second unlimited
			queue_messages 100000
			queue_bytes 64MiB
		}
	}
}
`

// A machine is a Caddy of the cluster.
type machine struct {
	*server
	at target
}

// A cluster has the Caddys and NATS servers that are measured.
type cluster struct {
	caddy    string
	dir      string
	nats     []*exec.Cmd
	urls     string
	machines []machine
}

// runCluster measures three Caddys that share their channels.
func runCluster(ctx context.Context, r *report, o options) error {
	c, err := startCluster(ctx, o.caddy)
	if err != nil {
		return err
	}
	defer c.stop()
	lasts, rateLasts, channels := clusterLasts, clusterRateLasts, clusterChannels
	if o.short {
		lasts, rateLasts, channels = time.Second, time.Second, 1_000
	}
	if err := c.latency(ctx, r, lasts, o.short); err != nil {
		return err
	}
	if err := c.rate(ctx, r, rateLasts, o.short); err != nil {
		return err
	}
	return c.late(ctx, r, channels)
}

// startCluster starts three Caddys and three NATS servers. The caller stops them.
func startCluster(ctx context.Context, caddy string) (_ *cluster, err error) {
	c := &cluster{caddy: caddy}
	if c.dir, err = os.MkdirTemp("", "pushit-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err := c.startNATS(ctx); err != nil {
		return nil, err
	}
	for range clusterSize {
		if _, err := c.join(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// alive returns why one of the Caddys does not run.
func (c *cluster) alive() error {
	var errs []error
	for _, m := range c.machines {
		errs = append(errs, m.alive())
	}
	return errors.Join(errs...)
}

// buildNATS returns the path of nats-server: PUSHIT_NATS_SERVER, or one that it builds.
func buildNATS(ctx context.Context, dir string) (string, error) {
	if binary := os.Getenv("PUSHIT_NATS_SERVER"); binary != "" {
		return filepath.Abs(binary)
	}
	binary := filepath.Join(dir, "nats-server")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "../test", "-o", binary, "github.com/nats-io/nats-server/v2") //nolint:gosec // G204: a folder made here
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building nats-server: %w\n%s", err, out)
	}
	return binary, nil
}

func (c *cluster) startNATS(ctx context.Context) error {
	binary, err := buildNATS(ctx, c.dir)
	if err != nil {
		return err
	}
	var clients, routes []string
	for range clusterSize {
		a, b, err := freeAddresses()
		if err != nil {
			return err
		}
		clients, routes = append(clients, "nats://"+a), append(routes, "nats://"+b)
	}
	c.urls = strings.Join(clients, " ")
	for i := range clusterSize {
		store := filepath.Join(c.dir, fmt.Sprint("nats-", i))
		config := fmt.Sprintf(`server_name: n%d
listen: "%s"
jetstream { store_dir: "%s", max_file_store: 4GB }
cluster { name: bench, listen: "%s", routes: ["%s"] }
`, i, strings.TrimPrefix(clients[i], "nats://"), store, strings.TrimPrefix(routes[i], "nats://"), strings.Join(routes, `", "`))
		path := store + ".conf"
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return err
		}
		cmd := exec.Command(binary, "-c", path, "-l", store+".log") //nolint:gosec // G204: made here
		if err := cmd.Start(); err != nil {
			return err
		}
		c.nats = append(c.nats, cmd)
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, url := range clients {
		err := until(within, often, "waiting for NATS", func() (bool, error) {
			conn, err := new(net.Dialer).DialContext(within, "tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				return false, nil //nolint:nilerr // not yet
			}
			return true, conn.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// join starts one more Caddy, and waits until it takes publishes.
func (c *cluster) join(ctx context.Context) (m machine, err error) {
	if m.server, err = startServer(ctx, c.caddy); err != nil {
		return m, err
	}
	c.machines = append(c.machines, m)
	if m.at, err = m.serve(ctx, clusterCaddyfile, c.urls, fmt.Sprint("node-", len(c.machines))); err != nil {
		return m, err
	}
	c.machines[len(c.machines)-1] = m
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	err = until(within, often, "waiting for the cluster", func() (bool, error) {
		if _, err := m.post(within, "application/json", `{"channel":"begin","data":1}`); err != nil {
			if within.Err() == nil {
				last = err
			}
			return false, m.alive()
		}
		return true, nil
	})
	if err != nil {
		err = errors.Join(err, last)
	}
	return m, err
}

func (c *cluster) stop() {
	for _, m := range c.machines {
		m.stop()
	}
	for _, cmd := range c.nats {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	_ = os.RemoveAll(c.dir)
}

// post publishes with a request, and returns the lines of the answer.
func (m machine) post(ctx context.Context, contentType, body string) (lines []string, err error) {
	r, err := publishRequest(ctx, m.at, "/push", contentType, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		lines = append(lines, scan.Text())
	}
	if resp.StatusCode != http.StatusOK {
		return lines, fmt.Errorf("%s: %s", resp.Status, lines)
	}
	return lines, scan.Err()
}

// latency publishes at one machine, and measures when others get the messages.
func (c *cluster) latency(ctx context.Context, r *report, lasts time.Duration, short bool) error {
	clock := &latencies{start: time.Now()}
	for _, m := range c.machines[1:] {
		a, err := come(ctx, m.at, bare, agentOptions{subscribe: []string{"latency"}, onMessage: clock.take})
		if err != nil {
			return err
		}
		defer a.Cut()
	}
	// The messages of one agent wait for each other, so one is not enough.
	publishers, err := gather(ctx, latencyPublishers, c.machines[0].at, bare, func(int) agentOptions { return agentOptions{} })
	if err != nil {
		return err
	}
	defer publishers.vanish()
	total := int(lasts / clusterEvery)
	deliveries := total * (clusterSize - 1)
	clock.reset(deliveries)
	watch, err := startWatch(append(c.pids(), os.Getpid())...)
	if err != nil {
		return err
	}
	begun := time.Since(clock.start)
	for i := range total {
		due := begun + time.Duration(i)*clusterEvery
		if err := pause(ctx, due-time.Since(clock.start)); err != nil {
			return err
		}
		if err := publishers[i%latencyPublishers].publish("latency", fmt.Appendf(nil, `"%s%d;"`, stampMark, due)); err != nil {
			return err
		}
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = until(within, often, "waiting for all messages", func() (bool, error) {
		if lost, why := publishers.lost(); lost > 0 {
			return false, why
		}
		return clock.count.Load() >= int64(deliveries), nil
	})
	if err != nil {
		return fmt.Errorf("%w: %d of %d deliveries", err, clock.count.Load(), deliveries)
	}
	others, err := watch.others()
	if err != nil {
		return err
	}
	r.note("other processes had %.0f %% of the machine", 100*others)
	median, p99 := clock.percentile(0.5), clock.percentile(0.99)
	const what = "from publish at one machine to receipt at the others, 1000 a second, "
	if short {
		r.info("ms", milliseconds(median), what+"median")
		r.info("ms", milliseconds(p99), what+"p99")
		return nil
	}
	r.atMost(milliseconds(mostClusterMedian), "ms", milliseconds(median), what+"median")
	r.atMost(milliseconds(mostClusterP99), "ms", milliseconds(p99), what+"p99")
	return nil
}

func (c *cluster) pids() (all []int) {
	for _, m := range c.machines {
		all = append(all, m.pid())
	}
	for _, cmd := range c.nats {
		all = append(all, cmd.Process.Pid)
	}
	return all
}

// rate has agents at all machines publish, each the next message when its last one was
// acknowledged, and counts the messages that one agent at each machine gets.
func (c *cluster) rate(ctx context.Context, r *report, lasts time.Duration, short bool) error {
	var got [clusterSize]atomic.Int64
	var crowds [clusterSize]crowd
	var listeners crowd
	for i, m := range c.machines {
		a, err := come(ctx, m.at, bare, agentOptions{subscribe: []string{"rate/*"}, onMessage: func(p []byte) {
			got[i].Add(int64(bytes.Count(p, []byte(`"channel":"rate/`))))
		}})
		if err != nil {
			return err
		}
		defer a.Cut()
		listeners = append(listeners, a)
		crowds[i], err = gather(ctx, clusterPublishers, m.at, bare, func(int) agentOptions { return agentOptions{} })
		if err != nil {
			return err
		}
		defer crowds[i].vanish()
	}
	data := []byte(`"` + strings.Repeat("x", durableData-2) + `"`)
	before, natsBefore, err := c.cpu()
	if err != nil {
		return err
	}
	// The agents publish at the limit and a fifth more. At full speed, the measurement
	// would show only what an overloaded machine does.
	pace := time.Duration(float64(clusterSize*clusterPublishers) / (1.2 * clusterRate) * float64(time.Second))
	var all sync.WaitGroup
	var acknowledged, refused atomic.Int64
	begun := time.Now()
	end := begun.Add(lasts)
	for i, crowd := range crowds {
		for p, a := range crowd {
			all.Go(func() {
				if !a.publishUntil(ctx, end, pace, fmt.Sprintf("rate/%d-%d", i, p), data) {
					return
				}
				acknowledged.Add(a.acknowledged.Load() - a.refused.Load())
				refused.Add(a.refused.Load())
			})
		}
	}
	all.Wait()
	took := time.Since(begun)
	after, natsAfter, err := c.cpu()
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	complete := func() bool {
		for i := range got {
			if got[i].Load() < acknowledged.Load() {
				return false
			}
		}
		return true
	}
	if err := until(within, often, "waiting for all messages", func() (bool, error) {
		if lost, why := listeners.lost(); lost > 0 {
			return false, why
		}
		return complete(), nil
	}); err != nil {
		return fmt.Errorf("%w: %d, %d and %d of %d", err, got[0].Load(), got[1].Load(), got[2].Load(), acknowledged.Load())
	}
	rate := float64(acknowledged.Load()) / took.Seconds()
	what := fmt.Sprintf("publishes of %d bytes from %d agents at three machines, for %v", durableData, clusterSize*clusterPublishers, lasts)
	if short {
		r.info("a second", rate, "%s", what)
	} else {
		r.atLeast(clusterRate, "a second", rate, "%s", what)
		r.exactly(0, "publishes", float64(refused.Load()), "refused of these")
	}
	each := func(d time.Duration) float64 { return microseconds(d / time.Duration(max(acknowledged.Load(), 1))) }
	r.info("us", each(after-before), "of processor time for each, in three Caddys")
	r.info("us", each(natsAfter-natsBefore), "of processor time for each, in three NATS servers")
	return nil
}

// publishUntil publishes data until end, the next time when the last message was
// acknowledged and pace is over. It reports whether the session lasted that long.
func (a *agent) publishUntil(ctx context.Context, end time.Time, pace time.Duration, channel string, data []byte) bool {
	next := time.Now()
	for n := int64(1); time.Now().Before(end); n++ {
		if err := a.publish(channel, data); err != nil {
			return false
		}
		for a.acknowledged.Load() < n {
			select {
			case <-a.answered:
			case <-a.done:
				return false
			case <-ctx.Done():
				return false
			}
		}
		if next = next.Add(pace); pause(ctx, time.Until(next)) != nil {
			return false
		}
	}
	return true
}

// cpu returns the processor time of all Caddys, and that of all NATS servers.
func (c *cluster) cpu() (caddys, nats time.Duration, err error) {
	for i, pid := range c.pids() {
		user, system, err := cpuTime(pid)
		if err != nil {
			return 0, 0, err
		}
		if i < len(c.machines) {
			caddys += user + system
		} else {
			nats += user + system
		}
	}
	return caddys, nats, nil
}

// late publishes once on each of many channels, and has one more machine join.
func (c *cluster) late(ctx context.Context, r *report, channels int) error {
	const batch = 16 // the most messages of one request
	var all sync.WaitGroup
	errs := make([]error, clusterSize)
	for i, m := range c.machines {
		all.Go(func() {
			var body strings.Builder
			for from := i * batch; from < channels; from += clusterSize * batch {
				names := make([]string, 0, batch)
				for n := from; n < min(from+batch, channels); n++ {
					names = append(names, fmt.Sprintf("late/%d", n))
				}
				line, err := json.Marshal(map[string]any{"channels": names, "data": "x"})
				if err != nil {
					errs[i] = err
					return
				}
				body.Write(append(line, '\n'))
			}
			lines, err := m.post(ctx, "application/x-ndjson", body.String())
			if err != nil {
				errs[i] = err
			}
			for _, line := range lines {
				if strings.Contains(line, `"error"`) {
					errs[i] = errors.New(line)
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m, err := startServer(ctx, c.caddy)
	if err != nil {
		return err
	}
	c.machines = append(c.machines, machine{server: m})
	begun := time.Now()
	at, err := m.serve(ctx, clusterCaddyfile, c.urls, fmt.Sprint("node-", len(c.machines)))
	if err != nil {
		return err
	}
	// It has joined when it has the history of all channels, and takes publishes.
	if err := has(ctx, at, "late/0"); err != nil {
		return err
	}
	if err := has(ctx, at, fmt.Sprintf("late/%d", channels-1)); err != nil {
		return err
	}
	joined := machine{m, at}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = until(within, often, "publishing at the new machine", func() (bool, error) {
		_, err := joined.post(within, "application/json", `{"channel":"late/0","data":1}`)
		return err == nil, m.alive()
	})
	if err != nil {
		return err
	}
	r.atMost(mostJoin.Seconds(), "s", time.Since(begun).Seconds(), "until one more machine has %d channels and takes publishes", channels)
	return nil
}

// has waits until a machine has the last message of a channel.
func has(ctx context.Context, at target, channel string) error {
	within, cancel := context.WithTimeout(ctx, 2*startTimeout)
	defer cancel()
	return until(within, often, "waiting for the history of "+channel, func() (bool, error) {
		got := make(chan struct{}, 1)
		a, err := come(within, at, bare, agentOptions{onMessage: func(p []byte) {
			if bytes.Contains(p, []byte(`"data":"x"`)) {
				got <- struct{}{}
			}
		}})
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		defer a.Cut()
		if err := a.send(fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":"late","agentId":%q,"data":{"channel":%q,"since":1}}`, a.id, channel)); err != nil {
			return false, err
		}
		select {
		case <-got:
			return true, nil
		case <-a.done:
		case <-time.After(2 * time.Second):
		}
		return false, nil
	})
}
