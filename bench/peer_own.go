// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/push-it/pushit/internal/wireclient"
)

// peersText is a message as pushit sends it. The bare server and Bun get it as it is.
var peersText = fmt.Appendf(nil, `{"channel":%q,"uuid":"%036d","data":%s}`, peersChannel, 0, peersData)

// peersData is the data of a message, which is JSON.
var peersData = append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, peersSize-2)...), '"')

// one counts a frame that is one delivery.
func one([]byte) (int, error) { return 1, nil }

// open opens a WebSocket. Its deadline is still set.
func open(ctx context.Context, at target, path string) (*wireclient.WebSocket, error) {
	return dial(ctx, at, path, socketOptions{readBuffer: peersReadBuffer})
}

// writer returns a publisher that writes a text frame for each message, all in one write.
func writer(ws *wireclient.WebSocket, text []byte, leave func()) *publisher {
	return &publisher{
		publish: func(_ context.Context, n int) error { return ws.Write(wireclient.OpText, repeat(text, n)...) },
		close:   leave,
	}
}

// barePeer is the floor. A subscriber publishes, because the floor sends to all connections.
func barePeer() peer {
	return peer{
		name: "bare Go writes",
		start: func(ctx context.Context) (*peerServer, error) {
			return startPeer(ctx, func(_, addr string) (*exec.Cmd, error) {
				self, err := os.Executable()
				return exec.Command(self, floorCommand, addr), err //nolint:gosec // G204: this program itself
			})
		},
		subscribe: func(ctx context.Context, at target) (*subscriber, error) {
			ws, err := open(ctx, at, "/")
			if err != nil {
				return nil, err
			}
			return socketSubscriber(ws, one), nil
		},
		publisher: func(_ context.Context, _ target, s *subscriber) (*publisher, error) {
			return writer(s.ws, peersText, func() {}), nil
		},
	}
}

// peersCaddyfile configures pushit. Arguments: directory, address.
const peersCaddyfile = globalOptions + `http://%[2]s {
	pushit /push {
		default allow
		limits {
			agents_per_ip unlimited
			frames_per_second unlimited
			publishes_per_second unlimited
		}
	}
}
`

// pushitPeer is pushit. An agent publishes.
func pushitPeer(caddy string) peer {
	return peer{
		name: "pushit",
		start: func(ctx context.Context) (*peerServer, error) {
			return startPeer(ctx, func(dir, addr string) (*exec.Cmd, error) {
				config := filepath.Join(dir, "Caddyfile")
				err := os.WriteFile(config, fmt.Appendf(nil, peersCaddyfile, dir, addr), 0o600)
				return exec.Command(caddy, "run", "--config", config, "--adapter", "caddyfile"), err //nolint:gosec // G204: the server to measure
			})
		},
		subscribe: func(ctx context.Context, at target) (*subscriber, error) {
			a, err := come(ctx, at, bare, agentOptions{
				socketOptions: socketOptions{readBuffer: peersReadBuffer}, subscribe: []string{peersChannel}, stalls: true,
			})
			if err != nil {
				return nil, err
			}
			return socketSubscriber(a.WebSocket, one), nil
		},
		publisher: func(ctx context.Context, at target, _ *subscriber) (*publisher, error) {
			a, err := come(ctx, at, bare, agentOptions{})
			if err != nil {
				return nil, err
			}
			return &publisher{
				publish: func(_ context.Context, n int) error {
					if refused := a.refused.Load(); refused > 0 {
						return fmt.Errorf("%d publishes were refused", refused)
					}
					return a.publish(peersChannel, repeat(peersData, n)...)
				},
				close: a.vanish,
			}, nil
		},
	}
}
