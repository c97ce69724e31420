// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// peersReadBuffer is the buffer of a subscriber in bytes: enough for most of a burst, so that
// the load takes little of the machine.
const peersReadBuffer = 16 << 10

// peersPatience is how long a load may wait for deliveries.
const peersPatience = time.Minute

// A subscriber is a connection that is subscribed to peersChannel.
type subscriber struct {
	conn net.Conn
	ws   *wireclient.WebSocket // nil for streams
	// next reads, and returns how many deliveries came. more says that the next call need
	// not wait.
	next func() (deliveries int, more bool, err error)
	done chan struct{} // closed when read has returned
}

// socketSubscriber returns the subscriber of a WebSocket. hear counts the deliveries in a
// frame.
func socketSubscriber(ws *wireclient.WebSocket, hear func(payload []byte) (int, error)) *subscriber {
	return &subscriber{conn: ws.Conn, ws: ws, done: make(chan struct{}), next: func() (int, bool, error) {
		payload, ok, err := ws.Next() // not Read: behind a ping, it would wait before the deliveries are counted
		if err != nil {
			return 0, false, err
		}
		n := 0
		if ok {
			n, err = hear(payload)
		}
		return n, ws.Buffered() > 0, err
	}}
}

// read counts deliveries until the connection ends.
func (s *subscriber) read(t *deliveryTally) {
	defer close(s.done)
	pending := 0
	for {
		n, more, err := s.next()
		if err != nil {
			t.fail(err)
			return
		}
		if pending += n; pending > 0 && !more {
			t.add(pending)
			pending = 0
		}
	}
}

// A deliveryTally counts deliveries.
type deliveryTally struct {
	got, want atomic.Int64
	changed   chan struct{} // buffered(1): got has reached want, or failure was set
	failure   atomic.Pointer[error]
}

func (t *deliveryTally) add(n int) {
	if t.got.Add(int64(n)) >= t.want.Load() {
		t.tell()
	}
}

// fail keeps the first error.
func (t *deliveryTally) fail(err error) {
	if t.failure.CompareAndSwap(nil, &err) {
		t.tell()
	}
}

func (t *deliveryTally) tell() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// await waits until that many deliveries were counted. One goroutine calls it.
func (t *deliveryTally) await(ctx context.Context, want int64) error {
	t.want.Store(want)
	deadline := time.NewTimer(peersPatience)
	defer deadline.Stop()
	for t.got.Load() < want {
		if err := t.failure.Load(); err != nil {
			return fmt.Errorf("a subscriber was lost: %w", *err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("%d of %d deliveries are missing", want-t.got.Load(), want)
		case <-t.changed:
		}
	}
	return nil
}

// An audience is the subscribers of a peer, and a publisher.
type audience struct {
	server      *peerServer
	subscribers []*subscriber
	publisher   *publisher
	tally       *deliveryTally
	published   int64 // messages
}

// withAudience connects n subscribers and a publisher, and disconnects them.
func withAudience(ctx context.Context, p peer, s *peerServer, n int, use func(*audience) error) error {
	if err := raiseFiles(n + 200); err != nil {
		return err
	}
	a := &audience{server: s, subscribers: make([]*subscriber, n), tally: &deliveryTally{changed: make(chan struct{}, 1)}}
	defer a.leave()
	err := each(n, func(i int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		one, err := p.subscribe(ctx, s.at)
		if err != nil {
			return err
		}
		a.subscribers[i] = one
		go one.read(a.tally)
		return one.conn.SetDeadline(time.Time{})
	})
	if err != nil {
		return err
	}
	if a.publisher, err = p.publisher(ctx, s.at, a.subscribers[0]); err != nil {
		return err
	}
	if err := use(a); err != nil {
		return err
	}
	if got, want := a.tally.got.Load(), a.published*int64(n); got != want {
		return fmt.Errorf("%d deliveries came, want %d", got, want)
	}
	return nil
}

func (a *audience) leave() {
	if a.publisher != nil {
		a.publisher.close()
	}
	for _, s := range a.subscribers {
		if s != nil {
			_ = s.conn.Close()
			<-s.done
		}
	}
}

// publish publishes n messages at once, and waits until at most ahead-1 such bursts are
// under way.
func (a *audience) publish(ctx context.Context, n, ahead int) error {
	if err := a.publisher.publish(ctx, n); err != nil {
		return errors.Join(err, a.server.alive())
	}
	a.published += int64(n)
	return a.await(ctx, a.published-int64((ahead-1)*n))
}

// await waits until all subscribers have had that many messages.
func (a *audience) await(ctx context.Context, messages int64) error {
	err := a.tally.await(ctx, messages*int64(len(a.subscribers)))
	if err != nil {
		return errors.Join(err, a.server.alive())
	}
	return nil
}
