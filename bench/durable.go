// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/broker/disk"
)

// Two measurements of a history in a file: how many publishes a second are acknowledged,
// and whether an acknowledged one is missing after the server was killed.
const (
	durablePublishers = 64
	leastDurable      = 20_000 // acknowledged publishes a second, with `sync always`
	durableMessages   = 200_000
	durableData       = 200 // bytes of the data of a message

	kills          = 20
	killPublishers = 8
	killChannels   = 3
	killEvery      = 400 * time.Millisecond // from when it answers, at most
)

// runDurable measures how fast a hub acknowledges publishes that are on the disk.
func runDurable(ctx context.Context, r *report, o options) error {
	messages, runs := durableMessages, fanoutRuns
	if o.short {
		messages, runs = 2_000, 1
	}
	for _, window := range []time.Duration{0, 100 * time.Millisecond} {
		var most float64
		var least time.Duration
		for range runs {
			rate, cpu, err := measureDurable(ctx, window, messages)
			if err != nil {
				return err
			}
			if rate > most {
				most, least = rate, cpu
			}
		}
		what := fmt.Sprintf("acknowledged publishes of %d bytes from %d publishers, each on the disk", durableData, durablePublishers)
		if window > 0 {
			r.info("a second", most, "the same, synced every %v", window)
		} else if o.short {
			r.info("a second", most, "%s", what)
		} else {
			r.atLeast(leastDurable, "a second", most, "%s", what)
		}
		r.info("us", microseconds(least), "of processor time for each, publisher and all")
	}
	return nil
}

// measureDurable returns how many publishes a second a hub acknowledges, and what each costs.
func measureDurable(ctx context.Context, window time.Duration, messages int) (rate float64, each time.Duration, err error) {
	dir, err := os.MkdirTemp("", "pushit-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := disk.Open(disk.Options{Path: filepath.Join(dir, "history.db"), Sync: window})
	if err != nil {
		return 0, 0, err
	}
	h, err := hub.New("durable", b)
	if err != nil {
		return 0, 0, errors.Join(err, b.Close())
	}
	defer h.Close()
	data := []byte(`"` + strings.Repeat("x", durableData-2) + `"`)
	rule := hub.HistoryRule{Count: 1000, TTL: time.Hour}
	var left atomic.Int64
	left.Store(int64(messages))
	var failure atomic.Pointer[error]
	began := time.Now()
	c, err := weighWork(os.Getpid(), float64(messages), nil, func() error {
		var all sync.WaitGroup
		for p := range durablePublishers {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					m := hub.NewMessage(fmt.Sprintf("news/%d", p%16), uuid.NewString(), data).By("bench").Keep(rule)
					if _, err := h.Publish(ctx, m); err != nil {
						failure.Store(&err)
						return
					}
				}
			})
		}
		all.Wait()
		if err := failure.Load(); err != nil {
			return *err
		}
		return nil
	})
	return float64(messages) / time.Since(began).Seconds(), c.cpu, err
}

