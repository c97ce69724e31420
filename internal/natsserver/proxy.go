// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package natsserver

import (
	"net"
	"sync"
	"testing"
)

// A Proxy stands between a client and a server, and breaks connections.
type Proxy struct {
	tb       testing.TB
	listener net.Listener
	upstream string

	mu    sync.Mutex // guards the following
	cond  sync.Cond  // of mu: mute has changed, or it is over
	conns map[net.Conn]struct{}
	down  bool
	mute  bool
	over  bool
}

// NewProxy starts a proxy of an address. It ends with the test.
func NewProxy(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{tb: tb, listener: l, upstream: upstream, conns: make(map[net.Conn]struct{})}
	p.cond.L = &p.mu
	tb.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.over = true
		p.cond.Broadcast()
		p.mu.Unlock()
		p.Down(true)
	})
	go p.serve()
	return p
}

// URL returns the address for clients.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Down ends all connections if down is set, and refuses new ones.
func (p *Proxy) Down(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	if down {
		for c := range p.conns {
			_ = c.Close()
		}
		p.cond.Broadcast()
	}
}

// Mute holds back all that goes through, in both directions, as a network does that is cut.
// Nobody is told.
func (p *Proxy) Mute(mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = mute
	p.cond.Broadcast()
}

// pass waits while the proxy is mute.
func (p *Proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mute && !p.over && !p.down {
		p.cond.Wait()
	}
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.join(c)
	}
}

func (p *Proxy) join(c net.Conn) {
	defer func() { _ = c.Close() }()
	p.pass()
	up, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns[c], p.conns[up] = struct{}{}, struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		delete(p.conns, up)
	}()
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{c: up, up: c} {
		both.Go(func() {
			b := make([]byte, 32<<10)
			for {
				n, err := from.Read(b)
				p.pass()
				if _, werr := to.Write(b[:n]); err != nil || werr != nil {
					_ = c.Close()
					_ = up.Close()
					return
				}
			}
		})
	}
	both.Wait()
}
