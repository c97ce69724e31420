// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/push-it/pushit/internal/wireclient"
)

//go:embed peer_bun.js
var bunScript []byte

// bunPeer is Bun, whose WebSocket server is uWebSockets, with a script that publishes what a
// frame says. Compression is off, which is Bun's default.
func bunPeer(path string) peer {
	return peer{
		name: "Bun",
		start: func(ctx context.Context) (*peerServer, error) {
			return startPeer(ctx, func(dir, addr string) (*exec.Cmd, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				script := filepath.Join(dir, "peer.js")
				err = os.WriteFile(script, bunScript, 0o600)
				return exec.Command(path, script, host, port), err //nolint:gosec // G204: the command line names it
			})
		},
		subscribe: func(ctx context.Context, at target) (*subscriber, error) {
			ws, err := open(ctx, at, "/")
			if err != nil {
				return nil, err
			}
			if err := bunSubscribe(ws); err != nil {
				ws.Cut()
				return nil, err
			}
			return socketSubscriber(ws, one), nil
		},
		publisher: func(ctx context.Context, at target, _ *subscriber) (*publisher, error) {
			ws, err := open(ctx, at, "/")
			if err != nil {
				return nil, err
			}
			return writer(ws, peersText, ws.Cut), opened(ws)
		},
	}
}

func bunSubscribe(ws *wireclient.WebSocket) error {
	if err := ws.Write(wireclient.OpText, []byte("subscribe")); err != nil {
		return err
	}
	answer, err := ws.Read()
	if err != nil {
		return err
	}
	if string(answer) != "subscribed" {
		return fmt.Errorf("the answer to subscribe is %q", answer)
	}
	return nil
}
