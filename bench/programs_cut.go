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
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A cutLoad says what programs publish. Their connections are cut in the middle, and then
// they publish everything again, with the same uuids.
type cutLoad struct {
	messages int // of the stream
	requests int // at the same time
}

var (
	cutFull  = cutLoad{messages: 10_000, requests: programRequests}
	cutShort = cutLoad{messages: 1_000, requests: 60}
)

const (
	// mostStreamMemory and mostRequestMemory are what the server may grow by while a
	// program streams, and while many requests publish at once.
	mostStreamMemory, mostRequestMemory = 24.0, 96.0 // MiB
	// cutPatience is the time limit of this measurement.
	cutPatience = 2 * time.Minute
)

// cutCaddyfile is what the server is configured with: its subscriber never reads too slowly.
// Arguments: directory, address.
const cutCaddyfile = globalOptions + `http://%[2]s {
	pushit /programs {
		name cut
		default allow
		api bearer "` + programSecret + `"
		limits {
			api_publishes_per_second unlimited
			queue_messages 100000
			queue_bytes 64MiB
		}
	}
}
`

// A cutResult is the result.
type cutResult struct {
	stream, requests cutOutcome
}

type cutOutcome struct {
	published  int // messages that the subscriber got
	early      int // of them, before they were published again
	repeated   int // of them, answered so when they were published again
	faults     []string
	faultCount int // messages lost, doubled or, in a stream, out of order
	growth     int64
}

// runCut reports what is lost or doubled when connections of programs are cut.
func runCut(ctx context.Context, r *report, o options) error {
	load := cutFull
	if o.short {
		load = cutShort
	}
	res, err := measureCut(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what   string
		n      int
		memory float64
		got    cutOutcome
	}{
		{fmt.Sprintf("a stream of %d, cut in the middle and sent again", load.messages), load.messages, mostStreamMemory, res.stream},
		{fmt.Sprintf("%d requests at once, half of them cut, all sent again", load.requests), load.requests, mostRequestMemory, res.requests},
	} {
		for _, fault := range c.got.faults {
			r.note("%s", fault)
		}
		r.exactly(float64(c.n), "messages", float64(c.got.published), c.what+": received")
		r.exactly(0, "messages", float64(c.got.faultCount), c.what+": lost, doubled or out of order")
		r.exactly(float64(c.got.early), "messages", float64(c.got.repeated), c.what+": answered as repeated, of those that had come before")
		r.atMost(c.memory, "MiB", mebibytes(c.got.growth), "%s: resident memory at its most, over that before", c.what)
	}
	return nil
}

// A tallying subscriber counts how often it gets each number.
type tallying struct {
	ordered bool // the messages must come in the order of their numbers

	mu     sync.Mutex // guards the following
	count  map[int]int
	last   int
	faults []string
	wrong  int
}

func (t *tallying) faultLocked(format string, args ...any) {
	const shown = 10
	if t.wrong++; t.wrong <= shown {
		t.faults = append(t.faults, fmt.Sprintf(format, args...))
	}
}

func (t *tallying) take(payload []byte) {
	var f struct{ Data struct{ N int } }
	err := json.Unmarshal(payload, &f)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := f.Data.N
	switch {
	case err != nil:
		t.faultLocked("%q: %v", payload, err)
		return
	case t.count[n] > 0:
		t.faultLocked("message %d came twice", n)
	case t.ordered && n < t.last:
		t.faultLocked("message %d came after %d", n, t.last)
	}
	t.count[n]++
	t.last = n
}

// received returns how many of the messages have come.
func (t *tallying) received() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.count)
}

// outcome notes which of n messages are missing.
func (t *tallying) outcome(n int) (c cutOutcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range n {
		if t.count[i+1] == 0 {
			t.faultLocked("message %d is lost", i+1)
		}
	}
	return cutOutcome{published: len(t.count), faults: t.faults, faultCount: t.wrong}
}

func measureCut(ctx context.Context, caddy string, load cutLoad) (res cutResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, cutPatience)
	defer cancel()
	if err := raiseFiles(load.requests + 200); err != nil {
		return res, err
	}
	s, err := startServer(ctx, caddy)
	if err != nil {
		return res, err
	}
	defer s.stop()
	at, err := s.serve(ctx, cutCaddyfile)
	if err != nil {
		return res, err
	}
	c := &cutting{server: s, at: at}
	res.stream, err = c.measure(ctx, "stream", load.messages, true, c.cutStream, c.repeatStream)
	if err != nil {
		return res, errors.Join(err, s.alive())
	}
	res.requests, err = c.measure(ctx, "requests", load.requests, false, c.cutRequests, c.repeatRequests)
	return res, errors.Join(err, s.alive())
}

// A cutting is what the programs share.
type cutting struct {
	server *server
	at     target
}

// measure has n messages published on a channel and cut, and then published again, and looks
// at what a subscriber gets.
func (c *cutting) measure(ctx context.Context, channel string, n int, ordered bool, cut func(context.Context, string, int) error, repeat func(context.Context, string, int) (repeated int, err error)) (out cutOutcome, err error) {
	seen := &tallying{ordered: ordered, count: make(map[int]int)}
	// The subscriber only receives. Its connection answers nothing else.
	a, err := come(ctx, c.at, endpoint{"bare", "/programs/websocket", false}, agentOptions{
		socketOptions: socketOptions{readBuffer: 16 << 10}, subscribe: []string{channel}, onMessage: seen.take,
	})
	if err != nil {
		return out, err
	}
	defer a.vanish()
	pid := c.server.pid()
	if err := c.server.collect(ctx); err != nil {
		return out, err
	}
	before, err := residentMemory(pid)
	if err != nil {
		return out, err
	}
	if err := resetPeak(pid); err != nil {
		return out, err
	}
	files, err := openFiles(pid)
	if err != nil {
		return out, err
	}
	if err := cut(ctx, channel, n); err != nil {
		return out, err
	}
	early, err := c.early(ctx, seen, files)
	if err != nil {
		return out, err
	}
	repeated, err := repeat(ctx, channel, n)
	if err != nil {
		return out, err
	}
	err = untilWithin(ctx, startTimeout, often, "waiting for messages", func() (bool, error) {
		return seen.received() >= n, c.server.alive()
	})
	if err != nil {
		return out, err
	}
	peak, err := peakMemory(pid)
	out = seen.outcome(n)
	out.early, out.repeated, out.growth = early, repeated, peak-before
	return out, err
}

