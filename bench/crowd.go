// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// atOnce is how many agents of a crowd come or go at a time: far fewer than the
// sessions that one address may have unconnected.
const atOnce = 64

// A crowd is many agents.
type crowd []*agent

// gather connects n agents. It calls options for each, from several goroutines. If one
// agent fails, it disconnects the others.
func gather(ctx context.Context, n int, t target, at endpoint, options func(i int) agentOptions) (crowd, error) {
	all := make(crowd, n)
	err := each(n, func(i int) (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		all[i], err = come(ctx, t, at, options(i))
		return err
	})
	if err != nil {
		all.vanish()
		return nil, err
	}
	return all, nil
}

// depart disconnects all agents: every second one in order, the others by cutting the
// connection.
func (c crowd) depart(ctx context.Context) error {
	return each(len(c), func(i int) error {
		if i%2 == 0 {
			c[i].vanish()
			return nil
		}
		return c[i].depart(ctx)
	})
}

func (c crowd) vanish() {
	for _, a := range c {
		if a != nil {
			a.vanish()
		}
	}
}

// awaitHeartbeat waits until all agents have answered a ping.
func (c crowd) awaitHeartbeat(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return until(within, often, "waiting for a heartbeat", func() (bool, error) {
		if n, why := c.lost(); n > 0 {
			return false, fmt.Errorf("%d agents were lost: %w", n, why)
		}
		return !slices.ContainsFunc(c, func(a *agent) bool { return a.Pings.Load() == 0 }), nil
	})
}

// lost returns how many sessions have ended by themselves, and why the first of them did.
func (c crowd) lost() (n int, why error) {
	for _, a := range c {
		select {
		case <-a.done:
			if n == 0 {
				why = errors.Join(a.failure, closingError(a.closing))
			}
			n++
		default:
		}
	}
	return n, why
}

func closingError(notice string) error {
	if notice == "" {
		return nil
	}
	return errors.New(notice)
}

// each calls f for 0 to n-1 from several goroutines, and returns the first
// error, after which it begins no more.
func each(n int, f func(i int) error) error {
	var (
		wg     sync.WaitGroup
		next   atomic.Int64
		once   sync.Once
		failed atomic.Bool
		first  error
	)
	for range min(n, atOnce) {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					once.Do(func() { first = err })
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return first
}
