// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// socketPair returns both ends of a connection of the named network.
func socketPair(t *testing.T, network string) (ours, theirs net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		// t.TempDir may be longer than a socket's path can be.
		dir, err := os.MkdirTemp("", "push")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if theirs, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

// tlsPair is socketPair with TLS on it.
func tlsPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	return tlsPairOver(t, func(nc net.Conn) net.Conn { return nc })
}

// tlsPairOver is tlsPair with something between the client's TLS and its socket.
func tlsPairOver(t *testing.T, between func(net.Conn) net.Conn) (ours, theirs net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := socketPair(t, "tcp")
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}})
	client := tls.Client(between(b), &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return server, client
}

// quick are times for tests on real sockets, whose clock cannot be faked.
var quick = &times{message: 50 * time.Millisecond, goodbye: patience, closing: 50 * time.Millisecond, notice: 10 * time.Second}

// patient are times that never pass.
var patient = &times{message: time.Hour, goodbye: time.Hour, closing: time.Hour, notice: time.Hour}

// newConn returns a conn that owns nc.
func newConn(nc net.Conn, form *hub.Form, t *times) *wsConn {
	c := new(wsConn)
	c.init(nc, form, t)
	return c
}

func needRaw(t *testing.T, c *wsConn) {
	t.Helper()
	switch {
	case c.bare:
	case runtime.GOOS == "windows": // which rawconn_other.go is for
		t.Skip("only on Unix a conn is read and written by its own system calls")
	default:
		t.Fatal("the conn is not read and written by its own system calls")
	}
}

func needSocketBelow(t *testing.T, c *wsConn) {
	t.Helper()
	switch {
	case c.below != nil:
	case runtime.GOOS == "windows": // which rawconn_other.go is for
		t.Skip("only on Unix a reader waits on the socket below TLS")
	default:
		t.Fatal("the reader does not know the socket below TLS")
	}
}

// fillUp writes until the socket takes no more, and returns the bytes that it took.
func fillUp(t *testing.T, c *wsConn, frame []byte) (taken int) {
	t.Helper()
	for range 1 << 16 {
		n, err := c.TryWrite(frame)
		taken += n
		if errors.Is(err, hub.ErrWouldBlock) {
			if n == len(frame) {
				t.Fatal("ErrWouldBlock although all was taken")
			}
			return taken
		}
		if err != nil || n != len(frame) {
			t.Fatalf("TryWrite = %d, %v", n, err)
		}
	}
	t.Fatal("the socket takes everything")
	return 0
}

func TestTryWriteNeverBlocks(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := socketPair(t, network)
			c := newConn(ours, bareForm, patient)
			needRaw(t, c)
			if n, err := c.TryWrite(nil); n != 0 || err != nil {
				t.Errorf("TryWrite of nothing = %d, %v", n, err)
			}
			// A deadline for an earlier write must not fail this one.
			if err := c.SetWriteDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			frame := appendBare(nil, bytes.Repeat([]byte("x"), 70000))
			taken := fillUp(t, c, frame)
			if n, err := c.TryWrite(frame); n != 0 || !errors.Is(err, hub.ErrWouldBlock) {
				t.Errorf("TryWrite on a full socket = %d, %v", n, err)
			}
			if _, err := c.Write(frame); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write = %v, want its deadline to hold", err)
			}
			if n, err := io.CopyN(io.Discard, theirs, int64(taken)); err != nil {
				t.Errorf("%d of %d bytes came: %v", n, taken, err)
			}
		})
	}
}

func TestTryWriteOnAConnThatCannot(t *testing.T) {
	ours, _ := net.Pipe()
	for _, p := range [][]byte{nil, {1}} {
		if n, err := newConn(ours, bareForm, patient).TryWrite(p); n != 0 || !errors.Is(err, hub.ErrWouldBlock) {
			t.Errorf("TryWrite(%v) = %d, %v; want ErrWouldBlock", p, n, err)
		}
	}
}

