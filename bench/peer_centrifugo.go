// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/push-it/pushit/internal/wireclient"
)

// peersSecret is a password of the servers that need one. It is another one in each run.
var peersSecret = rand.Text() + rand.Text()

// centrifugoConfig is what Centrifugo needs to be told.
type centrifugoConfig struct {
	Server struct {
		Address string `json:"address"`
		Port    int    `json:"port"`
	} `json:"http_server"`
	API struct {
		Key string `json:"key"`
	} `json:"http_api"`
	Client struct {
		Anonymous bool     `json:"allow_anonymous_connect_without_token"`
		Origins   []string `json:"allowed_origins"`
	} `json:"client"`
	Channel struct {
		Without struct {
			Subscribe bool `json:"allow_subscribe_for_client"`
			Anonymous bool `json:"allow_subscribe_for_anonymous"`
		} `json:"without_namespace"`
	} `json:"channel"`
	Usage struct {
		Disabled bool `json:"disabled"`
	} `json:"usage_stats"`
}

// centrifugoPeer is Centrifugo. Its subscribers use its JSON protocol over WebSocket. A
// backend publishes over its HTTP API, several messages as one batch.
func centrifugoPeer(path string) peer {
	return peer{
		name: "Centrifugo",
		start: func(ctx context.Context) (*peerServer, error) {
			return startPeer(ctx, func(dir, addr string) (*exec.Cmd, error) {
				config, err := centrifugoConfigFor(addr)
				if err != nil {
					return nil, err
				}
				file := filepath.Join(dir, "config.json")
				err = os.WriteFile(file, config, 0o600)
				return exec.Command(path, "--config", file), err //nolint:gosec // G204: the command line names it
			})
		},
		subscribe: func(ctx context.Context, at target) (*subscriber, error) {
			ws, err := open(ctx, at, "/connection/websocket")
			if err != nil {
				return nil, err
			}
			for i, command := range []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"` + peersChannel + `"}}`} {
				if err := centrifugoAsk(ws, i+1, command); err != nil {
					ws.Cut()
					return nil, fmt.Errorf("%s: %w", command, err)
				}
			}
			return socketSubscriber(ws, func(payload []byte) (int, error) {
				n, pinged, err := centrifugoHear(payload)
				if pinged && err == nil {
					err = ws.Write(wireclient.OpText, []byte("{}"))
				}
				return n, err
			}), nil
		},
		publisher: func(_ context.Context, at target, _ *subscriber) (*publisher, error) {
			client := &http.Client{Transport: &http.Transport{}, Timeout: dialTimeout}
			return &publisher{
				publish: func(ctx context.Context, n int) error { return centrifugoPublish(ctx, client, at, n) },
				close:   client.CloseIdleConnections,
			}, nil
		},
	}
}

func centrifugoConfigFor(addr string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	var c centrifugoConfig
	c.Server.Address = host
	if c.Server.Port, err = strconv.Atoi(port); err != nil {
		return nil, err
	}
	c.API.Key = peersSecret
	c.Client.Anonymous = true
	c.Client.Origins = []string{target{addr: addr}.origin()}
	c.Channel.Without.Subscribe, c.Channel.Without.Anonymous = true, true
	c.Usage.Disabled = true
	return json.Marshal(c)
}

// centrifugoAsk sends a command, and reads its answer.
func centrifugoAsk(ws *wireclient.WebSocket, id int, command string) error {
	if err := ws.Write(wireclient.OpText, []byte(command)); err != nil {
		return err
	}
	for {
		payload, err := ws.Read()
		if err != nil {
			return err
		}
		answered, err := centrifugoAnswer(payload, id)
		if answered || err != nil {
			return err
		}
	}
}

// centrifugoAnswer looks for the answer to a command in a frame, which may have several lines.
func centrifugoAnswer(payload []byte, id int) (answered bool, err error) {
	for line := range bytes.SplitSeq(payload, []byte{'\n'}) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var reply struct {
			ID    int             `json:"id"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(line, &reply); err != nil {
			return false, fmt.Errorf("%q: %w", line, err)
		}
		if reply.ID == id {
			if reply.Error != nil {
				return true, fmt.Errorf("the answer is %s", line)
			}
			return true, nil
		}
	}
	return false, nil
}

// centrifugoHear counts the publications in a frame, and reports whether the frame has a ping.
// It looks only at the beginning of each line.
func centrifugoHear(payload []byte) (publications int, pinged bool, err error) {
	for line := range bytes.SplitSeq(payload, []byte{'\n'}) {
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
		case string(line) == "{}":
			pinged = true
		case bytes.HasPrefix(line, []byte(`{"push":{"channel":"`+peersChannel+`","pub":{`)):
			publications++
		default:
			return publications, pinged, fmt.Errorf("%.200q came", line)
		}
	}
	return publications, pinged, nil
}

type centrifugoCommand struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

// centrifugoPublish publishes n messages with one request.
func centrifugoPublish(ctx context.Context, client *http.Client, at target, n int) error {
	command := centrifugoCommand{peersChannel, peersData}
	method, body := "publish", any(command)
	if n > 1 {
		type batched struct {
			Publish centrifugoCommand `json:"publish"`
		}
		commands := make([]batched, n)
		for i := range commands {
			commands[i].Publish = command
		}
		method, body = "batch", map[string]any{"commands": commands}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.origin()+"/api/"+method, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-API-Key", peersSecret)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", method, resp.Status, answer)
	}
	return centrifugoAccepted(answer, n)
}

// centrifugoAccepted returns an error if the answer to a publish of n messages has one.
func centrifugoAccepted(answer []byte, n int) error {
	type failed struct {
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	var got struct {
		failed
		Replies []failed `json:"replies"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return fmt.Errorf("%q: %w", answer, err)
	}
	if n > 1 && len(got.Replies) != n {
		return fmt.Errorf("%d answers to %d messages: %.200s", len(got.Replies), n, answer)
	}
	for _, f := range append(got.Replies, got.failed) {
		if f.Error != nil {
			return fmt.Errorf("a publish was refused: %s", f.Error.Message)
		}
	}
	return nil
}
