// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package wireclient

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const patience = 30 * time.Second

// pipe returns both ends of a connection, with a deadline.
func pipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	client, server = net.Pipe()
	for _, c := range []net.Conn{client, server} {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { _ = c.Close() })
	}
	return client, server
}

// sent returns a frame as a server sends it.
func sent(op byte, payload string) []byte {
	frame := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 127), uint64(n))
	}
	return append(frame, payload...)
}

// got reads a client's frame.
func got(t *testing.T, r io.Reader) (op byte, payload string) {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if head[0]&0xF0 != 0x80 || head[1]&0x80 == 0 {
		t.Fatalf("a client's frame begins with % x", head)
	}
	size := uint64(head[1] & 0x7F)
	long := make([]byte, map[uint64]int{126: 2, 127: 8}[size])
	rest := make([]byte, 4)
	if _, err := io.ReadFull(r, long); err != nil {
		t.Fatal(err)
	}
	if len(long) > 0 {
		size = binary.BigEndian.Uint64(append(make([]byte, 8-len(long)), long...))
	}
	if _, err := io.ReadFull(r, rest); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(rest, make([]byte, 4)) {
		t.Error("the frame is not masked")
	}
	for i := range text {
		text[i] ^= rest[i&3]
	}
	return head[0] & 0xF, string(text)
}

func TestOpen(t *testing.T) {
	const wrong = "dGhlIHNhbXBsZSBub25jZQ=="
	for _, test := range []struct {
		name, answer string // with %s for the right Sec-WebSocket-Accept
		status       int
		err          string
	}{
		{"opened", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", 101, ""},
		{"another status", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ngone", 503, "the answer is 503 Service Unavailable"},
		{"a wrong accept", "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + wrong + "\r\n\r\n", 101, "wrong Sec-WebSocket-Accept"},
		{"no answer", "", 0, ErrUnanswered.Error()},
		{"half an answer", "HTTP/1.1 101 Swi", 0, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := pipe(t)
			go func() {
				r, err := http.ReadRequest(bufio.NewReader(server))
				if err == nil && (r.Host != "example.com" || r.RequestURI != "/push/websocket?a=b" || r.Header.Get("Cookie") != "a=b" ||
					r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Sec-WebSocket-Version") != "13") {
					t.Errorf("the request is %s %s %v", r.Host, r.RequestURI, r.Header)
				}
				if err == nil {
					_, _ = io.WriteString(server, strings.Replace(test.answer, "%s", Accept(r.Header.Get("Sec-WebSocket-Key")), 1))
				}
				_ = server.Close()
			}()
			ws, resp, err := Open(client, &Upgrade{Host: "example.com", Path: "/push/websocket?a=b", Header: http.Header{"Cookie": {"a=b"}}})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if errors.Is(err, ErrUnanswered) != (test.answer == "") {
				t.Errorf("whether it was answered is told wrong: %v", err)
			}
			if status := 0; resp != nil {
				status = resp.StatusCode
				if status != test.status {
					t.Errorf("status %d, want %d", status, test.status)
				}
			} else if test.status != 0 {
				t.Error("the answer is not returned")
			}
			if (ws != nil) != (err == nil) {
				t.Errorf("the WebSocket is %v with the error %v", ws, err)
			}
		})
	}
	if got := Accept(wrong); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // of RFC 6455, section 1.3
		t.Errorf("Accept = %q", got)
	}
}

func TestWebSocketReads(t *testing.T) {
	client, server := pipe(t)
	ws := NewWebSocket(client, 64)
	texts := []string{"", "short", strings.Repeat("m", 300), strings.Repeat("l", 70_000), "short again"}
	answers := make(chan string, 1)
	go func() {
		_, _ = server.Write(sent(OpPing, "are you there"))
		_, answer := got(t, server)
		answers <- answer
		for _, text := range texts {
			_, _ = server.Write(sent(OpText, text))
		}
		_, _ = server.Write(sent(OpPong, ""))
		_, _ = server.Write(sent(OpClose, "\x11\x97come back"))
		op, payload := got(t, server)
		if op != OpClose || payload != "\x11\x97" {
			t.Errorf("the close frame was answered with %x %q", op, payload)
		}
		_ = server.Close()
	}()
	for _, want := range texts {
		if text, err := ws.Read(); err != nil || string(text) != want {
			t.Fatalf("got %.20q, %v, want %.20q", text, err, want)
		}
	}
	_, err := ws.Read()
	if closed, ok := errors.AsType[*CloseError](err); !ok || closed.Code != 4503 || closed.Reason != "come back" {
		t.Errorf("at the end: %v", err)
	}
	if answer := <-answers; answer != "are you there" || ws.Pings.Load() != 1 {
		t.Errorf("the ping was answered with %q, and %d are counted", answer, ws.Pings.Load())
	}
}

// What a server must not send is an error, and is not skipped.
func TestWebSocketRefusesBadFrames(t *testing.T) {
	for name, frame := range map[string]string{
		"fragment":     "\x01\x01a",
		"extension":    "\xc1\x01a",
		"masked":       "\x81\x81abcda",
		"binary":       "\x82\x01a",
		"endless":      "\x81\x7f\x00\x00\x00\xff\x00\x00\x00\x00",
		"cut head":     "\x81\x7e\x01",
		"cut payload":  "\x81\x05abc",
		"nothing more": "",
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pipe(t)
			go func() {
				_, _ = io.WriteString(server, frame)
				_ = server.Close()
			}()
			if text, err := NewWebSocket(client, 0).Read(); err == nil {
				t.Errorf("got %q", text)
			} else if _, ok := errors.AsType[*CloseError](err); ok {
				t.Errorf("taken for a close frame: %v", err)
			}
		})
	}
}

func TestWebSocketWrites(t *testing.T) {
	client, server := pipe(t)
	ws := NewWebSocket(client, 0)
	texts := []string{"", "short", strings.Repeat("m", 300), strings.Repeat("l", 70_000)}
	go func() {
		if err := ws.Write(OpText, []byte(texts[0]), []byte(texts[1]), []byte(texts[2]), []byte(texts[3])); err != nil {
			t.Error(err)
		}
		if cap(ws.out) > keptOutput {
			t.Errorf("a buffer of %d bytes is kept", cap(ws.out))
		}
		if err := ws.Leave(); err != nil {
			t.Error(err)
		}
	}()
	for _, want := range texts {
		if op, text := got(t, server); op != OpText || text != want {
			t.Fatalf("got %x %.20q, want %.20q", op, text, want)
		}
	}
	if op, text := got(t, server); op != OpClose || text != "\x03\xe8" {
		t.Errorf("got %x %q, want a close frame with 1000", op, text)
	}
}