func TestTryWriteToAPeerThatIsGone(t *testing.T) {
	ours, theirs := socketPair(t, "tcp")
	c := newConn(ours, bareForm, patient)
	needRaw(t, c)
	_ = theirs.(*net.TCPConn).SetLinger(0) // a reset
	_ = theirs.Close()
	if _, err := ours.Read(make([]byte, 1)); err == nil {
		t.Fatal("the reset has not come")
	}
	n, err := c.TryWrite([]byte("x"))
	if n != 0 || err == nil || errors.Is(err, hub.ErrWouldBlock) {
		t.Errorf("TryWrite = %d, %v; want an error that is final", n, err)
	}
	c.Close(hub.CloseCut, "cut")
	if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, want it closed", err)
	}
}

func TestCloseInTheMidstOfAFrameSaysNothing(t *testing.T) {
	var c *wsConn
	var theirs net.Conn
	var taken int
	for size := 100_003; ; size++ { // no divisor of any buffer
		var ours net.Conn
		ours, theirs = socketPair(t, "tcp")
		c = newConn(ours, sockJSForm, patient)
		needRaw(t, c)
		frame := appendBare(nil, bytes.Repeat([]byte("x"), size))
		if taken = fillUp(t, c, frame); taken%len(frame) != 0 {
			break
		}
		c.Close(hub.CloseSlow, "it took whole frames only")
	}
	c.Close(hub.CloseSlow, "too slow")
	got, err := io.ReadAll(theirs)
	if len(got) != taken {
		t.Errorf("%d bytes came, %v; want %d and nothing more", len(got), err, taken)
	}
}

func TestCloseAfterTheRestOfAFrame(t *testing.T) {
	ours, theirs := socketPair(t, "tcp")
	c := newConn(ours, bareForm, patient)
	needRaw(t, c)
	frame := appendBare(nil, bytes.Repeat([]byte("x"), 100_003))
	taken := fillUp(t, c, frame)
	p := newPeer(t, theirs)
	done := make(chan error, 1)
	go func() {
		if rest := taken % len(frame); rest > 0 {
			if _, err := c.Write(frame[rest:]); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range (taken + len(frame) - 1) / len(frame) {
		p.want(opText, string(frame[10:]))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.Close(hub.CloseCut, "cut")
	p.wantClose(hub.CloseCut, "cut")
}

// A connPair makes both ends of a connection.
type connPair func(*testing.T) (ours, theirs net.Conn)

// TestSessionsOnRealConns: each kind of conn carries a session.
func TestSessionsOnRealConns(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]connPair{
		"tcp":  func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
		"unix": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "unix") },
		"tls":  tlsPair,
		"wrapped": func(t *testing.T) (net.Conn, net.Conn) {
			ours, theirs := socketPair(t, "tcp")
			return struct{ net.Conn }{ours}, theirs
		},
	} {
		t.Run(name, func(t *testing.T) {
			halfCloses := name != "wrapped" // else it cannot end one direction, and awaits the close frame
			t.Run("messages", func(t *testing.T) { carriesMessages(t, pair) })
			t.Run("a message that stops", func(t *testing.T) { endsWithAMessageThatStops(t, pair) })
			t.Run("a flood too large gets its answer", func(t *testing.T) { answersAFlood(t, pair) })
			t.Run("a peer that breaks a rule and talks on reads the end", func(t *testing.T) { endsAfterAViolation(t, pair, halfCloses) })
			if halfCloses {
				t.Run("a peer that answers a close with garbage", func(t *testing.T) { endsAfterGarbage(t, pair) })
			}
			t.Run("the peer vanishes", func(t *testing.T) { endsWithThePeer(t, pair) })
		})
	}
}

// A corked conn keeps what is written until send. One goroutine uses it at a time.
type corked struct {
	net.Conn
	on   bool
	kept []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.kept = append(c.kept, p...)
	return len(p), nil
}

// send writes all that is kept but the last bytes.
func (c *corked) send(t *testing.T, but int) {
	t.Helper()
	n := len(c.kept) - but
	if _, err := c.Conn.Write(c.kept[:n]); err != nil {
		t.Fatal(err)
	}
	c.kept = c.kept[n:]
}