// killCaddyfile configures the server that is killed. Arguments: directory, address, sync.
const killCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		name kills
		default allow
		api bearer "` + programSecret + `"
		history 100000 1h {
			file %[1]s/history.db
			sync %[3]s
		}
		limits {
			history_bytes 1GiB
			queue_messages 1000000
			queue_bytes 1GiB
			api_publishes_per_second unlimited
		}
	}
}
`

// runKills kills the server while many programs publish, and compares what the server has
// after its next start.
func runKills(ctx context.Context, r *report, o options) error {
	n := kills
	if o.short {
		n = 3
	}
	for i, sync := range []string{"always", "100ms"} {
		res, err := measureKills(ctx, o.caddy, sync, max(n>>i, 1))
		if err != nil {
			return err
		}
		r.exactly(0, "messages", float64(res.missing), fmt.Sprintf("of %d acknowledged ones missing after kill -9 (%d times), sync %s", res.acknowledged, res.kills, sync))
		r.exactly(0, "messages", float64(res.twice), fmt.Sprintf("there twice, of %d, sync %s", res.there, sync))
		r.exactly(0, "messages", float64(res.disorder), fmt.Sprintf("out of order, sync %s", sync))
		r.exactly(0, "channels", float64(res.unwell), fmt.Sprintf("whose positions were void after the kills, sync %s", sync))
		r.info("s", res.restart.Seconds(), "until the server answered again, at most, sync %s", sync)
	}
	return nil
}

type killResult struct {
	kills, acknowledged, there       int
	missing, twice, disorder, unwell int
	restart                          time.Duration
}

// A killing is a server that is killed, and its publishers.
type killing struct {
	server *server
	binary string
	config string
	client *http.Client
	stop   atomic.Bool
	said   [killPublishers]int // messages that were acknowledged
	first  [killChannels]string
}

func measureKills(ctx context.Context, binary, sync string, kills int) (res killResult, err error) {
	k := &killing{binary: binary, client: &http.Client{Timeout: 10 * time.Second}}
	if k.server, err = startServer(ctx, binary); err != nil {
		return res, err
	}
	defer k.server.stop()
	defer k.client.CloseIdleConnections()
	k.config = filepath.Join(k.server.dir, "Killfile")
	if err := os.WriteFile(k.config, fmt.Appendf(nil, killCaddyfile, k.server.dir, k.server.plain.addr, sync), 0o600); err != nil {
		return res, err
	}
	if err := k.kill(ctx, &res); err != nil { // the first one has another configuration
		return res, err
	}
	for ch := range k.first {
		if k.first[ch], err = k.publish(ctx, fmt.Sprint("first-", ch), ch, -1, 0); err != nil {
			return res, err
		}
	}
	res.restart = 0
	publishing := k.publishers(ctx)
	for range kills {
		if err := pause(ctx, killEvery/4+rand.N(killEvery*3/4)); err != nil { //nolint:gosec // when to kill is no secret
			break
		}
		if err = k.kill(ctx, &res); err != nil {
			break
		}
		res.kills++
	}
	k.stop.Store(true)
	err = errors.Join(err, publishing(), ctx.Err())
	if err != nil {
		return res, err
	}
	for _, n := range k.said {
		res.acknowledged += n
	}
	for ch := range killChannels {
		if err := k.look(ctx, ch, &res); err != nil {
			return res, err
		}
	}
	return res, nil
}

// kill kills the server and starts it again.
func (k *killing) kill(ctx context.Context, res *killResult) error {
	if err := k.server.cmd.Process.Kill(); err != nil {
		return err
	}
	<-k.server.exited
	k.server.exited = make(chan struct{})
	began := time.Now()
	if err := k.server.start(k.binary, k.config); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := until(within, often, "waiting for the server", func() (bool, error) {
		conn, err := new(net.Dialer).DialContext(within, "tcp", k.server.plain.addr)
		if err != nil {
			return false, k.server.alive()
		}
		return true, conn.Close()
	})
	res.restart = max(res.restart, time.Since(began))
	return err
}

// publishers publish until ctx ends. Each repeats a message with the same uuid until it is
// acknowledged.
func (k *killing) publishers(ctx context.Context) (wait func() error) {
	var all sync.WaitGroup
	errs := make([]error, killPublishers)
	for p := range killPublishers {
		all.Go(func() {
			for n := 0; !k.stop.Load(); n++ {
				if _, errs[p] = k.publish(ctx, fmt.Sprintf("%d-%d", p, n), p%killChannels, p, n); errs[p] != nil {
					return
				}
				k.said[p]++
			}
		})
	}
	return func() error {
		all.Wait()
		return errors.Join(errs...)
	}
}

// publish publishes until the server says that it has, and returns the position.
func (k *killing) publish(ctx context.Context, id string, channel, publisher, n int) (position string, err error) {
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	body := fmt.Sprintf(`{"channel":"ch/%d","uuid":%q,"data":[%d,%d]}`, channel, id, publisher, n)
	err = until(within, often, "publishing "+id, func() (bool, error) {
		req, err := publishRequest(within, k.server.plain, "/push", "application/json", strings.NewReader(body))
		if err != nil {
			return false, err
		}
		resp, err := k.client.Do(req)
		if err != nil {
			return false, nil //nolint:nilerr // it was killed
		}
		defer func() { _ = resp.Body.Close() }()
		answer, err := io.ReadAll(resp.Body)
		switch {
		case err != nil || resp.StatusCode == http.StatusServiceUnavailable:
			return false, nil
		case resp.StatusCode != http.StatusOK:
			return false, fmt.Errorf("%s: %s", resp.Status, answer)
		}
		var receipt struct{ Position string }
		err = json.Unmarshal(answer, &receipt)
		position = receipt.Position
		return err == nil, err
	})
	return position, err
}

// look subscribes to a channel from its first position on, and compares the messages with
// the acknowledged ones.
func (k *killing) look(ctx context.Context, channel int, res *killResult) error {
	a, err := come(ctx, k.server.plain, bare, agentOptions{stalls: true})
	if err != nil {
		return err
	}
	defer a.Cut()
	// The last message tells that all have come.
	if _, err := k.publish(ctx, fmt.Sprint("last-", channel), channel, -2, 0); err != nil {
		return err
	}
	asked := fmt.Appendf(nil, `{"channel":"/meta/subscribe","uuid":"look","agentId":%q,"data":{"channel":"ch/%d","position":%q}}`, a.id, channel, k.first[channel])
	if err := errors.Join(a.Conn.SetDeadline(time.Now().Add(startTimeout)), a.send(asked)); err != nil {
		return err
	}
	next := make(map[int]int)
	for {
		payload, err := a.Read()
		if err != nil {
			return err
		}
		if bytes.Contains(payload, []byte(`"/meta/subscribe"`)) {
			if !bytes.Contains(payload, []byte(`"recovered":true`)) {
				res.unwell++
			}
			continue
		}
		var f struct{ Data []int }
		if err := json.Unmarshal(payload, &f); err != nil || len(f.Data) != 2 {
			return fmt.Errorf("%s came", payload)
		}
		p, n := f.Data[0], f.Data[1]
		if p == -2 {
			break
		}
		res.there++
		switch {
		case n < next[p]:
			res.twice++
		case n > next[p]:
			res.disorder++
		}
		next[p] = max(next[p], n+1)
	}
	for p, n := range k.said {
		if p%killChannels == channel {
			res.missing += max(0, n-next[p])
		}
	}
	return nil
}
