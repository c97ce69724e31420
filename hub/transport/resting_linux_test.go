// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// restingPairs are the connections whose readers rest.
var restingPairs = map[string]connPair{
	"tcp":  func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
	"unix": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "unix") },
	"tls":  tlsPair,
}

// isResting reports whether no goroutine reads.
func (c *wsConn) isResting() bool {
	resting.mu.Lock()
	defer resting.mu.Unlock()
	return resting.holdsLocked(c)
}

func awaitRest(t *testing.T, c *wsConn) {
	t.Helper()
	waitFor(t, "rest", c.isResting)
}

// rest begins a session and waits until its reader rests: after the first bytes, for which it
// waits in a goroutine.
func rest(t *testing.T, pair connPair, waits *times) (*wsReader, *fakeAgent, *peer) {
	t.Helper()
	ours, theirs := pair(t)
	_ = theirs.SetDeadline(time.Now().Add(patience))
	a := newFakeAgent(hub.Limits{})
	r := newWSReader(ours, a, false, waits)
	go r.run(nil)
	p := newPeer(t, theirs)
	p.send(frame(opPing, true, ""))
	p.want(opPong, "")
	awaitRest(t, &r.conn)
	return r, a, p
}

// TestReadersRestWhenAllIsRead: whatever has come, but not in the midst of a message, and not
// while the peer is talkative.
func TestReadersRestWhenAllIsRead(t *testing.T) {
	t.Parallel()
	for name, pair := range restingPairs {
		t.Run(name, func(t *testing.T) {
			r, a, p := rest(t, pair, patient)
			var want []string
			got := func() bool { return slices.Equal(a.received, want) }

			for _, message := range []string{"short", strings.Repeat("long", 5000)} {
				want = append(want, message)
				p.send(text(message))
				a.await(t, "Receive", got)
				awaitRest(t, &r.conn)
			}

			halves := text("in two halves")
			var before int
			a.await(t, "Touch", func() bool { before = a.touched; return true })
			p.send(halves[:5])
			a.await(t, "Touch", func() bool { return a.touched > before && !r.conn.isResting() })
			p.send(halves[5:])
			want = append(want, "in two halves")
			a.await(t, "Receive", got)
			awaitRest(t, &r.conn)

			for i := range talkative {
				want = append(want, fmt.Sprint(i))
				p.send(text(want[len(want)-1]))
				a.await(t, "Receive", got)
			}
			if r.conn.isResting() {
				t.Error("the reader of a talkative peer rests")
			}
			p.send(frame(opPing, true, "still there"))
			p.want(opPong, "still there")
			awaitRest(t, &r.conn)

			p.send(closing(1000, ""))
			p.wantClose(1000, "")
			p.wantEnd()
			<-a.left
		})
	}
}

// TestRestingReadersEnd: each end of a session wakes a reader that rests.
func TestRestingReadersEnd(t *testing.T) {
	t.Parallel()
	for name, pair := range restingPairs {
		t.Run(name, func(t *testing.T) {
			t.Run("the peer vanishes", func(t *testing.T) {
				_, a, p := rest(t, pair, patient)
				_ = p.nc.Close()
				<-a.left
			})
			t.Run("cut", func(t *testing.T) {
				r, a, _ := rest(t, pair, patient)
				r.conn.Cut()
				<-a.left
			})
			t.Run("the hub closes", func(t *testing.T) {
				_, a, p := rest(t, pair, patient)
				a.Close(hub.CloseNormal, "bye", 0)
				p.wantClose(hub.CloseNormal, "bye")
				p.send(closing(hub.CloseNormal, ""))
				p.wantEnd()
				<-a.left
			})
			t.Run("the hub closes, and the peer does not answer", func(t *testing.T) {
				_, a, _ := rest(t, pair, quick)
				a.Close(hub.CloseNormal, "bye", 0)
				if got, want := <-a.left, "the peer did not answer the close frame in time"; got != want {
					t.Errorf("left: %q, want %q", got, want)
				}
			})
			t.Run("the close frame cannot be sent", func(t *testing.T) {
				r, a, _ := rest(t, pair, patient)
				r.conn.failed.Store(true)
				a.Close(hub.CloseNormal, "bye", 0)
				<-a.left
			})
		})
	}
}