// TestRecordsThatArriveTogether: crypto/tls reads several records at once, and more of them
// than a reader asks for. The reader handles each as soon as it is whole, although the socket
// has no more bytes then.
func TestRecordsThatArriveTogether(t *testing.T) {
	t.Parallel()
	var wire *corked
	ours, theirs := tlsPairOver(t, func(nc net.Conn) net.Conn {
		wire = &corked{Conn: nc}
		return wire
	})
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, patient).run(nil)
	p := newPeer(t, theirs)
	var want []string
	for round := range 3 * talkative { // beyond talkative, the reader waits in another way
		wire.on = true
		for i := range 3 {
			want = append(want, fmt.Sprintf("%d.%d", round, i))
			p.send(text(want[len(want)-1]))
		}
		wire.send(t, 1)
		a.await(t, "Receive", func() bool { return len(a.received) == len(want)-1 })
		wire.send(t, 0)
		a.await(t, "Receive", func() bool { return len(a.received) == len(want) })
		if wire.on = false; round%3 == 2 {
			p.send(frame(opPing, true, ""))
			p.want(opPong, "")
		}
	}
	if got := a.messages(); !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	p.send(closing(1000, ""))
	p.wantClose(1000, "")
	p.wantEnd()
	<-a.left
}

// TestAnIdleReaderWithTLSKeepsNoBuffer: it waits on the socket, and hears from there when its
// own side closes.
func TestAnIdleReaderWithTLSKeepsNoBuffer(t *testing.T) {
	t.Parallel()
	ours, theirs := tlsPair(t)
	c := newConn(ours, bareForm, quick)
	needSocketBelow(t, c)
	for _, sent := range []string{"", "first", "second"} {
		if sent != "" {
			if _, err := theirs.Write([]byte(sent)); err != nil {
				t.Fatal(err)
			}
			if p, err := c.fill(false, true); string(p) != sent || err != nil {
				t.Fatalf("got %q, %v; want %q", p, err, sent)
			}
			c.done()
		}
		if p, err := c.fill(false, true); !errors.Is(err, errEmpty) {
			t.Fatalf("when all is read: %q, %v", p, err)
		}
		if c.small != nil || c.pooled != nil {
			t.Error("the conn keeps a buffer while it waits")
		}
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close(hub.CloseNormal, "bye")
	}()
	if _, err := c.fill(false, true); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("when the peer does not answer the close frame: %v", err)
	}
	<-closed
}

// TestWritesWithRoomDoNotBlock writes while there is room, to a peer that does not read.
func TestWritesWithRoomDoNotBlock(t *testing.T) {
	t.Parallel()
	ours, _ := tlsPair(t)
	c := newConn(ours, bareForm, patient)
	if known := runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"); c.HasRoom(1) != known {
		t.Fatalf("a new conn has room: %v", !known)
	}
	if err := ours.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for size := 1; c.HasRoom(size); size = size%(4<<10) + 500 {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	plain, _ := socketPair(t, "tcp")
	if newConn(plain, bareForm, patient).HasRoom(1) {
		t.Error("a conn that can TryWrite is asked for room")
	}
}

var longMessage = strings.Repeat("long ", 12_000)

func carriesMessages(t *testing.T, pair connPair) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, true, patient).run(nil)
	p := newPeer(t, theirs)
	p.want(opText, "o")
	p.send(text(`["short"]`), frame(opPing, true, "ping"))
	p.want(opPong, "ping")
	p.send(text(`["`+longMessage+`"]`), text(`["after"]`), closing(1001, "going"))
	p.wantClose(1001, "")
	p.wantEnd()
	<-a.left
	if got := a.messages(); len(got) != 3 || got[0] != "short" || got[1] != longMessage || got[2] != "after" {
		t.Errorf("received %d messages", len(got))
	}
}

func endsWithAMessageThatStops(t *testing.T, pair connPair) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, quick).run(nil)
	p := newPeer(t, theirs)
	p.send(text("whole"), text(longMessage)[:5000])
	p.wantClose(hub.CloseTimeout, "a message took too long to arrive whole")
	p.wantEnd()
	<-a.left
}

func answersAFlood(t *testing.T, pair connPair) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, patient).run(nil)
	p := newPeer(t, theirs)
	written := make(chan error, 1)
	go func() {
		_, err := theirs.Write(rawFrame(opText, true, maxSkipped+1, strings.Repeat("x", maxSkipped+1)))
		written <- err
	}()
	p.wantClose(1009, fmt.Sprintf("a message may have at most %d bytes here", bodyLimit(hub.Limits{}.WithDefaults())))
	if err := <-written; err != nil {
		t.Errorf("the flood was cut: %v", err)
	}
	p.send(closing(hub.CloseTooLarge, ""))
	p.wantEnd()
	<-a.left
}

