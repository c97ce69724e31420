// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package wireclient

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // G505: RFC 6455 asks for SHA-1
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	OpText  = 0x1
	OpClose = 0x8
	OpPing  = 0x9
	OpPong  = 0xA
)

const (
	// maxPayload is the longest frame that a client accepts.
	maxPayload = 16 << 20
	// keptOutput is the longest output buffer that a client keeps between two writes.
	keptOutput = 4 << 10
	// defaultReadBuffer is enough for most messages. Longer ones need a second buffer.
	defaultReadBuffer = 1 << 10
)

// A WebSocket is the client's end of a WebSocket. One goroutine reads; any may write.
type WebSocket struct {
	// Conn is the connection. Its deadlines bound reading and writing.
	Conn net.Conn
	// Pings counts the pings that Read has answered.
	Pings atomic.Int64

	// Owned by the goroutine that reads.
	br  *bufio.Reader
	big []byte // for payloads that do not fit into br

	mu  sync.Mutex // guards out, and orders writes
	out []byte
}

// NewWebSocket returns the client of an open WebSocket. readBuffer is the size of its
// buffer in bytes; 0 means the default.
func NewWebSocket(conn net.Conn, readBuffer int) *WebSocket {
	return &WebSocket{Conn: conn, br: bufio.NewReaderSize(conn, cmp.Or(readBuffer, defaultReadBuffer))}
}

// An Upgrade is a request for a WebSocket.
type Upgrade struct {
	Host, Path string      // Path may have a query
	Header     http.Header // besides the fields that each WebSocket needs; not modified
	ReadBuffer int         // of the client, in bytes; 0 for the default
}

// ErrUnanswered is in the error of Open if the connection ended before the first byte of
// an answer.
var ErrUnanswered = errors.New("no answer")

// Open requests a WebSocket over conn. It returns the answer, if there is one, also with
// an error. Then the caller can read the body. Open does not close conn.
func Open(conn net.Conn, u *Upgrade) (*WebSocket, *http.Response, error) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // it never fails
	key := base64.StdEncoding.EncodeToString(nonce)
	var request bytes.Buffer
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", u.Path, u.Host, key)
	if err := u.Header.Write(&request); err != nil {
		return nil, nil, err
	}
	request.WriteString("\r\n")
	if _, err := conn.Write(request.Bytes()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	ws := NewWebSocket(conn, u.ReadBuffer)
	if _, err := ws.br.Peek(1); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	resp, err := http.ReadResponse(ws.br, nil)
	switch {
	case err != nil:
		return nil, nil, err
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, resp, fmt.Errorf("the answer is %s", resp.Status)
	case resp.Header.Get("Sec-WebSocket-Accept") != Accept(key):
		return nil, resp, errors.New("the answer has a wrong Sec-WebSocket-Accept")
	}
	return ws, resp, nil
}

// Accept returns the server's answer to a Sec-WebSocket-Key.
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // G401: RFC 6455 asks for SHA-1
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A CloseError means that the server has closed the session, by a close frame of a
// WebSocket or by a SockJS frame c[…].
type CloseError struct {
	Code   int // 1005 if the close frame has none
	Reason string
}

func (e *CloseError) Error() string { return fmt.Sprintf("closed with %d %s", e.Code, e.Reason) }

// Read returns the payload of the next text frame, which is valid until the next call. It
// answers pings and close frames. After a close frame the error is a *CloseError.
func (ws *WebSocket) Read() ([]byte, error) {
	for {
		if payload, ok, err := ws.Next(); ok || err != nil {
			return payload, err
		}
	}
}

// Next is Read for one frame. ok is false if it was a ping or a pong: a caller that counts
// what has come can do so before it waits for more.
func (ws *WebSocket) Next() (payload []byte, ok bool, err error) {
	op, payload, err := ws.ReadFrame()
	if err != nil {
		return nil, false, err
	}
	switch op {
	case OpText:
		return payload, true, nil
	case OpPing:
		err = ws.Write(OpPong, payload)
		ws.Pings.Add(1)
		return nil, false, err
	case OpPong:
		return nil, false, nil
	case OpClose:
		e := &CloseError{Code: 1005}
		if len(payload) >= 2 {
			e.Code, e.Reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
		}
		_ = ws.Write(OpClose, payload[:min(2, len(payload))]) // the server may be gone already
		return nil, false, e
	default:
		return nil, false, fmt.Errorf("a frame with opcode %d", op)
	}
}

// Buffered returns how many bytes were read beyond the last frame. The goroutine that reads
// may call it.
func (ws *WebSocket) Buffered() int { return ws.br.Buffered() }

// ReadFrame reads the next frame, and answers nothing. The payload is valid until the
// next call. Masked frames and fragments are errors.
func (ws *WebSocket) ReadFrame() (op byte, payload []byte, err error) {
	head, err := ws.br.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xF
	if head[0]&0xF0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a frame begins with % x: want it whole, without extensions, unmasked", head)
	}
	n, size := 2, uint64(head[1])
	switch size {
	case 126:
		n = 4
	case 127:
		n = 10
	}
	if head, err = ws.br.Peek(n); err != nil {
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
	_, _ = ws.br.Discard(n) // Peek has read them
	if int(size) <= ws.br.Size() {
		if payload, err = ws.br.Peek(int(size)); err == nil {
			_, err = ws.br.Discard(len(payload))
		}
		return op, payload, err
	}
	if cap(ws.big) < int(size) {
		ws.big = make([]byte, size)
	}
	payload = ws.big[:size]
	_, err = io.ReadFull(ws.br, payload)
	return op, payload, err
}

// Write sends each payload as a frame, all in one write.
func (ws *WebSocket) Write(op byte, payloads ...[]byte) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.out = ws.out[:0]
	for _, p := range payloads {
		ws.out = appendMasked(ws.out, op, p)
	}
	_, err := ws.Conn.Write(ws.out)
	if cap(ws.out) > keptOutput {
		ws.out = nil
	}
	return err
}

// Leave sends a close frame. The goroutine that reads gets the server's answer.
func (ws *WebSocket) Leave() error { return ws.Write(OpClose, []byte{0x03, 0xE8}) }

// Cut closes the connection without a close frame.
func (ws *WebSocket) Cut() { _ = ws.Conn.Close() }

// appendMasked appends a whole frame, masked like all frames of clients.
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
	binary.LittleEndian.PutUint32(mask[:], mathrand.Uint32()|1) //nolint:gosec // G404: no cache can be poisoned
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}
