// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A requester is an agent over SockJS's fallbacks, that makes one request
// after the other.
type requester struct {
	client    *http.Client
	base      string        // of its session
	transport string        // that receives: "xhr", "xhr_streaming"
	polls     int           // requests to receive
	counted   *atomic.Int64 // those of many agents; nil for nobody who counts

	body  io.ReadCloser // of the response that receives, nil between two
	lines *bufio.Reader
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
	a := &requester{client: client, base: t.origin() + "/push/000/" + uuid.NewString(), transport: transport}
	if frame, err := a.frame(ctx); err != nil || frame != "o" {
		return nil, errors.Join(err, fmt.Errorf("the session begins with %q", frame))
	}
	asked := []string{`{"channel":"/meta/connect","uuid":"connect","agentId":"bench"}`}
	for _, c := range channels {
		asked = append(asked, fmt.Sprintf(`{"channel":"/meta/subscribe","uuid":"subscribe","data":{"channel":%q}}`, c))
	}
	if err := a.send(ctx, asked...); err != nil {
		return nil, err
	}
	for answered := 0; answered < len(asked); {
		objects, err := a.receive(ctx)
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

// do makes a request to the session.
func (a *requester) do(ctx context.Context, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range browserHeader {
		req.Header.Set(name, value)
	}
	return a.client.Do(req)
}

// browserHeader is what Chromium sends of itself with each request.
var browserHeader = map[string]string{
	"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
	"Accept":          "*/*",
	"Accept-Language": "en-US,en;q=0.9",
	"Content-Type":    "text/plain;charset=UTF-8",
}

// send hands objects to the server.
func (a *requester) send(ctx context.Context, objects ...string) error {
	body, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	resp, err := a.do(ctx, "/xhr_send", string(body))
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // it was read
	if err == nil && resp.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("sending: %s: %s", resp.Status, text)
	}
	return err
}

// frame returns the next frame, of as many responses as it takes.
func (a *requester) frame(ctx context.Context) (string, error) {
	for {
		if a.body == nil {
			resp, err := a.do(ctx, "/"+a.transport, "")
			if err != nil {
				return "", err
			}
			a.polls++
			if a.counted != nil {
				a.counted.Add(1)
			}
			if resp.StatusCode != http.StatusOK {
				_ = resp.Body.Close() // the status says enough
				return "", fmt.Errorf("receiving: %s", resp.Status)
			}
			a.body, a.lines = resp.Body, bufio.NewReaderSize(resp.Body, 256)
		}
		line, err := a.lines.ReadString('\n')
		if err == io.EOF && line == "" {
			_ = a.body.Close() // it was read
			a.body = nil
			continue
		}
		if err != nil {
			return "", err
		}
		if frame := strings.TrimSuffix(line, "\n"); !strings.HasPrefix(frame, "hh") {
			return frame, nil
		}
	}
}

// receive returns the objects of the next frame that has some.
func (a *requester) receive(ctx context.Context) (objects []string, err error) {
	for {
		frame, err := a.frame(ctx)
		switch {
		case err != nil:
			return nil, err
		case strings.HasPrefix(frame, "a"):
			err = json.Unmarshal([]byte(frame[1:]), &objects)
			return objects, err
		case strings.HasPrefix(frame, "c"):
			return nil, &closedByServer{frame}
		}
	}
}

// stay receives until ctx ends, and returns why it could not.
func (a *requester) stay(ctx context.Context) error {
	for {
		if _, err := a.receive(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// leave gives up the response that receives, by which the session ends.
func (a *requester) leave() {
	if a.body != nil {
		_ = a.body.Close() // that is how it is given up
	}
}

// A closedByServer is the frame by which a session has ended.
type closedByServer struct{ frame string }

func (e *closedByServer) Error() string { return "the server closed: " + e.frame }

// fallbackPatience bounds what a measurement of fallbacks may take.
const fallbackPatience = 10 * time.Minute
