// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// floorCommand is the subcommand that serves the floor: a server that does the least that
// is possible to deliver over WebSocket. It is the lower bound to compare with. It sends
// each frame to all connections, with one write for each, from the goroutine that has read
// the frame.
const floorCommand = "serve-floor"

type floorServer struct {
	mu    sync.RWMutex // guards conns
	conns []net.Conn
}

// serveFloor listens at addr, or at a free port, and prints the address. It serves until ctx
// ends. With a free port, it also ends when standard input is closed.
func serveFloor(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", orDefault(addr, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: new(floorServer), ReadHeaderTimeout: dialTimeout}
	if addr == "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // it is closed when the parent process ends
			_ = server.Close()
		}()
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Println(l.Addr())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP accepts every WebSocket.
func (f *floorServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	// Whoever has the answer gets each frame from then on, and no frame comes before.
	f.mu.Lock()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", wireclient.Accept(r.Header.Get("Sec-WebSocket-Key")))
	if err == nil && rw.Reader.Buffered() == 0 {
		f.conns = append(f.conns, conn)
	}
	f.mu.Unlock()
	if err != nil || rw.Reader.Buffered() > 0 {
		_ = conn.Close()
		return
	}
	go f.read(conn)
}

func (f *floorServer) read(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	br := bufio.NewReaderSize(conn, 512)
	for {
		payload, err := readMasked(br)
		if err != nil {
			return
		}
		frame := appendText(nil, payload)
		f.mu.RLock()
		for _, c := range f.conns {
			_, _ = c.Write(frame) // the reader notices a closed connection
		}
		f.mu.RUnlock()
	}
}

// readMasked reads the payload of a client's frame.
func readMasked(br *bufio.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(br, head[:2]); err != nil {
		return nil, err
	}
	size := int(head[1] & 0x7F)
	switch {
	case head[0]&0xF != wireclient.OpText || size == 127:
		return nil, io.EOF
	case size == 126:
		if _, err := io.ReadFull(br, head[:2]); err != nil {
			return nil, err
		}
		size = int(binary.BigEndian.Uint16(head[:]))
	}
	mask := head[:4]
	if _, err := io.ReadFull(br, mask); err != nil {
		return nil, err
	}
	payload := make([]byte, size)
	_, err := io.ReadFull(br, payload)
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return payload, err
}

// appendText appends a server's text frame.
func appendText(dst, payload []byte) []byte {
	if len(payload) < 126 {
		dst = append(dst, 0x80|wireclient.OpText, byte(len(payload)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|wireclient.OpText, 126), uint16(len(payload)))
	}
	return append(dst, payload...)
}

// A floor is a process that serves the floor.
type floor struct {
	cmd *exec.Cmd
	in  io.Closer
	at  target
}

func startFloor(ctx context.Context) (*floor, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &floor{cmd: exec.CommandContext(ctx, self, floorCommand)} //nolint:gosec // G204: this program itself
	f.cmd.Stderr = os.Stderr
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		f.stop()
		return nil, fmt.Errorf("starting the floor: %w", err)
	}
	f.at.addr = strings.TrimSpace(line)
	return f, nil
}

func (f *floor) pid() int { return f.cmd.Process.Pid }

func (f *floor) stop() {
	_ = f.in.Close()
	timer := time.AfterFunc(startTimeout, func() { _ = f.cmd.Process.Kill() })
	defer timer.Stop()
	_ = f.cmd.Wait() // the status says nothing more
}

// gather opens n connections, which count the messages.
func (f *floor) gather(ctx context.Context, n int, count func([]byte)) (crowd, error) {
	all := make(crowd, n)
	err := each(n, func(i int) error {
		ws, err := dial(ctx, f.at, "/", socketOptions{readBuffer: 2 << 10})
		if err != nil {
			return err
		}
		a := &agent{WebSocket: ws, at: bare, onMessage: count, done: make(chan struct{})}
		all[i] = a
		go a.run()
		return opened(ws)
	})
	if err != nil {
		all.vanish()
		return nil, err
	}
	return all, nil
}
