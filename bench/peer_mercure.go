// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const mercurePath = "/.well-known/mercure"

// A mercureKind is how a generation of Mercure is configured and asked. Its Caddyfile and
// the name of a parameter have changed with 1.0.
type mercureKind struct {
	options string // Argument: the secret
	topic   string // the parameter of a subscription
}

var mercureKinds = []mercureKind{
	{topic: "match", options: `issuer ` + mercureIssuer + ` {
			publisher {
				jwt %s HS256
			}
		}`},
	{topic: "topic", options: `publisher_jwt %s HS256`},
}

const mercureIssuer = "https://bench.invalid"

// mercureCaddyfile configures Mercure. Arguments: directory, address, options. The transport
// local keeps nothing, like the other servers.
const mercureCaddyfile = `{
	admin off
	auto_https off
	persist_config off
	storage file_system %[1]s/storage
	log {
		output file %[1]s/mercure.log
	}
}
http://%[2]s {
	mercure {
		transport local
		anonymous
		%[3]s
	}
}
`

// mercurePeer is Mercure. Its subscribers read Server-Sent Events. A backend publishes with
// one request for each message, because there is no other way.
func mercurePeer(path string) peer {
	m := &mercure{path: path}
	return peer{name: "Mercure", start: m.start, subscribe: m.subscribe, publisher: m.publisher}
}

type mercure struct {
	path string
	kind mercureKind // known after the start
}

func (m *mercure) start(ctx context.Context) (*peerServer, error) {
	return startPeer(ctx, func(dir, addr string) (*exec.Cmd, error) {
		config := filepath.Join(dir, "Caddyfile")
		var refused error
		for _, kind := range mercureKinds {
			text := fmt.Appendf(nil, mercureCaddyfile, dir, addr, fmt.Sprintf(kind.options, peersSecret))
			if err := os.WriteFile(config, text, 0o600); err != nil {
				return nil, err
			}
			out, err := exec.CommandContext(ctx, m.path, "adapt", "--config", config, "--adapter", "caddyfile").CombinedOutput() //nolint:gosec // G204: the command line names it
			if err == nil {
				m.kind = kind
				return exec.Command(m.path, "run", "--config", config, "--adapter", "caddyfile"), nil //nolint:gosec // G204: the same
			}
			refused = errors.Join(refused, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out)))
		}
		return nil, refused
	})
}

// subscribe requests a stream. The answer begins when the subscription is there.
func (m *mercure) subscribe(ctx context.Context, at target) (*subscriber, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", at.addr)
	if err != nil {
		return nil, err
	}
	s, err := m.subscribeOn(ctx, conn, at)
	if err != nil {
		_ = conn.Close()
	}
	return s, err
}

func (m *mercure) subscribeOn(ctx context.Context, conn net.Conn, at target) (*subscriber, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.origin()+mercurePath+"?"+m.kind.topic+"="+peersChannel, http.NoBody)
	if err != nil {
		return nil, err
	}
	for name, values := range upgradeTo(at, "", socketOptions{}).Header {
		if !strings.HasPrefix(name, "Sec-Websocket") {
			req.Header[name] = values
		}
	}
	req.Header.Set("Accept", "text/event-stream")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(conn, peersReadBuffer)
	resp, err := http.ReadResponse(br, req) //nolint:bodyclose // it ends with conn
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // it only explains
		return nil, fmt.Errorf("subscribing: %s: %s", resp.Status, text)
	}
	return streamSubscriber(conn, br, resp.Body), nil
}

// streamSubscriber returns the subscriber of a stream of Server-Sent Events, whose body comes
// through br.
func streamSubscriber(conn net.Conn, br *bufio.Reader, body io.Reader) *subscriber {
	var events eventCount
	buf := make([]byte, peersReadBuffer)
	return &subscriber{conn: conn, done: make(chan struct{}), next: func() (int, bool, error) {
		n, err := body.Read(buf)
		return events.take(buf[:n]), br.Buffered() > 0, err
	}}
}

// An eventCount counts the events with data in a stream of Server-Sent Events whose lines end
// with LF. It decodes nothing, because the server is measured, not this program.
type eventCount struct {
	column int  // in the line so far
	data   bool // the event has a line that begins with data
	match  int  // how much of "data" the line has begun with
}

func (e *eventCount) take(stream []byte) (events int) {
	const field = "data:"
	for _, c := range stream {
		switch {
		case c != '\n':
			if e.column == e.match && e.match < len(field) && c == field[e.match] {
				if e.match++; e.match == len(field) {
					e.data = true
				}
			}
			e.column++
			continue
		case e.column == 0 && e.data:
			events++
			e.data = false
		}
		e.column, e.match = 0, 0
	}
	return events
}

func (m *mercure) publisher(_ context.Context, at target, _ *subscriber) (*publisher, error) {
	token, err := mercureToken(at.origin()+mercurePath, time.Now())
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}, Timeout: dialTimeout}
	form := url.Values{"topic": {peersChannel}, "data": {string(peersData)}}.Encode()
	return &publisher{
		publish: func(ctx context.Context, n int) error {
			return each(n, func(int) error { return mercurePublish(ctx, client, at, token, form) })
		},
		close: client.CloseIdleConnections,
	}, nil
}

func mercurePublish(ctx context.Context, client *http.Client, at target, token, form string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.origin()+mercurePath, strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("publishing: %s: %s", resp.Status, answer)
	}
	return err
}

// mercureTokenLife is longer than a run.
const mercureTokenLife = 24 * time.Hour

// mercureToken returns a token that may publish, for every generation of Mercure.
func mercureToken(audience string, now time.Time) (string, error) {
	type topic struct {
		Match string `json:"match"`
	}
	type detail struct {
		Type    string   `json:"type"`
		Actions []string `json:"actions"`
		Topics  []topic  `json:"topics"`
	}
	head, err := json.Marshal(map[string]string{"alg": "HS256", "typ": "at+jwt"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": mercureIssuer, "aud": audience, "sub": "bench", "client_id": "bench", "jti": peersSecret[:8],
		"iat": now.Unix(), "exp": now.Add(mercureTokenLife).Unix(),
		"authorization_details": []detail{{"https://mercure.rocks/authorization-detail", []string{"publish"}, []topic{{peersChannel}}}},
		"mercure":               map[string]any{"publish": []string{peersChannel}},
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(head) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(peersSecret))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}
