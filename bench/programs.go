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
)

// programSecret is what the programs of this measurement present.
const programSecret = "the programs of bench"

// runPrograms measures what a message costs the server that a program publishes with a
// request: over one stream, and with many requests at once.
func runPrograms(ctx context.Context, r *report, o options) error {
	messages, requests, runs := programMessages, programRequests, fanoutRuns
	if o.short {
		messages, requests, runs = 2_000, 100, 1
	}
	if err := raiseFiles(requests + 200); err != nil {
		return err
	}
	s, err := startServer(ctx, o.caddy)
	if err != nil {
		return err
	}
	defer s.stop()
	client := &http.Client{Timeout: startTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: requests, MaxConnsPerHost: requests}}
	defer client.CloseIdleConnections()
	stream := func() error { return s.publishStream(ctx, client, messages) }
	parallel := func() error { return s.publishAtOnce(ctx, client, requests) }
	for _, c := range []struct {
		what  string
		n     int
		limit float64 // us; 0 is none
		work  func() error
	}{
		{"over one stream", messages, 25, stream},
		{fmt.Sprintf("with a request each, %d at a time", requests), requests, 0, parallel},
	} {
		var best cost
		for i := range runs + 1 { // the first is to warm up
			got, err := weighWork(s.pid(), float64(c.n), nil, c.work)
			if err != nil {
				return errors.Join(err, s.alive())
			}
			if i > 0 {
				best = got.better(best)
			}
		}
		if c.limit > 0 {
			r.atMost(c.limit, "us", microseconds(best.cpu), "a message of 200 bytes, %s", c.what)
		} else {
			r.info("us", microseconds(best.cpu), "a message of 200 bytes, %s", c.what)
		}
	}
	return nil
}

func (s *server) publishRequest(ctx context.Context, contentType string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.plain.addr+"/programs/publish", body)
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
	r, err := s.publishRequest(ctx, "application/x-ndjson", strings.NewReader(strings.Repeat(programMessage+"\n", messages)))
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
			r, err := s.publishRequest(ctx, "application/json", strings.NewReader(programMessage))
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
