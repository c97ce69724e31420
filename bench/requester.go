// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// A requester is an agent over SockJS's fallbacks, that makes one request
// after the other.
type requester struct {
	*wireclient.Fallback
	polls   int           // requests to receive that were answered
	counted *atomic.Int64 // those of many agents; nil if nobody counts
}

// requesterClient returns a client for n agents, whose connections are its own.
func requesterClient(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 2 * n,
		ReadBufferSize:      1 << 10, WriteBufferSize: 1 << 10,
	}}
}

// comeOver opens a session over a transport, connects and subscribes to channels.
func comeOver(ctx context.Context, client *http.Client, t target, transport string, channels ...string) (*requester, error) {
	a := &requester{Fallback: &wireclient.Fallback{
		HTTP: client, URL: wireclient.NewSession(t.origin() + "/push"), Transport: transport, Header: browserHeader,
	}}
	a.OnResponse = func(*http.Response) error {
		a.polls++
		if a.counted != nil {
			a.counted.Add(1)
		}
		return nil
	}
	if frame, err := a.Frame(ctx); err != nil || frame != "o" {
		return nil, errors.Join(err, fmt.Errorf("the session begins with %q", frame))
	}
	asked := []string{`{"channel":"/meta/connect","uuid":"connect","agentId":"bench"}`}
	for _, c := range channels {
		asked = append(asked, fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"subscribe","data":{"channel":%q}}`, c))
	}
	if err := a.Send(ctx, asked...); err != nil {
		return nil, err
	}
	for answered := 0; answered < len(asked); {
		objects, err := a.Receive(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if !strings.Contains(o, `"successful":true`) {
				return nil, fmt.Errorf("refused: %s", o)
			}
		}
		answered += len(objects)
	}
	return a, nil
}

// browserHeader is the header that Chromium sends with each request.
var browserHeader = http.Header{
	"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"},
	"Accept":          {"*/*"},
	"Accept-Language": {"en-US,en;q=0.9"},
	"Content-Type":    {"text/plain;charset=UTF-8"},
}

// stay receives until ctx ends, and returns the error if it cannot.
func (a *requester) stay(ctx context.Context) error {
	for {
		if _, err := a.Receive(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// fallbackPatience is the time limit of a measurement of fallbacks.
const fallbackPatience = 10 * time.Minute
