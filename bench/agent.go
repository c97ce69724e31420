// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// An endpoint is one of the ways to reach pushit by WebSocket.
type endpoint struct {
	name   string
	path   string
	sockjs bool
}

var (
	bare   = endpoint{"bare", "/push/websocket", false}
	sockjs = endpoint{"SockJS", "/push/000/bench-session/websocket", true}
)

// frame is what the protocol's frames are made of.
type frame struct {
	Channel    string          `json:"channel"`
	UUID       string          `json:"uuid,omitempty"`
	AgentID    string          `json:"agentId,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Successful *bool           `json:"successful,omitempty"`
	Error      string          `json:"error,omitempty"`
	Code       json.RawMessage `json:"code,omitempty"`
}

// agentOptions say what an agent does after it has connected.
type agentOptions struct {
	socketOptions
	subscribe []string
	// onMessage, if not nil, gets each text frame that carries a message, in the form
	// of the endpoint. The agent's reader calls it. It must not keep the frame.
	onMessage func(payload []byte)
	// stalls makes the agent stop reading after it has connected, until resume.
	stalls bool
}

// An agent is a session of pushit, with a goroutine that reads.
type agent struct {
	*wireclient.WebSocket
	at        endpoint
	id        string
	onMessage func([]byte)
	done      chan struct{} // closed when run has returned

	answered     chan struct{} // buffered(1): a publish was answered since the last look
	acknowledged atomic.Int64  // publishes, also those refused
	refused      atomic.Int64

	lastUUID int // owned by the goroutine that asks and publishes

	// Owned by run until done is closed.
	closing string // what /meta/close said
	failure error  // why run ended
}

// agentCount makes agent ids.
var agentCount atomic.Int64

// come opens a session, connects and subscribes.
func come(ctx context.Context, t target, at endpoint, o agentOptions) (*agent, error) {
	ws, err := dial(ctx, t, at.path, o.socketOptions)
	if err != nil {
		return nil, err
	}
	a := &agent{
		WebSocket: ws,
		at:        at,
		id:        "bench-" + strconv.FormatInt(agentCount.Add(1), 10),
		onMessage: o.onMessage,
		done:      make(chan struct{}),
		answered:  make(chan struct{}, 1),
	}
	if err := a.begin(o.subscribe); err != nil {
		ws.Cut()
		return nil, fmt.Errorf("%s on the %s endpoint: %w", a.id, at.name, err)
	}
	if !o.stalls {
		go a.run()
	}
	return a, nil
}

func (a *agent) begin(channels []string) error {
	if err := a.ask(frame{Channel: "/meta/connect", Data: json.RawMessage(`{"credentials":null}`)}); err != nil {
		return err
	}
	for _, channel := range channels {
		data, err := json.Marshal(map[string]string{"channel": channel})
		if err != nil {
			return err
		}
		if err := a.ask(frame{Channel: "/meta/subscribe", Data: data}); err != nil {
			return err
		}
	}
	return opened(a.WebSocket)
}

// ask sends a frame and reads until its answer, which must be positive. Call it only
// before run.
func (a *agent) ask(f frame) error {
	f.UUID, f.AgentID = a.nextUUID(), a.id
	object, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := a.send(object); err != nil {
		return err
	}
	for {
		payload, err := a.Read()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Channel, err)
		}
		objects, err := a.at.objects(payload)
		if err != nil {
			return err
		}
		for _, object := range objects {
			var got frame
			if err := json.Unmarshal(object, &got); err != nil {
				return fmt.Errorf("%s: %q: %w", f.Channel, object, err)
			}
			switch {
			case got.UUID != f.UUID: // a message of an earlier subscription
				a.deliver(payload)
			case got.Channel != f.Channel || got.Successful == nil || !*got.Successful:
				return fmt.Errorf("%s: the answer is %s", f.Channel, object)
			default:
				return nil
			}
		}
	}
}

func (a *agent) nextUUID() string {
	a.lastUUID++
	return a.id + "-" + strconv.Itoa(a.lastUUID)
}

// send sends each of the objects as a frame, in one write.
func (a *agent) send(objects ...[]byte) error {
	if a.at.sockjs {
		for i, object := range objects {
			text, err := json.Marshal([]string{string(object)})
			if err != nil {
				return err
			}
			objects[i] = text
		}
	}
	return a.Write(wireclient.OpText, objects...)
}

// publish publishes each of the data, which are JSON, in one write. Its agent's
// acknowledged count tells when they were answered.
func (a *agent) publish(channel string, data ...[]byte) error {
	objects := make([][]byte, len(data))
	for i, d := range data {
		object := fmt.Appendf(nil, `{"channel":%q,"uuid":%q,"agentId":%q,"data":`, channel, a.nextUUID(), a.id)
		objects[i] = append(append(object, d...), '}')
	}
	return a.send(objects...)
}

// run reads until the connection ends.
func (a *agent) run() {
	defer close(a.done)
	for {
		payload, err := a.Read()
		if err != nil {
			a.failure = err
			return
		}
		if err := a.take(payload); err != nil {
			a.failure = err
			return
		}
	}
}

// take handles a text frame. It looks only at the beginning of the frame and decodes
// nothing, because the server is measured, not this program.
func (a *agent) take(payload []byte) error {
	switch head := payload[:min(len(payload), 48)]; {
	case len(payload) == 0:
		return errors.New("an empty frame came")
	case payload[0] == 'h', payload[0] == 'o', payload[0] == 'c':
	case bytes.Contains(head, []byte("/meta/successful")):
		a.acknowledge()
	case bytes.Contains(head, []byte("/meta/error")):
		a.refused.Add(1)
		a.acknowledge()
	case bytes.Contains(head, []byte("/meta/close")):
		a.closing = string(payload)
	default:
		a.deliver(payload)
	}
	return nil
}

func (a *agent) acknowledge() {
	a.acknowledged.Add(1)
	select {
	case a.answered <- struct{}{}:
	default:
	}
}

func (a *agent) deliver(payload []byte) {
	if a.onMessage != nil {
		a.onMessage(payload)
	}
}

// depart closes the session in order, and waits until it has ended.
func (a *agent) depart(ctx context.Context) error {
	defer a.Cut()
	if err := a.Leave(); err != nil {
		return err
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(dialTimeout):
		return errors.New("the server did not answer a close frame")
	}
}

// vanish cuts the connection, and waits for the reader.
func (a *agent) vanish() {
	a.Cut()
	<-a.done
}

// ended waits for the end of a connection that fails, and returns why it did.
func (a *agent) ended() error {
	a.vanish()
	return errors.Join(a.failure, closingError(a.closing))
}

// objects returns the JSON objects that a text frame carries.
func (e endpoint) objects(payload []byte) ([][]byte, error) {
	if !e.sockjs {
		return [][]byte{payload}, nil
	}
	if len(payload) == 0 || payload[0] != 'a' {
		return nil, nil
	}
	var texts []string
	if err := json.Unmarshal(payload[1:], &texts); err != nil {
		return nil, fmt.Errorf("%q: %w", payload, err)
	}
	objects := make([][]byte, len(texts))
	for i, text := range texts {
		objects[i] = []byte(text)
	}
	return objects, nil
}