func endsAfterAViolation(t *testing.T, pair connPair, halfCloses bool) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, patient).run(nil)
	p := newPeer(t, theirs)
	_ = theirs.SetDeadline(time.Now().Add(patience))
	if !halfCloses {
		p.send([]byte("\x81\x05hello"), closing(1002, ""))
	} else {
		p.send([]byte("\x81\x05hello" + strings.Repeat("x", 4<<20)))
	}
	p.wantClose(1002, errUnmasked.Error())
	if !halfCloses {
		_ = theirs.Close()
	} else if _, _, err := p.read(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the close frame: %v, want the end", err)
	}
	<-a.left
}

func endsAfterGarbage(t *testing.T, pair connPair) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, patient).run(nil)
	p := newPeer(t, theirs)
	_ = theirs.SetDeadline(time.Now().Add(patience))
	p.send(text("here"))
	for len(a.messages()) == 0 {
		runtime.Gosched()
	}
	a.Close(hub.CloseCut, "cut", 0)
	p.wantClose(hub.CloseCut, "cut")
	p.send(text("late"), []byte("\xff\xff"))
	if _, _, err := p.read(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the close frame: %v, want the end", err)
	}
	<-a.left
}

func endsWithThePeer(t *testing.T, pair connPair) {
	ours, theirs := pair(t)
	a := newFakeAgent(hub.Limits{})
	go newWSReader(ours, a, false, patient).run(nil)
	_ = theirs.Close()
	<-a.left
}

// TestReceivingAllocatesNothing: reading a message allocates nothing. It counts the
// allocations of the whole process, which includes the peer.
func TestReceivingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools drop things")
	}
	for name, pair := range map[string]func(*testing.T) (net.Conn, net.Conn){
		"tcp": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
		"tls": tlsPair,
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			a := &tallyAgent{fakeAgent: newFakeAgent(hub.Limits{}), got: make(chan int, 1)}
			go newWSReader(ours, a, true, patient).run(nil)
			message := text(`["{\"channel\":\"chat\",\"uuid\":\"1\",\"data\":{\"text\":\"hello, how are you?\"}}"]`)
			got := testing.AllocsPerRun(500, func() {
				if _, err := theirs.Write(message); err != nil {
					t.Fatal(err)
				}
				<-a.got
			})
			t.Logf("%v allocations a message", got)
			if limit := 0.0; name == "tcp" && got > limit {
				t.Errorf("%v allocations a message", got)
			}
			_ = theirs.Close()
			<-a.left
		})
	}
}

// A tallyAgent counts frames and keeps none.
type tallyAgent struct {
	*fakeAgent
	got chan int // buffered, so that the reader goes back to reading
}

func (a *tallyAgent) Receive(p []byte) { a.got <- len(p) }
func (a *tallyAgent) Touch()           {}

func TestIdleSessionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has its own memory")
	}
	const n = 1000
	var before, after runtime.MemStats
	agents := make([]*fakeAgent, n)
	ours, theirs := make([]net.Conn, n), make([]net.Conn, n)
	for i := range n {
		agents[i] = newFakeAgent(hub.Limits{})
		ours[i], theirs[i] = socketPair(t, "tcp")
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	readers := make([]*wsReader, n)
	for i := range n {
		readers[i] = newWSReader(ours[i], agents[i], false, patient)
		go readers[i].run(nil)
		if _, err := theirs[i].Write(frame(opPing, true, "")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n { // each has read, and answered, and waits again
		if _, err := io.ReadFull(theirs[i], make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
	}
	most := int64(7 << 10) // a stack of 4 KiB; the threads of a busy machine have stacks, too
	if runtime.GOOS == "linux" {
		most = 2 << 10
		for _, r := range readers {
			waitFor(t, "rest", r.conn.isResting)
		}
	}
	runtime.GC() // frees the stacks of the readers that have ended, and the next one their spans
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / n
	t.Logf("%d bytes of heap and stack each", each)
	if each > most {
		t.Errorf("an idle session takes %d bytes of heap and stack", each)
	}
	for i := range n {
		_ = theirs[i].Close()
		<-agents[i].left
	}
}
