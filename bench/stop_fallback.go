// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// fallbackGuest has agents come over a fallback transport of SockJS: over
// HTTP/1.1, or over TLS and HTTP/2.
func fallbackGuest(transport string, secure bool) func(context.Context, *server, func([]byte)) (guest, error) {
	via := &http.Transport{MaxIdleConnsPerHost: stopAgents, ForceAttemptHTTP2: secure}
	if secure {
		via.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // G402: the server is the one that was started here
	}
	return func(ctx context.Context, s *server, onMessage func([]byte)) (guest, error) {
		t := s.plain
		if secure {
			t = s.secure
		}
		f := &fallbackSession{
			client:    http.Client{Transport: via},
			url:       fmt.Sprintf("%s/push/000/stop-%d/", t.origin(), agentCount.Add(1)),
			transport: transport,
			onMessage: onMessage,
			isIn:      make(chan struct{}),
			done:      make(chan struct{}),
		}
		f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		go f.run()
		select {
		case <-f.isIn:
			return f, nil
		case <-f.done:
			return nil, f.failure
		case <-ctx.Done():
			f.vanish()
			return nil, ctx.Err()
		}
	}
}

// A fallbackSession is a guest: one request after the other receives.
type fallbackSession struct {
	client         http.Client
	url, transport string
	onMessage      func([]byte)
	ctx            context.Context //nolint:containedctx // ends all of its requests
	cancel         context.CancelFunc
	isIn           chan struct{} // closed when it has subscribed
	once           sync.Once     // of isIn
	done           chan struct{} // closed when run has returned

	// Owned by run until done is closed.
	said    []byte // what /meta/close said
	code    int    // of the SockJS frame that ends the session
	failure error
}

func (f *fallbackSession) ended() <-chan struct{} { return f.done }

func (f *fallbackSession) notice() (said []byte, code int) { return f.said, f.code }

func (f *fallbackSession) vanish() {
	f.cancel()
	<-f.done
}

func (f *fallbackSession) run() {
	defer close(f.done)
	method := http.MethodPost
	if f.transport == "eventsource" {
		method = http.MethodGet
	}
	for f.code == 0 {
		if f.failure = f.receive(method); f.failure != nil {
			return
		}
	}
}

func (f *fallbackSession) ask(method, path string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(f.ctx, method, f.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return f.client.Do(r)
}

// receive makes a request that receives, and reads the response to its end.
func (f *fallbackSession) receive(method string) error {
	resp, err := f.ask(method, f.transport, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("%s: %s: %s", f.transport, resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := strings.TrimPrefix(lines.Text(), "data: ")
		switch {
		case line == "", line[0] == 'h': // and the prelude, below
		case line == "o":
			err = f.enter()
		case line[0] == 'a':
			err = f.frames(line[1:])
		case line[0] == 'c':
			code, _, _ := strings.Cut(strings.TrimPrefix(line, "c["), ",")
			f.code, err = strconv.Atoi(code)
		}
		if err != nil {
			return err
		}
	}
	return lines.Err()
}

// enter connects and subscribes.
func (f *fallbackSession) enter() error {
	id := strings.Trim(f.url[strings.LastIndex(f.url, "stop-"):], "/")
	body, err := json.Marshal([]string{
		fmt.Sprintf(`{"channel":"/meta/connect","uuid":"1","agentId":%q}`, id),
		fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"2","data":{"channel":%q}}`, stopChannel),
	})
	if err != nil {
		return err
	}
	resp, err := f.ask(http.MethodPost, "xhr_send", body)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("xhr_send: %s", resp.Status)
	}
	return nil
}

func (f *fallbackSession) frames(array string) error {
	var objects []string
	if err := json.Unmarshal([]byte(array), &objects); err != nil {
		return err
	}
	for _, object := range objects {
		var got frame
		if err := json.Unmarshal([]byte(object), &got); err != nil {
			return err
		}
		switch got.Channel {
		case "/meta/close":
			f.said = []byte(object)
		case "/meta/connect", "/meta/subscribe":
			if got.Successful == nil || !*got.Successful {
				return errors.New(object)
			}
			if got.Channel == "/meta/subscribe" {
				f.once.Do(func() { close(f.isIn) })
			}
		default:
			f.onMessage([]byte(object))
		}
	}
	return nil
}