// early waits until what was published before the cut has come. The server has noticed the
// cut when it has no more files open than before, and nothing comes then.
func (c *cutting) early(ctx context.Context, seen *tallying, files int) (n int, err error) {
	const still = 10
	rounds := 0
	err = until(ctx, 5*often, "waiting until the server has noticed the cut", func() (bool, error) {
		open, err := openFiles(c.server.pid())
		now := seen.received()
		if rounds++; now != n || open > files {
			n, rounds = now, 0
		}
		return rounds >= still, errors.Join(err, c.server.alive())
	})
	return n, err
}

// cutMessage is message n for a channel; its uuid is always the same.
func cutMessage(channel string, n int) string {
	return fmt.Sprintf(`{"channel":%q,"uuid":"%s-%d","data":{"n":%d,"text":%q}}`, channel, channel, n, n, strings.Repeat("x", 160))
}

// connect opens a connection and sends the head of a request to publish.
func (c *cutting) connect(ctx context.Context, kind string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", c.at.addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return conn, err
	}
	_, err = fmt.Fprintf(conn, "POST /programs/publish HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n", c.at.addr, programSecret, kind)
	return conn, err
}

// cutStream sends the first half of a stream, in a hurry, and the beginning of one more
// message; reads some of the answers; and breaks the connection.
func (c *cutting) cutStream(ctx context.Context, channel string, n int) error {
	conn, err := c.connect(ctx, "application/x-ndjson")
	if conn == nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var body bytes.Buffer
	for i := range n / 2 {
		body.WriteString(cutMessage(channel, i+1) + "\n")
	}
	body.WriteString(cutMessage(channel, n/2+1)[:100])
	_, err = fmt.Fprintf(conn, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", body.Len()+1000) // more was to come
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = conn.Write(body.Bytes()) // the cut may come at any byte
	}()
	answers := 0
	for lines := bufio.NewScanner(conn); err == nil && answers < n/4 && lines.Scan(); {
		if strings.Contains(lines.Text(), `"subscriptions":1`) {
			answers++
		}
	}
	if answers < n/4 {
		return fmt.Errorf("only %d messages were answered before the cut", answers)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, as when a network breaks
	}
	err = errors.Join(err, conn.Close())
	<-sent
	return err
}

// An outcomeLine is the answer to a message.
type outcomeLine struct {
	UUID     string
	Repeated bool
	Error    string
}

// repeatStream publishes all messages in one stream, and counts those that are repeats.
func (c *cutting) repeatStream(ctx context.Context, channel string, n int) (repeated int, err error) {
	var body bytes.Buffer
	for i := range n {
		body.WriteString(cutMessage(channel, i+1) + "\n")
	}
	r, err := publishRequest(ctx, c.at, "/programs", "application/x-ndjson", &body)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	answers := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		answers++
		var line outcomeLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return repeated, err
		}
		if line.Error != "" || line.UUID != fmt.Sprintf("%s-%d", channel, answers) {
			return repeated, fmt.Errorf("answer %d is %s", answers, lines.Text())
		}
		if line.Repeated {
			repeated++
		}
	}
	if answers != n {
		return repeated, fmt.Errorf("%d of %d messages were answered", answers, n)
	}
	return repeated, nil
}

// cutRequests makes n requests at once. Every second one is broken off before its answer,
// some of these before their end.
func (c *cutting) cutRequests(ctx context.Context, channel string, n int) error {
	return c.atOnce(n, func(i int) error {
		conn, err := c.connect(ctx, "application/json")
		if conn == nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		body := cutMessage(channel, i+1)
		if i%8 == 0 {
			_, err = fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n%s", len(body), body[:len(body)-1])
		} else {
			_, err = fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n%s", len(body), body)
		}
		if err != nil || i%2 == 0 {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer func() { _ = r.Body.Close() }()
		return wantOK(r)
	})
}

// repeatRequests makes all of the requests again.
func (c *cutting) repeatRequests(ctx context.Context, channel string, n int) (int, error) {
	client := &http.Client{Timeout: startTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n}}
	defer client.CloseIdleConnections()
	var repeated atomic.Int64
	err := c.atOnce(n, func(i int) error {
		r, err := publishRequest(ctx, c.at, "/programs", "application/json", strings.NewReader(cutMessage(channel, i+1)))
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if err := wantOK(resp); err != nil {
			return err
		}
		var line outcomeLine
		if err := json.NewDecoder(resp.Body).Decode(&line); err != nil {
			return err
		}
		if line.Repeated {
			repeated.Add(1)
		}
		return nil
	})
	return int(repeated.Load()), err
}

func wantOK(r *http.Response) error {
	if r.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(r.Body)
	return fmt.Errorf("a message was not published: %s: %s", r.Status, text)
}

// atOnce does something n times at the same time.
func (c *cutting) atOnce(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
