// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

const (
	programMessages = 50_000
	programRequests = 1_000 // at the same time
	mostProgramCost = 25.0  // us of processor time for a message over one stream
)

// programSecret is the bearer token of the programs of this measurement.
const programSecret = "the programs of bench"

// runPrograms measures what a message costs the server that a program publishes with a
// request: over one stream, and with many requests at once; and whether anything is lost or
// doubled when such a connection is cut.
func runPrograms(ctx context.Context, r *report, o options) error {
	messages, requests, runs := programMessages, programRequests, fanoutRuns
	if o.short {
		messages, requests, runs = 2_000, 100, 1
	}
	costs, err := measurePrograms(ctx, o.caddy, messages, requests, runs)
	if err != nil {
		return err
	}
	r.atMost(mostProgramCost, "us", microseconds(costs[0].cpu), "a message of 200 bytes, over one stream")
	r.info("us", microseconds(costs[1].cpu), "a message of 200 bytes, with a request each, %d at a time", requests)
	return runCut(ctx, r, o)
}

// measurePrograms returns what a message costs over one stream, and with a request each.
func measurePrograms(ctx context.Context, caddy string, messages, requests, runs int) (costs [2]cost, err error) {
	if err := raiseFiles(requests + 200); err != nil {
		return costs, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return costs, err
	}
	defer s.stop()
	client := &http.Client{Timeout: startTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: requests, MaxConnsPerHost: requests}}
	defer client.CloseIdleConnections()
	for way, c := range []struct {
		n    int
		work func() error
	}{
		{messages, func() error { return s.publishStream(ctx, client, messages) }},
		{requests, func() error { return s.publishAtOnce(ctx, client, requests) }},
	} {
		for i := range runs + 1 { // the first is to warm up
			got, err := weighWork(s.pid(), float64(c.n), nil, c.work)
			if err != nil {
				return costs, errors.Join(err, s.alive())
			}
			if i > 0 {
				costs[way] = got.better(costs[way])
			}
		}
	}
	return costs, nil
}

// publishRequest returns a request of a program to the endpoint at a path of t.
func publishRequest(ctx context.Context, t target, path, contentType string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.origin()+path+"/publish", body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+programSecret)
	r.Header.Set("Content-Type", contentType)
	return r, nil
}

var programMessage = `{"channel":"news","data":"` + strings.Repeat("x", 198) + `"}`

// publishStream publishes over one request, and wants each message to be answered.
func (s *server) publishStream(ctx context.Context, client *http.Client, messages int) error {
	r, err := publishRequest(ctx, s.plain, "/programs", "application/x-ndjson", strings.NewReader(strings.Repeat(programMessage+"\n", messages)))
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answers := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); answers++ {
		if !strings.Contains(lines.Text(), `"subscriptions"`) {
			return fmt.Errorf("a message was not published: %s", lines.Text())
		}
	}
	if answers != messages {
		return fmt.Errorf("%d of %d messages were answered", answers, messages)
	}
	return nil
}

// publishAtOnce makes that many requests at the same time.
func (s *server) publishAtOnce(ctx context.Context, client *http.Client, requests int) error {
	var wg sync.WaitGroup
	errs := make([]error, requests)
	for i := range requests {
		wg.Go(func() {
			r, err := publishRequest(ctx, s.plain, "/programs", "application/json", strings.NewReader(programMessage))
			if err != nil {
				errs[i] = err
				return
			}
			resp, err := client.Do(r)
			if err != nil {
				errs[i] = err
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				errs[i] = fmt.Errorf("a message was not published: %s, %w", resp.Status, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
