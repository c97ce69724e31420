// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	historyMessages = 100_000
	// mostHistoryMessage is how many bytes a kept message of 200 may take, and
	// mostHistoryChannel a channel with a history besides its messages.
	mostHistoryMessage, mostHistoryChannel = 400.0, 400.0
)

// historyCaddyfile configures the server. Arguments: directory, address.
const historyCaddyfile = globalOptions + `http://%[2]s {
	pushit /programs {
		name history
		default allow
		history 100000 1h
		api bearer "` + programSecret + `"
		limits {
			api_publishes_per_second unlimited
			history_bytes 256MiB
		}
	}
}
`

// runHistory measures the memory of kept messages.
func runHistory(ctx context.Context, r *report, o options) error {
	n := historyMessages
	if o.short {
		n = 5_000
	}
	for _, channels := range []int{n / 100, 1, n} {
		took, err := measureHistory(ctx, o.caddy, n, channels)
		if err != nil {
			return err
		}
		if channels == n {
			r.atMost(mostHistoryMessage+mostHistoryChannel, "bytes", float64(took)/float64(n), "heap for a channel with one kept message of 200 bytes, of %d", n)
			continue
		}
		r.atMost(mostHistoryMessage, "bytes", float64(took)/float64(n), "heap for a kept message of 200 bytes, of %d, channels: %d", n, channels)
	}
	return nil
}

// measureHistory publishes n messages of 200 bytes, and returns how much the server's heap
// has grown.
func measureHistory(ctx context.Context, caddy string, n, channels int) (took int64, err error) {
	s, err := startServer(ctx, caddy)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	at, err := s.serve(ctx, historyCaddyfile)
	if err != nil {
		return 0, err
	}
	if err := publishNumbered(ctx, at, 100, 1); err != nil { // to warm up
		return 0, err
	}
	before, err := s.liveHeap(ctx)
	if err != nil {
		return 0, err
	}
	if err := publishNumbered(ctx, at, n, channels); err != nil {
		return 0, err
	}
	after, err := s.liveHeap(ctx)
	return after - before, err
}

// liveHeap returns the bytes of the heap that are in use.
func (s *server) liveHeap(ctx context.Context) (int64, error) {
	for range 2 {
		if err := s.collect(ctx); err != nil {
			return 0, err
		}
	}
	m, err := s.memory(ctx)
	return m.HeapAlloc, err
}

// publishNumbered publishes messages of 200 bytes over one stream, on numbered channels in
// turn. Each answer must have a position, which shows that the message is kept.
func publishNumbered(ctx context.Context, at target, n, channels int) error {
	body, w := io.Pipe()
	go func() {
		text := strings.Repeat("x", 198)
		lines := bufio.NewWriter(w)
		for i := range n {
			fmt.Fprintf(lines, `{"channel":"news/%06d","data":%q}`+"\n", i%channels, text)
		}
		_ = w.CloseWithError(lines.Flush())
	}()
	r, err := publishRequest(ctx, at, "/programs", "application/x-ndjson", body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answers := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); answers++ {
		if !strings.Contains(lines.Text(), `"position":"`) {
			return fmt.Errorf("a message was not kept: %s", lines.Text())
		}
	}
	if answers != n {
		return fmt.Errorf("%d of %d messages were answered", answers, n)
	}
	return nil
}
