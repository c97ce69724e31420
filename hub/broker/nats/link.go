// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// A link is a connection with the subscriptions of a node. It connects again by itself, for
// as long as it is not closed.
type link struct {
	nc *nats.Conn
	b  *Broker

	mu  sync.Mutex // guards err; a leaf
	err error      // what NATS has refused last
}

// dial connects in the background, and subscribes. nats.go subscribes again at each
// connection.
func (b *Broker) dial() (*link, error) {
	b.mu.Lock()
	o := b.options
	b.mu.Unlock()
	list, err := o.connection()
	if err != nil {
		return nil, err
	}
	l := &link{b: b}
	note := func(*nats.Conn) {
		b.look()
		b.bus.connected()
	}
	l.nc, err = nats.Connect(strings.Join(o.URLs, ","), append(list,
		nats.ConnectHandler(note),
		nats.ReconnectHandler(note),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.refusedBy(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.refusedBy(err) }),
		// A subscription whose queue is full drops messages, and only this says so.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.refusedBy(err) }),
	)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	nc := l.nc
	// While Reconnect replaces a connection by another one there are two, and each message
	// must come once. The queue group does that. What the stream sends on comes twice,
	// because there a message twice is better than none.
	group := b.names.node
	_, one := nc.ChanSubscribe(b.names.live(), b.live)
	_, two := nc.ChanSubscribe(b.inbox+".*", b.acks)
	_, three := nc.ChanQueueSubscribe(b.names.base+"b.>", group, b.bus.inbound)
	_, four := nc.ChanQueueSubscribe(b.names.heartbeat(), group, b.bus.inbound)
	_, five := nc.ChanQueueSubscribe(b.names.goodbye(), group, b.bus.inbound)
	_, six := nc.ChanQueueSubscribe(b.names.base+"r."+token(b.names.node)+".>", group, b.bus.requests)
	if err := errors.Join(one, two, three, four, five, six); err != nil {
		l.close()
		return nil, fmt.Errorf("subscribing to NATS: %w", err)
	}
	return l, nil
}

func (l *link) close() { l.nc.Close() }

func (b *Broker) conn() *nats.Conn { return b.link.Load().nc }

// refusedBy notes an error of the connection, and has the loop look at it.
func (l *link) refusedBy(err error) {
	if err != nil {
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
	}
	l.b.look()
}

// works notes that nothing is refused any more.
func (l *link) works() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = nil
}

// refusal returns what NATS has refused this node, if other settings are needed: it does not
// know the user, or the user may not do what a node does.
func (l *link) refusal() error {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return &setupError{fmt.Errorf("NATS does not let this node in: check credentials, nkey, token, or user and password (%w)", err)}
	case errors.Is(err, nats.ErrPermissionViolation):
		return &setupError{fmt.Errorf("the user of NATS needs the right to publish and subscribe to %s> and _INBOX.>, and to publish to %s> (%w)", l.b.names.base, l.b.names.api, err)}
	case errors.Is(err, nats.ErrSecureConnRequired):
		return &setupError{fmt.Errorf("the NATS servers demand TLS: write tls (%w)", err)}
	case errors.Is(err, nats.ErrSecureConnWanted):
		return &setupError{fmt.Errorf("the NATS servers have no TLS: remove tls, or give them a certificate (%w)", err)}
	}
	return nil
}

// connectedSince returns when the node was connected, as far as the loop knows.
func (b *Broker) connectedSince() time.Time { return b.log.connected }

// isAway reports whether NATS was away for longer than a publish waits.
func (b *Broker) isAway() bool {
	since := b.log.away.Load()
	return since != 0 && time.Since(time.Unix(0, since)) > publishPatience
}

// Reconnect changes who the node is, and the addresses of the servers. They must be of the
// same NATS, so at least one address must stay. It connects once more, and then ends the old
// connection: no message is missing. After an error all stays as it was.
func (b *Broker) Reconnect(o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	if err := b.SameEngine(o); err != nil {
		return err
	}
	o = o.withDefaults()
	b.mu.Lock()
	if b.closed || !b.started {
		b.mu.Unlock()
		return nil
	}
	auth, urls := b.options.Auth, b.options.URLs
	b.options.Auth, b.options.URLs = o.Auth, o.URLs
	b.mu.Unlock()
	next, err := b.dial()
	if err == nil {
		err = b.replaceBy(next)
	}
	if err != nil {
		b.mu.Lock()
		b.options.Auth, b.options.URLs = auth, urls
		b.mu.Unlock()
	}
	return err
}

// replaceBy waits until next is connected, and replaces the link by it. If it is not connected
// in time, but the old one is, that one stays.
func (b *Broker) replaceBy(next *link) error {
	old := b.link.Load()
	for late := time.Now().Add(startPatience); !next.nc.IsConnected() && old.nc.IsConnected(); time.Sleep(20 * time.Millisecond) {
		if err := next.refusal(); err != nil || time.Now().After(late) || b.life.Err() != nil {
			next.close()
			if err == nil {
				err = ErrAway
			}
			return fmt.Errorf("the hub stays connected as before: %w", err)
		}
	}
	b.link.Store(next)
	b.look()
	time.AfterFunc(publishPatience, old.close) // publishes may wait for its answers
	return nil
}

// Resize has the stream be at least as large as o says, with at least as many replicas.
func (b *Broker) Resize(o Options) {
	o = o.withDefaults()
	b.mu.Lock()
	changed := b.options.Replicas != o.Replicas || b.options.MaxBytes != o.MaxBytes
	b.options.Replicas, b.options.MaxBytes = o.Replicas, o.MaxBytes
	b.mu.Unlock()
	if changed {
		b.look()
	}
}

// Probe connects for a moment, and returns what only other settings can mend. It returns nil
// if NATS is away.
func Probe(o Options) error {
	b, err := New(o)
	if err != nil {
		return err
	}
	defer b.end()
	l, err := b.dial()
	if err != nil {
		return err
	}
	defer l.close()
	b.link.Store(l)
	for late := time.Now().Add(startPatience); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if err := l.refusal(); err != nil {
			return err
		}
		if !l.nc.IsConnected() {
			continue
		}
		if err := b.checkPayload(l.nc); err != nil {
			return err
		}
		if _, err := b.info(); err == nil || isCode(err, codeNoStream) {
			return nil
		} else if isCode(err, codeNotForAccount, codeNotEnabled) {
			return &setupError{err}
		}
	}
	return l.refusal()
}

// SameEngine returns what differs if o is about another log than b's.
func (b *Broker) SameEngine(o Options) error {
	o = o.withDefaults()
	b.mu.Lock()
	now := b.options
	b.mu.Unlock()
	const restart = "the engine of a hub cannot change in a reload, because positions and messages would be lost: restart the server"
	switch {
	case now.Prefix != o.Prefix:
		return fmt.Errorf("the hub %s has the prefix %s now, not %s; %s", o.Hub, now.Prefix, o.Prefix, restart)
	case now.Domain != o.Domain:
		return fmt.Errorf("the hub %s has the JetStream domain %q now, not %q; %s", o.Hub, now.Domain, o.Domain, restart)
	case now.Node != o.Node:
		return fmt.Errorf("this node is called %q now, not %q; restart the server to rename it", now.Node, o.Node)
	case !slices.ContainsFunc(o.URLs, func(u string) bool { return slices.Contains(now.URLs, u) }):
		return fmt.Errorf("the hub %s is connected to %s, and none of these servers is among %s; keep at least one of them, or, if that is another NATS: %s", o.Hub, strings.Join(now.URLs, " "), strings.Join(o.URLs, " "), restart)
	}
	return nil
}