// TestAReaderThatIsWokenForNothingGoesOn: an event may be late, and about a descriptor that
// another socket has got meanwhile.
func TestAReaderThatIsWokenForNothingGoesOn(t *testing.T) {
	t.Parallel()
	for name, pair := range restingPairs {
		t.Run(name, func(t *testing.T) {
			r, a, p := rest(t, pair, patient)
			r.conn.wake()
			p.send(text("hello"))
			a.await(t, "Receive", func() bool { return slices.Equal(a.received, []string{"hello"}) })
			awaitRest(t, &r.conn)
			_ = p.nc.Close()
			<-a.left
		})
	}
}

// TestADescriptorThatIsUsedAgain: between the end of a socket and the call of wake, another
// session can rest with the same descriptor. Both go on.
func TestADescriptorThatIsUsedAgain(t *testing.T) {
	t.Parallel()
	former, formerAgent, _ := rest(t, restingPairs["tcp"], patient)
	later, laterAgent, p := rest(t, restingPairs["tcp"], patient)
	_ = former.conn.nc.Close()
	resting.mu.Lock()
	byFD := resting.set.byFD
	byFD[former.conn.place.fd] = nil
	former.conn.place.fd = later.conn.place.fd
	byFD[later.conn.place.fd] = &former.conn
	resting.mu.Unlock()
	go later.conn.resume()
	p.send(text("hello"))
	laterAgent.await(t, "Receive", func() bool { return len(laterAgent.received) == 1 })
	<-formerAgent.left
	former.conn.Cut()
	p.send(text("again")) // it rests, or waits because it was woken for nothing
	laterAgent.await(t, "Receive", func() bool { return len(laterAgent.received) == 2 })
	_ = p.nc.Close()
	<-laterAgent.left
}

// TestEndsThatMeet: sessions end at both sides at the same time as bytes arrive, while other
// sockets get their descriptors. Each session ends, and none gets what was sent to another.
func TestEndsThatMeet(t *testing.T) {
	t.Parallel()
	const atOnce, rounds = 8, 40
	var all sync.WaitGroup
	defer all.Wait()
	for worker := range atOnce {
		all.Go(func() {
			for round := range rounds {
				ours, theirs, err := connected()
				if err != nil {
					t.Error(err)
					return
				}
				a := newFakeAgent(hub.Limits{})
				r := newWSReader(ours, a, false, quick)
				go r.run(nil)
				_, _ = theirs.Write(frame(opPing, true, "")) // so that it rests, or is about to
				if _, err := io.ReadFull(theirs, make([]byte, 2)); err != nil {
					t.Errorf("the pong: %v", err)
				}
				own := fmt.Sprintf("%d.%d", worker, round)
				var both sync.WaitGroup
				both.Go(func() {
					_, _ = theirs.Write(text(own)) // fails if the conn is closed
					if round%2 == 0 {
						_ = theirs.Close()
					}
				})
				both.Go(func() {
					switch round % 4 {
					case 0, 1:
						r.conn.Cut()
					case 2:
						a.Close(hub.CloseNormal, "bye", 0)
					default:
						a.Close(hub.CloseNormal, "bye", 0)
						r.conn.Cut()
					}
				})
				both.Wait()
				select {
				case <-a.left:
				case <-time.After(patience):
					t.Errorf("%s has not ended", own)
				}
				for _, got := range a.messages() {
					if got != own {
						t.Errorf("%s has got %q", own, got)
					}
				}
				_ = theirs.Close()
			}
		})
	}
}

// connected is socketPair for goroutines that make many connections.
func connected() (ours, theirs net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	ours, err = l.Accept()
	return ours, theirs, err
}

// TestRestingReadersOfTLSHoldNoBuffers: neither those of the handshake nor those of a large
// message.
func TestRestingReadersOfTLSHoldNoBuffers(t *testing.T) {
	t.Parallel()
	if len(tlsBuffers) != 2 {
		t.Fatal("crypto/tls has changed: look where it keeps what arrives")
	}
	r, a, p := rest(t, tlsPair, patient)
	for _, message := range []string{"", strings.Repeat("*", 40<<10)} {
		if message != "" {
			p.send(text(message))
			a.await(t, "Receive", func() bool { return len(a.received) == 1 })
			awaitRest(t, &r.conn)
		}
		resting.mu.Lock() // it cannot be woken meanwhile
		size := bufferedBy(r.conn.nc.(*tls.Conn))
		resting.mu.Unlock()
		if size != 0 {
			t.Errorf("after a message of %d bytes, crypto/tls holds buffers of %d bytes", len(message), size)
		}
	}
	_ = p.nc.Close()
	<-a.left
}
