// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/internal/wireclient"
)

const (
	// pollers each make one request after the other, polls in all.
	pollers = 10
	polls   = 20_000
	// busyProcesses keep the processors busy beside them.
	busyProcesses = 2
	// busyCommand is the subcommand that keeps a processor busy, for busyLimit at most.
	busyCommand = "be-busy"
	busyLimit   = 10 * time.Minute
)

// A pollResult counts what happened to pollers.
type pollResult struct {
	polls                   int
	another                 int // told that another connection is open
	ended                   int // sessions that ended otherwise
	lost, doubled, disorder int // messages
	err                     error
}

// runPolls checks that clients that send one request after the other are never told that
// another connection is open, on a machine that is busy, and that nothing is lost if each of
// their requests comes to any of three machines.
func runPolls(ctx context.Context, r *report, o options) error {
	total := polls
	if o.short {
		total = polls / 20
	}
	res, err := measurePolls(ctx, o.caddy, total, busyProcesses)
	if err != nil {
		return err
	}
	r.polled(fmt.Sprintf("%d pollers, %d polls, %d busy processes beside", pollers, res.polls, busyProcesses), res)
	return runScattered(ctx, r, o.caddy, total)
}

// polled prints what happened to pollers.
func (r *report) polled(name string, res pollResult) {
	r.exactly(0, "sessions", float64(res.another), name+": told 2010")
	r.exactly(0, "sessions", float64(res.ended), name+": ended otherwise")
	r.exactly(0, "messages", float64(res.lost), name+": lost")
	r.exactly(0, "messages", float64(res.doubled), name+": doubled")
	r.exactly(0, "messages", float64(res.disorder), name+": out of order")
	if res.err != nil {
		r.note("the first that ended: %v", res.err)
	}
}

// scattered sends each request to a random machine, as a load balancer without sticky
// sessions does.
type scattered struct {
	http.RoundTripper
	addrs []string
	sent  []atomic.Int64 // to each
}

func (s *scattered) RoundTrip(r *http.Request) (*http.Response, error) {
	i := rand.IntN(len(s.addrs)) //nolint:gosec // G404: a load balancer's choice is no secret
	s.sent[i].Add(1)
	r = r.Clone(r.Context())
	r.Host = r.URL.Host // the site has one name
	r.URL.Host = s.addrs[i]
	return s.RoundTripper.RoundTrip(r)
}

// runScattered does the same at three machines: each request goes to a random one.
func runScattered(ctx context.Context, r *report, caddy string, total int) error {
	ctx, cancel := context.WithTimeout(ctx, fallbackPatience)
	defer cancel()
	c, err := startCluster(ctx, caddy)
	if err != nil {
		return err
	}
	defer c.stop()
	client := requesterClient(pollers)
	defer client.CloseIdleConnections()
	way := &scattered{RoundTripper: client.Transport, sent: make([]atomic.Int64, clusterSize)}
	for _, m := range c.machines {
		way.addrs = append(way.addrs, m.at.addr)
	}
	client.Transport = way
	res := pollAll(ctx, c.machines[0].at, client, total, c.alive)
	if err := ctx.Err(); err != nil {
		return err
	}
	var each []string
	for i := range way.sent {
		each = append(each, fmt.Sprint(way.sent[i].Load()))
	}
	r.note("requests to the three machines: %s", strings.Join(each, ", "))
	r.polled(fmt.Sprintf("%d pollers, %d polls at random over three machines", pollers, res.polls), res)
	return nil
}

// measurePolls has pollers send themselves numbered messages, and fetch them,
// until they have polled so often in all.
func measurePolls(ctx context.Context, caddy string, total, busy int) (all pollResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, fallbackPatience)
	defer cancel()
	s, err := startServer(ctx, caddy)
	if err != nil {
		return all, err
	}
	defer s.stop()
	for range busy {
		stop, err := startBusy(ctx)
		if err != nil {
			return all, err
		}
		defer stop()
	}
	client := requesterClient(pollers)
	defer client.CloseIdleConnections()
	return pollAll(ctx, s.plain, client, total, s.alive), ctx.Err()
}

// pollAll runs all pollers. alive tells why no server answers.
func pollAll(ctx context.Context, t target, client *http.Client, total int, alive func() error) (all pollResult) {
	var mu sync.Mutex // guards all
	var wg sync.WaitGroup
	for range pollers {
		wg.Go(func() {
			one := pollOn(ctx, alive, func() (*requester, error) {
				return comeOver(ctx, client, t, "xhr", "room/"+uuid.NewString())
			}, total/pollers)
			mu.Lock()
			defer mu.Unlock()
			all.add(one)
		})
	}
	wg.Wait()
	return all
}

func (r *pollResult) add(other pollResult) {
	r.polls += other.polls
	r.another += other.another
	r.ended += other.ended
	r.lost += other.lost
	r.doubled += other.doubled
	r.disorder += other.disorder
	if r.err == nil {
		r.err = other.err
	}
}

// pollOn runs one poller until it has polled that often.
func pollOn(ctx context.Context, alive func() error, come func() (*requester, error), total int) (r pollResult) {
	a, err := come()
	if err != nil {
		return pollResult{ended: 1, err: err}
	}
	channel := "echo/" + uuid.NewString()
	err = a.Send(ctx, fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"echo","data":{"channel":%q}}`, channel))
	next := 0 // the number of the next message
	for sent := 0; err == nil && (a.polls < total || next < sent); {
		// Two at a time, so that one waits while the other is fetched.
		for a.polls < total && sent < next+2 && err == nil {
			err = a.Send(ctx, fmt.Sprintf(`{"channel":%q,"uuid":%q,"data":%d}`, channel, uuid.NewString(), sent))
			sent++
		}
		var objects []string
		if err == nil {
			objects, err = a.Receive(ctx)
		}
		for _, o := range objects {
			var got int
			if _, data, ok := strings.Cut(o, `"data":`); !strings.HasPrefix(o, `{"channel":"echo/`) || !ok {
				continue
			} else if _, err := fmt.Sscanf(data, "%d", &got); err != nil {
				continue
			}
			switch {
			case got < next:
				r.doubled++
			case got > next:
				r.disorder++
				next = got + 1
			default:
				next++
			}
		}
		if err != nil {
			r.lost = sent - next
		}
	}
	r.polls, r.err = a.polls, err
	if closed, ok := errors.AsType[*wireclient.CloseError](err); ok && closed.Code == 2010 {
		r.another = 1
	} else if err != nil {
		r.ended = 1
		r.err = errors.Join(err, alive())
	}
	a.GiveUp()
	return r
}

// startBusy starts a process that keeps a processor busy until stop is called.
func startBusy(ctx context.Context) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, busyCommand) //nolint:gosec // G204: this program itself
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // likewise: it was killed
	}, nil
}

// beBusy keeps a processor busy for busyLimit at most.
func beBusy(ctx context.Context) {
	for end := time.Now().Add(busyLimit); ctx.Err() == nil && time.Now().Before(end); {
	}
}
