// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // G505: RFC 6455 asks for SHA-1
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// maxPayload is the longest frame that is taken from a server.
const maxPayload = 16 << 20

// A target is a server and how to reach it.
type target struct {
	addr string      // host:port
	tls  *tls.Config // nil for none
}

func (t target) origin() string {
	if t.tls != nil {
		return "https://" + t.addr
	}
	return "http://" + t.addr
}

// socketOptions are what a test may want otherwise.
type socketOptions struct {
	readBuffer    int // of the program, default 1 KiB
	receiveBuffer int // of the kernel, default the kernel's
}

// A socket is a client's end of a WebSocket: as much of it as a load needs, and
// no more memory, for thousands of them.
type socket struct {
	conn net.Conn

	// Owned by who reads.
	br  *bufio.Reader
	big []byte // a payload that br has no room for

	pings atomic.Int64 // that came, and were answered

	mu  sync.Mutex // guards the following, and writing: a pong is written by who reads
	out []byte
}

// chromiumHeader is what Chromium 156 sends to open a WebSocket, in its order,
// with the cookies of an ordinary site. Arguments: path, host, origin, key.
const chromiumHeader = "GET %s HTTP/1.1\r\n" +
	"Host: %s\r\n" +
	"Connection: Upgrade\r\n" +
	"Pragma: no-cache\r\n" +
	"Cache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\n" +
	"Origin: %s\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-US,en;q=0.9,de;q=0.8\r\n" +
	"Cookie: session=2f1c7b0e9d4a4c55b7f0e6a1d8c3b294; theme=dark; consent=v2.necessary.statistics; _visit=1795436112.4.1795439671\r\n" +
	"Sec-WebSocket-Key: %s\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" +
	"\r\n"

// dialTimeout bounds the opening of a connection, from the first packet to the
// answer to the first frame.
const dialTimeout = 20 * time.Second

// dial opens a WebSocket as Chromium does. The deadline of the opening still
// holds on return: see opened.
func dial(ctx context.Context, t target, path string, o socketOptions) (*socket, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if o.receiveBuffer > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error { return setReceiveBuffer(c, o.receiveBuffer) }
	}
	conn, err := d.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	s, err := upgrade(ctx, conn, t, path, o)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("opening %s%s: %w", t.origin(), path, err)
	}
	return s, nil
}

func upgrade(ctx context.Context, conn net.Conn, t target, path string, o socketOptions) (*socket, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	if t.tls != nil {
		secure := tls.Client(conn, t.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", errUnanswered, err)
		}
		conn = secure
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // it never fails
	key := base64.StdEncoding.EncodeToString(nonce)
	if _, err := fmt.Fprintf(conn, chromiumHeader, path, t.addr, t.origin(), key); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	s := &socket{conn: conn, br: bufio.NewReaderSize(conn, orDefault(o.readBuffer, 1<<10))}
	return s, s.readUpgrade(key)
}

// errUnanswered is in the error of dial when the connection ended before the
// first byte of an answer to the request.
var errUnanswered = errors.New("no answer")

// readUpgrade reads the answer to the request.
func (s *socket) readUpgrade(key string) error {
	status, err := s.br.ReadString('\n')
	switch {
	case err != nil && status == "":
		return fmt.Errorf("%w: %w", errUnanswered, err)
	case err != nil:
		return err
	}
	accept := ""
	for {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return err
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "Sec-WebSocket-Accept") {
			accept = strings.TrimSpace(value)
		}
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return fmt.Errorf("the answer is %q", strings.TrimSpace(status))
	}
	if accept != acceptOf(key) {
		return errors.New("the answer has a wrong Sec-WebSocket-Accept")
	}
	return nil
}

func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // G401: RFC 6455 asks for SHA-1
	return base64.StdEncoding.EncodeToString(sum[:])
}

// opened lifts the deadline of the opening.
func (s *socket) opened() error { return s.conn.SetDeadline(time.Time{}) }

// errClosed is what read returns after a close frame.
type errClosed struct {
	code   int
	reason string
}

func (e *errClosed) Error() string { return fmt.Sprintf("closed with %d %s", e.code, e.reason) }

// read returns the payload of the next text frame, which is valid until the next
// call. It answers pings and close frames.
func (s *socket) read() ([]byte, error) {
	for {
		op, payload, err := s.readFrame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opText:
			return payload, nil
		case opPing:
			err = s.write(opPong, payload)
			s.pings.Add(1)
		case opPong:
		case opClose:
			e := &errClosed{code: 1005}
			if len(payload) >= 2 {
				e.code, e.reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
			}
			_ = s.write(opClose, payload[:min(2, len(payload))]) // the server may be gone already
			return nil, e
		default:
			return nil, fmt.Errorf("a frame with opcode %d", op)
		}
		if err != nil {
			return nil, err
		}
	}
}

// readFrame reads one frame of a server, which neither masks nor splits.
func (s *socket) readFrame() (op byte, payload []byte, err error) {
	head, err := s.br.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xF
	if head[0]&0xF0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a frame begins with %x", head)
	}
	n, size := 2, uint64(head[1])
	switch size {
	case 126:
		n = 4
	case 127:
		n = 10
	}
	if head, err = s.br.Peek(n); err != nil {
		return 0, nil, err
	}
	switch n {
	case 4:
		size = uint64(binary.BigEndian.Uint16(head[2:]))
	case 10:
		size = binary.BigEndian.Uint64(head[2:])
	}
	if size > maxPayload {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	_, _ = s.br.Discard(n) // they were peeked at
	if int(size) <= s.br.Size() {
		if payload, err = s.br.Peek(int(size)); err == nil {
			_, err = s.br.Discard(len(payload))
		}
		return op, payload, err
	}
	if cap(s.big) < int(size) {
		s.big = make([]byte, size)
	}
	payload = s.big[:size]
	_, err = io.ReadFull(s.br, payload)
	return op, payload, err
}

// write sends each of the payloads as a frame, all in one write.
func (s *socket) write(op byte, payloads ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = s.out[:0]
	for _, p := range payloads {
		s.out = appendMasked(s.out, op, p)
	}
	_, err := s.conn.Write(s.out)
	if cap(s.out) > 4<<10 {
		s.out = nil // a burst was large; the next frame is small
	}
	return err
}

// appendMasked appends a whole frame, masked as a client's are.
func appendMasked(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	var mask [4]byte
	binary.LittleEndian.PutUint32(mask[:], mathrand.Uint32()|1) //nolint:gosec // G404: no proxy stands between
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}

// leave closes in order: a close frame first. What is read until the server's
// answer is dropped, by whoever reads.
func (s *socket) leave() error { return s.write(opClose, []byte{0x03, 0xE8}) }

// cut closes without a word.
func (s *socket) cut() { _ = s.conn.Close() }
