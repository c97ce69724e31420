// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package push publishes on the channels of pushit. It needs only the standard library.
package push

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const attempts = 3

// A Client publishes on the channels of one endpoint.
type Client struct {
	url, secret string
	http        http.Client
}

// New returns a client of the endpoint with that address, such as https://example.com/push.
func New(url, secret string) *Client {
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{url, secret, http.Client{Timeout: 3 * time.Second, CheckRedirect: noRedirect}}
}

// Publish publishes a message. data is anything that JSON can say. The message may be sent
// more than once: the uuid sees to it that it is published once. Give your own if you may
// call Publish again for the same message; "" stands for a random one.
func (c *Client) Publish(ctx context.Context, channel string, data any, uuid string) error {
	if uuid == "" {
		uuid = rand.Text()
	}
	body, err := json.Marshal(map[string]any{"channel": channel, "data": data, "uuid": uuid})
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		again, err := c.send(ctx, body)
		if err == nil {
			return nil
		}
		if !again || attempt == attempts {
			return fmt.Errorf("publishing on %s: %w", channel, err)
		}
		select {
		case <-time.After(time.Duration(attempt) * 250 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send sends a message. again is true if it makes sense to send it again: also when no
// answer came, because then nobody knows whether it was published.
func (c *Client) send(ctx context.Context, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/publish", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "Bearer "+c.secret)
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return true, err
	}
	if status := resp.StatusCode; status != http.StatusOK {
		again = status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
		return again, fmt.Errorf("HTTP %d: %s", status, bytes.TrimSpace(text))
	}
	var answer struct{ UUID string }
	if json.Unmarshal(text, &answer) != nil || answer.UUID == "" {
		// Another page, such as one that is there for every address, is no success.
		return false, errors.New("this address is no endpoint of pushit")
	}
	return false, nil
}
